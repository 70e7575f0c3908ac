//! Threads beside the one that builds: no signal is theirs.
//!
//! Who runs a command holds its signals back, to pass them on. The kernel gives a signal to any thread that does not:
//! one that did not would end plywood by Ctrl-C, and the command's record and snapshot would stay until the next one.

use nix::sys::signal::{SigSet, SigmaskHow};

/// Starts threads that no signal reaches.
pub(super) fn deaf<T>(start: impl FnOnce() -> T) -> T {
    let before = SigSet::all().thread_swap_mask(SigmaskHow::SIG_BLOCK);
    let started = start();
    // Neither can fail for a set that is one.
    if let Err(error) = before.and_then(|before| before.thread_set_mask()) {
        tracing::warn!("cannot let signals through again: {error}");
    }
    started
}
