//! fork(2), through the C library: it leaves the allocator usable in the child,
//! which a bare clone would not where another thread (an index's, a progress
//! bar's) holds its lock.
#![allow(unsafe_code, reason = "fork returns twice")]

use std::io;

use nix::unistd::{ForkResult, Pid};

/// Runs `child` in a new process, which ends with the code that it returns and
/// runs nothing else of this one: no destructor, no exit handler.
///
/// # Errors
/// The kernel's: out of processes or memory.
pub fn fork(child: impl FnOnce() -> i32) -> io::Result<Pid> {
    // SAFETY: the child runs `child` and ends; it never returns into the caller's frames.
    match unsafe { nix::unistd::fork() }? {
        ForkResult::Parent { child } => Ok(child),
        ForkResult::Child => {
            // A panic must not unwind into frames that the parent owns.
            let code = std::panic::catch_unwind(std::panic::AssertUnwindSafe(child)).unwrap_or(125);
            // SAFETY: ends this process at once; takes a number only.
            unsafe { libc::_exit(code) }
        }
    }
}
