//! The thin driver: each layer and each active snapshot is a volume of a thin pool.
//!
//! A new active snapshot is the kernel's snapshot of its parent's volume, or of
//! the *golden* one: empty, formatted once. A view is its layer's own volume,
//! mounted read-only. Committing moves no data: the snapshot's volume becomes
//! the layer's.
//!
//! Kernel and records move together in short transactions ([`transaction`]);
//! what a dead process left is taken up by [`recovery`]. Content is deleted in
//! this order: its record says *deleting*, the volume is discarded, deleted,
//! the record removed; it goes only forward.

mod blocks;
mod branch;
mod cow;
mod places;
mod publish;
mod rebuild;
mod recovery;
mod removal;
pub mod repair;
mod space;
mod transaction;

use std::cell::{Cell, RefCell};
use std::path::Path;
use std::sync::Arc;

use plywood_store::intent::Intent;
use plywood_store::layer::diff::Everything;
use plywood_store::record::{
    LayerRecord, POOL_KEY, Phase, Place, PoolDevices, PoolRecord, SnapshotRecord, key_is_valid,
};
use plywood_store::{ChainId, Driver, Store};

use crate::delta::noted::Pair;
use crate::dm::assembly;
use crate::dm::classic::Status;
use crate::dm::pool::ThinId;
use crate::dm::volume::{Content, Part, Pool};
use crate::error::{Error, Kind, Result};
use crate::snapshot::{
    Access, Comparison, Device, Differ, Found, Gauge, Group, Mounted, NewLayer, Side, Snapshotter, Space, StackItem,
    User, shown,
};

use self::blocks::ByBlocks;
use self::branch::new_snapshot;
use self::removal::forget;

/// The driver on one root.
pub struct Thin {
    store: Arc<Store>,
    pool: Box<dyn Pool>,
    /// The volume that was compared last by its blocks, and the names that it adds to its parent's.
    added: RefCell<Option<(ThinId, Vec<Pair>)>>,
    /// The volume that was compared last by its blocks, if its superblock was clean and it was not mounted to write since.
    clean: Cell<Option<ThinId>>,
}

impl std::fmt::Debug for Thin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Thin")
            .field("root", &self.store.root())
            .finish_non_exhaustive()
    }
}

impl Thin {
    /// The driver on the root's pool in the kernel, which is put together or made where it has to be.
    ///
    /// # Errors
    /// Where there can be no pool.
    pub fn open(store: Arc<Store>) -> Result<Self> {
        let lock = store.exclusive()?;
        let pool = assembly::open(&store, &lock)?;
        lock.done()?;
        Ok(Self {
            store,
            pool: Box::new(pool),
            added: RefCell::default(),
            clean: Cell::default(),
        })
    }

    /// The driver on another pool: a simulated one.
    ///
    /// # Errors
    /// The store's.
    pub fn with_pool(store: Arc<Store>, pool: Box<dyn Pool>) -> Result<Self> {
        let lock = store.exclusive()?;
        if store.pool.get(POOL_KEY)?.is_none() {
            let record = PoolRecord {
                transaction_id: 0,
                golden: None,
                volume_size: assembly::VOLUME_SIZE,
                block_sectors: 128,
                devices: PoolDevices::LoopFiles {
                    data_limit: assembly::DATA_SIZE,
                    grows_to: None,
                },
            };
            store.pool.put(&lock, &record)?;
        }
        lock.done()?;
        Ok(Self {
            store,
            pool,
            added: RefCell::default(),
            clean: Cell::default(),
        })
    }

    /// The pool underneath.
    pub fn pool(&self) -> &dyn Pool {
        self.pool.as_ref()
    }

    /// The snapshot's record, in whatever phase.
    fn recorded(&self, key: &str) -> Result<Option<SnapshotRecord>> {
        match key_is_valid(key) {
            true => self.store.snapshots.get(key),
            false => Ok(None),
        }
    }

    fn snapshot(&self, key: &str) -> Result<SnapshotRecord> {
        match self.recorded(key)? {
            Some(snapshot) if snapshot.phase == Phase::Ready => Ok(snapshot),
            _ => Err(Error::not_found(format!("there is no snapshot {key:?}"))),
        }
    }

    fn layer(&self, chain: &ChainId) -> Result<LayerRecord> {
        match self.store.layers.get(&chain.0.hex())? {
            Some(layer) if layer.phase == Phase::Ready => Ok(layer),
            _ => Err(Error::not_found(format!("there is no layer {chain}"))),
        }
    }

    /// A key that nobody has yet.
    fn require_free(&self, key: &str) -> Result<()> {
        if !key_is_valid(key) {
            return Err(Error::invalid(format!("{key:?} cannot be a snapshot's key")));
        }
        match self.store.snapshots.get(key)? {
            None => Ok(()),
            Some(_) => Err(Error::new(Kind::Exists, format!("there is a snapshot {key:?} already"))),
        }
    }

    /// The same snapshot as before its volume was taken: what was removed meanwhile is not there any more.
    fn require_still(&self, snapshot: &SnapshotRecord) -> Result<()> {
        match self.snapshot(&snapshot.key) {
            Ok(now) if now.place == snapshot.place && now.parent == snapshot.parent => Ok(()),
            Ok(_) => Err(Error::not_found(format!(
                "there is no snapshot {:?} any more",
                snapshot.key
            ))),
            Err(error) => Err(error),
        }
    }
}

impl Snapshotter for Thin {
    fn driver(&self) -> Driver {
        Driver::Thin
    }

    fn prepare(&self, key: &str, parent: Option<&ChainId>, owner: Option<&Intent>) -> Result<()> {
        self.prepare_branch(key, parent, owner)
    }

    fn prepare_cow(&self, key: &str, parent: &ChainId, owner: Option<&Intent>) -> Result<()> {
        self.prepare_store(key, parent, owner)
    }

    fn store_status(&self, key: &str) -> Result<Option<Status>> {
        match self.snapshot(key)?.place {
            Place::Cow(id) | Place::Merging { target: id, .. } => self.pool.store_status(thin_id(id)?),
            _ => Ok(None),
        }
    }

    fn gauge(&self) -> Option<Box<dyn Gauge>> {
        self.pool.gauge()
    }

    fn fold(&self, key: &str, progress: &mut dyn FnMut(u64, u64)) -> Result<()> {
        self.fold_store(key, progress)
    }

    fn view(&self, key: &str, parent: &ChainId, owner: Option<&Intent>) -> Result<()> {
        let lock = self.store.exclusive()?;
        self.require_free(key)?;
        let place = self.layer(parent)?.place;
        let view = SnapshotRecord {
            read_only: true,
            place,
            ..new_snapshot(key, Some(parent), owner)
        };
        self.store.snapshots.put(&lock, &view)?;
        lock.done()
    }

    fn capture(&self, key: &str, copy: &str, owner: Option<&Intent>) -> Result<()> {
        self.snap(key, copy, owner, &branch::at_once)
    }

    fn capture_live(&self, key: &str, copy: &str, owner: &Intent, user: &User<'_>) -> Result<Option<Comparison>> {
        self.snap(key, copy, Some(owner), user.held_back).map(|()| None)
    }

    fn mount(&self, key: &str, access: Access) -> Result<Mounted> {
        let snapshot = self.snapshot(key)?;
        if snapshot.read_only && access != Access::ReadOnly {
            return Err(Error::invalid(format!(
                "the snapshot {key:?} is a view: it is never written"
            )));
        }
        if access != Access::ReadOnly {
            self.clean.set(None);
            // Its writes would be lost with its filesystem: a full pool is worse than a full disk.
            let lock = self.store.exclusive()?;
            self.pool.ensure_room()?;
            lock.done()?;
        }
        let mounted = self.mount_volume(&snapshot.place, self.content_of(&snapshot)?, access)?;
        self.require_still(&snapshot)?;
        Ok(mounted)
    }

    fn device(&self, key: &str) -> Result<Option<Device>> {
        let snapshot = self.snapshot(key)?;
        if snapshot.read_only || snapshot.parent.is_some() || !matches!(snapshot.place, Place::Thin(_)) {
            return Ok(None);
        }
        let lock = self.store.exclusive()?;
        self.pool.ensure_room()?;
        lock.done()?;
        let device = self.pool.device(id_of(&snapshot.place)?)?;
        self.require_still(&snapshot)?;
        Ok(device.map(Device::new))
    }

    fn mount_at(&self, key: &str, target: &Path) -> Result<()> {
        let lock = self.store.exclusive()?;
        let snapshot = self.snapshot(key)?;
        let (id, content) = (id_of(&snapshot.place)?, self.content_of(&snapshot)?);
        shown::mount(&self.store, &lock, &snapshot, target, || {
            self.pool.mount_at(id, content, target)
        })?;
        lock.done()
    }

    fn unmount_at(&self, key: &str) -> Result<()> {
        // Whatever its phase, and also where a killed command never made it: then nothing is mounted.
        let lock = self.store.exclusive()?;
        let Some(snapshot) = self.recorded(key)? else {
            return lock.done();
        };
        let Some(target) = &snapshot.mounted_at else {
            return lock.done();
        };
        self.pool.unmount_at(id_of(&snapshot.place)?, target)?;
        shown::forget(&self.store, &lock, key)?;
        lock.done()
    }

    fn sweep_mounts(&self) -> Result<Vec<SnapshotRecord>> {
        shown::sweep(&self.store)
    }

    fn compare(&self, key: &str, differ: Differ) -> Result<Comparison> {
        let snapshot = self.snapshot(key)?;
        let mut because = None;
        if differ != Differ::Walk && !matches!(snapshot.place, Place::Merging { .. }) {
            // What cannot be read as it is, the kernel can read perhaps: after a power cut, say.
            let by_blocks = self.compare_blocks(&snapshot);
            let why = match by_blocks.unwrap_or_else(|error| ByBlocks::Unknown(repair::whole(&error))) {
                ByBlocks::Found(comparison) => return Ok(comparison),
                ByBlocks::Nothing(why) => why.to_owned(),
                ByBlocks::Unknown(why) => because.insert(why).clone(),
            };
            if differ == Differ::Block {
                return Err(
                    Error::invalid(format!("the changed blocks of {key} do not tell what changed: {why}"))
                        .hinted("--diff=auto walks through both trees then"),
                );
            }
            tracing::info!("{key} is compared by a walk: {why}");
        }
        let parent: Option<Box<dyn Side>> = match &snapshot.parent {
            Some(chain) => {
                let place = &self.layer(chain)?.place;
                Some(Box::new(self.mount_volume(place, Content::Layer, Access::ReadOnly)?))
            }
            None => None,
        };
        let child = self.mount_volume(&snapshot.place, self.content_of(&snapshot)?, Access::ReadOnly)?;
        Ok(Comparison {
            parent,
            child: Box::new(child),
            scope: Box::new(Everything),
            found: Found::Walk { because },
        })
    }

    fn compare_layers(&self, from: &ChainId, to: &ChainId) -> Result<Option<Comparison>> {
        let by_blocks = self.compare_layer_blocks(&self.layer(from)?, &self.layer(to)?);
        let why = match by_blocks.unwrap_or_else(|error| ByBlocks::Unknown(repair::whole(&error))) {
            ByBlocks::Found(comparison) => return Ok(Some(comparison)),
            ByBlocks::Nothing(why) => why.to_owned(),
            ByBlocks::Unknown(why) => why,
        };
        tracing::info!("layers {from} and {to} are compared by a walk: {why}");
        Ok(None)
    }

    fn commit(&self, key: &str, layer: &NewLayer) -> Result<LayerRecord> {
        self.publish(key, layer)
    }

    fn remove(&self, key: &str) -> Result<()> {
        self.remove_snapshot(key)
    }

    fn remove_layer(&self, chain: &ChainId) -> Result<()> {
        self.remove_layer_of(chain)
    }

    fn space(&self, groups: &[Group]) -> Result<Space> {
        self.measure(groups)
    }

    fn stack(&self, key: &str) -> Result<Vec<StackItem>> {
        let snapshot = self.snapshot(key)?;
        let mut stack = Vec::new();
        if let Some(target) = &snapshot.mounted_at {
            stack.push(StackItem {
                kind: "mount",
                name: target.display().to_string(),
                detail: Some("ro".into()),
            });
        }
        stack.extend(
            self.pool
                .describe(id_of(&snapshot.place)?, self.content_of(&snapshot)?)?
                .into_iter()
                .map(item),
        );
        Ok(stack)
    }

    fn layer_stack(&self, chain: &ChainId) -> Result<Vec<StackItem>> {
        let parts = self.pool.describe(id_of(&self.layer(chain)?.place)?, Content::Layer)?;
        Ok(parts.into_iter().map(item).collect())
    }

    fn recover(&self) -> Result<Vec<String>> {
        self.take_up()
    }

    fn verify(&self) -> Result<Vec<String>> {
        self.findings()
    }
}

fn thin_id(id: u32) -> Result<ThinId> {
    ThinId::new(id).ok_or_else(|| Error::corrupt(format!("{id} is no thin id: it has more than 24 bits")))
}

fn id_of(place: &Place) -> Result<ThinId> {
    match place {
        Place::Thin(id) | Place::Cow(id) | Place::Merging { target: id, .. } => thin_id(*id),
        Place::Folder(name) => Err(Error::corrupt(format!(
            "the folder {name} is the overlay driver's, and this root is thin's"
        ))),
    }
}

fn item(part: Part) -> StackItem {
    StackItem {
        kind: part.kind,
        name: part.name,
        detail: part.detail,
    }
}
