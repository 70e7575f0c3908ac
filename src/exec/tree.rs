//! The image's tree, reached by handle: no path of an image is ever resolved as
//! a string, and no step leaves the root.
//!
//! [`Tree::target`] walks one name at a time from a handle that it holds, never
//! follows a symbolic link by itself and never opens `..`, so a link can lead
//! only to where the container's own root says. Reading goes by openat2.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::error::{Attempt, Error, Result, Stage};
use super::leftover::{Made, modified};
use crate::explain;
use crate::sys::openat2;

/// Symbolic links that one path may go through, as the kernel's limit.
const LINKS_MAX: usize = 40;
/// What plywood makes belongs to root: folders.
const FOLDER_MODE: Mode = Mode::from_raw_mode(0o755);
/// The same: files.
const FILE_MODE: Mode = Mode::from_raw_mode(0o644);

/// What is to be at the end of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Target {
    /// A folder.
    Folder,
    /// A regular file.
    File,
}

/// The root of the container, from inside.
#[derive(Debug)]
pub(super) struct Tree {
    root: OwnedFd,
    made: Vec<Made>,
}

impl Tree {
    /// The tree under this process's root directory, which is the container's already.
    pub(super) fn inside() -> Result<Self> {
        let root = rustix::fs::openat(
            CWD,
            "/",
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .attempt(Stage::Root, || "open the container's root".to_owned())?;
        Ok(Self { root, made: Vec::new() })
    }

    /// What was made on the way, in order.
    pub(super) fn into_made(self) -> Vec<Made> {
        self.made
    }

    /// A handle on the root.
    pub(super) fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// The folder `name` right under the root, made where it is missing.
    ///
    /// # Errors
    /// One where it is not a folder: a symbolic link there is an attack on the mount.
    pub(super) fn mount_point(&mut self, name: &str) -> Result<OwnedFd> {
        let at = || format!("mount on /{name}: the image has something there that is not a folder");
        match open_step(&self.root, OsStr::new(name)) {
            Ok((handle, FileType::Directory)) => Ok(handle),
            Ok(_) => Err(Error::new(Stage::Mounts, at())),
            Err(Errno::NOENT) => {
                let root = self
                    .root
                    .try_clone()
                    .attempt(Stage::Mounts, || "copy a handle".to_owned())?;
                self.make(&root, &[], OsStr::new(name), Target::Folder)
                    .attempt(Stage::Mounts, || format!("make /{name}"))
            }
            Err(error) => Err(Error::system(Stage::Mounts, format!("open /{name}"), error)),
        }
    }

    /// The file or folder at `path`, for mounting on; made where it is missing, with the folders above it.
    pub(super) fn target(&mut self, path: &Path, kind: Target) -> Result<OwnedFd> {
        self.walk(path, kind).attempt(Stage::Mounts, || {
            format!("find or make {} in the image", path.display())
        })
    }

    /// The folder at `path`; made for good where it is missing, with the folders above it.
    pub(super) fn folder(&mut self, path: &Path) -> Result<OwnedFd> {
        let made = self.made.len();
        let handle = self.walk(path, Target::Folder).attempt(Stage::Root, || {
            format!("find or make the working directory {}", path.display())
        })?;
        self.made.truncate(made);
        Ok(handle)
    }

    fn walk(&mut self, path: &Path, kind: Target) -> Result<OwnedFd, Errno> {
        let mut ahead: VecDeque<OsString> = names(path);
        let mut stack: Vec<(OsString, OwnedFd)> = Vec::new();
        let mut links = 0;
        while let Some(name) = ahead.pop_front() {
            if name == ".." {
                stack.pop();
                continue;
            }
            let folder = stack
                .last()
                .map_or(self.root.as_fd(), |(_, handle)| handle.as_fd())
                .try_clone_to_owned()
                .map_err(|error| errno(&error))?;
            let is_last = ahead.is_empty();
            let handle = match open_step(&folder, &name) {
                Ok((link, FileType::Symlink)) => {
                    links += 1;
                    if links > LINKS_MAX {
                        return Err(Errno::LOOP);
                    }
                    let to = rustix::fs::readlinkat(&link, "", Vec::new())?;
                    let to = OsString::from_vec(to.into_bytes());
                    if Path::new(&to).is_absolute() {
                        stack.clear();
                    }
                    for name in names(Path::new(&to)).into_iter().rev() {
                        ahead.push_front(name);
                    }
                    continue;
                }
                Ok((handle, FileType::Directory)) if !is_last || kind == Target::Folder => handle,
                Ok((handle, FileType::RegularFile)) if is_last && kind == Target::File => return Ok(handle),
                Ok((_, FileType::Directory)) => return Err(Errno::ISDIR),
                Ok(_) => {
                    return Err(if is_last && kind == Target::File {
                        Errno::EXIST
                    } else {
                        Errno::NOTDIR
                    });
                }
                Err(Errno::NOENT) => {
                    let above: Vec<&OsStr> = stack.iter().map(|(name, _)| name.as_os_str()).collect();
                    let kind = if is_last { kind } else { Target::Folder };
                    let handle = self.make(&folder, &above, &name, kind)?;
                    if kind == Target::File {
                        return Ok(handle);
                    }
                    handle
                }
                Err(error) => return Err(error),
            };
            stack.push((name, handle));
        }
        match (stack.pop(), kind) {
            (Some((_, handle)), Target::Folder) => Ok(handle),
            (None, Target::Folder) => self.root.try_clone().map_err(|error| errno(&error)),
            (_, Target::File) => Err(Errno::ISDIR),
        }
    }

    /// Makes `name` in `folder`, whose path is `above`, and remembers it.
    fn make(&mut self, folder: &OwnedFd, above: &[&OsStr], name: &OsStr, kind: Target) -> Result<OwnedFd, Errno> {
        let parent: PathBuf = std::iter::once(OsStr::new("/")).chain(above.iter().copied()).collect();
        explain::step(|| {
            format!(
                "{} {}",
                if kind == Target::Folder { "mkdir -p" } else { "touch" },
                explain::quote(parent.join(name))
            )
        });
        let before = modified(&rustix::fs::fstat(folder)?);
        match kind {
            Target::Folder => rustix::fs::mkdirat(folder, name, FOLDER_MODE)?,
            Target::File => drop(rustix::fs::openat(
                folder,
                name,
                OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::WRONLY | OFlags::CLOEXEC,
                FILE_MODE,
            )?),
        }
        let (handle, _) = open_step(folder, name)?;
        self.made.push(Made {
            folder: parent.into_os_string().into_vec(),
            name: name.as_bytes().to_vec(),
            is_folder: kind == Target::Folder,
            inode: Some(rustix::fs::fstat(&handle)?.st_ino),
            folder_before: before,
            folder_after: modified(&rustix::fs::fstat(folder)?),
        });
        Ok(handle)
    }

    /// What a regular file of the image holds; none where there is no such file.
    ///
    /// # Errors
    /// One where it is no regular file, or longer than `limit` bytes: an image
    /// must not make plywood wait on a fifo or swallow its memory.
    pub(super) fn read(&self, path: &str, limit: u64) -> Result<Option<Vec<u8>>> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let handle = match openat2::open(&self.root, path, flags, resolve) {
            Ok(handle) => handle,
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
            Err(error) => return Err(Error::system(Stage::User, format!("open the image's {path}"), error)),
        };
        let stat = rustix::fs::fstat(&handle).attempt(Stage::User, || format!("look at the image's {path}"))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(Error::new(
                Stage::User,
                format!("read the image's {path}: it is no regular file"),
            ));
        }
        let mut bytes = Vec::new();
        std::fs::File::from(handle)
            .take(limit.saturating_add(1))
            .read_to_end(&mut bytes)
            .attempt(Stage::User, || format!("read the image's {path}"))?;
        if u64::try_from(bytes.len()).is_ok_and(|length| length > limit) {
            return Err(Error::new(
                Stage::User,
                format!("read the image's {path}: it is longer than {limit} bytes"),
            ));
        }
        Ok(Some(bytes))
    }
}

/// The names of a path, `..` among them.
fn names(path: &Path) -> VecDeque<OsString> {
    path.components()
        .filter_map(|component| match component {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some(OsString::from("..")),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
        })
        .collect()
}

/// One name in a folder: a handle on whatever is there, and what it is.
fn open_step(folder: impl AsFd, name: &OsStr) -> Result<(OwnedFd, FileType), Errno> {
    let handle = rustix::fs::openat(
        folder,
        name,
        OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let stat = rustix::fs::statat(&handle, "", AtFlags::EMPTY_PATH)?;
    Ok((handle, FileType::from_raw_mode(stat.st_mode)))
}

fn errno(error: &std::io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}
