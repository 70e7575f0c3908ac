//! Images as an archive has them: read and checked, nothing of them in the store yet.
//!
//! An archive of a few kilobytes can name one large document thousands of
//! times, so all that its images are kept as is counted.

use plywood_store::blob::Descriptor;
use plywood_store::{DiffId, Digest, Reference};

use super::oci::{self, ImageConfig};
use super::pipeline::DAMAGED;
use super::source::Parts;
use crate::error::{Error, Kind, Result};

/// Bytes of configs and manifests that an archive may have, all images together.
const DOCUMENTS_MAX: usize = 64 << 20;
/// Names that the images of an archive may have, all together.
const NAMES_MAX: usize = 10_000;

/// An image in an archive.
#[derive(Debug)]
pub(super) struct Foreign {
    /// The config's bytes as they came.
    pub(super) config: Vec<u8>,
    /// The config's layers; the rest of it costs memory, and is read again where it is needed.
    pub(super) diff_ids: Vec<DiffId>,
    /// The digest that the archive knows it by.
    pub(super) digest: Digest,
    /// The manifest as it came, where it is an OCI one.
    pub(super) manifest: Option<(Vec<u8>, String)>,
    /// Base first; as many as the config has DiffIDs.
    pub(super) layers: Vec<ForeignLayer>,
    /// The names that it has in the archive.
    pub(super) names: Vec<Reference>,
}

/// A layer of an image in an archive.
#[derive(Debug, Clone)]
pub(super) struct ForeignLayer {
    /// The name of its file in the archive.
    pub(super) file: String,
    /// What the file must be, where the archive says so.
    pub(super) blob: Option<(Digest, u64)>,
}

impl ForeignLayer {
    /// The blob's digest: where the archive does not say, it may be the unpacked tar.
    pub(super) fn digest_or(&self, diff_id: DiffId) -> Digest {
        self.blob.map_or(diff_id.0, |(digest, _)| digest)
    }
}

/// The images of an archive, as many as there is room for.
#[derive(Debug, Default)]
pub(super) struct Images {
    images: Vec<Foreign>,
    bytes: usize,
    names: usize,
}

impl Images {
    /// Adds an image; one that came before gets the names.
    pub(super) fn add(&mut self, image: Foreign) -> Result<()> {
        self.bytes += image.config.len() + image.manifest.as_ref().map_or(0, |(bytes, _)| bytes.len());
        if self.bytes > DOCUMENTS_MAX {
            return Err(Error::invalid(format!(
                "the archive's configs and manifests have more than {DOCUMENTS_MAX} bytes"
            ))
            .hinted("export fewer images at a time"));
        }
        self.names += image.names.len();
        if self.names > NAMES_MAX {
            return Err(Error::invalid(format!(
                "the archive has more than {NAMES_MAX} names for its images"
            )));
        }
        match self.images.iter_mut().find(|other| other.config == image.config) {
            Some(other) => other.names.extend(image.names),
            None => self.images.push(image),
        }
        Ok(())
    }

    /// All of them, in the archive's order.
    pub(super) fn all(self) -> Vec<Foreign> {
        self.images
    }
}

/// Reads the DiffIDs of a config that an archive names, and checks that they are as many as the archive's layers.
pub(super) fn diff_ids_of(config: &[u8], layers: usize) -> Result<Vec<DiffId>> {
    let diff_ids = ImageConfig::parse(config)?.rootfs.diff_ids;
    if diff_ids.len() != layers {
        return Err(Error::invalid(format!(
            "the config has {} layers, but the manifest {layers}",
            diff_ids.len()
        ))
        .hinted("the archive was put together wrongly: export it again"));
    }
    Ok(diff_ids)
}

/// Reads and verifies a document that a descriptor names.
pub(super) fn document(parts: &Parts, blob: &Descriptor, what: &str) -> Result<Vec<u8>> {
    let file = blob_file(&blob.digest);
    if blob.size > oci::DOCUMENT_MAX {
        return Err(Error::invalid(format!(
            "the {what} {} has {} bytes, more than the {} that are allowed",
            blob.digest,
            blob.size,
            oci::DOCUMENT_MAX
        )));
    }
    let bytes = parts.read(&file, oci::DOCUMENT_MAX)?.ok_or_else(|| {
        Error::not_found(format!("the {what} {} is not in the archive", blob.digest))
            .hinted("the archive is not whole: export it again")
    })?;
    let found = Digest::of(&bytes);
    if found != blob.digest || bytes.len() as u64 != blob.size {
        return Err(Error::corrupt(format!(
            "the {what} {} of {} bytes came as {found} of {} bytes",
            blob.digest,
            blob.size,
            bytes.len()
        ))
        .hinted(DAMAGED));
    }
    Ok(bytes)
}

/// Where an OCI layout keeps a blob.
pub(super) fn blob_file(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// Reads a name of the archive's own.
pub(super) fn own_name(text: &str) -> Result<Reference> {
    text.parse().map_err(|cause: Error| {
        Error::new(Kind::Invalid, "the archive names an image in a way that plywood cannot")
            .hinted("import a single image under a NAME of your own")
            .caused_by(cause)
    })
}
