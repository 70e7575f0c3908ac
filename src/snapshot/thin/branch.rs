//! How an active snapshot's volume comes to be: a branch of its parent's, of the golden one, or of another
//! active snapshot's.

use plywood_store::ChainId;
use plywood_store::intent::Intent;
use plywood_store::record::{Phase, Place, SnapshotRecord};

use super::transaction::Transaction;
use super::{Thin, id_of, thin_id};
use crate::dm::pool::ThinId;
use crate::dm::volume::{Pool, lost};
use crate::error::{Result, both};
use crate::snapshot::HeldBack;

/// Of what nobody writes to.
pub(super) fn at_once(work: &mut dyn FnMut() -> Result<()>) -> Result<()> {
    work()
}

impl Thin {
    pub(super) fn prepare_branch(&self, key: &str, parent: Option<&ChainId>, owner: Option<&Intent>) -> Result<()> {
        let mut transaction = self.begin()?;
        self.require_free(key)?;
        let origin = match parent {
            Some(chain) => Some(self.trusted(&self.layer(chain)?.place)?),
            None => None,
        };
        self.pool.ensure_room()?;
        let origin = match origin {
            Some(origin) => origin,
            None => self.golden(&mut transaction)?,
        };
        self.branch(
            &mut transaction,
            origin,
            new_snapshot(key, parent, owner),
            Place::Thin,
            &at_once,
        )?;
        transaction.finish()
    }

    /// The volume that empty snapshots start from; formatted on first use.
    fn golden(&self, transaction: &mut Transaction<'_>) -> Result<ThinId> {
        if let Some(id) = transaction.record().golden {
            return thin_id(id);
        }
        let make = |pool: &dyn Pool, id: ThinId| pool.create_thin(id).and_then(|()| pool.format(id));
        transaction.create(None, None, make, |_, _, id, record| {
            record.golden = Some(id.get());
            Ok(())
        })
    }

    /// A new volume like `origin`, with its record; made while `held_back` holds back who writes to that.
    fn branch(
        &self,
        transaction: &mut Transaction<'_>,
        origin: ThinId,
        snapshot: SnapshotRecord,
        place: fn(u32) -> Place,
        held_back: HeldBack<'_>,
    ) -> Result<()> {
        let key = snapshot.key.clone();
        let make = |pool: &dyn Pool, id: ThinId| held_back(&mut || snap_quiet(pool, id, origin));
        transaction.create(Some(&key), Some(origin), make, |store, lock, id, _| {
            store.snapshots.put(
                lock,
                &SnapshotRecord {
                    place: place(id.get()),
                    ..snapshot
                },
            )
        })?;
        Ok(())
    }

    /// A copy of an active snapshot.
    pub(super) fn snap(&self, key: &str, copy: &str, owner: Option<&Intent>, held_back: HeldBack<'_>) -> Result<()> {
        let mut transaction = self.begin()?;
        let live = self.snapshot(key)?;
        // The copy has no mark of its own.
        if self.pool.has_lost_writes(id_of(&live.place)?)? {
            return Err(lost(id_of(&live.place)?));
        }
        self.require_free(copy)?;
        self.pool.ensure_room()?;
        let frozen = new_snapshot(copy, live.parent.as_ref(), owner);
        let place = match live.place {
            Place::Cow(_) => Place::Cow,
            _ => Place::Thin,
        };
        self.branch(&mut transaction, id_of(&live.place)?, frozen, place, held_back)?;
        transaction.finish()
    }
}

/// Makes a snapshot of a volume, whose device, if it has one, is suspended meanwhile.
pub(super) fn snap_quiet(pool: &dyn Pool, id: ThinId, origin: ThinId) -> Result<()> {
    let quiet = pool.quiesce(origin)?;
    let made = pool.create_snap(id, origin);
    both(made, quiet.close())
}

/// The record of an active snapshot that has no volume yet.
pub(super) fn new_snapshot(key: &str, parent: Option<&ChainId>, owner: Option<&Intent>) -> SnapshotRecord {
    SnapshotRecord {
        key: key.to_owned(),
        parent: parent.copied(),
        read_only: false,
        place: Place::Thin(0),
        phase: Phase::Ready,
        lease: owner.map(|owner| owner.id().to_owned()),
        mounted_at: None,
    }
}
