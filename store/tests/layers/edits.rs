//! Random edits of a tree: every kind of file, name, owner, time and attribute that a layer can carry.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use rustix::fs::{AtFlags, CWD, FileType, Gid, Uid};

use crate::trees::{acl, copy, paths, times, xattr};

/// Names that have made other tools stumble.
const NAMES: &[&[u8]] = &[
    b"a",
    b"b",
    b"c",
    b"d",
    b"e e",
    b"f\nnewline",
    b"g\xff\xfenot-utf-8",
    "h-\u{e9}\u{4e2d}".as_bytes(),
    b"i-012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789",
    b"j=%25",
    b"-k",
    b"l\\",
];

const IDS: &[u32] = &[0, 1, 1000, 65_535, 65_536, 2_097_151, 2_097_152, 4_294_967_294];

const TIMES: &[(i64, i64)] = &[
    (0, 0),
    (1, 5),
    (1_600_000_000, 0),
    (1_600_000_000, 123_456_789),
    (-86_400, 0),
    (-1, 500_000_000),
    (4_102_444_800, 1),
    (8_589_934_592, 0),
];

const MODES: &[u32] = &[0o644, 0o755, 0o4755, 0o2755, 0o1777, 0o600, 0, 0o7777];

/// One thing done to a tree. Numbers choose among what is there, so that every edit finds something to do.
#[derive(Debug, Clone)]
pub enum Edit {
    Directory(usize, usize),
    File(usize, usize, u8, usize),
    Sparse(usize, usize, u8),
    Symlink(usize, usize, usize),
    HardLink(usize, usize, usize),
    Node(usize, usize, u8),
    Rename(usize, usize, usize),
    Remove(usize),
    Mode(usize, usize),
    Owner(usize, usize, usize),
    Time(usize, usize),
    Xattr(usize, u8, Vec<u8>),
    NoXattr(usize),
    Acl(usize, bool),
    Capability(usize),
    SameSizeAndTime(usize, u8),
    Replace(usize, usize),
    Copied(usize),
}

/// Any edit.
pub fn edit() -> impl Strategy<Value = Edit> {
    use Edit::*;
    let n = || 0..1000_usize;
    prop_oneof![
        4 => (n(), n()).prop_map(|(a, b)| Directory(a, b)),
        5 => (n(), n(), any::<u8>(), 0..9000_usize).prop_map(|(a, b, c, d)| File(a, b, c, d)),
        1 => (n(), n(), any::<u8>()).prop_map(|(a, b, c)| Sparse(a, b, c)),
        2 => (n(), n(), n()).prop_map(|(a, b, c)| Symlink(a, b, c)),
        4 => (n(), n(), n()).prop_map(|(a, b, c)| HardLink(a, b, c)),
        2 => (n(), n(), any::<u8>()).prop_map(|(a, b, c)| Node(a, b, c)),
        4 => (n(), n(), n()).prop_map(|(a, b, c)| Rename(a, b, c)),
        4 => n().prop_map(Remove),
        2 => (n(), n()).prop_map(|(a, b)| Mode(a, b)),
        2 => (n(), n(), n()).prop_map(|(a, b, c)| Owner(a, b, c)),
        3 => (n(), n()).prop_map(|(a, b)| Time(a, b)),
        2 => (n(), 0..5_u8, prop::collection::vec(any::<u8>(), 0..300)).prop_map(|(a, b, c)| Xattr(a, b, c)),
        1 => n().prop_map(NoXattr),
        1 => (n(), any::<bool>()).prop_map(|(a, b)| Acl(a, b)),
        1 => n().prop_map(Capability),
        1 => (n(), any::<u8>()).prop_map(|(a, b)| SameSizeAndTime(a, b)),
        2 => (n(), n()).prop_map(|(a, b)| Replace(a, b)),
        1 => n().prop_map(Copied),
    ]
}

fn pick<T: Clone>(from: &[T], number: usize) -> Option<T> {
    (!from.is_empty()).then(|| from[number % from.len()].clone())
}

/// Does it, where it can be done.
pub fn do_edit(root: &Path, edit: &Edit) {
    use Edit::*;
    let all = paths(root);
    let is = |path: &PathBuf, test: fn(&fs::FileType) -> bool| test(&fs::symlink_metadata(path).unwrap().file_type());
    let mut directories: Vec<_> = all
        .iter()
        .filter(|path| is(path, fs::FileType::is_dir))
        .cloned()
        .collect();
    directories.push(root.to_owned());
    let files: Vec<_> = all
        .iter()
        .filter(|path| is(path, fs::FileType::is_file))
        .cloned()
        .collect();
    let others: Vec<_> = all
        .iter()
        .filter(|path| !is(path, fs::FileType::is_dir))
        .cloned()
        .collect();
    let target = |directory: usize, name: usize| {
        pick(&directories, directory)
            .unwrap()
            .join(OsStr::from_bytes(NAMES[name % NAMES.len()]))
    };
    let free = |path: &Path| fs::symlink_metadata(path).is_err() && path.as_os_str().len() < 3000;
    match edit {
        Directory(a, b) => drop(fs::create_dir(target(*a, *b))),
        File(a, b, fill, size) => {
            let path = target(*a, *b);
            if free(&path) {
                fs::write(path, vec![*fill; *size]).unwrap();
            }
        }
        Sparse(a, b, fill) => {
            let path = target(*a, *b);
            if free(&path) {
                let file = fs::File::create(path).unwrap();
                file.write_all_at(&[*fill; 100], 300_000).unwrap();
                file.set_len(1 << 20).unwrap();
            }
        }
        Symlink(a, b, c) => {
            let to = OsStr::from_bytes([&b"/etc/passwd"[..], b"../..", b"a", b"\xff\n", &[b'x'; 300]][c % 5]);
            let _ = std::os::unix::fs::symlink(to, target(*a, *b));
        }
        HardLink(a, b, c) => {
            if let Some(old) = pick(&others, *c) {
                let _ = fs::hard_link(old, target(*a, *b));
            }
        }
        Node(a, b, c) => {
            let kinds = [
                FileType::Fifo,
                FileType::CharacterDevice,
                FileType::BlockDevice,
                FileType::Socket,
            ];
            let kind = kinds[usize::from(*c) % 3];
            let number = if kind == FileType::Fifo {
                0
            } else {
                rustix::fs::makedev(u32::from(*c), 70_000)
            };
            let _ = rustix::fs::mknodat(
                CWD,
                target(*a, *b),
                kind,
                rustix::fs::Mode::from_raw_mode(0o620),
                number,
            );
        }
        Rename(a, b, c) => {
            if let Some(old) = pick(&all, *c) {
                let _ = fs::rename(old, target(*a, *b));
            }
        }
        Remove(a) => {
            if let Some(path) = pick(&all, *a) {
                remove(&path);
            }
        }
        Mode(a, b) => {
            if let Some(path) = pick(&all, *a)
                && !is(&path, fs::FileType::is_symlink)
            {
                fs::set_permissions(path, fs::Permissions::from_mode(MODES[b % MODES.len()])).unwrap();
            }
        }
        Owner(a, b, c) => {
            if let Some(path) = pick(&all, *a) {
                let (uid, gid) = (IDS[b % IDS.len()], IDS[c % IDS.len()]);
                let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
                rustix::fs::chownat(CWD, path, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW).unwrap();
            }
        }
        Time(a, b) => {
            if let Some(path) = pick(&all, *a) {
                let (seconds, nanoseconds) = TIMES[b % TIMES.len()];
                times(&path, seconds, nanoseconds);
            }
        }
        Xattr(a, b, value) => {
            let names: [&[u8]; 5] = [
                b"user.a",
                b"user.b=%c",
                b"trusted.t",
                b"security.other",
                b"trusted.\xff",
            ];
            if let Some(path) = pick(&all, *a) {
                xattr(&path, names[usize::from(*b)], value);
            }
        }
        NoXattr(a) => {
            if let Some(path) = pick(&all, *a) {
                for name in [
                    "user.a",
                    "trusted.t",
                    "system.posix_acl_access",
                    "system.posix_acl_default",
                ] {
                    let _ = rustix::fs::lremovexattr(&path, name);
                }
            }
        }
        Acl(a, default) => {
            if let Some(path) = pick(&all, *a) {
                let name = if *default {
                    "system.posix_acl_default"
                } else {
                    "system.posix_acl_access"
                };
                xattr(&path, name.as_bytes(), &acl(1000));
            }
        }
        Capability(a) => {
            if let Some(path) = pick(&files, *a) {
                // Version 2, effective: net_bind_service.
                xattr(
                    &path,
                    b"security.capability",
                    &[1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
                );
            }
        }
        SameSizeAndTime(a, fill) => {
            if let Some(path) = pick(&files, *a) {
                let before = fs::metadata(&path).unwrap();
                let file = fs::File::options().write(true).open(&path).unwrap();
                file.write_all_at(&vec![*fill; usize::try_from(before.len().min(50)).unwrap()], 0)
                    .unwrap();
                times(&path, before.mtime(), before.mtime_nsec());
            }
        }
        Replace(a, b) => {
            if let Some(path) = pick(&all, *a) {
                remove(&path);
                match b % 3 {
                    0 => fs::write(path, "replaced").unwrap(),
                    1 => fs::create_dir(path).unwrap(),
                    _ => std::os::unix::fs::symlink("replaced", path).unwrap(),
                }
            }
        }
        // The same in everything, but a file of its own: only hard links can tell.
        Copied(a) => {
            if let Some(path) = pick(&files, *a) {
                let beside = path.with_file_name("beside");
                if free(&beside) {
                    copy(&path, &beside);
                    fs::rename(beside, path).unwrap();
                }
            }
        }
    }
}

fn remove(path: &Path) {
    if fs::symlink_metadata(path).unwrap().is_dir() {
        fs::remove_dir_all(path).unwrap();
    } else {
        fs::remove_file(path).unwrap();
    }
}
