//! The seam under the walkers: a directory that is open, wherever its tree lies.
//!
//! A mounted tree is walked by handles; a volume that is not mounted can be walked
//! as well, by whoever reads its format. The walkers cannot tell, so both give the
//! same bytes.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, ResolveFlags};

use super::handle::{self, DIRECTORY, Node, Xattrs};

/// A directory of a tree. Nothing below it is followed: no link, no mount.
pub trait Folder {
    /// The names in it, without `.` and `..`, in any order.
    ///
    /// # Errors
    /// Where it cannot be read.
    fn names(&self) -> io::Result<Vec<OsString>>;

    /// What `name` is; none where there is nothing.
    ///
    /// # Errors
    /// Where it cannot be read.
    fn look(&self, name: &OsStr) -> io::Result<Option<Node>>;

    /// The extended attributes of `name`, sorted; what a layer does not carry is told to `left_out`.
    ///
    /// # Errors
    /// Where they cannot be read.
    fn xattrs(&self, name: &OsStr, left_out: &mut dyn FnMut(&[u8])) -> io::Result<Xattrs>;

    /// The target of the symbolic link `name`.
    ///
    /// # Errors
    /// Where it cannot be read, or is no link.
    fn link_target(&self, name: &OsStr) -> io::Result<Vec<u8>>;

    /// The content of the regular file `name`.
    ///
    /// # Errors
    /// Where it cannot be opened.
    fn file(&self, name: &OsStr) -> io::Result<Box<dyn Read>>;

    /// What the directory itself is.
    ///
    /// # Errors
    /// Where it cannot be read.
    fn own(&self) -> io::Result<Node>;

    /// Its own extended attributes, as [`Folder::xattrs`].
    ///
    /// # Errors
    /// Where they cannot be read.
    fn own_xattrs(&self, left_out: &mut dyn FnMut(&[u8])) -> io::Result<Xattrs>;

    /// The directory `name` in it.
    ///
    /// # Errors
    /// Where it cannot be opened, or is no directory.
    fn child(&self, name: &OsStr) -> io::Result<Box<dyn Folder>>;

    /// The directory at `path` below it, or, where that is empty, the same once more.
    ///
    /// # Errors
    /// As for [`Folder::child`].
    fn below(&self, path: &Path) -> io::Result<Box<dyn Folder>>;
}

impl Folder for BorrowedFd<'_> {
    fn names(&self) -> io::Result<Vec<OsString>> {
        Ok(handle::list(*self)?.into_iter().map(|(name, _)| name).collect())
    }

    fn look(&self, name: &OsStr) -> io::Result<Option<Node>> {
        Ok(handle::look(*self, name)?)
    }

    fn xattrs(&self, name: &OsStr, left_out: &mut dyn FnMut(&[u8])) -> io::Result<Xattrs> {
        Ok(handle::xattrs(*self, name, left_out)?)
    }

    fn link_target(&self, name: &OsStr) -> io::Result<Vec<u8>> {
        Ok(handle::link_target(*self, name)?)
    }

    fn file(&self, name: &OsStr) -> io::Result<Box<dyn Read>> {
        Ok(Box::new(File::from(handle::open_file(*self, name)?)))
    }

    fn own(&self) -> io::Result<Node> {
        Ok(Node::of(&rustix::fs::fstat(self)?))
    }

    fn own_xattrs(&self, left_out: &mut dyn FnMut(&[u8])) -> io::Result<Xattrs> {
        // The handle may be one of O_PATH.
        let open = rustix::fs::openat(self, ".", DIRECTORY, Mode::empty())?;
        Ok(handle::xattrs_of(open.as_fd(), left_out)?)
    }

    fn child(&self, name: &OsStr) -> io::Result<Box<dyn Folder>> {
        Ok(Box::new(handle::open_child(*self, name)?))
    }

    fn below(&self, path: &Path) -> io::Result<Box<dyn Folder>> {
        let how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        Ok(Box::new(handle::open_at(*self, path, DIRECTORY, how)?))
    }
}

impl Folder for OwnedFd {
    fn names(&self) -> io::Result<Vec<OsString>> {
        self.as_fd().names()
    }

    fn look(&self, name: &OsStr) -> io::Result<Option<Node>> {
        self.as_fd().look(name)
    }

    fn xattrs(&self, name: &OsStr, left_out: &mut dyn FnMut(&[u8])) -> io::Result<Xattrs> {
        self.as_fd().xattrs(name, left_out)
    }

    fn link_target(&self, name: &OsStr) -> io::Result<Vec<u8>> {
        self.as_fd().link_target(name)
    }

    fn file(&self, name: &OsStr) -> io::Result<Box<dyn Read>> {
        self.as_fd().file(name)
    }

    fn own(&self) -> io::Result<Node> {
        self.as_fd().own()
    }

    fn own_xattrs(&self, left_out: &mut dyn FnMut(&[u8])) -> io::Result<Xattrs> {
        handle::xattrs_of(self.as_fd(), left_out).map_err(Into::into)
    }

    fn child(&self, name: &OsStr) -> io::Result<Box<dyn Folder>> {
        self.as_fd().child(name)
    }

    fn below(&self, path: &Path) -> io::Result<Box<dyn Folder>> {
        self.as_fd().below(path)
    }
}

/// A directory of one file, under a name of the caller's: for a tar of that file alone.
#[derive(Debug)]
pub struct OneFile {
    file: File,
    name: OsString,
}

impl OneFile {
    /// The open regular file `file`, as `name`.
    ///
    /// # Errors
    /// Invalid input where it is no regular file.
    pub fn new(file: File, name: OsString) -> io::Result<Self> {
        match file.metadata()?.is_file() {
            true => Ok(Self { file, name }),
            false => Err(io::ErrorKind::InvalidInput.into()),
        }
    }

    fn is(&self, name: &OsStr) -> io::Result<()> {
        match name == self.name {
            true => Ok(()),
            false => Err(io::ErrorKind::NotFound.into()),
        }
    }
}

impl Folder for OneFile {
    fn names(&self) -> io::Result<Vec<OsString>> {
        Ok(vec![self.name.clone()])
    }

    fn look(&self, name: &OsStr) -> io::Result<Option<Node>> {
        if self.is(name).is_err() {
            return Ok(None);
        }
        // Its other names are not here.
        Ok(Some(Node {
            links: 1,
            ..Node::of(&rustix::fs::fstat(&self.file)?)
        }))
    }

    fn xattrs(&self, name: &OsStr, left_out: &mut dyn FnMut(&[u8])) -> io::Result<Xattrs> {
        self.is(name)?;
        Ok(handle::xattrs_of(self.file.as_fd(), left_out)?)
    }

    fn link_target(&self, _name: &OsStr) -> io::Result<Vec<u8>> {
        Err(io::ErrorKind::InvalidInput.into())
    }

    fn file(&self, name: &OsStr) -> io::Result<Box<dyn Read>> {
        self.is(name)?;
        let mut file = self.file.try_clone()?;
        // The copy shares its place in the file.
        io::Seek::rewind(&mut file)?;
        Ok(Box::new(file))
    }

    fn own(&self) -> io::Result<Node> {
        Ok(Node {
            kind: handle::NodeKind::Directory,
            mode: 0o755,
            size: 0,
            links: 2,
            ..Node::of(&rustix::fs::fstat(&self.file)?)
        })
    }

    fn own_xattrs(&self, _left_out: &mut dyn FnMut(&[u8])) -> io::Result<Xattrs> {
        Ok(Vec::new())
    }

    fn child(&self, _name: &OsStr) -> io::Result<Box<dyn Folder>> {
        Err(io::ErrorKind::NotADirectory.into())
    }

    fn below(&self, path: &Path) -> io::Result<Box<dyn Folder>> {
        match path.as_os_str().is_empty() {
            true => Ok(Box::new(Self::new(self.file.try_clone()?, self.name.clone())?)),
            false => Err(io::ErrorKind::NotADirectory.into()),
        }
    }
}
