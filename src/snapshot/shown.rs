//! Mounts in the caller's own tree: what `plywood mount` shows, until it is undone or found gone.
//!
//! Record and mount come and go in one exclusive step each, so whoever holds the lock and
//! finds a record without its mount knows that somebody unmounted by hand, or that
//! the machine was restarted. A view has no other use than its mount: it is its
//! command's until it is mounted, and goes with the mount. A mount point of
//! plywood's own is there no longer than the record that names it.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use plywood_store::lock::Exclusive;
use plywood_store::record::SnapshotRecord;
use plywood_store::{Digest, Store};

use crate::error::{Context, Error, Kind, Result, undone};
use crate::explain::{quote, step};

/// Where mount points lie that the user did not name, under the root.
const POINTS: &str = "mounted";

/// Where the snapshot `key` is shown if the user names no folder.
///
/// # Errors
/// I/O.
pub fn point(store: &Store, key: &str) -> Result<PathBuf> {
    Ok(store.folder(POINTS)?.join(Digest::of(key.as_bytes()).short()))
}

/// Records that the snapshot is mounted at `target`, and mounts it.
pub(super) fn mount(
    store: &Store,
    lock: &Exclusive,
    snapshot: &SnapshotRecord,
    target: &Path,
    mount: impl FnOnce() -> Result<()>,
) -> Result<()> {
    if let Some(there) = &snapshot.mounted_at {
        return Err(Error::new(
            Kind::InUse,
            format!("snapshot {} is mounted at {}", snapshot.key, there.display()),
        )
        .hinted(format!("plywood umount {}", quote(there))));
    }
    let shown = SnapshotRecord {
        mounted_at: Some(target.to_owned()),
        // The mount outlives the command.
        lease: None,
        ..snapshot.clone()
    };
    // The record first: a mount that nobody knows of could not be swept.
    store.snapshots.put(lock, &shown)?;
    let mounted = make_point(store, target).and_then(|()| mount());
    mounted.map_err(|error| {
        remove_point(store, target);
        undone(error, store.snapshots.put(lock, snapshot))
    })
}

fn make_point(store: &Store, target: &Path) -> Result<()> {
    match is_ours(store, target) {
        true => std::fs::create_dir_all(target).context("make", target),
        false => Ok(()),
    }
}

/// A folder of the user's stays, and so does one in use.
fn remove_point(store: &Store, target: &Path) {
    if is_ours(store, target) {
        step(|| format!("rmdir {}", quote(target)));
        if let Err(error) = std::fs::remove_dir(target) {
            tracing::debug!("the mount point {} stays: {error}", target.display());
        }
    }
}

fn is_ours(store: &Store, target: &Path) -> bool {
    target.starts_with(store.root().join(POINTS))
}

/// Forgets that the snapshot is mounted; a view goes with its mount.
pub(super) fn forget(store: &Store, lock: &Exclusive, key: &str) -> Result<()> {
    let Some(snapshot) = store.snapshots.get(key)? else {
        return Ok(());
    };
    let Some(target) = &snapshot.mounted_at else {
        return Ok(());
    };
    remove_point(store, target);
    match snapshot.read_only {
        true => store.snapshots.remove(lock, key).map(drop),
        false => store.snapshots.put(
            lock,
            &SnapshotRecord {
                mounted_at: None,
                ..snapshot
            },
        ),
    }
}

/// Forgets what is not mounted any more, and gives those records as they were.
pub(super) fn sweep(store: &Store) -> Result<Vec<SnapshotRecord>> {
    let lock = store.exclusive()?;
    let mut gone = Vec::new();
    for snapshot in store.snapshots.list()? {
        if let Some(target) = &snapshot.mounted_at
            && mounted_at(target)?.is_none()
        {
            forget(store, &lock, &snapshot.key)?;
            gone.push(snapshot);
        }
    }
    lock.done()?;
    Ok(gone)
}

/// A line of `/proc/thread-self/mountinfo` (proc_pid_mountinfo(5)), as far as plywood needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct MountLine {
    /// Where it is mounted.
    pub(super) target: PathBuf,
    /// The filesystem's type.
    pub(super) kind: String,
    /// What was mounted.
    pub(super) source: String,
    /// The filesystem's own options.
    pub(super) options: String,
}

/// The mount on top at `target`, or none.
pub(super) fn mounted_at(target: &Path) -> Result<Option<MountLine>> {
    let path = "/proc/thread-self/mountinfo";
    let table = std::fs::read(path).context("read", path)?;
    let mut lines = table.split(|byte| *byte == b'\n').filter_map(parse_line);
    Ok(lines.rfind(|line| line.target == target))
}

/// Where process `pid` has mounted `source`, as it sees the path; none where it has not.
pub(super) fn mounted_by(pid: u32, source: &str) -> Result<Option<PathBuf>> {
    let path = format!("/proc/{pid}/mountinfo");
    let table = match std::fs::read(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        table => table.context("read", &path)?,
    };
    let mut lines = table.split(|byte| *byte == b'\n').filter_map(parse_line);
    Ok(lines.rfind(|line| line.source == source).map(|line| line.target))
}

fn parse_line(line: &[u8]) -> Option<MountLine> {
    let mut words = line.split(|byte| *byte == b' ');
    let target = unescape(words.nth(4)?);
    let mut words = words.skip_while(|word| *word != b"-").skip(1);
    let text = |word: &[u8]| String::from_utf8_lossy(&unescape(word)).into_owned();
    Some(MountLine {
        target: PathBuf::from(OsStr::from_bytes(&target)),
        kind: text(words.next()?),
        source: text(words.next()?),
        options: text(words.next()?),
    })
}

/// mountinfo writes blank, tab, newline and backslash as three octal digits.
fn unescape(word: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(word.len());
    let mut rest = word;
    while let Some((first, tail)) = rest.split_first() {
        let escaped = tail
            .get(..3)
            .filter(|_| *first == b'\\')
            .and_then(|octal| u8::from_str_radix(std::str::from_utf8(octal).ok()?, 8).ok());
        match escaped {
            Some(byte) => {
                plain.push(byte);
                rest = tail.get(3..).unwrap_or_default();
            }
            None => {
                plain.push(*first);
                rest = tail;
            }
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mountinfo_lines_are_taken_apart() {
        let line =
            parse_line(br"36 35 98:0 /mnt1 /mnt\0402 rw,noatime master:1 - overlay plywood-abcde rw,index=on").unwrap();
        assert_eq!(line.target, Path::new("/mnt 2"));
        assert_eq!(
            (line.kind.as_str(), line.source.as_str(), line.options.as_str()),
            ("overlay", "plywood-abcde", "rw,index=on")
        );
        for garbage in ["", "1 2 3", "36 35 98:0 / /x rw", r"36 35 98:0 / /x\9 rw - a"] {
            assert_eq!(parse_line(garbage.as_bytes()), None, "{garbage}");
        }
    }
}
