//! Random edits of a tree, the same for the same seed.

use std::ffi::OsStr;
use std::fs;
use std::io::{Result, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{
    AtFlags, CWD, FallocateFlags, FileType, RenameFlags, Timespec, Timestamps, XattrFlags, fallocate, getxattr,
    listxattr, mknodat, removexattr, renameat_with, setxattr, utimensat,
};

/// As long as a name can be.
const LONG: [u8; 255] = [b'n'; 255];
/// Few, so that edits meet; one is no UTF-8.
const NAMES: [&[u8]; 9] = [
    b"a",
    b"b",
    b"c",
    b"dir",
    b"sub",
    b"\xc3\xa9t\xc3\xa9",
    b"z z",
    b"\xff\xfe",
    &LONG,
];
/// Seconds and nanoseconds since 1970: before it, at it, after it, and a time that is yet to come.
const TIMES: [(i64, i64); 5] = [
    (-86_401, 5),
    (0, 0),
    (12_345, 678_901_234),
    (999_999_999, 999_999_999),
    (4_102_444_800, 1),
];
/// user::rwx, user:1000:r-x, group::r-x, mask::r-x, other::---: what `setfacl -m u:1000:rx` writes.
const ACL: [(u16, u16, u32); 5] = [
    (0x01, 7, u32::MAX),
    (0x02, 5, 1000),
    (0x04, 5, u32::MAX),
    (0x10, 5, u32::MAX),
    (0x20, 0, u32::MAX),
];
/// `cap_net_bind_service+ep`, as `setcap` writes it.
const CAPABILITY: [u8; 20] = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
/// Names that make a folder of ext4 grow out of one block, into an index, and back.
const MANY: usize = 120;

/// xorshift64*: the same edits for the same seed, on every machine.
#[derive(Debug)]
pub struct Dice(u64);

impl Dice {
    /// The edits of this seed.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number from 0 to one less than `end`.
    pub fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let drawn = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        usize::try_from(drawn).unwrap() % end
    }

    /// A path of up to three levels under `root`.
    pub fn path(&mut self, root: &Path) -> PathBuf {
        let mut path = root.to_owned();
        for _ in 0..=self.below(3) {
            path.push(OsStr::from_bytes(NAMES[self.below(NAMES.len())]));
        }
        path
    }

    /// One edit; many of them fail, because what they want is not there.
    fn edit(&mut self, root: &Path) -> Result<()> {
        let (path, other) = (self.path(root), self.path(root));
        let number = self.below(1 << 16);
        match self.below(41) {
            0..=5 => open(&path, fs::OpenOptions::new().create(true).truncate(true))?.write_all(&vec![b'x'; number]),
            6 => open(&path, fs::OpenOptions::new().append(true))?.write_all(b"more"),
            7..=11 => fs::create_dir_all(path),
            12 => fs::remove_file(path),
            13 => fs::remove_dir_all(path),
            14..=16 => rename(&path, &other),
            17 => exchange(&path, &other),
            18 | 19 => fs::hard_link(path, other),
            20 => std::os::unix::fs::symlink("a", path),
            21 => fs::set_permissions(path, PermissionsExt::from_mode(u32::try_from(number & 0o7777).unwrap())),
            22 | 23 => std::os::unix::fs::lchown(path, Some(u32::try_from(number << 8).unwrap()), Some(7)),
            24..=27 => attribute(&path, number),
            28 => {
                let kind = [FileType::Fifo, FileType::CharacterDevice][number % 2];
                Ok(mknodat(CWD, &path, kind, 0o600.into(), rustix::fs::makedev(1, 3))?)
            }
            // Opened for writing and left as it was: copied up, not changed.
            29 => open_file(&path, &mut fs::OpenOptions::new()).map(drop),
            30..=32 => touch(&path, TIMES[number % TIMES.len()]),
            33 => open(&path, &mut fs::OpenOptions::new())?.set_len(number as u64 / 2),
            34 | 35 => sparse(&path, number as u64),
            36 => punch(&path, number as u64),
            // Written after its last name is gone: nothing of it may stay.
            37 => {
                let file = open_file(&path, &mut fs::OpenOptions::new())?;
                fs::remove_file(&path)?;
                (&file).write_all(b"nobody reads this")
            }
            // The next inode that is made is likely the file's, and a folder's now.
            38 => fs::remove_file(&path).and_then(|()| fs::create_dir(path)),
            39 => many(&path),
            _ => mapped(&path),
        }
    }

    /// Makes `count` edits under `root`.
    pub fn edits(&mut self, root: &Path, count: usize) {
        for _ in 0..count {
            let _ = self.edit(root);
        }
    }
}

/// Writes through a mapping, which no system call tells of. Python's: mapping memory is unsafe in Rust.
fn mapped(path: &Path) -> Result<()> {
    let file = open_file(path, fs::OpenOptions::new().read(true))?;
    if file.metadata()?.len() == 0 {
        return Ok(());
    }
    let script = "import mmap; m = mmap.mmap(0, 0); m[len(m) // 2] = 0x7e; m.flush()";
    let python = Command::new("python3").args(["-c", script]).stdin(file).status()?;
    assert!(python.success(), "python3 cannot map a file: {python}");
    Ok(())
}

/// Opens for writing, but neither waits for a fifo's other end nor follows a link.
fn open(path: &Path, options: &mut fs::OpenOptions) -> Result<fs::File> {
    options
        .write(true)
        .custom_flags(nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK)
        .open(path)
}

/// Only files: what is done to a device is not the tree's.
fn open_file(path: &Path, options: &mut fs::OpenOptions) -> Result<fs::File> {
    let file = open(path, options)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(std::io::ErrorKind::InvalidInput.into()),
    }
}

/// Renames; a folder that overlayfs refuses to, because a lower layer has it, is moved item by item, as `mv` does.
fn rename(path: &Path, other: &Path) -> Result<()> {
    match fs::rename(path, other) {
        Err(error) if error.kind() == std::io::ErrorKind::CrossesDevices => move_folder(path, other),
        renamed => renamed,
    }
}

fn move_folder(path: &Path, other: &Path) -> Result<()> {
    let before = fs::metadata(path)?;
    if other.exists() {
        fs::remove_dir(other)?;
    }
    fs::create_dir(other)?;
    // What a new folder has from the default ACL of the one above it, a renamed one has not.
    for name in attributes(other)? {
        removexattr(other, name.as_slice())?;
    }
    for entry in fs::read_dir(path)? {
        let name = entry?.file_name();
        rename(&path.join(&name), &other.join(&name))?;
    }
    std::os::unix::fs::chown(other, Some(before.uid()), Some(before.gid()))?;
    fs::set_permissions(other, before.permissions())?;
    for name in attributes(path)? {
        let mut value = vec![0; 1 << 16];
        let length = getxattr(path, name.as_slice(), &mut value[..])?;
        setxattr(other, name.as_slice(), &value[..length], XattrFlags::empty())?;
    }
    touch(other, (before.mtime(), before.mtime_nsec()))?;
    fs::remove_dir(path)
}

/// The names of the extended attributes.
fn attributes(path: &Path) -> Result<Vec<Vec<u8>>> {
    let mut names = vec![0; 1 << 16];
    let length = listxattr(path, &mut names[..])?;
    let names = names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    Ok(names.map(<[u8]>::to_vec).collect())
}

/// Two names change places; folders are left out, of which overlayfs refuses some.
fn exchange(path: &Path, other: &Path) -> Result<()> {
    for path in [path, other] {
        if fs::symlink_metadata(path)?.is_dir() {
            return Ok(());
        }
    }
    Ok(renameat_with(CWD, path, CWD, other, RenameFlags::EXCHANGE)?)
}

/// A small attribute, one that does not fit into the inode, an ACL (a folder's default too), a capability.
fn attribute(path: &Path, number: usize) -> Result<()> {
    let mut acl = 2_u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in ACL {
        acl.extend(tag.to_le_bytes());
        acl.extend(permissions.to_le_bytes());
        acl.extend(id.to_le_bytes());
    }
    let large = vec![b'v'; 97 + number % 1000];
    let (name, value) = [
        ("user.test", &b"v0"[..]),
        ("user.test", b"v1"),
        ("user.large", &large),
        ("system.posix_acl_access", &acl),
        ("system.posix_acl_default", &acl),
        ("security.capability", &CAPABILITY),
    ][number % 6];
    Ok(setxattr(path, name, value, XattrFlags::empty())?)
}

/// Sets the modification time, of a link itself too.
fn touch(path: &Path, (seconds, nanoseconds): (i64, i64)) -> Result<()> {
    let time = Timespec {
        tv_sec: seconds,
        tv_nsec: nanoseconds,
    };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    Ok(utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}

/// A hole, some bytes, a hole.
fn sparse(path: &Path, number: u64) -> Result<()> {
    let file = open_file(path, fs::OpenOptions::new().create(true).truncate(true))?;
    file.set_len(number * 8)?;
    file.write_all_at(b"in the middle", number * 4)
}

/// Zeros where something was, and room behind the end.
fn punch(path: &Path, number: u64) -> Result<()> {
    let file = open_file(path, &mut fs::OpenOptions::new())?;
    let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    fallocate(file.as_fd(), hole, number / 2, 4096)?;
    Ok(fallocate(file.as_fd(), FallocateFlags::KEEP_SIZE, number, 4096)?)
}

/// Many long names in a folder, of which few stay.
fn many(path: &Path) -> Result<()> {
    let name = |number: usize| path.join(format!("{number:0>200}"));
    for number in 0..MANY {
        fs::File::create(name(number))?;
    }
    for number in (0..MANY).filter(|number| number % 40 != 0) {
        fs::remove_file(name(number))?;
    }
    Ok(())
}
