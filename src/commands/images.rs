//! `plywood images`: what there is.

use std::collections::{BTreeMap, BTreeSet};

use plywood_store::record::{ImageRecord, LayerRecord};
use plywood_store::{ChainId, ImageId, Reference, Store};
use serde::Serialize;

use crate::cli::ImagesArgs;
use crate::commands::{Session, now};
use crate::error::Result;
use crate::failure::{OK, Outcome};
use crate::output;

/// One image, as `--json` shows it.
#[derive(Debug, Serialize)]
struct Row {
    id: String,
    names: Vec<String>,
    manifest: String,
    created: Option<String>,
    layers: usize,
    /// Bytes of all its layers' tars, uncompressed.
    size: u64,
    /// Of these, bytes in layers that no other image has.
    own_size: u64,
    /// Bytes of its layers' blobs as stored.
    stored_size: u64,
}

/// Lists the images, newest first, a line for each name.
///
/// # Errors
/// A damaged record.
pub fn run(args: &ImagesArgs, session: &Session) -> Outcome {
    let rows = match session.store()? {
        Some(store) => rows(&store)?,
        None => Vec::new(),
    };
    if session.output.is_json() {
        session.output.json(&rows)?;
        return Ok(OK);
    }
    let id = |row: &Row| if args.no_trunc { row.id.clone() } else { short(&row.id) };
    if args.ids {
        for row in &rows {
            session.output.line(id(row))?;
        }
        return Ok(OK);
    }
    let mut cells = Vec::new();
    for row in &rows {
        let created = row.created.as_deref().map_or_else(String::new, age);
        let names = if row.names.is_empty() {
            vec!["<none>:<none>".to_owned()]
        } else {
            row.names.clone()
        };
        for name in names {
            let (repository, tag) = name.rsplit_once(':').unwrap_or((&name, ""));
            cells.push(vec![
                repository.to_owned(),
                tag.to_owned(),
                id(row),
                created.clone(),
                row.layers.to_string(),
                output::bytes(row.size),
                output::bytes(row.own_size),
            ]);
        }
    }
    session.output.table(
        &["NAME", "TAG", "IMAGE ID", "CREATED", ">LAYERS", ">SIZE", ">OWN"],
        cells,
    )?;
    Ok(OK)
}

fn rows(store: &Store) -> Result<Vec<Row>> {
    let _lock = store.shared()?;
    let layers: BTreeMap<ChainId, LayerRecord> = store
        .layers
        .list()?
        .into_iter()
        .map(|layer| (layer.chain_id, layer))
        .collect();
    let names = names(store)?;
    let mut images = store.images.list()?;
    images.sort_by(|a, b| (b.stored_at, &b.created, b.id).cmp(&(a.stored_at, &a.created, a.id)));
    let mut users: BTreeMap<ChainId, BTreeSet<ImageId>> = BTreeMap::new();
    for image in &images {
        for chain in &image.layers {
            users.entry(*chain).or_default().insert(image.id);
        }
    }
    let row = |image: &ImageRecord| {
        let own: Vec<&LayerRecord> = image.layers.iter().filter_map(|chain| layers.get(chain)).collect();
        let alone = |layer: &&&LayerRecord| users.get(&layer.chain_id).is_some_and(|users| users.len() == 1);
        Row {
            id: image.id.to_string(),
            names: names
                .get(&image.id)
                .into_iter()
                .flatten()
                .map(ToString::to_string)
                .collect(),
            manifest: image.manifest.digest.to_string(),
            created: image.created.clone(),
            layers: image.layers.len(),
            size: own.iter().map(|layer| layer.size).sum(),
            own_size: own.iter().filter(alone).map(|layer| layer.size).sum(),
            stored_size: own.iter().map(|layer| layer.blob.size).sum(),
        }
    };
    Ok(images.iter().map(row).collect())
}

/// Every image's names, sorted.
///
/// # Errors
/// A damaged record.
pub fn names(store: &Store) -> Result<BTreeMap<ImageId, Vec<Reference>>> {
    let mut names: BTreeMap<ImageId, Vec<Reference>> = BTreeMap::new();
    for record in store.names.list()? {
        names.entry(record.image).or_default().push(record.name);
    }
    names.values_mut().for_each(|names| names.sort());
    Ok(names)
}

/// Twelve digits of an id or digest.
pub fn short(id: &str) -> String {
    id.strip_prefix("sha256:").unwrap_or(id).chars().take(12).collect()
}

/// How long ago an RFC 3339 date was; the text itself where it is no date.
pub fn age(created: &str) -> String {
    match created.parse::<jiff::Timestamp>() {
        Ok(then) => output::ago(then.as_second(), now()),
        Err(_) => created.to_owned(),
    }
}
