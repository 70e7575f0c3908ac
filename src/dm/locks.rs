//! Who uses which volume: one flock per volume, and a gate around taking and leaving it.
//!
//! The kernel lets one thin id be activated twice for writing; these locks do
//! not. A device is made and removed only inside the gate, so that the first
//! user and the last one are known for sure.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::dm::pool::ThinId;
use crate::error::{Context, Error, Kind, Result};

/// The locks of a root's volumes.
#[derive(Debug)]
pub struct Locks {
    folder: PathBuf,
}

/// Held around each activation and deactivation.
#[derive(Debug)]
pub struct Gate {
    _file: File,
}

/// How a volume could be taken.
#[derive(Debug)]
pub enum Taken {
    /// Nobody else uses it: exclusively, for now.
    Alone(File),
    /// Others read it too.
    Shared(File),
}

impl Locks {
    /// The locks in this folder, which exists.
    pub fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// Waits for the gate.
    ///
    /// # Errors
    /// The operating system's.
    pub fn gate(&self) -> Result<Gate> {
        let path = self.folder.join("gate");
        let file = open(&path)?;
        retry(|| flock(&file, FlockOperation::LockExclusive)).context("lock", &path)?;
        Ok(Gate { _file: file })
    }

    /// Takes a volume: alone if possible, else, where `share` allows it, with its readers.
    ///
    /// # Errors
    /// In use.
    pub fn take(&self, _gate: &Gate, id: ThinId, share: bool) -> Result<Taken> {
        let path = self.path(id);
        let file = open(&path)?;
        if attempt(&file, FlockOperation::NonBlockingLockExclusive).context("lock", &path)? {
            return Ok(Taken::Alone(file));
        }
        if share && attempt(&file, FlockOperation::NonBlockingLockShared).context("lock", &path)? {
            return Ok(Taken::Shared(file));
        }
        Err(Error::new(
            Kind::InUse,
            format!("the volume {id} is in use by another plywood process"),
        )
        .hinted("plywood ps shows what runs; try again when it has ended"))
    }

    /// Lets readers in beside us.
    ///
    /// # Errors
    /// The operating system's.
    pub fn share(&self, _gate: &Gate, id: ThinId, lock: &File) -> Result<()> {
        retry(|| flock(lock, FlockOperation::LockShared)).context("lock", self.path(id))
    }

    /// Whether this user is the last one, and then alone.
    ///
    /// # Errors
    /// The operating system's.
    pub fn is_last(&self, _gate: &Gate, id: ThinId, lock: &File) -> Result<bool> {
        attempt(lock, FlockOperation::NonBlockingLockExclusive).context("lock", self.path(id))
    }

    /// Forgets a volume that is deleted.
    pub fn forget(&self, _gate: &Gate, id: ThinId) {
        // One that stays costs an empty file: ids are not handed out twice.
        let _ = std::fs::remove_file(self.path(id));
    }

    fn path(&self, id: ThinId) -> PathBuf {
        self.folder.join(id.to_string())
    }
}

fn open(path: &std::path::Path) -> Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .context("open lock", path)
}

fn attempt(file: &File, operation: FlockOperation) -> rustix::io::Result<bool> {
    match retry(|| flock(file, operation)) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(error),
    }
}

fn retry(mut call: impl FnMut() -> rustix::io::Result<()>) -> rustix::io::Result<()> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            done => return done,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readers_share_and_writers_are_alone() {
        let folder = tempfile::tempdir().unwrap();
        let locks = Locks::new(folder.path().to_owned());
        let id = ThinId::new(7).unwrap();
        let gate = locks.gate().unwrap();
        let Taken::Alone(first) = locks.take(&gate, id, true).unwrap() else {
            panic!("the first is alone")
        };
        assert_eq!(locks.take(&gate, id, true).unwrap_err().kind(), Kind::InUse);
        locks.share(&gate, id, &first).unwrap();
        let Taken::Shared(second) = locks.take(&gate, id, true).unwrap() else {
            panic!("the second shares")
        };
        assert_eq!(locks.take(&gate, id, false).unwrap_err().kind(), Kind::InUse);
        assert!(!locks.is_last(&gate, id, &second).unwrap());
        drop((first, second));
        assert!(matches!(locks.take(&gate, id, true).unwrap(), Taken::Alone(_)));
    }
}
