//! What layers and snapshots take, alone and together.

use std::collections::BTreeMap;

use plywood_store::ChainId;
use plywood_store::record::{LayerRecord, SnapshotRecord};

/// Space that a snapshot or a layer takes, in bytes of the disk or of the pool.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// All of it, with what it shares. On thin: the blocks that it maps.
    pub bytes: u64,
    /// What the layer below does not have.
    pub own: u64,
    /// What nothing else has: what its removal frees.
    pub exclusive: u64,
}

impl Usage {
    /// Of what shares nothing.
    pub fn alone(bytes: u64) -> Self {
        Self {
            bytes,
            own: bytes,
            exclusive: bytes,
        }
    }
}

/// What is counted together. Views take nothing.
#[derive(Debug, Clone, Default)]
pub struct Group {
    /// Layers.
    pub layers: Vec<LayerRecord>,
    /// Snapshots.
    pub snapshots: Vec<SnapshotRecord>,
}

/// Space at one moment.
#[derive(Debug, Clone, Default)]
pub struct Space {
    /// Of each layer that was asked for.
    pub layers: BTreeMap<ChainId, Usage>,
    /// Of each snapshot, by its key.
    pub snapshots: BTreeMap<String, Usage>,
    /// Bytes that are in no group: the volume that empty snapshots start from, say.
    pub others: u64,
    /// Bytes of each group that neither an earlier one has nor the others: what removing the whole last group frees.
    pub groups: Vec<u64>,
}

impl Space {
    /// Of what shares nothing, each thing measured by itself; none for what has gone.
    ///
    /// # Errors
    /// Those of measuring.
    pub(super) fn each_alone<E>(
        groups: &[Group],
        mut layer: impl FnMut(&LayerRecord) -> Result<Option<u64>, E>,
        mut snapshot: impl FnMut(&SnapshotRecord) -> Result<Option<u64>, E>,
    ) -> Result<Self, E> {
        let mut space = Self::default();
        for group in groups {
            let mut together = 0;
            for one in &group.layers {
                if let Some(bytes) = layer(one)? {
                    together += bytes;
                    space.layers.insert(one.chain_id, Usage::alone(bytes));
                }
            }
            for one in group.snapshots.iter().filter(|one| !one.read_only) {
                if let Some(bytes) = snapshot(one)? {
                    together += bytes;
                    space.snapshots.insert(one.key.clone(), Usage::alone(bytes));
                }
            }
            space.groups.push(together);
        }
        Ok(space)
    }
}
