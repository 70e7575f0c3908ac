//! What `COPY` reads: a tree below a handle, and what of it is copied, as a layer's tar.
//!
//! Nothing leaves the tree: links are followed as if its root were `/`. What `.dockerignore` hides is not
//! there. A tar of files from the context has the owner 0:0 and the modes, contents, links and times that the
//! files have; one from another stage keeps its owners.
//!
//! The key of a tar leaves the times out: a fresh checkout of the same files is the same.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use plywood_store::layer::diff::{Everything, Options, write_layer};
use plywood_store::layer::folder::{Folder, OneFile};
use plywood_store::layer::{Node, NodeKind, Xattrs};
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::ignore::{Glob, Patterns, Verdict};
use crate::error::{Context as _, Error, Result};
use crate::sys::openat2;

/// Folders under folders that a pattern is looked for in.
const DEEPEST: usize = 64;

/// A tree that `COPY` reads.
#[derive(Debug)]
pub struct Tree {
    root: OwnedFd,
    /// For messages: the folder, or the stage or image.
    shown: String,
    hidden: Arc<Patterns>,
    /// Owners are as they are, not root.
    keeps_owners: bool,
}

/// What is different in the copy.
#[derive(Debug, Clone, Default)]
pub struct Form {
    /// Owner and group.
    pub owner: Option<(u32, u32)>,
    /// The low twelve bits of the mode.
    pub mode: Option<u32>,
    /// Not copied: patterns, relative to what is copied.
    pub exclude: Arc<Patterns>,
}

/// Something in a tree that a `COPY` names.
#[derive(Debug)]
pub struct Picked {
    /// Relative to the tree's root, as it was named.
    pub path: PathBuf,
    handle: OwnedFd,
    kind: NodeKind,
}

impl Picked {
    /// Whether it is a folder, whose content is copied.
    pub fn is_folder(&self) -> bool {
        self.kind == NodeKind::Directory
    }

    /// Its last name; empty for the root.
    pub fn name(&self) -> &OsStr {
        self.path.file_name().unwrap_or_default()
    }

    /// A regular file, open for reading from its beginning.
    ///
    /// # Errors
    /// I/O.
    pub fn file(&self) -> Result<File> {
        let file = File::from(self.handle.try_clone().context("copy a handle of", &self.path)?);
        io::Seek::rewind(&mut &file).context("read", &self.path)?;
        Ok(file)
    }
}

impl Tree {
    /// The build's context: the folder at `path`, without what is `hidden`.
    ///
    /// # Errors
    /// Where it is no folder.
    pub fn context(path: &Path, hidden: Patterns) -> Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(path, flags, Mode::empty()).map_err(|error| match error {
            Errno::NOENT => Error::not_found(format!("there is no context {}", path.display())),
            Errno::NOTDIR => Error::invalid(format!("the context {} is not a folder", path.display())),
            error => Error::io("open the context", path, error),
        })?;
        Ok(Self {
            root,
            shown: format!("the context {}", path.display()),
            hidden: Arc::new(hidden),
            keeps_owners: false,
        })
    }

    /// The root of another stage or of an image, called `shown` in messages.
    ///
    /// # Errors
    /// Where the handle cannot be copied.
    pub fn of_stage(root: BorrowedFd<'_>, shown: String) -> Result<Self> {
        Ok(Self {
            root: root.try_clone_to_owned().context("copy a handle of", &shown)?,
            shown,
            hidden: Arc::default(),
            keeps_owners: true,
        })
    }

    /// Where a person finds it, for explaining.
    pub fn path(&self) -> PathBuf {
        let own = format!("/proc/self/fd/{}", self.root.as_raw_fd());
        std::fs::read_link(&own).unwrap_or_else(|_| PathBuf::from(&self.shown))
    }

    /// What `source`, a path or a pattern, names: in order, never nothing. `**` is any number of folders where
    /// it is `deep`.
    ///
    /// # Errors
    /// Not found; outside the tree; something that cannot be copied by itself.
    pub fn pick(&self, source: &str, deep: bool) -> Result<Vec<Picked>> {
        let path = self.inside(source)?;
        // A file may have such a name.
        if !Glob::is_pattern(source) || self.open(&path).is_ok() {
            return Ok(vec![self.find(&path, source)?]);
        }
        let pattern = path.to_str().unwrap_or(source);
        let glob = if deep {
            Glob::deep(pattern)?
        } else {
            Glob::new(pattern)?
        };
        let mut found = Vec::new();
        self.search(&self.root, Path::new(""), &glob, &mut found)?;
        found.sort();
        if found.is_empty() {
            return Err(Error::not_found(format!("nothing in {} matches {source:?}", self.shown)).hinted(self.hint()));
        }
        found.iter().map(|path| self.find(path, source)).collect()
    }

    fn hint(&self) -> &'static str {
        match self.hidden.is_empty() {
            _ if self.keeps_owners => "the path is relative to its root",
            true => "the path is relative to the root of the context",
            false => "the path is relative to the root of the context; what .dockerignore names is not there",
        }
    }

    /// Relative to the root, without `.` and `..`.
    fn inside(&self, source: &str) -> Result<PathBuf> {
        let mut path = PathBuf::new();
        for part in Path::new(source).components() {
            match part {
                Component::Normal(name) => path.push(name),
                Component::ParentDir if !path.pop() => {
                    return Err(Error::invalid(format!("{source:?} is outside {}", self.shown)).hinted(
                        "COPY takes what is in the context: move it there, or build with a folder above as the context",
                    ));
                }
                _ => {}
            }
        }
        Ok(path)
    }

    fn open(&self, path: &Path) -> Result<OwnedFd, Errno> {
        let path = if path.as_os_str().is_empty() {
            Path::new(".")
        } else {
            path
        };
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        openat2::open(
            &self.root,
            path,
            flags,
            ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
        )
    }

    fn find(&self, path: &Path, source: &str) -> Result<Picked> {
        let absent = || Error::not_found(format!("there is no {source:?} in {}", self.shown)).hinted(self.hint());
        let handle = self.open(path).map_err(|error| match error {
            Errno::NOENT | Errno::NOTDIR => absent(),
            Errno::LOOP => Error::invalid(format!("the links of {source:?} in {} go round in a ring", self.shown)),
            Errno::NXIO => unfit(source),
            error => Error::io("open", path, error),
        })?;
        let stat = rustix::fs::fstat(&handle).context("look at", path)?;
        let kind = match rustix::fs::FileType::from_raw_mode(stat.st_mode) {
            rustix::fs::FileType::Directory => NodeKind::Directory,
            rustix::fs::FileType::RegularFile => NodeKind::File,
            _ => return Err(unfit(source)),
        };
        let is_folder = kind == NodeKind::Directory;
        if self.hidden.matches(path.as_os_str().as_bytes(), is_folder) == Verdict::Skipped {
            return Err(absent());
        }
        Ok(Picked {
            path: path.to_owned(),
            handle,
            kind,
        })
    }

    /// The paths below a folder that match, none below one that does.
    fn search(&self, folder: &OwnedFd, path: &Path, glob: &Glob, found: &mut Vec<PathBuf>) -> Result<()> {
        if path.components().count() > DEEPEST {
            return Err(Error::invalid(format!("{} has folders too deep to search", self.shown)));
        }
        for name in folder.names().context("list", path)? {
            let here = path.join(&name);
            let bytes = here.as_os_str().as_bytes();
            let Some(node) = folder.look(&name).context("look at", &here)? else {
                continue;
            };
            let is_folder = node.kind == NodeKind::Directory;
            if self.hidden.matches(bytes, is_folder) == Verdict::Skipped {
                continue;
            }
            if glob.matches(bytes) {
                found.push(here);
            } else if is_folder && glob.may_match_below(bytes) {
                let child = rustix::fs::openat(folder, &name, FOLDER, Mode::empty()).context("open", &here)?;
                self.search(&child, &here, glob, found)?;
            }
        }
        Ok(())
    }

    /// Writes what was picked as a layer's tar: a folder's content, and the folder itself first; or a file
    /// as `name`.
    ///
    /// # Errors
    /// What cannot be read, or changes while it is read; a name that no layer can hold.
    pub fn write(&self, picked: &Picked, name: &OsStr, form: &Form, out: &mut dyn Write) -> Result<()> {
        let copy = || picked.handle.try_clone().context("copy a handle of", &picked.path);
        if !picked.is_folder() {
            let owner = form.owner.or((!self.keeps_owners).then_some((0, 0)));
            return Self::write_file(copy()?.into(), name, &Form { owner, ..form.clone() }, out);
        }
        let shape = Arc::new(Shape {
            hidden: Arc::clone(&self.hidden),
            base: picked.path.clone(),
            owner: form.owner.or((!self.keeps_owners).then_some((0, 0))),
            mode: form.mode,
            exclude: Arc::clone(&form.exclude),
        });
        let view = View {
            inner: Box::new(copy()?),
            path: PathBuf::new(),
            is_file: false,
            shape,
        };
        let options = Options {
            with_root: true,
            ..Options::default()
        };
        write_layer(None, &view, &Everything, &options, out).map(drop)
    }

    /// Writes one file as `name`.
    ///
    /// # Errors
    /// As for [`Tree::write`].
    pub fn write_file(file: File, name: &OsStr, form: &Form, out: &mut dyn Write) -> Result<()> {
        let at = Path::new(name);
        let shape = Arc::new(Shape {
            hidden: Arc::default(),
            base: PathBuf::new(),
            owner: form.owner,
            mode: form.mode,
            exclude: Arc::default(),
        });
        let view = View {
            inner: Box::new(OneFile::new(file, name.to_owned()).context("read", at)?),
            path: PathBuf::new(),
            is_file: true,
            shape,
        };
        write_layer(None, &view, &Everything, &Options::default(), out).map(drop)
    }
}

const FOLDER: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

fn unfit(source: &str) -> Error {
    Error::invalid(format!(
        "{source:?} is a device, pipe or socket: those are copied with their folder only"
    ))
}

/// How a tree looks in the copy.
#[derive(Debug)]
struct Shape {
    hidden: Arc<Patterns>,
    /// Where in the tree the copy begins: what is hidden is named from the tree's root.
    base: PathBuf,
    owner: Option<(u32, u32)>,
    mode: Option<u32>,
    exclude: Arc<Patterns>,
}

/// A directory as it looks in the copy.
struct View {
    inner: Box<dyn Folder>,
    path: PathBuf,
    /// The one file that was named itself: what `.dockerignore` says of it was asked already.
    is_file: bool,
    shape: Arc<Shape>,
}

impl View {
    fn formed(&self, node: Node) -> Node {
        let (uid, gid) = self.shape.owner.unwrap_or((node.uid, node.gid));
        let mode = match node.kind {
            NodeKind::Symlink => node.mode,
            _ => self.shape.mode.unwrap_or(node.mode),
        };
        Node { uid, gid, mode, ..node }
    }

    fn at(&self, inner: Box<dyn Folder>, path: &Path) -> Box<dyn Folder> {
        Box::new(self.view(inner, path))
    }

    fn view(&self, inner: Box<dyn Folder>, path: &Path) -> Self {
        Self {
            inner,
            path: self.path.join(path),
            is_file: self.is_file,
            shape: Arc::clone(&self.shape),
        }
    }

    /// Whether `name` is in the copy. A folder that is hidden is, where something below it is shown again.
    fn shows(&self, name: &OsStr) -> io::Result<bool> {
        let path = self.path.join(name);
        let inside = path.as_os_str().as_bytes();
        let whole = self.shape.base.join(&path);
        let whole = whole.as_os_str().as_bytes();
        let (hidden, exclude) = (&self.shape.hidden, &self.shape.exclude);
        if exclude.is_empty() && (self.is_file || hidden.is_empty()) {
            return Ok(true);
        }
        let Some(node) = self.inner.look(name)? else {
            return Ok(false);
        };
        let is_folder = node.kind == NodeKind::Directory;
        let by_context = match self.is_file {
            true => Verdict::Kept,
            false => hidden.matches(whole, is_folder),
        };
        match (by_context, exclude.matches(inside, is_folder)) {
            (Verdict::Kept, Verdict::Kept) => return Ok(true),
            (Verdict::Skipped, _) | (_, Verdict::Skipped) => return Ok(false),
            _ => {}
        }
        let child = self.view(self.inner.child(name)?, Path::new(name));
        Ok(!child.names()?.is_empty())
    }
}

impl Folder for View {
    fn names(&self) -> io::Result<Vec<OsString>> {
        let mut names = Vec::new();
        for name in self.inner.names()? {
            if self.shows(&name)? {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn look(&self, name: &OsStr) -> io::Result<Option<Node>> {
        Ok(self.inner.look(name)?.map(|node| self.formed(node)))
    }

    fn xattrs(&self, name: &OsStr, left_out: &mut dyn FnMut(&[u8])) -> io::Result<Xattrs> {
        self.inner.xattrs(name, left_out)
    }

    fn link_target(&self, name: &OsStr) -> io::Result<Vec<u8>> {
        self.inner.link_target(name)
    }

    fn file(&self, name: &OsStr) -> io::Result<Box<dyn Read>> {
        self.inner.file(name)
    }

    fn own(&self) -> io::Result<Node> {
        let own = self.inner.own()?;
        // A folder that is only around one file is not copied: nobody asks for its owner and mode.
        Ok(if self.is_file { own } else { self.formed(own) })
    }

    fn own_xattrs(&self, left_out: &mut dyn FnMut(&[u8])) -> io::Result<Xattrs> {
        self.inner.own_xattrs(left_out)
    }

    fn child(&self, name: &OsStr) -> io::Result<Box<dyn Folder>> {
        Ok(self.at(self.inner.child(name)?, Path::new(name)))
    }

    fn below(&self, path: &Path) -> io::Result<Box<dyn Folder>> {
        Ok(self.at(self.inner.below(path)?, path))
    }
}
