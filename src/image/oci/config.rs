//! The config: how an image is run, which layers it has, how they came about.

use std::collections::BTreeMap;

use plywood_store::DiffId;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::architecture;
use super::document::{Document, layer_count_is_allowed, null_is_default, to_bytes};
use crate::error::{Error, Result};

/// Fields of a config and of what is in it.
const CONFIG_FIELDS: [&str; 25] = [
    "created",
    "author",
    "architecture",
    "os",
    "variant",
    "config",
    "rootfs",
    "history",
    "type",
    "diff_ids",
    "created_by",
    "comment",
    "empty_layer",
    "User",
    "ExposedPorts",
    "Env",
    "Entrypoint",
    "Cmd",
    "Volumes",
    "WorkingDir",
    "Labels",
    "StopSignal",
    "Healthcheck",
    "layers",
    "manifests",
];

/// An image's config.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ImageConfig {
    /// When it was made, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// Who made it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    /// The processor, in Go's words (`amd64`, `arm64`).
    #[serde(default)]
    pub architecture: String,
    /// The operating system, in Go's words.
    #[serde(default)]
    pub os: String,
    /// How to run it.
    #[serde(
        default,
        deserialize_with = "null_is_default",
        skip_serializing_if = "RunConfig::is_empty"
    )]
    pub config: RunConfig,
    /// Its layers.
    pub rootfs: RootFs,
    /// How it came about, oldest first.
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<History>,
    /// What plywood does not know, kept.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// How to run an image: the config's `config`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct RunConfig {
    /// `user[:group]`, names or numbers.
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "String::is_empty")]
    pub user: String,
    /// `port/protocol`.
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub exposed_ports: BTreeMap<String, Value>,
    /// `NAME=value`.
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    /// The command's fixed first words; none where unset, which is not the same as empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<Vec<String>>,
    /// The command's other words, or the whole command.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cmd: Option<Vec<String>>,
    /// Folders that hold data of their own.
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub volumes: BTreeMap<String, Value>,
    /// Where the command starts.
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "String::is_empty")]
    pub working_dir: String,
    /// Marks, by name.
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// The signal that asks the command to end.
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "String::is_empty")]
    pub stop_signal: String,
    /// What plywood does not know, kept.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

impl RunConfig {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// The layers of a config.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootFs {
    /// Always `layers`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The layers' uncompressed digests, base first.
    #[serde(deserialize_with = "null_is_default")]
    pub diff_ids: Vec<DiffId>,
}

/// One step of an image's making.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct History {
    /// When, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// By which command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_by: Option<String>,
    /// By whom.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    /// What its maker said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    /// True where the step made no layer.
    #[serde(
        default,
        deserialize_with = "null_is_default",
        skip_serializing_if = "std::ops::Not::not"
    )]
    pub empty_layer: bool,
}

impl ImageConfig {
    /// A config without layers, for this machine.
    pub fn new() -> Self {
        Self {
            created: None,
            author: None,
            architecture: architecture().to_owned(),
            os: "linux".to_owned(),
            config: RunConfig::default(),
            rootfs: RootFs {
                kind: "layers".to_owned(),
                diff_ids: Vec::new(),
            },
            history: Vec::new(),
            other: Map::new(),
        }
    }

    /// Reads a config from outside.
    ///
    /// # Errors
    /// Invalid where it is no config, has too many layers, or could be another kind of document.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let document = Document::parse("image config", bytes, &CONFIG_FIELDS)?;
        document.refuse_fields(&["layers", "manifests"])?;
        let config: Self = document.read()?;
        if config.rootfs.kind != "layers" {
            return Err(Error::invalid(format!(
                "the image config's rootfs is of type {:?}, not layers",
                config.rootfs.kind
            )));
        }
        layer_count_is_allowed(config.rootfs.diff_ids.len())?;
        Ok(config)
    }

    /// The config's bytes as plywood writes them.
    ///
    /// # Errors
    /// None in practice: every part is a JSON value.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        to_bytes("image config", self)
    }

    /// History entries that stand for a layer; equal to the layers where a history is kept at all.
    pub fn layers_in_history(&self) -> usize {
        self.history.iter().filter(|step| !step.empty_layer).count()
    }
}

impl Default for ImageConfig {
    fn default() -> Self {
        Self::new()
    }
}
