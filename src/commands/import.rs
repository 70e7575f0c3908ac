//! `plywood import`.

use crate::cli::ImportArgs;
use crate::commands::Session;
use crate::failure::{Failure, Outcome};

/// Runs the verb.
///
/// # Errors
/// Its failure.
pub fn run(_args: &ImportArgs, _session: &Session) -> Outcome {
    Err(Failure::usage("not there yet"))
}
