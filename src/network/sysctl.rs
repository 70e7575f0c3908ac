//! Switches below `/proc/sys`, which for `net/` are those of the thread's network namespace.

use crate::error::{Context, Result};
use crate::explain;

/// Sets a switch where it says something else, and gives whether it did. One that this kernel does not have is let be.
///
/// # Errors
/// Where it cannot be written.
pub(super) fn set(name: &str, value: &str) -> Result<bool> {
    let path = format!("/proc/sys/{name}");
    match std::fs::read_to_string(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        Ok(now) if now.trim() == value => return Ok(false),
        _ => {}
    }
    explain::step(|| format!("sysctl -w {}={value}", name.replace('/', ".")));
    std::fs::write(&path, value).context("set", &path)?;
    Ok(true)
}
