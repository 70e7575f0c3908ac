//! `plywood history`.

use crate::cli::HistoryArgs;
use crate::commands::Session;
use crate::failure::{Failure, Outcome};

/// Runs the verb.
///
/// # Errors
/// Its failure.
pub fn run(_args: &HistoryArgs, _session: &Session) -> Outcome {
    Err(Failure::usage("not there yet"))
}
