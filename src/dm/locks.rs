//! Who uses which volume: one flock per volume, and a gate around taking and leaving it. And one for whose the
//! pool's metadata snapshot is.
//!
//! The kernel lets one thin id be activated twice for writing; these locks do
//! not. A device is made and removed only inside the gate, so that the first
//! user and the last one are known for sure.
//!
//! Beside the lock of a volume that is written lies `<id>.writer`: the boot in
//! which its writer began, or `failed` once something could not be written back.
//! It is removed when the writer closed well. The filesystem itself cannot keep
//! this: on a full pool its superblock cannot be written either.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
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

/// How the last writer of a volume ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Everything was written back.
    Well,
    /// The machine went down under it: its journal says what is left.
    WithTheMachine,
    /// It writes still, or was killed in this boot.
    Killed,
    /// Something could not be written back.
    Failed,
}

const FAILED: &str = "failed";
/// What the name of a writer's mark ends with.
const WRITER: &str = ".writer";

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

    /// Waits for the pool's metadata snapshot, of which there is one: it is ours until the file is dropped.
    ///
    /// # Errors
    /// The operating system's.
    pub fn metadata(&self) -> Result<File> {
        let path = self.folder.join("metadata");
        let file = open(&path)?;
        retry(|| flock(&file, FlockOperation::LockExclusive)).context("lock", &path)?;
        Ok(file)
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

    /// How the last writer of a volume ended.
    ///
    /// # Errors
    /// The operating system's.
    pub fn last_writer(&self, id: ThinId) -> Result<Ended> {
        let path = self.writer(id);
        let mark = match std::fs::read_to_string(&path) {
            Ok(mark) => mark,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Ended::Well),
            Err(error) => return Err(Error::io("read", path, error)),
        };
        Ok(match mark.trim() {
            FAILED => Ended::Failed,
            boot if boot == this_boot()? => Ended::Killed,
            _ => Ended::WithTheMachine,
        })
    }

    /// Notes that a volume is written from now on. A failure stays noted.
    ///
    /// # Errors
    /// The operating system's.
    pub fn begin_writing(&self, id: ThinId) -> Result<()> {
        if self.last_writer(id)? == Ended::Failed {
            return Ok(());
        }
        let path = self.writer(id);
        std::fs::write(&path, this_boot()?).context("write", path)
    }

    /// Notes, durably, that something could not be written back.
    ///
    /// # Errors
    /// The operating system's.
    pub fn writing_failed(&self, id: ThinId) -> Result<()> {
        let path = self.writer(id);
        std::fs::write(&path, FAILED)
            .and_then(|()| File::open(&path)?.sync_all())
            .and_then(|()| File::open(&self.folder)?.sync_all())
            .context("write", path)
    }

    /// Notes that everything was written back, unless a failure is noted.
    ///
    /// # Errors
    /// The operating system's.
    pub fn end_writing(&self, id: ThinId) -> Result<()> {
        match self.last_writer(id)? {
            Ended::Failed => Ok(()),
            _ => self.forget_writer(id),
        }
    }

    /// Forgets how a volume was written: its content goes.
    ///
    /// # Errors
    /// The operating system's.
    pub fn forget_writer(&self, id: ThinId) -> Result<()> {
        let path = self.writer(id);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(Error::io("remove", path, error)),
            _ => Ok(()),
        }
    }

    /// Forgets a volume that is deleted.
    ///
    /// # Errors
    /// The operating system's.
    pub fn forget(&self, _gate: &Gate, id: ThinId) -> Result<()> {
        self.forget_writer(id)?;
        let path = self.path(id);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(Error::io("remove", path, error)),
            _ => Ok(()),
        }
    }

    /// Forgets every volume but the `kept` ones and those in use: a deletion that was killed, or the
    /// power cut after it, may have left their files.
    ///
    /// # Errors
    /// The operating system's.
    pub fn forget_others(&self, gate: &Gate, kept: &BTreeSet<u32>) -> Result<()> {
        for entry in std::fs::read_dir(&self.folder).context("list", &self.folder)? {
            let name = entry.context("list", &self.folder)?.file_name();
            let number = name.to_str().map(|name| name.strip_suffix(WRITER).unwrap_or(name));
            let id = number.and_then(|number| number.parse().ok()).and_then(ThinId::new);
            let Some(id) = id.filter(|id| !kept.contains(&id.get())) else {
                continue;
            };
            if self.take(gate, id, false).is_ok() {
                self.forget(gate, id)?;
            }
        }
        Ok(())
    }

    fn writer(&self, id: ThinId) -> PathBuf {
        self.folder.join(format!("{id}{WRITER}"))
    }

    fn path(&self, id: ThinId) -> PathBuf {
        self.folder.join(id.to_string())
    }
}

/// Tells this boot of the machine from others.
fn this_boot() -> Result<String> {
    const PATH: &str = "/proc/sys/kernel/random/boot_id";
    let id = std::fs::read_to_string(PATH).context("read", PATH)?;
    Ok(id.trim().to_owned())
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

    #[test]
    fn a_failed_writer_is_remembered_until_the_content_goes() {
        let folder = tempfile::tempdir().unwrap();
        let locks = Locks::new(folder.path().to_owned());
        let id = ThinId::new(7).unwrap();
        assert_eq!(locks.last_writer(id).unwrap(), Ended::Well);
        locks.begin_writing(id).unwrap();
        assert_eq!(locks.last_writer(id).unwrap(), Ended::Killed);
        locks.end_writing(id).unwrap();
        assert_eq!(locks.last_writer(id).unwrap(), Ended::Well);
        std::fs::write(locks.writer(id), "another boot").unwrap();
        assert_eq!(locks.last_writer(id).unwrap(), Ended::WithTheMachine);
        locks.writing_failed(id).unwrap();
        locks.begin_writing(id).unwrap();
        locks.end_writing(id).unwrap();
        assert_eq!(locks.last_writer(id).unwrap(), Ended::Failed);
        locks.forget(&locks.gate().unwrap(), id).unwrap();
        assert_eq!(locks.last_writer(id).unwrap(), Ended::Well);
    }

    #[test]
    fn the_mark_of_a_volume_that_is_gone_goes_too() {
        let folder = tempfile::tempdir().unwrap();
        let locks = Locks::new(folder.path().to_owned());
        let [gone, kept, used] = [7, 8, 9].map(|id| ThinId::new(id).unwrap());
        for id in [gone, kept, used] {
            locks.begin_writing(id).unwrap();
        }
        let gate = locks.gate().unwrap();
        let _user = locks.take(&gate, used, false).unwrap();
        locks.forget_others(&gate, &BTreeSet::from([kept.get()])).unwrap();
        let mut names: Vec<_> = std::fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        names.sort();
        assert_eq!(names, ["8.writer", "9", "9.writer", "gate"]);
    }
}
