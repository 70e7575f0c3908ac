//! What `gc` and `rmi` share: mark and condemn under one lock, then let the driver sweep.

use plywood_store::gc::{Garbage, condemn, mark};

use crate::commands::Host;
use crate::error::Result;

/// Removes what nothing needs, and tells what that was.
///
/// # Errors
/// A damaged record; a driver that cannot remove. What was not reached is garbage again next time.
pub fn sweep(host: &Host) -> Result<Garbage> {
    let store = &host.store;
    let lock = store.exclusive()?;
    let garbage = mark(store)?;
    condemn(store, &lock, &garbage)?;
    lock.done()?;
    for snapshot in &garbage.snapshots {
        host.snapshotter.unmount_at(&snapshot.key)?;
        host.snapshotter.remove(&snapshot.key)?;
    }
    for layer in &garbage.layers {
        host.snapshotter.remove_layer(&layer.chain_id)?;
    }
    Ok(garbage)
}
