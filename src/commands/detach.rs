//! A container that goes on by itself: what of plywood stays with it, and who waits for it to begin.
//!
//! The verb forks right away, and everything from the container's record to its
//! removal happens in the new process, the monitor, so that no lock, intent or
//! mount changes hands. The process that was called hears over a socket that the
//! command runs; until then the monitor has its standard error, and its exit code.

use std::cell::Cell;
use std::io::IsTerminal;
use std::path::PathBuf;

use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use plywood_store::Store;

use crate::commands::Session;
use crate::commands::container;
use crate::error::{Context, Result};
use crate::exec::attach::{Attended, Client, Wishes};
use crate::exec::monitor::Monitor;
use crate::exec::{self, Streams};
use crate::failure::{BEFORE_COMMAND, Failure, Outcome};
use crate::sys::fork;

/// Where monitors listen.
const SOCKETS: &str = "/run/plywood";

/// A container whose command runs.
#[derive(Debug)]
pub struct Started {
    client: Client,
    monitor: Pid,
}

/// Runs `body` in a monitor's process; returns when the container's command runs.
///
/// # Errors
/// What kept it from running, which the monitor has told already.
pub fn start(session: &Session, body: impl FnOnce(&mut Monitor) -> Outcome) -> Result<Started, Failure> {
    let (ours, theirs) = Monitor::pair().map_err(container::failure)?;
    let (ours, theirs) = (Cell::new(Some(ours)), Cell::new(Some(theirs)));
    let forked = fork::fork(|| {
        // Open here, our end would hide that the other process is gone.
        drop(ours.take());
        theirs.take().map_or(i32::from(BEFORE_COMMAND), |socket| {
            i32::from(be_monitor(session, Monitor::new(socket), body))
        })
    });
    let monitor = forked
        .context("fork", "the monitor")
        .map_err(container::before_command)?;
    drop(theirs.take());
    let Some(socket) = ours.take() else {
        return Err(Failure::told(BEFORE_COMMAND));
    };
    let client = Client::new(socket);
    match client.wait_for_start().map_err(container::failure)? {
        true => Ok(Started { client, monitor }),
        false => Err(Failure::told(wait(monitor))),
    }
}

/// The monitor's whole life; gives its exit code.
fn be_monitor(session: &Session, mut monitor: Monitor, body: impl FnOnce(&mut Monitor) -> Outcome) -> u8 {
    // It fails only where this process leads a session already.
    let _ = rustix::process::setsid();
    let outcome = body(&mut monitor);
    let (code, report) = match &outcome {
        Ok(code) => (*code, None),
        Err(failure) => (failure.code(), failure.report()),
    };
    let told: Vec<String> = session.output.gathered().into_iter().chain(report).collect();
    match monitor.has_started() {
        true => monitor.farewell(code, &told.join("\n")),
        false => told.iter().for_each(|told| session.output.error(told)),
    }
    code
}

fn wait(monitor: Pid) -> u8 {
    loop {
        match waitpid(monitor, None) {
            Ok(WaitStatus::Exited(_, code)) => return u8::try_from(code).unwrap_or(BEFORE_COMMAND),
            Ok(WaitStatus::Signaled(..)) => return BEFORE_COMMAND,
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(_) => return BEFORE_COMMAND,
        }
    }
}

impl Started {
    /// Stays with it at this terminal, until it ends or the keys for leaving are typed.
    ///
    /// # Errors
    /// As for `plywood run`.
    pub fn attend(self, session: &Session, wishes: Wishes<'_>) -> Outcome {
        let attended = self.client.attend(Streams::own(), wishes);
        let code = tell(session, attended)?;
        // What comes after the last word: the record's lock and the folder in /run.
        if code.is_some() {
            wait(self.monitor);
        }
        Ok(code.unwrap_or_default())
    }
}

/// Says how it ended; gives the exit code, none for a container that goes on.
///
/// # Errors
/// Where the monitor is gone, or a stream failed.
pub fn tell(session: &Session, attended: exec::Result<Attended>) -> Result<Option<u8>, Failure> {
    match attended.map_err(container::failure)? {
        Attended::Ended { code, told } => {
            if !told.is_empty() {
                session.output.error(told);
            }
            Ok(Some(code))
        }
        Attended::Detached => {
            session.output.note("detached: the container goes on");
            Ok(None)
        }
        Attended::Lost => Err(container::before_command(
            crate::error::Error::not_found("the container's monitor is gone, and the container with it")
                .hinted("plywood ps -a shows what is left; plywood start runs it again"),
        )),
    }
}

/// Whether a person sits at this process's terminal.
pub fn is_person() -> bool {
    std::io::stdin().is_terminal()
}

/// The socket of a container's monitor.
///
/// # Errors
/// Where its folder cannot be made.
pub fn socket(store: &Store, id: &str) -> Result<PathBuf> {
    use std::os::unix::fs::DirBuilderExt;
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(SOCKETS);
    made.context("make", SOCKETS)?;
    Ok(PathBuf::from(SOCKETS).join(container::cgroup_name(store, id)))
}

/// The names of the sockets that begin so.
///
/// # Errors
/// Where their folder cannot be listed.
pub fn sockets(prefix: &str) -> Result<Vec<String>> {
    let entries = match std::fs::read_dir(SOCKETS) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.context("list", SOCKETS)?,
    };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    Ok(names.filter(|name| name.starts_with(prefix)).collect())
}

/// Removes the socket `name`, at which nobody listens any more; not there is as good.
///
/// # Errors
/// Where it stays.
pub fn remove_socket(name: &str) -> Result<()> {
    let path = PathBuf::from(SOCKETS).join(name);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        removed => removed.context("remove", &path),
    }
}

/// The keys for leaving, as bytes.
///
/// # Errors
/// Invalid where they cannot be understood.
pub fn detach_keys(text: &str) -> Result<Vec<u8>> {
    let bad = || {
        crate::error::Error::invalid(format!("cannot understand the keys {text:?}"))
            .hinted("write them like ctrl-p,ctrl-q or a,b, or nothing for none")
    };
    let key = |word: &str| match (word.strip_prefix("ctrl-").map(str::as_bytes), word.as_bytes()) {
        (Some([byte @ (b'a'..=b'z' | b'@' | b'[' | b'\\' | b']' | b'^' | b'_')]), _) => {
            Ok(byte.to_ascii_uppercase() - b'@')
        }
        (None, [byte]) => Ok(*byte),
        _ => Err(bad()),
    };
    if text.is_empty() {
        return Ok(Vec::new());
    }
    text.split(',').map(key).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_for_leaving_are_understood() {
        assert_eq!(detach_keys("ctrl-p,ctrl-q").unwrap(), [16, 17]);
        assert_eq!(detach_keys("ctrl-@,x,ctrl-_").unwrap(), [0, b'x', 31]);
        assert_eq!(detach_keys("").unwrap(), b"");
        for bad in [",", "ctrl-", "ctrl-1", "ab", "ctrl-pq", "a,"] {
            assert!(detach_keys(bad).is_err(), "{bad}");
        }
    }
}
