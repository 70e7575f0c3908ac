//! Intents: what a live process is about to do, written before it does it.
//!
//! `intents/<id>.json` is created, locked with flock and fsynced before the
//! first step; its owner holds the flock until it is done and removes the
//! file. So a file whose flock can be taken is a dead process's, and only
//! that one is recovered ([`Intents::dead`]). An intent also *pins*: what it
//! names is not garbage while its owner lives.

use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use crate::error::Context;
use crate::lock::Shared;
use crate::{ChainId, Digest, Error, Kind, Result, durable, record};

/// The kind in the envelope.
const KIND: &str = "intent";

/// What is about to happen, with all that recovery needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "op")]
pub enum Plan {
    /// Long work without a lock (import, commit, export): owns the snapshots that lease from it, pins the rest.
    Work {
        /// The verb, for messages.
        verb: String,
        /// Blobs that must stay, though no record names them yet.
        blobs: Vec<Digest>,
        /// Layers that must stay.
        layers: Vec<ChainId>,
    },
    /// A container that is being made or removed: with a dead owner, what there is of it goes.
    Container {
        /// Its id.
        id: String,
    },
    /// A short step in the pool: transaction id `from` to `from + 1`.
    Thin {
        /// The pool's transaction id before.
        from: u64,
        /// The step.
        step: ThinStep,
    },
}

/// One short step that moves the kernel and the records together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "step")]
pub enum ThinStep {
    /// A new thin device `id`, empty or a snapshot of `origin`, for the snapshot `key` (or the golden volume).
    Create {
        /// The new thin id.
        id: u32,
        /// The thin id that it is a snapshot of.
        origin: Option<u32>,
        /// The snapshot's key; none for the golden volume.
        key: Option<String>,
    },
    /// The active snapshot `key` becomes the layer `chain_id`.
    Publish {
        /// The snapshot's key.
        key: String,
        /// What it becomes, whole: recovery writes it.
        layer: Box<crate::record::LayerRecord>,
    },
    /// The thin device `id` goes; forward only.
    Delete {
        /// The thin id.
        id: u32,
    },
}

/// The intents of a root.
#[derive(Debug)]
pub struct Intents {
    root: PathBuf,
    folder: PathBuf,
    /// Of what is to go before the machine stops; none where this boot cannot be told from another.
    passing: Option<PathBuf>,
}

impl Intents {
    pub(crate) fn new(root: &Path, passing: Option<&Path>) -> Self {
        Self {
            root: root.to_owned(),
            folder: root.join("intents"),
            passing: passing.map(|passing| passing.join("intents")),
        }
    }

    /// Writes an intent and owns it: durably, unless it is long work. What that has pinned and leased ends with its
    /// owner, and its owner with the machine, so that after a power cut there is nothing in it to read:
    /// it is [passing](crate::record::Records::put_passing).
    ///
    /// Waits for the store's lock (shared) for this moment, unless this thread
    /// holds it: what the plan pins is pinned before or after a `gc`, never in its middle.
    ///
    /// # Errors
    /// I/O.
    pub fn begin(&self, plan: Plan) -> Result<Intent> {
        let passes = matches!(plan, Plan::Work { .. });
        self.begin_as(plan, passes)
    }

    /// The same for what the end of the machine ends too: it need not survive a power cut.
    ///
    /// # Errors
    /// I/O.
    pub fn begin_passing(&self, plan: Plan) -> Result<Intent> {
        self.begin_as(plan, true)
    }

    fn begin_as(&self, plan: Plan, passes: bool) -> Result<Intent> {
        match self.passing.as_ref().filter(|_| passes) {
            Some(folder) => self.begin_in(plan, folder, false),
            None => self.begin_in(plan, &self.folder, true),
        }
    }

    fn begin_in(&self, plan: Plan, folder: &Path, lasts: bool) -> Result<Intent> {
        let id = durable::unique_name()?;
        let path = folder.join(format!("{id}.json"));
        let file = write(&self.root, &path, &plan, lasts)?;
        tracing::debug!(id, ?plan, "intent");
        Ok(self.owned(id, plan, path, file, lasts))
    }

    fn owned(&self, id: String, plan: Plan, path: PathBuf, file: File, lasts: bool) -> Intent {
        Intent {
            id,
            plan,
            path,
            root: self.root.clone(),
            file,
            lasts,
            owner: std::process::id(),
        }
    }

    /// Makes durable that intents are gone which were [done without waiting](Intent::done_unsynced).
    ///
    /// # Errors
    /// I/O.
    pub fn sync(&self) -> Result<()> {
        durable::sync_folder(&self.folder)
    }

    /// The intents whose owner is dead, owned by the caller now. The caller holds
    /// the exclusive lock, so that only one process recovers.
    ///
    /// # Errors
    /// A damaged intent; I/O.
    pub fn dead(&self) -> Result<Vec<Intent>> {
        let mut dead = Vec::new();
        for id in self.ids()? {
            let path = self.path(&id)?;
            if let Some(file) = take(&path, FlockOperation::NonBlockingLockExclusive)?
                && let Some(plan) = read(&path)?
            {
                let lasts = path.starts_with(&self.folder);
                dead.push(self.owned(id, plan, path, file, lasts));
            }
        }
        Ok(dead)
    }

    /// Every intent: its id, its plan, and whether its owner lives.
    ///
    /// # Errors
    /// A damaged intent; I/O.
    pub fn list(&self) -> Result<Vec<(String, Plan, bool)>> {
        let mut intents = Vec::new();
        for id in self.ids()? {
            // First whether it lives: one that ends in between is gone, not dead.
            let live = self.is_live(&id)?;
            if let Some(plan) = read(&self.path(&id)?)? {
                intents.push((id, plan, live));
            }
        }
        Ok(intents)
    }

    /// The plans of live owners, by intent id.
    ///
    /// # Errors
    /// A damaged intent; I/O.
    pub fn live(&self) -> Result<Vec<(String, Plan)>> {
        let all = self.list()?.into_iter();
        Ok(all.filter_map(|(id, plan, live)| live.then_some((id, plan))).collect())
    }

    /// Whether the intent of this id has a live owner.
    ///
    /// # Errors
    /// I/O.
    pub fn is_live(&self, id: &str) -> Result<bool> {
        let path = self.path(id)?;
        Ok(path.exists() && take(&path, FlockOperation::NonBlockingLockShared)?.is_none() && path.exists())
    }

    fn path(&self, id: &str) -> Result<PathBuf> {
        if !record::key_is_valid(id) {
            return Err(Error::invalid(format!("not an intent's id: {id:?}")));
        }
        let name = format!("{id}.json");
        let passing = self.passing.as_ref().map(|folder| folder.join(&name));
        Ok(passing
            .filter(|path| path.exists())
            .unwrap_or_else(|| self.folder.join(name)))
    }

    fn ids(&self) -> Result<Vec<String>> {
        let mut ids = Vec::new();
        let passing = self.passing.iter().filter(|folder| folder.is_dir());
        for folder in std::iter::once(&self.folder).chain(passing) {
            for entry in std::fs::read_dir(folder).context("list", folder)? {
                let name = entry.context("list", folder)?.file_name();
                if let Some(id) = name.to_str().and_then(|name| name.strip_suffix(".json")) {
                    ids.push(id.to_owned());
                }
            }
        }
        ids.sort_unstable();
        Ok(ids)
    }
}

/// Writes a plan whole, under the lock that keeps `gc` out; the file is locked before it has its name.
fn write(root: &Path, path: &Path, plan: &Plan, lasts: bool) -> Result<File> {
    let content = record::encode(KIND, plan)?;
    let _still = Shared::take(&root.join("lock"))?;
    match lasts {
        true => durable::write(&root.join("tmp"), path, &content),
        false => durable::write_passing(&root.join("tmp"), path, &content),
    }
}

fn read(path: &Path) -> Result<Option<Plan>> {
    match record::read_file(path)? {
        Some(content) => record::decode(KIND, &content, path).map(Some),
        None => Ok(None),
    }
}

/// The file with its flock, or none where a live process holds it or it is gone.
fn take(path: &Path, how: FlockOperation) -> Result<Option<File>> {
    loop {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io("open intent", path, error)),
        };
        if !durable::try_flock(&file, how).context("lock intent", path)? {
            return Ok(None);
        }
        // Its owner may have renamed a new file over this one and let go of it.
        if durable::is_still_at(&file, path)? {
            return Ok(Some(file));
        }
    }
}

/// An intent that this process owns. Dropping it without [`Intent::done`] leaves it to recovery.
#[derive(Debug)]
pub struct Intent {
    id: String,
    plan: Plan,
    path: PathBuf,
    root: PathBuf,
    file: File,
    lasts: bool,
    owner: u32,
}

impl Intent {
    /// Its id, which leased snapshots name.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// What was planned.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Pins a blob before anything names it. When this returns no `gc` takes it,
    /// so look for the blob *after* pinning it. Waits for the store's lock as [`Intents::begin`] does.
    ///
    /// # Errors
    /// Invalid where the plan is no [`Plan::Work`]; I/O.
    pub fn pin_blob(&mut self, digest: Digest) -> Result<()> {
        self.pin(|blobs, _| {
            let new = !blobs.contains(&digest);
            if new {
                blobs.push(digest);
            }
            new
        })
    }

    /// Pins a layer. As [`Intent::pin_blob`].
    ///
    /// # Errors
    /// As [`Intent::pin_blob`].
    pub fn pin_layer(&mut self, chain: ChainId) -> Result<()> {
        self.pin(|_, layers| {
            let new = !layers.contains(&chain);
            if new {
                layers.push(chain);
            }
            new
        })
    }

    fn pin(&mut self, add: impl FnOnce(&mut Vec<Digest>, &mut Vec<ChainId>) -> bool) -> Result<()> {
        let mut plan = self.plan.clone();
        let Plan::Work { blobs, layers, .. } = &mut plan else {
            return Err(Error::new(
                Kind::Invalid,
                format!("intent {} is no long work: it pins nothing", self.id),
            ));
        };
        if add(blobs, layers) {
            self.file = write(&self.root, &self.path, &plan, self.lasts)?;
            self.plan = plan;
        }
        Ok(())
    }

    /// Everything is done: the intent goes.
    ///
    /// # Errors
    /// I/O: then the intent may be found again, by recovery.
    pub fn done(self) -> Result<()> {
        match self.lasts {
            true => durable::remove(&self.path)?,
            false => durable::remove_passing(&self.path)?,
        };
        tracing::debug!(id = self.id, "intent done");
        Ok(())
    }

    /// The same without waiting for the disk: a power cut may bring the intent back, until the next durable one is
    /// begun, or [`Intents::sync`] returns. For what recovery knows to have happened.
    ///
    /// # Errors
    /// As for [`Intent::done`].
    pub fn done_unsynced(self) -> Result<()> {
        durable::remove_passing(&self.path)?;
        tracing::debug!(id = self.id, "intent done");
        Ok(())
    }
}

impl Drop for Intent {
    fn drop(&mut self) {
        // A forked child that lives on must not keep a dead intent alive, nor end its parent's.
        if self.owner == std::process::id()
            && let Err(error) = durable::flock(&self.file, FlockOperation::Unlock)
        {
            tracing::debug!(id = self.id, "cannot unlock an intent: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Driver, Store};

    fn work() -> Plan {
        Plan::Work {
            verb: "import".into(),
            blobs: Vec::new(),
            layers: Vec::new(),
        }
    }

    #[test]
    fn an_intent_lives_as_long_as_its_owner_holds_it() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::create(folder.path(), Driver::Overlay).unwrap();
        let mut intent = store.intents.begin(work()).unwrap();
        let id = intent.id().to_owned();
        intent.pin_blob(Digest::of(b"x")).unwrap();
        assert!(store.intents.is_live(&id).unwrap());
        assert_eq!(store.intents.live().unwrap(), [(id.clone(), intent.plan().clone())]);
        assert!(store.intents.dead().unwrap().is_empty());

        drop(intent);
        assert!(!store.intents.is_live(&id).unwrap());
        let dead = store.intents.dead().unwrap();
        assert_eq!(dead.len(), 1);
        // Now this process owns it.
        assert!(store.intents.dead().unwrap().is_empty());
        for intent in dead {
            intent.done().unwrap();
        }
        assert!(store.intents.live().unwrap().is_empty());
        assert!(!store.intents.is_live(&id).unwrap());
    }

    #[test]
    fn a_live_intent_is_never_dead_while_its_pins_are_rewritten() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::create(folder.path(), Driver::Overlay).unwrap();
        let mut intent = store.intents.begin(work()).unwrap();
        let stop = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|threads| {
            threads.spawn(|| {
                while !stop.load(std::sync::atomic::Ordering::SeqCst) {
                    assert!(store.intents.dead().unwrap().is_empty());
                }
            });
            for number in 0..200_u8 {
                intent.pin_blob(Digest::of(&[number])).unwrap();
            }
            stop.store(true, std::sync::atomic::Ordering::SeqCst);
        });
        assert!(matches!(intent.plan(), Plan::Work { blobs, .. } if blobs.len() == 200));
    }
}
