//! Debian's base system, made of its packages once and kept: it takes longer than most of what is done with it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::fs::{FlockOperation, flock};

/// The tar of a Debian 12 with `apt-get`, in the folder that cargo gives tests to keep things in.
pub fn debian_tar() -> PathBuf {
    let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join("debian-12.tar");
    // Whoever comes second waits, and finds it made.
    let lock = File::create(kept.with_extension("lock")).expect("a file");
    flock(&lock, FlockOperation::LockExclusive).expect("a lock");
    if !kept.exists() {
        let part = kept.with_extension("part.tar");
        let made = Command::new("mmdebstrap")
            .args(["--quiet", "--variant=minbase", "bookworm"])
            .arg(&part)
            .stdin(Stdio::null())
            .status()
            .expect("mmdebstrap starts");
        assert!(made.success(), "this machine reaches Debian's packages");
        fs::rename(part, &kept).expect("a name");
    }
    kept
}
