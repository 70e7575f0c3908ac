//! Two trees walked side by side, by [folders](Folder), in canonical order.
//!
//! In each directory the names that are gone come first, then those that are
//! there, both bytewise; a directory is followed by what is in it. Memory holds
//! one directory's names per level. Sockets count as nothing: a tar cannot
//! carry them, so a layer can neither add nor hide one.

use std::collections::{BTreeSet, VecDeque};
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};

use super::diff::{Candidates, Scope};
use super::entry::shown;
use super::folder::Folder;
use super::handle::{Node, NodeKind};
use crate::{Error, Result};

/// Open directories per tree: deeper ones are opened again on the way back.
const OPEN: usize = 48;
/// Bytes that a path may have; no kernel takes longer ones, and no layer should carry them.
const PATH_BYTES: usize = 4095;

/// A name in both trees' directories.
pub(super) struct At<'a> {
    /// Relative to the root.
    pub(super) path: &'a Path,
    pub(super) name: &'a OsStr,
    /// The directory of the parent tree, where it has one there.
    pub(super) parent: Option<&'a dyn Folder>,
    /// The directory of the child tree.
    pub(super) child: &'a dyn Folder,
}

/// What a walk tells.
pub(super) trait Visitor {
    /// Only the parent has the name.
    fn gone(&mut self, at: &At<'_>, old: &Node) -> Result<()>;
    /// The child has the name; `old` is what the parent has there.
    fn found(&mut self, at: &At<'_>, old: Option<&Node>, new: &Node) -> Result<()>;
    /// The directory that was found last and not yet left is done.
    fn leave(&mut self) {}
    /// The child has a socket there.
    fn socket(&mut self, _path: &Path) {}
}

/// An error that names a file of a tree.
pub(super) fn failed(verb: &str, path: &Path, cause: impl Into<std::io::Error>) -> Error {
    let path = if path.as_os_str().is_empty() {
        Path::new("/")
    } else {
        path
    };
    Error::io(verb, shown(path), cause)
}

/// A tree, and the way down to the directory that is being read.
struct Chain {
    root: Box<dyn Folder>,
    /// The innermost directories.
    open: VecDeque<Box<dyn Folder>>,
    depth: usize,
}

impl Chain {
    fn new(root: &dyn Folder) -> Result<Self> {
        let at = Path::new("");
        Ok(Self {
            root: root.below(at).map_err(|cause| failed("open", at, cause))?,
            open: VecDeque::new(),
            depth: 0,
        })
    }

    fn here(&self) -> &dyn Folder {
        self.open.back().unwrap_or(&self.root).as_ref()
    }

    fn down(&mut self, name: &OsStr) -> io::Result<()> {
        let next = self.here().child(name)?;
        self.open.push_back(next);
        self.depth += 1;
        if self.open.len() > OPEN {
            self.open.pop_front();
        }
        Ok(())
    }

    /// Back to the directory at `path`.
    fn up(&mut self, path: &Path) -> io::Result<()> {
        self.open.pop_back();
        self.depth = self.depth.saturating_sub(1);
        if self.open.is_empty() && self.depth > 0 {
            self.open.push_back(self.root.below(path)?);
        }
        Ok(())
    }
}

struct Pair {
    name: OsString,
    old: Option<Node>,
    new: Option<Node>,
}

struct Level {
    pairs: std::vec::IntoIter<Pair>,
    /// Whether the parent has this directory too.
    both: bool,
    /// Whether nothing is left out, from here on down.
    whole: bool,
}

/// Walks `child` beside `parent`, narrowed to `scope`; tells whether anything was left out.
pub(super) fn merge(
    parent: Option<&dyn Folder>,
    child: &dyn Folder,
    scope: &dyn Scope,
    visitor: &mut dyn Visitor,
) -> Result<bool> {
    let mut walk = Walk {
        parent: parent.map(Chain::new).transpose()?,
        child: Chain::new(child)?,
        path: PathBuf::new(),
        narrowed: false,
    };
    let both = walk.parent.is_some();
    let mut levels = vec![walk.level(both, !both, scope, visitor)?];
    while let Some(level) = levels.last_mut() {
        let (both, whole) = (level.both, level.whole);
        let Some(pair) = level.pairs.next() else {
            levels.pop();
            if !levels.is_empty() {
                walk.leave(both)?;
                visitor.leave();
            }
            continue;
        };
        walk.path.push(&pair.name);
        let at = At {
            path: &walk.path,
            name: &pair.name,
            parent: walk.parent.as_ref().filter(|_| both).map(Chain::here),
            child: walk.child.here(),
        };
        let directory = |node: Option<&Node>| node.is_some_and(|node| node.kind == NodeKind::Directory);
        match (&pair.old, &pair.new) {
            (Some(old), None) => visitor.gone(&at, old)?,
            (old, Some(new)) => visitor.found(&at, old.as_ref(), new)?,
            (None, None) => {}
        }
        if directory(pair.new.as_ref()) {
            let both = directory(pair.old.as_ref());
            walk.enter(&pair.name, both)?;
            // What is new as a whole is read as a whole.
            levels.push(walk.level(both, whole || !both, scope, visitor)?);
        } else {
            walk.path.pop();
        }
    }
    Ok(walk.narrowed)
}

struct Walk {
    parent: Option<Chain>,
    child: Chain,
    path: PathBuf,
    narrowed: bool,
}

impl Walk {
    fn enter(&mut self, name: &OsStr, both: bool) -> Result<()> {
        if self.path.as_os_str().len() > PATH_BYTES {
            return Err(Error::invalid(format!(
                "a path of more than {PATH_BYTES} bytes cannot be in a layer: {}…",
                shown(&self.path.iter().take(8).collect::<PathBuf>())
            )));
        }
        let fail = |cause| failed("open", &self.path, cause);
        self.child.down(name).map_err(fail)?;
        if both && let Some(parent) = &mut self.parent {
            parent.down(name).map_err(fail)?;
        }
        Ok(())
    }

    fn leave(&mut self, both: bool) -> Result<()> {
        self.path.pop();
        let fail = |cause| failed("open again", &self.path, cause);
        self.child.up(&self.path).map_err(fail)?;
        if both && let Some(parent) = &mut self.parent {
            parent.up(&self.path).map_err(fail)?;
        }
        Ok(())
    }

    /// The names of the directory at hand, in order; all of them where it is `whole`.
    fn level(&mut self, both: bool, whole: bool, scope: &dyn Scope, visitor: &mut dyn Visitor) -> Result<Level> {
        let candidates = if whole {
            Candidates::All
        } else {
            scope.names(&self.path)?
        };
        let whole = candidates == Candidates::All;
        let parent = self.parent.as_ref().filter(|_| both).map(Chain::here);
        let child = self.child.here();
        let names: BTreeSet<OsString> = match candidates {
            Candidates::Only(names) => {
                self.narrowed = true;
                names.into_iter().collect()
            }
            Candidates::All => {
                let mut names = BTreeSet::new();
                for dir in parent.into_iter().chain([child]) {
                    names.extend(dir.names().map_err(|cause| failed("list", &self.path, cause))?);
                }
                names
            }
        };
        let mut gone = Vec::new();
        let mut there = Vec::new();
        for name in names {
            let look = |dir: &dyn Folder| {
                let found = dir.look(&name);
                found.map_err(|cause| failed("look at", &self.path.join(&name), cause))
            };
            let carried = |node: &Node| node.kind != NodeKind::Socket;
            let old = parent.map(look).transpose()?.flatten().filter(carried);
            let new = look(child)?;
            if new.as_ref().is_some_and(|node| !carried(node)) {
                visitor.socket(&self.path.join(&name));
            }
            let new = new.filter(carried);
            let list = if new.is_some() { &mut there } else { &mut gone };
            if old.is_some() || new.is_some() {
                list.push(Pair { name, old, new });
            }
        }
        gone.append(&mut there);
        Ok(Level {
            pairs: gone.into_iter(),
            both,
            whole,
        })
    }
}
