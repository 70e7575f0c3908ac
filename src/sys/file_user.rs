//! setfsuid(2) and setfsgid(2): another user for files, with the same rights over them.

use std::io;

use nix::unistd::{Gid, Uid, setfsgid, setfsuid};
use rustix::thread::{CapabilitySets, capabilities, set_capabilities};

/// What this thread makes from now on belongs to user and group `id`. Threads that it starts do as it does.
///
/// The kernel takes another user's rights over files away, gives up the signal for the parent's death, and may allow
/// tracing: only the first is undone here.
///
/// # Errors
/// The kernel's.
pub fn make_files_as(id: u32) -> io::Result<()> {
    setfsgid(Gid::from_raw(id));
    setfsuid(Uid::from_raw(id));
    let held = capabilities(None)?;
    let sets = CapabilitySets {
        effective: held.permitted,
        ..held
    };
    Ok(set_capabilities(None, sets)?)
}
