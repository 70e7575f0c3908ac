//! `plywood pool`: makes, shows, enlarges, trims, verifies the thin pool, and takes it out of the kernel.

use std::path::Path;
use std::sync::Arc;

use serde::Serialize;

use plywood_store::record::{POOL_KEY, PoolDevices, PoolRecord};
use plywood_store::{Driver, Store};

use crate::cli::{DriverChoice, PoolGrowArgs, PoolInitArgs, PoolVerb};
use crate::commands::{Session, trim};
use crate::dm::assembly::{self, Options};
use crate::dm::kernel::KernelPool;
use crate::dm::pool::ThinPool;
use crate::dm::repair;
use crate::dm::status::{Need, PoolStatus};
use crate::dm::volume::Part;
use crate::error::{Context, Error, Kind, Result};
use crate::failure::{Failure, OK, Outcome};
use crate::output;

/// Bytes of a metadata block.
const METADATA_BLOCK: u64 = 4096;

/// Runs the verb.
///
/// # Errors
/// Its failure.
pub fn run(verb: &PoolVerb, session: &Session) -> Outcome {
    super::need_root()?;
    match verb {
        PoolVerb::Init(args) => init(args, session),
        PoolVerb::Status => status(session),
        PoolVerb::Grow(args) => grow(args, session),
        PoolVerb::Trim => trim::run(session),
        PoolVerb::Check => check(session),
        PoolVerb::Repair(args) => super::pool_repair::run(args, session),
        PoolVerb::Detach => detach(session),
    }
}

/// How full something is, as `--json` shows it.
#[derive(Debug, Serialize)]
struct Fill {
    /// Bytes.
    used: u64,
    /// Bytes.
    total: u64,
}

/// One thing that the pool lies on, as `--json` shows it.
#[derive(Debug, Serialize)]
struct Underneath {
    kind: &'static str,
    name: String,
    detail: Option<String>,
}

/// The pool, as `--json` shows it.
#[derive(Debug, Serialize)]
struct Report {
    name: String,
    /// As [`PoolStatus::state`] names it, or `detached`.
    state: &'static str,
    /// What is wrong, where something is.
    problem: Option<String>,
    /// The way out.
    remedy: Option<String>,
    needs_check: bool,
    transaction_id: u64,
    data: Option<Fill>,
    metadata: Option<Fill>,
    /// Bytes that a volume can hold.
    volume_size: u64,
    /// Bytes up to which the data file grows by itself.
    data_limit: Option<u64>,
    underneath: Vec<Underneath>,
}

fn init(args: &PoolInitArgs, session: &Session) -> Outcome {
    if let (Some(data), Some(metadata)) = (&args.data_device, &args.metadata_device)
        && device_number(data)? == device_number(metadata)?
    {
        return Err(Failure::usage(format!(
            "data and metadata cannot be on one device: {} and {} are the same",
            data.display(),
            metadata.display()
        )));
    }
    let options = Options {
        data_size: args.data_size,
        limit: args.limit,
        metadata_size: args.metadata_size,
        devices: args.data_device.clone().zip(args.metadata_device.clone()),
        volume_size: args.volume_size,
    };
    // Before a root is made that keeps its driver for ever.
    options.check()?;
    let store = match session.store()? {
        Some(store) => store,
        None if session.global.driver == DriverChoice::Overlay => {
            return Err(Error::invalid("the overlay driver has no pool")
                .hinted("leave out --driver overlay")
                .into());
        }
        None => {
            crate::dm::require()?;
            Arc::new(Store::create(&session.global.root, Driver::Thin)?)
        }
    };
    require_thin(&store)?;
    let lock = store.exclusive()?;
    let (pool, created) = assembly::init(&store, &lock, &options)?;
    lock.done()?;
    session.output.note(match created {
        true => format!("made the pool {}", pool.name()),
        false => format!("the pool {} is there already", pool.name()),
    });
    show(session, &store, Some(&pool))
}

/// What tells a device from others, whatever its node is called.
fn device_number(path: &Path) -> Result<u64> {
    Ok(rustix::fs::stat(path).context("find the device", path)?.st_rdev)
}

fn status(session: &Session) -> Outcome {
    let store = thin_store(session)?;
    match assembly::is_attached(&store)? {
        true => show(session, &store, Some(&look(&store)?)),
        false => show(session, &store, None),
    }
}

fn grow(args: &PoolGrowArgs, session: &Session) -> Outcome {
    let store = thin_store(session)?;
    let lock = store.exclusive()?;
    let pool = assembly::open(&store, &lock)?;
    if args.data_size.is_some() || args.metadata_size.is_some() {
        pool.grow(args.data_size, args.metadata_size)?;
    }
    let mut record = record(&store)?;
    match &mut record.devices {
        PoolDevices::LoopFiles { data_limit, grows_to } => {
            *data_limit = args.data_size.unwrap_or(0).max(*data_limit);
            *grows_to = args.limit.or(*grows_to);
            store.pool.put(&lock, &record)?;
        }
        PoolDevices::Block { .. } if args.limit.is_some() => {
            return Err(Error::invalid("the pool lies on block devices, which do not grow by themselves").into());
        }
        PoolDevices::Block { .. } => {}
    }
    lock.done()?;
    show(session, &store, Some(&pool))
}

fn check(session: &Session) -> Outcome {
    let store = thin_store(session)?;
    let lock = store.exclusive()?;
    assembly::check(&store, &lock)?;
    lock.done()?;
    if session.output.is_json() {
        session.output.json(&serde_json::json!({ "ok": true }))?;
    } else {
        session.output.line("the pool's metadata is whole")?;
    }
    Ok(OK)
}

fn detach(session: &Session) -> Outcome {
    let store = thin_store(session)?;
    let lock = store.exclusive()?;
    let was_there = assembly::detach(&store, &lock)?;
    lock.done()?;
    if session.output.is_json() {
        session.output.json(&serde_json::json!({ "was_attached": was_there }))?;
        return Ok(OK);
    }
    session.output.note(match was_there {
        true => "the pool is out of the kernel; the next use brings it back",
        false => "the pool was not in the kernel",
    });
    Ok(OK)
}

pub(super) fn thin_store(session: &Session) -> Result<Arc<Store>> {
    let store = session.store()?.ok_or_else(|| no_pool(session.global.root.display()))?;
    require_thin(&store)?;
    record(&store)?;
    Ok(store)
}

fn require_thin(store: &Store) -> Result<()> {
    match store.meta().driver {
        Driver::Thin => Ok(()),
        other => Err(Error::new(
            Kind::Incompatible,
            format!(
                "{} keeps its layers with the {other} driver, which has no pool",
                store.root().display()
            ),
        )),
    }
}

fn record(store: &Store) -> Result<PoolRecord> {
    store.pool.get(POOL_KEY)?.ok_or_else(|| no_pool(store.root().display()))
}

fn no_pool(root: impl std::fmt::Display) -> Error {
    Error::not_found(format!("{root} has no pool yet"))
        .hinted("plywood pool init makes one, and so does the first import")
}

/// The pool whatever its state, to look at it.
fn look(store: &Store) -> Result<KernelPool> {
    let lock = store.exclusive()?;
    let pool = assembly::reopen(store, &lock)?;
    lock.done()?;
    Ok(pool)
}

fn open(store: &Store) -> Result<KernelPool> {
    let lock = store.exclusive()?;
    let pool = assembly::open(store, &lock)?;
    lock.done()?;
    Ok(pool)
}

fn show(session: &Session, store: &Store, pool: Option<&KernelPool>) -> Outcome {
    let report = report(store, pool)?;
    let out = &session.output;
    if out.is_json() {
        out.json(&report)?;
        return Ok(OK);
    }
    out.line(format!("{}  {}", report.name, report.state))?;
    for (what, text) in [("problem", &report.problem), ("remedy", &report.remedy)] {
        if let Some(text) = text {
            out.line(format!("{what:<9} {text}"))?;
        }
    }
    for (what, fill) in [("data", &report.data), ("metadata", &report.metadata)] {
        if let Some(fill) = fill {
            let percent = fill.used.saturating_mul(100).checked_div(fill.total).unwrap_or(0);
            out.line(format!(
                "{what:<9} {} of {} ({percent} %)",
                output::bytes(fill.used),
                output::bytes(fill.total)
            ))?;
        }
    }
    if let Some(limit) = report.data_limit {
        out.line(format!(
            "{:<9} data grow by themselves to {}",
            "limit",
            output::bytes(limit)
        ))?;
    }
    out.line(format!(
        "{:<9} up to {} each",
        "volumes",
        output::bytes(report.volume_size)
    ))?;
    for part in &report.underneath {
        let detail = part.detail.as_deref().unwrap_or_default();
        out.line(format!("{:<9} {}  {detail}", part.kind, part.name))?;
    }
    Ok(OK)
}

/// Bytes of the pool's data that are in use, where the pool is in the kernel.
///
/// # Errors
/// Where its status cannot be read.
pub(super) fn data_used(store: &Store) -> Result<Option<u64>> {
    if !assembly::is_attached(store)? {
        return Ok(None);
    }
    Ok(report(store, Some(&open(store)?))?.data.map(|data| data.used))
}

fn report(store: &Store, pool: Option<&KernelPool>) -> Result<Report> {
    let record = record(store)?;
    let name = assembly::pool_name(store);
    let data_limit = match &record.devices {
        PoolDevices::LoopFiles { grows_to, .. } => *grows_to,
        PoolDevices::Block { .. } => None,
    };
    let mut report = Report {
        name,
        state: "detached",
        problem: None,
        remedy: None,
        needs_check: false,
        transaction_id: record.transaction_id,
        data: None,
        metadata: None,
        volume_size: record.volume_size,
        data_limit,
        underneath: Vec::new(),
    };
    if let Some(pool) = pool {
        let status = pool.status()?;
        let block = u64::from(record.block_sectors).saturating_mul(512);
        let fill = |used: u64, total: u64, block: u64| {
            Some(Fill {
                used: used.saturating_mul(block),
                total: total.saturating_mul(block),
            })
        };
        report.state = status.state();
        (report.problem, report.remedy) = problem_of(store, &status, &report.name)?;
        report.needs_check = status.needs_check;
        report.transaction_id = status.transaction_id;
        report.data = fill(status.data_used, status.data_total, block);
        report.metadata = fill(status.metadata_used, status.metadata_total, METADATA_BLOCK);
        report.underneath = pool.underneath()?.into_iter().map(underneath).collect();
    }
    Ok(report)
}

/// What is wrong with a pool, and the way out.
fn problem_of(store: &Store, status: &PoolStatus, name: &str) -> Result<(Option<String>, Option<String>)> {
    let lock = store.exclusive()?;
    let state = repair::refuse_unfinished(store, &lock).and_then(|()| status.require(Need::Space, name));
    lock.done()?;
    Ok(match state {
        Ok(()) => (None, None),
        Err(error) => (Some(error.to_string()), error.hint().map(str::to_owned)),
    })
}

fn underneath(part: Part) -> Underneath {
    Underneath {
        kind: part.kind,
        name: part.name,
        detail: part.detail,
    }
}
