//! What `gc` and `rmi` share: mark and condemn under one lock, then let the driver sweep.

use plywood_store::gc::{Garbage, Without, condemn, mark_without};

use crate::commands::Host;
use crate::error::{Kind, Result};

/// Removes what nothing needs, and tells what that was.
///
/// # Errors
/// A damaged record; a driver that cannot remove. What was not reached is garbage again next time.
pub fn sweep(host: &Host) -> Result<Garbage> {
    sweep_without(host, &Without::default())
}

/// Removes what nothing would need without some of what there is, and that as well where it is the store's own.
///
/// # Errors
/// As for [`sweep`].
pub fn sweep_without(host: &Host, without: &Without) -> Result<Garbage> {
    let store = &host.store;
    let lock = store.exclusive()?;
    let mut garbage = mark_without(store, without)?;
    condemn(store, &lock, &garbage)?;
    lock.done()?;
    let driver = &host.snapshotter;
    garbage.snapshots = swept(garbage.snapshots, |snapshot| {
        driver.unmount_at(&snapshot.key)?;
        driver.remove(&snapshot.key)
    })?;
    garbage.layers = swept(garbage.layers, |layer| driver.remove_layer(&layer.chain_id))?;
    Ok(garbage)
}

/// Removes each, and gives those that went. What is condemned and in somebody's hands is being removed
/// by them, or is garbage again next time: no failure.
fn swept<T>(condemned: Vec<T>, remove: impl Fn(&T) -> Result<()>) -> Result<Vec<T>> {
    let mut gone = Vec::with_capacity(condemned.len());
    for one in condemned {
        match remove(&one) {
            Ok(()) => gone.push(one),
            Err(error) if matches!(error.kind(), Kind::InUse | Kind::NotFound) => {
                tracing::debug!("left to whoever has it: {error}");
            }
            Err(error) => return Err(error),
        }
    }
    Ok(gone)
}
