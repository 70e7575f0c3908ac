//! `plywood diff`.

use crate::cli::DiffArgs;
use crate::commands::Session;
use crate::failure::{Failure, Outcome};

/// Runs the verb.
///
/// # Errors
/// Its failure.
pub fn run(_args: &DiffArgs, _session: &Session) -> Outcome {
    Err(Failure::usage("not there yet"))
}
