//! `plywood df`: where the space went.

use serde::Serialize;

use plywood_store::Driver;

use crate::commands::{Session, images};
use crate::failure::{OK, Outcome};
use crate::output;

/// One kind of object, as `--json` shows it.
#[derive(Debug, Default, Serialize)]
struct Row {
    kind: &'static str,
    count: usize,
    /// Bytes that it takes.
    bytes: u64,
    /// Of these, bytes that `gc` would free.
    reclaimable: u64,
}

/// One layer, as `--json` shows it.
#[derive(Debug, Serialize)]
struct LayerRow {
    chain_id: String,
    bytes: u64,
    exclusive: Option<u64>,
    blob: u64,
    images: Vec<String>,
}

/// Everything, as `--json` shows it.
#[derive(Debug, Default, Serialize)]
struct Space {
    kinds: Vec<Row>,
    layers: Vec<LayerRow>,
}

/// Adds up blobs, layers, snapshots; tells which images share each layer.
///
/// # Errors
/// A damaged record, or a driver that cannot measure.
pub fn run(session: &Session) -> Outcome {
    let mut space = Space::default();
    if session.store()?.is_some() {
        let host = session.host()?;
        let store = &host.store;
        let garbage = plywood_store::gc::mark(store)?;
        let names = images::names(store)?;
        let all = store.images.list()?;
        let mut layers = Row {
            kind: "layers",
            ..Row::default()
        };
        for layer in store.layers.list()? {
            let usage = host.snapshotter.layer_usage(&layer.chain_id)?;
            let own = usage.exclusive.unwrap_or(usage.bytes);
            layers.count += 1;
            layers.bytes += own;
            if garbage.layers.iter().any(|garbage| garbage.chain_id == layer.chain_id) {
                layers.reclaimable += own;
            }
            let users = all.iter().filter(|image| image.layers.contains(&layer.chain_id));
            let users = users
                .map(|image| {
                    names
                        .get(&image.id)
                        .and_then(|names| names.first())
                        .map_or_else(|| image.id.0.short(), ToString::to_string)
                })
                .collect();
            space.layers.push(LayerRow {
                chain_id: layer.chain_id.to_string(),
                bytes: usage.bytes,
                exclusive: usage.exclusive,
                blob: layer.blob.size,
                images: users,
            });
        }
        let mut snapshots = Row {
            kind: "containers",
            ..Row::default()
        };
        for snapshot in store.snapshots.list()? {
            let usage = host.snapshotter.usage(&snapshot.key)?;
            snapshots.count += 1;
            snapshots.bytes += usage.exclusive.unwrap_or(usage.bytes);
        }
        let blobs = store.blobs.list()?;
        let sum = |blobs: &[(plywood_store::Digest, u64)]| blobs.iter().map(|(_, size)| size).sum();
        space.kinds = vec![
            Row {
                kind: "blobs",
                count: blobs.len(),
                bytes: sum(&blobs),
                reclaimable: sum(&garbage.blobs),
            },
            layers,
            snapshots,
        ];
        if host.snapshotter.driver() == Driver::Thin {
            session.output.note("plywood pool status shows the pool's fill");
        }
    }
    tell(&space, session)?;
    Ok(OK)
}

fn tell(space: &Space, session: &Session) -> crate::error::Result<()> {
    if session.output.is_json() {
        return session.output.json(space);
    }
    let cells = space
        .kinds
        .iter()
        .map(|row| {
            vec![
                row.kind.to_owned(),
                row.count.to_string(),
                output::bytes(row.bytes),
                output::bytes(row.reclaimable),
            ]
        })
        .collect();
    session
        .output
        .table(&["KIND", ">COUNT", ">SIZE", ">RECLAIMABLE"], cells)?;
    if space.layers.is_empty() {
        return Ok(());
    }
    session.output.line("")?;
    let cells = space.layers.iter().map(|row| {
        let exclusive = row.exclusive.map_or_else(|| "-".to_owned(), output::bytes);
        vec![
            images::short(&row.chain_id),
            output::bytes(row.bytes),
            exclusive,
            output::bytes(row.blob),
            row.images.join(", "),
        ]
    });
    session
        .output
        .table(&["LAYER", ">SIZE", ">EXCLUSIVE", ">BLOB", "IN IMAGES"], cells.collect())
}
