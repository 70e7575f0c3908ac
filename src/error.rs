//! The rooms' error: the store's own, which already says kind, object, cause and hint.
//!
//! One type for all rooms keeps one way from a failure to its exit code; a room
//! that a caller must tell apart adds a [`Kind`], not a type.
//! `exec` has one of its own, because a run's failures have exit codes of their own.

pub use plywood_store::error::{Context, Error, Kind, Result};

/// What came of work and of its undoing, both of which have happened: the first failure is told, and a
/// failed undo beside it.
///
/// # Errors
/// Theirs.
pub fn both<T>(work: Result<T>, undo: Result<()>) -> Result<T> {
    match (work, undo) {
        (Err(cause), undo) => Err(undone(cause, undo)),
        (Ok(done), undo) => undo.map(|()| done),
    }
}

/// An error and its causes, each after a colon.
#[must_use]
pub fn in_one_line(error: &dyn std::error::Error) -> String {
    let mut told = error.to_string();
    let mut source = error.source();
    while let Some(next) = source {
        told.push_str(&format!(": {next}"));
        source = next.source();
    }
    told
}

/// The failure that made an undo necessary; where that failed too, both are told.
#[must_use]
pub fn undone(cause: Error, undo: Result<()>) -> Error {
    let Err(undo) = undo else { return cause };
    let told = in_one_line(&undo);
    let hint = cause.hint().map(str::to_owned);
    let joined = Error::new(cause.kind(), format!("{cause} (and undoing it failed: {told})"));
    let joined = match hint {
        Some(hint) => joined.hinted(hint),
        None => joined,
    };
    joined.caused_by(cause)
}
