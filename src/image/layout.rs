//! Reads an OCI layout: `oci-layout`, `index.json`, manifests, configs; nested indexes by platform.
//!
//! Format: OCI image specification 1.1, `image-layout.md`, `image-index.md`.

use plywood_store::Reference;
use serde::Deserialize;

use super::foreign::{Foreign, ForeignLayer, Images, blob_file, diff_ids_of, document, own_name};
use super::json;
use super::oci::{self, DOCUMENT_MAX, Index, IndexEntry, Manifest};
use super::source::Parts;
use crate::error::{Error, Kind, Result};

/// Indexes inside indexes.
const NESTING_MAX: usize = 4;
/// A manifest's name, as skopeo, podman and umoci write it.
pub(super) const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// The same as Docker writes it: there the other is the tag alone.
const DOCKER_NAME: &str = "io.containerd.image.name";

/// Reads every image of the layout that runs on this machine.
pub(super) fn read(parts: &Parts) -> Result<Vec<Foreign>> {
    check_version(&parts.read("oci-layout", DOCUMENT_MAX)?.unwrap_or_default())?;
    let index = Index::parse(&parts.read("index.json", DOCUMENT_MAX)?.unwrap_or_default(), oci::INDEX)?;
    // One image under several names is several entries.
    let mut images = Images::default();
    for entry in ours(&index)? {
        images.add(Foreign {
            names: name(entry)?.into_iter().collect(),
            ..image(parts, entry, 0)?
        })?;
    }
    let images = images.all();
    if images.is_empty() {
        return Err(Error::invalid("the OCI layout holds no image"));
    }
    Ok(images)
}

fn check_version(layout: &[u8]) -> Result<()> {
    #[derive(Deserialize)]
    struct Layout {
        #[serde(rename = "imageLayoutVersion")]
        version: String,
    }
    let layout: Layout = json::read(layout, &["imageLayoutVersion"])
        .and_then(serde_json::from_value)
        .map_err(|cause| Error::invalid("oci-layout is not as the specification has it").caused_by(cause))?;
    if layout.version.split('.').next() != Some("1") {
        return Err(Error::new(
            Kind::Incompatible,
            format!("the OCI layout is of version {:?}; plywood knows 1.0.0", layout.version),
        ));
    }
    Ok(())
}

fn name(entry: &IndexEntry) -> Result<Option<Reference>> {
    entry
        .annotations
        .get(DOCKER_NAME)
        .or_else(|| entry.annotations.get(REF_NAME))
        .map(|text| own_name(text))
        .transpose()
}

/// The entries that are images, or lead to some, and are not for another machine.
fn ours(index: &Index) -> Result<Vec<&IndexEntry>> {
    let images: Vec<&IndexEntry> = index
        .manifests
        .iter()
        .filter(|entry| (entry.is_manifest() || entry.is_index()) && !is_attestation(entry))
        .collect();
    if let (true, Some(odd)) = (images.is_empty(), index.manifests.first()) {
        return Err(Error::invalid(format!(
            "{} is of media type {:?}: no image",
            odd.blob.digest, odd.blob.media_type
        )));
    }
    let ours: Vec<&IndexEntry> = images
        .iter()
        .copied()
        .filter(|entry| entry.platform.as_ref().is_none_or(oci::Platform::is_ours))
        .collect();
    if ours.is_empty() && !images.is_empty() {
        let there: Vec<String> = images
            .iter()
            .filter_map(|entry| entry.platform.as_ref())
            .map(ToString::to_string)
            .collect();
        return Err(Error::invalid(format!(
            "the archive has no image for linux/{}, only for {}",
            oci::architecture(),
            there.join(", ")
        ))
        .hinted("export or copy the image for this machine's platform"));
    }
    Ok(ours)
}

/// What buildx puts beside its images.
fn is_attestation(entry: &IndexEntry) -> bool {
    entry.platform.as_ref().is_some_and(|platform| platform.os == "unknown")
        || entry.annotations.contains_key("vnd.docker.reference.type")
}

fn image(parts: &Parts, entry: &IndexEntry, depth: usize) -> Result<Foreign> {
    if entry.is_manifest() {
        return image_of_manifest(parts, entry);
    }
    if depth >= NESTING_MAX {
        return Err(Error::invalid(format!(
            "indexes are nested more than {NESTING_MAX} deep"
        )));
    }
    let index = Index::parse(&document(parts, &entry.blob, "image index")?, &entry.blob.media_type)?;
    let ours = ours(&index)?;
    // The first is the index's own preference where several would do.
    let first = ours
        .first()
        .ok_or_else(|| Error::invalid(format!("the image index {} is empty", entry.blob.digest)))?;
    image(parts, first, depth + 1)
}

fn image_of_manifest(parts: &Parts, entry: &IndexEntry) -> Result<Foreign> {
    let bytes = document(parts, &entry.blob, "image manifest")?;
    let manifest = Manifest::parse(&bytes, &entry.blob.media_type)?;
    let config = document(parts, &manifest.config, "image config")?;
    let diff_ids = diff_ids_of(&config, manifest.layers.len())?;
    let layers = manifest
        .layers
        .iter()
        .map(|layer| ForeignLayer {
            file: blob_file(&layer.digest),
            blob: Some((layer.digest, layer.size)),
        })
        .collect();
    let keep = entry.blob.media_type == oci::MANIFEST && manifest.is_oci();
    Ok(Foreign {
        config,
        diff_ids,
        digest: entry.blob.digest,
        manifest: keep.then(|| (bytes, entry.blob.media_type.clone())),
        layers,
        names: Vec::new(),
    })
}
