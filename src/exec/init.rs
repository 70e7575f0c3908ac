//! `--init`: a first process that does what a first process must, for commands that
//! do not: it buries orphans, and passes signals on.
//!
//! It is plywood itself, out of reach ([`super::sealed`]), as confined as the command: same user,
//! capabilities, filter and limits. The command is its child, in the foreground of
//! the terminal if there is one.

use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::error::{Attempt, Result, Stage};
use super::leave::{self, FIRST_OTHER};
use crate::sys::{close_range, fork};

/// Runs `command` in a child, which gives its exit code where it was not executed; gives the code of its end.
pub(super) fn run(terminal: bool, command: impl FnOnce() -> i32) -> Result<i32> {
    SigSet::all()
        .thread_block()
        .attempt(Stage::Namespaces, || "block signals".to_owned())?;
    let child = fork::fork(
        || match go_to_foreground(terminal).and_then(|()| leave::unblock_signals()) {
            Ok(()) => command(),
            Err(error) => error.exit_code(),
        },
    );
    let child = child.attempt(Stage::Namespaces, || "fork the command".to_owned())?;
    // Open here, the channel would hide that the command was executed.
    close_range::close(FIRST_OTHER, u32::MAX).attempt(Stage::Namespaces, || "close descriptors".to_owned())?;
    Ok(stay(child))
}

/// A process group of its own, which the terminal's keys reach.
fn go_to_foreground(terminal: bool) -> Result<()> {
    let at = || "put the command into the foreground".to_owned();
    nix::unistd::setpgid(Pid::from_raw(0), Pid::from_raw(0)).attempt(Stage::Terminal, at)?;
    if terminal {
        // SIGTTOU, which this would raise from the background, is blocked still.
        nix::unistd::tcsetpgrp(std::io::stdin(), nix::unistd::getpid()).attempt(Stage::Terminal, at)?;
    }
    Ok(())
}

/// Until the command has ended.
fn stay(child: Pid) -> i32 {
    let all = SigSet::all();
    loop {
        match all.wait() {
            Ok(Signal::SIGCHLD) => {
                if let Some(code) = bury(child) {
                    return code;
                }
            }
            // It may be gone by now: SIGCHLD comes next.
            Ok(signal) => drop(kill(child, signal)),
            Err(_) => {}
        }
    }
}

/// Waits for all that have ended; the command's code where it is among them.
fn bury(child: Pid) -> Option<i32> {
    let mut code = None;
    loop {
        let (pid, ended) = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, ended)) => (pid, ended),
            Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, 128 + signal as i32),
            Err(nix::errno::Errno::EINTR) => continue,
            Ok(_) | Err(_) => return code,
        };
        if pid == child {
            code = Some(ended);
        }
    }
}
