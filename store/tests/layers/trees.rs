//! Trees on a real filesystem: what is in them, what they are to become, and the layers between them.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use plywood_store::Digest;
use plywood_store::layer::apply::apply;
use plywood_store::layer::diff::{Everything, Options, Scope, write_layer};
use plywood_store::layer::folder::Folder;
use plywood_store::layer::{Limits, tree};
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, XattrFlags};
use tempfile::TempDir;

/// A folder on a filesystem that has everything a layer can carry; every user of it is root.
pub fn folder() -> TempDir {
    assert!(rustix::process::geteuid().is_root(), "these tests need root");
    tempfile::tempdir().unwrap()
}

/// A handle of a folder.
pub fn open(path: &Path) -> File {
    File::open(path).unwrap()
}

/// What a tree is, in every attribute.
pub fn digest(root: &Path) -> Digest {
    tree::digest(&open(root).as_fd()).unwrap()
}

/// The layer that makes `child` of `parent`, of what `scope` says.
pub fn layer_in(parent: Option<&Path>, child: &Path, scope: &dyn Scope, options: &Options) -> Vec<u8> {
    let mut tar = Vec::new();
    let parent = parent.map(open);
    let parent = parent.as_ref().map(AsFd::as_fd);
    let parent = parent.as_ref().map(|parent| parent as &dyn Folder);
    write_layer(parent, &open(child).as_fd(), scope, options, &mut tar).unwrap();
    tar
}

/// The layer that makes `child` of `parent`, or of nothing.
pub fn layer(parent: Option<&Path>, child: &Path) -> Vec<u8> {
    layer_in(parent, child, &Everything, &Options::default())
}

/// Applies a layer.
pub fn apply_to(root: &Path, tar: &[u8]) {
    apply(open(root).as_fd(), &mut &*tar, &Limits::default()).unwrap();
}

/// A faithful copy, made by another hand than ours.
pub fn copy(from: &Path, to: &Path) {
    let status = std::process::Command::new("cp")
        .args(["-a", "--preserve=all", "--sparse=always", "-T"])
        .args([from, to])
        .status()
        .unwrap();
    assert!(status.success());
}

/// All paths of a tree but its root, in a fixed order.
pub fn paths(root: &Path) -> Vec<PathBuf> {
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

/// Sets an extended attribute, where it can be set.
pub fn xattr(path: &Path, name: &[u8], value: &[u8]) {
    // Some kinds of file refuse some of them.
    let _ = rustix::fs::lsetxattr(path, name, value, XattrFlags::empty());
}

/// An ACL with one named user, as the kernel takes it (version 2, little endian).
pub fn acl(user: u32) -> Vec<u8> {
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

/// Sets the times of a file, or of a link itself.
pub fn times(path: &Path, seconds: i64, nanoseconds: i64) {
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
