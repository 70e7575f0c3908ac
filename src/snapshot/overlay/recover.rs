//! What dead processes left, and whether folders and records agree.
//!
//! Recovery runs before every verb, so it looks first at what is cheap: marks
//! in `pending/`, dead intents, leases. Without one of them there
//! is nothing to do, and no other record is read.

use std::collections::BTreeSet;

use plywood_store::intent::Plan;
use plywood_store::record::Phase;

use super::folders::is_name;
use super::{Overlay, Upper, folder, stack};
use crate::error::Result;

/// Forward or back: see [`crate::snapshot::Snapshotter::recover`].
pub(super) fn recover(driver: &Overlay) -> Result<Vec<String>> {
    let mut done = Vec::new();
    let mut leftover = Vec::new();
    let lock = driver.store.exclusive()?;
    driver.store.forget_other_boots(&lock)?;
    let dead = driver.store.intents.dead()?;
    let snapshots = driver.store.snapshots.list()?;
    for record in &snapshots {
        let abandoned = match &record.lease {
            // A dead intent is in our hands now, so it would look alive.
            Some(lease) => dead.iter().any(|intent| intent.id() == lease) || !driver.store.intents.is_live(lease)?,
            None => false,
        };
        if abandoned && driver.still_held(record)? {
            // Its command is dead, a child of it is not: the next recovery finds it.
            continue;
        }
        if abandoned || record.phase == Phase::Deleting {
            leftover.extend(driver.unrecord(&lock, record)?);
            done.push(format!("removed snapshot {}: its command is dead", record.key));
        }
    }
    let mut marked = driver.folders.marked()?;
    // One that passes has its mark as long as it is there.
    for record in snapshots
        .iter()
        .filter(|record| driver.store.snapshots.is_passing(&record.key))
    {
        if let Some(name) = Upper::of(record)?.name() {
            marked.retain(|marked| marked != name);
        }
    }
    if marked.iter().any(|name| !leftover.contains(name)) {
        take_up(driver, &lock, &marked, &mut leftover, &mut done)?;
    }
    // Their snapshots are gone: nothing needs these intents any more.
    for intent in dead {
        if matches!(intent.plan(), Plan::Work { .. }) {
            intent.done()?;
        }
    }
    lock.done()?;
    for name in leftover {
        driver.delete_folder(&name)?;
    }
    stack::sweep_points(&driver.points)?;
    Ok(done)
}

/// Folders whose making or deleting was cut short: their record says which way to go.
fn take_up(
    driver: &Overlay,
    lock: &plywood_store::lock::Exclusive,
    marked: &[String],
    leftover: &mut Vec<String>,
    done: &mut Vec<String>,
) -> Result<()> {
    let layers = driver.store.layers.list()?;
    let snapshots = driver.store.snapshots.list()?;
    for name in marked {
        let layer = layers
            .iter()
            .find(|layer| folder(&layer.place).is_ok_and(|place| place == name));
        let snapshot = snapshots
            .iter()
            .find(|one| matches!(Upper::of(one), Ok(Upper::Own(own)) if own == name));
        match (layer, snapshot) {
            (Some(layer), _) if layer.phase == Phase::Deleting => {
                leftover.push(driver.finish_layer(lock, layer)?);
                done.push(format!("finished removing layer {}", layer.chain_id));
            }
            (Some(layer), snapshot) => {
                // Published: the layer has the folder, the snapshot's record was still to go.
                if let Some(snapshot) = snapshot {
                    driver.store.snapshots.remove(lock, &snapshot.key)?;
                }
                driver.folders.delete_work(name)?;
                driver.folders.settled(name)?;
                done.push(format!("finished committing layer {}", layer.chain_id));
            }
            (None, Some(_)) => driver.folders.settled(name)?,
            (None, None) if leftover.contains(name) => {}
            (None, None) if is_name(name) => {
                driver.folders.unhook(lock, name)?;
                leftover.push(name.clone());
                done.push(format!("removed the folder {name}: no record names it"));
            }
            (None, None) => {}
        }
    }
    Ok(())
}

/// Records against folders, and back. Changes nothing.
pub(super) fn verify(driver: &Overlay) -> Result<Vec<String>> {
    let _lock = driver.store.shared()?;
    let mut findings = Vec::new();
    let mut named = BTreeSet::new();
    let marked: BTreeSet<String> = driver.folders.marked()?.into_iter().collect();
    for layer in driver.store.layers.list()? {
        let owner = format!("layer {}", layer.chain_id);
        match folder(&layer.place) {
            // Its content goes before its record.
            Ok(name) if layer.phase == Phase::Deleting => drop(named.insert(name.to_owned())),
            Ok(name) => note(driver, &owner, name, &mut named, &marked, &mut findings),
            Err(error) => findings.push(error.to_string()),
        }
    }
    for record in driver.store.snapshots.list()? {
        let owner = format!("snapshot {}", record.key);
        match Upper::of(&record) {
            Ok(Upper::Own(name)) if record.phase == Phase::Deleting => drop(named.insert(name.to_owned())),
            Ok(Upper::Own(name)) => note(driver, &owner, name, &mut named, &marked, &mut findings),
            Ok(Upper::Borrowed(name)) if !driver.folders.tree(name).is_dir() => {
                findings.push(format!("{owner}: the folder {name} is missing"));
            }
            Ok(Upper::Borrowed(_) | Upper::View) => {}
            Err(error) => findings.push(error.to_string()),
        }
    }
    for name in driver.folders.trees()? {
        if !named.contains(&name) && !marked.contains(&name) {
            findings.push(format!(
                "no record names the folder {}",
                driver.folders.tree(&name).display()
            ));
        }
    }
    for name in driver.folders.works()? {
        if !named.contains(&name) && !marked.contains(&name) {
            findings.push(format!(
                "no record names the work folder {}",
                driver.folders.work(&name).display()
            ));
        }
    }
    Ok(findings)
}

/// Notes that `owner` has the folder, and what is wrong with that.
fn note(
    driver: &Overlay,
    owner: &str,
    name: &str,
    named: &mut BTreeSet<String>,
    marked: &BTreeSet<String>,
    findings: &mut Vec<String>,
) {
    if !driver.folders.tree(name).is_dir() {
        findings.push(format!("{owner}: the folder {name} is missing"));
    }
    // A commit that was cut short has its folder in both records, and its mark says so.
    if !named.insert(name.to_owned()) && !marked.contains(name) {
        findings.push(format!("{owner}: the folder {name} belongs to something else too"));
    }
}
