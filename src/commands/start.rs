//! `plywood start`: an ended container's command once more, in what it left.

use crate::cli::StartArgs;
use crate::commands::Session;
use crate::commands::container::{self, before_command};
use crate::exec::spec::Spec;
use crate::failure::Outcome;

/// Runs the verb.
///
/// # Errors
/// As for `plywood run`: the command's code, or 125 to 127.
pub fn run(args: &StartArgs, session: &Session) -> Outcome {
    let host = session.existing_host().map_err(before_command)?;
    let host = host.ok_or_else(|| before_command(container::none(&args.container)))?;
    let found = host.store.find_container(&args.container).map_err(before_command)?;
    let spec = Spec {
        stdin: args.interactive,
        ..container::recorded_spec(&found).map_err(before_command)?
    };
    let hold = container::hold(session, &host.store, &found).map_err(before_command)?;
    // It may have been removed, or have run, between the look and the hold.
    let found = host.store.find_container(&found.id).map_err(before_command)?;
    container::refuse_shown(&host.store, &found).map_err(before_command)?;
    container::run(session, &host, &found, &spec, &hold, || Ok(())).outcome
}
