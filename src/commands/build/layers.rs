//! What a step leaves: a layer, and a record in the build cache.
//!
//! The record says what the layer is the result of. It keeps the layer from being garbage, and nothing more is
//! promised of it: where the record or the layer is gone the step is done again.

use plywood_store::intent::{Intent, Plan};
use plywood_store::record::{LayerRecord, Phase, StepRecord};
use plywood_store::{ChainId, Digest, Store};

use super::built::Built;
use crate::cli::DiffChoice;
use crate::commands::layer::{Committed, Writing};
use crate::commands::{Host, now, random_key};
use crate::error::{Error, Result, both};
use crate::image::undo::{Made, undoing};
use crate::image::{oci, unpack};
use crate::output::Bars;
use crate::snapshot::Access;

/// How much older than now a record's time of use may be before it is written again, in seconds.
const USE_IS_NEW: i64 = 60 * 60;

/// The build cache, as one build sees it.
#[derive(Debug)]
pub(super) struct Cache<'a> {
    store: &'a Store,
    /// What was done before does not count: microseconds since 1970.
    since: i64,
}

impl<'a> Cache<'a> {
    pub(super) fn new(store: &'a Store, since: i64) -> Self {
        Self { store, since }
    }

    /// What the step with this key has come to, if that is there; `intent` keeps it there.
    ///
    /// # Errors
    /// I/O.
    pub(super) fn find(&self, key: &Digest, intent: &mut Intent) -> Result<Option<StepRecord>> {
        // A damaged one is no loss.
        let step = self.store.steps.get(&key.hex()).ok().flatten();
        let Some(step) = step.filter(|step| step.done_at >= self.since) else {
            return Ok(None);
        };
        if let Some(top) = step.top {
            intent.pin_layer(top)?;
            // It may have gone before it was pinned.
            let layer = self.store.layers.get(&top.0.hex())?;
            if layer.is_none_or(|layer| layer.phase != Phase::Ready) {
                return Ok(None);
            }
        }
        if now().saturating_sub(step.used_at) > USE_IS_NEW {
            self.put(&StepRecord {
                used_at: now(),
                ..step.clone()
            })?;
        }
        Ok(Some(step))
    }

    /// Keeps what a step has come to.
    ///
    /// # Errors
    /// I/O.
    pub(super) fn put(&self, step: &StepRecord) -> Result<()> {
        self.store.folder("records/steps")?;
        let lock = self.store.exclusive()?;
        self.store.steps.put(&lock, step)?;
        lock.done()
    }
}

/// A new layer, and what a layer cannot hold.
pub(super) struct Layered<T> {
    /// The stack with it; that below where nothing changed.
    pub(super) top: Option<ChainId>,
    /// What was left out, a line each.
    pub(super) notes: Vec<String>,
    /// What the work gave.
    pub(super) done: T,
}

/// Makes a layer of what `work` does in a new snapshot. What it made is taken out again where it fails.
pub(super) struct Layering<'a> {
    pub(super) host: &'a Host,
    pub(super) bars: &'a Bars,
    /// What is told while it is committed.
    pub(super) name: &'a str,
    /// What the snapshot stands on.
    pub(super) parent: Option<ChainId>,
}

impl Layering<'_> {
    /// `work` makes the snapshot under the key that it is given, leased by the intent, and gives what it likes.
    /// `keep` is called when the layer is there, and still kept by the intent.
    ///
    /// # Errors
    /// The work's; a full disk or pool.
    pub(super) fn layer<T>(
        &self,
        work: impl FnOnce(&str, &Intent) -> Result<T>,
        keep: impl FnOnce(&Layered<T>) -> Result<()>,
    ) -> Result<Layered<T>> {
        let Host { store, snapshotter } = self.host;
        let plan = Plan::Work {
            verb: "build".to_owned(),
            blobs: Vec::new(),
            layers: self.parent.into_iter().collect(),
        };
        undoing(store, snapshotter.as_ref(), plan, |intent, made| {
            let key = random_id();
            let done = match work(&key, intent) {
                Ok(done) => done,
                Err(error) => return both(Err(error), snapshotter.remove(&key)),
            };
            let Committed { record, notes } = self.commit(&key, intent, made)?;
            let layered = Layered {
                top: record.map(|layer| layer.chain_id).or(self.parent),
                notes,
                done,
            };
            keep(&layered)?;
            Ok(layered)
        })
    }

    fn commit(&self, key: &str, intent: &mut Intent, made: &mut Made) -> Result<Committed> {
        Writing {
            host: self.host,
            how: DiffChoice::Auto,
            bars: self.bars,
            name: self.name,
        }
        .leased(key, intent, made)
    }

    /// The same for work on the mounted snapshot.
    ///
    /// # Errors
    /// As for [`Layering::layer`].
    pub(super) fn mounted<T>(
        &self,
        work: impl FnOnce(&crate::snapshot::Mounted) -> Result<T>,
        keep: impl FnOnce(&Layered<T>) -> Result<()>,
    ) -> Result<Layered<T>> {
        let snapshotter = &self.host.snapshotter;
        self.layer(
            |key, intent| {
                snapshotter.prepare(key, self.parent.as_ref(), Some(intent))?;
                let mounted = snapshotter.mount(key, Access::ReadWrite)?;
                let done = work(&mounted);
                both(done, mounted.close())
            },
            keep,
        )
    }
}

/// A key for a container and its snapshot: 64 hexadecimal digits.
fn random_id() -> String {
    Digest::of(random_key("build").as_bytes()).hex()
}

/// `--squash`.
pub(super) struct Squashing<'a> {
    pub(super) host: &'a Host,
    pub(super) bars: &'a Bars,
}

impl Squashing<'_> {
    /// Makes one layer of those that the stage has put onto its base.
    ///
    /// # Errors
    /// A layer that is not there any more; a full disk or pool.
    pub(super) fn squash(&self, built: &mut Built, intent: &mut Intent) -> Result<()> {
        let own = built.records(&self.host.store)?.split_off(built.base_layers);
        if own.len() < 2 {
            return Ok(());
        }
        let base = own.first().and_then(|layer| layer.parent);
        let layering = Layering {
            host: self.host,
            bars: self.bars,
            name: "squashed layer",
            parent: base,
        };
        let mut pinned = Ok(());
        let layered = layering.mounted(
            |mounted| {
                own.iter().try_for_each(|layer| {
                    let path = self.host.store.blobs.path(&layer.blob.digest);
                    let blob = self.host.store.blobs.open(&layer.blob.digest)?;
                    let (_, mut tar) = plywood_store::compress::decoder(Box::new(blob))?;
                    unpack::unpack(mounted, &mut tar, &path).map(drop)
                })
            },
            |layered| {
                pinned = layered.top.map_or(Ok(()), |top| intent.pin_layer(top));
                Ok(())
            },
        )?;
        pinned?;
        built.squashed(&self.host.store, layered.top)
    }
}

/// The stack of `top`, base first.
///
/// # Errors
/// Where a layer of it is not there.
pub(super) fn stack(store: &Store, top: Option<ChainId>) -> Result<Vec<LayerRecord>> {
    let mut stack = Vec::new();
    let mut next = top;
    while let Some(chain) = next {
        let layer = store.layers.get(&chain.0.hex())?;
        let layer = layer.ok_or_else(|| Error::not_found(format!("layer {chain} is not in the store any more")))?;
        if stack.len() > oci::LAYERS_MAX {
            return Err(Error::corrupt(format!("the layers under {chain} have no end")));
        }
        next = layer.parent;
        stack.push(layer);
    }
    stack.reverse();
    Ok(stack)
}
