//! keyctl(2): a session keyring of a process's own.
#![allow(unsafe_code, reason = "the system call has no safe wrapper")]

use std::io;

/// Leaves the session keyring that was inherited for a new, empty one.
///
/// # Errors
/// `ENOSYS` where the kernel has no keyrings.
pub fn join_new_session() -> io::Result<()> {
    let no_name: *const libc::c_char = std::ptr::null();
    // SAFETY: a null name asks for a nameless keyring; no memory is passed.
    let outcome = unsafe { libc::syscall(libc::SYS_keyctl, libc::KEYCTL_JOIN_SESSION_KEYRING, no_name) };
    if outcome >= 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
