//! Hard-link groups: which files of the child have several names, and which of
//! those groups a layer must tell.
//!
//! In a tar a link names an earlier entry of the same layer. So when one name of
//! a group is new or the file is changed, every name of it is told, also the
//! unchanged ones. A group of the parent that was *split* (one of its names is
//! now a file of its own) is told whole, each part: an unpacker that only
//! replaced one name could not know which.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use super::diff::{self, Everything, Options, Scope};
use super::tree::{self, Node, Type};
use crate::error::Result;

/// A file of the child with several names, or with a name that had others in the parent.
#[derive(Debug)]
pub(super) struct Group {
    /// Its first name in canonical order.
    pub(super) first: PathBuf,
    /// Whether the layer must tell it.
    pub(super) changed: bool,
}

/// The groups of a comparison.
#[derive(Debug, Default)]
pub(super) struct Links {
    groups: HashMap<u64, Group>,
    /// Names, and folders on the way to them, that a narrowed walk must visit besides.
    extra: BTreeMap<PathBuf, BTreeSet<OsString>>,
}

impl Links {
    /// The group of the file with this inode number, if it has one.
    pub(super) fn group(&self, inode: u64) -> Option<&Group> {
        self.groups.get(&inode)
    }

    /// Names in `folder` that must be visited whatever the scope says.
    pub(super) fn names_in(&self, folder: &Path) -> Option<&BTreeSet<OsString>> {
        self.extra.get(folder)
    }
}

/// Finds the groups: within the scope first; where anything there has several
/// links, in the whole trees, for the other names may lie anywhere.
pub(super) fn find(
    parent: Option<BorrowedFd<'_>>,
    child: BorrowedFd<'_>,
    scope: &dyn Scope,
    options: &Options,
) -> Result<Links> {
    let mut names = Names::default();
    names.collect(Path::new(""), parent, child, scope, options, 0)?;
    if names.child.is_empty() {
        return Ok(Links::default());
    }
    if !scope.is_everything() {
        names = Names::default();
        names.collect(Path::new(""), parent, child, &Everything, options, 0)?;
    }
    Ok(names.groups())
}

/// One name of a file of the child.
#[derive(Debug)]
struct Name {
    path: PathBuf,
    /// The file that the name stands for in the parent.
    before: Option<u64>,
    /// Whether the file differs from what the parent has there.
    differs: bool,
}

#[derive(Debug, Default)]
struct Names {
    /// Names by inode number of the child, in canonical order.
    child: BTreeMap<u64, Vec<Name>>,
    /// Files of the child (inode numbers) that came from one file of the parent with several names.
    heirs: BTreeMap<u64, BTreeSet<u64>>,
}

impl Names {
    fn collect(
        &mut self,
        path: &Path,
        parent: Option<BorrowedFd<'_>>,
        child: BorrowedFd<'_>,
        scope: &dyn Scope,
        options: &Options,
        depth: usize,
    ) -> Result<()> {
        diff::refuse_depth(path, depth)?;
        for name in diff::candidates(scope, path, parent, child)? {
            let at = path.join(&name);
            let Some(after) = tree::node(child, &name, &at)? else {
                continue;
            };
            let before = diff::before(parent, &name, &at)?;
            if after.meta.kind == Type::Directory {
                let (outer, inner) = diff::open_both(&name, &at, parent, child, before.as_ref())?;
                self.collect(
                    &at,
                    outer.as_ref().map(AsFd::as_fd),
                    inner.as_fd(),
                    scope,
                    options,
                    depth + 1,
                )?;
                continue;
            }
            let before = before.filter(|before| before.meta.kind != Type::Directory);
            let had_others = before.as_ref().is_some_and(|before| before.identity.links > 1);
            if after.identity.links > 1 || had_others {
                let differs = diff::differs(&name, &at, parent, child, &after, before.as_ref(), options)?;
                self.note(at, &after, before.as_ref(), differs);
            }
        }
        Ok(())
    }

    fn note(&mut self, path: PathBuf, after: &Node, before: Option<&Node>, differs: bool) {
        let inode = after.identity.inode;
        if let Some(before) = before.filter(|before| before.identity.links > 1) {
            self.heirs.entry(before.identity.inode).or_default().insert(inode);
        }
        let before = before.map(|before| before.identity.inode);
        self.child
            .entry(inode)
            .or_default()
            .push(Name { path, before, differs });
    }

    fn groups(self) -> Links {
        let split: BTreeSet<u64> = self
            .heirs
            .values()
            .filter(|heirs| heirs.len() > 1)
            .flatten()
            .copied()
            .collect();
        let mut links = Links::default();
        for (inode, names) in self.child {
            let Some(first) = names.first() else { continue };
            // Names that stood for different files before are a new group, however equal the files were.
            let joined = names.iter().any(|name| name.before != first.before);
            let changed = joined || split.contains(&inode) || names.iter().any(|name| name.differs);
            if changed {
                names.iter().for_each(|name| links.visit(&name.path));
            }
            links.groups.insert(
                inode,
                Group {
                    first: first.path.clone(),
                    changed,
                },
            );
        }
        links
    }
}

impl Links {
    fn visit(&mut self, path: &Path) {
        let mut path = path;
        while let (Some(folder), Some(name)) = (path.parent(), path.file_name()) {
            self.extra.entry(folder.to_owned()).or_default().insert(name.to_owned());
            path = folder;
        }
    }
}
