//! Snapshots: live root filesystems over committed layers.
//!
//! The words are containerd's: *prepare* an active snapshot under a key, *view*
//! a layer read-only, *commit* an active snapshot as a layer, *remove*.
//! [`Snapshotter`] is the seam; the drivers are [`thin`] and [`overlay`], and one
//! conformance suite runs on both. Same changes, same bytes: whichever driver
//! and whichever differ made it, the layer tar of a commit is identical.
//!
//! Walk of one import: `prepare("import-x", parent)`, [`Snapshotter::mount`],
//! the tar is applied to [`Mounted::dir`], [`Mounted::close`] (synced), then
//! [`Snapshotter::commit`]. Walk of one commit: [`Snapshotter::capture`] the
//! container's snapshot, [`Snapshotter::compare`] the copy with its parent, the
//! difference is written as a blob, [`Snapshotter::commit`] the copy. While the container runs it is
//! [`Snapshotter::capture_live`], which may give what is to be read instead of a copy.
//!
//! Every method takes the store's exclusive lock itself, for its short steps
//! only; callers hold none across a call. An empty snapshot's root directory has
//! mode 0755, owner 0:0, mtime 0, and nothing in it, on every driver.

mod comparison;
mod mounted;
pub mod overlay;
mod shown;
mod space;
pub mod thin;

use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;
use std::path::Path;

use plywood_store::blob::Descriptor;
use plywood_store::intent::Intent;
use plywood_store::record::{LayerRecord, SnapshotRecord};
use plywood_store::{ChainId, DiffId, Driver};

pub use self::comparison::{Comparison, Differ, Found, Side};
pub use self::mounted::{Device, Mounted};
pub use self::shown::point;
pub use self::space::{Group, Space, Usage};
pub use crate::dm::room::{Gauge, Room};

use crate::dm::classic::Status;
use crate::error::Result;

/// What a snapshot is to become.
#[derive(Debug, Clone)]
pub struct NewLayer {
    /// The digest of its uncompressed tar.
    pub diff_id: DiffId,
    /// The tar as stored: durable already.
    pub blob: Descriptor,
    /// The uncompressed tar's length in bytes.
    pub size: u64,
}

/// Whether a mount may write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Not at all.
    ReadOnly,
    /// As an active snapshot's owner.
    ReadWrite,
    /// As its owner, to unpack the layer that it is to become. Nothing else looks at it
    /// meanwhile, so a driver may hand out what it would mount ([`Mounted::is_bare`]).
    Fill,
}

/// The users of a container that are not the host's.
#[derive(Debug, Clone, Copy)]
pub struct Users<'a> {
    /// Their user namespace.
    pub namespace: BorrowedFd<'a>,
    /// The host's number of its root.
    pub root: u32,
}

/// Does what it is given while those who write to a snapshot are held back.
pub type HeldBack<'a> = &'a dyn Fn(&mut dyn FnMut() -> Result<()>) -> Result<()>;

/// Who has an active snapshot mounted for writing.
pub struct User<'a> {
    /// The process in whose mount namespace it is.
    pub process: u32,
    /// How to hold it back.
    pub held_back: HeldBack<'a>,
}

impl std::fmt::Debug for User<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("User")
            .field("process", &self.process)
            .finish_non_exhaustive()
    }
}

/// The layers as `tree` draws them: each behind the one that it stands on.
pub fn base_first(layers: Vec<LayerRecord>) -> Vec<LayerRecord> {
    let mut on: BTreeMap<Option<ChainId>, Vec<LayerRecord>> = BTreeMap::new();
    for layer in layers.into_iter().rev() {
        on.entry(layer.parent).or_default().push(layer);
    }
    let mut next = on.remove(&None).unwrap_or_default();
    let mut sorted = Vec::new();
    while let Some(layer) = next.pop() {
        next.extend(on.remove(&Some(layer.chain_id)).unwrap_or_default());
        sorted.push(layer);
    }
    // A lost parent is for check to find: what stood on it takes space all the same.
    sorted.extend(on.into_values().flatten());
    sorted
}

/// A driver.
pub trait Snapshotter {
    /// Which one.
    fn driver(&self) -> Driver;

    /// Makes an active snapshot under `key`, over `parent` or empty. With an
    /// `owner` it lives no longer than that intent; without, until removed.
    fn prepare(&self, key: &str, parent: Option<&ChainId>, owner: Option<&Intent>) -> Result<()>;

    /// Makes an active snapshot under `key` that is to go before the machine stops: its record is
    /// [passing](plywood_store::record::Records::put_passing), and so is what is written to it. It is mounted once.
    /// None of it is made durable where [`Snapshotter::keeps_passing`] says so.
    fn prepare_passing(&self, key: &str, parent: Option<&ChainId>) -> Result<()> {
        self.prepare(key, parent, None)
    }

    /// Whether this driver sweeps what was passing when the machine stopped.
    fn keeps_passing(&self) -> bool {
        false
    }

    /// The same over `parent`, its writes kept as the exceptions of a classic snapshot, in a store that can be
    /// folded into what it stands on.
    fn prepare_cow(&self, key: &str, parent: &ChainId, owner: Option<&Intent>) -> Result<()>;

    /// Folds such a store into a copy of what it stands on, as [`Snapshotter::commit`] would do without saying how
    /// far it is: `progress` is told the chunks of 4 KiB that are left, and how many there were. Cut short, it goes
    /// on where it was; until it is done the snapshot cannot be mounted. Nothing to fold is a success.
    fn fold(&self, key: &str, progress: &mut dyn FnMut(u64, u64)) -> Result<()>;

    /// What the kernel says of such a store, or of its merge; none where the snapshot has none, or is not in use.
    fn store_status(&self, key: &str) -> Result<Option<Status>>;

    /// What tells how much room there is; none where the kernel tells every writer itself.
    fn gauge(&self) -> Option<Box<dyn Gauge>>;

    /// Makes a read-only snapshot of `parent` under `key`.
    fn view(&self, key: &str, parent: &ChainId, owner: Option<&Intent>) -> Result<()>;

    /// Freezes what the active snapshot `key` holds now as a second one, `copy`,
    /// over the same parent, owned by `owner` or lasting. The caller has made `key` quiet:
    /// nothing writes to it, and nothing has it mounted for writing. Until the copy is
    /// committed or removed a driver may refuse to mount `key` for writing, as in use.
    fn capture(&self, key: &str, copy: &str, owner: Option<&Intent>) -> Result<()>;

    /// The same of a snapshot that `user` writes to. None: `copy` is captured, and the user was held back for a
    /// moment. Some: the driver cannot copy in a moment, and captures nothing; this is parent and child as the user
    /// has it, to be read while it is held back.
    fn capture_live(&self, key: &str, copy: &str, owner: &Intent, user: &User<'_>) -> Result<Option<Comparison>>;

    /// Mounts a snapshot in this process's own mount namespace.
    fn mount(&self, key: &str, access: Access) -> Result<Mounted>;

    /// Hands out the device of the active snapshot `key`, which nothing was ever written to and which stands on
    /// nothing, so that a layer is written onto it as a whole; none where there is no such device.
    fn device(&self, _key: &str) -> Result<Option<Device>> {
        Ok(None)
    }

    /// Mounts the active snapshot `key` for writing by a container with users of its own: with its owners shown as
    /// them ([`Mounted::is_mapped`]), or as it is where a mount of it can be made to show them.
    fn mount_for(&self, key: &str, _users: Users<'_>) -> Result<Mounted> {
        self.mount(key, Access::ReadWrite)
    }

    /// Mounts a snapshot read-only at `target` in the *caller's* mount namespace, for `plywood mount`; recorded.
    /// A view is its mount's from then on, and no longer its owner's. The folder is made if it is that of [`point`].
    fn mount_at(&self, key: &str, target: &Path) -> Result<()>;

    /// Undoes [`Snapshotter::mount_at`]; a view goes with its mount, and so does the folder of [`point`]. Nothing to
    /// undo is a success.
    fn unmount_at(&self, key: &str) -> Result<()>;

    /// Forgets what [`Snapshotter::mount_at`] mounted and somebody else, or the end of the machine, has
    /// unmounted; gives those records as they were. For the caller's mount namespace: a private one may
    /// show an older picture of it.
    fn sweep_mounts(&self) -> Result<Vec<SnapshotRecord>>;

    /// Opens parent and child for the differ, with the names that can have changed.
    fn compare(&self, key: &str, differ: Differ) -> Result<Comparison>;

    /// Opens two layers as a difference from one to the other, where the driver can tell which names can differ without
    /// looking at both trees; none where a walk is as good. The caller keeps them from being removed.
    fn compare_layers(&self, _from: &ChainId, _to: &ChainId) -> Result<Option<Comparison>> {
        Ok(None)
    }

    /// Makes the active snapshot `key` the layer that `layer` describes, durably; the key is gone then.
    /// If that layer is there already, the snapshot is removed and the layer returned.
    fn commit(&self, key: &str, layer: &NewLayer) -> Result<LayerRecord>;

    /// Removes a snapshot. Not there: a success.
    fn remove(&self, key: &str) -> Result<()>;

    /// Removes a layer that nothing stands on. Not there: a success.
    fn remove_layer(&self, chain: &ChainId) -> Result<()>;

    /// Space that these take, all at one moment. What has gone meanwhile is left out.
    fn space(&self, groups: &[Group]) -> Result<Space>;

    /// Mount point to disk, for `inspect`: one line per thing (`overlay /…`, `thin 7`, `dm plywood-…`, `loop0`, file).
    fn stack(&self, key: &str) -> Result<Vec<StackItem>>;

    /// The same for a layer.
    fn layer_stack(&self, chain: &ChainId) -> Result<Vec<StackItem>>;

    /// Takes up what dead processes left: unfinished steps forward or back, leased
    /// snapshots, devices and mounts that nobody holds. Each line says what was done.
    fn recover(&self) -> Result<Vec<String>>;

    /// Compares records with what the driver really has; each finding is a line. Changes nothing.
    fn verify(&self) -> Result<Vec<String>>;
}

/// One thing in the stack under a root filesystem.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct StackItem {
    /// `mount`, `overlay`, `folder`, `thin`, `dm`, `pool`, `loop`, `file`, `device`.
    pub kind: &'static str,
    /// Its name, id or path.
    pub name: String,
    /// The table line, mount options or the like.
    pub detail: Option<String>,
}
