//! The overlay driver: layers as folders, stacked with overlayfs.
//!
//! A layer is a folder ([`folders`]); an active snapshot is an upper folder and
//! its work folder; a view is nothing of its own. Every mount, a base layer's
//! too, is one overlay mount ([`stack`]), so that one code serves all. Only an
//! import's base layer is unpacked into the bare folder: making a file through
//! overlayfs takes up to twice as long, and there is nothing underneath to see.
//! What overlayfs refuses (a device 0:0, its whiteout) is refused there too.
//!
//! - **prepare** makes an upper folder that says what the layer's root said.
//! - **commit** of an import's snapshot makes its upper folder the layer: the
//!   record changes, the folder stays. Names of hard links that only the index
//!   knew are copied up first ([`upper::complete_links`]).
//! - **capture** borrows: the copy is a second record on the same upper folder
//!   (`@name`), and until it is gone the first cannot be mounted for writing.
//! - **capture_live** reaches the snapshot where its container's plywood has it
//!   mounted: to be read there while the container is frozen.
//! - **commit** of a captured copy applies the layer's own tar to a fresh snapshot:
//!   a container's folder is full of what was copied up and not changed, and it
//!   goes on being the container's.
//! - **compare** mounts the snapshot read-only with its index, so that the names
//!   of a hard link agree, and narrows the walk to the upper folder's names.
//!
//! Order of a change: data flushed, mark in `pending/`, record, mark gone.

mod commit;
mod folders;
mod mapped;
mod mounting;
mod probe;
mod recover;
mod remove;
mod show;
mod stack;
mod upper;

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::mount::MsFlags;
use plywood_store::intent::Intent;
use plywood_store::layer::apply::Applied;
use plywood_store::record::{LayerRecord, Phase, Place, SnapshotRecord};
use plywood_store::{ChainId, Driver, Store};

pub use self::probe::{probe, require_fit};

use self::folders::Folders;
use self::stack::MAX_LAYERS;
use super::{
    Access, Comparison, Differ, Gauge, Group, Mounted, NewLayer, Snapshotter, Space, StackItem, User, Users, shown,
};
use crate::dm::classic::Status;
use crate::error::{Error, Kind, Result};
use crate::explain::{quote, step};

/// Applies an uncompressed layer tar to a mounted snapshot: the commands give the confined way.
/// The path is where a person would find that tar.
pub type Unpack = Box<dyn Fn(&Mounted, &mut dyn Read, &Path) -> Result<Applied>>;

/// The driver over one root folder.
pub struct Overlay {
    store: Arc<Store>,
    folders: Folders,
    points: PathBuf,
    unpack: Unpack,
}

impl std::fmt::Debug for Overlay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Overlay")
            .field("folders", &self.folders)
            .finish_non_exhaustive()
    }
}

/// What a snapshot's record says of its folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Upper<'a> {
    /// Its own: goes with it.
    Own(&'a str),
    /// Another snapshot's, captured.
    Borrowed(&'a str),
    /// None: a view.
    View,
}

/// A borrowed folder's name in a record begins with this.
const BORROWED: &str = "@";

impl<'a> Upper<'a> {
    fn of(record: &'a SnapshotRecord) -> Result<Self> {
        if record.read_only {
            return Ok(Self::View);
        }
        let name = folder(&record.place)?;
        match name.strip_prefix(BORROWED) {
            Some(name) if folders::is_name(name) => Ok(Self::Borrowed(name)),
            None if folders::is_name(name) => Ok(Self::Own(name)),
            _ => Err(Error::corrupt(format!(
                "snapshot {} names the folder {name:?}",
                record.key
            ))),
        }
    }

    fn name(self) -> Option<&'a str> {
        match self {
            Self::Own(name) | Self::Borrowed(name) => Some(name),
            Self::View => None,
        }
    }
}

fn folder(place: &Place) -> Result<&str> {
    match place {
        Place::Folder(name) => Ok(name),
        Place::Thin(id) | Place::Cow(id) | Place::Merging { target: id, .. } => Err(Error::new(
            Kind::Incompatible,
            format!("thin device {id} in a root of the overlay driver"),
        )),
    }
}

impl Overlay {
    /// The driver over `store`'s root. `unpack` builds the layer folder of a captured copy's commit.
    ///
    /// # Errors
    /// Where overlayfs cannot keep its folders on the root's filesystem; I/O.
    pub fn open(store: Arc<Store>, unpack: Unpack) -> Result<Self> {
        let base = store.folder("overlay")?;
        probe::refuse_unfit(&base)?;
        let points = store.folder("mnt/overlay")?;
        Ok(Self {
            folders: Folders::open(base)?,
            points,
            store,
            unpack,
        })
    }

    fn snapshot(&self, key: &str) -> Result<SnapshotRecord> {
        match self.store.snapshots.get(key)? {
            Some(record) if record.phase == Phase::Ready => Ok(record),
            Some(_) => Err(Error::not_found(format!("snapshot {key} is being removed"))),
            None => Err(Error::not_found(format!("no snapshot {key}"))),
        }
    }

    fn layer(&self, chain: &ChainId) -> Result<LayerRecord> {
        match self.store.layers.get(&chain.0.hex())? {
            Some(record) if record.phase == Phase::Ready => Ok(record),
            Some(_) => Err(Error::not_found(format!("layer {chain} is being removed"))),
            None => Err(Error::not_found(format!("no layer {chain}"))),
        }
    }

    /// The layers under and with `chain`, top first.
    fn layers(&self, chain: Option<&ChainId>) -> Result<Vec<LayerRecord>> {
        let mut layers = Vec::new();
        let mut next = chain.copied();
        while let Some(chain) = next {
            let layer = self.layer(&chain)?;
            next = layer.parent;
            layers.push(layer);
            if layers.len() > MAX_LAYERS {
                return Err(stack::too_many(layers.len()));
            }
        }
        Ok(layers)
    }

    /// A new active snapshot's record and folder. `lease` is an intent's id.
    fn prepare_leased(
        &self,
        key: &str,
        parent: Option<&ChainId>,
        lease: Option<String>,
        is_passing: bool,
    ) -> Result<()> {
        let lock = self.store.exclusive()?;
        self.refuse_taken(key)?;
        let stack = self.stack_of(parent, None)?;
        let like = stack.lowers.first().map(|name| self.folders.tree(name));
        let name = self.folders.make(&lock, like.as_deref())?;
        if lease.is_none() && !is_passing {
            self.folders.sync(&name)?;
        }
        let record = SnapshotRecord {
            key: key.to_owned(),
            parent: parent.copied(),
            read_only: false,
            place: Place::Folder(name.clone()),
            phase: Phase::Ready,
            lease,
            mounted_at: None,
        };
        if is_passing {
            // The mark stays: after a power cut it is all that tells of the folder.
            self.store.snapshots.put_passing(&lock, &record)?;
        } else {
            self.store.snapshots.put(&lock, &record)?;
            self.folders.settled(&name)?;
        }
        lock.done()
    }

    fn refuse_taken(&self, key: &str) -> Result<()> {
        match self.store.snapshots.get(key)? {
            Some(_) => Err(Error::new(Kind::Exists, format!("snapshot {key} is there already"))),
            None => Ok(()),
        }
    }
}

impl Snapshotter for Overlay {
    fn driver(&self) -> Driver {
        Driver::Overlay
    }

    fn prepare(&self, key: &str, parent: Option<&ChainId>, owner: Option<&Intent>) -> Result<()> {
        self.prepare_leased(key, parent, owner.map(|intent| intent.id().to_owned()), false)
    }

    fn prepare_passing(&self, key: &str, parent: Option<&ChainId>) -> Result<()> {
        self.prepare_leased(key, parent, None, true)
    }

    fn keeps_passing(&self) -> bool {
        true
    }

    fn prepare_cow(&self, _key: &str, _parent: &ChainId, _owner: Option<&Intent>) -> Result<()> {
        Err(
            Error::invalid("a classic snapshot lies on volumes, and the overlay driver has folders")
                .hinted("leave out --cow, or take another --root with --driver thin"),
        )
    }

    fn store_status(&self, _key: &str) -> Result<Option<Status>> {
        Ok(None)
    }

    fn gauge(&self) -> Option<Box<dyn Gauge>> {
        None
    }

    fn fold(&self, _key: &str, _progress: &mut dyn FnMut(u64, u64)) -> Result<()> {
        Ok(())
    }

    fn view(&self, key: &str, parent: &ChainId, owner: Option<&Intent>) -> Result<()> {
        let lock = self.store.exclusive()?;
        self.refuse_taken(key)?;
        self.layers(Some(parent))?;
        let record = SnapshotRecord {
            key: key.to_owned(),
            parent: Some(*parent),
            read_only: true,
            place: self.layer(parent)?.place,
            phase: Phase::Ready,
            lease: owner.map(|intent| intent.id().to_owned()),
            mounted_at: None,
        };
        self.store.snapshots.put(&lock, &record)?;
        lock.done()
    }

    fn capture(&self, key: &str, copy: &str, owner: Option<&Intent>) -> Result<()> {
        let lock = self.store.exclusive()?;
        let record = self.snapshot(key)?;
        self.refuse_taken(copy)?;
        let Upper::Own(name) = Upper::of(&record)? else {
            return Err(Error::invalid(format!(
                "snapshot {key} is read-only: there is nothing to capture"
            )));
        };
        // Taken for a moment: a writer elsewhere would go on changing what is captured.
        drop(self.own(key, name)?);
        self.refuse_captured(key, name)?;
        let copied = SnapshotRecord {
            key: copy.to_owned(),
            place: Place::Folder(format!("{BORROWED}{name}")),
            lease: owner.map(|owner| owner.id().to_owned()),
            mounted_at: None,
            ..record
        };
        self.store.snapshots.put(&lock, &copied)?;
        lock.done()
    }

    fn capture_live(&self, key: &str, _copy: &str, _owner: &Intent, user: &User<'_>) -> Result<Option<Comparison>> {
        self.shown_to(&self.snapshot(key)?, user.process).map(Some)
    }

    fn mount(&self, key: &str, access: Access) -> Result<Mounted> {
        self.mount_record(&self.snapshot(key)?, access, None)
    }

    fn mount_for(&self, key: &str, users: Users<'_>) -> Result<Mounted> {
        self.mount_record(&self.snapshot(key)?, Access::ReadWrite, Some(users))
    }

    fn mount_at(&self, key: &str, target: &Path) -> Result<()> {
        let lock = self.store.exclusive()?;
        let record = self.snapshot(key)?;
        let stack = self.stack_of(record.parent.as_ref(), Upper::of(&record)?.name())?;
        let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOATIME;
        step(|| format!("mkdir -p {}", quote(target)));
        shown::mount(&self.store, &lock, &record, target, || {
            stack.mount(&self.folders, target, flags)
        })?;
        lock.done()
    }

    fn unmount_at(&self, key: &str) -> Result<()> {
        let lock = self.store.exclusive()?;
        let Some(record) = self.store.snapshots.get(key)? else {
            return lock.done();
        };
        let Some(target) = &record.mounted_at else {
            return lock.done();
        };
        let source = self
            .stack_of(record.parent.as_ref(), Upper::of(&record)?.name())?
            .source();
        // Somebody may have unmounted it by hand, and mounted something else there.
        if shown::mounted_at(target)?.is_some_and(|line| line.source == source) {
            stack::unmount(target)?;
        }
        shown::forget(&self.store, &lock, key)?;
        lock.done()
    }

    fn sweep_mounts(&self) -> Result<Vec<SnapshotRecord>> {
        shown::sweep(&self.store)
    }

    fn compare(&self, key: &str, differ: Differ) -> Result<Comparison> {
        let record = self.snapshot(key)?;
        if differ == Differ::Block {
            return Err(Error::new(Kind::Invalid, "the overlay driver has no blocks to compare")
                .hinted("--diff=auto takes the upper folder's names"));
        }
        self.comparison(&record, differ, || self.mount_record(&record, Access::ReadOnly, None))
    }

    fn commit(&self, key: &str, layer: &NewLayer) -> Result<LayerRecord> {
        let record = self.snapshot(key)?;
        match Upper::of(&record)? {
            Upper::Own(name) => {
                self.refuse_captured(key, name)?;
                self.publish(&record, name, layer)
            }
            Upper::Borrowed(_) => self.rebuild(&record, layer),
            Upper::View => Err(Error::invalid(format!(
                "snapshot {key} is read-only: there is nothing to commit"
            ))),
        }
    }

    fn remove(&self, key: &str) -> Result<()> {
        let lock = self.store.exclusive()?;
        let Some(record) = self.store.snapshots.get(key)? else {
            return lock.done();
        };
        if let Some(target) = &record.mounted_at
            && shown::mounted_at(target)?.is_some()
        {
            return Err(Error::new(
                Kind::InUse,
                format!("snapshot {key} is mounted at {}", target.display()),
            )
            .hinted(format!("plywood umount {}", quote(target))));
        }
        let held = match Upper::of(&record)? {
            Upper::Own(name) if self.folders.tree(name).is_dir() => {
                self.refuse_captured(key, name)?;
                Some(self.own(key, name)?)
            }
            _ => None,
        };
        let left = self.unrecord(&lock, &record)?;
        lock.done()?;
        drop(held);
        left.map_or(Ok(()), |name| self.delete_folder(&name))
    }

    fn remove_layer(&self, chain: &ChainId) -> Result<()> {
        let lock = self.store.exclusive()?;
        let Some(record) = self.store.layers.get(&chain.0.hex())? else {
            return lock.done();
        };
        if let Some(user) = self.user_of(&lock, chain)? {
            return Err(Error::new(Kind::InUse, format!("layer {chain} is under {user}")));
        }
        let name = self.finish_layer(&lock, &record)?;
        lock.done()?;
        self.delete_folder(&name)
    }

    fn space(&self, groups: &[Group]) -> Result<Space> {
        self.measure(groups)
    }

    fn stack(&self, key: &str) -> Result<Vec<StackItem>> {
        let record = self.snapshot(key)?;
        let layers = self.layers(record.parent.as_ref())?;
        let stack = self.stack_of(record.parent.as_ref(), Upper::of(&record)?.name())?;
        let mut items = self.shown_stack(&stack, &layers)?;
        if let Some(target) = &record.mounted_at {
            items.insert(
                0,
                StackItem {
                    kind: "mount",
                    name: target.display().to_string(),
                    detail: Some("read-only".to_owned()),
                },
            );
        }
        Ok(items)
    }

    fn layer_stack(&self, chain: &ChainId) -> Result<Vec<StackItem>> {
        self.shown_stack(&self.stack_of(Some(chain), None)?, &self.layers(Some(chain))?)
    }

    fn recover(&self) -> Result<Vec<String>> {
        recover::recover(self)
    }

    fn verify(&self) -> Result<Vec<String>> {
        recover::verify(self)
    }
}
