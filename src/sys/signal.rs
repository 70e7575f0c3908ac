//! signal(2): what an ignored signal is to a command that plywood starts.
#![allow(
    unsafe_code,
    reason = "setting a disposition can install a handler; here it never does"
)]

/// Gives every signal its default action: execve resets handlers, but a signal
/// that plywood ignores (a Rust program ignores SIGPIPE) would stay ignored.
pub fn default_all() {
    for signal in 1..=libc::SIGRTMAX() {
        // SAFETY: SIG_DFL installs no code; numbers that cannot be set are refused by the kernel.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
}
