//! Whether this kernel has thin pools, without making one.

use devicemapper::DM;

use crate::error::{Error, Kind, Result};

/// The target without which there is no thin driver.
const TARGET: &str = "thin-pool";
/// The module that has it.
const MODULE: &str = "dm-thin-pool.ko";

/// Whether the thin driver can work here: the target is loaded, or a module for
/// the running kernel lies ready, which the kernel loads when a table names it.
pub fn is_available() -> bool {
    let Ok(dm) = DM::new() else { return false };
    let loaded = dm
        .list_versions()
        .is_ok_and(|targets| targets.iter().any(|(name, ..)| name == TARGET));
    loaded || module_lies_ready()
}

/// Refuses a kernel without thin pools, before anything is made for them.
///
/// # Errors
/// Incompatible, with the way out.
pub fn require() -> Result<()> {
    if is_available() {
        return Ok(());
    }
    Err(
        Error::new(Kind::Incompatible, "this kernel has no device-mapper thin pools")
            .hinted("modprobe dm-thin-pool, or take the overlay driver: --driver overlay; plywood doctor says more"),
    )
}

fn module_lies_ready() -> bool {
    let Ok(release) = std::fs::read_to_string("/proc/sys/kernel/osrelease") else {
        return false;
    };
    let list = format!("/lib/modules/{}/modules.dep", release.trim());
    std::fs::read_to_string(list).is_ok_and(|list| list.contains(MODULE))
}
