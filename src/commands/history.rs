//! `plywood history`: the layers of an image, and how each came about.

use plywood_store::{ChainId, DiffId};
use serde::Serialize;

use crate::cli::HistoryArgs;
use crate::commands::images::{age, short};
use crate::commands::{Session, tag};
use crate::failure::{OK, Outcome};
use crate::image::oci;
use crate::output;

/// One step, as `--json` shows it.
#[derive(Debug, Default, Serialize)]
struct Step {
    diff_id: Option<DiffId>,
    chain_id: Option<ChainId>,
    created: Option<String>,
    created_by: String,
    comment: String,
    author: Option<String>,
    size: u64,
    empty_layer: bool,
}

/// Lists the steps, newest first.
///
/// # Errors
/// No such image, or a damaged config.
pub fn run(args: &HistoryArgs, session: &Session) -> Outcome {
    let store = session.store()?.ok_or_else(|| tag::no_image(&args.image))?;
    let image = store.find_image(&args.image)?;
    let config = oci::read_config(&store, &image)?;
    let mut layers = image.layers.iter().zip(&config.rootfs.diff_ids);
    let mut steps = Vec::new();
    for entry in config.history {
        let layer = if entry.empty_layer { None } else { layers.next() };
        let mut step = Step {
            created: entry.created,
            created_by: entry.created_by.unwrap_or_default(),
            comment: entry.comment.unwrap_or_default(),
            author: entry.author,
            empty_layer: entry.empty_layer,
            ..Step::default()
        };
        if let Some((chain, diff)) = layer {
            (step.chain_id, step.diff_id) = (Some(*chain), Some(*diff));
        }
        steps.push(step);
    }
    // Configs may keep no history, or less of it than there are layers.
    steps.extend(layers.map(|(chain, diff)| Step {
        chain_id: Some(*chain),
        diff_id: Some(*diff),
        ..Step::default()
    }));
    for step in &mut steps {
        if let Some(chain) = step.chain_id {
            step.size = store.layers.get(&chain.0.hex())?.map_or(0, |layer| layer.size);
        }
    }
    steps.reverse();
    if session.output.is_json() {
        session.output.json(&steps)?;
        return Ok(OK);
    }
    let cells = steps.iter().map(|step| cells(step, args.no_trunc)).collect();
    session
        .output
        .table(&["LAYER", "CREATED", "CREATED BY", ">SIZE", "COMMENT"], cells)?;
    Ok(OK)
}

fn cells(step: &Step, whole: bool) -> Vec<String> {
    let layer = match &step.diff_id {
        Some(diff) if whole => diff.to_string(),
        Some(diff) => short(&diff.to_string()),
        None => "<no layer>".to_owned(),
    };
    let by = if whole || step.created_by.chars().count() <= 45 {
        step.created_by.clone()
    } else {
        format!("{}…", step.created_by.chars().take(44).collect::<String>())
    };
    vec![
        layer,
        step.created.as_deref().map_or_else(String::new, age),
        by,
        output::bytes(step.size),
        step.comment.clone(),
    ]
}
