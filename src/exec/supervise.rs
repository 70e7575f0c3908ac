//! Watching the command: its end, the signals for it, its terminal.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::PidfdFlags;

use super::error::{Attempt, Error, Result, Stage};
use super::terminal::Relay;

/// Signals to plywood that are meant for the command.
const FORWARDED: [Signal; 6] = [
    Signal::SIGINT,
    Signal::SIGTERM,
    Signal::SIGHUP,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
];

/// The signals that plywood passes on, taken as descriptor reads until dropped.
#[derive(Debug)]
pub(super) struct Signals {
    before: SigSet,
    source: SignalFd,
}

impl Signals {
    /// Blocks them for this thread and opens the descriptor.
    pub(super) fn take() -> Result<Self> {
        let mut set = SigSet::empty();
        FORWARDED
            .into_iter()
            .chain([Signal::SIGWINCH])
            .for_each(|signal| set.add(signal));
        let at = || "take over the signals".to_owned();
        let source = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
            .attempt(Stage::Supervision, at)?;
        let before = set
            .thread_swap_mask(SigmaskHow::SIG_BLOCK)
            .attempt(Stage::Supervision, at)?;
        Ok(Self { before, source })
    }

    /// The signal that has asked the command to end before it began, where one has.
    pub(super) fn early_end(&self) -> Option<Signal> {
        std::iter::from_fn(|| self.next()).find(|signal| FORWARDED.contains(signal))
    }

    /// The next one that has come; none where none has.
    pub(super) fn next(&self) -> Option<Signal> {
        let info = self.source.read_signal().ok().flatten()?;
        Signal::try_from(i32::try_from(info.ssi_signo).ok()?).ok()
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.source.as_fd()
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        // One that came too late for the command must not end plywood before it has recorded the end.
        while self.next().is_some() {}
        if let Err(error) = self.before.thread_set_mask() {
            tracing::warn!("cannot unblock signals: {error}");
        }
    }
}

/// The container's first process. Dropping it kills the container.
#[derive(Debug)]
pub(super) struct Child {
    pid: Pid,
    handle: OwnedFd,
    code: std::cell::Cell<Option<i32>>,
}

impl Child {
    /// The child `pid`, which nobody has waited for.
    pub(super) fn new(pid: Pid) -> Result<Self> {
        let opened = rustix::process::Pid::from_raw(pid.as_raw())
            .ok_or(Errno::SRCH)
            .and_then(|pid| rustix::process::pidfd_open(pid, PidfdFlags::empty()));
        match opened {
            Ok(handle) => Ok(Self {
                pid,
                handle,
                code: std::cell::Cell::new(None),
            }),
            Err(error) => {
                // It has not been released, so nothing has run.
                let _ = nix::sys::signal::kill(pid, Signal::SIGKILL);
                let _ = waitpid(pid, None);
                Err(Error::system(
                    Stage::Supervision,
                    "get a handle on the container's process",
                    error,
                ))
            }
        }
    }

    /// Its number, as the host sees it.
    pub(super) fn pid(&self) -> u32 {
        self.pid.as_raw().unsigned_abs()
    }

    /// Waits for its end and gives its exit code, 128+n for signal n.
    pub(super) fn wait(&self) -> Result<i32> {
        if let Some(code) = self.code.get() {
            return Ok(code);
        }
        let code = loop {
            match waitpid(self.pid, None) {
                Ok(WaitStatus::Exited(_, code)) => break code,
                Ok(WaitStatus::Signaled(_, signal, _)) => break 128 + signal as i32,
                Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                Err(error) => return Err(Error::system(Stage::Supervision, "wait for the container", error)),
            }
        };
        self.code.set(Some(code));
        Ok(code)
    }

    /// Sends it a signal.
    pub(super) fn signal(&self, signal: Signal) {
        // Gone already, or a first process that ignores it: both are as the user would expect.
        if let Err(error) = nix::sys::signal::kill(self.pid, signal) {
            tracing::debug!(%signal, "cannot pass on: {error}");
        }
    }
}

impl AsFd for Child {
    /// Readable when it has ended.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.handle.as_fd()
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if self.code.get().is_none() {
            self.signal(Signal::SIGKILL);
            if let Err(error) = self.wait() {
                tracing::warn!("cannot reap the container: {error}");
            }
        }
    }
}

/// What a signal to plywood means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OnSignal {
    /// It is passed on.
    Pass,
    /// The command is to end now, whatever it is doing.
    End,
}

/// Relays terminal and signals until the command ends; gives its exit code.
pub(super) fn watch(
    child: &Child,
    signals: &Signals,
    on_signal: OnSignal,
    mut relay: Option<Relay<'_>>,
) -> Result<i32> {
    let mut asked = None;
    loop {
        let (ended, signalled) = {
            let mut watched = vec![PollFd::new(child, PollFlags::IN), PollFd::new(signals, PollFlags::IN)];
            let mut patience = None;
            if let Some(relay) = &relay {
                relay.watch(&mut watched);
                patience = relay.patience();
            }
            match poll(&mut watched, patience.as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(Error::system(Stage::Supervision, "watch the container", error)),
            }
            let mut ready = watched.iter().map(|watched| !watched.revents().is_empty());
            (ready.next().unwrap_or_default(), ready.next().unwrap_or_default())
        };
        if signalled {
            while let Some(signal) = signals.next() {
                match (&relay, signal) {
                    (Some(relay), Signal::SIGWINCH) => relay.resize(),
                    (None, Signal::SIGWINCH) => {}
                    (_, signal) if on_signal == OnSignal::End => {
                        asked.get_or_insert(signal);
                        child.signal(Signal::SIGKILL);
                    }
                    (_, signal) => child.signal(signal),
                }
            }
        }
        if let Some(relay) = &mut relay {
            relay.pass_on()?;
        }
        if ended {
            let code = child.wait()?;
            // All writers are dead: what the terminal still holds is all there is.
            if let Some(relay) = &mut relay {
                relay.drain()?;
            }
            return Ok(asked.map_or(code, |signal| 128 + signal as i32));
        }
    }
}

/// Shorthand for the relay's waiting times.
pub(super) fn milliseconds(milliseconds: u32) -> Timespec {
    Timespec {
        tv_sec: i64::from(milliseconds / 1000),
        tv_nsec: i64::from(milliseconds % 1000) * 1_000_000,
    }
}
