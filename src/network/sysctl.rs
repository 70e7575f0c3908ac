//! Switches below `/proc/sys`, which for `net/` are those of the thread's network namespace.

use std::io::ErrorKind;

use crate::error::{Context, Error, Result};
use crate::explain;

/// Sets a switch where it says something else, and gives whether it did. One that this kernel does not have is let be.
///
/// # Errors
/// Where it cannot be written.
pub(super) fn set(name: &str, value: &str) -> Result<bool> {
    change(name, value, || format!("sysctl -w {}={value}", name.replace('/', ".")))
}

/// The same in a thread that has entered the network namespace that a person would call `namespace`.
///
/// # Errors
/// As for [`set`].
pub(super) fn set_inside(namespace: &str, name: &str, value: &str) -> Result<bool> {
    change(name, value, || {
        format!("ip netns exec {namespace} sysctl -w {}={value}", name.replace('/', "."))
    })
}

fn change(name: &str, value: &str, command: impl FnOnce() -> String) -> Result<bool> {
    let path = format!("/proc/sys/{name}");
    match std::fs::read_to_string(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(Error::io("read", &path, error)),
        Ok(now) if now.trim() == value => return Ok(false),
        Ok(_) => {}
    }
    explain::step(command);
    std::fs::write(&path, value).context("set", &path)?;
    Ok(true)
}
