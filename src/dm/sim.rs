//! A simulated pool: volumes are folders, and every call can fail or crash.
//!
//! It behaves as the kernel's does where the driver can tell: ids are taken
//! once, the transaction id is compared and swapped, a volume that is used is
//! not claimed. On top of it every call that changes something counts, and
//! [`Faults`] says what goes wrong at the n-th. So the whole thin driver can be
//! brought to fail at every single step, without device-mapper.
//!
//! State lies in a folder and survives the process: `BASE/volumes/<id>/` and
//! `BASE/transaction`. Mounts are bind mounts, so tests need root.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use nix::mount::{MntFlags, MsFlags};
use rustix::fs::{Mode as FileMode, OFlags, Timespec, Timestamps};

use crate::dm::classic::Status;
use crate::dm::ext4::Checked;
use crate::dm::locks::{Ended, Locks, Taken};
use crate::dm::metadata::Held;
use crate::dm::pool::{ThinId, ThinPool};
use crate::dm::room::Gauge;
use crate::dm::sim_copy::copy_tree;
use crate::dm::status::{Need, PoolMode, PoolStatus};
use crate::dm::volume::{Claim, Content, Guard, Mode, OpenVolume, Part, VolumeDevice, VolumeMount, Volumes};
use crate::error::{Context, Error, Kind, Result};

const NAME: &str = "simulated";
/// Blocks of 64 KiB, and of metadata, that the pool pretends to have.
const TOTAL: u64 = 100_000;

static MOUNTS: AtomicU32 = AtomicU32::new(0);

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The call is refused and does nothing.
    Fail,
    /// The call does its work, and then reports a failure.
    FailAfter,
    /// The process is gone before the call: it panics with [`Crash`], and nothing after it works.
    Crash,
    /// The process is gone right after the call.
    CrashAfter,
    /// The call returns 0 and is lost: the status line shows `needs_check` and read-only.
    Lost,
}

/// What a simulated crash panics with.
#[derive(Debug)]
pub struct Crash;

/// Which call goes wrong, and how. Counts the calls that change something.
#[derive(Debug, Default)]
pub struct Faults {
    plan: Mutex<Option<(u32, Fault)>>,
    calls: AtomicU32,
    gone: AtomicBool,
}

impl Faults {
    /// At the `nth` call from now on (from 1), `fault`.
    pub fn at(nth: u32, fault: Fault) -> Self {
        Self {
            plan: Mutex::new(Some((nth, fault))),
            ..Self::default()
        }
    }

    /// How many calls there were.
    pub fn calls(&self) -> u32 {
        self.calls.load(Ordering::Relaxed)
    }

    /// Whether the fault has happened.
    pub fn has_struck(&self) -> bool {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner).is_none()
    }

    fn next(&self) -> Result<Option<Fault>> {
        if self.gone.load(Ordering::Relaxed) {
            return Err(Error::new(Kind::Io, "this process has crashed"));
        }
        let number = self.calls.fetch_add(1, Ordering::Relaxed) + 1;
        let mut plan = self.plan.lock().unwrap_or_else(PoisonError::into_inner);
        match *plan {
            Some((nth, fault)) if nth == number => {
                *plan = None;
                Ok(Some(fault))
            }
            _ => Ok(None),
        }
    }

    #[allow(clippy::panic, reason = "a simulated crash is a panic that the test catches")]
    fn crash(&self) -> ! {
        self.gone.store(true, Ordering::Relaxed);
        std::panic::panic_any(Crash)
    }
}

/// A pool in a folder.
#[derive(Debug, Clone)]
pub struct SimPool {
    base: PathBuf,
    locks: Arc<Locks>,
    faults: Arc<Faults>,
    /// Metadata was lost: read-only until the pool is opened again.
    broken: Arc<AtomicBool>,
}

impl SimPool {
    /// The pool in `base`, made where it is not there.
    ///
    /// # Errors
    /// The operating system's.
    pub fn open(base: &Path, faults: Arc<Faults>) -> Result<Self> {
        for name in ["volumes", "locks", "mnt"] {
            let path = base.join(name);
            fs::create_dir_all(&path).context("make", &path)?;
        }
        let locks = Arc::new(Locks::new(base.join("locks")));
        Ok(Self {
            base: base.to_owned(),
            locks,
            faults,
            broken: Arc::new(AtomicBool::new(false)),
        })
    }

    fn folder(&self, id: ThinId) -> PathBuf {
        self.base.join("volumes").join(id.to_string())
    }

    fn existing(&self, id: ThinId) -> Result<PathBuf> {
        let folder = self.folder(id);
        match folder.is_dir() {
            true => Ok(folder),
            false => Err(Error::not_found(format!("the pool {NAME} has no volume {id}"))),
        }
    }

    fn transaction(&self) -> Result<u64> {
        let path = self.base.join("transaction");
        match fs::read_to_string(&path) {
            Ok(text) => text
                .parse()
                .map_err(|_| Error::corrupt(format!("{} holds no number", path.display()))),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(0),
            Err(error) => Err(Error::io("read", path, error)),
        }
    }

    /// A call that changes something: what it does happens, or what the plan says instead.
    fn call<T>(&self, lost: T, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let failed = || Error::new(Kind::Io, "the simulated call failed");
        match self.faults.next()? {
            None => work(),
            Some(Fault::Fail) => Err(failed()),
            Some(Fault::FailAfter) => work().and(Err(failed())),
            Some(Fault::Crash) => self.faults.crash(),
            Some(Fault::CrashAfter) => {
                let _ = work();
                self.faults.crash()
            }
            Some(Fault::Lost) => {
                self.broken.store(true, Ordering::Relaxed);
                Ok(lost)
            }
        }
    }

    /// A message, with the status line before and after it.
    fn message<T>(&self, need: Need, lost: T, work: impl FnOnce() -> Result<T>) -> Result<T> {
        self.status()?.require(need, NAME)?;
        let answer = self.call(lost, work)?;
        self.status()?.require(need, NAME)?;
        Ok(answer)
    }

    /// A store's folder holds the whole tree, from its first mount on.
    fn begin_store(&self, id: ThinId, content: Content) -> Result<()> {
        let Content::Store { origin } = content else {
            return Ok(());
        };
        let folder = self.existing(id)?;
        if self.has_begun(id) {
            return Ok(());
        }
        fs::remove_dir(&folder).context("remove", &folder)?;
        copy_tree(&self.existing(origin)?, &folder)?;
        fs::write(self.mark(id), "").context("write", self.mark(id))
    }

    fn has_begun(&self, store: ThinId) -> bool {
        self.mark(store).exists()
    }

    /// Says that a store is no longer empty.
    fn mark(&self, id: ThinId) -> PathBuf {
        self.folder(id).with_extension("store")
    }

    fn take(&self, id: ThinId, mode: Mode) -> Result<File> {
        let gate = self.locks.gate()?;
        match self.locks.take(&gate, id, mode == Mode::ReadOnly)? {
            Taken::Shared(lock) => Ok(lock),
            Taken::Alone(lock) => {
                if mode == Mode::ReadOnly {
                    self.locks.share(&gate, id, &lock)?;
                }
                Ok(lock)
            }
        }
    }
}

impl ThinPool for SimPool {
    fn create_thin(&self, id: ThinId) -> Result<()> {
        self.message(Need::Space, (), || {
            let folder = self.folder(id);
            match fs::create_dir(&folder) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => Err(taken(id)),
                done => done.context("make", &folder),
            }
        })
    }

    fn create_snap(&self, id: ThinId, origin: ThinId) -> Result<()> {
        self.message(Need::Space, (), || {
            let from = self.existing(origin)?;
            if self.folder(id).exists() {
                return Err(taken(id));
            }
            copy_tree(&from, &self.folder(id))?;
            match self.has_begun(origin) {
                true => fs::write(self.mark(id), "").context("write", self.mark(id)),
                false => Ok(()),
            }
        })
    }

    fn delete(&self, id: ThinId) -> Result<bool> {
        self.message(Need::Metadata, true, || match fs::remove_dir_all(self.folder(id)) {
            Ok(()) => {
                let _ = fs::remove_file(self.mark(id));
                Ok(true)
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(Error::io("remove", self.folder(id), error)),
        })
    }

    fn set_transaction_id(&self, from: u64, to: u64) -> Result<()> {
        self.message(Need::Metadata, (), || {
            let now = self.transaction()?;
            if now != from {
                return Err(Error::invalid(format!("the transaction id is {now}, not {from}")));
            }
            // Whole at any moment: others look at it without the store's lock.
            let (path, new) = (self.base.join("transaction"), self.base.join("transaction.new"));
            fs::write(&new, to.to_string()).context("write", &new)?;
            fs::rename(&new, &path).context("rename", &path)
        })?;
        match self.transaction()? {
            now if now == to => Ok(()),
            now => Err(Error::corrupt(format!("the transaction id is {now} instead of {to}"))),
        }
    }

    fn reserve_metadata_snap(&self) -> Result<u64> {
        Ok(0)
    }

    fn release_metadata_snap(&self) -> Result<()> {
        Ok(())
    }

    fn status(&self) -> Result<PoolStatus> {
        let broken = self.broken.load(Ordering::Relaxed);
        Ok(PoolStatus {
            transaction_id: self.transaction()?,
            metadata_used: 0,
            metadata_total: TOTAL,
            data_used: 0,
            data_total: TOTAL,
            held_root: None,
            mode: if broken {
                PoolMode::ReadOnly
            } else {
                PoolMode::ReadWrite
            },
            discard_passdown: true,
            error_if_no_space: true,
            needs_check: broken,
            metadata_low_water: None,
        })
    }
}

impl Volumes for SimPool {
    fn format(&self, id: ThinId) -> Result<()> {
        self.call((), || {
            let folder = self.existing(id)?;
            fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).context("set the mode of", &folder)?;
            let dir = rustix::fs::open(&folder, OFlags::DIRECTORY | OFlags::CLOEXEC, FileMode::empty())
                .context("open", &folder)?;
            let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
            rustix::fs::futimens(
                &dir,
                &Timestamps {
                    last_access: zero,
                    last_modification: zero,
                },
            )
            .context("set the times of", &folder)
        })
    }

    fn mount(&self, id: ThinId, content: Content, mode: Mode) -> Result<VolumeMount> {
        let lock = self.take(id, mode)?;
        self.begin_store(id, content)?;
        let folder = self.existing(id)?;
        let number = MOUNTS.fetch_add(1, Ordering::Relaxed);
        let path = self.base.join("mnt").join(format!("{}-{number}", std::process::id()));
        fs::create_dir(&path).context("make", &path)?;
        bind(&folder, &path, mode)?;
        let dir =
            rustix::fs::open(&path, OFlags::DIRECTORY | OFlags::CLOEXEC, FileMode::empty()).context("open", &path)?;
        let target = path.clone();
        let undo = Guard::new("unmount", move || {
            nix::mount::umount2(&target, MntFlags::UMOUNT_NOFOLLOW).context("unmount", &target)?;
            fs::remove_dir(&target).context("remove", &target)?;
            drop(lock);
            Ok(())
        });
        Ok(VolumeMount { path, dir, undo })
    }

    fn open(&self, _id: ThinId, _content: Content) -> Result<Option<OpenVolume>> {
        Ok(None)
    }

    fn device(&self, _id: ThinId) -> Result<Option<VolumeDevice>> {
        Ok(None)
    }

    fn mount_at(&self, id: ThinId, content: Content, target: &Path) -> Result<()> {
        let _lock = self.take(id, Mode::ReadOnly)?;
        self.begin_store(id, content)?;
        bind(&self.existing(id)?, target, Mode::ReadOnly)
    }

    fn unmount_at(&self, _id: ThinId, target: &Path) -> Result<()> {
        match nix::mount::umount2(target, MntFlags::UMOUNT_NOFOLLOW) {
            Err(nix::errno::Errno::EINVAL | nix::errno::Errno::ENOENT) => Ok(()),
            done => done.context("unmount", target),
        }
    }

    fn fold(&self, store: &Claim, target: &Claim, progress: &mut dyn FnMut(u64, u64)) -> Result<()> {
        self.call((), || {
            if self.has_begun(store.id()) {
                let folder = self.existing(target.id())?;
                fs::remove_dir_all(&folder).context("remove", &folder)?;
                copy_tree(&self.existing(store.id())?, &folder)?;
            }
            progress(0, 1);
            Ok(())
        })
    }

    fn store_status(&self, store: ThinId) -> Result<Option<Status>> {
        Ok(self.has_begun(store).then_some(Status::Unknown))
    }

    fn quiesce(&self, _id: ThinId) -> Result<Guard<'_>> {
        Ok(Guard::nothing())
    }

    fn claim(&self, id: ThinId) -> Result<Claim> {
        Ok(Claim::new(id, Some(self.take(id, Mode::ReadWrite)?)))
    }

    fn forget(&self, id: ThinId) -> Result<()> {
        self.locks.forget(&self.locks.gate()?, id)
    }

    fn forget_others(&self, kept: &BTreeSet<u32>) -> Result<()> {
        self.locks.forget_others(&self.locks.gate()?, kept)
    }

    fn seal(&self, _claim: &Claim, _is_clean: bool) -> Result<()> {
        self.call((), || Ok(()))
    }

    fn has_lost_writes(&self, id: ThinId) -> Result<bool> {
        Ok(self.locks.last_writer(id)? == Ended::Failed)
    }

    fn discard(&self, claim: &Claim) -> Result<()> {
        // Like a discard that was cut short: half of the content may be gone.
        self.call((), || {
            // What says that there is something to fold goes first.
            let _ = fs::remove_file(self.mark(claim.id()));
            match fs::read_dir(self.folder(claim.id())) {
                Ok(entries) => {
                    for entry in entries.flatten().take(1) {
                        let _ = fs::remove_file(entry.path());
                    }
                    Ok(())
                }
                Err(_) => Ok(()),
            }
        })
    }

    fn mapped(&self, id: ThinId) -> Result<u64> {
        fn blocks(folder: &Path) -> std::io::Result<u64> {
            let mut sum = 0;
            for entry in fs::read_dir(folder)? {
                let entry = entry?;
                let meta = entry.metadata()?;
                sum += meta.blocks() * 512;
                if meta.is_dir() {
                    sum += blocks(&entry.path())?;
                }
            }
            Ok(sum)
        }
        let folder = self.existing(id)?;
        blocks(&folder).context("measure", &folder)
    }

    fn describe(&self, id: ThinId, _content: Content) -> Result<Vec<Part>> {
        Ok(vec![
            Part::new("thin", id.to_string()),
            Part::new("folder", self.existing(id)?.display().to_string()),
        ])
    }

    fn sweep(&self) -> Result<Vec<String>> {
        Ok(Vec::new())
    }

    fn check_filesystem(&self, claim: &Claim, _content: Content, _fix: bool) -> Result<Checked> {
        // A folder is on a filesystem that is not ours.
        self.call(Checked::Clean, || self.existing(claim.id()).map(|_| Checked::Clean))
    }

    fn revive(&self, _store: &Claim, _content: Content) -> Result<bool> {
        Ok(false)
    }

    fn distrust(&self, claim: &Claim) -> Result<()> {
        self.locks.writing_failed(claim.id())
    }

    fn forgive(&self, claim: &Claim) -> Result<()> {
        self.locks.forget_writer(claim.id())
    }

    fn ensure_room(&self) -> Result<()> {
        self.status()?.require(Need::Space, NAME)
    }

    fn gauge(&self) -> Option<Box<dyn Gauge>> {
        None
    }

    fn ids(&self) -> Result<Vec<ThinId>> {
        let folder = self.base.join("volumes");
        let mut ids = Vec::new();
        for entry in fs::read_dir(&folder).context("list", &folder)?.flatten() {
            ids.extend(
                entry
                    .file_name()
                    .to_str()
                    .and_then(|name| name.parse().ok())
                    .and_then(ThinId::new),
            );
        }
        ids.sort();
        Ok(ids)
    }

    fn hold_metadata(&self) -> Result<Option<Held<'_>>> {
        Ok(None)
    }
}

fn taken(id: ThinId) -> Error {
    Error::new(Kind::Exists, format!("the pool {NAME} has a volume {id} already"))
}

fn bind(folder: &Path, target: &Path, mode: Mode) -> Result<()> {
    let mount =
        |flags| nix::mount::mount(Some(folder), target, None::<&str>, flags, None::<&str>).context("mount", target);
    mount(MsFlags::MS_BIND)?;
    match mode {
        Mode::ReadWrite => Ok(()),
        Mode::ReadOnly => mount(MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY),
    }
}
