//! `plywood diff`: what a container changed, or what differs between two images.

use std::os::unix::ffi::OsStrExt;

use plywood_store::ChainId;
use plywood_store::intent::{Intent, Plan};
use plywood_store::layer::diff::{Change, ChangeKind, Everything, Options, changes};
use serde::Serialize;

use crate::cli::DiffArgs;
use crate::commands::{Host, Session, container, hold, random_key, tag};
use crate::error::{Error, Result, both};
use crate::failure::{OK, Outcome};
use crate::snapshot::{Access, Comparison, Differ};

/// One change, as `--json` shows it.
#[derive(Debug, Serialize)]
struct Row {
    kind: &'static str,
    path: String,
}

/// Lists the changes in canonical order.
///
/// # Errors
/// No such object, or a container that runs.
pub fn run(args: &DiffArgs, session: &Session) -> Outcome {
    if session.store()?.is_none() {
        return Err(tag::no_image(&args.from).into());
    }
    let host = session.host()?;
    let mut rows = Vec::new();
    let json = session.output.is_json();
    let mut each = |change: Change| {
        if json {
            rows.push(Row {
                kind: letter(change.kind),
                path: format!("/{}", change.path.display()),
            });
            return Ok(());
        }
        let line = [
            letter(change.kind).as_bytes(),
            b" /",
            change.path.as_os_str().as_bytes(),
            b"\n",
        ]
        .concat();
        session.output.bytes(&line)
    };
    match &args.to {
        None => of_container(session, &host, &args.from, &mut each)?,
        Some(to) => of_images(&host, &args.from, to, &mut each)?,
    }
    if json {
        session.output.json(&rows)?;
    }
    Ok(OK)
}

fn of_container(session: &Session, host: &Host, name: &str, each: &mut dyn FnMut(Change) -> Result<()>) -> Result<()> {
    let container = host.store.find_container(name)?;
    let _hold = hold::take(session, &host.store, &container)?;
    container::refuse_shown(&host.store, &container)?;
    list(host.snapshotter.compare(&container.id, Differ::Auto)?, each)
}

fn list(comparison: Comparison, each: &mut dyn FnMut(Change) -> Result<()>) -> Result<()> {
    let options = Options {
        thorough: comparison.is_thorough(),
        ..Options::default()
    };
    changes(
        comparison.parent(),
        comparison.child(),
        comparison.scope.as_ref(),
        &options,
        each,
    )?;
    comparison.close()
}

fn of_images(host: &Host, from: &str, to: &str, each: &mut dyn FnMut(Change) -> Result<()>) -> Result<()> {
    let tops = [top(host, from)?, top(host, to)?];
    let intent = host.store.intents.begin(Plan::Work {
        verb: "diff".to_owned(),
        blobs: Vec::new(),
        layers: tops.to_vec(),
    })?;
    let compared = match host.snapshotter.compare_layers(&tops[0], &tops[1]) {
        Ok(Some(comparison)) => list(comparison, each),
        Ok(None) => compare_views(host, &tops, &intent, each),
        Err(error) => Err(error),
    };
    both(compared, intent.done())
}

fn top(host: &Host, name: &str) -> Result<ChainId> {
    let image = host.store.find_image(name)?;
    let top = image.layers.last().copied();
    top.ok_or_else(|| Error::invalid(format!("image {name} has no layers: there is nothing to compare")))
}

/// By a walk through both trees.
fn compare_views(
    host: &Host,
    tops: &[ChainId; 2],
    intent: &Intent,
    each: &mut dyn FnMut(Change) -> Result<()>,
) -> Result<()> {
    let keys = [random_key("diff"), random_key("diff")];
    let compared = walk_views(host, &keys, tops, intent, each);
    both(compared, keys.iter().try_for_each(|key| host.snapshotter.remove(key)))
}

fn walk_views(
    host: &Host,
    [older, newer]: &[String; 2],
    [from, to]: &[ChainId; 2],
    intent: &Intent,
    each: &mut dyn FnMut(Change) -> Result<()>,
) -> Result<()> {
    let mount = |key: &str, chain| {
        host.snapshotter.view(key, chain, Some(intent))?;
        host.snapshotter.mount(key, Access::ReadOnly)
    };
    let (older, newer) = (mount(older, from)?, mount(newer, to)?);
    changes(
        Some(older.folder()),
        newer.folder(),
        &Everything,
        &Options::default(),
        each,
    )?;
    newer.close()?;
    older.close()
}

fn letter(kind: ChangeKind) -> &'static str {
    match kind {
        ChangeKind::Added => "A",
        ChangeKind::Changed => "C",
        ChangeKind::Deleted => "D",
    }
}
