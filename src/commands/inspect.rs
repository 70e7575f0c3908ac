//! `plywood inspect`.

use crate::cli::InspectArgs;
use crate::commands::Session;
use crate::failure::{Failure, Outcome};

/// Runs the verb.
///
/// # Errors
/// Its failure.
pub fn run(_args: &InspectArgs, _session: &Session) -> Outcome {
    Err(Failure::usage("not there yet"))
}
