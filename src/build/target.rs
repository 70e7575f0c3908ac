//! Where `COPY` and `WORKDIR` put things: folders below a root, made where they are not there.
//!
//! Links of the root filesystem are followed as if its root were `/`; nothing leads out of it. Before a tar is
//! applied it is read once: what would make a folder of something else, or the reverse, is refused, as a
//! layer's tar would do just that (and a `COPY` of a tree with a `lib` folder would replace the link `/lib`).

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{Read, Seek};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use plywood_store::layer::apply::apply;
use plywood_store::layer::read::{EntryKind, Reader};
use plywood_store::layer::{Limits, is_whiteout};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps, Uid};
use rustix::io::Errno;

use super::context::Form;
use crate::error::{Context as _, Error, Result};
use crate::sys::openat2;

const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// Names that a path may have.
const DEEPEST: usize = 256;

/// The place for what is copied.
#[derive(Debug)]
pub struct Target {
    folder: OwnedFd,
    /// The folder's path, for messages.
    shown: PathBuf,
    /// Of a single file, another name than it has.
    pub name: Option<OsString>,
    /// What the folder has, whatever the tar says of it; none where the tar decides.
    stays: Option<Stat>,
    is_new: bool,
}

/// Finds the place for a folder's content, or for several files: a folder, which is made.
///
/// # Errors
/// Something else is in the way.
pub fn folder(root: BorrowedFd<'_>, path: &str, owner: (u32, u32)) -> Result<Target> {
    let shown = PathBuf::from(path);
    let (folder, is_new) = make(root, path, owner)?;
    let stat = rustix::fs::fstat(&folder).context("look at", &shown)?;
    Ok(Target {
        folder,
        shown,
        name: None,
        stays: Some(stat),
        is_new,
    })
}

/// Finds the place for one file: in the folder that is at `path`, or under that name.
///
/// # Errors
/// As for [`folder`].
pub fn file(root: BorrowedFd<'_>, path: &str, owner: (u32, u32)) -> Result<Target> {
    if path.ends_with('/') || open(root, Path::new(path)).is_ok() {
        return folder(root, path, owner);
    }
    let path = Path::new(path);
    let Some(Component::Normal(name)) = path.components().next_back() else {
        return folder(root, "/", owner);
    };
    let above = path.parent().and_then(Path::to_str).unwrap_or("/");
    Ok(Target {
        name: Some(name.to_owned()),
        ..folder(root, above, owner)?
    })
}

impl Target {
    /// The same, but a new folder gets owner and mode from the tar: it is not content alone that is copied.
    #[must_use]
    pub fn with_the_folder_itself(mut self) -> Self {
        self.stays = self.stays.filter(|_| !self.is_new);
        self
    }

    /// Unpacks `tar` there.
    ///
    /// # Errors
    /// What would replace a folder by something else, or the reverse; names that mean something in a layer; I/O.
    pub fn fill(&self, tar: &mut File) -> Result<()> {
        tar.rewind().context("read", "the copy")?;
        self.check(tar)?;
        tar.rewind().context("read", "the copy")?;
        apply(self.folder.as_fd(), tar, &Limits::default())?;
        let Some(stat) = &self.stays else { return Ok(()) };
        restore(&self.folder, stat).context("set the owner and mode of", &self.shown)
    }

    /// Gives what `tar` has unpacked another owner and mode, where `form` has any.
    ///
    /// # Errors
    /// I/O.
    pub fn give(&self, tar: &mut File, form: &Form) -> Result<()> {
        if form.owner.is_none() && form.mode.is_none() {
            return Ok(());
        }
        tar.rewind().context("read", "the copy")?;
        let limits = Limits::default();
        let mut reader = Reader::new(tar, &limits);
        while let Some(entry) = reader.next_entry()? {
            let is_link = matches!(entry.kind, EntryKind::Symlink(_));
            self.give_one(&entry.path, is_link, form)
                .context("set the owner and mode of", &entry.path)?;
        }
        Ok(())
    }

    fn give_one(&self, path: &Path, is_link: bool, form: &Form) -> Result<(), Errno> {
        let path = if path.as_os_str().is_empty() {
            Path::new(".")
        } else {
            path
        };
        let how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        // A link itself is opened by O_PATH and O_NOFOLLOW only.
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let how = if is_link { ResolveFlags::BENEATH } else { how };
        let handle = openat2::open(&self.folder, path, flags, how)?;
        if let Some((uid, gid)) = form.owner {
            let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
            rustix::fs::chownat(&handle, "", uid, gid, AtFlags::EMPTY_PATH)?;
        }
        match form.mode {
            Some(mode) if !is_link => {
                let own = format!("/proc/self/fd/{}", handle.as_raw_fd());
                rustix::fs::chmod(own, Mode::from_raw_mode(mode))
            }
            _ => Ok(()),
        }
    }

    fn check(&self, tar: &mut dyn Read) -> Result<()> {
        let limits = Limits::default();
        let mut reader = Reader::new(tar, &limits);
        while let Some(entry) = reader.next_entry()? {
            let Some(name) = entry.path.file_name() else { continue };
            let shown = || self.shown.join(&entry.path).display().to_string();
            if is_whiteout(name) {
                return Err(Error::invalid(format!("{} cannot be in an image", shown()))
                    .hinted("names that begin with .wh. mean that a layer deletes something"));
            }
            let is_folder = entry.kind == EntryKind::Directory;
            match self.look(&entry.path).context("look at", &entry.path)? {
                Some(FileType::Directory) if !is_folder => {
                    return Err(Error::invalid(format!(
                        "{} is a folder: a file cannot replace it",
                        shown()
                    )));
                }
                Some(FileType::Symlink) if is_folder => {
                    return Err(
                        Error::invalid(format!("{} is a symbolic link: a folder cannot replace it", shown()))
                            .hinted("copy the folder's content to where the link leads, in a COPY of its own"),
                    );
                }
                Some(FileType::Directory) | None => {}
                Some(_) if is_folder => {
                    return Err(Error::invalid(format!(
                        "{} is a file: a folder cannot replace it",
                        shown()
                    )));
                }
                Some(_) => {}
            }
        }
        Ok(())
    }

    /// What is at `path` below the folder, no link followed.
    fn look(&self, path: &Path) -> Result<Option<FileType>, Errno> {
        let (Some(name), above) = (path.file_name(), path.parent().unwrap_or(Path::new(""))) else {
            return Ok(None);
        };
        let above = if above.as_os_str().is_empty() {
            Path::new(".")
        } else {
            above
        };
        let how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let above = match openat2::open(&self.folder, above, OFlags::PATH | OFlags::CLOEXEC, how) {
            Err(Errno::NOENT) => return Ok(None),
            // Refused already where its own entry is reached; a tar without that is no tree of ours.
            Err(Errno::LOOP | Errno::NOTDIR) => return Ok(None),
            above => above?,
        };
        match rustix::fs::statat(&above, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(FileType::from_raw_mode(stat.st_mode))),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Sets what a folder had before files were put into it.
fn restore(folder: &OwnedFd, stat: &Stat) -> Result<(), Errno> {
    rustix::fs::fchown(
        folder,
        Some(Uid::from_raw(stat.st_uid)),
        Some(Gid::from_raw(stat.st_gid)),
    )?;
    rustix::fs::fchmod(folder, Mode::from_raw_mode(stat.st_mode))?;
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: rustix::fs::UTIME_NOW,
    };
    let untouched = Timespec {
        tv_nsec: rustix::fs::UTIME_OMIT,
        ..now
    };
    rustix::fs::futimens(
        folder,
        &Timestamps {
            last_access: untouched,
            last_modification: now,
        },
    )
}

fn open(root: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd, Errno> {
    let how = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    openat2::open(root, path, FOLDER, how)
}

/// Opens the folder at `path`, an absolute one, and makes it and those above where they are not there: with mode
/// 0755 and `owner`. Whether it is new.
///
/// # Errors
/// Something else is in the way.
pub fn make(root: BorrowedFd<'_>, path: &str, owner: (u32, u32)) -> Result<(OwnedFd, bool)> {
    if let Ok(there) = open(root, Path::new(path)) {
        return Ok((there, false));
    }
    let mut here = open(root, Path::new("/")).context("open", "/")?;
    let mut walked = PathBuf::from("/");
    let mut is_new = false;
    for part in Path::new(path).components().take(DEEPEST) {
        let Component::Normal(name) = part else { continue };
        walked.push(name);
        (here, is_new) = match open(root, &walked) {
            Ok(next) => (next, false),
            Err(Errno::NOENT) => (
                make_one(&here, name, owner).map_err(|error| in_the_way(&walked, error))?,
                true,
            ),
            Err(error) => return Err(in_the_way(&walked, error)),
        };
    }
    Ok((here, is_new))
}

fn make_one(above: &OwnedFd, name: &OsStr, (uid, gid): (u32, u32)) -> Result<OwnedFd, Errno> {
    rustix::fs::mkdirat(above, name, Mode::from_raw_mode(0o755))?;
    let made = rustix::fs::openat(above, name, FOLDER | OFlags::NOFOLLOW, Mode::empty())?;
    rustix::fs::fchown(&made, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
    // Whatever the umask and a default ACL say.
    rustix::fs::fchmod(&made, Mode::from_raw_mode(0o755))?;
    Ok(made)
}

fn in_the_way(path: &Path, error: Errno) -> Error {
    let path = path.display();
    match error {
        Errno::EXIST => Error::invalid(format!(
            "{path} is a symbolic link that leads nowhere: no folder can be there"
        )),
        Errno::NOTDIR => Error::invalid(format!("{path} is a file: no folder can be there")),
        Errno::LOOP => Error::invalid(format!("the links at {path} go round in a ring")),
        error => Error::io("make the folder", path.to_string(), error),
    }
}
