//! `plywood run`.

use crate::cli::RunArgs;
use crate::commands::Session;
use crate::failure::{Failure, Outcome};

/// Runs the verb.
///
/// # Errors
/// Its failure.
pub fn run(_args: &RunArgs, _session: &Session) -> Outcome {
    Err(Failure::usage("not there yet"))
}
