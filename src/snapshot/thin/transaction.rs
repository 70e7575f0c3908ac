//! One short step that moves the pool and the records together.
//!
//! ```text
//! exclusive lock
//!   intent      {from: n, step}             fsynced, owned
//!   pool        create_snap, delete, ...    status line read after it
//!   pool        set_transaction_id n n+1    compare and swap
//!   records     the snapshot's or layer's
//!   record      the pool's, with n+1        from here on the step has happened
//!   intent      removed
//! ```
//!
//! Long work (filling a volume, comparing, discarding) is never inside. After a
//! failure or a crash at any line, [`Thin::settle`] goes back (create) or forward
//! (publish, delete), and may do so as often as it takes.

use std::collections::BTreeSet;

use plywood_store::Store;
use plywood_store::intent::{Intent, Plan, ThinStep};
use plywood_store::lock::Exclusive;
use plywood_store::record::{POOL_KEY, PoolRecord, SnapshotRecord};

use super::{Thin, forget};
use crate::dm::pool::ThinId;
use crate::dm::volume::Pool;
use crate::error::{Error, Kind, Result, undone};

/// How many ids that the pool knows and the records do not are passed over.
const STRANGERS: usize = 64;

/// The exclusive lock, and the pool as the records have it.
pub(super) struct Transaction<'a> {
    thin: &'a Thin,
    lock: Exclusive,
    record: PoolRecord,
}

impl Thin {
    /// Waits for the lock, takes up what a dead process left half done, and makes sure that pool and records agree.
    pub(super) fn begin(&self) -> Result<Transaction<'_>> {
        let lock = self.store.exclusive()?;
        self.settle_dead(&lock)?;
        let record = self.record()?;
        self.require_agreement(&record)?;
        Ok(Transaction {
            thin: self,
            lock,
            record,
        })
    }

    pub(super) fn record(&self) -> Result<PoolRecord> {
        self.store
            .pool
            .get(POOL_KEY)?
            .ok_or_else(|| Error::corrupt(format!("{} has no record of its pool", self.store.root().display())))
    }

    /// Refuses to write where the pool moved without us.
    fn require_agreement(&self, record: &PoolRecord) -> Result<()> {
        let pool = self.pool.transaction_id()?;
        if pool == record.transaction_id {
            return Ok(());
        }
        Err(disagreement(pool, record.transaction_id))
    }

    /// Takes up the steps in the pool that dead processes left; a line for each.
    pub(super) fn settle_dead(&self, lock: &Exclusive) -> Result<Vec<String>> {
        let mut lines = Vec::new();
        for intent in self.store.intents.dead()? {
            // An intent of long work that is dropped here stays for `recover`.
            if matches!(intent.plan(), Plan::Thin { .. }) {
                lines.push(self.settle(lock, intent)?);
            }
        }
        Ok(lines)
    }

    /// Brings an unfinished step to its end or undoes it, whatever part of it has happened.
    pub(super) fn settle(&self, lock: &Exclusive, intent: Intent) -> Result<String> {
        let Plan::Thin { from, step } = intent.plan().clone() else {
            return Err(Error::invalid("long work is not a step in the pool"));
        };
        let mut record = self.record()?;
        let line = if record.transaction_id == from + 1 {
            "finished a step in the pool that had happened already".to_owned()
        } else {
            let pool = self.pool.transaction_id()?;
            if record.transaction_id != from || !(from..=from + 1).contains(&pool) {
                return Err(disagreement(pool, record.transaction_id));
            }
            let (line, now) = self.settle_step(lock, step, from, pool)?;
            record.transaction_id = now;
            self.store.pool.put(lock, &record)?;
            line
        };
        intent.done()?;
        Ok(line)
    }

    /// What was done, and the pool's transaction id after it.
    fn settle_step(&self, lock: &Exclusive, step: ThinStep, from: u64, pool: u64) -> Result<(String, u64)> {
        match step {
            ThinStep::Create { id, key, .. } => {
                if let Some(key) = key
                    && let Some(snapshot) = self.store.snapshots.get(&key)?
                    && snapshot.place.volumes().contains(&id)
                {
                    match snapshot.place.without(id) {
                        Some(place) => self.store.snapshots.put(lock, &SnapshotRecord { place, ..snapshot })?,
                        None => drop(self.store.snapshots.remove(lock, &key)?),
                    }
                }
                let id = super::thin_id(id)?;
                // Nobody can use it yet; a killed mkfs may have left its device.
                drop(self.pool.claim(id)?);
                self.pool.delete(id)?;
                self.pool.forget(id)?;
                Ok((format!("undid the half made volume {id}"), pool))
            }
            ThinStep::Publish { key, layer } if pool == from + 1 => {
                self.store.layers.put(lock, &layer)?;
                self.store.snapshots.remove(lock, &key)?;
                Ok((format!("finished the commit of layer {}", layer.chain_id), pool))
            }
            ThinStep::Publish { key, .. } => Ok((format!("undid the commit of snapshot {key:?}"), pool)),
            ThinStep::Delete { id } => {
                let id = super::thin_id(id)?;
                self.pool.delete(id)?;
                if pool == from {
                    self.pool.set_transaction_id(from, from + 1)?;
                }
                forget(&self.store, lock, id)?;
                self.pool.forget(id)?;
                Ok((format!("finished deleting the volume {id}"), from + 1))
            }
        }
    }
}

impl Transaction<'_> {
    /// The pool as the records have it.
    pub(super) fn record(&self) -> &PoolRecord {
        &self.record
    }

    /// Ends the transaction well.
    pub(super) fn finish(self) -> Result<()> {
        self.lock.done()
    }

    /// Makes a volume under a new id: `make` in the pool, `facts` in the records.
    pub(super) fn create(
        &mut self,
        key: Option<&str>,
        origin: Option<ThinId>,
        make: impl Fn(&dyn Pool, ThinId) -> Result<()>,
        facts: impl FnOnce(&Store, &Exclusive, ThinId, &mut PoolRecord) -> Result<()>,
    ) -> Result<ThinId> {
        for number in self.free_ids()?.take(STRANGERS) {
            let id = super::thin_id(number)?;
            let step = ThinStep::Create {
                id: number,
                origin: origin.map(ThinId::get),
                key: key.map(str::to_owned),
            };
            let intent = self.intend(step)?;
            match make(self.thin.pool.as_ref(), id) {
                // Not ours, and nothing to undo: settling would delete it.
                Err(error) if error.kind() == Kind::Exists => intent.done()?,
                made => {
                    self.carry_out(intent, made, |store, lock, record| facts(store, lock, id, record))?;
                    return Ok(id);
                }
            }
        }
        Err(Error::corrupt("the pool has many volumes that no record mentions").hinted("plywood check names them"))
    }

    /// One step: `kernel` in the pool, the transaction id, `facts` in the records.
    pub(super) fn step(
        &mut self,
        step: ThinStep,
        kernel: impl FnOnce(&dyn Pool) -> Result<()>,
        facts: impl FnOnce(&Store, &Exclusive, &mut PoolRecord) -> Result<()>,
    ) -> Result<()> {
        let intent = self.intend(step)?;
        let moved = kernel(self.thin.pool.as_ref());
        self.carry_out(intent, moved, facts)
    }

    fn intend(&self, step: ThinStep) -> Result<Intent> {
        self.thin.store.intents.begin(Plan::Thin {
            from: self.record.transaction_id,
            step,
        })
    }

    fn carry_out(
        &mut self,
        intent: Intent,
        moved: Result<()>,
        facts: impl FnOnce(&Store, &Exclusive, &mut PoolRecord) -> Result<()>,
    ) -> Result<()> {
        let forward = matches!(
            intent.plan(),
            Plan::Thin {
                step: ThinStep::Delete { .. },
                ..
            }
        );
        match moved.and_then(|()| self.write(facts)) {
            Ok(()) => {
                // The next step's intent makes it durable that this one is gone, before the pool moves again.
                if let Err(error) = intent.done_unsynced() {
                    // It has happened; whoever comes next finds that and removes the intent.
                    tracing::debug!("an intent stays for recovery: {error}");
                }
                Ok(())
            }
            Err(error) => match self.thin.settle(&self.lock, intent) {
                Ok(_) => {
                    self.record = self.thin.record()?;
                    if forward { Ok(()) } else { Err(error) }
                }
                Err(undo) => Err(undone(error, Err(undo))),
            },
        }
    }

    fn write(&mut self, facts: impl FnOnce(&Store, &Exclusive, &mut PoolRecord) -> Result<()>) -> Result<()> {
        let from = self.record.transaction_id;
        self.thin.pool.set_transaction_id(from, from + 1)?;
        let mut record = self.record.clone();
        facts(&self.thin.store, &self.lock, &mut record)?;
        record.transaction_id = from + 1;
        self.thin.store.pool.put(&self.lock, &record)?;
        self.record = record;
        Ok(())
    }

    /// Ids that nothing mentions, from one above the transaction id on: that moves with every step, so an
    /// id is not handed out again, and who is slow never takes another's volume for the one that it knew.
    fn free_ids(&self) -> Result<impl Iterator<Item = u32> + use<>> {
        let store = &self.thin.store;
        let places = store.layers.list()?.into_iter().map(|layer| layer.place);
        let places = places.chain(store.snapshots.list()?.into_iter().map(|snapshot| snapshot.place));
        let used = places.flat_map(|place| place.volumes());
        let planned = store.intents.list()?.into_iter().filter_map(|(_, plan, _)| match plan {
            Plan::Thin {
                step: ThinStep::Create { id, .. } | ThinStep::Delete { id },
                ..
            } => Some(id),
            _ => None,
        });
        let used: BTreeSet<u32> = used.chain(planned).chain(self.record.golden).collect();
        Ok(ids_from(self.record.transaction_id).filter(move |id| !used.contains(id)))
    }
}

/// Every thin id but 0 once, from one above `transaction_id` on, around the end.
fn ids_from(transaction_id: u64) -> impl Iterator<Item = u32> {
    let all = u64::from(ThinId::MAX);
    (0..all).filter_map(move |step| u32::try_from((transaction_id % all + step) % all + 1).ok())
}

fn disagreement(pool: u64, records: u64) -> Error {
    Error::corrupt(format!(
        "the pool's transaction id is {pool}, the records say {records}, and no unfinished step explains it"
    ))
    .hinted("somebody else changed the pool, or an old copy of it or of the records came back; nothing is written until that is clear: plywood check compares them, plywood pool repair goes by the pool")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_follow_the_transaction_id_around_the_end() {
        let first = |transaction_id| ids_from(transaction_id).take(2).collect::<Vec<_>>();
        assert_eq!(first(0), [1, 2]);
        assert_eq!(first(7), [8, 9]);
        assert_eq!(first(u64::from(ThinId::MAX) - 1), [ThinId::MAX, 1]);
        assert_eq!(first(u64::from(ThinId::MAX)), [1, 2]);
    }
}
