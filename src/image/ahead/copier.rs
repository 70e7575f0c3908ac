//! Reads the originals and keeps them: each in a blob's file, hashed on the way.

use std::io::{self, Read, Write};

use plywood_store::Digest;
use plywood_store::blob::{BlobWriter, Blobs};

use super::road::{Growing, Road};
use super::{Outside, PIECE};
use crate::error::{Context, Error, Result};
use crate::image::pipeline::DAMAGED;
use crate::image::unpack::of_reader;

/// Reads the originals and keeps them.
pub(super) struct Copier<'a> {
    pub(super) road: &'a Road,
    pub(super) blobs: &'a Blobs,
}

/// Nobody waits for a copier that is gone, even if it panicked.
struct Leaving<'a>(&'a Road);

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        self.0.change(|state| state.left = true);
    }
}

impl Copier<'_> {
    pub(super) fn run(&self, layers: Vec<Outside<'_>>) {
        let _leaving = Leaving(self.road);
        for (number, layer) in layers.into_iter().enumerate() {
            if !self.road.may_begin(number) {
                return;
            }
            let copied = self.copy(number, layer);
            let failed = copied.is_err();
            self.road.change(|state| {
                if state.layers.len() == number {
                    state.layers.push(Growing {
                        file: None,
                        bytes: 0,
                        end: None,
                    });
                }
                if let Some(layer) = state.layers.last_mut() {
                    layer.end = Some(copied);
                }
            });
            if failed {
                return;
            }
        }
    }

    /// Copies one to its end, also when it could not be applied: whether the blob is damaged is the better message
    /// then.
    fn copy(&self, number: usize, layer: Outside<'_>) -> Result<BlobWriter> {
        let mut reader = (layer.open)()?;
        let mut writer = self.blobs.writer()?;
        let file = Some(writer.written()?);
        self.road.change(|state| {
            state.layers.push(Growing {
                file,
                bytes: 0,
                end: None,
            });
        });
        let mut buffer = vec![0; PIECE];
        let mut bytes = 0;
        while self.road.may_copy(number) {
            let count = match reader.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(cause) if cause.kind() == io::ErrorKind::Interrupted => continue,
                Err(cause) => return Err(of_reader(cause)),
            };
            bytes += count as u64;
            if let Some(expected) = layer.blob.filter(|(_, size)| bytes > *size) {
                return Err(mismatch(expected, "more bytes"));
            }
            writer
                .write_all(buffer.get(..count).unwrap_or_default())
                .and_then(|()| writer.flush())
                .context("write", "a blob")?;
            self.road.change(|state| {
                state.copied += count as u64;
                if let Some(layer) = state.layers.last_mut() {
                    layer.bytes = bytes;
                }
            });
        }
        Ok(writer)
    }
}

/// The error for a blob that is not what was promised.
pub(super) fn mismatch((digest, size): (Digest, u64), got: &str) -> Error {
    Error::corrupt(format!("blob {digest} of {size} bytes came as {got}")).hinted(DAMAGED)
}
