//! `plywood rmi`.

use crate::cli::RmiArgs;
use crate::commands::Session;
use crate::failure::{Failure, Outcome};

/// Runs the verb.
///
/// # Errors
/// Its failure.
pub fn run(_args: &RmiArgs, _session: &Session) -> Outcome {
    Err(Failure::usage("not there yet"))
}
