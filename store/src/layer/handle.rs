//! Files by handle: a directory that is open, and one name in it that is never followed.
//!
//! Everything that apply and the walkers do to a tree goes through here, so a
//! symbolic link, a `..` or a mount that somebody puts in the way leads nowhere:
//! below the root by `openat2`, in a directory by the `*at` calls without following.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps};
use rustix::io::Errno;

use super::entry::{Device, Time, shown};
use crate::{Error, Result};

/// How often a call that a concurrent rename disturbed is made again (openat2(2), EAGAIN).
const RETRIES: usize = 128;

/// What a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A character device.
    Character,
    /// A block device.
    Block,
    /// A FIFO.
    Fifo,
    /// A socket.
    Socket,
}

/// The attributes of a name that cost one system call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Node {
    /// What it is.
    pub kind: NodeKind,
    /// The low twelve bits.
    pub mode: u32,
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Of a device; 0:0 of anything else.
    pub device: Device,
    /// Bytes.
    pub size: u64,
    /// When its content changed.
    pub mtime: Time,
    /// When anything about it changed.
    pub ctime: Time,
    /// Within a tree, this and the inode number tell whether two names are one file.
    pub filesystem: u64,
    /// Its number.
    pub inode: u64,
    /// Its names.
    pub links: u64,
}

impl Node {
    pub(super) fn of(stat: &Stat) -> Self {
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => NodeKind::Directory,
            FileType::Symlink => NodeKind::Symlink,
            FileType::CharacterDevice => NodeKind::Character,
            FileType::BlockDevice => NodeKind::Block,
            FileType::Fifo => NodeKind::Fifo,
            FileType::Socket => NodeKind::Socket,
            FileType::RegularFile | FileType::Unknown => NodeKind::File,
        };
        let device = match kind {
            NodeKind::Character | NodeKind::Block => Device {
                major: rustix::fs::major(stat.st_rdev),
                minor: rustix::fs::minor(stat.st_rdev),
            },
            _ => Device { major: 0, minor: 0 },
        };
        Self {
            kind,
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            device,
            size: u64::try_from(stat.st_size).unwrap_or(0),
            mtime: time(stat.st_mtime, stat.st_mtime_nsec),
            ctime: time(stat.st_ctime, stat.st_ctime_nsec),
            filesystem: stat.st_dev,
            inode: stat.st_ino,
            links: widened(stat.st_nlink),
        }
    }
}

/// The count has another width on other processors.
fn widened(links: impl Into<u64>) -> u64 {
    links.into()
}

fn time(seconds: i64, nanoseconds: u64) -> Time {
    Time {
        seconds,
        nanoseconds: u32::try_from(nanoseconds).unwrap_or(0),
    }
}

/// Sets the modification time, and leaves the access time alone.
pub(super) fn modified(mtime: Time) -> Timestamps {
    Timestamps {
        last_access: Timespec {
            tv_sec: 0,
            tv_nsec: rustix::fs::UTIME_OMIT,
        },
        last_modification: Timespec {
            tv_sec: mtime.seconds,
            tv_nsec: mtime.nanoseconds.into(),
        },
    }
}

/// Extended attributes by name, sorted.
pub type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

/// Whether a layer carries the extended attribute: what belongs to the image
/// does, what the host's security modules or overlayfs keep for themselves does not.
pub fn carried(name: &[u8]) -> bool {
    let starts = |prefix: &str| name.starts_with(prefix.as_bytes());
    match name {
        b"security.selinux" | b"security.ima" | b"security.evm" => false,
        b"system.posix_acl_access" | b"system.posix_acl_default" => true,
        _ if starts("trusted.overlay.") => false,
        _ => starts("user.") || starts("security.") || starts("trusted."),
    }
}

const READ: OFlags = OFlags::RDONLY.union(OFlags::CLOEXEC).union(OFlags::NOFOLLOW);
pub(super) const DIRECTORY: OFlags = READ.union(OFlags::DIRECTORY);

/// `openat2` that tries again where a concurrent rename made the kernel unsure.
pub(super) fn open_at(dir: BorrowedFd<'_>, path: &Path, flags: OFlags, how: ResolveFlags) -> Result<OwnedFd, Errno> {
    let how = how | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
    let path = if path.as_os_str().is_empty() {
        Path::new(".")
    } else {
        path
    };
    for _ in 0..RETRIES {
        match rustix::fs::openat2(dir, path, flags, Mode::empty(), how) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            done => return done,
        }
    }
    Err(Errno::AGAIN)
}

/// Opens the directory `name` of `dir` itself: no link, no mount on it.
pub(super) fn open_child(dir: BorrowedFd<'_>, name: &OsStr) -> Result<OwnedFd, Errno> {
    open_at(
        dir,
        Path::new(name),
        DIRECTORY,
        ResolveFlags::NO_SYMLINKS | ResolveFlags::BENEATH,
    )
}

/// The names in a directory, without `.` and `..`, as the kernel gives them.
pub(super) fn list(dir: BorrowedFd<'_>) -> Result<Vec<(OsString, FileType)>, Errno> {
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push((OsString::from_vec(name.to_vec()), entry.file_type()));
        }
    }
    Ok(names)
}

/// What `name` of `dir` is; none where there is nothing.
pub(super) fn look(dir: BorrowedFd<'_>, name: &OsStr) -> Result<Option<Node>, Errno> {
    match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(Node::of(&stat))),
        Err(Errno::NOENT) => Ok(None),
        Err(cause) => Err(cause),
    }
}

/// Whether `/proc` is the kernel's, and so a way to name an open directory in a path.
fn proc_is_real() -> bool {
    static REAL: OnceLock<bool> = OnceLock::new();
    *REAL.get_or_init(|| {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::open("/proc/self/fd", flags, Mode::empty())
            .and_then(rustix::fs::fstatfs)
            .is_ok_and(|found| found.f_type == rustix::fs::PROC_SUPER_MAGIC)
    })
}

/// A path to `name` of `dir` for the calls on extended attributes, which take no handle of a link or device.
///
/// Where there is no `/proc`, as in the confined child, the directory becomes
/// the working directory: that process has one thread and no other use for it.
fn reach(dir: BorrowedFd<'_>, name: &OsStr) -> Result<PathBuf, Errno> {
    if proc_is_real() {
        return Ok(PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd())).join(name));
    }
    rustix::process::fchdir(dir)?;
    Ok(PathBuf::from(name))
}

/// Sets one extended attribute of `name` of `dir`, without following it.
pub(super) fn set_xattr(dir: BorrowedFd<'_>, name: &OsStr, key: &[u8], value: &[u8]) -> Result<(), Errno> {
    rustix::fs::lsetxattr(reach(dir, name)?, key, value, rustix::fs::XattrFlags::empty())
}

/// Takes one extended attribute from `name` of `dir`, if it has it, without following it.
pub(super) fn remove_xattr(dir: BorrowedFd<'_>, name: &OsStr, key: &[u8]) -> Result<(), Errno> {
    match rustix::fs::lremovexattr(reach(dir, name)?, key) {
        Ok(()) | Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(()),
        Err(cause) => Err(cause),
    }
}

/// The mode of a device or FIFO that was just made, without following what may have taken its place.
pub(super) fn set_mode(dir: BorrowedFd<'_>, name: &OsStr, mode: Mode) -> Result<(), Errno> {
    let node = rustix::fs::openat(
        dir,
        name,
        OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    if FileType::from_raw_mode(rustix::fs::fstat(&node)?.st_mode) == FileType::Symlink {
        return Err(Errno::LOOP);
    }
    if proc_is_real() {
        let path = format!("/proc/self/fd/{}", node.as_raw_fd());
        return rustix::fs::chmodat(rustix::fs::CWD, path, mode, AtFlags::empty());
    }
    rustix::fs::chmodat(dir, name, mode, AtFlags::empty())
}

/// The names of all extended attributes of an open file.
pub(super) fn xattr_names(file: BorrowedFd<'_>) -> Result<Vec<Vec<u8>>, Errno> {
    names(|buffer| rustix::fs::flistxattr(file, buffer))
}

/// The extended attributes of `name` of `dir` that a layer carries; the others are told to `left_out`.
pub(super) fn xattrs(dir: BorrowedFd<'_>, name: &OsStr, left_out: &mut dyn FnMut(&[u8])) -> Result<Xattrs, Errno> {
    let path = reach(dir, name)?;
    collect(
        names(|buffer| rustix::fs::llistxattr(&path, buffer))?,
        |key, buffer| rustix::fs::lgetxattr(&path, key, buffer),
        left_out,
    )
}

/// As [`xattrs`], of an open file or directory.
pub(super) fn xattrs_of(file: BorrowedFd<'_>, left_out: &mut dyn FnMut(&[u8])) -> Result<Xattrs, Errno> {
    collect(
        xattr_names(file)?,
        |key, buffer| rustix::fs::fgetxattr(file, key, buffer),
        left_out,
    )
}

fn names(list: impl Fn(&mut [u8]) -> Result<usize, Errno>) -> Result<Vec<Vec<u8>>, Errno> {
    let listed = match grown(256, list) {
        // A filesystem without any.
        Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
        listed => listed?,
    };
    let mut names: Vec<_> = listed
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
        .map(<[u8]>::to_vec)
        .collect();
    names.sort_unstable();
    Ok(names)
}

fn collect(
    names: Vec<Vec<u8>>,
    get: impl Fn(&[u8], &mut [u8]) -> Result<usize, Errno>,
    left_out: &mut dyn FnMut(&[u8]),
) -> Result<Xattrs, Errno> {
    let mut xattrs = Vec::new();
    for name in names {
        if !carried(&name) {
            // An ACL that says no more than the mode, or what only shows: nothing is lost.
            left_out(&name);
            continue;
        }
        match grown(256, |buffer| get(&name, buffer)) {
            Ok(value) => xattrs.push((name, value)),
            // Gone between the two calls.
            Err(Errno::NODATA) => {}
            Err(cause) => return Err(cause),
        }
    }
    Ok(xattrs)
}

/// Calls with a buffer that grows until the answer fits; the kernel gives at most 64 KiB.
fn grown(first: usize, call: impl Fn(&mut [u8]) -> Result<usize, Errno>) -> Result<Vec<u8>, Errno> {
    let mut buffer = vec![0; first];
    loop {
        match call(&mut buffer) {
            Ok(length) => {
                buffer.truncate(length);
                return Ok(buffer);
            }
            Err(Errno::RANGE) if buffer.len() < 1 << 16 => buffer.resize(buffer.len() * 4, 0),
            Err(cause) => return Err(cause),
        }
    }
}

/// Deletes `name` of `dir` and all beneath it, by handles: follows no link,
/// crosses no mount, and needs two descriptors however deep the tree is. Nothing
/// there is fine.
///
/// # Errors
/// What the kernel refuses; a tree that somebody moves meanwhile.
pub fn remove_tree(dir: BorrowedFd<'_>, name: &OsStr) -> Result<()> {
    remove(dir, name, &mut |_| {}).map_err(|cause| Error::io("delete", shown(Path::new(name)), cause))
}

/// Deletes everything in `dir` as [`remove_tree`] does, not `dir` itself. Two at once both succeed.
///
/// # Errors
/// What the kernel refuses.
pub fn empty_tree(dir: BorrowedFd<'_>) -> Result<(), Errno> {
    loop {
        let names = list(dir)?;
        if names.is_empty() {
            return Ok(());
        }
        for (name, _) in names {
            match remove(dir, &name, &mut |_| {}) {
                // Another deleter was faster: the next round sees.
                Ok(()) | Err(Errno::NOENT | Errno::NOTEMPTY) => {}
                Err(cause) => return Err(cause),
            }
        }
    }
}

struct Level {
    name: OsString,
    /// Of the directory that holds `name`.
    above: (u64, u64),
    /// Directories in it that are still to be deleted.
    rest: Vec<OsString>,
}

/// As [`remove_tree`]; tells the inode number of each directory that goes.
pub(super) fn remove(dir: BorrowedFd<'_>, name: &OsStr, gone: &mut dyn FnMut(u64)) -> Result<(), Errno> {
    match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
        Err(Errno::ISDIR) => {}
        Err(Errno::NOENT) => return Ok(()),
        done => return done,
    }
    let mut levels = Vec::<Level>::new();
    let mut here = dir.try_clone_to_owned().map_err(|_| Errno::MFILE)?;
    let mut next = Some(name.to_owned());
    loop {
        if let Some(name) = next.take() {
            let above = identity(here.as_fd())?;
            here = open_child(here.as_fd(), &name)?;
            let rest = empty_but_directories(here.as_fd())?;
            levels.push(Level { name, above, rest });
        }
        let Some(level) = levels.last_mut() else {
            return Ok(());
        };
        next = level.rest.pop();
        if next.is_some() {
            continue;
        }
        gone(identity(here.as_fd())?.1);
        here = rustix::fs::openat(&here, "..", DIRECTORY, Mode::empty())?;
        if identity(here.as_fd())? != level.above {
            return Err(Errno::STALE);
        }
        rustix::fs::unlinkat(&here, &level.name, AtFlags::REMOVEDIR)?;
        levels.pop();
    }
}

fn identity(file: BorrowedFd<'_>) -> Result<(u64, u64), Errno> {
    let stat = rustix::fs::fstat(file)?;
    Ok((stat.st_dev, stat.st_ino))
}

fn empty_but_directories(dir: BorrowedFd<'_>) -> Result<Vec<OsString>, Errno> {
    let mut directories = Vec::new();
    for (name, kind) in list(dir)? {
        if kind == FileType::Directory {
            directories.push(name);
            continue;
        }
        match rustix::fs::unlinkat(dir, &name, AtFlags::empty()) {
            Err(Errno::ISDIR) => directories.push(name),
            Ok(()) | Err(Errno::NOENT) => {}
            Err(cause) => return Err(cause),
        }
    }
    Ok(directories)
}

/// The target of the symbolic link `name` of `dir`.
pub(super) fn link_target(dir: BorrowedFd<'_>, name: &OsStr) -> Result<Vec<u8>, Errno> {
    rustix::fs::readlinkat(dir, name, Vec::with_capacity(256)).map(std::ffi::CString::into_bytes)
}

/// Opens the regular file `name` of `dir` to read it; a FIFO that took its place does not block.
pub(super) fn open_file(dir: BorrowedFd<'_>, name: &OsStr) -> Result<OwnedFd, Errno> {
    rustix::fs::openat(dir, name, READ | OFlags::NONBLOCK | OFlags::NOCTTY, Mode::empty())
}

/// Whether `name` begins like a whiteout.
pub fn is_whiteout(name: &OsStr) -> bool {
    name.as_bytes().starts_with(b".wh.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn u13_what_a_layer_carries() {
        for name in [
            "user.a",
            "security.capability",
            "security.other",
            "trusted.x",
            "system.posix_acl_default",
        ] {
            assert!(carried(name.as_bytes()), "{name}");
        }
        for name in [
            "security.selinux",
            "security.ima",
            "security.evm",
            "trusted.overlay.opaque",
            "system.data",
            "system.nfs4_acl",
            "os2.x",
            "",
        ] {
            assert!(!carried(name.as_bytes()), "{name}");
        }
    }

    #[test]
    fn deep_trees_go_and_links_stay_unfollowed() {
        let root = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("sentinel"), "here").unwrap();
        let top = std::fs::File::open(root.path()).unwrap();
        let mut here = OwnedFd::from(top.try_clone().unwrap());
        for depth in 0..1500 {
            rustix::fs::symlinkat(outside.path(), &here, "link").unwrap();
            rustix::fs::mkdirat(&here, "d", Mode::RWXU).unwrap();
            if depth % 2 == 0 {
                rustix::fs::mkdirat(&here, "e", Mode::RWXU).unwrap();
            }
            here = open_child(here.as_fd(), OsStr::new("d")).unwrap();
        }
        drop(here);
        remove_tree(top.as_fd(), OsStr::new("d")).unwrap();
        remove_tree(top.as_fd(), OsStr::new("link")).unwrap();
        remove_tree(top.as_fd(), OsStr::new("nothing")).unwrap();
        assert!(outside.path().join("sentinel").exists());
        let left: Vec<_> = list(top.as_fd()).unwrap().into_iter().map(|(name, _)| name).collect();
        assert_eq!(left, ["e"]);
    }
}
