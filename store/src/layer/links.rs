//! Hard links between two trees: which groups of names changed, and who of a group carries the content.
//!
//! A tar has no inode numbers: a group is its first name with the content, and
//! links to it. So if anything about a child's group changed, the layer has all
//! its names, changed or not. A group changed when
//!
//! - one of its names is new, or shows something else than the parent's file of that name;
//! - its names were different files in the parent (joined);
//! - names that were one file with them in the parent are another file now (split).
//!
//! A name that merely went away leaves only its whiteout. Where a [`Scope`]
//! narrows the walk, it is asked for the [other names](Scope::names_of) of the
//! candidates; where it cannot tell, the names of both trees are walked in full,
//! contents excepted.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::compare::differs;
use super::diff::{Candidates, Everything, Options, Scope};
use super::folder::Folder;
use super::handle::{Node, NodeKind};
use super::merge::{At, Visitor, failed, merge};
use crate::{Error, Result};

/// What a name of a changed group is in the layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Role {
    /// The first of its group: carries the content.
    Content,
    /// Another name of the file at this path.
    LinkTo(PathBuf),
}

/// The names of all changed groups.
#[derive(Debug, Default)]
pub(super) struct Links {
    roles: HashMap<PathBuf, Role>,
    /// Where they are, for a walk that is narrowed.
    names: BTreeMap<PathBuf, BTreeSet<OsString>>,
}

/// Whether a name has, or had, others.
pub(super) fn is_linked(old: Option<&Node>, new: &Node) -> bool {
    let many = |node: &Node| node.kind != NodeKind::Directory && node.links > 1;
    // A directory takes part on neither side.
    new.kind != NodeKind::Directory && (many(new) || old.is_some_and(many))
}

impl Links {
    /// Finds the changed groups between `parent` and `child`.
    pub(super) fn find(
        parent: Option<&dyn Folder>,
        child: &dyn Folder,
        scope: &dyn Scope,
        options: &Options,
    ) -> Result<Self> {
        let Some((seeds, all)) = Linked::find(parent, child, scope)? else {
            return Ok(Self::default());
        };
        let groups = Groups::new(&all.names);
        let mut links = Self::default();
        for group in groups.reached(&seeds) {
            if groups.changed(&group, parent, child, options)? {
                links.add(group.iter().filter_map(|index| all.names.get(*index)));
            }
        }
        Ok(links)
    }

    pub(super) fn role(&self, path: &Path) -> Option<&Role> {
        self.roles.get(path)
    }

    /// The scope, and beside it the names of the changed groups.
    pub(super) fn widen<'a>(&'a self, scope: &'a dyn Scope) -> Widened<'a> {
        Widened { scope, links: self }
    }

    fn add<'n>(&mut self, group: impl Iterator<Item = &'n Name>) {
        // A path's own order is the canonical one: component by component, bytewise.
        let paths: BTreeSet<&PathBuf> = group.map(|name| &name.path).collect();
        let mut first: Option<&PathBuf> = None;
        for path in paths {
            let role = first.map_or(Role::Content, |first| Role::LinkTo(first.clone()));
            first.get_or_insert(path);
            self.roles.insert(path.clone(), role);
            self.reach(path);
        }
    }

    /// Makes a walk come to `path`; tells whether it did not before.
    fn reach(&mut self, path: &Path) -> bool {
        let mut is_new = false;
        for below in path.ancestors() {
            if let (Some(above), Some(name)) = (below.parent(), below.file_name()) {
                let names = self.names.entry(above.to_owned()).or_default();
                is_new |= names.insert(name.to_owned());
            }
        }
        is_new
    }
}

/// See [`Links::widen`].
#[derive(Debug)]
pub(super) struct Widened<'a> {
    scope: &'a dyn Scope,
    links: &'a Links,
}

impl Scope for Widened<'_> {
    fn names_of(&self, inode: u64) -> Result<Option<Vec<PathBuf>>> {
        self.scope.names_of(inode)
    }

    fn names(&self, path: &Path) -> Result<Candidates> {
        Ok(match self.scope.names(path)? {
            Candidates::Only(mut names) => {
                names.extend(self.links.names.get(path).into_iter().flatten().cloned());
                Candidates::Only(names)
            }
            Candidates::All => Candidates::All,
        })
    }
}

struct Name {
    path: PathBuf,
    old: Option<Node>,
    new: Node,
}

/// The names of the child that have, or had, others.
#[derive(Default)]
struct Linked {
    names: Vec<Name>,
}

impl Linked {
    /// Those that are candidates, and beside them all that may be in their groups. None where there are none.
    fn find(
        parent: Option<&dyn Folder>,
        child: &dyn Folder,
        scope: &dyn Scope,
    ) -> Result<Option<(BTreeSet<PathBuf>, Self)>> {
        let mut seeds: Option<BTreeSet<PathBuf>> = None;
        let mut asked = HashSet::new();
        let mut reached = Links::default();
        loop {
            let mut found = Self::default();
            let narrowed = merge(parent, child, &reached.widen(scope), &mut found)?;
            let seeds = seeds.get_or_insert_with(|| found.names.iter().map(|name| name.path.clone()).collect());
            if seeds.is_empty() {
                return Ok(None);
            }
            let mut grown = false;
            for inode in found.inodes().filter(|inode| narrowed && asked.insert(*inode)) {
                let Some(names) = scope.names_of(inode)? else {
                    let mut all = Self::default();
                    merge(parent, child, &Everything, &mut all)?;
                    return Ok(Some((std::mem::take(seeds), all)));
                };
                for name in &names {
                    grown |= reached.reach(name);
                }
            }
            if !grown {
                return Ok(Some((std::mem::take(seeds), found)));
            }
        }
    }

    /// Of the files that have, or had, several names.
    fn inodes(&self) -> impl Iterator<Item = u64> {
        let nodes = self.names.iter().flat_map(|name| name.old.iter().chain([&name.new]));
        nodes.filter(|node| node.links > 1).map(|node| node.inode)
    }
}

impl Visitor for Linked {
    fn gone(&mut self, _at: &At<'_>, _old: &Node) -> Result<()> {
        Ok(())
    }

    fn found(&mut self, at: &At<'_>, old: Option<&Node>, new: &Node) -> Result<()> {
        if is_linked(old, new) {
            self.names.push(Name {
                path: at.path.to_owned(),
                old: old.copied().filter(|old| old.kind != NodeKind::Directory),
                new: *new,
            });
        }
        Ok(())
    }
}

type Inode = (u64, u64);

fn inode(node: &Node) -> Inode {
    (node.filesystem, node.inode)
}

struct Groups<'n> {
    names: &'n [Name],
    child: HashMap<Inode, Vec<usize>>,
    parent: HashMap<Inode, Vec<usize>>,
}

impl<'n> Groups<'n> {
    fn new(names: &'n [Name]) -> Self {
        let mut child = HashMap::<_, Vec<_>>::new();
        let mut parent = HashMap::<_, Vec<_>>::new();
        for (index, name) in names.iter().enumerate() {
            child.entry(inode(&name.new)).or_default().push(index);
            if let Some(old) = &name.old {
                parent.entry(inode(old)).or_default().push(index);
            }
        }
        Self { names, child, parent }
    }

    fn members(map: &HashMap<Inode, Vec<usize>>, inode: Inode) -> &[usize] {
        map.get(&inode).map(Vec::as_slice).unwrap_or_default()
    }

    /// The child's groups that hang together with one of `seeds` through groups of either tree.
    fn reached(&self, seeds: &BTreeSet<PathBuf>) -> Vec<Vec<usize>> {
        let mut reached = BTreeMap::<Inode, Vec<usize>>::new();
        let mut rest: Vec<&Name> = self.names.iter().filter(|name| seeds.contains(&name.path)).collect();
        while let Some(name) = rest.pop() {
            if reached.contains_key(&inode(&name.new)) {
                continue;
            }
            let group = Self::members(&self.child, inode(&name.new));
            reached.insert(inode(&name.new), group.to_vec());
            for member in group.iter().filter_map(|index| self.names.get(*index)) {
                let siblings = member.old.as_ref().map(|old| Self::members(&self.parent, inode(old)));
                rest.extend(
                    siblings
                        .into_iter()
                        .flatten()
                        .filter_map(|index| self.names.get(*index)),
                );
            }
        }
        reached.into_values().collect()
    }

    fn changed(
        &self,
        group: &[usize],
        parent: Option<&dyn Folder>,
        child: &dyn Folder,
        options: &Options,
    ) -> Result<bool> {
        let mut members = group.iter().filter_map(|index| self.names.get(*index));
        let Some(first) = members.next() else {
            return Ok(false);
        };
        let (Some(old), Some(parent)) = (&first.old, parent) else {
            return Ok(true);
        };
        let joined = members.any(|name| name.old.as_ref().map(inode) != Some(inode(old)));
        let split = Self::members(&self.parent, inode(old))
            .iter()
            .filter_map(|index| self.names.get(*index))
            .any(|sibling| inode(&sibling.new) != inode(&first.new));
        if joined || split {
            return Ok(true);
        }
        let (Some(above), Some(name)) = (first.path.parent(), first.path.file_name()) else {
            return Err(Error::invalid("the root of a tree cannot be a hard link"));
        };
        let open = |root: &dyn Folder| root.below(above).map_err(|cause| failed("open", above, cause));
        let (parent, child) = (open(parent)?, open(child)?);
        let at = At {
            path: &first.path,
            name,
            parent: Some(parent.as_ref()),
            child: child.as_ref(),
        };
        differs(&at, old, &first.new, options)
    }
}
