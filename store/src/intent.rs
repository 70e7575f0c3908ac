//! Intents: what a live process is about to do, written before it does it.
//!
//! `intents/<id>.json` is created, locked with flock and fsynced before the
//! first step; its owner holds the flock until it is done and removes the
//! file. So a file whose flock can be taken is a dead process's, and only
//! that one is recovered ([`Intents::dead`]). An intent also *pins*: what it
//! names is not garbage while its owner lives.

use serde::{Deserialize, Serialize};

use crate::{ChainId, Digest, Result};

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
pub struct Intents {}

impl Intents {
    /// Writes an intent durably and owns it.
    pub fn begin(&self, plan: Plan) -> Result<Intent> {
        let _ = plan;
        todo!()
    }
    /// The intents whose owner is dead, owned by the caller now.
    pub fn dead(&self) -> Result<Vec<Intent>> {
        todo!()
    }
    /// The plans of live owners, by intent id.
    pub fn live(&self) -> Result<Vec<(String, Plan)>> {
        todo!()
    }
    /// Whether the intent of this id has a live owner.
    pub fn is_live(&self, id: &str) -> Result<bool> {
        let _ = id;
        todo!()
    }
}

/// An intent that this process owns. Dropping it without [`Intent::done`] leaves it to recovery.
#[derive(Debug)]
pub struct Intent {}

impl Intent {
    /// Its id, which leased snapshots name.
    pub fn id(&self) -> &str {
        todo!()
    }
    /// What was planned.
    pub fn plan(&self) -> &Plan {
        todo!()
    }
    /// Pins a blob before anything names it.
    pub fn pin_blob(&mut self, digest: Digest) -> Result<()> {
        let _ = digest;
        todo!()
    }
    /// Pins a layer.
    pub fn pin_layer(&mut self, chain: ChainId) -> Result<()> {
        let _ = chain;
        todo!()
    }
    /// Everything is done: the intent goes.
    pub fn done(self) -> Result<()> {
        todo!()
    }
}
