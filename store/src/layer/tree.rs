//! Walks a directory by handles, in canonical order, and digests a tree for comparison.
//!
//! [`Meta`] is everything that a layer tar can say of a path, and what tells one
//! file from another besides. Nothing is opened but directories and regular
//! files: a fifo must not hang us, a device must not act.

use std::collections::BTreeMap;
use std::ffi::{CString, OsStr, OsString};
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat, fstat, openat, readlinkat, statat};
use rustix::io::Errno;

use super::diff::{Everything, Options, write_layer};
use crate::digest::Hashing;
use crate::error::{Context, Error, Result};
use crate::{Digest, Kind};

/// Bytes of all of one file's extended attributes; the kernel's own limit for one is 64 KiB.
const XATTR_LIST_MAX: usize = 1 << 20;

/// What a path is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Type {
    Directory,
    Regular,
    Symlink,
    Character,
    Block,
    Fifo,
    Socket,
}

/// What a layer tar can say of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Meta {
    pub(crate) kind: Type,
    /// Permissions with set-id and sticky bits.
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Bytes of a regular file; 0 for everything else.
    pub(crate) size: u64,
    /// Seconds since 1970 and nanoseconds.
    pub(crate) mtime: (i64, u32),
    /// Major and minor number of a device; 0 for everything else.
    pub(crate) device: (u32, u32),
    /// Those that belong into a layer.
    pub(crate) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// A symlink's target.
    pub(crate) target: Vec<u8>,
}

/// What tells one file from another within one filesystem, and an untouched one from a touched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) inode: u64,
    pub(crate) links: u64,
    ctime: (i64, u64),
}

/// A path in a tree: what it is, and which file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) meta: Meta,
    pub(crate) identity: Identity,
}

impl Node {
    /// Whether this is surely the same untouched file as `other` of an earlier snapshot:
    /// every change of a file moves its change time, and nothing can set that.
    pub(crate) fn is_untouched(&self, other: &Self) -> bool {
        (self.identity.inode, self.identity.ctime) == (other.identity.inode, other.identity.ctime)
    }
}

/// Whether an extended attribute belongs into a layer. The security modules' marks are
/// the machine's own, overlayfs's are the driver's, `system.data` is ext4's.
pub(crate) fn xattr_is_kept(name: &[u8]) -> bool {
    const MACHINES_OWN: [&[u8]; 4] = [
        b"security.selinux",
        b"security.ima",
        b"security.evm",
        b"security.apparmor",
    ];
    match name {
        b"system.posix_acl_access" | b"system.posix_acl_default" => true,
        _ if name.starts_with(b"user.") => true,
        _ if name.starts_with(b"security.") => !MACHINES_OWN.contains(&name),
        _ if name.starts_with(b"trusted.") => !name.starts_with(b"trusted.overlay."),
        _ => false,
    }
}

/// Opens the directory `name` under `dir`, never through a symlink.
pub(crate) fn open_dir(dir: BorrowedFd<'_>, name: &OsStr, path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(dir, name, flags, Mode::empty()).context("open folder", path)
}

/// Opens the regular file `name` under `dir` for reading, never through a symlink, never waiting.
pub(crate) fn open_file(dir: BorrowedFd<'_>, name: &OsStr, path: &Path) -> Result<std::fs::File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = openat(dir, name, flags, Mode::empty()).context("open", path)?;
    let stat = fstat(&file).context("stat", path)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(Error::new(
            Kind::InUse,
            format!("{} changed its kind while it was read", path.display()),
        ));
    }
    Ok(file.into())
}

/// The names in a directory, bytewise sorted.
pub(crate) fn names(dir: BorrowedFd<'_>, path: &Path) -> Result<Vec<OsString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(dir).context("read folder", path)? {
        let entry = entry.context("read folder", path)?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(OsString::from_vec(name.to_vec()));
        }
    }
    names.sort_unstable_by(|a, b| a.as_bytes().cmp(b.as_bytes()));
    Ok(names)
}

/// What `name` under `dir` is; none where it is not there.
pub(crate) fn node(dir: BorrowedFd<'_>, name: &OsStr, path: &Path) -> Result<Option<Node>> {
    let stat = match statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => return Ok(None),
        stat => stat.context("stat", path)?,
    };
    let mut node = from_stat(&stat, path)?;
    if node.meta.kind == Type::Symlink {
        node.meta.target = readlinkat(dir, name, Vec::new())
            .context("read link", path)?
            .into_bytes();
    }
    // The kernel has no listxattrat before 6.13: the way through our own handle is as safe.
    let mut way = format!("/proc/self/fd/{}/", dir.as_raw_fd()).into_bytes();
    way.extend_from_slice(name.as_bytes());
    node.meta.xattrs = xattrs(&way, path)?;
    Ok(Some(node))
}

/// What a tree's root directory is.
pub(crate) fn root_node(root: BorrowedFd<'_>) -> Result<Node> {
    let path = Path::new("/");
    let mut node = from_stat(&fstat(root).context("stat", path)?, path)?;
    node.meta.xattrs = xattrs(format!("/proc/self/fd/{}/.", root.as_raw_fd()).as_bytes(), path)?;
    Ok(node)
}

#[allow(
    clippy::unnecessary_cast,
    clippy::useless_conversion,
    reason = "the widths of stat's fields differ by architecture"
)]
fn from_stat(stat: &Stat, path: &Path) -> Result<Node> {
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => Type::Directory,
        FileType::RegularFile => Type::Regular,
        FileType::Symlink => Type::Symlink,
        FileType::CharacterDevice => Type::Character,
        FileType::BlockDevice => Type::Block,
        FileType::Fifo => Type::Fifo,
        FileType::Socket => Type::Socket,
        FileType::Unknown => return Err(Error::corrupt(format!("{} is of no known kind", path.display()))),
    };
    let is_device = matches!(kind, Type::Character | Type::Block);
    let device = if is_device {
        (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev))
    } else {
        (0, 0)
    };
    let size = if kind == Type::Regular {
        u64::try_from(stat.st_size).unwrap_or(0)
    } else {
        0
    };
    let meta = Meta {
        kind,
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        size,
        mtime: (stat.st_mtime.into(), u32::try_from(stat.st_mtime_nsec).unwrap_or(0)),
        device,
        xattrs: BTreeMap::new(),
        target: Vec::new(),
    };
    let identity = Identity {
        inode: stat.st_ino.into(),
        links: u64::from(stat.st_nlink),
        ctime: (stat.st_ctime.into(), u64::try_from(stat.st_ctime_nsec).unwrap_or(0)),
    };
    Ok(Node { meta, identity })
}

fn xattrs(way: &[u8], path: &Path) -> Result<BTreeMap<Vec<u8>, Vec<u8>>> {
    let mut kept = BTreeMap::new();
    let way = CString::new(way).map_err(|error| Error::io("read the attributes of", path, io::Error::from(error)))?;
    let list = match growing(|buffer| rustix::fs::llistxattr(&way, buffer)) {
        Err(Errno::OPNOTSUPP) => return Ok(kept),
        list => list.context("list the attributes of", path)?,
    };
    for name in list.split(|byte| *byte == 0).filter(|name| xattr_is_kept(name)) {
        let key =
            CString::new(name).map_err(|error| Error::io("read the attributes of", path, io::Error::from(error)))?;
        match growing(|buffer| rustix::fs::lgetxattr(&way, &key, buffer)) {
            // It went away, or only the list shows it: then there is nothing to keep.
            Err(Errno::NODATA | Errno::OPNOTSUPP) => {}
            value => {
                kept.insert(name.to_vec(), value.context("read the attributes of", path)?);
            }
        }
    }
    Ok(kept)
}

/// Calls with a small buffer first, and with larger ones while the kernel says that it is too small.
fn growing(call: impl Fn(&mut [u8]) -> rustix::io::Result<usize>) -> rustix::io::Result<Vec<u8>> {
    let mut buffer = vec![0; 256];
    loop {
        match call(&mut buffer) {
            Ok(length) => {
                buffer.truncate(length);
                return Ok(buffer);
            }
            Err(Errno::RANGE) if buffer.len() < XATTR_LIST_MAX => buffer.resize(buffer.len() * 8, 0),
            Err(error) => return Err(error),
        }
    }
}

/// Whether two files have the same bytes. Both are read to the end of the shorter one.
pub(crate) fn same_content(a: &mut impl Read, b: &mut impl Read) -> io::Result<bool> {
    let (mut left, mut right) = (vec![0; 1 << 16], vec![0; 1 << 16]);
    loop {
        let count = fill(a, &mut left)?;
        if count != fill(b, &mut right)? || left[..count] != right[..count] {
            return Ok(false);
        }
        if count == 0 {
            return Ok(true);
        }
    }
}

fn fill(from: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match from.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// The digest of everything that a layer tar can say of the tree under `root`
/// (types, modes, owners, sizes, mtimes to the nanosecond, xattrs, link targets
/// and groups, devices, contents), for tests and `check`. The root's own mtime is left out.
///
/// # Errors
/// As for [`write_layer`].
pub fn digest(root: BorrowedFd<'_>) -> Result<Digest> {
    let mut out = Hashing::new(io::sink());
    write_layer(None, root.as_fd(), &Everything, &Options::default(), &mut out)?;
    let (_, digest, _) = out.finish();
    Ok(digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machines_own_attributes_stay_out_of_layers() {
        for (name, kept) in [
            ("user.x", true),
            ("security.capability", true),
            ("security.selinux", false),
            ("trusted.x", true),
            ("trusted.overlay.opaque", false),
            ("system.posix_acl_access", true),
            ("system.data", false),
            ("", false),
        ] {
            assert_eq!(xattr_is_kept(name.as_bytes()), kept, "{name}");
        }
    }

    #[test]
    fn names_are_sorted_by_bytes() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["b", "a", "B", "ä", "a.b"] {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        let dir = std::fs::File::open(folder.path()).unwrap();
        assert_eq!(names(dir.as_fd(), folder.path()).unwrap(), ["B", "a", "a.b", "b", "ä"]);
    }

    #[test]
    fn contents_of_unequal_length_differ() {
        assert!(same_content(&mut &b"abc"[..], &mut &b"abc"[..]).unwrap());
        assert!(!same_content(&mut &b"abc"[..], &mut &b"abcd"[..]).unwrap());
        assert!(!same_content(&mut &b"abc"[..], &mut &b"abd"[..]).unwrap());
    }
}
