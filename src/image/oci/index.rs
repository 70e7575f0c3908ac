//! The index: several manifests, for platforms or under names.

use std::collections::BTreeMap;

use plywood_store::blob::Descriptor;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::document::{
    BLOB_FIELDS, Document, WireDescriptor, descriptor_value, layer_count_is_allowed, null_is_default, to_bytes,
};
use super::{DOCKER_LIST, DOCKER_MANIFEST, INDEX, MANIFEST, architecture};
use crate::error::Result;

/// An index: several manifests, each for a platform or under a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Index {
    /// Its manifests, in its order.
    pub manifests: Vec<IndexEntry>,
}

/// One manifest (or nested index) of an index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexEntry {
    /// The blob.
    pub blob: Descriptor,
    /// What it runs on, where the index says so.
    pub platform: Option<Platform>,
    /// Annotations, sorted.
    pub annotations: BTreeMap<String, String>,
}

/// What an image runs on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    /// In Go's words.
    pub architecture: String,
    /// In Go's words.
    pub os: String,
    /// As `v8` of `arm64`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

impl Platform {
    /// Whether it runs on this machine.
    pub fn is_ours(&self) -> bool {
        self.os == "linux" && self.architecture == architecture()
    }
}

impl std::fmt::Display for Platform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.iter().try_for_each(|variant| write!(f, "/{variant}"))
    }
}

impl IndexEntry {
    /// Whether this is an index inside an index.
    pub fn is_index(&self) -> bool {
        [INDEX, DOCKER_LIST].contains(&self.blob.media_type.as_str())
    }

    /// Whether this is an image's manifest.
    pub fn is_manifest(&self) -> bool {
        [MANIFEST, DOCKER_MANIFEST].contains(&self.blob.media_type.as_str())
    }
}

impl Index {
    /// Reads an index from outside; `media_type` is what its descriptor promised.
    ///
    /// # Errors
    /// Invalid where it is none, or could be another kind of document.
    pub fn parse(bytes: &[u8], media_type: &str) -> Result<Self> {
        #[derive(Deserialize)]
        struct Wire {
            manifests: Vec<WireEntry>,
        }
        #[derive(Deserialize)]
        struct WireEntry {
            #[serde(flatten)]
            blob: WireDescriptor,
            platform: Option<Platform>,
            #[serde(default, deserialize_with = "null_is_default")]
            annotations: BTreeMap<String, String>,
        }
        let document = Document::parse("image index", bytes, &BLOB_FIELDS)?;
        document.is_version_2_of(media_type)?;
        document.refuse_fields(&["layers", "config", "fsLayers"])?;
        let wire: Wire = document.read()?;
        layer_count_is_allowed(wire.manifests.len())?;
        let entry = |wire: WireEntry| IndexEntry {
            blob: wire.blob.into(),
            platform: wire.platform,
            annotations: wire.annotations,
        };
        Ok(Self {
            manifests: wire.manifests.into_iter().map(entry).collect(),
        })
    }

    /// The index's bytes as plywood writes them.
    ///
    /// # Errors
    /// None in practice: every part is a JSON value.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let entry = |entry: &IndexEntry| {
            let mut value = descriptor_value(&entry.blob);
            if let Some(fields) = value.as_object_mut() {
                if let Some(platform) = &entry.platform {
                    fields.insert("platform".to_owned(), serde_json::json!(platform));
                }
                if !entry.annotations.is_empty() {
                    fields.insert("annotations".to_owned(), serde_json::json!(entry.annotations));
                }
            }
            value
        };
        let manifests: Vec<Value> = self.manifests.iter().map(entry).collect();
        to_bytes(
            "image index",
            &serde_json::json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": manifests }),
        )
    }
}
