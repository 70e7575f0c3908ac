//! `plywood stats`: what running containers use.

use std::time::{Duration, Instant};

use plywood_store::Store;
use serde::Serialize;

use crate::cli::StatsArgs;
use crate::commands::Session;
use crate::commands::container;
use crate::commands::live::Live;
use crate::error::{Error, Result};
use crate::exec::cgroup::{Cgroup, Usage};
use crate::failure::{OK, Outcome};
use crate::output;

/// Between two looks: processor time is a rate.
const INTERVAL: Duration = Duration::from_secs(1);

/// A container's use, as `--json` shows it.
#[derive(Debug, Serialize)]
struct Row {
    id: String,
    name: String,
    /// Processors in use, in percent of one.
    cpu_percent: Option<f64>,
    memory: Option<u64>,
    memory_limit: Option<u64>,
    pids: Option<u64>,
    /// Bytes since the container began.
    read: Option<u64>,
    written: Option<u64>,
    received: Option<u64>,
    sent: Option<u64>,
}

/// A look at a container.
struct Look {
    at: Instant,
    usage: Usage,
}

/// Prints a table, again each second at a terminal.
///
/// # Errors
/// Where a container that was named does not run.
pub fn run(args: &StatsArgs, session: &Session) -> Outcome {
    let Some(store) = session.store()? else {
        return match args.containers.first() {
            Some(name) => Err(container::none(name).into()),
            None => tell(session, &[]).map_err(Into::into).map(|()| OK),
        };
    };
    loop {
        let rows = rows(&store, &args.containers)?;
        let goes_on = !args.no_stream && !session.output.is_json() && output::is_terminal();
        if goes_on {
            session.output.clear()?;
        }
        tell(session, &rows)?;
        if !goes_on {
            return Ok(OK);
        }
    }
}

/// Looks at them twice.
fn rows(store: &Store, names: &[String]) -> Result<Vec<Row>> {
    let mut live = Vec::new();
    if names.is_empty() {
        for record in store.containers.list()? {
            live.extend(Live::of(record)?.ok());
        }
    }
    for name in names {
        live.push(Live::find(store, name)?);
    }
    live.sort_by(|one, other| one.record.name.cmp(&other.record.name));
    let before: Vec<Option<Look>> = live.iter().map(|live| look(store, live)).collect::<Result<_>>()?;
    if !live.is_empty() {
        std::thread::sleep(INTERVAL);
    }
    let mut rows = Vec::new();
    for (live, before) in live.iter().zip(before) {
        if let (Some(before), Some(now)) = (before, look(store, live)?) {
            rows.push(row(live, &before, &now));
        }
    }
    Ok(rows)
}

/// None for one that has ended since.
fn look(store: &Store, live: &Live) -> Result<Option<Look>> {
    let name = container::cgroup_name(store, &live.record.id);
    let cgroup = Cgroup::of(&name).map_err(|error| Error::invalid("cannot look at the cgroups").caused_by(error))?;
    Ok(cgroup.paths().next().is_some().then(|| Look {
        at: Instant::now(),
        usage: cgroup.usage(),
    }))
}

fn row(live: &Live, before: &Look, now: &Look) -> Row {
    let seconds = now.at.duration_since(before.at).as_secs_f64();
    let used = now.usage.processor.zip(before.usage.processor);
    let rate = used.map(|(now, before)| Duration::from_nanos(now.saturating_sub(before)).as_secs_f64() / seconds);
    let (received, sent) = traffic(live.pid).unzip();
    Row {
        id: live.record.id.clone(),
        name: live.record.name.clone(),
        cpu_percent: rate.map(|rate| (rate * 10_000.0).round() / 100.0),
        memory: now.usage.memory,
        memory_limit: now.usage.memory_limit,
        pids: now.usage.pids,
        read: now.usage.read,
        written: now.usage.written,
        received,
        sent,
    }
}

/// Bytes that came in and went out by all interfaces but the loopback one (proc(5), `/proc/<pid>/net/dev`).
fn traffic(pid: u32) -> Option<(u64, u64)> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/net/dev")).ok()?;
    Some(parse_traffic(&text))
}

fn parse_traffic(text: &str) -> (u64, u64) {
    let counters = text.lines().filter_map(|line| {
        let (name, counters) = line.split_once(':')?;
        if name.trim() == "lo" {
            return None;
        }
        let mut counters = counters.split_ascii_whitespace().map(str::parse::<u64>);
        Some((counters.next()?.ok()?, counters.nth(7)?.ok()?))
    });
    counters.fold((0, 0), |(received, sent), (more, also)| {
        (received.saturating_add(more), sent.saturating_add(also))
    })
}

fn tell(session: &Session, rows: &[Row]) -> Result<()> {
    if session.output.is_json() {
        return session.output.json(&rows);
    }
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let pair = |one: Option<u64>, other: Option<u64>| {
        or_dash(
            one.zip(other)
                .map(|(one, other)| format!("{} / {}", output::bytes(one), output::bytes(other))),
        )
    };
    let cells = rows.iter().map(|row| {
        let memory = row.memory.map(|memory| match row.memory_limit {
            Some(limit) => format!("{} / {}", output::bytes(memory), output::bytes(limit)),
            None => output::bytes(memory),
        });
        vec![
            row.id.chars().take(12).collect(),
            row.name.clone(),
            or_dash(row.cpu_percent.map(|percent| format!("{percent:.2} %"))),
            or_dash(memory),
            pair(row.received, row.sent),
            pair(row.read, row.written),
            or_dash(row.pids.map(|pids| pids.to_string())),
        ]
    });
    session.output.table(
        &[
            "CONTAINER",
            "NAME",
            ">CPU",
            ">MEMORY / LIMIT",
            ">NET IN / OUT",
            ">DISK IN / OUT",
            ">PIDS",
        ],
        cells.collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::parse_traffic;

    #[test]
    fn the_loopback_interface_does_not_count() {
        let text = "\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:     999      10    0    0    0     0          0         0      999      10    0    0    0     0       0          0
  eth0:    1500      10    0    0    0     0          0         0       70      10    0    0    0     0       0          0
 eth1:1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16
";
        assert_eq!(parse_traffic(text), (1501, 79));
        assert_eq!(parse_traffic("eth0: 1 2"), (0, 0));
    }
}
