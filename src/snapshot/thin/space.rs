//! What layers and snapshots have of the pool's data, from its metadata: which data block each volume maps, and who
//! else does.

use std::collections::BTreeMap;

use plywood_store::ChainId;
use plywood_store::record::{LayerRecord, Place};

use super::{Thin, id_of, thin_id};
use crate::delta::thin::{Difference, Metadata, RANKS};
use crate::dm::metadata::Held;
use crate::error::{Error, Kind, Result, both};
use crate::snapshot::{Group, Space, Usage};

impl Thin {
    /// Space that these take: the metadata are held still and read once.
    pub(super) fn measure(&self, groups: &[Group]) -> Result<Space> {
        let Some(held) = self.pool.hold_metadata()? else {
            return self.measure_copies(groups);
        };
        let space = self.count(&held, groups);
        both(space, held.close())
    }

    fn count(&self, held: &Held<'_>, groups: &[Group]) -> Result<Space> {
        if groups.len() >= usize::from(RANKS) {
            return Err(Error::invalid(format!("{} groups are too many to count", groups.len())));
        }
        let mut ranks = BTreeMap::new();
        for (rank, group) in (1..).zip(groups) {
            let layers = group.layers.iter().map(|layer| &layer.place);
            let snapshots = group.snapshots.iter().filter(|one| !one.read_only);
            for place in layers.chain(snapshots.map(|one| &one.place)) {
                ranks.extend(place.volumes().into_iter().map(|id| (id, rank)));
            }
        }
        held.explain("thin_dump");
        let metadata = held.metadata()?;
        let count = metadata.count(&|id| ranks.get(&id).copied().unwrap_or(0), held.data_blocks())?;
        let unit = metadata.block_size();
        let mut together = count.ranks.iter().map(|blocks| blocks.saturating_mul(unit));
        let mut space = Space {
            others: together.next().unwrap_or(0),
            groups: together.take(groups.len()).collect(),
            ..Space::default()
        };
        let usage = |place: &Place, parent: Option<&ChainId>| -> Result<Option<Usage>> {
            let there: Option<Vec<_>> = place.volumes().iter().map(|id| count.volumes.get(id)).collect();
            // What the pool has lost takes no space.
            let Some(there) = there else { return Ok(None) };
            let bytes = there.iter().map(|usage| usage.mapped.saturating_mul(unit)).sum();
            Ok(Some(Usage {
                bytes,
                own: match self.beyond(&metadata, place, parent)? {
                    Some(blocks) => blocks.saturating_mul(unit),
                    None => bytes,
                },
                exclusive: there.iter().map(|usage| usage.exclusive.saturating_mul(unit)).sum(),
            }))
        };
        for group in groups {
            for layer in &group.layers {
                let usage = usage(&layer.place, layer.parent.as_ref())?;
                space.layers.extend(usage.map(|usage| (layer.chain_id, usage)));
            }
            for one in group.snapshots.iter().filter(|one| !one.read_only) {
                let usage = usage(&one.place, one.parent.as_ref())?;
                space.snapshots.extend(usage.map(|usage| (one.key.clone(), usage)));
            }
        }
        Ok(space)
    }

    /// Blocks that a volume has and not the layer below; none where that has no part in it, as in a store.
    fn beyond(&self, metadata: &Metadata<'_>, place: &Place, parent: Option<&ChainId>) -> Result<Option<u64>> {
        let (Place::Thin(id), Some(parent)) = (place, parent) else {
            return Ok(None);
        };
        let Some(LayerRecord { place: below, .. }) = self.store.layers.get(&parent.0.hex())? else {
            return Ok(None);
        };
        let roots = (metadata.root_of(id_of(&below)?.get())?, metadata.root_of(*id)?);
        let (Some(before), Some(after)) = roots else {
            return Ok(None);
        };
        let changes = metadata.difference(before, after)?;
        let own = changes.iter().filter(|change| change.kind != Difference::LeftOnly);
        Ok(Some(own.map(|change| change.blocks.end - change.blocks.start).sum()))
    }

    /// On a simulated pool, whose volumes are copies.
    fn measure_copies(&self, groups: &[Group]) -> Result<Space> {
        let mapped = |place: &Place| {
            let mut sum = 0;
            for id in place.volumes() {
                match self.pool.mapped(thin_id(id)?) {
                    Ok(bytes) => sum += bytes,
                    Err(error) if error.kind() == Kind::NotFound => return Ok(None),
                    Err(error) => return Err(error),
                }
            }
            Ok(Some(sum))
        };
        Space::each_alone(groups, |layer| mapped(&layer.place), |one| mapped(&one.place))
    }
}
