//! What an escape would change: the kernel's switches, the host's mounts, its
//! descriptors' count, and device-mapper's tables.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Values of `/proc/sys` that change by themselves, and those of a network that others change.
const RESTLESS: [&str; 12] = [
    "net",
    "fs/dentry-state",
    "fs/file-nr",
    "fs/inode-nr",
    "fs/inode-state",
    "fs/quota",
    "fs/aio-nr",
    "kernel/ns_last_pid",
    "kernel/perf_event_max_sample_rate",
    "kernel/pty/nr",
    "kernel/random",
    "kernel/tainted",
];

/// The host as it was.
#[derive(Debug, PartialEq, Eq)]
pub struct Oracle {
    switches: BTreeMap<PathBuf, Vec<u8>>,
    mounts: String,
    tables: String,
}

impl Oracle {
    /// The host as it is, seen from a mount namespace of this thread's own, into which nobody else mounts.
    pub fn new() -> Self {
        plywood::sys::mount::enter_private_namespace().unwrap();
        Self::now()
    }

    fn now() -> Self {
        let mut switches = BTreeMap::new();
        read(Path::new("/proc/sys"), &mut switches);
        assert!(switches.contains_key(Path::new("/proc/sys/kernel/core_pattern")));
        let tables = match Path::new("/dev/mapper/control").exists() {
            true => Command::new("dmsetup").arg("table").output().unwrap().stdout,
            false => Vec::new(),
        };
        Self {
            switches,
            mounts: fs::read_to_string("/proc/thread-self/mountinfo").unwrap(),
            tables: String::from_utf8(tables).unwrap(),
        }
    }

    /// Wants the host as it was.
    #[track_caller]
    pub fn check(&self, after: &str) {
        let now = Self::now();
        let changed = now
            .switches
            .iter()
            .filter(|(path, value)| self.switches.get(*path) != Some(*value));
        let changed: Vec<_> = changed.collect();
        assert!(changed.is_empty(), "{after}: {changed:?}");
        assert_eq!(*self, now, "{after}");
    }
}

/// Reads what can be read below `folder`.
fn read(folder: &Path, into: &mut BTreeMap<PathBuf, Vec<u8>>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let name = path.strip_prefix("/proc/sys").unwrap();
        if RESTLESS.iter().any(|restless| name == Path::new(restless)) {
            continue;
        }
        if entry.file_type().unwrap().is_dir() {
            read(&path, into);
        } else if let Ok(value) = fs::read(&path) {
            into.insert(path, value);
        }
    }
}
