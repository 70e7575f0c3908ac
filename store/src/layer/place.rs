//! The directories that an apply goes through: reached below the root only, and what they get at the end.

use std::collections::{HashSet, VecDeque};
use std::ffi::{OsStr, OsString};
use std::hash::BuildHasher;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;

use rustix::fs::{Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use super::DEPTH;
use super::apply::{Applier, failed};
use super::entry::{Entry, EntryKind, Time, shown};
use super::handle::{self, DIRECTORY, Node};
use crate::{Error, Result};

/// Links that a path may lead through, as the kernel has it.
const LINKS_MAX: usize = 40;

pub(super) const DEFAULT_ACL: &[u8] = b"system.posix_acl_default";

/// An open directory in which entries are made.
pub(super) struct Place {
    /// As the tar names it.
    pub(super) path: PathBuf,
    pub(super) dir: OwnedFd,
    pub(super) inode: u64,
    /// Gives what is made in it an ACL.
    pub(super) default_acl: bool,
}

/// A directory that entries describe or were made in.
pub(super) struct Touched {
    /// Where it is. Through no link: those may be replaced before the end.
    pub(super) path: PathBuf,
    /// What it gets at the end.
    pub(super) mtime: Time,
    /// Whether an entry describes it.
    pub(super) described: bool,
    /// Whether its name and those of the directories above are in their `made`.
    marked: bool,
    /// Names in it that this layer made, where that matters: by [`Applier::number`], as there can be millions.
    pub(super) made: HashSet<u64>,
}

impl Applier {
    /// The directory at `path`, open; made where it is missing.
    pub(super) fn enter(&mut self, path: &Path) -> Result<Rc<Place>> {
        if self.here.path == path {
            return Ok(Rc::clone(&self.here));
        }
        let dir = match self.resolve(path) {
            Err(Errno::NOENT) => {
                self.make_missing(path)?;
                self.resolve(path)
            }
            found => found,
        };
        let dir = dir.map_err(|cause| match cause {
            Errno::NOTDIR | Errno::NOENT | Errno::LOOP => Error::invalid(format!(
                "the tar puts something into {}, which leads to no directory",
                shown(path)
            ))
            .caused_by(std::io::Error::from(cause)),
            Errno::NAMETOOLONG => Error::invalid(format!(
                "the tar puts something into {}, which leads more than {DEPTH} directories deep",
                shown(path)
            )),
            cause => failed("open", path, cause),
        })?;
        self.place(path, dir)
    }

    pub(super) fn resolve(&self, path: &Path) -> Result<OwnedFd, Errno> {
        if path.as_os_str().is_empty() {
            return rustix::fs::openat(&self.root.dir, ".", DIRECTORY, Mode::empty());
        }
        // Through links of the tree, but never out of it.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = self.root.dir.as_fd();
        match handle::open_at(root, path, flags, ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS) {
            Err(Errno::LOOP) => {
                let dir = handle::open_at(root, path, flags, ResolveFlags::IN_ROOT)?;
                self.is_in_reach(&dir)?;
                Ok(dir)
            }
            found => found,
        }
    }

    /// Whether the way up is no longer than a path may be: links lead on from where others ended, so that a
    /// few entries could build a tree that nobody can read any more.
    fn is_in_reach(&self, dir: &OwnedFd) -> Result<(), Errno> {
        let mut above = rustix::fs::openat(dir, ".", DIRECTORY, Mode::empty())?;
        for _ in 0..=DEPTH {
            if rustix::fs::fstat(&above)?.st_ino == self.root.inode {
                return Ok(());
            }
            above = rustix::fs::openat(&above, "..", DIRECTORY, Mode::empty())?;
        }
        Err(Errno::NAMETOOLONG)
    }

    /// Remembers an open directory as the one where the next entries go.
    pub(super) fn place(&mut self, path: &Path, dir: OwnedFd) -> Result<Rc<Place>> {
        let stat = rustix::fs::fstat(&dir).map_err(|cause| failed("look at", path, cause))?;
        self.touch(path, &stat)?;
        if self.lower {
            self.mark_ways(stat.st_ino)?;
        }
        self.here = Rc::new(Place {
            path: path.to_owned(),
            inode: stat.st_ino,
            default_acl: has_default_acl(&dir),
            dir,
        });
        Ok(Rc::clone(&self.here))
    }

    /// Notes the mtime of a directory before anything is done in it.
    pub(super) fn touch(&mut self, path: &Path, stat: &Stat) -> Result<()> {
        let node = Node::of(stat);
        if self.touched.contains_key(&node.inode) {
            return Ok(());
        }
        let touched = Touched {
            path: self.real(path).map_err(|cause| failed("find", path, cause))?,
            mtime: node.mtime,
            described: false,
            marked: false,
            made: HashSet::new(),
        };
        self.touched.insert(node.inode, touched);
        Ok(())
    }

    /// The path through no link to the directory that `path` leads to.
    fn real(&self, path: &Path) -> Result<PathBuf, Errno> {
        match self.open_real(path) {
            Ok(_) => return Ok(path.to_owned()),
            // A link on the way, or at the end.
            Err(Errno::LOOP | Errno::NOTDIR) => {}
            Err(cause) => return Err(cause),
        }
        let mut real = PathBuf::new();
        let mut rest: VecDeque<OsString> = path.iter().map(OsString::from).collect();
        let mut links = 0;
        while let Some(name) = rest.pop_front() {
            match Path::new(&name).components().next() {
                Some(Component::Normal(_)) => real.push(name),
                // At the root both lead nowhere else.
                Some(Component::ParentDir) => drop(real.pop()),
                Some(Component::RootDir) => real.clear(),
                _ => {}
            }
            let target = match rustix::fs::readlinkat(&self.root.dir, &real, Vec::new()) {
                Ok(target) => target,
                // No link; the root itself has no name here.
                Err(Errno::INVAL | Errno::NOENT) => continue,
                Err(cause) => return Err(cause),
            };
            links += 1;
            if links > LINKS_MAX {
                return Err(Errno::LOOP);
            }
            real.pop();
            for part in Path::new(OsStr::from_bytes(target.as_bytes())).iter().rev() {
                rest.push_front(part.to_owned());
            }
        }
        Ok(real)
    }

    /// The directory at `path`, which leads through no link.
    fn open_real(&self, path: &Path) -> Result<OwnedFd, Errno> {
        let how = ResolveFlags::NO_SYMLINKS | ResolveFlags::BENEATH;
        handle::open_at(self.root.dir.as_fd(), path, DIRECTORY, how)
    }

    /// The way to a directory in which this layer makes something is the layer's too: a whiteout does not hide it.
    fn mark_ways(&mut self, inode: u64) -> Result<()> {
        let path = match self.touched.get_mut(&inode) {
            Some(touched) if !touched.marked => {
                touched.marked = true;
                touched.path.clone()
            }
            _ => return Ok(()),
        };
        for below in path.ancestors() {
            let (Some(above), Some(name)) = (below.parent(), below.file_name()) else {
                break;
            };
            let stat = self
                .open_real(above)
                .and_then(rustix::fs::fstat)
                .map_err(|cause| failed("look at", above, cause))?;
            self.touch(above, &stat)?;
            let number = self.number(name);
            if let Some(touched) = self.touched.get_mut(&stat.st_ino)
                && !touched.made.insert(number)
            {
                break;
            }
        }
        Ok(())
    }

    pub(super) fn make_missing(&mut self, path: &Path) -> Result<()> {
        let mut at = PathBuf::new();
        let mut dir = self.resolve(&at).map_err(|cause| failed("open", &at, cause))?;
        for component in path.components() {
            let Component::Normal(name) = component else {
                continue;
            };
            let above = at.clone();
            at.push(name);
            let found = match handle::open_child(dir.as_fd(), name) {
                // A link: where it leads is to be seen from the root.
                Err(Errno::LOOP | Errno::NOTDIR) => self.resolve(&at),
                found => found,
            };
            match found {
                Ok(found) => dir = found,
                Err(Errno::NOENT) => {
                    // The one above is changed by this, and so must be known first.
                    let stat = rustix::fs::fstat(&dir).map_err(|cause| failed("look at", &above, cause))?;
                    self.touch(&above, &stat)?;
                    dir = self.make_implied(dir.as_fd(), name, &at)?;
                }
                // Said by the caller, about the whole path.
                Err(_) => return Ok(()),
            }
        }
        Ok(())
    }

    /// A directory that the tar does not describe.
    pub(super) fn make_implied(&mut self, dir: BorrowedFd<'_>, name: &OsStr, path: &Path) -> Result<OwnedFd> {
        match rustix::fs::mkdirat(dir, name, Mode::from_raw_mode(0o755)) {
            Err(Errno::EXIST) => {
                return Err(Error::invalid(format!(
                    "the tar puts something into {}, a link that leads nowhere",
                    shown(path)
                )));
            }
            done => done.map_err(|cause| failed("make", path, cause))?,
        }
        let made = handle::open_child(dir, name).map_err(|cause| failed("open", path, cause))?;
        self.describe(made.as_fd(), &implied(path), true)?;
        let stat = rustix::fs::fstat(&made).map_err(|cause| failed("look at", path, cause))?;
        self.touched.remove(&stat.st_ino);
        self.touch(path, &stat)?;
        if let Some(touched) = self.touched.get_mut(&stat.st_ino) {
            touched.mtime = Time::default();
        }
        Ok(made)
    }

    /// Stands for a name where millions are remembered. Nobody can choose names that meet: the key is random.
    pub(super) fn number(&self, name: &OsStr) -> u64 {
        self.numbers.hash_one(name)
    }

    pub(super) fn made(&mut self, place: &Place, name: &OsStr) {
        let number = self.number(name);
        if self.lower
            && let Some(touched) = self.touched.get_mut(&place.inode)
        {
            touched.made.insert(number);
        }
    }

    /// Gives the directories their times, once nothing is made in them any more.
    pub(super) fn set_times(&self) -> Result<()> {
        for touched in self.touched.values() {
            self.open_real(&touched.path)
                .and_then(|dir| rustix::fs::futimens(dir, &handle::modified(touched.mtime)))
                .map_err(|cause| failed("set the time of", &touched.path, cause))?;
        }
        Ok(())
    }
}

/// What a directory has that no entry describes.
pub(super) fn implied(path: &Path) -> Entry {
    Entry {
        path: path.to_owned(),
        kind: EntryKind::Directory,
        mode: 0o755,
        uid: 0,
        gid: 0,
        mtime: Time::default(),
        size: 0,
        xattrs: Vec::new(),
    }
}

/// Whether what is made in a directory inherits an ACL.
pub(super) fn has_default_acl(dir: &OwnedFd) -> bool {
    rustix::fs::fgetxattr_query(dir, DEFAULT_ACL).is_ok_and(|size| size > 0)
}
