//! What all documents have in common: caps, the check that one is one kind alone, descriptors, canonical bytes.

use plywood_store::Digest;
use plywood_store::blob::Descriptor;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use super::{DOCUMENT_MAX, LAYERS_MAX};
use crate::error::{Error, Kind, Result};
use crate::image::json;

/// Fields of a manifest or index and of the descriptors in it.
pub(super) const BLOB_FIELDS: [&str; 13] = [
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

/// A JSON object from outside, its size and depth capped, its kind not yet trusted.
pub(super) struct Document {
    what: &'static str,
    fields: Map<String, Value>,
}

impl Document {
    pub(super) fn parse(what: &'static str, bytes: &[u8], known: &[&str]) -> Result<Self> {
        if u64::try_from(bytes.len()).is_ok_and(|length| length > DOCUMENT_MAX) {
            return Err(Error::invalid(format!("the {what} has more than {DOCUMENT_MAX} bytes")));
        }
        let fields = json::read_object(bytes, known).map_err(|cause| {
            Error::invalid(format!("the {what} is not a JSON object, or no safe one")).caused_by(cause)
        })?;
        Ok(Self { what, fields })
    }

    /// Two kinds in one document: each reader would see another image.
    pub(super) fn refuse_fields(&self, others: &[&str]) -> Result<()> {
        match others.iter().find(|field| self.fields.contains_key(**field)) {
            Some(field) => Err(Error::invalid(format!(
                "the {} also has {field:?}, as another kind of document does: refused",
                self.what
            ))),
            None => Ok(()),
        }
    }

    pub(super) fn is_version_2_of(&self, media_type: &str) -> Result<()> {
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

    pub(super) fn read<T: DeserializeOwned>(self) -> Result<T> {
        serde_json::from_value(Value::Object(self.fields)).map_err(|cause| {
            Error::invalid(format!("the {} is not as the specification has it", self.what)).caused_by(cause)
        })
    }
}

pub(super) fn layer_count_is_allowed(count: usize) -> Result<()> {
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

/// A descriptor as it stands in an OCI document.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct WireDescriptor {
    #[serde(rename = "mediaType")]
    pub(super) media_type: String,
    pub(super) digest: Digest,
    pub(super) size: u64,
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

pub(super) fn descriptor_value(descriptor: &Descriptor) -> Value {
    serde_json::json!({ "mediaType": descriptor.media_type, "digest": descriptor.digest, "size": descriptor.size })
}

pub(super) fn null_is_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    from: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}
