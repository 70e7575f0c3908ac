//! `plywood start`.

use crate::cli::StartArgs;
use crate::commands::Session;
use crate::failure::{Failure, Outcome};

/// Runs the verb.
///
/// # Errors
/// Its failure.
pub fn run(_args: &StartArgs, _session: &Session) -> Outcome {
    Err(Failure::usage("not there yet"))
}
