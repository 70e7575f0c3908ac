//! `plywood gc`.

use crate::cli::GcArgs;
use crate::commands::Session;
use crate::failure::{Failure, Outcome};

/// Runs the verb.
///
/// # Errors
/// Its failure.
pub fn run(_args: &GcArgs, _session: &Session) -> Outcome {
    Err(Failure::usage("not there yet"))
}
