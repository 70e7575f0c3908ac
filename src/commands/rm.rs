//! `plywood rm`: removes containers: the snapshot first, then the record.
//!
//! An intent says so before the first step, so that a removal that was cut short is finished by the next
//! command. `run` begins with the same intent: a container that is half made goes, and so does one that was
//! to be removed when its command ends.

use plywood_store::error::Kind;
use plywood_store::intent::{Intent, Plan};
use plywood_store::record::merge_key;
use serde::Serialize;

use crate::cli::RmArgs;
use crate::commands::live::Live;
use crate::commands::{Host, Session, connect, container, hold, logs, stop, volume};
use crate::error::{Result, both};
use crate::failure::{Each, Outcome};

/// A container that was removed, as `--json` shows it.
#[derive(Debug, Serialize)]
struct Removed {
    id: String,
    name: String,
}

/// Removes each container, and says for each what became of it.
///
/// # Errors
/// Where one could not be removed; the others are.
pub fn run(args: &RmArgs, session: &Session) -> Outcome {
    let host = session.existing_host()?;
    let mut removed = Vec::new();
    let mut each = Each::new(&session.output);
    for name in &args.containers {
        match each.done(remove(session, host.as_ref(), name, args.force)).flatten() {
            Some(container) if session.output.is_json() => removed.push(container),
            Some(_) => session.output.line(name)?,
            None => {}
        }
    }
    if session.output.is_json() {
        session.output.json(&removed)?;
    }
    each.outcome()
}

/// Gives what was removed: with `force`, none is no failure.
fn remove(session: &Session, host: Option<&Host>, name: &str, force: bool) -> Result<Option<Removed>> {
    let found = match host {
        Some(host) => host.store.find_container(name).map(|record| (host, record)),
        None => Err(container::none(name)),
    };
    let (host, record) = match found {
        Err(error) if force && error.kind() == Kind::NotFound => return Ok(None),
        found => found?,
    };
    if force && let Ok(live) = Live::of(record.clone())? {
        stop::end(host, &live)?;
    }
    let hold = hold::take(session, &host.store, &record)?;
    remove_held(host, &record.id, hold, passing(host, &record.id, true)?)?;
    Ok(Some(Removed {
        id: record.id,
        name: record.name,
    }))
}

/// Says that a container is being made or removed. Until this intent is done, a kill means that the next
/// command removes what there is of the container. `lasts` says whether a power cut must mean the same.
///
/// # Errors
/// I/O.
pub fn passing(host: &Host, id: &str, lasts: bool) -> Result<Intent> {
    let plan = Plan::Container { id: id.to_owned() };
    match lasts {
        true => host.store.intents.begin(plan),
        false => host.store.intents.begin_passing(plan),
    }
}

/// Removes a container that the caller holds and has said to be [passing].
///
/// # Errors
/// Where its snapshot or record cannot be removed; doing it again is safe.
pub fn remove_held(host: &Host, id: &str, hold: hold::Hold, intent: Intent) -> Result<()> {
    match erase(host, id, hold) {
        Ok(()) => intent.done(),
        // Nothing has happened: the container stays.
        Err(error) if error.kind() == Kind::InUse => both(Err(error), intent.done()),
        // The intent stays for the next command: a removal only goes forward.
        Err(error) => Err(error),
    }
}

/// Removes a [passing] container that the caller holds, but not its snapshot.
///
/// # Errors
/// As for [`remove_held`].
pub fn forget_held(host: &Host, id: &str, hold: hold::Hold, intent: Intent) -> Result<()> {
    connect::remove(&host.store, id)?;
    forget(host, id, hold)?;
    intent.done()
}

fn erase(host: &Host, id: &str, hold: hold::Hold) -> Result<()> {
    // The record goes last: until then the snapshot has an owner that can be found and removed again.
    connect::remove(&host.store, id)?;
    host.snapshotter.unmount_at(id)?;
    host.snapshotter.remove(id)?;
    host.snapshotter.remove(&merge_key(id))?;
    forget(host, id, hold)
}

/// Removes all but a container's network and snapshots.
fn forget(host: &Host, id: &str, hold: hold::Hold) -> Result<()> {
    logs::remove(&host.store, id)?;
    volume::remove_own(&host.store, id)?;
    let lock = host.store.exclusive()?;
    host.store.containers.remove(&lock, id)?;
    lock.done()?;
    hold::forget(&host.store, id, hold)
}

/// Removes the containers whose making or removal was cut short; a line for each.
///
/// # Errors
/// Where the intents cannot be read. A container that cannot be removed yet is no failure: what is stored can
/// still be read.
pub fn take_up(host: &Host) -> Result<Vec<String>> {
    let lock = host.store.exclusive()?;
    let dead = host.store.intents.dead()?.into_iter();
    let cut_short: Vec<(Intent, String)> = dead
        .filter_map(|intent| match intent.plan().clone() {
            Plan::Container { id } => Some((intent, id)),
            _ => None,
        })
        .collect();
    lock.done()?;

    let mut lines = Vec::new();
    for (intent, id) in cut_short {
        // One that outlives its plywood for a moment is left to the next command.
        let Some(hold) = hold::try_take(&host.store, &id)? else {
            continue;
        };
        match erase(host, &id, hold).and_then(|()| intent.done()) {
            Ok(()) => lines.push(format!("removed container {id}: its command is dead")),
            Err(error) if error.kind() == Kind::InUse => {}
            Err(error) => lines.push(format!("not yet: {error}")),
        }
    }
    Ok(lines)
}
