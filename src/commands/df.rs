//! `plywood df`: where the space went.
//!
//! Of each layer and container: all that it has; of that, what others have too and what nothing else has, which its
//! removal frees; and what the layer below does not have, which is its own change. On thin all of it comes from one
//! look at the pool's metadata, to the block. A kind has what is in none of the kinds above it, so together they are
//! the pool's data. Volumes and cache mounts are folders beside it, whatever the driver. What layers the build cache
//! alone keeps is a kind of its own, as `gc` leaves it and `gc --build-cache` frees it. Of a `--cow` container that is
//! in use the kernel says how full its store is.

use std::collections::BTreeSet;

use plywood_store::gc::{Garbage, Without};
use plywood_store::record::{LayerRecord, SnapshotRecord};
use plywood_store::{Driver, Store};
use serde::Serialize;

use crate::commands::{Host, Session, build, exceptions, images, pool, volume};
use crate::dm::classic::Status;
use crate::error::Result;
use crate::failure::{OK, Outcome};
use crate::output::{self, Output};
use crate::snapshot::{Group, Space, Usage, base_first};

/// One kind of object, as `--json` shows it.
#[derive(Debug, Default, Serialize)]
struct Row {
    kind: &'static str,
    count: usize,
    /// Bytes that it takes, and none of the kinds before it.
    bytes: u64,
    /// Of these, bytes that `gc` would free; for the build cache `gc --build-cache`.
    reclaimable: u64,
}

/// What something takes, as `--json` shows it.
#[derive(Debug, Default, Serialize)]
struct Taken {
    /// Bytes with all that it shares.
    bytes: u64,
    /// Of these, bytes that others have too.
    shared: u64,
    /// Of these, bytes that nothing else has.
    exclusive: u64,
    /// Bytes beyond the layer below.
    own: u64,
}

impl From<Usage> for Taken {
    fn from(usage: Usage) -> Self {
        Self {
            bytes: usage.bytes,
            shared: usage.bytes.saturating_sub(usage.exclusive),
            exclusive: usage.exclusive,
            own: usage.own,
        }
    }
}

/// One layer, as `--json` shows it.
#[derive(Debug, Serialize)]
struct LayerRow {
    chain_id: String,
    #[serde(flatten)]
    taken: Taken,
    /// Bytes of its tar as stored.
    stored_size: u64,
    images: Vec<String>,
}

/// One container, as `--json` shows it.
#[derive(Debug, Serialize)]
struct ContainerRow {
    id: String,
    name: String,
    #[serde(flatten)]
    taken: Taken,
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

/// What the build cache keeps and nothing else, as `--json` shows it.
#[derive(Debug, Default, Serialize)]
struct CacheRow {
    /// Its records: all of them.
    steps: usize,
    /// Layers.
    layers: usize,
    /// Bytes of all that follow: what `gc --build-cache` would free.
    freed_bytes: u64,
    /// Bytes of blobs.
    blob_bytes: u64,
    /// Bytes of layers' content.
    layer_bytes: u64,
    /// Folders of `RUN --mount=type=cache`.
    mounts: usize,
    /// Bytes of these.
    mount_bytes: u64,
}

/// Everything, as `--json` shows it.
#[derive(Debug, Default, Serialize)]
struct Report {
    kinds: Vec<Row>,
    build_cache: CacheRow,
    layers: Vec<LayerRow>,
    containers: Vec<ContainerRow>,
    stores: Vec<StoreRow>,
}

/// Adds up blobs, layers, containers; tells which images share each layer.
///
/// # Errors
/// A damaged record, or a driver that cannot measure.
pub fn run(session: &Session) -> Outcome {
    let report = match session.store()? {
        Some(_) => measure(&session.host()?)?,
        None => Report::default(),
    };
    tell(&report, session)?;
    Ok(OK)
}

fn measure(host: &Host) -> Result<Report> {
    let store = &host.store;
    // The driver takes locks of its own: ours ends before it is asked.
    let (garbage, uncached, mut records, snapshots, containers) = {
        let _lock = store.shared()?;
        let without = Without {
            steps_before: Some(i64::MAX),
            ..Without::default()
        };
        (
            plywood_store::gc::mark(store)?,
            plywood_store::gc::mark_without(store, &without)?,
            base_first(store.layers.list()?),
            store.snapshots.list()?,
            store.containers.list()?,
        )
    };
    let mut groups = Groups::of(&garbage, &uncached, &records);
    for snapshot in snapshots {
        let going = garbage.snapshots.iter().any(|other| other.key == snapshot.key);
        let is_container = containers.iter().any(|container| container.id == snapshot.key);
        groups.add(snapshot, is_container, going);
    }
    let space = host.snapshotter.space(&groups.0)?;
    records.retain(|layer| space.layers.contains_key(&layer.chain_id));
    let mut kinds = vec![blobs(host, &garbage)?];
    let mounts = build::cache_mounts(store)?;
    let build_cache = groups.cache(&space, (&garbage, &uncached), mounts);
    kinds.extend(groups.rows(&space, &build_cache));
    kinds.extend(folders("cache mounts", mounts, mounts.1));
    kinds.extend(folders("volumes", volume::taken(store)?, 0));
    if host.snapshotter.driver() == Driver::Thin {
        kinds.push(Row {
            kind: "empty volume",
            count: 1,
            bytes: space.others,
            reclaimable: 0,
        });
        kinds.extend(pool::data_used(store)?.map(|bytes| Row {
            kind: "pool data",
            count: 1,
            bytes,
            reclaimable: 0,
        }));
    }
    let usages = containers
        .into_iter()
        .map(|one| (space.snapshots.get(&one.id).copied(), one));
    Ok(Report {
        kinds,
        build_cache,
        layers: layer_rows(host, &records, &space)?,
        containers: usages
            .filter_map(|(usage, one)| {
                Some(ContainerRow {
                    taken: usage?.into(),
                    id: one.id,
                    name: one.name,
                })
            })
            .collect(),
        stores: stores(store)?,
    })
}

/// What is counted together, in this order: what is in two of them stays as long as the first. What `gc` removes comes
/// last.
struct Groups([Group; 6]);

const LAYERS: usize = 0;
const CONTAINERS: usize = 1;
const WORK: usize = 2;
const CACHED_LAYERS: usize = 3;
const GOING_WORK: usize = 4;
const GOING_LAYERS: usize = 5;

impl Groups {
    /// `uncached` is what would be garbage without the build cache.
    fn of(garbage: &Garbage, uncached: &Garbage, layers: &[LayerRecord]) -> Self {
        let chains = |garbage: &Garbage| -> BTreeSet<_> { garbage.layers.iter().map(|layer| layer.chain_id).collect() };
        let (going, cached) = (chains(garbage), chains(uncached));
        let mut groups: [Group; 6] = Default::default();
        for layer in layers {
            let group = match layer.chain_id {
                chain if going.contains(&chain) => GOING_LAYERS,
                chain if cached.contains(&chain) => CACHED_LAYERS,
                _ => LAYERS,
            };
            groups[group].layers.push(layer.clone());
        }
        Self(groups)
    }

    fn add(&mut self, snapshot: SnapshotRecord, is_container: bool, going: bool) {
        let group = match (going, is_container) {
            (true, _) => GOING_WORK,
            (false, true) => CONTAINERS,
            (false, false) => WORK,
        };
        self.0[group].snapshots.push(snapshot);
    }

    fn cache(
        &self,
        space: &Space,
        (garbage, uncached): (&Garbage, &Garbage),
        (mounts, mount_bytes): (usize, u64),
    ) -> CacheRow {
        let blobs = |garbage: &Garbage| -> u64 { garbage.blobs.iter().map(|(_, size)| size).sum() };
        let layer_bytes = space.groups.get(CACHED_LAYERS).copied().unwrap_or(0);
        let blob_bytes = blobs(uncached).saturating_sub(blobs(garbage));
        CacheRow {
            steps: uncached.steps.len(),
            layers: self.0[CACHED_LAYERS].layers.len(),
            freed_bytes: layer_bytes + blob_bytes + mount_bytes,
            blob_bytes,
            layer_bytes,
            mounts,
            mount_bytes,
        }
    }

    /// The layers, the containers, the build cache; what commands at work have made besides.
    fn rows(&self, space: &Space, cache: &CacheRow) -> Vec<Row> {
        let count = |group: usize| {
            let Group { layers, snapshots } = &self.0[group];
            layers
                .iter()
                .filter(|one| space.layers.contains_key(&one.chain_id))
                .count()
                + snapshots
                    .iter()
                    .filter(|one| space.snapshots.contains_key(&one.key))
                    .count()
        };
        let bytes = |group: usize| space.groups.get(group).copied().unwrap_or(0);
        let row = |kind, staying: usize, going: Option<usize>| Row {
            kind,
            count: count(staying) + going.map_or(0, count),
            bytes: bytes(staying) + going.map_or(0, bytes),
            reclaimable: going.map_or(0, bytes),
        };
        let work = row("work", WORK, Some(GOING_WORK));
        let mut rows = vec![
            row("layers", LAYERS, Some(GOING_LAYERS)),
            row("containers", CONTAINERS, None),
        ];
        rows.extend((cache.steps > 0).then_some(Row {
            kind: "build cache",
            count: cache.steps,
            bytes: cache.layer_bytes,
            reclaimable: cache.layer_bytes,
        }));
        rows.extend(Some(work).filter(|work| work.count > 0));
        rows
    }
}

/// What the store keeps in folders of their own, if there are any.
fn folders(kind: &'static str, (count, bytes): (usize, u64), reclaimable: u64) -> Option<Row> {
    (count > 0).then_some(Row {
        kind,
        count,
        bytes,
        reclaimable,
    })
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

fn layer_rows(host: &Host, records: &[LayerRecord], space: &Space) -> Result<Vec<LayerRow>> {
    let names = images::names(&host.store)?;
    let all = host.store.images.list()?;
    let row = |layer: &LayerRecord| {
        let usage = space.layers.get(&layer.chain_id).copied().unwrap_or_default();
        let users = all.iter().filter(|image| image.layers.contains(&layer.chain_id));
        let name = |image: &plywood_store::record::ImageRecord| {
            let first = names.get(&image.id).and_then(|names| names.first());
            first.map_or_else(|| image.id.0.short(), ToString::to_string)
        };
        LayerRow {
            chain_id: layer.chain_id.to_string(),
            taken: usage.into(),
            stored_size: layer.blob.size,
            images: users.map(name).collect(),
        }
    };
    Ok(records.iter().map(row).collect())
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

fn tell(report: &Report, session: &Session) -> Result<()> {
    let output = &session.output;
    if output.is_json() {
        return output.json(report);
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
        report.kinds.iter().map(kind).collect(),
    )?;
    let cache = &report.build_cache;
    if cache.freed_bytes > 0 {
        output.line(format!(
            "\nplywood gc --build-cache would free {}: {} of layers, {} of blobs, {} of cache mounts",
            output::bytes(cache.freed_bytes),
            output::bytes(cache.layer_bytes),
            output::bytes(cache.blob_bytes),
            output::bytes(cache.mount_bytes)
        ))?;
    }
    let layer = |row: &LayerRow| {
        let ends = [output::bytes(row.stored_size), row.images.join(", ")];
        cells(images::short(&row.chain_id), &row.taken, ends)
    };
    tell_each(
        output,
        "LAYER",
        &[">BLOB", "IN IMAGES"],
        report.layers.iter().map(layer),
    )?;
    let container = |row: &ContainerRow| cells(row.name.clone(), &row.taken, []);
    tell_each(output, "CONTAINER", &[], report.containers.iter().map(container))?;
    if report.stores.is_empty() {
        return Ok(());
    }
    output.line("")?;
    let store = |row: &StoreRow| vec![row.name.clone(), exceptions::told(row.status)];
    output.table(
        &["CONTAINER", "EXCEPTION STORE"],
        report.stores.iter().map(store).collect(),
    )
}

fn cells<const N: usize>(name: String, taken: &Taken, ends: [String; N]) -> Vec<String> {
    let sizes = [taken.bytes, taken.shared, taken.exclusive, taken.own];
    [name].into_iter().chain(sizes.map(output::bytes)).chain(ends).collect()
}

fn tell_each(output: &Output, what: &str, ends: &[&str], rows: impl Iterator<Item = Vec<String>>) -> Result<()> {
    let rows: Vec<_> = rows.collect();
    if rows.is_empty() {
        return Ok(());
    }
    output.line("")?;
    let head = [&[what, ">SIZE", ">SHARED", ">EXCLUSIVE", ">OWN"], ends].concat();
    output.table(&head, rows)
}
