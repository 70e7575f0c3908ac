//! Records: one small checksummed JSON file per layer, snapshot, image, name and container.
//!
//! ```text
//! records/layers/<chain id's hex>.json       {"plywood":"layer","version":1,"checksum":"sha256:…","body":{…}}
//! ```
//!
//! Written to a temporary name, fsynced, renamed, the folder fsynced: a record
//! is there whole or not at all, and when [`Records::put`] returns it survives
//! a power cut. The checksum covers the body's bytes as they stand in the file.
//!
//! What is to go before the machine stops promises nothing, and pays for nothing:
//! a [passing](Records::put_passing) record lies in `passing/<boot id>/`, unsynced
//! and unknown to the index. Another boot's means nothing, and is not read.

mod envelope;
mod kinds;

use std::marker::PhantomData;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

pub(crate) use self::envelope::read_file;
pub use self::envelope::{decode, encode};
pub use self::kinds::{
    ContainerRecord, ContainerState, ImageRecord, LayerRecord, NameRecord, POOL_KEY, Phase, Place, PoolDevices,
    PoolRecord, SnapshotRecord, StepRecord, merge_key, name_key,
};
use crate::error::Context;
use crate::lock::Exclusive;
use crate::{Error, Result, durable};

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
    /// None where this boot cannot be told from another.
    passing: Option<PathBuf>,
    tmp: PathBuf,
    kind: PhantomData<fn() -> T>,
}

impl<T: Record> Records<T> {
    pub(crate) fn new(root: &Path, passing: Option<&Path>) -> Self {
        Self {
            folder: root.join("records").join(T::FOLDER),
            passing: passing.map(|passing| passing.join(T::FOLDER)),
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
        let mut path = self.path(key)?;
        let mut content = read_file(&path)?;
        if content.is_none()
            && let Some(passing) = self.passing_path(key)
        {
            content = read_file(&passing)?;
            path = passing;
        }
        let Some(content) = content else {
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
        let mut keys = self.lasting_keys()?;
        keys.extend(self.passing_keys()?);
        keys.sort_unstable();
        Ok(keys)
    }

    /// The keys of those that are durable.
    pub(crate) fn lasting_keys(&self) -> Result<Vec<String>> {
        keys_in(&self.folder)
    }

    /// The keys of those that are [passing](Records::put_passing).
    ///
    /// # Errors
    /// I/O.
    pub fn passing_keys(&self) -> Result<Vec<String>> {
        match &self.passing {
            Some(folder) if folder.is_dir() => keys_in(folder),
            _ => Ok(Vec::new()),
        }
    }

    /// Every record, by key. A damaged one is an error that names its file; `check` lists them all.
    ///
    /// # Errors
    /// As [`Records::get`].
    pub fn list(&self) -> Result<Vec<T>> {
        self.read(self.keys()?)
    }

    /// The same without those that are [passing](Records::put_passing), of which there may be many.
    ///
    /// # Errors
    /// As [`Records::get`].
    pub fn list_lasting(&self) -> Result<Vec<T>> {
        self.read(self.lasting_keys()?)
    }

    fn read(&self, keys: Vec<String>) -> Result<Vec<T>> {
        let mut records = Vec::new();
        for key in keys {
            // Without a lock a record may go between the two looks.
            records.extend(self.get(&key)?);
        }
        Ok(records)
    }

    /// Writes a record durably, replacing one of the same key. A passing one stays passing.
    ///
    /// # Errors
    /// Invalid key, I/O.
    pub fn put(&self, lock: &Exclusive, record: &T) -> Result<()> {
        let path = self.path(&record.key())?;
        if self.is_passing(&record.key()) {
            return self.put_passing(lock, record);
        }
        let content = encode(T::KIND, record)?;
        lock.note(T::FOLDER, &record.key())?;
        durable::write(&self.tmp, &path, &content)?;
        tracing::debug!(kind = T::KIND, key = record.key(), "record written");
        Ok(())
    }

    /// Writes a new record that need not survive a power cut: it is gone after one, whole.
    ///
    /// # Errors
    /// As for [`Records::put`].
    pub fn put_passing(&self, lock: &Exclusive, record: &T) -> Result<()> {
        let Some(path) = self.passing_path(&record.key()) else {
            return self.put(lock, record);
        };
        self.path(&record.key())?;
        durable::write_passing(&self.tmp, &path, &encode(T::KIND, record)?)?;
        tracing::debug!(kind = T::KIND, key = record.key(), "passing record written");
        Ok(())
    }

    /// Whether a record is there and passing.
    pub fn is_passing(&self, key: &str) -> bool {
        self.passing_path(key).is_some_and(|path| path.exists())
    }

    fn passing_path(&self, key: &str) -> Option<PathBuf> {
        self.passing.as_ref().map(|folder| folder.join(format!("{key}.json")))
    }

    /// Removes a record durably; false where there was none.
    ///
    /// # Errors
    /// Invalid key, I/O.
    pub fn remove(&self, lock: &Exclusive, key: &str) -> Result<bool> {
        let path = self.path(key)?;
        if let Some(passing) = self.passing_path(key)
            && durable::remove_passing(&passing)?
        {
            return Ok(true);
        }
        lock.note(T::FOLDER, key)?;
        let removed = durable::remove(&path)?;
        tracing::debug!(kind = T::KIND, key, removed, "record removed");
        Ok(removed)
    }
}

fn keys_in(folder: &Path) -> Result<Vec<String>> {
    let mut keys = Vec::new();
    for entry in std::fs::read_dir(folder).context("list", folder)? {
        let name = entry.context("list", folder)?.file_name();
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Digest, Driver, ImageId, Kind, Store};

    fn name(text: &str) -> NameRecord {
        NameRecord {
            name: text.parse().unwrap(),
            image: ImageId(Digest::of(text.as_bytes())),
        }
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
    fn a_passing_record_is_one_of_all_until_another_boot() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::create(folder.path(), Driver::Overlay).unwrap();
        let (lasting, passing) = (name("lasting"), name("passing"));
        let lock = store.exclusive().unwrap();
        store.names.put(&lock, &lasting).unwrap();
        store.names.put_passing(&lock, &passing).unwrap();
        // Replaced where it is.
        store.names.put(&lock, &passing).unwrap();
        assert!(store.names.is_passing(&passing.key()) && !store.names.is_passing(&lasting.key()));
        assert_eq!(store.names.get(&passing.key()).unwrap(), Some(passing.clone()));
        assert_eq!(store.names.list().unwrap().len(), 2);
        assert_eq!(store.names.passing_keys().unwrap(), [passing.key()]);
        assert_eq!(std::fs::read_dir(store.names.folder()).unwrap().count(), 1);

        // As after a power cut: another boot's, and not whole.
        let boots = folder.path().join("passing");
        let this = std::fs::read_dir(&boots).unwrap().next().unwrap().unwrap().path();
        std::fs::rename(&this, boots.join("0f6fc2e4-9b1a-4f33-8e0e-000000000000")).unwrap();
        assert_eq!(store.names.list().unwrap(), [lasting]);
        store.forget_other_boots(&lock).unwrap();
        assert_eq!(std::fs::read_dir(&boots).unwrap().count(), 0);

        store.names.put_passing(&lock, &passing).unwrap();
        assert!(store.names.remove(&lock, &passing.key()).unwrap());
        assert!(!store.names.remove(&lock, &passing.key()).unwrap());
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
