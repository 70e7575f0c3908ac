//! `plywood umount`: undoes `plywood mount`.

use plywood_store::error::Kind;
use plywood_store::record::SnapshotRecord;

use crate::cli::UmountArgs;
use crate::commands::{Host, Session, mount};
use crate::error::{Error, Result};
use crate::failure::{Each, Outcome};

/// Unmounts what was named, or everything, and tells for each what could not be.
///
/// # Errors
/// Where something is not mounted, or still in use; the others are unmounted.
pub fn run(args: &UmountArgs, session: &Session) -> Outcome {
    let host = session.existing_host()?;
    let mounted = match &host {
        Some(host) => mounted(host)?,
        None => Vec::new(),
    };
    let mut each = Each::new(&session.output);
    if let Some(host) = host.as_ref().filter(|_| args.all) {
        for snapshot in &mounted {
            each.done(host.snapshotter.unmount_at(&snapshot.key));
        }
    }
    for name in &args.objects {
        each.done(match &host {
            Some(host) => find(host, &mounted, name).and_then(|snapshot| host.snapshotter.unmount_at(&snapshot.key)),
            None => Err(not_mounted(name)),
        });
    }
    each.outcome()
}

fn mounted(host: &Host) -> Result<Vec<SnapshotRecord>> {
    let mut mounted = host.store.snapshots.list()?;
    mounted.retain(|snapshot| snapshot.mounted_at.is_some());
    Ok(mounted)
}

fn find<'a>(host: &Host, mounted: &'a [SnapshotRecord], name: &str) -> Result<&'a SnapshotRecord> {
    let path = std::fs::canonicalize(name).ok();
    let by_path = mounted
        .iter()
        .find(|snapshot| path.is_some() && snapshot.mounted_at == path);
    let key = match mount::key(&host.store, name) {
        Err(error) if matches!(error.kind(), Kind::NotFound | Kind::Invalid) => None,
        key => Some(key?),
    };
    let by_key = mounted.iter().find(|snapshot| Some(&snapshot.key) == key.as_ref());
    by_path.or(by_key).ok_or_else(|| not_mounted(name))
}

fn not_mounted(name: &str) -> Error {
    Error::not_found(format!("{name} is not mounted"))
        .hinted("plywood mount IMAGE mounts; findmnt lists what is mounted")
}
