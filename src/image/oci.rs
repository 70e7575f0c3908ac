//! The OCI image documents as types: config, manifest, index.
//!
//! What comes from outside is capped ([`DOCUMENT_MAX`], [`LAYERS_MAX`]) and
//! checked before anyone relies on it; a document that could be read as two
//! kinds is refused. A config keeps the fields that plywood does not know
//! (`Healthcheck`, `Shell`, …), so that committing onto an image loses nothing;
//! that is why these are types of our own. What plywood writes has its keys
//! sorted and no white space: same content, same bytes, same digest.
//!
//! Formats: OCI image specification 1.1, `config.md`, `manifest.md`,
//! `image-index.md`; Docker's schema 2 manifest, which has the same shape.

use std::collections::BTreeMap;

use plywood_store::blob::Descriptor;
use plywood_store::record::ImageRecord;
use plywood_store::{DiffId, Digest, Store};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use super::json;
use crate::error::{Error, Kind, Result};

/// Bytes that a config, manifest or index may have.
pub const DOCUMENT_MAX: u64 = 4 << 20;
/// Layers that an image may have.
pub const LAYERS_MAX: usize = 1000;

/// Media type of an OCI config.
pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// Media type of an OCI manifest.
pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// Media type of an OCI index.
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
const LAYERS: [&str; 8] = [
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.oci.image.layer.v1.tar+gzip",
    "application/vnd.oci.image.layer.v1.tar+zstd",
    "application/vnd.oci.image.layer.nondistributable.v1.tar",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
];

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
/// Fields of a manifest or index and of the descriptors in it.
const MANIFEST_FIELDS: [&str; 13] = [
    "schemaVersion",
    "mediaType",
    "artifactType",
    "config",
    "layers",
    "manifests",
    "subject",
    "annotations",
    "digest",
    "size",
    "platform",
    "fsLayers",
    "signatures",
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

fn null_is_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(from: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
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

/// A manifest: one image's config and layers as blobs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// The config's blob.
    pub config: Descriptor,
    /// The layers' blobs, base first.
    pub layers: Vec<Descriptor>,
}

impl Manifest {
    /// Reads a manifest from outside; `media_type` is what its descriptor promised.
    ///
    /// # Errors
    /// Invalid where it is none, promises one kind and is another, or names parts that plywood cannot read.
    pub fn parse(bytes: &[u8], media_type: &str) -> Result<Self> {
        #[derive(Deserialize)]
        struct Wire {
            config: WireDescriptor,
            layers: Vec<WireDescriptor>,
        }
        let document = Document::parse("image manifest", bytes, &MANIFEST_FIELDS)?;
        document.is_version_2_of(media_type)?;
        document.refuse_fields(&["manifests", "fsLayers", "signatures"])?;
        let wire: Wire = document.read()?;
        layer_count_is_allowed(wire.layers.len())?;
        if ![CONFIG, DOCKER_CONFIG].contains(&wire.config.media_type.as_str()) {
            return Err(Error::invalid(format!(
                "the image manifest's config is of media type {:?}: not a container image",
                wire.config.media_type
            )));
        }
        if let Some(odd) = wire
            .layers
            .iter()
            .find(|layer| !LAYERS.contains(&layer.media_type.as_str()))
        {
            return Err(Error::invalid(format!(
                "layer {} is of media type {:?}, which plywood cannot unpack",
                odd.digest, odd.media_type
            )));
        }
        Ok(Self {
            config: wire.config.into(),
            layers: wire.layers.into_iter().map(Into::into).collect(),
        })
    }

    /// Whether all parts are of OCI's own media types, not of Docker's.
    pub fn is_oci(&self) -> bool {
        let oci = |blob: &Descriptor| blob.media_type.starts_with("application/vnd.oci.");
        oci(&self.config) && self.layers.iter().all(oci)
    }

    /// The manifest's bytes as plywood writes them.
    ///
    /// # Errors
    /// None in practice: every part is a JSON value.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        to_bytes(
            "image manifest",
            &serde_json::json!({
                "schemaVersion": 2,
                "mediaType": MANIFEST,
                "config": descriptor_value(&self.config),
                "layers": self.layers.iter().map(descriptor_value).collect::<Vec<_>>(),
            }),
        )
    }
}

/// A descriptor as it stands in an OCI document.
#[derive(Debug, Clone, Deserialize)]
struct WireDescriptor {
    #[serde(rename = "mediaType")]
    media_type: String,
    digest: Digest,
    size: u64,
}

impl From<WireDescriptor> for Descriptor {
    fn from(wire: WireDescriptor) -> Self {
        Self {
            media_type: wire.media_type,
            digest: wire.digest,
            size: wire.size,
        }
    }
}

fn descriptor_value(descriptor: &Descriptor) -> Value {
    serde_json::json!({ "mediaType": descriptor.media_type, "digest": descriptor.digest, "size": descriptor.size })
}

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
        let document = Document::parse("image index", bytes, &MANIFEST_FIELDS)?;
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

/// A JSON object from outside, its size and depth capped, its kind not yet trusted.
struct Document {
    what: &'static str,
    fields: Map<String, Value>,
}

impl Document {
    fn parse(what: &'static str, bytes: &[u8], known: &[&str]) -> Result<Self> {
        if u64::try_from(bytes.len()).is_ok_and(|length| length > DOCUMENT_MAX) {
            return Err(Error::invalid(format!("the {what} has more than {DOCUMENT_MAX} bytes")));
        }
        let fields = json::read_object(bytes, known).map_err(|cause| {
            Error::invalid(format!("the {what} is not a JSON object, or no safe one")).caused_by(cause)
        })?;
        Ok(Self { what, fields })
    }

    /// Two kinds in one document: each reader would see another image.
    fn refuse_fields(&self, others: &[&str]) -> Result<()> {
        match others.iter().find(|field| self.fields.contains_key(**field)) {
            Some(field) => Err(Error::invalid(format!(
                "the {} also has {field:?}, as another kind of document does: refused",
                self.what
            ))),
            None => Ok(()),
        }
    }

    fn is_version_2_of(&self, media_type: &str) -> Result<()> {
        if self.fields.get("schemaVersion") != Some(&Value::from(2)) {
            return Err(Error::invalid(format!("the {} is not of schema version 2", self.what)));
        }
        match self.fields.get("mediaType") {
            None => Ok(()),
            Some(Value::String(own)) if own == media_type => Ok(()),
            Some(own) => Err(Error::invalid(format!(
                "the {} calls itself {own}, but was promised as {media_type:?}",
                self.what
            ))),
        }
    }

    fn read<T: DeserializeOwned>(self) -> Result<T> {
        serde_json::from_value(Value::Object(self.fields)).map_err(|cause| {
            Error::invalid(format!("the {} is not as the specification has it", self.what)).caused_by(cause)
        })
    }
}

fn layer_count_is_allowed(count: usize) -> Result<()> {
    if count > LAYERS_MAX {
        return Err(Error::invalid(format!(
            "{count} layers or manifests; an image has at most {LAYERS_MAX}"
        )));
    }
    Ok(())
}

/// Bytes of a JSON document with sorted keys: `Value`'s maps are sorted.
pub(crate) fn to_bytes(what: &str, document: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_value(document)
        .and_then(|value| serde_json::to_vec(&value))
        .map_err(|cause| Error::new(Kind::Io, format!("cannot write the {what} as JSON")).caused_by(cause))
}

/// Reads a stored image's config.
///
/// # Errors
/// Not found or corrupt where the blob is missing or damaged.
pub fn read_config(store: &Store, image: &ImageRecord) -> Result<ImageConfig> {
    ImageConfig::parse(&store.blobs.read(&image.config.digest, DOCUMENT_MAX)?)
}

/// Reads a stored image's manifest.
///
/// # Errors
/// Not found or corrupt where the blob is missing or damaged.
pub fn read_manifest(store: &Store, image: &ImageRecord) -> Result<Manifest> {
    Manifest::parse(
        &store.blobs.read(&image.manifest.digest, DOCUMENT_MAX)?,
        &image.manifest.media_type,
    )
}

/// This machine's processor in Go's words, as OCI wants them.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "x86" => "386",
        "aarch64" => "arm64",
        "powerpc64" if cfg!(target_endian = "little") => "ppc64le",
        "loongarch64" => "loong64",
        same => same,
    }
}

/// `SOURCE_DATE_EPOCH`, where it is set: seconds since 1970.
///
/// # Errors
/// Invalid where it is not a number.
pub fn source_date_epoch() -> Result<Option<i64>> {
    let Some(text) = std::env::var_os("SOURCE_DATE_EPOCH").filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    let seconds = text.to_str().and_then(|text| text.parse().ok());
    seconds.map(Some).ok_or_else(|| {
        Error::invalid(format!(
            "SOURCE_DATE_EPOCH is {text:?}, not a number of seconds since 1970"
        ))
    })
}

/// The date for a config that is made now: RFC 3339, `SOURCE_DATE_EPOCH` where that is set.
///
/// # Errors
/// Invalid where `SOURCE_DATE_EPOCH` is no date.
pub fn created_now() -> Result<String> {
    let when = match source_date_epoch()? {
        Some(seconds) => jiff::Timestamp::from_second(seconds).map_err(|cause| {
            Error::invalid(format!("SOURCE_DATE_EPOCH is {seconds}, which is no date")).caused_by(cause)
        })?,
        None => jiff::Timestamp::now(),
    };
    Ok(when.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    fn manifest(extra: &str) -> String {
        format!(
            r#"{{"schemaVersion":2,"config":{{"mediaType":"{CONFIG}","digest":"{DIGEST}","size":3}},"layers":[{{"mediaType":"{}","digest":"{DIGEST}","size":3}}]{extra}}}"#,
            LAYERS[0]
        )
    }

    #[test]
    fn a_config_keeps_what_it_does_not_know() {
        let text = format!(
            r#"{{"architecture":"amd64","config":{{"Cmd":["sh"],"Healthcheck":{{"Test":["NONE"]}}}},"moby.buildkit.cache.v0":"x","os":"linux","os.features":["y"],"rootfs":{{"diff_ids":["{DIGEST}"],"type":"layers"}}}}"#
        );
        let config = ImageConfig::parse(text.as_bytes()).unwrap();
        assert_eq!(String::from_utf8(config.to_bytes().unwrap()).unwrap(), text);
    }

    #[test]
    fn a_number_that_is_not_ours_stays_the_same_however_often_it_is_written() {
        let text = format!(r#"{{"rootfs":{{"type":"layers","diff_ids":["{DIGEST}"]}},"x":-24e23}}"#);
        let once = ImageConfig::parse(text.as_bytes()).unwrap().to_bytes().unwrap();
        let twice = ImageConfig::parse(&once).unwrap().to_bytes().unwrap();
        assert_eq!(String::from_utf8(twice).unwrap(), String::from_utf8(once).unwrap());
    }

    #[test]
    fn null_is_unset_as_docker_writes_it() {
        let text = r#"{"architecture":"amd64","os":"linux","config":{"Cmd":null,"Env":null,"Labels":null,"Volumes":null,"User":null,"ExposedPorts":null},"rootfs":{"type":"layers","diff_ids":null},"history":null,"author":null}"#;
        let config = ImageConfig::parse(text.as_bytes()).unwrap();
        assert_eq!(config.config, RunConfig::default());
        assert!(config.history.is_empty());
    }

    #[test]
    fn documents_round_trip() {
        let parsed = Manifest::parse(manifest("").as_bytes(), MANIFEST).unwrap();
        assert_eq!(Manifest::parse(&parsed.to_bytes().unwrap(), MANIFEST).unwrap(), parsed);
        let index = Index {
            manifests: vec![IndexEntry {
                blob: parsed.config.clone(),
                platform: Some(Platform {
                    architecture: "arm64".into(),
                    os: "linux".into(),
                    variant: Some("v8".into()),
                }),
                annotations: BTreeMap::from([("a".into(), "b".into())]),
            }],
        };
        assert_eq!(Index::parse(&index.to_bytes().unwrap(), INDEX).unwrap(), index);
    }

    #[test]
    fn u20_digests_that_are_paths_are_refused() {
        for bad in [
            "sha256:../../etc/passwd",
            "sha512:00",
            "sha256:BA7816BF8F01CFEA414140DE5DAE2223B00361A396177A9CB410FF61F20015AD",
            "../x",
            "",
        ] {
            assert!(
                Manifest::parse(manifest("").replace(DIGEST, bad).as_bytes(), MANIFEST).is_err(),
                "{bad}"
            );
            let config =
                format!(r#"{{"architecture":"amd64","os":"linux","rootfs":{{"type":"layers","diff_ids":["{bad}"]}}}}"#);
            assert!(ImageConfig::parse(config.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn u22_a_document_of_two_kinds_is_refused() {
        for (extra, media_type) in [
            (r#","manifests":[]"#, MANIFEST),
            (r#","fsLayers":[]"#, MANIFEST),
            (&*format!(r#","mediaType":"{INDEX}""#), MANIFEST),
            (r#","mediaType":7"#, MANIFEST),
        ] {
            assert!(
                Manifest::parse(manifest(extra).as_bytes(), media_type).is_err(),
                "{extra}"
            );
        }
        let both = format!(
            r#"{{"schemaVersion":2,"manifests":[],"config":{{"mediaType":"{CONFIG}","digest":"{DIGEST}","size":3}},"layers":[]}}"#
        );
        assert!(Index::parse(both.as_bytes(), INDEX).is_err());
        assert!(Manifest::parse(both.as_bytes(), MANIFEST).is_err());
        for bad in [
            r#"{"schemaVersion":1}"#,
            "[]",
            "",
            "null",
            r#"{"schemaVersion":2,"layers":[]}"#,
        ] {
            assert!(Manifest::parse(bad.as_bytes(), MANIFEST).is_err(), "{bad}");
        }
        let no_media_type = manifest("").replace(&format!(r#""mediaType":"{}","#, LAYERS[0]), "");
        assert!(Manifest::parse(no_media_type.as_bytes(), MANIFEST).is_err());
        let artifact = manifest("").replace(CONFIG, "application/vnd.cncf.helm.config.v1+json");
        assert!(Manifest::parse(artifact.as_bytes(), MANIFEST).is_err());
    }

    #[test]
    fn u23_huge_documents_are_refused() {
        let padded = format!("{}{}", manifest(""), " ".repeat(usize::try_from(DOCUMENT_MAX).unwrap()));
        assert!(Manifest::parse(padded.as_bytes(), MANIFEST).is_err());
        let deep = format!(
            r#"{{"schemaVersion":2,"x":{}{}}}"#,
            "[".repeat(100_000),
            "]".repeat(100_000)
        );
        assert!(Manifest::parse(deep.as_bytes(), MANIFEST).is_err());
        let ids = vec![format!("{DIGEST:?}"); LAYERS_MAX + 1].join(",");
        let many =
            format!(r#"{{"architecture":"amd64","os":"linux","rootfs":{{"type":"layers","diff_ids":[{ids}]}}}}"#);
        assert!(
            ImageConfig::parse(many.as_bytes())
                .unwrap_err()
                .to_string()
                .contains("1001 layers")
        );
    }
}
