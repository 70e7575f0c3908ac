//! The walk differ: compares a parent tree with a child tree, by [folders](Folder), and
//! writes what changed as a canonical layer tar.
//!
//! A [`Scope`] narrows the walk to names that can have changed (overlay's upper
//! folder, later the block differ's list) without changing one byte of the
//! result: same changes, same bytes.
//!
//! A name changed where a tar could tell (`compare`), or where its group of hard links is another one (`links`).
//! What changed is listed, or written (`tar_sink`).

mod tar_sink;

use std::io::Write;
use std::path::{Path, PathBuf};

use self::tar_sink::TarSink;
use super::compare::{Root, differs};
use super::folder::Folder;
use super::handle::{Node, NodeKind};
use super::links::{Links, Role, is_linked};
use super::merge::{At, Visitor, merge};
use crate::Result;

/// Which names under a directory can have changed.
pub trait Scope: std::fmt::Debug {
    /// For the directory at `path` (relative, empty for the root): the candidate names.
    fn names(&self, path: &Path) -> Result<Candidates>;

    /// All names, in the child, of the file with this inode number, which has several; none where only a walk can tell.
    fn names_of(&self, _inode: u64) -> Result<Option<Vec<PathBuf>>> {
        Ok(None)
    }
}

/// The candidate names of one directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Candidates {
    /// Any name of the parent or the child, here and in all directories beneath: the scope is not asked about those.
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
    /// Begin with the root's own entry, whether it changed or not: for a tar that stands alone.
    pub with_root: bool,
    /// Bytes of content that there is room for: holes take no room in a tree, but do in a tar.
    pub room: Option<u64>,
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
/// A name that a layer cannot carry; a file that cannot be read or shrinks; a failed write.
pub fn write_layer(
    parent: Option<&dyn Folder>,
    child: &dyn Folder,
    scope: &dyn Scope,
    options: &Options,
    out: &mut dyn Write,
) -> Result<Written> {
    let mut sink = TarSink::new(child, options, out);
    let root = Root::compare(parent, child)?;
    if root.changed || options.with_root {
        sink.root(&root)?;
    }
    run(parent, child, scope, options, &mut sink)?;
    sink.finish()
}

/// Lists the changed paths in canonical order, for `diff`. Unchanged parents of
/// changed paths are not listed, as Docker's `diff` lists a directory only
/// where its own attributes (mtime included) changed.
///
/// # Errors
/// What cannot be read, and what `each` fails with.
pub fn changes(
    parent: Option<&dyn Folder>,
    child: &dyn Folder,
    scope: &dyn Scope,
    options: &Options,
    each: &mut dyn FnMut(Change) -> Result<()>,
) -> Result<()> {
    if parent.is_some() && Root::compare(parent, child)?.changed {
        each(Change {
            kind: ChangeKind::Changed,
            path: PathBuf::new(),
        })?;
    }
    run(parent, child, scope, options, &mut ListSink { each })
}

fn run(
    parent: Option<&dyn Folder>,
    child: &dyn Folder,
    scope: &dyn Scope,
    options: &Options,
    sink: &mut dyn Sink,
) -> Result<()> {
    let links = Links::find(parent, child, scope, options)?;
    let mut differ = Differ {
        links: &links,
        options,
        sink,
    };
    merge(parent, child, &links.widen(scope), &mut differ).map(drop)
}

/// What is done with a difference.
trait Sink {
    fn change(&mut self, kind: ChangeKind, at: &At<'_>, node: &Node, role: Option<&Role>) -> Result<()>;
    /// A directory is entered that did not change itself.
    fn pass(&mut self, _path: &Path, _node: &Node) {}
    fn leave(&mut self) {}
    fn socket(&mut self, _path: &Path) {}
}

/// Decides what changed.
struct Differ<'a> {
    links: &'a Links,
    options: &'a Options,
    sink: &'a mut dyn Sink,
}

impl Visitor for Differ<'_> {
    fn gone(&mut self, at: &At<'_>, old: &Node) -> Result<()> {
        self.sink.change(ChangeKind::Deleted, at, old, None)
    }

    fn found(&mut self, at: &At<'_>, old: Option<&Node>, new: &Node) -> Result<()> {
        let role = self.links.role(at.path);
        let changed = match old {
            _ if role.is_some() => true,
            None => true,
            // Its group has been looked at as a whole.
            Some(_) if is_linked(old, new) => false,
            Some(old) => differs(at, old, new, self.options)?,
        };
        if changed {
            let kind = if old.is_some() {
                ChangeKind::Changed
            } else {
                ChangeKind::Added
            };
            self.sink.change(kind, at, new, role)?;
        } else if new.kind == NodeKind::Directory {
            self.sink.pass(at.path, new);
        }
        Ok(())
    }

    fn leave(&mut self) {
        self.sink.leave();
    }

    fn socket(&mut self, path: &Path) {
        self.sink.socket(path);
    }
}

struct ListSink<'a> {
    each: &'a mut dyn FnMut(Change) -> Result<()>,
}

impl Sink for ListSink<'_> {
    fn change(&mut self, kind: ChangeKind, at: &At<'_>, _node: &Node, _role: Option<&Role>) -> Result<()> {
        (self.each)(Change {
            kind,
            path: at.path.to_owned(),
        })
    }
}
