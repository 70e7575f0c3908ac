//! The manifest: an image's config and layers as blobs.

use plywood_store::blob::Descriptor;
use serde::Deserialize;

use super::document::{BLOB_FIELDS, Document, WireDescriptor, descriptor_value, layer_count_is_allowed, to_bytes};
use super::{CONFIG, DOCKER_CONFIG, MANIFEST};
use crate::error::{Error, Result};

pub(super) const LAYERS: [&str; 8] = [
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.oci.image.layer.v1.tar+gzip",
    "application/vnd.oci.image.layer.v1.tar+zstd",
    "application/vnd.oci.image.layer.nondistributable.v1.tar",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
];

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
        let document = Document::parse("image manifest", bytes, &BLOB_FIELDS)?;
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
