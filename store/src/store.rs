//! [`Store`]: a root folder, opened.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::blob::Blobs;
use crate::intent::Intents;
use crate::lock::{Exclusive, Shared};
use crate::record::{ContainerRecord, ImageRecord, LayerRecord, NameRecord, PoolRecord, Records, SnapshotRecord};
use crate::{Reference, Result};

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
    /// What live processes are about to do.
    pub intents: Intents,
}

impl Store {
    /// Opens the root that is there, or none where the folder holds none.
    ///
    /// # Errors
    /// Incompatible where a newer plywood made it; corrupt where `meta.json` is damaged.
    pub fn open(root: &Path) -> Result<Option<Self>> {
        let _ = root;
        todo!()
    }

    /// Opens the root, or makes one for `driver`; two at once both succeed.
    ///
    /// # Errors
    /// Invalid where the folder holds something else.
    pub fn create(root: &Path, driver: Driver) -> Result<Self> {
        let _ = (root, driver);
        todo!()
    }

    /// The root folder, absolute.
    pub fn root(&self) -> &Path {
        todo!()
    }

    /// What this root is.
    pub fn meta(&self) -> &Meta {
        todo!()
    }

    /// A folder under the root, made (0700) if it is not there.
    pub fn folder(&self, name: &str) -> Result<PathBuf> {
        let _ = name;
        todo!()
    }

    /// Waits for the shared lock.
    pub fn shared(&self) -> Result<Shared> {
        todo!()
    }

    /// Waits for the exclusive lock.
    pub fn exclusive(&self) -> Result<Exclusive> {
        todo!()
    }

    /// The image that a name, an id or a unique id prefix of 6 or more digits stands for.
    ///
    /// # Errors
    /// Not found, with near names in the hint; invalid for an ambiguous prefix.
    pub fn find_image(&self, text: &str) -> Result<ImageRecord> {
        let _ = text;
        todo!()
    }

    /// The container of a name, an id or a unique id prefix.
    ///
    /// # Errors
    /// As for [`Store::find_image`].
    pub fn find_container(&self, text: &str) -> Result<ContainerRecord> {
        let _ = text;
        todo!()
    }

    /// The names of an image, sorted.
    pub fn names_of(&self, image: &crate::ImageId) -> Result<Vec<Reference>> {
        let _ = image;
        todo!()
    }
}
