//! `plywood pool`.

use crate::cli::PoolVerb;
use crate::commands::Session;
use crate::failure::{Failure, Outcome};

/// Runs the verb.
///
/// # Errors
/// Its failure.
pub fn run(_args: &PoolVerb, _session: &Session) -> Outcome {
    Err(Failure::usage("not there yet"))
}
