//! Repairing what stands on the pool: records and volumes brought together, every layer
//! verified against its digest, every container's filesystem checked.
//!
//! The pool's own metadata are whole when this begins ([`crate::dm::repair`]), which
//! does not mean that they are those of the last moment. So nothing is believed:
//!
//! ```text
//! records   unfinished steps ended, the pool's transaction id taken over
//! golden    made again where it is gone or damaged
//! layers    base first: e2fsck, difference to the parent hashed; where that is not the
//!           DiffID, unpacked again from the blob and compared; what differs is replaced
//! actives   stores taken back, e2fsck
//! ```
//!
//! Cut short anywhere, it can be begun again.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use plywood_store::intent::{Intent, Plan, ThinStep};
use plywood_store::layer::apply::Applied;
use plywood_store::lock::Exclusive;
use plywood_store::record::{LayerRecord, Phase, Place, Record, SnapshotRecord};
use plywood_store::{ChainId, Store};

use super::{Thin, forget, id_of, thin_id};
use crate::dm::assembly;
use crate::dm::ext4::Checked;
use crate::dm::repair::{self, Mark, Means, Metadata};
use crate::dm::status::Need;
use crate::dm::volume::Content;
use crate::error::{Error, Result};
use crate::snapshot::{Mounted, Snapshotter};

/// Unpacks a layer's tar into a mounted snapshot; the path is where a person would find the tar.
pub type Unpack<'a> = &'a dyn Fn(&Mounted, &mut dyn Read, &Path) -> Result<Applied>;

/// What a repair needs from its caller.
pub struct Wishes<'a> {
    /// Unpacks layers.
    pub unpack: Unpack<'a>,
    /// Delete the volumes that no record mentions.
    pub remove_strangers: bool,
    /// Told which layer is looked at now.
    pub at: &'a dyn Fn(&LayerRecord),
}

impl std::fmt::Debug for Wishes<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wishes")
            .field("remove_strangers", &self.remove_strangers)
            .finish_non_exhaustive()
    }
}

/// What a repair did.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Repaired {
    /// Layers that were looked at.
    pub layers: u64,
    /// What was put right, a line each.
    pub repaired: Vec<String>,
    /// What is not whole, a line each.
    pub left: Vec<String>,
}

/// Makes a root's pool whole: its metadata, then all that stands on it.
///
/// # Errors
/// Volumes in use; metadata that nothing can be made of without losing what containers have written; the work's own.
/// What cannot be repaired is no error: it is told.
pub fn repair(store: &Arc<Store>, means: Means<'_>, wishes: &Wishes<'_>) -> Result<(Metadata, Repaired)> {
    let lock = store.exclusive()?;
    let mark = Mark::take(store, &lock)?;
    let was_cut_short = mark.is_set()?;
    let metadata = repair::metadata(store, &lock, &mark, means)?;
    let pool = assembly::reopen(store, &lock)?;
    lock.done()?;
    let is_doubtful = was_cut_short || matches!(metadata, Metadata::Repaired { .. } | Metadata::Renewed { .. });
    let thin = Thin::with_pool(Arc::clone(store), Box::new(pool))?;
    let repaired = thin.repair(wishes, &mark, is_doubtful)?;
    mark.done()?;
    Ok((metadata, repaired))
}

impl Thin {
    /// Brings everything on the pool in order.
    fn repair(&self, wishes: &Wishes<'_>, mark: &Mark, is_doubtful: bool) -> Result<Repaired> {
        let mut work = Work {
            thin: self,
            wishes,
            mark,
            is_doubtful,
            told: Repaired::default(),
            there: BTreeSet::new(),
            broken: BTreeSet::new(),
        };
        work.reconcile()?;
        work.told.repaired.extend(self.take_up()?);
        work.golden()?;
        work.layers()?;
        work.actives()?;
        Ok(work.told)
    }
}

pub(super) struct Work<'a> {
    pub(super) thin: &'a Thin,
    pub(super) wishes: &'a Wishes<'a>,
    mark: &'a Mark,
    /// The metadata may be older than the records, or have holes: what no digest describes cannot be trusted.
    is_doubtful: bool,
    pub(super) told: Repaired,
    /// The pool's volumes when it began.
    pub(super) there: BTreeSet<u32>,
    /// Layers that are not whole, and that nothing can be built on.
    pub(super) broken: BTreeSet<ChainId>,
}

impl Work<'_> {
    /// Makes the records and the pool agree on the transaction id, and finds out who is missing.
    fn reconcile(&mut self) -> Result<()> {
        let (thin, store) = (self.thin, &self.thin.store);
        let status = thin.pool.status()?;
        status.require(Need::Metadata, "of this root")?;
        let lock = store.exclusive()?;
        let pool = status.transaction_id;
        let mut record = thin.record()?;
        for intent in store.intents.dead()? {
            let Plan::Thin { from, .. } = intent.plan() else {
                continue;
            };
            let fits = record.transaction_id == from + 1
                || (record.transaction_id == *from && (*from..=from + 1).contains(&pool));
            if fits {
                self.told.repaired.push(thin.settle(&lock, intent)?);
                record = thin.record()?;
            } else {
                self.mark.set()?;
                self.give_up_step(&lock, intent)?;
            }
        }
        let pool = thin.pool.transaction_id()?;
        if pool != record.transaction_id {
            self.mark.set()?;
            // Of a step that has happened nothing may come back: its number means nothing from here on.
            store.intents.sync()?;
            self.told.repaired.push(format!(
                "the pool's transaction id is {pool}, the records said {}: somebody else changed it, or it is an \
                 older state of it; the records take the pool's",
                record.transaction_id
            ));
            record.transaction_id = pool;
            store.pool.put(&lock, &record)?;
        }
        self.there = thin.pool.ids()?.iter().map(|id| id.get()).collect();
        self.settle_views(&lock)?;
        lock.done()?;
        self.strangers()
    }

    /// A step of a dead process that fits to nothing: what the records say decides, and they are compared next.
    fn give_up_step(&mut self, lock: &Exclusive, intent: Intent) -> Result<()> {
        let Plan::Thin { step, .. } = intent.plan().clone() else {
            return Ok(());
        };
        // Where the layer has its record, the snapshot's is the one that is too many.
        if let ThinStep::Publish { key, layer } = step
            && self
                .thin
                .store
                .layers
                .get(&layer.key())?
                .is_some_and(|there| there.place == layer.place)
        {
            self.thin.store.snapshots.remove(lock, &key)?;
        }
        self.told
            .repaired
            .push("gave up a step that a dead process had begun in the pool: it fits to no state of it".to_owned());
        intent.done()
    }

    /// A view is its layer's volume, also where that was replaced and the view's record was not reached.
    pub(super) fn settle_views(&self, lock: &Exclusive) -> Result<()> {
        let store = &self.thin.store;
        for view in store.snapshots.list()?.into_iter().filter(|one| one.read_only) {
            let layer = match &view.parent {
                Some(chain) => store.layers.get(&chain.0.hex())?,
                None => None,
            };
            if let Some(layer) = layer.filter(|layer| layer.place != view.place) {
                let place = layer.place;
                store.snapshots.put(lock, &SnapshotRecord { place, ..view })?;
            }
        }
        Ok(())
    }

    /// Volumes that no record and no step mentions: not ours to delete unasked.
    fn strangers(&mut self) -> Result<()> {
        let known = self.thin.known()?;
        for number in self.there.difference(&known) {
            if !self.wishes.remove_strangers {
                self.told.left.push(format!(
                    "the pool has a volume {number} that belongs to nothing: --remove-strangers deletes it"
                ));
                continue;
            }
            let id = thin_id(*number)?;
            let claim = self.thin.pool.claim(id)?;
            self.thin.pool.discard(&claim)?;
            let mut transaction = self.thin.begin()?;
            let delete = |pool: &dyn crate::dm::volume::Pool| pool.delete(id).map(drop);
            transaction.step(ThinStep::Delete { id: *number }, delete, |store, lock, _| {
                forget(store, lock, id)?;
                self.thin.pool.forget(id)
            })?;
            transaction.finish()?;
            self.told
                .repaired
                .push(format!("deleted the volume {number}, which belonged to nothing"));
        }
        Ok(())
    }

    /// The empty volume that base layers start from: forgotten where it is not whole, and made again by its next user.
    fn golden(&mut self) -> Result<()> {
        let Some(number) = self.thin.record()?.golden else {
            return Ok(());
        };
        let is_there = self.there.contains(&number);
        if is_there && self.damage(number, Content::Layer)?.is_none() {
            return Ok(());
        }
        let lock = self.thin.store.exclusive()?;
        if is_there {
            self.thin.store.snapshots.put(&lock, &condemned(number))?;
        }
        let mut record = self.thin.record()?;
        record.golden = None;
        self.thin.store.pool.put(&lock, &record)?;
        lock.done()?;
        if is_there {
            self.thin.remove(&condemned(number).key)?;
        }
        self.told
            .repaired
            .push("the golden volume was not whole: it is made again when it is needed".to_owned());
        Ok(())
    }

    /// What `e2fsck` finds wrong in a volume; none where it is clean.
    pub(super) fn damage(&self, number: u32, content: Content) -> Result<Option<String>> {
        let claim = self.thin.pool.claim(thin_id(number)?)?;
        Ok(match self.thin.pool.check_filesystem(&claim, content, false) {
            Ok(Checked::Clean) => None,
            Ok(Checked::Fixed(said) | Checked::Damaged(said)) => Some(said),
            // A device that cannot be read.
            Err(error) => Some(whole(&error)),
        })
    }

    /// The writable snapshots, which no digest describes.
    fn actives(&mut self) -> Result<()> {
        let snapshots = self.thin.store.snapshots.list()?.into_iter();
        let mine = snapshots.filter(|one| !one.read_only && one.phase == Phase::Ready);
        for snapshot in mine.collect::<Vec<_>>() {
            let who = who(&self.thin.store, &snapshot.key)?;
            let missing = snapshot.place.volumes().into_iter().find(|id| !self.there.contains(id));
            if let Some(id) = missing {
                self.told.left.push(format!(
                    "{who} is lost: the pool has no volume {id} any more; its record stays until plywood rm"
                ));
                continue;
            }
            if let Err(error) = self.active(&snapshot, &who) {
                self.told.left.push(format!("{who} is not whole: {}", whole(&error)));
            }
        }
        Ok(())
    }

    fn active(&mut self, snapshot: &SnapshotRecord, who: &str) -> Result<()> {
        if self.is_doubtful {
            self.told.left.push(format!(
                "{who} cannot be verified: its filesystem is checked, but parts of what it wrote may be missing or older"
            ));
        }
        if matches!(snapshot.place, Place::Merging { .. }) {
            // Its own command goes on where it was.
            return Ok(());
        }
        let content = self.thin.content_of(snapshot)?;
        let id = id_of(&snapshot.place)?;
        let pool = self.thin.pool.as_ref();
        let claim = pool.claim(id)?;
        let revived = matches!(content, Content::Store { .. }) && pool.revive(&claim, content)?;
        let lost = pool.has_lost_writes(id)?;
        let found = pool.check_filesystem(&claim, content, true)?;
        match &found {
            Checked::Damaged(said) => {
                return Err(Error::corrupt(format!("e2fsck cannot repair its filesystem: {said}")));
            }
            Checked::Fixed(said) => self
                .told
                .repaired
                .push(format!("repaired the filesystem of {who}: {said}")),
            Checked::Clean => {}
        }
        if revived {
            self.told.repaired.push(format!(
                "took back the exception store of {who}, which the kernel had given up: what was synced before is there"
            ));
        }
        if revived || lost {
            pool.forgive(&claim)?;
            self.told.repaired.push(format!(
                "{who} lost what it wrote and did not sync before its pool was full or failing; what is left can be used"
            ));
        }
        Ok(())
    }
}

impl Thin {
    /// Every volume that a record or an unfinished step mentions.
    fn known(&self) -> Result<BTreeSet<u32>> {
        let mut owners: BTreeMap<u32, String> = self.owners(&BTreeSet::new(), &mut Vec::new())?;
        owners.extend(self.unfinished()?.into_iter().map(|(_, id)| (id, String::new())));
        Ok(owners.into_keys().collect())
    }
}

/// The record of a volume that only has to be deleted.
pub(super) fn condemned(number: u32) -> SnapshotRecord {
    SnapshotRecord {
        key: format!("replaced-{number}"),
        parent: None,
        read_only: false,
        place: Place::Thin(number),
        phase: Phase::Deleting,
        lease: None,
        mounted_at: None,
    }
}

/// A snapshot by its container's name, where it has one.
fn who(store: &Store, key: &str) -> Result<String> {
    Ok(match store.containers.get(key)? {
        Some(container) => format!("the container {}", container.name),
        None => format!("the snapshot {key}"),
    })
}

/// An error with its causes on one line.
pub(super) fn whole(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    text
}
