//! The index: sled over the records, for look-ups by reverse reference. Never the truth.
//!
//! What it answers ("which names has this image", "what stands on this layer")
//! can be had by reading all records; the index is for stores where that takes
//! longer than opening sled ([`WORTH_IT`]). Losing it loses nothing: it is
//! rebuilt from the records whenever it is missing, damaged or out of step.
//!
//! How it stays in step without costing the writers anything: while there is an
//! index, a writer notes each key in `index.pending` *before* it changes that
//! record, and never opens sled. The next reader reads the noted records again.
//! The notes are not synced: they begin with the kernel's boot id, and notes of
//! another boot mean that a power cut may have eaten some, so all is rebuilt.
//! Notes that were lost whole show in the folders' mtimes, which the index keeps.
//!
//! What is known about sled 0.34 and heeded here: its `flush` is no barrier
//! against a power cut (it calls no fsync: we do); a kill during `open` can leave
//! a `snap.*.generating` that makes every later `open` fail (we remove it,
//! under our own lock); values above some KiB go to files of their own (ours
//! are small); one process opens it at a time (our lock waits, then gives up,
//! and the caller reads the records).

mod links;
mod notes;

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::OpenOptionsExt;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

pub(crate) use self::links::expected;
pub use self::links::parse_any;
use self::links::{
    FORMAT, LINK, STATE, State, all_links, link_key, link_prefix, links_of, owner_key, parse_links, parse_state,
    parse_user, stamps,
};
use self::notes::Pending;
pub(crate) use self::notes::note;
use crate::error::Context;
use crate::lock::{Exclusive, Shared};
use crate::record::{Link, Relation};
use crate::{Error, Kind, Result, Store, durable};
use rustix::fs::FlockOperation;

/// Records from which on the index answers faster than reading them all.
/// Measured: opening sled takes 2 to 3 ms, reading 1000 records 8 to 11 ms.
pub const WORTH_IT: usize = 400;
/// How long to wait for another reader of the index.
const PATIENCE: Duration = Duration::from_secs(3);
/// The file in the index's folder that says that it was made to the end.
const WHOLE: &str = "whole";
/// How long sled's own threads may take to let go of its files.
const GRACE: Duration = Duration::from_millis(500);
/// Bytes of memory that sled may cache.
const CACHE: u64 = 8 << 20;

/// The index, opened and in step with the records. It is opened and closed
/// within one call, and never held across a fork.
#[derive(Debug)]
pub struct Index {
    db: sled::Db,
    folder: PathBuf,
    // Released last: nobody else opens sled before it is closed.
    _lock: File,
    _still: Shared,
}

impl Index {
    /// Opens the index and brings it into step with the records, rebuilding it where it must.
    ///
    /// # Errors
    /// In use where another process has it for too long; I/O. The caller then reads the records.
    pub fn open(store: &Store) -> Result<Self> {
        match Self::look(store) {
            Err(error) if error.kind() == Kind::Corrupt => {
                tracing::warn!("the index is made again: {}", told(&error));
                Self::make(store)
            }
            other => other,
        }
    }

    /// The same, but a damaged index is told, not made again. One that is only
    /// behind (a power cut, a backup brought back) is no damage.
    ///
    /// # Errors
    /// Corrupt where sled cannot read it.
    pub(crate) fn look(store: &Store) -> Result<Self> {
        let still = store.shared()?;
        let lock = lock(store.root())?;
        let folder = store.root().join("index");
        if !folder.join(WHOLE).exists() {
            if folder.exists() {
                tracing::warn!("the index is made again: a kill or a full disk has ended its making");
            }
            drop(lock);
            return Self::make(store);
        }
        let index = Self {
            db: open_sled(&folder)?,
            folder,
            _lock: lock,
            _still: still,
        };
        if let Some(why) = index.catch_up(store)? {
            tracing::warn!("the index is made again: {why}");
            drop(index);
            return Self::make(store);
        }
        notes::in_step(&index.folder)?;
        Ok(index)
    }

    /// Makes the index from the records, whatever was there.
    fn make(store: &Store) -> Result<Self> {
        let still = store.shared()?;
        let lock = lock(store.root())?;
        let folder = store.root().join("index");
        discard(&folder)?;
        let index = Self {
            db: open_sled(&folder)?,
            folder,
            _lock: lock,
            _still: still,
        };
        index.fill(store)?;
        Ok(index)
    }

    /// Throws the index away and makes it from the records.
    ///
    /// # Errors
    /// A damaged record; in use; I/O.
    pub fn rebuild(store: &Store) -> Result<()> {
        Self::make(store).map(drop)
    }

    /// The records that stand in `relation` to `target`: their folders and keys.
    ///
    /// # Errors
    /// A damaged index.
    pub fn users(&self, relation: Relation, target: &str) -> Result<Vec<(String, String)>> {
        let prefix = link_prefix(relation, target);
        let mut users = Vec::new();
        for entry in self.db.scan_prefix(&prefix) {
            let (key, _) = entry.map_err(sled_error)?;
            let user = key
                .get(prefix.len()..)
                .and_then(parse_user)
                .ok_or_else(|| strange("a key"))?;
            users.push(user);
        }
        Ok(users)
    }

    /// Every link that the index holds, for `check`.
    pub(crate) fn all(&self) -> Result<BTreeSet<Vec<u8>>> {
        let mut links = BTreeSet::new();
        for key in self.db.scan_prefix(LINK).keys() {
            links.insert(key.map_err(sled_error)?.to_vec());
        }
        Ok(links)
    }

    /// Reads all records into an empty index, and marks it whole last: what a kill
    /// leaves of this is not looked at again.
    fn fill(&self, store: &Store) -> Result<()> {
        let records = all_links(store)?;
        for ((folder, key), links) in &records {
            self.set(folder, key, links)?;
        }
        self.seal(store)?;
        notes::in_step(&self.folder)?;
        tracing::debug!(records = records.len(), "index made");
        Ok(())
    }

    /// Reads again what writers noted since the last time; says why, where that
    /// does not explain the records as they are.
    fn catch_up(&self, store: &Store) -> Result<Option<&'static str>> {
        let state = self.db.get(STATE).map_err(sled_error)?;
        let Some(state) = state.as_deref().and_then(parse_state) else {
            return Ok(Some("it is of another format"));
        };
        match Pending::read(store.root())? {
            Pending::None if state.stamps == stamps(store)? => Ok(None),
            Pending::None => Ok(Some("records changed without a note")),
            Pending::Lost => Ok(Some("notes may have been lost")),
            Pending::Noted(noted) => {
                for (folder, key) in &noted {
                    let links = links_of(store, folder, key)?;
                    self.set(folder, key, &links)?;
                }
                self.seal(store)?;
                Ok(None)
            }
        }
    }

    /// Replaces the links of one record.
    fn set(&self, folder: &str, key: &str, links: &[Link]) -> Result<()> {
        let owner = owner_key(folder, key);
        let new: Vec<String> = links.iter().map(|link| link_key(link, folder, key)).collect();
        let mut batch = sled::Batch::default();
        if let Some(old) = self.db.get(&owner).map_err(sled_error)? {
            for old in parse_links(&old).ok_or_else(|| strange("a list of links"))? {
                batch.remove(old);
            }
        }
        for link in &new {
            batch.insert(link.as_bytes(), &[]);
        }
        if new.is_empty() {
            batch.remove(owner.as_bytes());
        } else {
            batch.insert(owner.as_bytes(), new.join("\n").as_bytes());
        }
        self.db.apply_batch(batch).map_err(sled_error)
    }

    /// Says what the index was built from, makes it durable, and drops the notes.
    fn seal(&self, store: &Store) -> Result<()> {
        let state = State {
            format: FORMAT,
            stamps: stamps(store)?,
        };
        let state = serde_json::to_vec(&state).map_err(|error| strange("its state").caused_by(error))?;
        self.db.insert(STATE, state).map_err(sled_error)?;
        self.db.flush().map_err(sled_error)?;
        for entry in std::fs::read_dir(&self.folder).context("list", &self.folder)? {
            let path = entry.context("list", &self.folder)?.path();
            if path.is_file() {
                File::open(&path)
                    .and_then(|file| file.sync_all())
                    .context("sync", &path)?;
            }
        }
        durable::sync_folder(&self.folder)?;
        notes::forget(store.root())
    }
}

/// Takes the index's own lock: sled refuses a second opener instead of waiting.
fn lock(root: &Path) -> Result<File> {
    let path = root.join("index.lock");
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .context("open lock", &path)?;
    let since = Instant::now();
    while !durable::try_flock(&file, FlockOperation::NonBlockingLockExclusive).context("lock", &path)? {
        if since.elapsed() > PATIENCE {
            return Err(Error::new(
                Kind::InUse,
                format!("{} is held by another process", path.display()),
            ));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(file)
}

/// Opens sled, without what a kill during an earlier opening left.
fn open_sled(folder: &Path) -> Result<sled::Db> {
    if folder.exists() {
        for entry in std::fs::read_dir(folder).context("list", folder)? {
            let path = entry.context("list", folder)?.path();
            if path.extension().is_some_and(|end| end == "generating") {
                tracing::debug!(path = %path.display(), "an unfinished snapshot of the index goes");
                std::fs::remove_file(&path).context("remove", &path)?;
            }
        }
    }
    let config = sled::Config::default()
        .path(folder)
        .mode(sled::Mode::LowSpace)
        .flush_every_ms(None)
        .cache_capacity(CACHE);
    let since = Instant::now();
    loop {
        // Damaged files have been seen to make sled panic instead of saying so.
        match std::panic::catch_unwind(AssertUnwindSafe(|| config.open())) {
            // A thread of the one before may not have let go of sled's file yet.
            Ok(Err(sled::Error::Io(_))) if since.elapsed() < GRACE => std::thread::sleep(Duration::from_millis(5)),
            Ok(opened) => return opened.map_err(sled_error),
            Err(_) => return Err(strange("sled panicked on it")),
        }
    }
}

/// Removes the index, to make room. Readers hold the shared lock, so nobody has it open.
pub(crate) fn give_up(root: &Path, _lock: &Exclusive) -> Result<()> {
    tracing::debug!("the index makes room");
    discard(&root.join("index"))?;
    notes::forget(root)
}

/// Removes an index, and first of all the mark that it is whole.
fn discard(folder: &Path) -> Result<()> {
    durable::remove(&folder.join(WHOLE))?;
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(Error::io("remove index", folder, error)),
        _ => Ok(()),
    }
}

fn sled_error(error: sled::Error) -> Error {
    let kind = match &error {
        sled::Error::Io(_) => Kind::Io,
        _ => Kind::Corrupt,
    };
    Error::new(kind, "the index cannot be used").caused_by(error)
}

fn strange(what: &str) -> Error {
    Error::corrupt(format!("the index is not as it should be: {what}"))
}

/// An error with its causes, in one line.
fn told(error: &Error) -> String {
    let mut told = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(next) = cause {
        told.push_str(&format!(": {next}"));
        cause = next.source();
    }
    told
}
