//! `plywood gc`: removes what nothing needs.

use plywood_store::gc::Without;
use serde::Serialize;

use crate::cli::GcArgs;
use crate::commands::{Session, build, collect, hold, now, volume};
use crate::failure::{OK, Outcome};
use crate::output;

/// What was removed, as `--json` shows it.
#[derive(Debug, Serialize)]
struct Removed {
    dry_run: bool,
    recovered: Vec<String>,
    images: Vec<String>,
    layers: Vec<String>,
    snapshots: Vec<String>,
    steps: Vec<String>,
    blobs: Vec<String>,
    temporary: Vec<String>,
    blob_bytes: u64,
}

/// Marks, tells, sweeps.
///
/// # Errors
/// A damaged record: nothing is removed by guessing.
pub fn run(args: &GcArgs, session: &Session) -> Outcome {
    let mut recovered = Vec::new();
    let unused = args.unused_for.unwrap_or_default();
    let before = now().saturating_sub(i64::try_from(unused.as_secs()).unwrap_or(i64::MAX));
    let without = Without {
        // What was used in this very second goes too, where no time is given.
        steps_before: args
            .build_cache
            .then(|| if unused.is_zero() { i64::MAX } else { before }),
        ..Without::default()
    };
    let garbage = match session.store()? {
        None => plywood_store::gc::Garbage::default(),
        Some(store) if args.dry_run => {
            let _lock = store.shared()?;
            plywood_store::gc::mark_without(&store, &without)?
        }
        Some(_) => {
            let host = session.host()?;
            hold::sweep_locks(&host.store)?;
            volume::sweep(&host.store)?;
            build::sweep_caches(&host.store, without.steps_before)?;
            let garbage = collect::sweep_without(&host, &without)?;
            recovered = host.snapshotter.recover()?;
            garbage
        }
    };
    let removed = Removed {
        dry_run: args.dry_run,
        recovered,
        images: garbage.images.iter().map(|image| image.id.to_string()).collect(),
        layers: garbage.layers.iter().map(|layer| layer.chain_id.to_string()).collect(),
        snapshots: garbage.snapshots.iter().map(|snapshot| snapshot.key.clone()).collect(),
        steps: garbage.steps.iter().map(|step| step.created_by.clone()).collect(),
        blobs: garbage.blobs.iter().map(|(digest, _)| digest.to_string()).collect(),
        blob_bytes: garbage
            .blobs
            .iter()
            .map(|(_, size)| size)
            .chain(garbage.temporary.iter().map(|(_, size)| size))
            .sum(),
        temporary: garbage.temporary.into_iter().map(|(name, _)| name).collect(),
    };
    tell(&removed, session)?;
    Ok(OK)
}

fn tell(removed: &Removed, session: &Session) -> crate::error::Result<()> {
    if session.output.is_json() {
        return session.output.json(removed);
    }
    for (kind, names) in [
        ("recovered", &removed.recovered),
        ("image", &removed.images),
        ("layer", &removed.layers),
        ("snapshot", &removed.snapshots),
        ("step", &removed.steps),
        ("blob", &removed.blobs),
        ("unfinished", &removed.temporary),
    ] {
        for name in names {
            session.output.line(format!("{kind} {name}"))?;
        }
    }
    let verb = if removed.dry_run { "would be removed" } else { "removed" };
    let count = removed.images.len()
        + removed.layers.len()
        + removed.snapshots.len()
        + removed.steps.len()
        + removed.blobs.len()
        + removed.temporary.len();
    session.output.note(format!(
        "{count} objects {verb}, {} of blobs",
        output::bytes(removed.blob_bytes)
    ));
    Ok(())
}
