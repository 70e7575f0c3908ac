//! Records: one small checksummed JSON file per layer, snapshot, image, name and container.
//!
//! ```text
//! records/layers/<chain id's hex>.json       {"plywood":"layer","version":1,"checksum":"sha256:…","body":{…}}
//! ```
//!
//! Written to a temporary name, fsynced, renamed, the folder fsynced: a record
//! is there whole or not at all, and when [`Records::put`] returns it survives
//! a power cut. The checksum covers the body's bytes as they stand in the file.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::marker::PhantomData;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::blob::Descriptor;
use crate::error::Context;
use crate::lock::Exclusive;
use crate::{ChainId, DiffId, Digest, Error, ImageId, Kind, Reference, Result, durable};

/// The version of the envelope and of the bodies in it.
const VERSION: u32 = 1;
/// Bytes that a record's file may have.
const RECORD_MAX: u64 = 1 << 20;
/// Bytes that a key may have: with `.json` it is a file name.
const KEY_MAX: usize = 200;

/// What can be kept as a record.
pub trait Record: Serialize + DeserializeOwned {
    /// The kind in the envelope: `layer`, `image`, ….
    const KIND: &'static str;
    /// The folder under `records/`.
    const FOLDER: &'static str;
    /// The record's file name without `.json`: letters, digits, `-`, `_` and `.`.
    fn key(&self) -> String;
    /// What the record refers to, as the index can be asked for it backwards.
    fn links(&self) -> Vec<Link> {
        Vec::new()
    }
}

/// How a record refers to something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Relation {
    /// It stands directly on this layer (the hex of its ChainID).
    StandsOn,
    /// It names this blob (the hex of its digest).
    Blob,
    /// It is a name or a container of this image (the hex of its id).
    Image,
    /// It has this name, as containers have.
    Named,
}

impl std::fmt::Display for Relation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::StandsOn => "stands-on",
            Self::Blob => "blob",
            Self::Image => "image",
            Self::Named => "named",
        })
    }
}

/// One reference from a record to something else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// How.
    pub relation: Relation,
    /// To what.
    pub target: String,
}

fn link(relation: Relation, target: impl Into<String>) -> Link {
    Link {
        relation,
        target: target.into(),
    }
}

#[derive(Serialize, Deserialize)]
struct Envelope<'a> {
    plywood: String,
    version: u32,
    checksum: Digest,
    #[serde(borrow)]
    body: &'a RawValue,
}

/// The file content of `body` as a record of `kind`.
///
/// # Errors
/// Invalid where it would be larger than a record may be.
pub fn encode<T: Serialize>(kind: &str, body: &T) -> Result<Vec<u8>> {
    let unfit = |error| Error::invalid(format!("cannot write a {kind} record")).caused_by(error);
    let body = serde_json::value::to_raw_value(body).map_err(unfit)?;
    let text = seal(kind, &body).map_err(unfit)?;
    if text.len() as u64 > RECORD_MAX {
        return Err(Error::invalid(format!(
            "a {kind} record of {} bytes is larger than the {RECORD_MAX} that a record may have",
            text.len()
        )));
    }
    Ok(text)
}

fn seal(kind: &str, body: &RawValue) -> serde_json::Result<Vec<u8>> {
    serde_json::to_vec(&Envelope {
        plywood: kind.to_owned(),
        version: VERSION,
        checksum: Digest::of(body.get().as_bytes()),
        body,
    })
}

/// The body of a record of `kind`, as [`encode`] wrote it. `path` is for messages.
///
/// # Errors
/// Corrupt where one byte is not as it was written; incompatible where a newer
/// plywood wrote it.
pub fn decode<T: DeserializeOwned>(kind: &str, content: &[u8], path: &Path) -> Result<T> {
    let damaged = |why: &str| {
        Error::corrupt(format!("the record {} is damaged: {why}", path.display()))
            .hinted("`plywood check` lists all that is damaged and what it touches")
    };
    let envelope: Envelope<'_> =
        serde_json::from_slice(content).map_err(|error| damaged("no envelope").caused_by(error))?;
    if envelope.plywood != kind {
        return Err(damaged(&format!(
            "it says {:?} where {kind:?} belongs",
            envelope.plywood
        )));
    }
    let too_new = |what: &str| {
        Error::new(Kind::Incompatible, format!("the record {} {what}", path.display()))
            .hinted("a newer plywood made it: use that one")
    };
    if envelope.version != VERSION {
        return Err(too_new(&format!(
            "has version {}, this plywood knows {VERSION}",
            envelope.version
        )));
    }
    if Digest::of(envelope.body.get().as_bytes()) != envelope.checksum {
        return Err(damaged("its checksum does not fit"));
    }
    // The envelope's own bytes are not under the checksum: they must be the ones that we write.
    let canonical = seal(kind, envelope.body).is_ok_and(|text| text == content);
    if !canonical {
        return Err(damaged("its envelope is not as it was written"));
    }
    serde_json::from_str(envelope.body.get())
        .map_err(|error| too_new("has a body that this plywood does not know").caused_by(error))
}

/// The content of a record's file, or none where it is missing.
pub(crate) fn read_file(path: &Path) -> Result<Option<Vec<u8>>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io("open record", path, error)),
    };
    let mut content = Vec::new();
    file.take(RECORD_MAX + 1)
        .read_to_end(&mut content)
        .context("read record", path)?;
    if content.len() as u64 > RECORD_MAX {
        return Err(Error::corrupt(format!(
            "the record {} is larger than a record can be",
            path.display()
        )));
    }
    Ok(Some(content))
}

/// Whether `key` can be a record's file name, and nothing but a file name.
pub fn key_is_valid(key: &str) -> bool {
    (1..=KEY_MAX).contains(&key.len())
        && !key.starts_with('.')
        && key
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
}

/// The records of one kind.
#[derive(Debug)]
pub struct Records<T> {
    folder: PathBuf,
    tmp: PathBuf,
    kind: PhantomData<fn() -> T>,
}

impl<T: Record> Records<T> {
    pub(crate) fn new(root: &Path) -> Self {
        Self {
            folder: root.join("records").join(T::FOLDER),
            tmp: root.join("tmp"),
            kind: PhantomData,
        }
    }

    /// The folder that holds them.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The file of a record, whether it is there or not.
    ///
    /// # Errors
    /// Invalid where `key` cannot be a file name.
    pub fn path(&self, key: &str) -> Result<PathBuf> {
        if !key_is_valid(key) {
            return Err(Error::invalid(format!(
                "not a {} key: {:?}",
                T::KIND,
                key.chars().take(KEY_MAX).collect::<String>()
            ))
            .hinted("a key is up to 200 letters, digits, - _ and . and does not start with ."));
        }
        Ok(self.folder.join(format!("{key}.json")))
    }

    /// One record, or none.
    ///
    /// # Errors
    /// Invalid key; corrupt or incompatible record; I/O.
    pub fn get(&self, key: &str) -> Result<Option<T>> {
        let path = self.path(key)?;
        let Some(content) = read_file(&path)? else {
            return Ok(None);
        };
        let record: T = decode(T::KIND, &content, &path)?;
        if record.key() != key {
            return Err(Error::corrupt(format!(
                "the record {} is another one's: it says {}",
                path.display(),
                record.key()
            )));
        }
        Ok(Some(record))
    }

    /// The keys of every record, sorted, without reading one.
    ///
    /// # Errors
    /// I/O.
    pub fn keys(&self) -> Result<Vec<String>> {
        let mut keys = Vec::new();
        for entry in std::fs::read_dir(&self.folder).context("list", &self.folder)? {
            let name = entry.context("list", &self.folder)?.file_name();
            // A stray name is `check`'s business.
            if let Some(key) = name.to_str().and_then(|name| name.strip_suffix(".json"))
                && key_is_valid(key)
            {
                keys.push(key.to_owned());
            }
        }
        keys.sort_unstable();
        Ok(keys)
    }

    /// Every record, by key. A damaged one is an error that names its file; `check` lists them all.
    ///
    /// # Errors
    /// As [`Records::get`].
    pub fn list(&self) -> Result<Vec<T>> {
        let mut records = Vec::new();
        for key in self.keys()? {
            // Without a lock a record may go between the two looks.
            records.extend(self.get(&key)?);
        }
        Ok(records)
    }

    /// Writes a record durably, replacing one of the same key.
    ///
    /// # Errors
    /// Invalid key, I/O.
    pub fn put(&self, lock: &Exclusive, record: &T) -> Result<()> {
        let path = self.path(&record.key())?;
        let content = encode(T::KIND, record)?;
        lock.note(T::FOLDER, &record.key())?;
        durable::write(&self.tmp, &path, &content)?;
        tracing::debug!(kind = T::KIND, key = record.key(), "record written");
        Ok(())
    }

    /// Removes a record durably; false where there was none.
    ///
    /// # Errors
    /// Invalid key, I/O.
    pub fn remove(&self, lock: &Exclusive, key: &str) -> Result<bool> {
        let path = self.path(key)?;
        lock.note(T::FOLDER, key)?;
        let removed = durable::remove(&path)?;
        tracing::debug!(kind = T::KIND, key, removed, "record removed");
        Ok(removed)
    }
}

/// Where a driver keeps a snapshot's or layer's content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// The thin device with this id in the root's pool.
    Thin(u32),
    /// The folder with this name under `overlay/`.
    Folder(String),
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
        /// The data file may grow to this many bytes.
        data_limit: u64,
    },
    /// Block devices of the user's.
    Block {
        /// Holds the data.
        data: std::path::PathBuf,
        /// Holds the metadata.
        metadata: std::path::PathBuf,
    },
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
record!(PoolRecord, "pool", "pool", |_pool| POOL_KEY.to_owned(), Vec::new());

/// The key of the one pool record.
pub const POOL_KEY: &str = "pool";

/// The key under which a name's record is kept.
pub fn name_key(name: &Reference) -> String {
    crate::Digest::of(name.clone().without_digest().to_string().as_bytes()).hex()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Driver, Store};

    fn name(text: &str) -> NameRecord {
        NameRecord {
            name: text.parse().unwrap(),
            image: ImageId(Digest::of(text.as_bytes())),
        }
    }

    #[test]
    fn every_changed_byte_is_refused() {
        let path = Path::new("x.json");
        let record = name("base:12");
        let good = encode("name", &record).unwrap();
        assert_eq!(decode::<NameRecord>("name", &good, path).unwrap(), record);
        for at in 0..good.len() {
            for flip in 1..=255 {
                let mut bad = good.clone();
                bad[at] ^= flip;
                let error = decode::<NameRecord>("name", &bad, path).unwrap_err();
                assert!(
                    matches!(error.kind(), Kind::Corrupt | Kind::Incompatible),
                    "{at} {flip}"
                );
            }
            assert!(decode::<NameRecord>("name", &good[..at], path).is_err());
        }
        for bad in [[&good[..], b"\n"].concat(), [b" ", &good[..]].concat()] {
            assert!(decode::<NameRecord>("name", &bad, path).is_err());
        }
    }

    #[test]
    fn corrupt_is_not_incompatible() {
        let path = Path::new("x.json");
        let newer = encode("name", &name("a")).unwrap();
        let newer = String::from_utf8(newer).unwrap();
        let newer = newer.replace("\"version\":1", "\"version\":2");
        let error = decode::<NameRecord>("name", newer.as_bytes(), path).unwrap_err();
        assert_eq!(error.kind(), Kind::Incompatible);
        let other = encode("image", &name("a")).unwrap();
        let error = decode::<NameRecord>("name", &other, path).unwrap_err();
        assert_eq!(error.kind(), Kind::Corrupt);
        let unknown = encode("name", &"something else").unwrap();
        let error = decode::<NameRecord>("name", &unknown, path).unwrap_err();
        assert_eq!(error.kind(), Kind::Incompatible);
    }

    #[test]
    fn keys_cannot_leave_their_folder() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::create(folder.path(), Driver::Thin).unwrap();
        let long = "x".repeat(KEY_MAX + 1);
        for bad in ["", ".", "..", "../pool/pool", "a/b", ".hidden", "a\0", "ü", &long] {
            assert_eq!(store.pool.get(bad).unwrap_err().kind(), Kind::Invalid, "{bad:?}");
        }
    }

    #[test]
    fn a_record_under_another_key_is_corrupt() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::create(folder.path(), Driver::Thin).unwrap();
        let record = name("base");
        let lock = store.exclusive().unwrap();
        store.names.put(&lock, &record).unwrap();
        let other = store.names.path("other").unwrap();
        std::fs::rename(store.names.path(&record.key()).unwrap(), &other).unwrap();
        let error = store.names.get("other").unwrap_err();
        assert_eq!(error.kind(), Kind::Corrupt);
        assert!(error.to_string().contains("other.json"));
        assert_eq!(store.names.list().unwrap_err().kind(), Kind::Corrupt);
    }
}
