//! close_range(2): nothing that plywood has open follows a command into its container.
#![allow(unsafe_code, reason = "the system call has no safe wrapper")]

use std::io;

/// Closes the descriptors `first..=last`. Only for a process that will never
/// use nor drop an owner of one of them: a child that ends in execve or `_exit`.
///
/// # Errors
/// The kernel's.
pub fn close(first: u32, last: u32) -> io::Result<()> {
    close_range(first, last, 0)
}

/// Marks the descriptors `first..=last` to be closed by execve.
///
/// # Errors
/// The kernel's.
pub fn close_on_exec(first: u32, last: u32) -> io::Result<()> {
    close_range(first, last, libc::CLOSE_RANGE_CLOEXEC)
}

fn close_range(first: u32, last: u32, flags: libc::c_uint) -> io::Result<()> {
    // SAFETY: takes numbers only; no memory is passed.
    let outcome = unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) };
    if outcome == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
