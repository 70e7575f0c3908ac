//! What nothing needs: mark over the records (pure), then sweep.
//!
//! Roots are names, containers and live intents. An image without a name that
//! no container uses is garbage; a layer that no image and no snapshot stands
//! on is garbage; a blob that no image and no layer names is garbage. The
//! sweep of layers' content is the driver's: this room says which.

use crate::record::{ImageRecord, LayerRecord, SnapshotRecord};
use crate::{Digest, Result, Store};

/// What nothing needs.
#[derive(Debug, Default)]
pub struct Garbage {
    /// Images without name and container.
    pub images: Vec<ImageRecord>,
    /// Layers, top of each stack first, so that each can go before its parent.
    pub layers: Vec<LayerRecord>,
    /// Snapshots whose lease-holder is dead.
    pub snapshots: Vec<SnapshotRecord>,
    /// Blobs, with their length in bytes.
    pub blobs: Vec<(Digest, u64)>,
    /// Unfinished files in `tmp/` that no live process writes, with their length in bytes.
    pub temporary: Vec<(String, u64)>,
}

/// Finds what nothing needs. Call it under a lock that keeps the records still.
///
/// # Errors
/// A damaged record: nothing is called garbage by guessing.
pub fn mark(store: &Store) -> Result<Garbage> {
    let _ = store;
    todo!()
}
