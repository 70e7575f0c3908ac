//! The binary that a container could see: one that nobody can write through it.
//!
//! Until execve, the container's first process *is* plywood, and an image whose
//! command is `/proc/self/exe` (or a script for it) runs plywood once more, with
//! the image's own loader, which could then write to the host's binary
//! (CVE-2019-5736). So `run` and `start` continue from a mount of that file alone,
//! read-only and in no tree: the kernel lets nobody change, copy or attach a mount
//! that lies nowhere, whatever capabilities they have.
//!
//! Where that cannot be made they continue in a copy: a memfd with every seal. To
//! make and free it for each start took 4 ms, and the monitor of each container
//! kept it in memory.

use std::ffi::CString;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use rustix::fs::{MemfdFlags, SealFlags, StatVfsMountFlags};
use rustix::io::Errno;
use rustix::mount::{MountAttrFlags, OpenTreeFlags};

use super::error::{Attempt, Error, Result, Stage};
use crate::sys::mount_setattr;

/// This very binary, whatever has become of its name.
const OWN_BINARY: &str = "/proc/self/exe";
/// All of them: neither content nor length nor seals can change.
const SEALS: SealFlags = SealFlags::SEAL
    .union(SealFlags::SHRINK)
    .union(SealFlags::GROW)
    .union(SealFlags::WRITE);
/// What the mount refuses. The last makes it unlike all others: a file has no links to follow.
const REFUSED: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_RDONLY
    .union(MountAttrFlags::MOUNT_ATTR_NOSUID)
    .union(MountAttrFlags::MOUNT_ATTR_NODEV)
    .union(MountAttrFlags::MOUNT_ATTR_NOSYMFOLLOW);
/// The same, as statfs tells it. `ST_NOSYMFOLLOW` is the kernel's include/linux/statfs.h's.
const REFUSES: StatVfsMountFlags = StatVfsMountFlags::RDONLY
    .union(StatVfsMountFlags::NOSUID)
    .union(StatVfsMountFlags::NODEV)
    .union(StatVfsMountFlags::from_bits_retain(0x2000));

/// Returns in a process whose binary is out of reach: this one, or it becomes one.
///
/// # Errors
/// Where neither mount nor copy can be made and executed.
pub fn ensure() -> Result<()> {
    let own = File::open(OWN_BINARY).attempt(Stage::Namespaces, || format!("open {OWN_BINARY}"))?;
    if is_out_of_reach(&own) {
        // It would be called by its descriptor's number otherwise.
        let _ = rustix::thread::set_name(c"plywood");
        return Ok(());
    }
    let binary = match read_only(&own) {
        Ok(mount) => mount,
        Err(error) => {
            tracing::debug!("no read-only mount of plywood's binary: {error}");
            sealed_copy(own).attempt(Stage::Namespaces, || "copy plywood into memory".to_owned())?
        }
    };
    let args = c_strings(std::env::args_os())?;
    let env = c_strings(std::env::vars_os().map(|(mut key, value)| {
        key.push("=");
        key.push(value);
        key
    }))?;
    match nix::unistd::fexecve(&binary, &args, &env) {
        Ok(never) => match never {},
        Err(error) => Err(Error::system(
            Stage::Namespaces,
            "execute plywood's binary once more",
            error,
        )),
    }
}

fn is_out_of_reach(own: &File) -> bool {
    let is_copy = || rustix::fs::fcntl_get_seals(own).is_ok_and(|seals| seals.contains(SEALS));
    // A file that is a mount's root has this name, seen from nowhere.
    let is_alone = || std::fs::read_link(OWN_BINARY).is_ok_and(|name| name == Path::new("/"));
    let refuses = || rustix::fs::fstatvfs(own).is_ok_and(|mount| mount.f_flag.contains(REFUSES));
    (refuses() && is_alone()) || is_copy()
}

/// A mount of the file alone. It lies nowhere when its last descriptor is closed, which execve does.
fn read_only(own: &File) -> std::io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    let mount = rustix::mount::open_tree(own, "", flags)?;
    mount_setattr::add_flags(mount.as_fd(), REFUSED, false)?;
    Ok(mount)
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
