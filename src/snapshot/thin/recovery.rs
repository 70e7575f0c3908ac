//! Taking up what dead processes left, and comparing the records with the pool.

use std::collections::{BTreeMap, BTreeSet};

use plywood_store::intent::{Plan, ThinStep};
use plywood_store::record::{LayerRecord, Phase, Place, SnapshotRecord};

use super::{Thin, id_of};
use crate::dm::pool::ThinId;
use crate::dm::status::Need;
use crate::error::{Kind, Result};
use crate::snapshot::Snapshotter;

impl Thin {
    /// Finishes or undoes unfinished steps, removes snapshots whose lease ended and
    /// volumes that are on their way out, gives back devices. A line for each.
    ///
    /// On a pool that cannot be written nothing is taken up, and that is no
    /// failure: what is stored can still be read.
    pub(super) fn take_up(&self) -> Result<Vec<String>> {
        if let Err(error) = self.pool.status()?.require(Need::Metadata, "of this root") {
            return Ok(vec![format!("nothing yet: {error}")]);
        }
        let lock = self.store.exclusive()?;
        self.store.forget_other_boots(&lock)?;
        let mut lines = Vec::new();
        let mut dead = Vec::new();
        for intent in self.store.intents.dead()? {
            match intent.plan() {
                Plan::Thin { .. } => lines.push(self.settle(&lock, intent)?),
                Plan::Work { .. } | Plan::Container { .. } => dead.push(intent),
            }
        }
        // Read once: each record is a file, and every command comes this way.
        let there = There::read(self)?;
        let mut ended = Vec::new();
        for snapshot in &there.snapshots {
            let Some(lease) = &snapshot.lease else { continue };
            // The dead ones are ours now, and so look alive.
            let is_dead = dead.iter().any(|intent| intent.id() == lease) || !self.store.intents.is_live(lease)?;
            if is_dead && snapshot.phase == Phase::Ready {
                ended.push((snapshot.key.clone(), lease.clone()));
            }
        }
        self.forget_strangers(&there)?;
        lock.done()?;

        let mut kept = BTreeSet::new();
        for (key, lease) in ended {
            match self.remove(&key) {
                Ok(()) => lines.push(format!("removed the snapshot {key}, whose owner is dead")),
                Err(error) if error.kind() == Kind::InUse => {
                    kept.insert(lease);
                }
                Err(error) => return Err(error),
            }
        }
        for intent in dead {
            if let Plan::Work { verb, .. } = intent.plan()
                && !kept.contains(intent.id())
            {
                tracing::debug!(verb, "the work of a dead process is given up");
                intent.done()?;
            }
        }
        self.finish_deletions(there, &mut lines)?;
        lines.extend(self.pool.sweep()?);
        Ok(lines)
    }

    /// Removes the lock files of volumes that no record and no step names. Under the exclusive lock.
    fn forget_strangers(&self, there: &There) -> Result<()> {
        let steps = self.unfinished()?.into_iter().map(|(_, id)| id);
        let owners = there.owners(&BTreeSet::new(), &mut Vec::new());
        self.pool.forget_others(&owners.into_keys().chain(steps).collect())
    }

    /// Deletes what was on its way out when `there` was read.
    fn finish_deletions(&self, there: There, lines: &mut Vec<String>) -> Result<()> {
        let snapshots = there.snapshots.into_iter();
        let snapshots = snapshots
            .filter(|one| one.phase == Phase::Deleting)
            .map(|one| (one.place, one.read_only, one.key));
        let layers = there.layers.into_iter();
        let layers = layers
            .filter(|one| one.phase == Phase::Deleting)
            .map(|one| (one.place, false, one.chain_id.to_string()));
        for (place, is_view, what) in snapshots.chain(layers) {
            if is_view {
                self.remove(&what)?;
                continue;
            }
            for id in place.volumes() {
                match self.pool.claim(super::thin_id(id)?) {
                    Ok(claim) => {
                        if self.erase(claim)? {
                            lines.push(format!("finished removing {what}"));
                        }
                    }
                    // Another process is at it.
                    Err(error) if error.kind() == Kind::InUse => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }

    /// What does not fit together, a line for each.
    pub(super) fn findings(&self) -> Result<Vec<String>> {
        let lock = self.store.exclusive()?;
        let mut findings = Vec::new();
        let status = self.pool.status()?;
        if let Err(error) = status.require(Need::Space, "of this root") {
            findings.push(error.to_string());
        }
        let record = self.record()?;
        let unfinished = self.unfinished()?;
        let is_explained = |(from, _): &(u64, u32)| *from == record.transaction_id && status.transaction_id == from + 1;
        let is_known = status.require_known("of this root").is_ok();
        if is_known && status.transaction_id != record.transaction_id && !unfinished.iter().any(is_explained) {
            findings.push(format!(
                "the pool's transaction id is {}, the records say {}",
                status.transaction_id, record.transaction_id
            ));
        }
        let passed_over: BTreeSet<u32> = unfinished.into_iter().map(|(_, id)| id).collect();
        let owners = self.owners(&passed_over, &mut findings)?;
        for (id, owner) in &owners {
            if self.pool.has_lost_writes(super::thin_id(*id)?)? {
                findings.push(format!(
                    "{owner} (volume {id}) lost writes: its pool was full or failing under its writer"
                ));
            }
        }
        let mut there = self.pool.ids()?;
        there.retain(|id| !passed_over.contains(&id.get()));
        compare(&owners, &there, &mut findings);
        lock.done()?;
        Ok(findings)
    }

    /// The steps that dead commands left: the next one takes them up, so what is half done is no damage. Each with
    /// the transaction id that it began from, and the volume that it is about. Under the exclusive lock.
    pub(super) fn unfinished(&self) -> Result<Vec<(u64, u32)>> {
        let plans = self.store.intents.list()?.into_iter();
        let steps = plans.filter_map(|(_, plan, _)| match plan {
            Plan::Thin { from, step } => match step {
                ThinStep::Create { id, .. } | ThinStep::Delete { id } => Some((from, id)),
                ThinStep::Publish { layer, .. } => Some((from, id_of(&layer.place).ok()?.get())),
            },
            Plan::Work { .. } | Plan::Container { .. } => None,
        });
        Ok(steps.collect())
    }

    /// Who owns which volume, but for those that are passed over. Views own none.
    pub(super) fn owners(
        &self,
        passed_over: &BTreeSet<u32>,
        findings: &mut Vec<String>,
    ) -> Result<BTreeMap<u32, String>> {
        Ok(There::read(self)?.owners(passed_over, findings))
    }
}

/// What the records say that there is.
struct There {
    layers: Vec<LayerRecord>,
    snapshots: Vec<SnapshotRecord>,
    golden: Option<u32>,
}

impl There {
    fn read(thin: &Thin) -> Result<Self> {
        Ok(Self {
            layers: thin.store.layers.list()?,
            snapshots: thin.store.snapshots.list()?,
            golden: thin.record()?.golden,
        })
    }

    /// As for [`Thin::owners`].
    fn owners(&self, passed_over: &BTreeSet<u32>, findings: &mut Vec<String>) -> BTreeMap<u32, String> {
        let layers = self.layers.iter();
        let layers = layers.map(|layer| (layer.place.clone(), format!("the layer {}", layer.chain_id)));
        let snapshots = self.snapshots.iter().filter(|snapshot| !snapshot.read_only);
        let snapshots = snapshots.map(|snapshot| (snapshot.place.clone(), format!("the snapshot {}", snapshot.key)));
        let golden = self.golden.map(|id| (Place::Thin(id), "the golden volume".to_owned()));
        let mut owners = BTreeMap::new();
        for (place, owner) in layers.chain(snapshots).chain(golden) {
            if let Place::Folder(name) = &place {
                findings.push(format!("{owner} is in the folder {name}, not on the pool"));
            }
            for id in place.volumes().into_iter().filter(|id| !passed_over.contains(id)) {
                if let Some(other) = owners.insert(id, owner.clone()) {
                    findings.push(format!("the volume {id} belongs to {owner} and to {other}"));
                }
            }
        }
        owners
    }
}

fn compare(owners: &BTreeMap<u32, String>, there: &[ThinId], findings: &mut Vec<String>) {
    let there: BTreeSet<u32> = there.iter().map(|id| id.get()).collect();
    findings.extend(
        owners
            .iter()
            .filter(|(id, _)| !there.contains(id))
            .map(|(id, owner)| missing(owner, *id)),
    );
    let strangers = there.iter().filter(|id| !owners.contains_key(id));
    findings.extend(strangers.map(|id| format!("the pool has a volume {id} that belongs to nothing")));
}

fn missing(owner: &str, id: u32) -> String {
    format!("{owner} stands on volume {id}, which the pool does not have")
}
