//! signal(2): what an ignored signal is to a command that plywood starts; and
//! pidfd_send_signal(2) with any number, for real-time signals have no names here.
#![allow(
    unsafe_code,
    reason = "setting a disposition can install a handler; here it never does. And a system call"
)]

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// Gives every signal its default action: execve resets handlers, but a signal
/// that plywood ignores (a Rust program ignores SIGPIPE) would stay ignored.
pub fn default_all() {
    for signal in 1..=libc::SIGRTMAX() {
        // SAFETY: SIG_DFL installs no code; numbers that cannot be set are refused by the kernel.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
}

/// Sends the process that `handle` is a signal.
///
/// # Errors
/// The kernel's: it is gone, or there is no such signal.
pub fn send(handle: impl AsFd, number: i32) -> io::Result<()> {
    let handle = handle.as_fd().as_raw_fd();
    let none = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: numbers, and no siginfo: the kernel reads and writes nothing of ours.
    match unsafe { libc::syscall(libc::SYS_pidfd_send_signal, handle, number, none, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
