//! seccomp(2): a filter for this thread's system calls. `seccompiler` has a
//! loader, but one that always sets `no_new_privs`.
#![allow(unsafe_code, reason = "the system call has no safe wrapper")]

use std::io;

use seccompiler::sock_filter;

/// Loads `program`; with `log`, the kernel's log names what it refuses.
///
/// # Errors
/// `EACCES` without `no_new_privs` and without `CAP_SYS_ADMIN`; `EINVAL` for what is no program, or where the
/// kernel has no filters.
pub fn load(program: &[sock_filter], log: bool) -> io::Result<()> {
    let length = u16::try_from(program.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let program = libc::sock_fprog {
        len: length,
        filter: program.as_ptr().cast_mut().cast(),
    };
    let flags = if log { libc::SECCOMP_FILTER_FLAG_LOG } else { 0 };
    // SAFETY: the kernel copies `length` instructions; the crate's are laid out as the kernel's (`repr(C)`).
    let outcome = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            flags,
            &raw const program,
        )
    };
    if outcome == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
