//! Blobs against their digests, and what is packed in them against DiffIDs: every byte is read.

use std::io::Read;

use super::Report;
use crate::digest::Hasher;
use crate::error::Context;
use crate::record::LayerRecord;
use crate::{DiffId, Kind, Result, Store, compress};

/// Reads every blob, and has it compared with its digest.
pub(super) fn check_blobs(store: &Store, report: &mut Report, progress: &dyn Fn(u64)) -> Result<()> {
    for (digest, _) in store.blobs.list()? {
        let read = store.blobs.open(&digest).and_then(|blob| {
            drain(blob, |bytes| {
                report.bytes_hashed += bytes.len() as u64;
                progress(bytes.len() as u64);
            })
            .context("read blob", store.blobs.path(&digest))
        });
        match read {
            // Collected meanwhile: it was garbage.
            Err(error) if error.kind() == Kind::NotFound => {}
            other => {
                report.keep(other);
            }
        }
    }
    Ok(())
}

/// Unpacks every layer's blob, and compares what is inside with the DiffID.
pub(super) fn check_layers<'a>(
    store: &Store,
    layers: impl Iterator<Item = &'a LayerRecord>,
    report: &mut Report,
    progress: &dyn Fn(u64),
) {
    for layer in layers {
        // An unpacked tar is a blob like any other, and was read as one.
        let unpacked = (layer.blob.digest, layer.blob.size) == (layer.diff_id.0, layer.size);
        if unpacked || !matches!(store.blobs.size(&layer.blob.digest), Ok(Some(_))) {
            continue;
        }
        let mut hasher = Hasher::default();
        let unpacked = store.blobs.open(&layer.blob.digest).and_then(|blob| {
            let (_, tar) = compress::decoder(Box::new(blob))?;
            drain(tar, |bytes| {
                hasher.update(bytes);
                progress(bytes.len() as u64);
            })
            .context("unpack blob", store.blobs.path(&layer.blob.digest))
        });
        report.bytes_hashed += hasher.bytes();
        if report.keep(unpacked).is_none() {
            continue;
        }
        let size = hasher.bytes();
        let found = DiffId(hasher.digest());
        if (found, size) != (layer.diff_id, layer.size) {
            report.find(format!(
                "the layer {} should unpack to {} of {} bytes, but unpacks to {found} of {size}",
                layer.chain_id, layer.diff_id, layer.size
            ));
        }
    }
}

/// Reads to the end; tells how many bytes there were, block by block.
fn drain(mut from: impl Read, mut each: impl FnMut(&[u8])) -> std::io::Result<()> {
    let mut buffer = vec![0; 1 << 20];
    loop {
        match from.read(&mut buffer)? {
            0 => return Ok(()),
            count => each(buffer.get(..count).unwrap_or_default()),
        }
    }
}
