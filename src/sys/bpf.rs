//! bpf(2): loading a program for a cgroup's devices, and attaching it.
#![allow(unsafe_code, reason = "the system call has no safe wrapper")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

/// `BPF_PROG_LOAD` and `BPF_PROG_ATTACH` of linux/bpf.h.
const PROG_LOAD: libc::c_long = 5;
const PROG_ATTACH: libc::c_long = 8;
/// `BPF_PROG_TYPE_CGROUP_DEVICE`.
const TYPE_CGROUP_DEVICE: u32 = 15;
/// `BPF_CGROUP_DEVICE`.
const ATTACH_CGROUP_DEVICE: u32 = 6;
/// `BPF_F_ALLOW_MULTI`: beside other programs, all of which must allow what is to be allowed.
const ALLOW_MULTI: u32 = 2;

/// What `PROG_LOAD` reads of `union bpf_attr`, as far as it must be told.
#[repr(C)]
struct Load {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
}

/// What `PROG_ATTACH` reads of it.
#[repr(C)]
struct Attach {
    target: u32,
    program: u32,
    kind: u32,
    flags: u32,
}

/// Loads `program`, an instruction in each number as `struct bpf_insn` lies in memory.
///
/// # Errors
/// `EINVAL` for what the kernel's verifier refuses, or where it has no such programs; `ENOSYS`, `EPERM`.
pub fn load_for_devices(program: &[u64]) -> io::Result<OwnedFd> {
    let count = u32::try_from(program.len()).map_err(io::Error::other)?;
    let attributes = Load {
        kind: TYPE_CGROUP_DEVICE,
        count,
        instructions: program.as_ptr() as u64,
        license: c"".as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel_version: 0,
        flags: 0,
    };
    let size = size_of::<Load>();
    // SAFETY: the structure, the `count` instructions and the license that it points at live through the call.
    let handle = unsafe { libc::syscall(libc::SYS_bpf, PROG_LOAD, &raw const attributes, size) };
    match i32::try_from(handle) {
        // SAFETY: a new descriptor, which nobody else has.
        Ok(handle) if handle >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(handle) }),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Attaches a program of [`load_for_devices`] to the cgroup v2 folder `cgroup`, with which it goes.
///
/// # Errors
/// The kernel's.
pub fn attach_to_devices(program: impl AsFd, cgroup: impl AsFd) -> io::Result<()> {
    let number = |handle: &dyn AsRawFd| u32::try_from(handle.as_raw_fd()).map_err(io::Error::other);
    let attributes = Attach {
        target: number(&cgroup.as_fd())?,
        program: number(&program.as_fd())?,
        kind: ATTACH_CGROUP_DEVICE,
        flags: ALLOW_MULTI,
    };
    let size = size_of::<Attach>();
    // SAFETY: the structure lives through the call, which keeps nothing of it.
    match unsafe { libc::syscall(libc::SYS_bpf, PROG_ATTACH, &raw const attributes, size) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
