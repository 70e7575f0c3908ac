//! `plywood df`: where the space went.
//!
//! What a layer or container takes *by itself* is what it has beyond the layer
//! below. On thin that is the blocks it maps less the blocks that the layer
//! below maps: a lower bound, for a block that was overwritten counts as shared.
//! Of a `--cow` container that is in use the kernel says how full its store is.

use std::collections::BTreeMap;

use plywood_store::gc::Garbage;
use plywood_store::record::{LayerRecord, Phase, Record};
use plywood_store::{ChainId, Driver, Store};
use serde::Serialize;

use crate::commands::{Host, Session, exceptions, images, pool};
use crate::dm::classic::Status;
use crate::error::{Kind, Result};
use crate::failure::{OK, Outcome};
use crate::output::{self, Output};
use crate::snapshot::{Usage, base_first};

/// One kind of object, as `--json` shows it.
#[derive(Debug, Default, Serialize)]
struct Row {
    kind: &'static str,
    count: usize,
    /// Bytes that it takes by itself.
    bytes: u64,
    /// Of these, bytes that `gc` would free.
    reclaimable: u64,
}

/// One layer, as `--json` shows it.
#[derive(Debug, Serialize)]
struct LayerRow {
    chain_id: String,
    /// Bytes with all that it shares.
    bytes: u64,
    /// Bytes beyond the layer below.
    own: u64,
    /// Bytes of its tar as stored.
    stored_size: u64,
    images: Vec<String>,
}

/// The exception store of a `--cow` container that is in use, as `--json` shows it.
#[derive(Debug, Serialize)]
struct StoreRow {
    /// The container's id.
    container: String,
    name: String,
    /// In sectors.
    #[serde(flatten)]
    status: Status,
}

/// Everything, as `--json` shows it.
#[derive(Debug, Default, Serialize)]
struct Space {
    kinds: Vec<Row>,
    layers: Vec<LayerRow>,
    stores: Vec<StoreRow>,
}

/// Adds up blobs, layers, containers; tells which images share each layer.
///
/// # Errors
/// A damaged record, or a driver that cannot measure.
pub fn run(session: &Session) -> Outcome {
    let space = match session.store()? {
        Some(_) => measure(&session.host()?)?,
        None => Space::default(),
    };
    tell(&space, session)?;
    Ok(OK)
}

fn measure(host: &Host) -> Result<Space> {
    let store = &host.store;
    // The driver takes locks of its own: ours ends before it is asked.
    let (garbage, records) = {
        let _lock = store.shared()?;
        (plywood_store::gc::mark(store)?, base_first(store.layers.list()?))
    };
    let mut usages = BTreeMap::new();
    for layer in &records {
        let usage = host.snapshotter.layer_usage(&layer.chain_id);
        if let Some(usage) = measured(usage, || store.layers.get(&layer.key()), |layer| layer.phase)? {
            usages.insert(layer.chain_id, usage);
        }
    }
    let records: Vec<_> = records
        .into_iter()
        .filter(|layer| usages.contains_key(&layer.chain_id))
        .collect();
    let layers = layer_rows(host, &records, &usages)?;
    let mut kinds = vec![blobs(host, &garbage)?, all_layers(&records, &layers, &garbage)];
    kinds.extend(snapshots(host, &usages)?);
    if host.snapshotter.driver() == Driver::Thin
        && let Some(bytes) = pool::data_used(store)?
    {
        // Volumes share blocks: this is what all of them together really take.
        kinds.push(Row {
            kind: "pool data",
            count: 1,
            bytes,
            reclaimable: 0,
        });
    }
    let stores = stores(store)?;
    Ok(Space { kinds, layers, stores })
}

fn stores(store: &Store) -> Result<Vec<StoreRow>> {
    let mut rows = Vec::new();
    for container in store.containers.list()? {
        if let Some(status) = exceptions::status(store, &container.id)? {
            rows.push(StoreRow {
                container: container.id,
                name: container.name,
                status,
            });
        }
    }
    Ok(rows)
}

/// None for what another command removes meanwhile: it takes no space of its own any more.
fn measured<T>(
    usage: Result<Usage>,
    record: impl FnOnce() -> Result<Option<T>>,
    phase: impl FnOnce(T) -> Phase,
) -> Result<Option<Usage>> {
    match usage {
        Ok(usage) => Ok(Some(usage)),
        // A volume that the pool has lost takes no space.
        Err(error) if error.kind() == Kind::NotFound => Ok(None),
        Err(_) if record()?.map(phase) != Some(Phase::Ready) => Ok(None),
        Err(error) => Err(error),
    }
}

fn layer_rows(host: &Host, records: &[LayerRecord], usages: &BTreeMap<ChainId, Usage>) -> Result<Vec<LayerRow>> {
    let names = images::names(&host.store)?;
    let all = host.store.images.list()?;
    let row = |layer: &LayerRecord| {
        let usage = usages.get(&layer.chain_id).copied().unwrap_or_default();
        let users = all.iter().filter(|image| image.layers.contains(&layer.chain_id));
        let name = |image: &plywood_store::record::ImageRecord| {
            let first = names.get(&image.id).and_then(|names| names.first());
            first.map_or_else(|| image.id.0.short(), ToString::to_string)
        };
        LayerRow {
            chain_id: layer.chain_id.to_string(),
            bytes: usage.bytes,
            own: own(usage, layer.parent.as_ref(), usages),
            stored_size: layer.blob.size,
            images: users.map(name).collect(),
        }
    };
    Ok(records.iter().map(row).collect())
}

/// Bytes beyond the layer below.
fn own(usage: Usage, parent: Option<&ChainId>, usages: &BTreeMap<ChainId, Usage>) -> u64 {
    let below = parent
        .and_then(|parent| usages.get(parent))
        .map_or(0, |usage| usage.bytes);
    usage.exclusive.unwrap_or_else(|| usage.bytes.saturating_sub(below))
}

fn blobs(host: &Host, garbage: &Garbage) -> Result<Row> {
    let blobs = host.store.blobs.list()?;
    Ok(Row {
        kind: "blobs",
        count: blobs.len(),
        bytes: blobs.iter().map(|(_, size)| size).sum(),
        reclaimable: garbage.blobs.iter().map(|(_, size)| size).sum(),
    })
}

fn all_layers(records: &[LayerRecord], rows: &[LayerRow], garbage: &Garbage) -> Row {
    let is_garbage = |layer: &LayerRecord| garbage.layers.iter().any(|other| other.chain_id == layer.chain_id);
    let reclaimable = records
        .iter()
        .zip(rows)
        .filter(|(layer, _)| is_garbage(layer))
        .map(|(_, row)| row.own)
        .sum();
    Row {
        kind: "layers",
        count: rows.len(),
        bytes: rows.iter().map(|row| row.own).sum(),
        reclaimable,
    }
}

/// The containers; what commands at work have made besides; views take nothing.
fn snapshots(host: &Host, usages: &BTreeMap<ChainId, Usage>) -> Result<Vec<Row>> {
    let [mut containers, mut work] = ["containers", "work"].map(|kind| Row { kind, ..Row::default() });
    for snapshot in host.store.snapshots.list()?.iter().filter(|one| !one.read_only) {
        let record = || host.store.snapshots.get(&snapshot.key);
        let Some(usage) = measured(host.snapshotter.usage(&snapshot.key), record, |one| one.phase)? else {
            continue;
        };
        let row = match host.store.containers.get(&snapshot.key)? {
            Some(_) => &mut containers,
            None => &mut work,
        };
        row.count += 1;
        row.bytes += own(usage, snapshot.parent.as_ref(), usages);
    }
    Ok([containers, work]
        .into_iter()
        .filter(|row| row.kind == "containers" || row.count > 0)
        .collect())
}

fn tell(space: &Space, session: &Session) -> Result<()> {
    let output = &session.output;
    if output.is_json() {
        return output.json(space);
    }
    let kind = |row: &Row| {
        vec![
            row.kind.to_owned(),
            row.count.to_string(),
            output::bytes(row.bytes),
            output::bytes(row.reclaimable),
        ]
    };
    output.table(
        &["KIND", ">COUNT", ">SIZE", ">RECLAIMABLE"],
        space.kinds.iter().map(kind).collect(),
    )?;
    tell_layers(space, output)?;
    if space.stores.is_empty() {
        return Ok(());
    }
    output.line("")?;
    let store = |row: &StoreRow| vec![row.name.clone(), exceptions::told(row.status)];
    output.table(
        &["CONTAINER", "EXCEPTION STORE"],
        space.stores.iter().map(store).collect(),
    )
}

fn tell_layers(space: &Space, output: &Output) -> Result<()> {
    if space.layers.is_empty() {
        return Ok(());
    }
    output.line("")?;
    let layer = |row: &LayerRow| {
        vec![
            images::short(&row.chain_id),
            output::bytes(row.bytes),
            output::bytes(row.own),
            output::bytes(row.stored_size),
            row.images.join(", "),
        ]
    };
    output.table(
        &["LAYER", ">WITH SHARED", ">OWN", ">BLOB", "IN IMAGES"],
        space.layers.iter().map(layer).collect(),
    )
}
