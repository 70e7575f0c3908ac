//! `plywood ps`.

use crate::cli::PsArgs;
use crate::commands::Session;
use crate::failure::{Failure, Outcome};

/// Runs the verb.
///
/// # Errors
/// Its failure.
pub fn run(_args: &PsArgs, _session: &Session) -> Outcome {
    Err(Failure::usage("not there yet"))
}
