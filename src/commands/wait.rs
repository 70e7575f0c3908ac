//! `plywood wait`: until containers end; their exit codes.

use plywood_store::record::ContainerState;
use serde::Serialize;

use crate::cli::WaitArgs;
use crate::commands::{Host, Session, container, live};
use crate::error::{Error, Result};
use crate::exec::state;
use crate::failure::{Each, Outcome};

/// A container that has ended, as `--json` shows it.
#[derive(Debug, Serialize)]
struct Row {
    name: String,
    exit_code: i32,
}

/// Prints each container's exit code, in the order of the names.
///
/// # Errors
/// Where one is not there, or was never started.
pub fn run(args: &WaitArgs, session: &Session) -> Outcome {
    let host = session.existing_host()?;
    let mut each = Each::new(&session.output);
    let mut rows = Vec::new();
    for name in &args.containers {
        let waited = host
            .as_ref()
            .map_or_else(|| Err(container::none(name)), |host| wait(host, name));
        let Some(row) = each.done(waited) else { continue };
        if !session.output.is_json() {
            session.output.line(row.exit_code.to_string())?;
        }
        rows.push(row);
    }
    if session.output.is_json() {
        session.output.json(&rows)?;
    }
    each.outcome()
}

fn wait(host: &Host, name: &str) -> Result<Row> {
    let record = host.store.find_container(name)?;
    live::wait_for_end(&host.store, &record.id, None)?;
    let ended = host.store.containers.get(&record.id)?;
    let ended = ended.ok_or_else(|| {
        Error::not_found(format!("container {} was removed when it ended", record.name))
            .hinted("without --rm it stays, and keeps its exit code")
    })?;
    match state::settled(&ended.state) {
        ContainerState::Exited { code, .. } => Ok(Row {
            name: record.name,
            exit_code: code,
        }),
        _ => Err(Error::invalid(format!("container {} was never started", record.name))),
    }
}
