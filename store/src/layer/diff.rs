//! The walk differ: compares a parent tree with a child tree, by handles, and
//! writes what changed as a canonical layer tar.
//!
//! A [`Scope`] narrows the walk to names that can have changed (overlay's upper
//! folder, later the block differ's list) without changing one byte of the
//! result: same changes, same bytes.

//!
//! Two passes. The first finds hard-link groups, for a group's entries depend on
//! names that may lie anywhere; where no candidate has a second link it costs a
//! walk of the candidates and finds nothing. The second writes. Both go by
//! handles, hold one directory listing per level, and open nothing but
//! directories and regular files.

use std::ffi::OsString;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::links::{self, Links};
use super::tree::{self, Node, Type};
use super::write::{LayerWriter, WHITEOUT};
use crate::error::{Error, Result};

/// Folders within folders that a layer may have; deeper ones could not be unpacked.
const DEPTH_MAX: usize = 1024;
/// Notes that are kept.
const NOTES_MAX: usize = 100;

/// Which names under a directory can have changed.
pub trait Scope: std::fmt::Debug {
    /// For the directory at `path` (relative, empty for the root): the candidate names.
    fn names(&self, path: &Path) -> Result<Candidates>;

    /// True where nothing is left out.
    fn is_everything(&self) -> bool {
        false
    }
}

/// The candidate names of one directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Candidates {
    /// Any name of the parent or the child.
    All,
    /// These alone.
    Only(Vec<std::ffi::OsString>),
}

/// A scope that leaves nothing out.
#[derive(Debug, Clone, Copy)]
pub struct Everything;

impl Scope for Everything {
    fn names(&self, _path: &Path) -> Result<Candidates> {
        Ok(Candidates::All)
    }

    fn is_everything(&self) -> bool {
        true
    }
}

/// What became of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeKind {
    /// `A`: new.
    Added,
    /// `C`: something a tar shows is different.
    Changed,
    /// `D`: gone.
    Deleted,
}

/// One changed path, relative to the root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// What became of it.
    pub kind: ChangeKind,
    /// Relative to the root, without leading slash.
    pub path: PathBuf,
}

/// How a difference is written.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Later mtimes become this one (`SOURCE_DATE_EPOCH`): seconds since 1970.
    pub clamp_mtime: Option<i64>,
    /// Compare contents even where inode number and change time are equal in both trees.
    pub thorough: bool,
    /// Write the root directory's own entry, `./`, whatever became of it: for an archive of a whole tree.
    pub with_root: bool,
}

/// What a layer tar came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Written {
    /// Entries, whiteouts included.
    pub entries: u64,
    /// Bytes of file content.
    pub bytes: u64,
    /// What was left out on purpose (sockets, filtered xattrs), a line each, at most 100.
    pub notes: Vec<String>,
}

/// Writes the layer tar that turns `parent` (none: an empty tree) into `child`.
///
/// # Errors
/// Invalid for a name that begins with `.wh.`: a layer cannot say it. In use where
/// the child changes meanwhile. I/O.
pub fn write_layer(
    parent: Option<BorrowedFd<'_>>,
    child: BorrowedFd<'_>,
    scope: &dyn Scope,
    options: &Options,
    out: &mut dyn Write,
) -> Result<Written> {
    let mut sink = TarSink {
        tar: LayerWriter::new(out, options.clamp_mtime),
        pending: Vec::new(),
        last_folder: None,
        written: Written::default(),
    };
    compare(parent, child, scope, options, &mut sink)?;
    sink.tar.finish()?;
    Ok(sink.written)
}

/// Lists the changed paths in canonical order, for `diff`. Unchanged parents of
/// changed paths are not listed, as Docker's `diff` lists a directory only
/// where its own attributes (mtime included) changed.
///
/// # Errors
/// As for [`write_layer`], and those of `each`.
pub fn changes(
    parent: Option<BorrowedFd<'_>>,
    child: BorrowedFd<'_>,
    scope: &dyn Scope,
    options: &Options,
    each: &mut dyn FnMut(Change) -> Result<()>,
) -> Result<()> {
    compare(parent, child, scope, options, &mut ListSink { each })
}

fn compare(
    parent: Option<BorrowedFd<'_>>,
    child: BorrowedFd<'_>,
    scope: &dyn Scope,
    options: &Options,
    sink: &mut dyn Sink,
) -> Result<()> {
    let links = links::find(parent, child, scope, options)?;
    let node = tree::root_node(child)?;
    let before = parent.map(tree::root_node).transpose()?;
    let root = Found {
        path: Path::new(""),
        node: &node,
        folder: child,
    };
    if options.with_root || root_changed(&node, before.as_ref()) {
        sink.entry(&root, ChangeKind::Changed, None)?;
    }
    let walk = Walk {
        scope,
        options,
        links: &links,
    };
    walk.folder(Path::new(""), parent, child, 0, sink)
}

/// A layer says nothing of the root's time, which every change within it moves.
fn root_changed(node: &Node, before: Option<&Node>) -> bool {
    match before {
        Some(before) => {
            let attributes = |node: &Node| (node.meta.mode, node.meta.uid, node.meta.gid, node.meta.xattrs.clone());
            attributes(node) != attributes(before)
        }
        None => (node.meta.mode, node.meta.uid, node.meta.gid) != (0o755, 0, 0) || !node.meta.xattrs.is_empty(),
    }
}

/// A path of the child that is to be told.
pub(super) struct Found<'a> {
    pub(super) path: &'a Path,
    pub(super) node: &'a Node,
    /// The folder that it lies in.
    pub(super) folder: BorrowedFd<'a>,
}

/// What the walk tells.
trait Sink {
    /// `name` in `folder` is gone.
    fn gone(&mut self, folder: &Path, name: &OsString) -> Result<()>;
    /// The path is new or different; `first` is the earlier entry whose file it shares.
    fn entry(&mut self, found: &Found<'_>, kind: ChangeKind, first: Option<&Path>) -> Result<()>;
    /// The walk goes into a folder that is not told by itself (yet).
    fn enter(&mut self, path: &Path, node: &Node);
    /// The walk leaves the folder that it entered last.
    fn leave(&mut self);
}

struct Walk<'a> {
    scope: &'a dyn Scope,
    options: &'a Options,
    links: &'a Links,
}

impl Walk<'_> {
    fn folder(
        &self,
        path: &Path,
        parent: Option<BorrowedFd<'_>>,
        child: BorrowedFd<'_>,
        depth: usize,
        sink: &mut dyn Sink,
    ) -> Result<()> {
        refuse_depth(path, depth)?;
        let names = self.names(path, parent, child)?;
        let mut there = Vec::with_capacity(names.len());
        for name in names {
            let at = path.join(&name);
            let after = tree::node(child, &name, &at)?;
            match (after, before(parent, &name, &at)?) {
                (Some(after), before) => there.push((name, at, after, before)),
                (None, Some(_)) => sink.gone(path, &name)?,
                (None, None) => {}
            }
        }
        for (name, at, after, before) in there {
            self.entry(&name, &at, parent, child, &after, before.as_ref(), depth, sink)?;
        }
        Ok(())
    }

    #[allow(clippy::too_many_arguments, reason = "one path in two trees, on its way to the sink")]
    fn entry(
        &self,
        name: &OsString,
        path: &Path,
        parent: Option<BorrowedFd<'_>>,
        child: BorrowedFd<'_>,
        after: &Node,
        before: Option<&Node>,
        depth: usize,
        sink: &mut dyn Sink,
    ) -> Result<()> {
        let found = Found {
            path,
            node: after,
            folder: child,
        };
        let kind = if before.is_some() {
            ChangeKind::Changed
        } else {
            ChangeKind::Added
        };
        if after.meta.kind == Type::Directory {
            let below = before.filter(|before| before.meta.kind == Type::Directory);
            if below.is_none_or(|before| before.meta != after.meta) {
                refuse_whiteout_name(name, path)?;
                sink.entry(&found, kind, None)?;
            }
            let (outer, inner) = open_both(name, path, parent, child, before)?;
            sink.enter(path, after);
            self.folder(path, outer.as_ref().map(AsFd::as_fd), inner.as_fd(), depth + 1, sink)?;
            sink.leave();
            return Ok(());
        }
        match self.links.group(after.identity.inode) {
            Some(group) if group.changed => {
                refuse_whiteout_name(name, path)?;
                let first = Some(group.first.as_path()).filter(|first| *first != path);
                sink.entry(&found, kind, first)
            }
            Some(_) => Ok(()),
            None if differs(name, path, parent, child, after, before, self.options)? => {
                refuse_whiteout_name(name, path)?;
                sink.entry(&found, kind, None)
            }
            None => Ok(()),
        }
    }

    /// The candidate names, sorted bytewise, each once.
    fn names(&self, path: &Path, parent: Option<BorrowedFd<'_>>, child: BorrowedFd<'_>) -> Result<Vec<OsString>> {
        let mut names = candidates(self.scope, path, parent, child)?;
        if let Some(more) = self.links.names_in(path) {
            names.extend(more.iter().cloned());
            sort(&mut names);
        }
        Ok(names)
    }
}

/// The names in a folder that `scope` lets differ, sorted bytewise, each once.
pub(super) fn candidates(
    scope: &dyn Scope,
    path: &Path,
    parent: Option<BorrowedFd<'_>>,
    child: BorrowedFd<'_>,
) -> Result<Vec<OsString>> {
    let mut names = match scope.names(path)? {
        Candidates::Only(names) => names,
        Candidates::All => {
            let mut names = tree::names(child, path)?;
            if let Some(parent) = parent {
                names.extend(tree::names(parent, path)?);
            }
            names
        }
    };
    sort(&mut names);
    Ok(names)
}

fn sort(names: &mut Vec<OsString>) {
    names.sort_unstable_by(|a, b| a.as_bytes().cmp(b.as_bytes()));
    names.dedup();
}

/// What the parent tree has at a path.
pub(super) fn before(parent: Option<BorrowedFd<'_>>, name: &OsString, path: &Path) -> Result<Option<Node>> {
    parent.map_or(Ok(None), |parent| tree::node(parent, name, path))
}

/// Opens both sides of a folder; the parent's only where it is a folder there too.
pub(super) fn open_both(
    name: &OsString,
    path: &Path,
    parent: Option<BorrowedFd<'_>>,
    child: BorrowedFd<'_>,
    before: Option<&Node>,
) -> Result<(Option<OwnedFd>, OwnedFd)> {
    let parent = match (parent, before) {
        (Some(parent), Some(before)) if before.meta.kind == Type::Directory => {
            Some(tree::open_dir(parent, name, path)?)
        }
        _ => None,
    };
    Ok((parent, tree::open_dir(child, name, path)?))
}

/// Whether anything that a tar shows differs: attributes first, content where they leave it open.
pub(super) fn differs(
    name: &OsString,
    path: &Path,
    parent: Option<BorrowedFd<'_>>,
    child: BorrowedFd<'_>,
    after: &Node,
    before: Option<&Node>,
    options: &Options,
) -> Result<bool> {
    let (Some(parent), Some(before)) = (parent, before) else {
        return Ok(true);
    };
    if after.meta != before.meta {
        return Ok(true);
    }
    if after.meta.kind != Type::Regular || (!options.thorough && after.is_untouched(before)) {
        return Ok(false);
    }
    let mut old = tree::open_file(parent, name, path)?;
    let mut new = tree::open_file(child, name, path)?;
    let same = tree::same_content(&mut old, &mut new).map_err(|error| Error::io("compare", path, error))?;
    Ok(!same)
}

pub(super) fn refuse_depth(path: &Path, depth: usize) -> Result<()> {
    if depth <= DEPTH_MAX {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "{} lies deeper than {DEPTH_MAX} folders",
        path.display()
    )))
}

fn refuse_whiteout_name(name: &OsString, path: &Path) -> Result<()> {
    if !name.as_bytes().starts_with(WHITEOUT) {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "{} cannot be in a layer: names that begin with .wh. mean removals there",
        path.display()
    ))
    .hinted("rename or remove it in the container"))
}

/// Writes the layer, with the folders above each entry before it.
struct TarSink<'a> {
    tar: LayerWriter<'a>,
    /// The folders that the walk is in, and whether each is written already.
    pending: Vec<(PathBuf, Node, bool)>,
    /// The folder that was told last: entering it next must not write it again.
    last_folder: Option<PathBuf>,
    written: Written,
}

impl TarSink<'_> {
    fn write_folders(&mut self) -> Result<()> {
        for (path, node, written) in &mut self.pending {
            if !*written {
                self.tar.special(path, &node.meta)?;
                self.written.entries += 1;
                *written = true;
            }
        }
        Ok(())
    }
}

impl Sink for TarSink<'_> {
    fn gone(&mut self, folder: &Path, name: &OsString) -> Result<()> {
        self.write_folders()?;
        self.written.entries += 1;
        self.tar.whiteout(folder, name.as_bytes())
    }

    fn entry(&mut self, found: &Found<'_>, _kind: ChangeKind, first: Option<&Path>) -> Result<()> {
        let meta = &found.node.meta;
        match meta.kind {
            Type::Directory => {
                self.write_folders()?;
                self.written.entries += 1;
                self.last_folder = Some(found.path.to_owned());
                self.tar.special(found.path, meta)
            }
            Type::Socket => {
                if self.written.notes.len() < NOTES_MAX {
                    self.written
                        .notes
                        .push(format!("socket {}: a tar cannot hold it", found.path.display()));
                }
                Ok(())
            }
            _ => {
                self.write_folders()?;
                self.written.entries += 1;
                match first {
                    Some(first) => self.tar.hard_link(found.path, meta, first),
                    None if meta.kind == Type::Regular => {
                        let name = found.path.file_name().unwrap_or_default();
                        let mut content = tree::open_file(found.folder, name, found.path)?;
                        self.written.bytes += meta.size;
                        self.tar.file(found.path, meta, &mut content)
                    }
                    None => self.tar.special(found.path, meta),
                }
            }
        }
    }

    fn enter(&mut self, path: &Path, node: &Node) {
        let written = self.last_folder.as_deref() == Some(path);
        self.pending.push((path.to_owned(), node.clone(), written));
    }

    fn leave(&mut self) {
        self.pending.pop();
    }
}

/// Lists the changes.
struct ListSink<'a> {
    each: &'a mut dyn FnMut(Change) -> Result<()>,
}

impl Sink for ListSink<'_> {
    fn gone(&mut self, folder: &Path, name: &OsString) -> Result<()> {
        (self.each)(Change {
            kind: ChangeKind::Deleted,
            path: folder.join(name),
        })
    }

    fn entry(&mut self, found: &Found<'_>, kind: ChangeKind, _first: Option<&Path>) -> Result<()> {
        (self.each)(Change {
            kind,
            path: found.path.to_owned(),
        })
    }

    fn enter(&mut self, _path: &Path, _node: &Node) {}

    fn leave(&mut self) {}
}
