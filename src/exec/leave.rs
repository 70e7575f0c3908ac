//! What a container's process lets go of first: plywood's descriptors, signals, session.

use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::fs::Mode;
use rustix::process::{DumpableBehavior, Signal};

use super::error::{Attempt, Result, Stage};
use super::rlimit;
use super::spec::Spec;
use crate::sys::{close_range, signal};

/// The lowest descriptor that is not a standard stream.
pub(super) const FIRST_OTHER: u32 = 3;

/// Nothing of plywood's is left but standard error, for `--explain`, and `keep`.
pub(super) fn the_host(keep: &[BorrowedFd<'_>], spec: &Spec) -> Result<()> {
    close_all_but(keep)?;
    signal::default_all();
    unblock_signals()?;
    die_with_parent()?;
    rlimit::set_oom_score(spec.oom_score)?;
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .attempt(Stage::Namespaces, || "forbid tracing".to_owned())?;
    rustix::process::setsid().attempt(Stage::Namespaces, || "start a session".to_owned())?;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    Ok(())
}

/// Where plywood dies, this dies too.
pub(super) fn die_with_parent() -> Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .attempt(Stage::Namespaces, || "tie the container to plywood".to_owned())
}

/// What the host knows stays the host's, and the end with plywood: a change of user takes both back.
pub(super) fn stay_hidden() -> Result<()> {
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .attempt(Stage::Namespaces, || "forbid tracing".to_owned())?;
    die_with_parent()
}

/// Closes everything but standard error, for `--explain`, and `keep`.
pub(super) fn close_all_but(keep: &[BorrowedFd<'_>]) -> Result<()> {
    let mut keep: Vec<u32> = keep
        .iter()
        .filter_map(|handle| u32::try_from(handle.as_raw_fd()).ok())
        .collect();
    keep.sort_unstable();
    let at = || "close descriptors".to_owned();
    let mut first = FIRST_OTHER;
    for kept in keep.into_iter().filter(|kept| *kept >= FIRST_OTHER) {
        if kept > first {
            close_range::close(first, kept - 1).attempt(Stage::Namespaces, at)?;
        }
        first = first.max(kept + 1);
    }
    close_range::close(first, u32::MAX).attempt(Stage::Namespaces, at)
}

/// Lets every signal through.
pub(super) fn unblock_signals() -> Result<()> {
    let none = nix::sys::signal::SigSet::empty();
    none.thread_set_mask()
        .attempt(Stage::Namespaces, || "unblock signals".to_owned())
}
