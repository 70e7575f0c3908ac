//! The store's lock: shared to read, exclusive for the short steps that change.
//!
//! Long work (unpack, diff, compress) holds none. [`Exclusive`] is the proof,
//! in a type, that a change is allowed: every method that changes a record
//! wants one.
//!
//! The lock is an flock on `ROOT/lock`: the kernel lets go of it when its
//! holder dies. Its holder's process id stands in the file, for messages only.
//! A thread that holds the exclusive lock may ask for the shared one (it has
//! it already); asking for the exclusive one twice is an error, not a hang.

use std::cell::RefCell;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{ErrorKind, Read};
use std::marker::PhantomData;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::FlockOperation;

use crate::durable;
use crate::error::Context;
use crate::{Error, Kind, Result};

/// How long to wait in silence before saying who is in the way.
const PATIENCE: Duration = Duration::from_secs(2);

thread_local! {
    /// The lock files that this thread holds exclusively, by device and inode.
    static HELD: RefCell<Vec<(u64, u64)>> = const { RefCell::new(Vec::new()) };
}

/// A held flock; released when dropped.
#[derive(Debug)]
struct Held {
    file: File,
    owner: u32,
    // The thread that took it is the one that `HELD` knows: it may not move.
    stays: PhantomData<*const ()>,
}

impl Held {
    fn take(path: &Path, exclusive: bool) -> Result<Self> {
        let file = open(path)?;
        let (try_it, wait) = if exclusive {
            (FlockOperation::NonBlockingLockExclusive, FlockOperation::LockExclusive)
        } else {
            (FlockOperation::NonBlockingLockShared, FlockOperation::LockShared)
        };
        if !durable::try_flock(&file, try_it).context("lock", path)? {
            wait_for(&file, wait, path)?;
        }
        Ok(Self {
            file,
            owner: std::process::id(),
            stays: PhantomData,
        })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // A forked child shares the lock; closing its copy must not release the parent's.
        if self.owner == std::process::id()
            && let Err(error) = durable::flock(&self.file, FlockOperation::Unlock)
        {
            tracing::debug!("cannot unlock the store: {error}");
        }
    }
}

fn open(path: &Path) -> Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .context("open lock", path)
}

/// Waits, and says who is in the way when it takes long.
fn wait_for(file: &File, how: FlockOperation, path: &Path) -> Result<()> {
    let (taken, waiting) = std::sync::mpsc::channel::<()>();
    std::thread::scope(|threads| {
        threads.spawn(move || {
            if waiting.recv_timeout(PATIENCE) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                tracing::info!("waiting for {}, which {} holds", path.display(), holder(path));
            }
        });
        let result = durable::flock(file, how).context("lock", path);
        drop(taken);
        result
    })
}

/// Who holds the lock, as well as the lock file tells.
fn holder(path: &Path) -> String {
    let mut pid = String::new();
    let read = File::open(path).and_then(|file| file.take(16).read_to_string(&mut pid));
    match (read, pid.trim().parse::<u32>()) {
        (Ok(_), Ok(pid)) => match std::fs::read_to_string(format!("/proc/{pid}/comm")) {
            Ok(name) => format!("process {pid} ({})", name.trim()),
            Err(_) => "another process".to_owned(),
        },
        _ => "another process".to_owned(),
    }
}

/// Holds the shared lock until dropped: nothing changes meanwhile.
#[derive(Debug)]
pub struct Shared {
    _held: Option<Held>,
}

impl Shared {
    /// Waits for the lock file at `path`.
    pub(crate) fn take(path: &Path) -> Result<Self> {
        let held = if held_by_this_thread(path)? {
            None
        } else {
            Some(Held::take(path, false)?)
        };
        Ok(Self { _held: held })
    }
}

fn identity(file: &Metadata) -> (u64, u64) {
    (file.dev(), file.ino())
}

fn held_by_this_thread(path: &Path) -> Result<bool> {
    match path.metadata() {
        Ok(file) => Ok(HELD.with_borrow(|held| held.contains(&identity(&file)))),
        // Nobody has taken it yet.
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(Error::io("look at lock", path, error)),
    }
}

/// Holds the exclusive lock until dropped: this process alone changes records.
#[derive(Debug)]
pub struct Exclusive {
    root: PathBuf,
    identity: (u64, u64),
    _held: Held,
}

impl Exclusive {
    /// Waits for the lock file of the store at `root`.
    pub(crate) fn take(root: &Path) -> Result<Self> {
        let path = root.join("lock");
        if held_by_this_thread(&path)? {
            return Err(Error::new(
                Kind::InUse,
                format!("{} is held by this very thread", path.display()),
            ));
        }
        let held = Held::take(&path, true)?;
        let pid = format!("{:<15}\n", std::process::id());
        if let Err(error) = held.file.write_all_at(pid.as_bytes(), 0) {
            tracing::debug!("cannot write the process id into the lock: {error}");
        }
        let identity = identity(&held.file.metadata().context("look at lock", &path)?);
        HELD.with_borrow_mut(|held| held.push(identity));
        Ok(Self {
            root: root.to_owned(),
            identity,
            _held: held,
        })
    }

    /// Notes which record is about to change, for the index.
    pub(crate) fn note(&self, folder: &str, key: &str) -> Result<()> {
        crate::index::note(&self.root, folder, key)
    }

    /// Lets go of the lock. What changed is durable already; the index catches up
    /// by itself when it is next asked.
    ///
    /// # Errors
    /// None today; a lock that cannot be released would be one.
    pub fn done(self) -> Result<()> {
        Ok(())
    }
}

impl Drop for Exclusive {
    fn drop(&mut self) {
        HELD.with_borrow_mut(|held| held.retain(|one| *one != self.identity));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};

    #[test]
    fn exclusive_excludes_threads_and_shared_does_not() {
        let root = tempfile::tempdir().unwrap();
        let lock = root.path().join("lock");
        let first = Shared::take(&lock).unwrap();
        let second = Shared::take(&lock).unwrap();
        let entered = AtomicBool::new(false);
        std::thread::scope(|threads| {
            let writer = threads.spawn(|| {
                let _lock = Exclusive::take(root.path()).unwrap();
                entered.store(true, Ordering::SeqCst);
            });
            std::thread::sleep(Duration::from_millis(50));
            assert!(!entered.load(Ordering::SeqCst));
            drop((first, second));
            writer.join().unwrap();
        });
        assert!(entered.load(Ordering::SeqCst));
    }

    #[test]
    fn a_thread_that_holds_the_lock_does_not_wait_for_itself() {
        let root = tempfile::tempdir().unwrap();
        let lock = Exclusive::take(root.path()).unwrap();
        Shared::take(&root.path().join("lock")).unwrap();
        assert_eq!(Exclusive::take(root.path()).unwrap_err().kind(), Kind::InUse);
        drop(lock);
        Exclusive::take(root.path()).unwrap();
    }
}
