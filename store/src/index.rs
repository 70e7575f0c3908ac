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

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use crate::error::Context;
use crate::lock::Shared;
use crate::record::{Link, Record, Records, Relation};
use crate::{Error, Kind, Result, Store, durable};

/// Records from which on the index answers faster than reading them all.
/// Measured: opening sled takes 2 to 3 ms, reading 1000 records 8 to 11 ms.
pub const WORTH_IT: usize = 400;
/// The version of what is in the index; another one is rebuilt.
const FORMAT: u32 = 1;
/// How long to wait for another reader of the index.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long sled's own threads may take to let go of its files.
const GRACE: Duration = Duration::from_millis(500);
/// Bytes of notes beyond which rebuilding is cheaper.
const PENDING_MAX: u64 = 1 << 20;
/// Bytes of memory that sled may cache.
const CACHE: u64 = 8 << 20;
/// Where the index keeps what it was built from.
const STATE: &[u8] = b"state";

/// What the index was built from.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct State {
    format: u32,
    /// Each records folder's mtime in nanoseconds.
    stamps: BTreeMap<String, i128>,
}

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
        let still = store.shared()?;
        let lock = lock(store.root())?;
        let folder = store.root().join("index");
        let fresh = !folder.exists();
        let db = match open_sled(&folder) {
            Err(error) if error.kind() == Kind::Corrupt => {
                tracing::warn!("the index is damaged and is made again: {}", told(&error));
                discard(&folder)?;
                open_sled(&folder)?
            }
            other => other?,
        };
        let index = Self {
            db,
            folder,
            _lock: lock,
            _still: still,
        };
        if fresh {
            index.fill(store)?;
        } else if let Err(error) = index.catch_up(store) {
            tracing::warn!("the index is out of step and is made again: {}", told(&error));
            index.fill(store)?;
        }
        Ok(index)
    }

    /// Throws the index away and makes it from the records; says how many links it holds.
    ///
    /// # Errors
    /// A damaged record; in use; I/O.
    pub fn rebuild(store: &Store) -> Result<usize> {
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
        index.fill(store)
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

    /// Reads all records and replaces whatever the index held.
    fn fill(&self, store: &Store) -> Result<usize> {
        // Whatever a kill leaves of this: without its state an index is not believed.
        self.db.remove(STATE).map_err(sled_error)?;
        self.db.flush().map_err(sled_error)?;
        self.db.clear().map_err(sled_error)?;
        let records = all_links(store)?;
        let mut count = 0;
        for ((folder, key), links) in &records {
            self.set(folder, key, links)?;
            count += links.len();
        }
        self.seal(store)?;
        tracing::debug!(records = records.len(), links = count, "index rebuilt");
        Ok(count)
    }

    /// Reads again what writers noted since the last time.
    ///
    /// # Errors
    /// Where that does not explain the records as they are: rebuild.
    fn catch_up(&self, store: &Store) -> Result<()> {
        let state = self
            .db
            .get(STATE)
            .map_err(sled_error)?
            .ok_or_else(|| strange("no state"))?;
        let state = parse_state(&state).ok_or_else(|| strange("another format"))?;
        match Pending::read(store.root())? {
            Pending::None if state.stamps == stamps(store)? => Ok(()),
            Pending::None => Err(strange("records changed without a note")),
            Pending::Lost => Err(strange("notes from before the last boot")),
            Pending::Noted(noted) => {
                for (folder, key) in &noted {
                    let links = links_of(store, folder, key)?;
                    self.set(folder, key, &links)?;
                }
                self.seal(store)
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
        durable::remove(&store.root().join(PENDING))?;
        Ok(())
    }
}

/// The notes' file under the root.
const PENDING: &str = "index.pending";

/// Notes, before a record changes, that the index must look at it again.
/// Without an index there is nothing to note.
pub(crate) fn note(root: &Path, folder: &str, key: &str) -> Result<()> {
    if !root.join("index").exists() {
        return Ok(());
    }
    let path = root.join(PENDING);
    let mut file = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(&path)
        .context("open", &path)?;
    let length = file.metadata().context("look at", &path)?.len();
    let line = match length {
        0 => format!("{}\n{folder}/{key}\n", boot_id()),
        1..PENDING_MAX => format!("{folder}/{key}\n"),
        // Too much to catch up with: lost notes make a rebuild.
        _ => {
            file.set_len(0).context("shorten", &path)?;
            "rebuild\n".to_owned()
        }
    };
    file.write_all(line.as_bytes()).context("write", &path)
}

/// What writers noted since the index was last in step.
enum Pending {
    /// Nothing.
    None,
    /// Some may be missing.
    Lost,
    /// These records, by folder and key.
    Noted(BTreeSet<(String, String)>),
}

impl Pending {
    fn read(root: &Path) -> Result<Self> {
        let path = root.join(PENDING);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Self::None),
            Err(error) => return Err(Error::io("open", path, error)),
        };
        let mut lines = BufReader::new(file).lines();
        match lines.next().transpose() {
            Ok(Some(boot)) if boot == boot_id() => {}
            _ => return Ok(Self::Lost),
        }
        let mut noted = BTreeSet::new();
        for line in lines {
            match line.ok().as_deref().and_then(|line| line.split_once('/')) {
                Some((folder, key)) => noted.insert((folder.to_owned(), key.to_owned())),
                None => return Ok(Self::Lost),
            };
        }
        Ok(Self::Noted(noted))
    }
}

/// Tells one run of the kernel from another; where it cannot be told, nothing equals it.
fn boot_id() -> String {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    match id.trim() {
        "" => format!("unknown-{}", std::process::id()),
        id => id.to_owned(),
    }
}

/// Each kind of record that has links, read in one way for all.
macro_rules! for_each_kind {
    ($store:expr, |$records:ident| $body:expr) => {{
        {
            let $records = &$store.layers;
            $body
        }
        {
            let $records = &$store.snapshots;
            $body
        }
        {
            let $records = &$store.images;
            $body
        }
        {
            let $records = &$store.names;
            $body
        }
        {
            let $records = &$store.containers;
            $body
        }
    }};
}

type Linked = BTreeMap<(String, String), Vec<Link>>;

fn add_links<T: Record>(records: &Records<T>, to: &mut Linked) -> Result<()> {
    for record in records.list()? {
        to.insert((T::FOLDER.to_owned(), record.key()), record.links());
    }
    Ok(())
}

fn all_links(store: &Store) -> Result<Linked> {
    let mut all = Linked::new();
    for_each_kind!(store, |records| add_links(records, &mut all)?);
    Ok(all)
}

/// The links of every record as the index keeps them, for `check`.
pub(crate) fn expected(store: &Store) -> Result<BTreeSet<Vec<u8>>> {
    let all = all_links(store)?;
    let keys = all
        .iter()
        .flat_map(|((folder, key), links)| links.iter().map(move |link| link_key(link, folder, key).into_bytes()));
    Ok(keys.collect())
}

fn links_in<T: Record>(records: &Records<T>, folder: &str, key: &str) -> Result<Option<Vec<Link>>> {
    if T::FOLDER != folder {
        return Ok(None);
    }
    Ok(Some(records.get(key)?.map(|record| record.links()).unwrap_or_default()))
}

/// The links of one record, none where it is gone.
fn links_of(store: &Store, folder: &str, key: &str) -> Result<Vec<Link>> {
    for_each_kind!(store, |records| {
        if let Some(links) = links_in(records, folder, key)? {
            return Ok(links);
        }
    });
    Ok(Vec::new())
}

fn stamps(store: &Store) -> Result<BTreeMap<String, i128>> {
    let mut stamps = BTreeMap::new();
    for_each_kind!(store, |records| {
        let folder = records.folder();
        let metadata = folder.metadata().context("look at", folder)?;
        let stamp = i128::from(metadata.mtime()) * 1_000_000_000 + i128::from(metadata.mtime_nsec());
        stamps.insert(folder.display().to_string(), stamp);
    });
    Ok(stamps)
}

/// Where links begin.
const LINK: &[u8] = b"link/";

/// `link/<relation>/<target>\0`: a target may hold anything but NUL.
fn link_prefix(relation: Relation, target: &str) -> String {
    format!("link/{relation}/{target}\0")
}

fn link_key(link: &Link, folder: &str, key: &str) -> String {
    let prefix = link_prefix(link.relation, &link.target.replace(['\0', '\n'], ""));
    format!("{prefix}{folder}/{key}")
}

/// Where the links of one record are listed, to be taken away with it.
fn owner_key(folder: &str, key: &str) -> String {
    format!("record/{folder}/{key}")
}

/// `<folder>/<key>` at the end of a link's key.
fn parse_user(bytes: &[u8]) -> Option<(String, String)> {
    let (folder, key) = std::str::from_utf8(bytes).ok()?.split_once('/')?;
    Some((folder.to_owned(), key.to_owned()))
}

/// The list of links of one record.
fn parse_links(bytes: &[u8]) -> Option<Vec<&str>> {
    let links: Vec<&str> = std::str::from_utf8(bytes).ok()?.split('\n').collect();
    links
        .iter()
        .all(|link| link.as_bytes().starts_with(LINK))
        .then_some(links)
}

fn parse_state(bytes: &[u8]) -> Option<State> {
    serde_json::from_slice::<State>(bytes)
        .ok()
        .filter(|state| state.format == FORMAT)
}

/// Parses `bytes` as each kind of value that the index holds: for the fuzzer.
#[doc(hidden)]
pub fn parse_any(bytes: &[u8]) -> (bool, bool, bool) {
    (
        parse_user(bytes).is_some(),
        parse_links(bytes).is_some(),
        parse_state(bytes).is_some(),
    )
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

fn discard(folder: &Path) -> Result<()> {
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
