//! Volumes: thin devices, activated, formatted, mounted, given back.
//!
//! [`Volumes`] is what the thin driver needs of a pool beside its messages.
//! A volume is active only while somebody uses it: the first user makes its
//! device, the last one removes it. Users are counted by an flock on a file per
//! volume, shared to read, exclusive to write, so a killed user stops counting.

use std::collections::BTreeSet;
use std::fs::File;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use crate::delta::exceptions::Exceptions;
use crate::delta::source::BlockSource;
use crate::dm::classic::Status;
use crate::dm::direct::Direct;
use crate::dm::ext4::Checked;
use crate::dm::metadata::Held;
use crate::dm::pool::{ThinId, ThinPool};
use crate::dm::room::Gauge;
use crate::error::{Error, Result};

/// What a volume holds, which decides whether its device can be written at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// A committed layer: never written again.
    Layer,
    /// An active snapshot.
    Active,
    /// The store of a classic snapshot over a layer.
    Store {
        /// The layer's volume.
        origin: ThinId,
    },
}

/// Whether a mount may write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Together with other readers.
    ReadOnly,
    /// Alone.
    ReadWrite,
}

/// What a pool does with its volumes.
pub trait Volumes {
    /// Makes the new volume `id` an empty filesystem: its root directory 0755, 0:0, mtime 0, with nothing in it.
    ///
    /// # Errors
    /// The formatter's or the kernel's.
    fn format(&self, id: ThinId) -> Result<()>;

    /// Mounts a volume in this process's mount namespace.
    ///
    /// # Errors
    /// In use where somebody's use of it forbids this one.
    fn mount(&self, id: ThinId, content: Content, mode: Mode) -> Result<VolumeMount>;

    /// Makes a volume's bytes readable, without a mount. None where it has none: on a simulated pool.
    ///
    /// # Errors
    /// As for [`Volumes::mount`].
    fn open(&self, id: ThinId, content: Content) -> Result<Option<OpenVolume>>;

    /// Hands out the device of an active snapshot's volume that nobody uses, to be written as a whole; none where
    /// volumes are no devices.
    ///
    /// # Errors
    /// As for [`Volumes::mount`].
    fn device(&self, id: ThinId) -> Result<Option<VolumeDevice>>;

    /// Mounts a volume read-only at `target`, to stay when this process ends.
    ///
    /// # Errors
    /// As for [`Volumes::mount`].
    fn mount_at(&self, id: ThinId, content: Content, target: &std::path::Path) -> Result<()>;

    /// Undoes [`Volumes::mount_at`]; nothing to undo is a success.
    ///
    /// # Errors
    /// Where it is busy.
    fn unmount_at(&self, id: ThinId, target: &std::path::Path) -> Result<()>;

    /// Folds a store into the volume `target`, which is a snapshot of the store's origin; cut short, it goes on
    /// from where it was. `progress` is told the chunks of 4 KiB that are left and how many there were.
    ///
    /// # Errors
    /// No space where the pool filled up meanwhile; corrupt where the store cannot be read.
    fn fold(&self, store: &Claim, target: &Claim, progress: &mut dyn FnMut(u64, u64)) -> Result<()>;

    /// What the kernel says of an active store; none where it is not active.
    ///
    /// # Errors
    /// The kernel's.
    fn store_status(&self, id: ThinId) -> Result<Option<Status>>;

    /// Flushes a volume and holds its writes back, if it is active, until the guard lets go.
    ///
    /// # Errors
    /// The kernel's.
    fn quiesce(&self, id: ThinId) -> Result<Guard<'_>>;

    /// Takes a volume that nobody uses, so that nobody does while the claim lives.
    ///
    /// # Errors
    /// In use, saying by whom where that can be told.
    fn claim(&self, id: ThinId) -> Result<Claim>;

    /// Makes sure that a volume can be mounted read-only for ever: its journal empty, no write error recorded. Where
    /// its superblock `is_clean`, seen since it was last written, its device is not made for that.
    ///
    /// # Errors
    /// Corrupt where its filesystem saw an error: what it holds cannot be trusted.
    fn seal(&self, claim: &Claim, is_clean: bool) -> Result<()>;

    /// Whether something that was written to a volume could not be kept.
    ///
    /// # Errors
    /// The operating system's.
    fn has_lost_writes(&self, id: ThinId) -> Result<bool>;

    /// Gives back what a volume holds, before it is deleted.
    ///
    /// # Errors
    /// The kernel's.
    fn discard(&self, claim: &Claim) -> Result<()>;

    /// Forgets the lock of a volume that is deleted: its id is not handed out again.
    ///
    /// # Errors
    /// I/O.
    fn forget(&self, id: ThinId) -> Result<()>;

    /// Forgets the volumes that are neither `kept` nor in use. Only while no volume can be made.
    ///
    /// # Errors
    /// I/O.
    fn forget_others(&self, kept: &BTreeSet<u32>) -> Result<()>;

    /// Bytes of a volume that have blocks, shared ones included.
    ///
    /// # Errors
    /// The kernel's; not found where the pool has no such volume.
    fn mapped(&self, id: ThinId) -> Result<u64>;

    /// What a volume lies on, from its device down.
    ///
    /// # Errors
    /// The kernel's.
    fn describe(&self, id: ThinId, content: Content) -> Result<Vec<Part>>;

    /// Removes the devices that nobody uses, resumes what stayed suspended; a line for each.
    ///
    /// # Errors
    /// The kernel's.
    fn sweep(&self) -> Result<Vec<String>>;

    /// Refuses to begin work that writes into a nearly full pool, after growing it where it can grow.
    ///
    /// # Errors
    /// No space.
    fn ensure_room(&self) -> Result<()>;

    /// What tells how much room the pool has.
    fn gauge(&self) -> Option<Box<dyn Gauge>>;

    /// Verifies a claimed volume's filesystem; with `fix` puts it right.
    ///
    /// # Errors
    /// Where it cannot be read.
    fn check_filesystem(&self, claim: &Claim, content: Content, fix: bool) -> Result<Checked>;

    /// Takes back an exception store that the kernel has given up, once the pool has room. False where it was not.
    ///
    /// # Errors
    /// No space; where it cannot be written.
    fn revive(&self, store: &Claim, content: Content) -> Result<bool>;

    /// Notes that a volume does not hold what it should.
    ///
    /// # Errors
    /// I/O.
    fn distrust(&self, claim: &Claim) -> Result<()>;

    /// Forgets that something could not be kept: the filesystem was checked, and its owner told.
    ///
    /// # Errors
    /// I/O.
    fn forgive(&self, claim: &Claim) -> Result<()>;

    /// Every volume that the pool has, ascending.
    ///
    /// # Errors
    /// The kernel's.
    fn ids(&self) -> Result<Vec<ThinId>>;

    /// Holds the pool's metadata still, to read which blocks its volumes have; waits for others that do. Never asked
    /// for by who has the gate. None of a pool that has none.
    ///
    /// # Errors
    /// The kernel's; where the metadata cannot be written.
    fn hold_metadata(&self) -> Result<Option<Held<'_>>>;
}

/// The error for a volume of which something is missing.
pub fn lost(id: ThinId) -> Error {
    Error::corrupt(format!(
        "what was written to volume {id} could not all be kept: its pool was full or failing"
    ))
    .hinted("plywood pool repair checks its filesystem and says what is left; or remove it and do the work again")
}

/// A pool with all that the driver needs of it.
pub trait Pool: ThinPool + Volumes {}

impl<T: ThinPool + Volumes> Pool for T {}

/// One thing that a volume lies on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// `thin`, `dm`, `pool`, `loop`, `file`, `device`, `folder`.
    pub kind: &'static str,
    /// Its name, number or path.
    pub name: String,
    /// Its table line or the like.
    pub detail: Option<String>,
}

impl Part {
    /// A thing without detail.
    pub fn new(kind: &'static str, name: impl Into<String>) -> Self {
        Self {
            kind,
            name: name.into(),
            detail: None,
        }
    }

    /// The same thing with its detail.
    #[must_use]
    pub fn with(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }
}

/// A volume that is ours alone until this is dropped.
#[derive(Debug)]
pub struct Claim {
    id: ThinId,
    _lock: Option<File>,
}

impl Claim {
    /// A claim that `lock` proves.
    pub fn new(id: ThinId, lock: Option<File>) -> Self {
        Self { id, _lock: lock }
    }

    /// The volume.
    pub fn id(&self) -> ThinId {
        self.id
    }
}

/// A kernel step that must be undone. [`Guard::close`] undoes and reports; dropping it undoes and only logs.
#[must_use = "dropping it undoes the step"]
pub struct Guard<'a> {
    what: String,
    undo: Option<Box<dyn FnOnce() -> Result<()> + 'a>>,
}

impl std::fmt::Debug for Guard<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Guard({})", self.what)
    }
}

impl<'a> Guard<'a> {
    /// `what` names the undoing, for the log.
    pub fn new(what: impl Into<String>, undo: impl FnOnce() -> Result<()> + 'a) -> Self {
        Self {
            what: what.into(),
            undo: Some(Box::new(undo)),
        }
    }

    /// Nothing to undo.
    pub fn nothing() -> Self {
        Self {
            what: String::new(),
            undo: None,
        }
    }

    /// Undoes the step.
    ///
    /// # Errors
    /// The undoing's.
    pub fn close(mut self) -> Result<()> {
        match self.undo.take() {
            Some(undo) => undo(),
            None => Ok(()),
        }
    }

    /// Leaves the step as it is.
    pub fn keep(mut self) {
        self.undo = None;
    }
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        if let Some(undo) = self.undo.take()
            && let Err(error) = undo()
        {
            tracing::warn!("cannot {}: {error}", self.what);
        }
    }
}

/// A volume whose bytes can be read.
#[derive(Debug)]
pub struct OpenVolume {
    /// Its device.
    pub device: PathBuf,
    /// The device of its exception store and the bytes of that, where it has one.
    pub store: Option<(PathBuf, u64)>,
    /// Its bytes.
    pub size: u64,
    /// Deactivates.
    pub undo: Guard<'static>,
}

impl OpenVolume {
    /// The bytes that its exception store says are not the origin's, ascending; none where it has no store.
    ///
    /// # Errors
    /// Corrupt where the store is damaged or given up; what reading fails with.
    pub fn exceptions(&self) -> Result<Option<Vec<Range<u64>>>> {
        let Some((path, size)) = &self.store else {
            return Ok(None);
        };
        let exceptions = Exceptions::read(&Direct::open(path)?, *size, self.size)?;
        exceptions.changed().map(Some)
    }

    /// Deactivates.
    ///
    /// # Errors
    /// The kernel's.
    pub fn close(self) -> Result<()> {
        self.undo.close()
    }
}

/// A volume as a device.
#[derive(Debug)]
pub struct VolumeDevice {
    /// Where.
    pub path: PathBuf,
    /// Open to write.
    pub file: File,
    /// Syncs, closes, deactivates.
    pub undo: Guard<'static>,
}

/// A mounted volume.
#[derive(Debug)]
pub struct VolumeMount {
    /// Where.
    pub path: PathBuf,
    /// Its root directory.
    pub dir: OwnedFd,
    /// Syncs, unmounts, deactivates.
    pub undo: Guard<'static>,
}

impl VolumeMount {
    /// Syncs, unmounts, deactivates.
    ///
    /// # Errors
    /// Any failure to write back: then nothing that was written may be trusted.
    pub fn close(self) -> Result<()> {
        drop(self.dir);
        self.undo.close()
    }
}
