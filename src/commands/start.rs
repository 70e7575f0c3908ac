//! `plywood start`: an ended container's command once more, in what it left.

use plywood_store::record::merge_key;

use crate::cli::StartArgs;
use crate::commands::container::{self, before_command};
use crate::commands::{Session, detach, hold, live};
use crate::exec::attach::Wishes;
use crate::exec::monitor::Monitor;
use crate::exec::spec::Spec;
use crate::failure::{OK, Outcome};

/// Runs the verb.
///
/// # Errors
/// As for `plywood run`: with `--attach` the command's code, or 125 to 127.
pub fn run(args: &StartArgs, session: &Session) -> Outcome {
    let store = session.store().map_err(before_command)?;
    let store = store.ok_or_else(|| before_command(container::none(&args.container)))?;
    let found = store.find_container(&args.container).map_err(before_command)?;
    let recorded = container::recorded_spec(&found).map_err(before_command)?;
    let stays = args.attach && args.interactive && recorded.terminal && detach::is_person();
    let spec = Spec {
        // Whoever attaches later may want to write to it as it was made to be.
        stdin: args.interactive || (!args.attach && recorded.stdin),
        ..recorded
    };
    if args.attach && !stays {
        return run_to_end(session, &found.id, &spec, None);
    }
    let keys = detach::detach_keys(&args.detach_keys).map_err(before_command)?;
    let started = detach::start(session, |monitor| run_to_end(session, &found.id, &spec, Some(monitor)))?;
    if stays {
        return started.attend(session, Wishes::of_person(&keys));
    }
    session.output.line(&args.container)?;
    Ok(OK)
}

fn run_to_end(session: &Session, id: &str, spec: &Spec, monitor: Option<&mut Monitor>) -> Outcome {
    let host = live::host(session, id).map_err(before_command)?;
    let found = host.store.find_container(id).map_err(before_command)?;
    let hold = hold::take(session, &host.store, &found).map_err(before_command)?;
    // It may have been removed, or have run, between the look and the hold.
    let found = host.store.find_container(&found.id).map_err(before_command)?;
    container::refuse_shown(&host.store, &found).map_err(before_command)?;
    // A merge that was cut short would go on with what was there before this run.
    host.snapshotter.remove(&merge_key(&found.id)).map_err(before_command)?;
    // Otherwise this run takes it for the image's, and leaves it.
    container::clear_left(&host, &found).map_err(before_command)?;
    container::run(session, &host, &found, spec, &hold, monitor.into(), || Ok(())).outcome
}
