//! `plywood tree`: images as a tree of shared layers.

use std::collections::BTreeMap;

use plywood_store::record::LayerRecord;
use plywood_store::{ChainId, Store};
use serde::Serialize;

use crate::commands::Session;
use crate::commands::images::{names, short};
use crate::error::Result;
use crate::failure::{OK, Outcome};
use crate::output;

/// One layer with what stands on it, as `--json` shows it.
#[derive(Debug, Serialize)]
struct Node {
    chain_id: ChainId,
    size: u64,
    /// Names (or ids) of the images that end here.
    images: Vec<String>,
    /// Names of the containers that stand on one of these images.
    containers: Vec<String>,
    children: Vec<Node>,
}

/// Draws the tree, or gives it as nested documents.
///
/// # Errors
/// A damaged record.
pub fn run(session: &Session) -> Outcome {
    let roots = match session.store()? {
        Some(store) => grow(&store)?,
        None => Vec::new(),
    };
    if session.output.is_json() {
        session.output.json(&roots)?;
        return Ok(OK);
    }
    for root in &roots {
        draw(root, "", "", session)?;
    }
    Ok(OK)
}

fn grow(store: &Store) -> Result<Vec<Node>> {
    let _lock = store.shared()?;
    let names = names(store)?;
    let mut on: BTreeMap<ChainId, (Vec<String>, Vec<String>)> = BTreeMap::new();
    let mut tops = BTreeMap::new();
    for image in store.images.list()? {
        let Some(top) = image.layers.last() else { continue };
        tops.insert(image.id, *top);
        let shown = names.get(&image.id).map_or_else(
            || vec![image.id.0.short()],
            |names| names.iter().map(ToString::to_string).collect(),
        );
        on.entry(*top).or_default().0.extend(shown);
    }
    for container in store.containers.list()? {
        if let Some(top) = tops.get(&container.image) {
            on.entry(*top).or_default().1.push(container.name);
        }
    }
    let mut below: BTreeMap<Option<ChainId>, Vec<LayerRecord>> = BTreeMap::new();
    for layer in store.layers.list()? {
        below.entry(layer.parent).or_default().push(layer);
    }
    Ok(nodes(None, &mut below, &mut on))
}

/// Takes the layers on `parent` out of `below`, so that even records in a circle come to an end.
fn nodes(
    parent: Option<ChainId>,
    below: &mut BTreeMap<Option<ChainId>, Vec<LayerRecord>>,
    on: &mut BTreeMap<ChainId, (Vec<String>, Vec<String>)>,
) -> Vec<Node> {
    let layers = below.remove(&parent).unwrap_or_default();
    layers
        .into_iter()
        .map(|layer| {
            let (images, containers) = on.remove(&layer.chain_id).unwrap_or_default();
            Node {
                chain_id: layer.chain_id,
                size: layer.size,
                images,
                containers,
                children: nodes(Some(layer.chain_id), below, on),
            }
        })
        .collect()
}

fn draw(node: &Node, branch: &str, indent: &str, session: &Session) -> Result<()> {
    let images = if node.images.is_empty() {
        String::new()
    } else {
        format!("  {}", node.images.join(", "))
    };
    let containers = if node.containers.is_empty() {
        String::new()
    } else {
        format!("  [{}]", node.containers.join(", "))
    };
    session.output.line(format!(
        "{branch}{}  {}{images}{containers}",
        short(&node.chain_id.to_string()),
        output::bytes(node.size)
    ))?;
    for (index, child) in node.children.iter().enumerate() {
        let last = index + 1 == node.children.len();
        let (own, below) = if last {
            ("└── ", "    ")
        } else {
            ("├── ", "│   ")
        };
        draw(child, &format!("{indent}{own}"), &format!("{indent}{below}"), session)?;
    }
    Ok(())
}
