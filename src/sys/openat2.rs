//! openat2(2), for names that are not trusted.
//!
//! The kernel gives EAGAIN where it could not tell whether `..` led out, because something was renamed or mounted
//! meanwhile, anywhere on the machine: the same call again tells.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::path::Arg;

/// How often the call is made again.
const RETRIES: usize = 128;

/// Opens what is there at `path` below `root`, and makes nothing.
///
/// # Errors
/// The kernel's.
pub fn open(root: impl AsFd, path: impl Arg + Copy, flags: OFlags, resolve: ResolveFlags) -> Result<OwnedFd, Errno> {
    for _ in 0..RETRIES {
        match rustix::fs::openat2(&root, path, flags, Mode::empty(), resolve) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            done => return done,
        }
    }
    Err(Errno::AGAIN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};

    #[test]
    fn what_is_renamed_elsewhere_disturbs_nobody() {
        let (here, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::create_dir(here.path().join("a")).unwrap();
        let root = std::fs::File::open(here.path()).unwrap();
        let (one, other) = (elsewhere.path().join("one"), elsewhere.path().join("other"));
        std::fs::write(&one, "").unwrap();
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    std::fs::rename(&one, &other).unwrap();
                    std::fs::rename(&other, &one).unwrap();
                    std::thread::sleep(std::time::Duration::from_micros(10));
                }
            });
            let path = "a/../".repeat(100);
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let opened: Vec<_> = (0..20_000)
                .filter_map(|_| open(&root, path.as_str(), flags, ResolveFlags::IN_ROOT).err())
                .collect();
            is_over.store(true, Ordering::Relaxed);
            assert_eq!(opened, []);
        });
    }
}
