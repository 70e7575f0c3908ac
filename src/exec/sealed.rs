//! The binary that a container could see: a sealed copy in memory.
//!
//! Until execve, the container's first process *is* plywood, and an image whose
//! command is `/proc/self/exe` (or a script for it) runs plywood once more, with
//! the image's own loader, which could then write to the host's binary
//! (CVE-2019-5736). So `run` and `start` continue in a copy that nobody can
//! write: a memfd with every seal, which shares no page with the file either.

use std::ffi::CString;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::io::Errno;

use super::error::{Attempt, Error, Result, Stage};

/// This very binary, whatever has become of its name.
const OWN_BINARY: &str = "/proc/self/exe";
/// All of them: neither content nor length nor seals can change.
const SEALS: SealFlags = SealFlags::SEAL
    .union(SealFlags::SHRINK)
    .union(SealFlags::GROW)
    .union(SealFlags::WRITE);

/// Returns in a process that runs from a sealed copy: this one, or it becomes one.
///
/// # Errors
/// Where the copy cannot be made or executed.
pub fn ensure() -> Result<()> {
    let own = File::open(OWN_BINARY).attempt(Stage::Namespaces, || format!("open {OWN_BINARY}"))?;
    if rustix::fs::fcntl_get_seals(&own).is_ok_and(|seals| seals.contains(SEALS)) {
        // It would be called by its descriptor's number otherwise.
        let _ = rustix::thread::set_name(c"plywood");
        return Ok(());
    }
    let copy = sealed_copy(own).attempt(Stage::Namespaces, || "copy plywood into memory".to_owned())?;
    let args = c_strings(std::env::args_os())?;
    let env = c_strings(std::env::vars_os().map(|(mut key, value)| {
        key.push("=");
        key.push(value);
        key
    }))?;
    tracing::debug!("continuing in a sealed copy");
    match nix::unistd::fexecve(&copy, &args, &env) {
        Ok(never) => match never {},
        Err(error) => Err(Error::system(
            Stage::Namespaces,
            "execute plywood's copy in memory",
            error,
        )),
    }
}

fn sealed_copy(mut own: File) -> std::io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let memory = match rustix::fs::memfd_create("plywood", flags | MemfdFlags::EXEC) {
        // Before Linux 6.3 every memfd is executable, and the flag unknown.
        Err(Errno::INVAL) => rustix::fs::memfd_create("plywood", flags)?,
        made => made?,
    };
    let mut memory = File::from(memory);
    std::io::copy(&mut own, &mut memory)?;
    rustix::fs::fcntl_add_seals(&memory, SEALS)?;
    // A descriptor that can write is a writer, and what somebody writes cannot be executed.
    Ok(File::open(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&memory)))?.into())
}

fn c_strings(words: impl Iterator<Item = std::ffi::OsString>) -> Result<Vec<CString>> {
    let words = words.map(|word| CString::new(word.into_vec()));
    words
        .collect::<std::result::Result<_, _>>()
        .map_err(|_| Error::new(Stage::Namespaces, "pass plywood's own arguments on"))
}
