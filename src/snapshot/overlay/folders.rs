//! The driver's folders: their names, how one comes and how one goes.
//!
//! ```text
//! ROOT/overlay/
//! ├── <name>            a tree: a layer's, or the upper folder of an active snapshot
//! ├── work/<name>       overlayfs's work folder of that active snapshot, with its hard-link index
//! ├── pending/<name>    a mark: folder <name> is being made or deleted right now
//! └── empty             the folder below the lowest layer; nothing is ever in it
//! ```
//!
//! A name has [`LENGTH`] characters, because a mount names every layer in one
//! page of options and 500 of them must fit (see [`super::stack`]). Publishing
//! a snapshot as a layer renames nothing: the record changes, the folder stays.
//!
//! The mark is what makes recovery cheap and certain: without one in
//! `pending/`, every folder has its record. A mark is set before the first step
//! and goes after the last, both under the store's exclusive lock; a deletion's
//! mark becomes the deleted folder itself (a rename over the empty one) and is
//! emptied without a lock, its owner holding an flock on it.

use std::fs::{self, File};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use plywood_store::layer::empty_tree;
use plywood_store::lock::Exclusive;
use rustix::fs::{FlockOperation, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use crate::error::{Context, Error, Kind, Result};
use crate::explain::{quote, step};
use crate::walk;

/// Characters of a folder's name: 32^5 names are 33 million.
pub(super) const LENGTH: usize = 5;
const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
const WORK: &str = "work";
const PENDING: &str = "pending";
/// The folder that stands below the lowest layer.
pub(super) const EMPTY: &str = "empty";
/// Attributes of overlayfs's own: never content.
pub(super) const OVERLAY_XATTR: &[u8] = b"trusted.overlay.";

/// The driver's part of the root folder.
#[derive(Debug, Clone)]
pub(super) struct Folders {
    base: PathBuf,
}

/// Whether `name` can be one that [`Folders::make`] gave.
pub(super) fn is_name(name: &str) -> bool {
    name.len() == LENGTH && name.bytes().all(|byte| ALPHABET.contains(&byte)) && name != EMPTY
}

impl Folders {
    /// The folders under `base`, which is there; makes the fixed ones.
    pub(super) fn open(base: PathBuf) -> Result<Self> {
        let fixed = [WORK, PENDING, EMPTY].map(|name| base.join(name));
        if fixed.iter().any(|path| !path.is_dir()) {
            step(|| format!("mkdir -m 700 -p {}", fixed.each_ref().map(quote).join(" ")));
        }
        for path in fixed {
            make_folder(&path, 0o700)?;
        }
        Ok(Self { base })
    }

    /// `ROOT/overlay`.
    pub(super) fn base(&self) -> &Path {
        &self.base
    }

    /// The folder of this name.
    pub(super) fn tree(&self, name: &str) -> PathBuf {
        self.base.join(name)
    }

    /// The work folder that belongs to it.
    pub(super) fn work(&self, name: &str) -> PathBuf {
        self.base.join(WORK).join(name)
    }

    fn mark(&self, name: &str) -> PathBuf {
        self.base.join(PENDING).join(name)
    }

    /// Marks a new name and makes its folder, empty: mode 0755, owner 0:0, mtime 0, or with
    /// the attributes of `like`, whose place as the root it takes. [`Folders::settled`] ends it.
    pub(super) fn make(&self, _lock: &Exclusive, like: Option<&Path>) -> Result<String> {
        loop {
            let name = random_name()?;
            let (mark, tree) = (self.mark(&name), self.tree(&name));
            if name == EMPTY || tree.symlink_metadata().is_ok() || self.work(&name).symlink_metadata().is_ok() {
                continue;
            }
            match fs::create_dir(&mark) {
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => continue,
                made => made.context("make", &mark)?,
            }
            step(|| explained_tree(&tree, &self.work(&name), like));
            make_folder(&tree, 0o755)?;
            make_folder(&self.work(&name), 0o700)?;
            let dir = open(&tree)?;
            match like {
                Some(like) => copy_root(open(like)?.as_fd(), dir.as_fd(), &tree)?,
                None => plain_root(dir.as_fd(), &tree)?,
            }
            return Ok(name);
        }
    }

    /// Makes what was made durable: the folder's names, and what they lead to.
    pub(super) fn sync(&self, name: &str) -> Result<()> {
        for path in [self.tree(name), self.base.join(WORK), self.base.clone()] {
            rustix::fs::fsync(open(&path)?).context("sync", &path)?;
        }
        Ok(())
    }

    /// The mark of a folder that has its record now.
    pub(super) fn settled(&self, name: &str) -> Result<()> {
        remove_if_there(&self.mark(name))
    }

    /// Marks a folder that is about to lose its record.
    pub(super) fn mark_deletion(&self, _lock: &Exclusive, name: &str) -> Result<()> {
        make_folder(&self.mark(name), 0o700)
    }

    /// Takes the folder out of its place, into its mark. Done already: a success.
    pub(super) fn unhook(&self, _lock: &Exclusive, name: &str) -> Result<()> {
        let (tree, mark) = (self.tree(name), self.mark(name));
        match fs::rename(&tree, &mark) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            // Half emptied by one who died after the same rename: there is nothing left to move.
            renamed => renamed.context("move aside", &tree),
        }
    }

    /// Deletes what was unhooked, work folder and mark. False where another process is at it.
    pub(super) fn delete(&self, name: &str) -> Result<bool> {
        let mark = self.mark(name);
        let dir = match rustix::fs::open(&mark, directory(), Mode::empty()) {
            Err(Errno::NOENT) => return Ok(true),
            opened => opened.context("open", &mark)?,
        };
        if !try_own(&dir, &mark)? {
            return Ok(false);
        }
        self.delete_work(name)?;
        empty_tree(dir.as_fd()).context("empty", &mark)?;
        remove_if_there(&mark)?;
        Ok(true)
    }

    /// Deletes the work folder: its snapshot became a layer, or is gone.
    pub(super) fn delete_work(&self, name: &str) -> Result<()> {
        let work = self.work(name);
        match rustix::fs::open(&work, directory(), Mode::empty()) {
            Err(Errno::NOENT) => return Ok(()),
            opened => empty_tree(opened.context("open", &work)?.as_fd()).context("empty", &work)?,
        }
        remove_if_there(&work)
    }

    /// Lets go of the file handles that tie an upper folder to the disk that it was written on.
    pub(super) fn forget_origin(&self, name: &str) -> Result<()> {
        let tree = self.tree(name);
        step(|| format!("setfattr -x trusted.overlay.origin {}", quote(&tree)));
        self.delete_work(name)?;
        make_folder(&self.work(name), 0o700)?;
        match rustix::fs::removexattr(&tree, "trusted.overlay.origin") {
            Ok(()) | Err(Errno::NODATA) => Ok(()),
            Err(error) => Err(Error::io("remove the attributes of", tree, error)),
        }
    }

    /// Whether a folder is being made, deleted or published.
    pub(super) fn is_marked(&self, name: &str) -> bool {
        self.mark(name).symlink_metadata().is_ok()
    }

    /// The names that are marked: unfinished, or another process's right now.
    pub(super) fn marked(&self) -> Result<Vec<String>> {
        listed(&self.base.join(PENDING))
    }

    /// The names of all trees, and of whatever else lies there.
    pub(super) fn trees(&self) -> Result<Vec<String>> {
        let fixed = [WORK, PENDING, EMPTY];
        Ok(listed(&self.base)?
            .into_iter()
            .filter(|name| !fixed.contains(&name.as_str()))
            .collect())
    }

    /// The names of all work folders.
    pub(super) fn works(&self) -> Result<Vec<String>> {
        listed(&self.base.join(WORK))
    }
}

/// Takes the flock of an open folder, or says that another has it. It lasts as long as the handle.
pub(super) fn try_own(dir: &OwnedFd, path: &Path) -> Result<bool> {
    match rustix::fs::flock(dir, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(Error::io("lock", path, error)),
    }
}

/// Opens a folder, for reading and as a handle.
pub(super) fn open(path: &Path) -> Result<OwnedFd> {
    rustix::fs::open(path, directory(), Mode::empty()).context("open", path)
}

/// The path as the filesystem's flusher takes it: a handle that was open before the writing knows of its errors.
pub(super) fn sync_filesystem(dir: BorrowedFd<'_>, path: &Path) -> Result<()> {
    rustix::fs::syncfs(dir).map_err(|error| {
        Error::io("write back", path, error)
            .hinted("the disk lost writes: see the kernel's log, then repeat the command")
    })
}

fn directory() -> OFlags {
    OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC
}

pub(super) fn random_name() -> Result<String> {
    let mut random = [0_u8; LENGTH];
    let file = Path::new("/dev/urandom");
    std::io::Read::read_exact(&mut File::open(file).context("open", file)?, &mut random).context("read", file)?;
    let letter = |byte: &u8| ALPHABET.get(usize::from(byte % 32)).copied().map(char::from);
    Ok(random.iter().filter_map(letter).collect())
}

fn make_folder(path: &Path, mode: u32) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    match fs::DirBuilder::new().mode(mode).create(path) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        made => made.context("make", path),
    }
}

fn remove_if_there(path: &Path) -> Result<()> {
    match fs::remove_dir(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        removed => removed.context("remove", path),
    }
}

fn listed(path: &Path) -> Result<Vec<String>> {
    let mut names: Vec<String> = walk::names(open(path)?.as_fd())
        .context("list", path)?
        .into_iter()
        .map(|name| name.to_string_lossy().into_owned())
        .collect();
    names.sort_unstable();
    Ok(names)
}

/// How a person makes an upper folder that says what the root of `like` says.
fn explained_tree(tree: &Path, work: &Path, like: Option<&Path>) -> String {
    let (tree, work) = (quote(tree), quote(work));
    let attributes = match like {
        None => format!("touch -d @0 {tree}"),
        Some(like) => {
            let like = quote(like);
            format!(
                "chown --reference={like} {tree} && chmod --reference={like} {tree} && touch --reference={like} {tree}"
            )
        }
    };
    format!("mkdir -p {tree} {work} && {attributes}")
}

/// What the root of an empty snapshot is on every driver.
fn plain_root(dir: BorrowedFd<'_>, path: &Path) -> Result<()> {
    rustix::fs::fchmod(dir, Mode::from_raw_mode(0o755)).context("set the mode of", path)?;
    let epoch = Timespec { tv_sec: 0, tv_nsec: 0 };
    rustix::fs::futimens(
        dir,
        &Timestamps {
            last_access: epoch,
            last_modification: epoch,
        },
    )
    .context("set the times of", path)
}

/// The upper folder is what shows as the root: it must say what the layer's root said.
fn copy_root(from: BorrowedFd<'_>, to: BorrowedFd<'_>, path: &Path) -> Result<()> {
    let stat = rustix::fs::fstat(from).context("look at", path)?;
    rustix::fs::fchown(to, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))
        .context("set the owner of", path)?;
    rustix::fs::fchmod(to, Mode::from_raw_mode(stat.st_mode & 0o7777)).context("set the mode of", path)?;
    for name in xattr_names(from).context("read the attributes of", path)? {
        if !name.starts_with(OVERLAY_XATTR) {
            let value = xattr(from, &name).context("read the attributes of", path)?;
            rustix::fs::fsetxattr(to, name.as_slice(), &value, XattrFlags::empty())
                .context("set the attributes of", path)?;
        }
    }
    let nanoseconds = |value| i64::try_from(value).unwrap_or(0);
    let times = Timestamps {
        last_access: Timespec {
            tv_sec: stat.st_atime,
            tv_nsec: nanoseconds(stat.st_atime_nsec),
        },
        last_modification: Timespec {
            tv_sec: stat.st_mtime,
            tv_nsec: nanoseconds(stat.st_mtime_nsec),
        },
    };
    rustix::fs::futimens(to, &times).context("set the times of", path)
}

/// The names of a file's extended attributes.
pub(super) fn xattr_names(file: BorrowedFd<'_>) -> rustix::io::Result<Vec<Vec<u8>>> {
    let mut buffer = vec![0_u8; 1 << 16];
    let length = rustix::fs::flistxattr(file, &mut buffer[..])?;
    let list = buffer.get(..length).unwrap_or_default();
    Ok(list
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
        .map(<[u8]>::to_vec)
        .collect())
}

/// The value of one extended attribute.
pub(super) fn xattr(file: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<Vec<u8>> {
    let mut buffer = vec![0_u8; 1 << 16];
    let length = rustix::fs::fgetxattr(file, name, &mut buffer[..])?;
    buffer.truncate(length);
    Ok(buffer)
}

/// An error for a folder that a record names and the disk lacks.
pub(super) fn missing(path: &Path, owner: &str) -> Error {
    Error::new(
        Kind::Corrupt,
        format!("the folder {} of {owner} is missing", path.display()),
    )
    .hinted("plywood check says what else is; a lost layer comes back by importing its image again")
}
