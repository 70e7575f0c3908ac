//! Layers on real trees, as root: what is written and applied again is the same tree.
//!
//! Trees and edits are random; the oracle is [`tree::digest`], which reads
//! every attribute that a tar can carry.

#![allow(clippy::unwrap_used, reason = "a test ends where it does not go on")]

#[path = "../../tests/common/environment.rs"]
mod environment;

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use plywood_store::Digest;
use plywood_store::layer::apply::apply;
use plywood_store::layer::diff::{Candidates, ChangeKind, Everything, Options, Scope, changes, write_layer};
use plywood_store::layer::folder::Folder;
use plywood_store::layer::{Limits, tree};
use proptest::prelude::*;
use rustix::fs::{AtFlags, CWD, FileType, Gid, Timespec, Timestamps, Uid, XattrFlags};
use tempfile::TempDir;

/// A folder on a filesystem that has everything a layer can carry; every user of it is root.
fn folder() -> TempDir {
    assert!(rustix::process::geteuid().is_root(), "these tests need root");
    tempfile::tempdir().unwrap()
}

fn open(path: &Path) -> File {
    File::open(path).unwrap()
}

fn digest(root: &Path) -> Digest {
    tree::digest(&open(root).as_fd()).unwrap()
}

fn layer_in(parent: Option<&Path>, child: &Path, scope: &dyn Scope, options: &Options) -> Vec<u8> {
    let mut tar = Vec::new();
    let parent = parent.map(open);
    let parent = parent.as_ref().map(AsFd::as_fd);
    let parent = parent.as_ref().map(|parent| parent as &dyn Folder);
    write_layer(parent, &open(child).as_fd(), scope, options, &mut tar).unwrap();
    tar
}

fn layer(parent: Option<&Path>, child: &Path) -> Vec<u8> {
    layer_in(parent, child, &Everything, &Options::default())
}

fn apply_to(root: &Path, tar: &[u8]) {
    apply(open(root).as_fd(), &mut &*tar, &Limits::default()).unwrap();
}

/// A faithful copy, made by another hand than ours.
fn copy(from: &Path, to: &Path) {
    let status = std::process::Command::new("cp")
        .args(["-a", "--preserve=all", "--sparse=always", "-T"])
        .args([from, to])
        .status()
        .unwrap();
    assert!(status.success());
}

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
enum Edit {
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

fn edit() -> impl Strategy<Value = Edit> {
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

/// All paths of a tree but its root, in a fixed order.
fn paths(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut rest = vec![root.to_owned()];
    while let Some(dir) = rest.pop() {
        let mut names: Vec<_> = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path()).collect();
        names.sort();
        for path in names {
            if fs::symlink_metadata(&path).unwrap().is_dir() {
                rest.push(path.clone());
            }
            found.push(path);
        }
    }
    found
}

fn pick<T: Clone>(from: &[T], number: usize) -> Option<T> {
    (!from.is_empty()).then(|| from[number % from.len()].clone())
}

fn xattr(path: &Path, name: &[u8], value: &[u8]) {
    // Some kinds of file refuse some of them.
    let _ = rustix::fs::lsetxattr(path, name, value, XattrFlags::empty());
}

/// An ACL with one named user, as the kernel takes it (version 2, little endian).
fn acl(user: u32) -> Vec<u8> {
    let mut value = 2_u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in [
        (1_u16, 7_u16, u32::MAX),
        (2, 5, user),
        (4, 5, u32::MAX),
        (16, 5, u32::MAX),
        (32, 0, u32::MAX),
    ] {
        value.extend(tag.to_le_bytes());
        value.extend(permissions.to_le_bytes());
        value.extend(id.to_le_bytes());
    }
    value
}

fn times(path: &Path, seconds: i64, nanoseconds: i64) {
    let time = Timespec {
        tv_sec: seconds,
        tv_nsec: nanoseconds,
    };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

fn do_edit(root: &Path, edit: &Edit) {
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

/// The names at which two trees can differ, found by another way than the differ's own.
#[derive(Debug)]
struct Touched(std::collections::BTreeMap<PathBuf, Vec<std::ffi::OsString>>);

impl Touched {
    fn between(parent: &Path, child: &Path) -> Self {
        let mut touched = Self(std::collections::BTreeMap::new());
        let relative = |root: &Path| -> std::collections::BTreeSet<PathBuf> {
            paths(root)
                .into_iter()
                .map(|path| path.strip_prefix(root).unwrap().to_owned())
                .collect()
        };
        for path in relative(parent).union(&relative(child)) {
            let facts = |root: &Path| {
                let path = root.join(path);
                let meta = fs::symlink_metadata(&path).ok()?;
                let content = if meta.is_file() {
                    fs::read(&path).unwrap()
                } else {
                    Vec::new()
                };
                let link = if meta.is_symlink() {
                    fs::read_link(&path).unwrap()
                } else {
                    PathBuf::new()
                };
                let mut names = vec![0; 4096];
                let length = rustix::fs::llistxattr(&path, &mut names).unwrap();
                names.truncate(length);
                let values: Vec<_> = names
                    .split(|byte| *byte == 0)
                    .filter(|name| !name.is_empty())
                    .map(|name| {
                        let mut value = vec![0; 4096];
                        let length = rustix::fs::lgetxattr(&path, name, &mut value).unwrap();
                        value.truncate(length);
                        (name.to_vec(), value)
                    })
                    .collect();
                let size = if meta.is_dir() { 0 } else { meta.size() };
                let links = if meta.is_dir() { 0 } else { meta.nlink() };
                // Another file under the same name, as an upper folder would show it.
                let group = if links > 1 {
                    paths_of(root, meta.ino())
                } else {
                    Vec::new()
                };
                let rest = (meta.rdev(), meta.mtime(), meta.mtime_nsec(), size);
                Some((meta.mode(), meta.uid(), meta.gid(), rest, content, link, values, group))
            };
            if facts(parent) != facts(child) {
                let mut below = path.as_path();
                while let (Some(above), Some(name)) = (below.parent(), below.file_name()) {
                    touched.0.entry(above.to_owned()).or_default().push(name.to_owned());
                    below = above;
                }
            }
        }
        touched
    }
}

fn paths_of(root: &Path, inode: u64) -> Vec<PathBuf> {
    let same = |path: &PathBuf| fs::symlink_metadata(path).unwrap().ino() == inode;
    let own = |path: PathBuf| path.strip_prefix(root).unwrap().to_owned();
    paths(root).into_iter().filter(same).map(own).collect()
}

impl Scope for Touched {
    fn names(&self, path: &Path) -> plywood_store::Result<Candidates> {
        Ok(Candidates::Only(self.0.get(path).cloned().unwrap_or_default()))
    }
}

/// The whole promise for one pair of trees.
fn check_pair(dir: &Path, parent: &Path, child: &Path) {
    let tar = layer(Some(parent), child);
    assert!(tar == layer(Some(parent), child), "writing twice gives the same bytes");
    let thorough = Options {
        thorough: true,
        ..Options::default()
    };
    assert!(tar == layer_in(Some(parent), child, &Everything, &thorough));
    let touched = Touched::between(parent, child);
    assert!(
        tar == layer_in(Some(parent), child, &touched, &Options::default()),
        "a sound scope changes no byte"
    );
    let again = dir.join("again");
    copy(parent, &again);
    assert_eq!(digest(parent), digest(&again), "cp made a faithful copy");
    apply_to(&again, &tar);
    assert_eq!(digest(child), digest(&again), "apply(layer, parent) is the child");
    apply_to(&again, &tar);
    assert_eq!(digest(child), digest(&again), "and applying it twice changes nothing");
    fs::remove_dir_all(&again).unwrap();
    let base = dir.join("base");
    fs::create_dir(&base).unwrap();
    fs::set_permissions(&base, fs::Permissions::from_mode(0o755)).unwrap();
    apply_to(&base, &layer(None, child));
    assert_eq!(digest(child), digest(&base), "a base layer is the whole tree");
    assert_eq!(layer(Some(child), &base).len(), 1024, "no difference is an empty layer");
    fs::remove_dir_all(&base).unwrap();
}

fn seed(root: &Path, edits: &[Edit]) {
    fs::set_permissions(root, fs::Permissions::from_mode(0o755)).unwrap();
    for edit in edits {
        do_edit(root, edit);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, max_shrink_iters: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn root_random_edits_come_back(
        before in prop::collection::vec(edit(), 10..60),
        after in prop::collection::vec(edit(), 0..40),
    ) {
        let dir = folder();
        let (parent, child) = (dir.path().join("parent"), dir.path().join("child"));
        fs::create_dir(&parent).unwrap();
        seed(&parent, &before);
        copy(&parent, &child);
        for edit in &after {
            do_edit(&child, edit);
        }
        check_pair(dir.path(), &parent, &child);
    }
}

#[test]
fn root_a_name_like_a_whiteout_is_refused() {
    let dir = folder();
    fs::write(dir.path().join(".wh.x"), "").unwrap();
    let error = write_layer(
        None,
        &open(dir.path()).as_fd(),
        &Everything,
        &Options::default(),
        &mut Vec::new(),
    );
    let error = error.unwrap_err();
    assert!(error.to_string().contains(".wh.x"), "{error}");
}

/// A whiteout's name is longer than the file's that it hides, and so longer than a file's can be.
#[test]
fn root_the_longest_name_can_be_removed() {
    let (parent, child, built) = (folder(), folder(), folder());
    fs::write(parent.path().join("n".repeat(255)), "").unwrap();
    copy(parent.path(), built.path());
    let tar = layer(Some(parent.path()), child.path());
    apply_to(built.path(), &tar);
    assert_eq!(fs::read_dir(built.path()).unwrap().count(), 0);
}

#[test]
fn root_a_split_group_is_told_from_one() {
    let dir = folder();
    let (parent, child) = (dir.path().join("parent"), dir.path().join("child"));
    fs::create_dir(&parent).unwrap();
    fs::write(parent.join("a"), "same").unwrap();
    fs::hard_link(parent.join("a"), parent.join("b")).unwrap();
    fs::hard_link(parent.join("a"), parent.join("c")).unwrap();
    copy(&parent, &child);
    do_edit(&child, &Edit::Copied(1));
    check_pair(dir.path(), &parent, &child);
    let tar = layer(Some(&parent), &child);
    let mut reader = &*tar;
    let mut entries = plywood_store::layer::read::Reader::new(&mut reader, &Limits::default());
    let mut names = Vec::new();
    while let Some(entry) = entries.next_entry().unwrap() {
        names.push(entry.path.to_string_lossy().into_owned());
    }
    assert_eq!(names, ["a", "b", "c"]);
}

#[test]
fn root_changes_are_listed_as_docker_does() {
    let dir = folder();
    let (parent, child) = (dir.path().join("parent"), dir.path().join("child"));
    for path in ["d/gone/deep", "d/kept", "e"] {
        fs::create_dir_all(parent.join(path)).unwrap();
    }
    copy(&parent, &child);
    fs::remove_dir_all(child.join("d/gone")).unwrap();
    fs::create_dir(child.join("new")).unwrap();
    fs::write(child.join("new/file"), "").unwrap();
    fs::set_permissions(child.join("e"), fs::Permissions::from_mode(0o700)).unwrap();
    let mut list = Vec::new();
    let (parent, child) = (open(&parent), open(&child));
    changes(
        Some(&parent.as_fd()),
        &child.as_fd(),
        &Everything,
        &Options::default(),
        &mut |change| {
            let letter = match change.kind {
                ChangeKind::Added => 'A',
                ChangeKind::Changed => 'C',
                ChangeKind::Deleted => 'D',
            };
            list.push(format!("{letter} {}", change.path.display()));
            Ok(())
        },
    )
    .unwrap();
    assert_eq!(list, ["C d", "D d/gone", "C e", "A new", "A new/file"]);
}

#[test]
fn root_sockets_are_left_out_and_told() {
    let dir = folder();
    let socket = std::os::unix::net::UnixListener::bind(dir.path().join("s")).unwrap();
    let mut tar = Vec::new();
    let written = write_layer(
        None,
        &open(dir.path()).as_fd(),
        &Everything,
        &Options::default(),
        &mut tar,
    )
    .unwrap();
    drop(socket);
    assert_eq!(written.notes.len(), 1, "{:?}", written.notes);
    assert!(written.notes[0].contains('s'));
    let root_only = if fs::metadata(dir.path()).unwrap().mode() & 0o7777 == 0o755 {
        0
    } else {
        1
    };
    assert_eq!(written.entries, root_only);
}

#[test]
fn root_the_clamp_makes_times_equal_and_hides_touches() {
    let dir = folder();
    let (parent, child) = (dir.path().join("parent"), dir.path().join("child"));
    fs::create_dir(&parent).unwrap();
    fs::write(parent.join("touched"), "x").unwrap();
    fs::write(parent.join("old"), "x").unwrap();
    times(&parent.join("touched"), 2000, 0);
    times(&parent.join("old"), 500, 0);
    copy(&parent, &child);
    times(&child.join("touched"), 3000, 7);
    times(&child.join("old"), 600, 7);
    fs::write(child.join("new"), "x").unwrap();
    let options = Options {
        clamp_mtime: Some(1000),
        ..Options::default()
    };
    let tar = layer_in(Some(&parent), &child, &Everything, &options);
    let mut reader = &*tar;
    let mut entries = plywood_store::layer::read::Reader::new(&mut reader, &Limits::default());
    let mut found = Vec::new();
    while let Some(entry) = entries.next_entry().unwrap() {
        found.push((
            entry.path.display().to_string(),
            entry.mtime.seconds,
            entry.mtime.nanoseconds,
        ));
    }
    assert_eq!(found, [("new".to_owned(), 1000, 0), ("old".to_owned(), 600, 7)]);
}

#[test]
fn root_very_deep_trees_come_back() {
    let dir = folder();
    let tree = dir.path().join("tree");
    let mut path = tree.clone();
    for _ in 0..300 {
        path.push("dd");
    }
    fs::create_dir_all(&path).unwrap();
    fs::write(path.join("file"), "bottom").unwrap();
    fs::write(tree.join("dd/z"), "after the deep one").unwrap();
    fs::set_permissions(&tree, fs::Permissions::from_mode(0o755)).unwrap();
    let again = dir.path().join("again");
    fs::create_dir(&again).unwrap();
    apply_to(&again, &layer(None, &tree));
    assert_eq!(digest(&tree), digest(&again));
}

#[test]
fn root_the_umask_and_default_acls_do_not_show() {
    let dir = folder();
    let tree = dir.path().join("tree");
    fs::create_dir_all(tree.join("d")).unwrap();
    File::create(tree.join("d/f")).unwrap().write_all(b"x").unwrap();
    fs::set_permissions(tree.join("d/f"), fs::Permissions::from_mode(0o666)).unwrap();
    fs::set_permissions(&tree, fs::Permissions::from_mode(0o755)).unwrap();
    let tar = layer(None, &tree);
    let again = dir.path().join("again");
    fs::create_dir(&again).unwrap();
    xattr(&again, b"system.posix_acl_default", &acl(7));
    apply_to(&again, &tar);
    rustix::fs::lremovexattr(&again, "system.posix_acl_default").unwrap();
    fs::set_permissions(&again, fs::Permissions::from_mode(0o755)).unwrap();
    assert_eq!(digest(&tree), digest(&again));
}

/// A tar of plain entries: name, type flag, link target.
fn tar_of(entries: &[(&str, u8, &str)]) -> Vec<u8> {
    let mut tar = Vec::new();
    for (name, flag, link) in entries {
        let mut header = tar::Header::new_ustar();
        header.set_path(name).unwrap();
        header.as_old_mut().linkflag = [*flag];
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_mode(0o755);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1);
        header.set_size(0);
        header.set_cksum();
        tar.extend_from_slice(header.as_bytes());
    }
    tar.extend([0; 1024]);
    tar
}

/// A tree with files in folders, and a link to one of them.
fn lower(dir: &TempDir, name: &str) -> PathBuf {
    let root = dir.path().join(name);
    apply_to_new(
        &root,
        &[
            ("d", b'5', ""),
            ("d/old", b'0', ""),
            ("a", b'5', ""),
            ("a/link", b'2', "../d"),
        ],
    );
    root
}

fn apply_to_new(root: &Path, entries: &[(&str, u8, &str)]) {
    fs::create_dir(root).unwrap();
    apply_to(root, &tar_of(entries));
}

#[test]
fn root_a_folder_reached_through_a_link_keeps_its_time_when_the_link_goes() {
    let dir = folder();
    for (name, replaced) in [
        ("by a file", &[("a", b'0', "")][..]),
        ("by a folder", &[("a/link", b'5', ""), ("a/link/x", b'0', "")]),
        ("by a link to another", &[("a/link", b'2', ".")]),
    ] {
        let root = lower(&dir, name);
        let through: &[_] = &[("a/link/new", b'0', "")];
        apply_to(&root, &tar_of(&[through, replaced].concat()));
        assert!(root.join("d/new").exists());
        assert_eq!(fs::metadata(root.join("d")).unwrap().mtime(), 1, "{name}");
    }
}

#[test]
fn root_a_whiteout_after_what_lies_in_folders_of_nobodys_hides_none_of_it() {
    let dir = folder();
    let gone: &[_] = &[(".wh.d", b'0', "")];
    for (name, made) in [
        ("missing", ("d/m/n/new", b'0', "")),
        ("through a link", ("a/link/new", b'0', "")),
    ] {
        let root = lower(&dir, name);
        apply_to(&root, &tar_of(&[&[made], gone].concat()));
        assert!(root.join(made.0.replace("a/link", "d")).exists(), "{name}");
        assert!(!root.join("d/old").exists(), "{name}");
    }
}

#[test]
fn root_a_whiteout_in_a_folder_does_not_keep_the_folder() {
    let dir = folder();
    let (inner, outer) = (("d/.wh.old", b'0', ""), (".wh.d", b'0', ""));
    for (name, marks) in [("inner first", [inner, outer]), ("outer first", [outer, inner])] {
        let root = lower(&dir, name);
        apply_to(&root, &tar_of(&marks));
        assert!(!root.join("d").exists(), "{name}");
    }
}

/// So many long names that ext4 gives the folder an index of two levels, and what is left of it.
/// `PLYWOOD_TEST_NAMES=100000` takes a minute.
#[test]
fn root_a_folder_of_very_many_names_comes_back_and_goes() {
    let names = environment::number("PLYWOOD_TEST_NAMES").unwrap_or(10_000);
    let (child, built) = (folder(), folder());
    fs::create_dir(child.path().join("many")).unwrap();
    let name = |number: u32| format!("many/{number:0>200}");
    for number in 0..names {
        File::create(child.path().join(name(number))).unwrap();
    }
    apply_to(built.path(), &layer(None, child.path()));
    assert_eq!(digest(built.path()), digest(child.path()));
    for number in 1..names {
        fs::remove_file(child.path().join(name(number))).unwrap();
    }
    let removal = layer(Some(built.path()), child.path());
    apply_to(built.path(), &removal);
    assert_eq!(digest(built.path()), digest(child.path()));
}
