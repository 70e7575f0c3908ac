//! `plywood umount`: undoes `plywood mount`.

use plywood_store::error::Kind;
use plywood_store::record::SnapshotRecord;

use crate::cli::UmountArgs;
use crate::commands::{Host, Session, mount};
use crate::error::{Error, Result};
use crate::failure::{OK, Outcome};

/// Unmounts what was named, or everything.
///
/// # Errors
/// Where something is not mounted, or still in use.
pub fn run(args: &UmountArgs, session: &Session) -> Outcome {
    if session.store()?.is_none() {
        return Ok(OK);
    }
    let host = session.host()?;
    let mounted: Vec<SnapshotRecord> = host
        .store
        .snapshots
        .list()?
        .into_iter()
        .filter(|snapshot| snapshot.mounted_at.is_some())
        .collect();
    if args.all {
        for snapshot in &mounted {
            undo(&host, snapshot)?;
        }
        return Ok(OK);
    }
    for name in &args.objects {
        undo(&host, find(&host, &mounted, name)?)?;
    }
    Ok(OK)
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
    by_path.or(by_key).ok_or_else(|| {
        Error::not_found(format!("{name} is not mounted"))
            .hinted("plywood mount IMAGE mounts; findmnt lists what is mounted")
    })
}

fn undo(host: &Host, snapshot: &SnapshotRecord) -> Result<()> {
    host.snapshotter.unmount_at(&snapshot.key)?;
    if let Some(target) = &snapshot.mounted_at {
        mount::remove_point(&host.store, target);
    }
    Ok(())
}
