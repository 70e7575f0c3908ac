//! `plywood stop` and `kill`: the end of running containers, asked for or not.

use std::time::Duration;

use serde::Serialize;

use crate::cli::{KillArgs, StopArgs};
use crate::commands::live::{self, Live};
use crate::commands::{Host, Session, container};
use crate::error::Result;
use crate::exec::signals;
use crate::failure::{Each, Outcome};

/// A container to which it was done, as `--json` shows it.
#[derive(Debug, Serialize)]
struct Done {
    /// As it was typed.
    name: String,
}

/// How long a killed container may take to end.
pub const KILL_WAIT: Duration = Duration::from_secs(10);

/// Asks each container to end, and kills it where it does not.
///
/// # Errors
/// Where one does not end; the others do.
pub fn run(args: &StopArgs, session: &Session) -> Outcome {
    let host = session.existing_host()?;
    let stopped = |host: &Host, name: &str| {
        let record = host.store.find_container(name)?;
        let signal = container::recorded_spec(&record)?.stop_signal.unwrap_or(signals::TERM);
        // One that has ended is as it is to be.
        let Ok(live) = Live::of(record)? else { return Ok(()) };
        live.signal(signal)?;
        let patience = Duration::from_secs(args.time);
        if live::wait_for_end(&host.store, &live.record.id, Some(patience))? {
            return Ok(());
        }
        end(host, &live)
    };
    each(session, host.as_ref(), &args.containers, stopped)
}

/// Sends each container's first process a signal.
///
/// # Errors
/// Where one does not run.
pub fn kill(args: &KillArgs, session: &Session) -> Outcome {
    let host = session.existing_host()?;
    let signalled = |host: &Host, name: &str| {
        let live = Live::find(&host.store, name)?;
        match args.signal {
            signals::KILL => end(host, &live),
            signal => live.signal(signal),
        }
    };
    each(session, host.as_ref(), &args.containers, signalled)
}

/// Kills it, and waits until its plywood has cleared up.
///
/// # Errors
/// In use where that takes too long.
pub fn end(host: &Host, live: &Live) -> Result<()> {
    live.signal(signals::KILL)?;
    match live::wait_for_end(&host.store, &live.record.id, Some(KILL_WAIT))? {
        true => Ok(()),
        false => Err(live::did_not_end(&live.record, KILL_WAIT)),
    }
}

/// Does it to each container, and prints the names of those to which it was done.
pub fn each(
    session: &Session,
    host: Option<&Host>,
    names: &[String],
    mut act: impl FnMut(&Host, &str) -> Result<()>,
) -> Outcome {
    let mut each = Each::new(&session.output);
    let mut done: Vec<Done> = Vec::new();
    for name in names {
        let result = match host {
            Some(host) => act(host, name),
            None => Err(container::none(name)),
        };
        if each.done(result).is_some() {
            done.push(Done { name: name.clone() });
            if !session.output.is_json() {
                session.output.line(name)?;
            }
        }
    }
    if session.output.is_json() {
        session.output.json(&done)?;
    }
    each.outcome()
}
