//! The command's standard streams: the given ones, or a terminal of the container's own.

use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::fs::Uid;

use super::error::{Attempt, Result, Stage};
use super::spec::Spec;
use super::user::User;
use crate::explain;

/// Where a container's terminals and its null device come from.
pub(super) trait Devices {
    /// A new terminal, which belongs to `owner`: master, slave.
    fn open_terminal(&self, owner: Uid) -> Result<(OwnedFd, OwnedFd)>;

    /// The null device.
    fn open_null(&self) -> Result<OwnedFd>;
}

/// The given streams, moved out of the way of 0, 1 and 2.
pub(super) struct OwnStreams {
    stdin: OwnedFd,
    stdout: OwnedFd,
    stderr: OwnedFd,
}

/// The command's streams, and its terminal's other end.
pub(super) struct Arranged {
    stdin: OwnedFd,
    stdout: OwnedFd,
    stderr: OwnedFd,
    /// The terminal's master, for the parent.
    pub(super) master: Option<OwnedFd>,
}

impl OwnStreams {
    /// Of these.
    pub(super) fn copy(streams: super::Streams<'_>) -> Result<Self> {
        let copy = |stream: BorrowedFd<'_>| {
            stream
                .try_clone_to_owned()
                .attempt(Stage::Namespaces, || "copy a stream".to_owned())
        };
        Ok(Self {
            stdin: copy(streams.stdin)?,
            stdout: copy(streams.stdout)?,
            stderr: copy(streams.stderr)?,
        })
    }

    /// As `spec` wants them.
    pub(super) fn arrange(self, spec: &Spec, devices: &impl Devices, user: &User) -> Result<Arranged> {
        if spec.terminal {
            let (master, slave) = devices.open_terminal(Uid::from_raw(user.host_uid(spec.ids)))?;
            rustix::process::ioctl_tiocsctty(&slave)
                .attempt(Stage::Terminal, || "make it the session's terminal".to_owned())?;
            let copy = || {
                slave
                    .try_clone()
                    .attempt(Stage::Terminal, || "copy a stream".to_owned())
            };
            return Ok(Arranged {
                stdin: copy()?,
                stdout: copy()?,
                stderr: slave,
                master: Some(master),
            });
        }
        let stdin = if spec.stdin { self.stdin } else { devices.open_null()? };
        for (name, stream) in [("stdin", &stdin), ("stdout", &self.stdout), ("stderr", &self.stderr)] {
            give_pipe(name, stream, user.host_uid(spec.ids))?;
        }
        Ok(Arranged {
            stdin,
            stdout: self.stdout,
            stderr: self.stderr,
            master: None,
        })
    }
}

/// Lets another user than plywood's open `/dev/stdout` and the like where they are pipes without a name.
fn give_pipe(name: &str, stream: &OwnedFd, owner: u32) -> Result<()> {
    const PIPEFS_MAGIC: rustix::fs::FsWord = 0x5049_5045;
    let at = || "give a pipe to the user".to_owned();
    if owner == 0 || rustix::fs::fstatfs(stream).attempt(Stage::Namespaces, at)?.f_type != PIPEFS_MAGIC {
        return Ok(());
    }
    explain::step(|| format!("chown {owner} /dev/{name}"));
    rustix::fs::fchown(stream, Some(Uid::from_raw(owner)), None).attempt(Stage::Namespaces, at)
}

impl Arranged {
    /// Makes them 0, 1 and 2.
    pub(super) fn take_places(&self) -> Result<()> {
        let at = || "connect the streams".to_owned();
        nix::unistd::dup2_stdin(&self.stdin).attempt(Stage::Namespaces, at)?;
        nix::unistd::dup2_stdout(&self.stdout).attempt(Stage::Namespaces, at)?;
        nix::unistd::dup2_stderr(&self.stderr).attempt(Stage::Namespaces, at)
    }
}
