//! A run's failures: on which stage, what was attempted, and the kernel's answer.
//!
//! They have exit codes of their own, and cross a process boundary: the child
//! meets most of them, the parent tells them.

use std::io;

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

/// A run's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Plywood failed before the command could be tried.
pub const CODE_FAILED: i32 = 125;
/// The command is there and cannot be executed.
pub const CODE_NOT_EXECUTABLE: i32 = 126;
/// There is no such command.
pub const CODE_NOT_FOUND: i32 = 127;

/// How far a run had come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Stage {
    /// What was asked for cannot be.
    Request,
    /// The new process and its namespaces.
    Namespaces,
    /// Limits of memory, processors and processes.
    Limits,
    /// Getting into the root filesystem.
    Root,
    /// Mounts, devices and files that plywood puts into it.
    Mounts,
    /// The terminal.
    Terminal,
    /// User, groups, capabilities.
    User,
    /// The command itself.
    Command,
    /// Watching it.
    Supervision,
}

/// A failure of a run.
#[derive(Debug)]
pub struct Error {
    stage: Stage,
    attempt: String,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
    errno: Option<i32>,
}

impl Error {
    /// A failure without an answer of the kernel's; `attempt` is fit to follow "cannot".
    pub fn new(stage: Stage, attempt: impl Into<String>) -> Self {
        Self {
            stage,
            attempt: attempt.into(),
            source: None,
            errno: None,
        }
    }

    /// A failure of a system call.
    pub fn system(stage: Stage, attempt: impl Into<String>, source: impl Into<io::Error>) -> Self {
        let source = source.into();
        Self {
            stage,
            attempt: attempt.into(),
            errno: source.raw_os_error(),
            source: Some(Box::new(source)),
        }
    }

    /// How far the run had come.
    pub fn stage(&self) -> Stage {
        self.stage
    }

    /// The kernel's answer, where it gave one.
    pub fn errno(&self) -> Option<Errno> {
        self.errno.map(Errno::from_raw_os_error)
    }

    /// Whether it is certain that the command never ran, and that it was not the command that failed.
    pub fn is_before_command(&self) -> bool {
        !matches!(self.stage, Stage::Command | Stage::Supervision)
    }

    /// What `plywood run` ends with.
    pub fn exit_code(&self) -> i32 {
        match (self.stage, self.errno()) {
            (Stage::Command, Some(Errno::NOENT | Errno::NOTDIR) | None) => CODE_NOT_FOUND,
            (Stage::Command, Some(_)) => CODE_NOT_EXECUTABLE,
            _ => CODE_FAILED,
        }
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "cannot {}", self.attempt)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.source {
            Some(source) => Some(source.as_ref()),
            None => None,
        }
    }
}

impl From<crate::error::Error> for Error {
    /// The verb's own failure, met while the command waited to start.
    fn from(error: crate::error::Error) -> Self {
        Self {
            stage: Stage::Supervision,
            attempt: "start the command".to_owned(),
            source: Some(Box::new(error)),
            errno: None,
        }
    }
}

/// Names stage and attempt on a system call's result.
pub(super) trait Attempt<T> {
    /// `attempt` is fit to follow "cannot".
    fn attempt(self, stage: Stage, attempt: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<io::Error>> Attempt<T> for std::result::Result<T, E> {
    fn attempt(self, stage: Stage, attempt: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|source| Error::system(stage, attempt(), source))
    }
}

/// An [`Error`] as the child sends it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Wire {
    stage: Stage,
    attempt: String,
    errno: Option<i32>,
}

impl From<Error> for Wire {
    fn from(error: Error) -> Self {
        Self {
            stage: error.stage,
            attempt: error.attempt,
            errno: error.errno,
        }
    }
}

impl From<Wire> for Error {
    fn from(wire: Wire) -> Self {
        match wire.errno {
            Some(code) => Self::system(wire.stage, wire.attempt, io::Error::from_raw_os_error(code)),
            None => Self::new(wire.stage, wire.attempt),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_follow_the_shell() {
        for (stage, errno, code) in [
            (Stage::Command, Some(Errno::NOENT), 127),
            (Stage::Command, Some(Errno::NOTDIR), 127),
            (Stage::Command, None, 127),
            (Stage::Command, Some(Errno::ACCESS), 126),
            (Stage::Command, Some(Errno::NOEXEC), 126),
            (Stage::Mounts, Some(Errno::NOENT), 125),
            (Stage::User, None, 125),
        ] {
            let error = match errno {
                Some(errno) => Error::system(stage, "x", errno),
                None => Error::new(stage, "x"),
            };
            assert_eq!(error.exit_code(), code, "{stage:?} {errno:?}");
            let crossed = Error::from(Wire::from(error));
            assert_eq!(
                (crossed.stage(), crossed.errno(), crossed.exit_code()),
                (stage, errno, code)
            );
        }
    }
}
