//! `plywood diff`: what a container changed, or what differs between two images.

use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;

use plywood_store::intent::Plan;
use plywood_store::layer::diff::{Change, ChangeKind, Everything, Options, Scope, changes};
use serde::Serialize;

use crate::cli::DiffArgs;
use crate::commands::{Host, Session, container, random_key, tag};
use crate::error::{Error, Result};
use crate::failure::{OK, Outcome};

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
    let _hold = container::hold(session, &host.store, &container)?;
    let comparison = host.snapshotter.compare(&container.id)?;
    let parent = comparison.parent.as_ref();
    compare(
        parent.map(|parent| parent.dir()),
        comparison.child.dir(),
        comparison.scope.as_ref(),
        each,
    )?;
    comparison.child.close()?;
    comparison.parent.map_or(Ok(()), |parent| parent.close())
}

fn of_images(host: &Host, from: &str, to: &str, each: &mut dyn FnMut(Change) -> Result<()>) -> Result<()> {
    let mut views = Vec::new();
    let intent = host.store.intents.begin(Plan::Work {
        verb: "diff".to_owned(),
        blobs: Vec::new(),
        layers: Vec::new(),
    })?;
    for name in [from, to] {
        let image = host.store.find_image(name)?;
        let top = image
            .layers
            .last()
            .ok_or_else(|| Error::invalid(format!("image {name} has no layers: there is nothing to compare")))?;
        let key = random_key("diff");
        host.snapshotter.view(&key, top, Some(&intent))?;
        views.push((host.snapshotter.mount(&key, crate::snapshot::Access::ReadOnly)?, key));
    }
    if let [(older, _), (newer, _)] = views.as_slice() {
        compare(Some(older.dir()), newer.dir(), &Everything, each)?;
    }
    for (mounted, key) in views {
        mounted.close()?;
        host.snapshotter.remove(&key)?;
    }
    intent.done()
}

fn compare(
    parent: Option<BorrowedFd<'_>>,
    child: BorrowedFd<'_>,
    scope: &dyn Scope,
    each: &mut dyn FnMut(Change) -> Result<()>,
) -> Result<()> {
    changes(parent, child, scope, &Options::default(), each)
}

fn letter(kind: ChangeKind) -> &'static str {
    match kind {
        ChangeKind::Added => "A",
        ChangeKind::Changed => "C",
        ChangeKind::Deleted => "D",
    }
}
