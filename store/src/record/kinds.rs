//! What there are records of. Their fields are the store's format: a change of
//! meaning needs a new version (docs/store-format.md).

use serde::{Deserialize, Serialize};

use super::{Link, Record, Relation};
use crate::blob::Descriptor;
use crate::{ChainId, DiffId, Digest, ImageId, Reference};

/// Where a driver keeps a snapshot's or layer's content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// The thin device with this id in the root's pool.
    Thin(u32),
    /// The classic snapshot whose exception store is the thin device with this id, and whose origin its parent's.
    Cow(u32),
    /// The same while its store is folded into a thin device, which nobody mounts before that is done.
    Merging {
        /// The thin id of the store.
        store: u32,
        /// The thin id of what it is folded into.
        target: u32,
    },
    /// The folder with this name under `overlay/`.
    Folder(String),
}

/// The key of what becomes of a container's exception store when it is merged into the container's image.
pub fn merge_key(container: &str) -> String {
    format!("{container}.merge")
}

impl Place {
    /// The thin ids that are its own.
    pub fn volumes(&self) -> Vec<u32> {
        match self {
            Self::Thin(id) | Self::Cow(id) => vec![*id],
            Self::Merging { store, target } => vec![*store, *target],
            Self::Folder(_) => Vec::new(),
        }
    }

    /// What is left of it without this thin device, or nothing.
    #[must_use]
    pub fn without(&self, volume: u32) -> Option<Self> {
        match self {
            Self::Thin(id) | Self::Cow(id) if *id == volume => None,
            Self::Merging { store, target } if *store == volume => Some(Self::Thin(*target)),
            Self::Merging { store, target } if *target == volume => Some(Self::Cow(*store)),
            other => Some(other.clone()),
        }
    }
}

/// Whether a record's content may be used, or is on its way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// There and whole.
    Ready,
    /// Being deleted: goes forward only.
    Deleting,
}

/// A committed, immutable layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerRecord {
    /// The stack that ends in this layer.
    pub chain_id: ChainId,
    /// The digest of the layer's uncompressed tar.
    pub diff_id: DiffId,
    /// The stack below.
    pub parent: Option<ChainId>,
    /// The layer's tar as stored.
    pub blob: Descriptor,
    /// The uncompressed tar's length in bytes.
    pub size: u64,
    /// Where the driver keeps the layer's content.
    pub place: Place,
    /// There, or on its way out.
    pub phase: Phase,
}

/// A live root filesystem: active (writable) or a view (read-only).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotRecord {
    /// The key it was prepared under.
    pub key: String,
    /// The layer underneath.
    pub parent: Option<ChainId>,
    /// True for a view.
    pub read_only: bool,
    /// Where the driver keeps its content.
    pub place: Place,
    /// There, or on its way out.
    pub phase: Phase,
    /// The intent of the process that needs it only while it lives; none for a container's.
    pub lease: Option<String>,
    /// Where `plywood mount` shows it in the host's tree.
    pub mounted_at: Option<std::path::PathBuf>,
}

/// An image: a config over a stack of layers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageRecord {
    /// The config's digest.
    pub id: ImageId,
    /// The config blob.
    pub config: Descriptor,
    /// The manifest blob.
    pub manifest: Descriptor,
    /// The layers, base first.
    pub layers: Vec<ChainId>,
    /// RFC 3339, from the config.
    pub created: Option<String>,
    /// When it came into this store, seconds since 1970.
    pub stored_at: i64,
}

/// A name and the image that it stands for. Moving a name is one rename.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NameRecord {
    /// The name, without digest.
    pub name: Reference,
    /// What it stands for.
    pub image: ImageId,
}

/// What a container is doing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum ContainerState {
    /// Made, never started.
    Created,
    /// Running, as long as this very process lives.
    Running {
        /// Its first process, in the host's numbers.
        pid: u32,
        /// That process's start time in clock ticks (`/proc/<pid>/stat`, field 22): numbers are reused.
        start_ticks: u64,
        /// Seconds since 1970.
        started_at: i64,
        /// What was made in its filesystem for this run and goes with it: the tool's own document.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        made: Option<serde_json::Value>,
    },
    /// Ended.
    Exited {
        /// Its exit code, 128+n for signal n.
        code: i32,
        /// Seconds since 1970.
        ended_at: i64,
    },
}

/// A container: an active snapshot and what runs in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerRecord {
    /// 64 hexadecimal digits; also the key of its snapshot.
    pub id: String,
    /// Unique among containers.
    pub name: String,
    /// The image that it was made from.
    pub image: ImageId,
    /// The name that was typed for it.
    pub image_name: String,
    /// Seconds since 1970.
    pub created_at: i64,
    /// What it is doing.
    pub state: ContainerState,
    /// How to run it again: the tool's own document.
    pub spec: serde_json::Value,
    /// Its network, as it was asked for and, while it runs, as it is: the tool's own document.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<serde_json::Value>,
}

/// The thin driver's pool, as the store believes it to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolRecord {
    /// The last transaction id that plywood set.
    pub transaction_id: u64,
    /// The empty, formatted volume that base layers start from.
    pub golden: Option<u32>,
    /// Bytes that a volume can hold.
    pub volume_size: u64,
    /// Sectors of 512 bytes per pool block.
    pub block_sectors: u32,
    /// What lies underneath.
    pub devices: PoolDevices,
}

/// What a pool lies on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PoolDevices {
    /// Files under `pool/`, on loop devices.
    LoopFiles {
        /// Bytes that the data file was made with, or enlarged to by hand.
        data_limit: u64,
        /// Bytes up to which it grows by itself; none: as far as its disk has room.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        grows_to: Option<u64>,
    },
    /// Block devices of the user's.
    Block {
        /// Holds the data.
        data: std::path::PathBuf,
        /// Holds the metadata.
        metadata: std::path::PathBuf,
    },
}

/// What a step of a build has come to: the build cache. It keeps its layer from being garbage, and promises
/// nothing: a build does the step again where the record or the layer is gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepRecord {
    /// The digest of all that the result depends on.
    pub key: Digest,
    /// The stack after the step; none where that is still empty.
    pub top: Option<ChainId>,
    /// The instruction, as the image's history has it.
    pub created_by: String,
    /// When it was done, RFC 3339.
    pub created: String,
    /// When it was done by the clock, microseconds since 1970.
    pub done_at: i64,
    /// How long it took, in milliseconds.
    pub took: u64,
    /// When a build last needed it, seconds since 1970.
    pub used_at: i64,
}

fn link(relation: Relation, target: impl Into<String>) -> Link {
    Link {
        relation,
        target: target.into(),
    }
}

macro_rules! record {
    ($type:ty, $kind:literal, $folder:literal, |$this:ident| $key:expr, $links:expr) => {
        impl Record for $type {
            const KIND: &'static str = $kind;
            const FOLDER: &'static str = $folder;
            fn key(&self) -> String {
                let $this = self;
                $key
            }
            fn links(&self) -> Vec<Link> {
                let $this = self;
                $links
            }
        }
    };
}

record!(LayerRecord, "layer", "layers", |layer| layer.chain_id.0.hex(), {
    let parent = layer.parent.map(|parent| link(Relation::StandsOn, parent.0.hex()));
    parent
        .into_iter()
        .chain([link(Relation::Blob, layer.blob.digest.hex())])
        .collect()
});
record!(
    SnapshotRecord,
    "snapshot",
    "snapshots",
    |snapshot| snapshot.key.clone(),
    {
        let parent = snapshot.parent.map(|parent| link(Relation::StandsOn, parent.0.hex()));
        parent.into_iter().collect()
    }
);
// The lower layers are reached through their children.
record!(ImageRecord, "image", "images", |image| image.id.0.hex(), {
    let top = image.layers.last().map(|top| link(Relation::StandsOn, top.0.hex()));
    let blobs = [&image.config, &image.manifest].map(|blob| link(Relation::Blob, blob.digest.hex()));
    top.into_iter().chain(blobs).collect()
});
// A name may hold slashes and colons, and be longer than a file name: its digest is the key.
record!(
    NameRecord,
    "name",
    "names",
    |name| name_key(&name.name),
    vec![link(Relation::Image, name.image.0.hex())]
);
record!(
    ContainerRecord,
    "container",
    "containers",
    |container| container.id.clone(),
    vec![
        link(Relation::Named, container.name.clone()),
        link(Relation::Image, container.image.0.hex())
    ]
);
// The index is not asked for these: there may be many, and they come and go with each build.
record!(StepRecord, "step", "steps", |step| step.key.hex(), {
    let _ = step;
    Vec::new()
});
record!(PoolRecord, "pool", "pool", |_pool| POOL_KEY.to_owned(), Vec::new());

/// The key of the one pool record.
pub const POOL_KEY: &str = "pool";

/// The key under which a name's record is kept.
pub fn name_key(name: &Reference) -> String {
    crate::Digest::of(name.clone().without_digest().to_string().as_bytes()).hex()
}
