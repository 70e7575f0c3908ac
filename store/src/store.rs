//! [`Store`]: a root folder, opened.

use std::fs::Permissions;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::blob::Blobs;
use crate::error::Context;
use crate::intent::Intents;
use crate::lock::{Exclusive, Shared};
use crate::record::{
    ContainerRecord, ImageRecord, LayerRecord, NameRecord, PoolRecord, Records, SnapshotRecord, StepRecord,
};
use crate::{Error, Kind, Result, boot, durable, record};

/// What keeps the layers' content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Driver {
    /// Volumes on a device-mapper thin pool.
    Thin,
    /// Folders, stacked with overlayfs.
    Overlay,
}

impl std::fmt::Display for Driver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Thin => "thin",
            Self::Overlay => "overlay",
        })
    }
}

/// `meta.json`: what this root is. Features follow ext4's three classes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meta {
    /// The format's version.
    pub version: u32,
    /// Tells this root's kernel objects from another's: 32 hexadecimal digits.
    pub uuid: String,
    /// Fixed when the root is made.
    pub driver: Driver,
    /// An older plywood may ignore these.
    #[serde(default)]
    pub compatible: Vec<String>,
    /// An older plywood may read, not write.
    #[serde(default)]
    pub read_only_compatible: Vec<String>,
    /// An older plywood must not touch.
    #[serde(default)]
    pub incompatible: Vec<String>,
}

/// The store format that this plywood reads and writes.
const VERSION: u32 = 1;
/// Features beyond [`VERSION`] that this plywood knows: none yet, of any class.
const KNOWN: &[&str] = &[];
/// What a root may hold at its top. Anything else is somebody else's folder.
pub(crate) const TOP: &[&str] = &[
    "lock",
    "meta.json",
    "blobs",
    "records",
    "intents",
    "index",
    "index.pending",
    "index.lock",
    "tmp",
    "pool",
    "overlay",
    "mnt",
    "locks",
    "logs",
    "mounted",
    "volumes",
    "network",
    "build",
    "passing",
    "lost+found",
];
/// What is to go before the machine stops: a folder for each boot.
pub(crate) const PASSING: &str = "passing";
/// The folders that every root has, parents first.
const FOLDERS: &[&str] = &[
    "tmp",
    "blobs",
    "blobs/sha256",
    "intents",
    "records",
    "records/layers",
    "records/snapshots",
    "records/images",
    "records/names",
    "records/containers",
    "records/pool",
];

/// A root folder, opened. Opening takes no lock.
#[derive(Debug)]
pub struct Store {
    /// Content under its digest.
    pub blobs: Blobs,
    /// Committed layers.
    pub layers: Records<LayerRecord>,
    /// Active snapshots and views.
    pub snapshots: Records<SnapshotRecord>,
    /// Images.
    pub images: Records<ImageRecord>,
    /// Names of images.
    pub names: Records<NameRecord>,
    /// Containers.
    pub containers: Records<ContainerRecord>,
    /// The thin driver's pool: one record, under [`crate::record::POOL_KEY`].
    pub pool: Records<PoolRecord>,
    /// The build cache.
    pub steps: Records<StepRecord>,
    /// What live processes are about to do.
    pub intents: Intents,
    root: PathBuf,
    /// Of this boot; none where it cannot be told from another.
    passing: Option<PathBuf>,
    meta: Meta,
}

impl Store {
    /// Opens the root that is there, or none where the folder holds none.
    ///
    /// # Errors
    /// Incompatible where a newer plywood made it; corrupt where `meta.json` is damaged.
    pub fn open(root: &Path) -> Result<Option<Self>> {
        let root = match root.canonicalize() {
            Ok(root) => root,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io("open root folder", root, error)),
        };
        if let Some(meta) = read_meta(&root)? {
            return Self::with(root, meta).map(Some);
        }
        if !holds_records(&root) {
            return Ok(None);
        }
        // Another process may have made it between the two looks.
        match read_meta(&root)? {
            Some(meta) => Self::with(root, meta).map(Some),
            None => Err(lost_meta(&root)),
        }
    }

    /// Opens the root, or makes one for `driver`; two at once both succeed.
    ///
    /// # Errors
    /// Invalid where the folder holds something else; incompatible where the root is another driver's.
    pub fn create(root: &Path, driver: Driver) -> Result<Self> {
        let store = match Self::open(root)? {
            Some(store) => store,
            None => Self::make(root, driver)?,
        };
        if store.meta.driver != driver {
            return Err(Error::new(
                Kind::Incompatible,
                format!(
                    "{} was made with the {} driver, not with {driver}",
                    store.root.display(),
                    store.meta.driver
                ),
            )
            .hinted(format!("use `--driver {}`, or another `--root`", store.meta.driver)));
        }
        Ok(store)
    }

    /// Makes a root, or takes up what a crash left of making it.
    fn make(root: &Path, driver: Driver) -> Result<Self> {
        durable::make_folders(root)?;
        let root = root.canonicalize().context("open root folder", root)?;
        refuse_strange(&root)?;
        // One after the other: the second finds what the first has made.
        let _lock = Exclusive::take(&root)?;
        if let Some(meta) = read_meta(&root)? {
            return Self::with(root, meta);
        }
        if holds_records(&root) {
            return Err(lost_meta(&root));
        }
        std::fs::set_permissions(&root, Permissions::from_mode(0o700)).context("set the mode of", &root)?;
        for folder in FOLDERS {
            durable::make_folder(&root.join(folder))?;
        }
        let meta = Meta {
            version: VERSION,
            uuid: new_uuid()?,
            driver,
            compatible: Vec::new(),
            read_only_compatible: Vec::new(),
            incompatible: Vec::new(),
        };
        durable::write(
            &root.join("tmp"),
            &root.join("meta.json"),
            &record::encode("root", &meta)?,
        )?;
        tracing::debug!(root = %root.display(), %driver, "root made");
        Self::with(root, meta)
    }

    fn with(root: PathBuf, meta: Meta) -> Result<Self> {
        let too_new = |what: String| {
            Error::new(Kind::Incompatible, format!("the root {} {what}", root.display()))
                .hinted("a newer plywood made it: use that one")
        };
        if meta.version != VERSION {
            return Err(too_new(format!(
                "has format version {}, this plywood knows {VERSION}",
                meta.version
            )));
        }
        if let Some(feature) = unknown(&meta.incompatible) {
            return Err(too_new(format!("uses the feature {feature:?}")));
        }
        let passing = boot::id().map(|boot| root.join(PASSING).join(boot));
        let passing = passing.as_deref();
        Ok(Self {
            blobs: Blobs::new(&root),
            layers: Records::new(&root, passing),
            snapshots: Records::new(&root, passing),
            images: Records::new(&root, passing),
            names: Records::new(&root, passing),
            containers: Records::new(&root, passing),
            pool: Records::new(&root, passing),
            steps: Records::new(&root, None),
            intents: Intents::new(&root, passing),
            passing: passing.map(Path::to_owned),
            root,
            meta,
        })
    }

    /// The root folder, absolute.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// What this root is.
    pub fn meta(&self) -> &Meta {
        &self.meta
    }

    /// A folder under the root, made (0700) if it is not there. `name` may have several parts.
    ///
    /// # Errors
    /// Invalid where `name` leads out of the root; I/O.
    pub fn folder(&self, name: &str) -> Result<PathBuf> {
        let mut folder = self.root.clone();
        for part in Path::new(name).components() {
            let Component::Normal(part) = part else {
                return Err(Error::invalid(format!("not a folder under the root: {name:?}")));
            };
            folder.push(part);
            if !folder.is_dir() {
                durable::make_folder(&folder)?;
            }
        }
        Ok(folder)
    }

    /// Removes what was passing when the machine stopped: it means nothing any more.
    ///
    /// # Errors
    /// I/O.
    pub fn forget_other_boots(&self, _lock: &Exclusive) -> Result<()> {
        let folder = self.root.join(PASSING);
        let boots = match std::fs::read_dir(&folder) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            boots => boots.context("list", &folder)?,
        };
        for boot in boots {
            let boot = boot.context("list", &folder)?;
            if self.passing.as_ref().is_some_and(|this| *this != boot.path()) {
                std::fs::remove_dir_all(boot.path()).context("remove", boot.path())?;
            }
        }
        Ok(())
    }

    /// Waits for the shared lock.
    ///
    /// # Errors
    /// I/O.
    pub fn shared(&self) -> Result<Shared> {
        Shared::take(&self.root.join("lock"))
    }

    /// Waits for the exclusive lock.
    ///
    /// # Errors
    /// In use where this very thread holds it; incompatible where a newer plywood
    /// made the root and this one may only read it; I/O.
    pub fn exclusive(&self) -> Result<Exclusive> {
        if let Some(feature) = unknown(&self.meta.read_only_compatible) {
            return Err(Error::new(
                Kind::Incompatible,
                format!(
                    "the root {} uses the feature {feature:?}: this plywood can read it, not change it",
                    self.root.display()
                ),
            )
            .hinted("a newer plywood made it: use that one"));
        }
        Exclusive::take(&self.root)
    }
}

fn unknown(features: &[String]) -> Option<&String> {
    features.iter().find(|feature| !KNOWN.contains(&feature.as_str()))
}

fn read_meta(root: &Path) -> Result<Option<Meta>> {
    let path = root.join("meta.json");
    match record::read_file(&path)? {
        Some(content) => record::decode("root", &content, &path).map(Some),
        None => Ok(None),
    }
}

/// 32 random hexadecimal digits.
fn new_uuid() -> Result<String> {
    let mut random = [0; 16];
    rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())
        .context("read random bytes for", "the root's UUID")?;
    Ok(format!("{:032x}", u128::from_be_bytes(random)))
}

/// Whether there is a record: then a missing `meta.json` is a loss, not a beginning.
fn holds_records(root: &Path) -> bool {
    let Ok(kinds) = std::fs::read_dir(root.join("records")) else {
        return false;
    };
    kinds
        .flatten()
        .filter_map(|kind| std::fs::read_dir(kind.path()).ok())
        .any(|mut records| records.next().is_some())
}

fn lost_meta(root: &Path) -> Error {
    Error::corrupt(format!("{} has records, but its meta.json is missing", root.display()))
        .hinted("bring meta.json back from a backup; plywood makes no new root over an old one")
}

/// A root is made in an empty folder, or in what is left of making one.
fn refuse_strange(root: &Path) -> Result<()> {
    for entry in std::fs::read_dir(root).context("list", root)? {
        let name = entry.context("list", root)?.file_name();
        if !TOP.iter().any(|known| name == **known) {
            return Err(Error::invalid(format!(
                "{} is no plywood root and not empty: it holds {}",
                root.display(),
                name.display()
            ))
            .hinted("name an empty or new folder with `--root`"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ImageId;
    use crate::record::name_key;

    #[test]
    fn a_root_is_made_once_and_keeps_its_driver() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("a/root");
        assert!(Store::open(&root).unwrap().is_none());
        let made = Store::create(&root, Driver::Overlay).unwrap();
        let again = Store::create(&root, Driver::Overlay).unwrap();
        assert_eq!(made.meta(), again.meta());
        assert_eq!(made.meta().uuid.len(), 32);
        let other = Store::create(&root, Driver::Thin).unwrap_err();
        assert_eq!(other.kind(), Kind::Incompatible);
        assert_eq!(root.metadata().unwrap().permissions().mode() & 0o7777, 0o700);
    }

    #[test]
    fn many_makers_at_once_make_one_root() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("root");
        let uuids: Vec<String> = std::thread::scope(|threads| {
            let makers: Vec<_> = (0..16)
                .map(|_| threads.spawn(|| Store::create(&root, Driver::Thin).unwrap().meta.uuid))
                .collect();
            makers.into_iter().map(|maker| maker.join().unwrap()).collect()
        });
        assert!(uuids.iter().all(|uuid| *uuid == uuids[0]));
    }

    #[test]
    fn a_strange_folder_and_a_lost_meta_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("thesis.tex"), "x").unwrap();
        let strange = Store::create(folder.path(), Driver::Thin).unwrap_err();
        assert_eq!(strange.kind(), Kind::Invalid);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);

        let folder = tempfile::tempdir().unwrap();
        let store = Store::create(folder.path(), Driver::Thin).unwrap();
        let name = NameRecord {
            name: "base".parse().unwrap(),
            image: ImageId(crate::Digest::of(b"x")),
        };
        let lock = store.exclusive().unwrap();
        store.names.put(&lock, &name).unwrap();
        lock.done().unwrap();
        assert_eq!(store.names.get(&name_key(&name.name)).unwrap(), Some(name));
        std::fs::remove_file(folder.path().join("meta.json")).unwrap();
        for lost in [
            Store::create(folder.path(), Driver::Thin).map(Some),
            Store::open(folder.path()),
        ] {
            assert_eq!(lost.unwrap_err().kind(), Kind::Corrupt);
        }
    }

    #[test]
    fn features_decide_what_an_older_plywood_may_do() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::create(folder.path(), Driver::Thin).unwrap();
        let with = |change: fn(&mut Meta)| {
            let mut meta = store.meta().clone();
            change(&mut meta);
            let text = record::encode("root", &meta).unwrap();
            std::fs::write(folder.path().join("meta.json"), text).unwrap();
            Store::open(folder.path()).map(Option::unwrap)
        };
        with(|meta| meta.compatible.push("new".into()))
            .unwrap()
            .exclusive()
            .unwrap();
        let read_only = with(|meta| meta.read_only_compatible.push("new".into())).unwrap();
        read_only.shared().unwrap();
        assert_eq!(read_only.exclusive().unwrap_err().kind(), Kind::Incompatible);
        let refused: [fn(&mut Meta); 2] = [|meta| meta.incompatible.push("new".into()), |meta| meta.version = 2];
        for change in refused {
            assert_eq!(with(change).unwrap_err().kind(), Kind::Incompatible);
        }
    }

    #[test]
    fn folders_stay_under_the_root() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::create(folder.path(), Driver::Thin).unwrap();
        assert!(store.folder("overlay/x").unwrap().is_dir());
        for bad in ["..", "/etc", "a/../../b"] {
            assert_eq!(store.folder(bad).unwrap_err().kind(), Kind::Invalid);
        }
    }
}
