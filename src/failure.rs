//! From a failure to what the user sees of it: exit code, cause chain, hint.
//!
//! The one place that prints an error. Text goes to stderr as `Error:`, then
//! `Caused by:` for each cause, then `Hint:`; no stack traces.

use std::fmt::Write as _;

use plywood_store::error::{Error, Kind};

use crate::output::Output;

/// Done.
pub const OK: u8 = 0;
/// It failed.
pub const FAILED: u8 = 1;
/// It was called wrongly.
pub const USAGE: u8 = 2;
/// `run` and `start`: plywood failed before the command ran.
pub const BEFORE_COMMAND: u8 = 125;

/// A verb's failure.
#[derive(Debug)]
pub struct Failure {
    code: u8,
    silent: bool,
    /// Its own lines are lines: nothing foreign is in it that could fake one.
    in_lines: bool,
    error: Box<dyn std::error::Error + Send + Sync>,
    hint: Option<String>,
}

/// A verb's result: what it gives as exit code.
pub type Outcome = Result<u8, Failure>;

impl Failure {
    /// Wrong usage that clap cannot see.
    pub fn usage(message: impl Into<String>) -> Self {
        let mut failure = Self::from(Error::invalid(message));
        failure.code = USAGE;
        failure
    }

    /// A failure that was told already: only its exit code is left.
    pub fn told(code: u8) -> Self {
        Self {
            code,
            silent: true,
            ..Self::from(Error::invalid("not everything was done"))
        }
    }

    /// The same failure under another exit code.
    #[must_use]
    pub fn with_code(mut self, code: u8) -> Self {
        self.code = code;
        self
    }

    /// A failure of another room's error type.
    pub fn of(error: impl std::error::Error + Send + Sync + 'static, code: u8, hint: Option<String>) -> Self {
        Self {
            code,
            silent: false,
            in_lines: false,
            error: Box::new(error),
            hint,
        }
    }

    /// The same failure, whose text has several lines.
    #[must_use]
    pub fn in_lines(mut self) -> Self {
        self.in_lines = true;
        self
    }

    /// The same failure with what the user can do next.
    #[must_use]
    pub fn hinted(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// What the user can do next, where that is known.
    pub fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// What failed.
    pub fn error(&self) -> &(dyn std::error::Error + 'static) {
        self.error.as_ref()
    }

    /// The exit code.
    pub fn code(&self) -> u8 {
        self.code
    }

    /// What to print, or nothing for a failure that explains itself (a closed pipe).
    pub fn report(&self) -> Option<String> {
        if self.silent {
            return None;
        }
        let told = self.error.to_string();
        let mut text = match self.in_lines {
            true => told.lines().map(legible).collect::<Vec<_>>().join("\n"),
            false => legible(&told),
        };
        text.insert_str(0, "Error: ");
        let mut told = self.error.to_string();
        let mut source = self.error.source();
        while let Some(cause) = source {
            let line = cause.to_string();
            // A cause that only repeats what was said teaches nothing.
            if !told.ends_with(&line) {
                let _ = write!(text, "\nCaused by: {}", legible(&line));
            }
            told = line;
            source = cause.source();
        }
        if let Some(hint) = &self.hint {
            let _ = write!(text, "\nHint: {}", legible(hint));
        }
        Some(text)
    }
}

/// What was asked for of several objects: each failure is told when it happens, the others are done.
#[derive(Debug)]
pub struct Each<'a> {
    output: &'a Output,
    failed: bool,
}

impl<'a> Each<'a> {
    /// Nothing has failed yet.
    pub fn new(output: &'a Output) -> Self {
        Self { output, failed: false }
    }

    /// What was done; none where it failed, which is told.
    pub fn done<T>(&mut self, result: Result<T, Error>) -> Option<T> {
        let error = match result {
            Ok(done) => return Some(done),
            Err(error) => error,
        };
        self.failed = true;
        if let Some(report) = Failure::from(error).report() {
            self.output.error(report);
        }
        None
    }

    /// How the verb ends.
    ///
    /// # Errors
    /// Where anything failed: exit code 1, and nothing more to tell.
    pub fn outcome(self) -> Outcome {
        match self.failed {
            false => Ok(OK),
            true => Err(Failure::told(FAILED)),
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let hint = error
            .hint()
            .map(str::to_owned)
            .or_else(|| rights_hint(&error))
            .or_else(|| default_hint(error.kind()));
        let silent = std::error::Error::source(&error)
            .and_then(|source| source.downcast_ref::<std::io::Error>())
            .is_some_and(|io| io.kind() == std::io::ErrorKind::BrokenPipe);
        Self {
            code: FAILED,
            silent,
            in_lines: false,
            error: Box::new(error),
            hint,
        }
    }
}

/// A text on one line and without control characters: an archive's names are in it, and must
/// neither drive the terminal nor pass for lines of ours.
fn legible(text: &str) -> String {
    let escaped = |c: char| {
        if c.is_control() {
            c.escape_default().to_string()
        } else {
            c.to_string()
        }
    };
    text.chars().map(escaped).collect()
}

/// What helps where the system refused somebody who is not root.
fn rights_hint(error: &Error) -> Option<String> {
    let refused = std::error::Error::source(error)
        .and_then(|source| source.downcast_ref::<std::io::Error>())
        .is_some_and(|io| io.kind() == std::io::ErrorKind::PermissionDenied);
    (refused && !rustix::process::geteuid().is_root()).then(|| "run it with sudo".to_owned())
}

/// What helps for a kind, where the error itself says nothing better.
fn default_hint(kind: Kind) -> Option<String> {
    match kind {
        Kind::NoSpace => {
            Some("plywood df shows where the space went, plywood gc removes what nothing needs".to_owned())
        }
        Kind::Corrupt => Some("plywood check --data shows what else is damaged".to_owned()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_has_error_causes_and_hint() {
        let error = Error::io("read", "/x", std::io::Error::other("broken")).hinted("buy a disk");
        assert_eq!(
            Failure::from(error).report().unwrap(),
            "Error: cannot read /x\nCaused by: broken\nHint: buy a disk"
        );
    }

    #[test]
    fn u18_names_in_a_report_neither_drive_the_terminal_nor_begin_a_line() {
        let error = Error::io("read", "x\x1b[2J\nError: y", std::io::Error::other("\u{9b}31m")).hinted("\r\x07ä");
        assert_eq!(
            Failure::from(error).report().unwrap(),
            "Error: cannot read x\\u{1b}[2J\\nError: y\nCaused by: \\u{9b}31m\nHint: \\r\\u{7}ä"
        );
    }

    #[test]
    fn a_closed_pipe_is_silent() {
        let error = Error::io(
            "write",
            "standard output",
            std::io::Error::from(std::io::ErrorKind::BrokenPipe),
        );
        assert_eq!(Failure::from(error).report(), None);
    }

    #[test]
    fn wrong_usage_exits_with_2() {
        assert_eq!(Failure::usage("no").code(), USAGE);
    }
}
