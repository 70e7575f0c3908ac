//! A running container that holds still, for `commit`.
//!
//! Who reads it has the flock `locks/still-<id>`, taken before it is frozen and gone after it is thawed. While
//! that is held the container's plywood keeps its filesystem mounted ([`wait_for_release`]), and nobody else
//! works on the container ([`hold::try_take`]). A killed reader leaves the file: the next command thaws the
//! container that it names ([`sweep`]).

use std::cell::Cell;
use std::fs::File;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use plywood_store::record::ContainerRecord;
use plywood_store::{Store, durable};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use crate::commands::container;
use crate::commands::hold::{self, Hold};
use crate::commands::live::Live;
use crate::error::{Context, Error, Kind, Result, both};
use crate::exec::cgroup::Freezer;
use crate::exec::state;
use crate::explain::{quote, step};

/// The lock file of who reads a running container is called this and its id.
const LOCK: &str = "still-";
/// How long another commit of the same container is waited for, and how often it is looked.
const PATIENCE: Duration = Duration::from_secs(600);
const PAUSE: Duration = Duration::from_millis(10);
/// What would end plywood while the container is frozen.
const HELD_BACK: [Signal; 4] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT];

/// A running container that one process reads. [`Still::release`] lets it go and reports; dropping it only logs.
#[derive(Debug)]
pub struct Still<'a> {
    store: &'a Store,
    live: Live,
    holder: u32,
    freezer: Option<Freezer>,
    lock: Option<Hold>,
    signals: HeldBack,
    /// Could not be thawed: the lock file stays for the next command.
    is_stuck: Cell<bool>,
}

impl<'a> Still<'a> {
    /// Takes the running container for itself; with `pause` it can be frozen. None where it does not run.
    ///
    /// # Errors
    /// In use where another process reads it for too long; invalid where this machine cannot freeze it.
    pub fn take(store: &'a Store, record: &ContainerRecord, pause: bool) -> Result<Option<Self>> {
        let signals = HeldBack::hold()?;
        let lock = wait_for_lock(store, record, &signals)?;
        // The lock first, then the look: a container whose command ends from here on waits for us.
        let live = match store.containers.get(&record.id)?.map(Live::of).transpose()? {
            Some(Ok(live)) => live,
            _ => {
                forget(store, &record.id, lock)?;
                return Ok(None);
            }
        };
        let Some(holder) = state::parent(live.pid).filter(|_| state::is_alive(&live.record.state)) else {
            forget(store, &record.id, lock)?;
            return Ok(None);
        };
        let freezer = match pause.then(|| find(store, &live)).transpose() {
            Ok(freezer) => freezer,
            Err(error) => return both(Err(error), forget(store, &record.id, lock)),
        };
        Ok(Some(Self {
            store,
            live,
            holder,
            freezer,
            lock: Some(lock),
            signals,
            is_stuck: Cell::new(false),
        }))
    }

    /// The plywood that has mounted the container's filesystem.
    pub fn holder(&self) -> u32 {
        self.holder
    }

    /// Its record, as it runs.
    pub fn record(&self) -> &ContainerRecord {
        &self.live.record
    }

    /// Whether it can be read twice and be the same.
    pub fn is_paused(&self) -> bool {
        self.freezer.is_some()
    }

    /// Writes back what the container has written so far, so that little is left to do while it is frozen.
    ///
    /// # Errors
    /// Where something could not be written.
    pub fn write_back(&self) -> Result<()> {
        let root = format!("/proc/{}/root", self.live.pid);
        step(|| format!("sync -f {}", quote(&root)));
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = rustix::fs::open(&root, flags, Mode::empty());
        let synced = opened.and_then(rustix::fs::syncfs);
        match synced {
            // It has just ended: what its plywood reads then is whole.
            Err(Errno::NOENT | Errno::SRCH) => Ok(()),
            synced => synced.context("write back what is below", &root),
        }
    }

    /// Does it while the container stands still, if it is to.
    ///
    /// # Errors
    /// The work's; where a process does not stop; a failed thaw beside them.
    pub fn while_frozen<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let Some(freezer) = &self.freezer else { return work() };
        let begun = Instant::now();
        let frozen = freezer.freeze().map_err(|error| {
            let name = &self.live.record.name;
            Error::new(Kind::InUse, format!("container {name} cannot be frozen"))
                .caused_by(error)
                .hinted("a process of it may wait for a disk; --pause=false commits without freezing")
        });
        let done = both(frozen.and_then(|()| work()), self.thaw(freezer));
        tracing::debug!(elapsed = ?begun.elapsed(), "container {} stood still", self.live.record.name);
        done
    }

    fn thaw(&self, freezer: &Freezer) -> Result<()> {
        freezer.thaw().map_err(|error| {
            self.is_stuck.set(true);
            Error::invalid(format!("container {} cannot be thawed", self.live.record.name))
                .caused_by(error)
                .hinted("the next plywood command tries again")
        })
    }

    /// Whether a signal asks plywood to end; it comes when the container is let go.
    pub fn is_interrupted(&self) -> bool {
        self.signals.has_come()
    }

    /// Lets it go.
    ///
    /// # Errors
    /// Where the lock file cannot be removed.
    pub fn release(mut self) -> Result<()> {
        self.let_go()
    }

    fn let_go(&mut self) -> Result<()> {
        let lock = self.lock.take().filter(|_| !self.is_stuck.get());
        lock.map_or(Ok(()), |lock| forget(self.store, &self.live.record.id, lock))
    }
}

impl Drop for Still<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.let_go() {
            tracing::warn!("the next command lets the container go: {error}");
        }
    }
}

/// What freezes the container.
fn find(store: &Store, live: &Live) -> Result<Freezer> {
    let name = &live.record.name;
    let found = Freezer::of(&container::cgroup_name(store, &live.record.id))
        .map_err(|error| Error::invalid(format!("container {name} cannot be frozen")).caused_by(error))?;
    found.ok_or_else(|| {
        Error::invalid(format!(
            "container {name} cannot be frozen: neither cgroup v2 nor v1's freezer is mounted here"
        ))
        .hinted("--pause=false commits without freezing; plywood doctor says what this kernel has")
    })
}

fn file_name(id: &str) -> String {
    format!("{LOCK}{id}")
}

fn wait_for_lock(store: &Store, record: &ContainerRecord, signals: &HeldBack) -> Result<Hold> {
    let begun = Instant::now();
    loop {
        if let Some(lock) = hold::try_lock(store, &file_name(&record.id))? {
            return Ok(lock);
        }
        if begun.elapsed() > PATIENCE || signals.has_come() {
            return Err(Error::new(
                Kind::InUse,
                format!("another command is committing container {}", record.name),
            )
            .hinted("try again when it has ended"));
        }
        std::thread::sleep(PAUSE);
    }
}

fn forget(store: &Store, id: &str, lock: Hold) -> Result<()> {
    hold::forget_lock(store, &file_name(id), lock)
}

/// The lock file of who reads the container, if there is one.
fn lock_file(store: &Store, id: &str) -> Result<Option<File>> {
    let path = store.folder("locks")?.join(file_name(id));
    match File::open(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        opened => opened.map(Some).context("open", &path),
    }
}

/// Whether some process reads what a container has mounted.
///
/// # Errors
/// I/O.
pub fn is_read(store: &Store, id: &str) -> Result<bool> {
    let Some(file) = lock_file(store, id)? else {
        return Ok(false);
    };
    let free = durable::try_flock(&file, FlockOperation::NonBlockingLockShared);
    free.map(|free| !free).context("lock", file_name(id))
}

/// Waits until nobody reads a container any more, whose command has ended.
///
/// # Errors
/// I/O.
pub fn wait_for_release(store: &Store, id: &str) -> Result<()> {
    let Some(file) = lock_file(store, id)? else {
        return Ok(());
    };
    durable::flock(&file, FlockOperation::LockShared).context("lock", file_name(id))
}

/// Thaws the containers whose reader was killed; a line for each.
///
/// # Errors
/// I/O; where one cannot be thawed.
pub fn sweep(store: &Store) -> Result<Vec<String>> {
    let folder = store.folder("locks")?;
    let mut lines = Vec::new();
    for entry in std::fs::read_dir(&folder).context("list", &folder)? {
        let name = entry.context("list", &folder)?.file_name();
        let Some(id) = name.to_str().and_then(|name| name.strip_prefix(LOCK)) else {
            continue;
        };
        let Some(lock) = hold::try_lock(store, &file_name(id))? else {
            continue;
        };
        let thawed = Freezer::of(&container::cgroup_name(store, id))
            .and_then(|freezer| freezer.map_or(Ok(()), |freezer| freezer.thaw()));
        thawed.map_err(|error| Error::invalid(format!("container {id} cannot be thawed")).caused_by(error))?;
        forget(store, id, lock)?;
        lines.push(format!("container {id} goes on: who committed it was killed"));
    }
    Ok(lines)
}

/// The signals that end plywood, held back until dropped: then they come.
#[derive(Debug)]
struct HeldBack {
    before: SigSet,
    source: SignalFd,
}

impl HeldBack {
    /// For this thread and those that it starts.
    fn hold() -> Result<Self> {
        let set: SigSet = HELD_BACK.into_iter().collect();
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let source = SignalFd::with_flags(&set, flags).context("hold back", "signals")?;
        let before = set
            .thread_swap_mask(SigmaskHow::SIG_BLOCK)
            .context("hold back", "signals")?;
        Ok(Self { before, source })
    }

    fn has_come(&self) -> bool {
        let mut watched = [PollFd::from_borrowed_fd(self.source.as_fd(), PollFlags::IN)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        matches!(poll(&mut watched, Some(&now)), Ok(1..))
    }
}

impl Drop for HeldBack {
    fn drop(&mut self) {
        if let Err(error) = self.before.thread_set_mask() {
            tracing::warn!("cannot let signals through again: {error}");
        }
    }
}
