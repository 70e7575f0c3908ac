//! `plywood ps`: the containers.

use plywood_store::Store;
use plywood_store::record::{ContainerRecord, ContainerState};
use serde::Serialize;

use crate::cli::PsArgs;
use crate::commands::connection::Connection;
use crate::commands::{Session, date, exceptions, images};
use crate::dm::classic::Status;
use crate::error::Result;
use crate::exec::state;
use crate::failure::{OK, Outcome};
use crate::network::port::PublishedPort;

/// One container, as `--json` shows it.
#[derive(Debug, Serialize)]
struct Row {
    id: String,
    name: String,
    /// Its image's id.
    image: String,
    /// The name that was typed for the image.
    image_name: String,
    command: Vec<String>,
    created: Option<String>,
    state: &'static str,
    pid: Option<u32>,
    exit_code: Option<i32>,
    /// Its address on the bridge, while it runs.
    ip: Option<std::net::Ipv4Addr>,
    ports: Vec<PublishedPort>,
    /// What the kernel says of the exception store of a `--cow` container that is in use.
    store: Option<Status>,
}

/// Lists running containers, or all.
///
/// # Errors
/// A damaged record.
pub fn run(args: &PsArgs, session: &Session) -> Outcome {
    let mut rows = Vec::new();
    if let Some(store) = session.store()? {
        let mut containers = store.containers.list()?;
        containers.sort_by_key(|container| std::cmp::Reverse(container.created_at));
        for container in &containers {
            let row = row(&store, container)?;
            // One that passes is of its command alone. What a killed one has left goes with the next change.
            let all = args.all && !store.containers.is_passing(&container.id);
            if all || row.state == "running" {
                rows.push(row);
            }
        }
    }
    if session.output.is_json() {
        session.output.json(&rows)?;
    } else if args.ids {
        for row in &rows {
            session.output.line(if args.no_trunc {
                &row.id
            } else {
                &row.id[..row.id.len().min(12)]
            })?;
        }
    } else {
        let cells = rows.iter().map(|row| cells(row, args.no_trunc)).collect();
        session.output.table(
            &["CONTAINER", "NAME", "IMAGE", "COMMAND", "CREATED", "STATUS", "PORTS"],
            cells,
        )?;
    }
    Ok(OK)
}

fn row(store: &Store, record: &ContainerRecord) -> Result<Row> {
    let (state, pid, exit_code) = match state::settled(&record.state) {
        ContainerState::Created => ("created", None, None),
        ContainerState::Running { pid, .. } => ("running", Some(pid), None),
        ContainerState::Exited { code, .. } => ("exited", None, Some(code)),
    };
    let command = record
        .spec
        .get("args")
        .and_then(|args| serde_json::from_value(args.clone()).ok())
        .unwrap_or_default();
    let connection = Connection::of(record)?;
    Ok(Row {
        id: record.id.clone(),
        name: record.name.clone(),
        image: record.image.to_string(),
        image_name: record.image_name.clone(),
        command,
        created: date(record.created_at),
        state,
        pid,
        exit_code,
        // A killed one's address is nobody's.
        ip: connection
            .endpoint
            .filter(|_| pid.is_some())
            .map(|endpoint| endpoint.address),
        ports: connection.ports,
        store: exceptions::status(store, &record.id)?,
    })
}

fn cells(row: &Row, whole: bool) -> Vec<String> {
    let mut status = match (row.state, row.exit_code, row.pid) {
        (_, Some(code), _) => format!("exited ({code})"),
        (state, _, Some(pid)) => format!("{state} (pid {pid})"),
        (state, ..) => state.to_owned(),
    };
    if let Some(store) = row.store {
        status.push_str(&format!(", store {}", exceptions::told(store)));
    }
    let command = row.command.join(" ");
    let cut = |text: &str, length: usize| {
        if whole || text.chars().count() <= length {
            text.to_owned()
        } else {
            format!("{}…", text.chars().take(length - 1).collect::<String>())
        }
    };
    let id = if whole {
        row.id.clone()
    } else {
        row.id.chars().take(12).collect()
    };
    vec![
        id,
        row.name.clone(),
        row.image_name.clone(),
        cut(&command, 30),
        row.created.as_deref().map_or_else(String::new, images::age),
        status,
        // An ended one's lead nowhere.
        row.ports
            .iter()
            .filter(|_| row.pid.is_some())
            .map(PublishedPort::to_string)
            .collect::<Vec<_>>()
            .join(", "),
    ]
}
