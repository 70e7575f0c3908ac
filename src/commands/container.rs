//! What the verbs on containers share: what `run` and `start` do between taking
//! [hold] of one and leaving it, and what a record says.

use std::io::IsTerminal;
use std::path::Path;

use plywood_store::Store;
use plywood_store::record::{ContainerRecord, ContainerState};
use rustix::io::Errno;
use serde::Serialize;

use crate::commands::connect::{self, Connected};
use crate::commands::watch::Watch;
use crate::commands::{Host, Session, detach, freeze, hold, logs, now, volume};
use crate::error::{Error, Kind, Result, both};
use crate::exec::cgroup::{self, Cgroup, devices};
use crate::exec::device::Asked;
use crate::exec::error::CODE_FAILED;
use crate::exec::ids::{UserNamespace, Users};
use crate::exec::monitor::Monitor;
use crate::exec::spec::Spec;
use crate::exec::state::CODE_KILLED;
use crate::exec::{self, Attendant, Made, Stage, Streams, Surroundings, state};
use crate::failure::{BEFORE_COMMAND, Failure, Outcome};
use crate::output;
use crate::snapshot::{self, Access, Mounted};

/// The error for a container that is looked for in a root that was never used.
pub fn none(name: &str) -> Error {
    Error::not_found(format!("no container {name}: nothing is stored here yet"))
        .hinted("plywood run makes one; --root names another store")
}

/// Refuses a container that `plywood mount` shows: on overlay nothing else can mount it meanwhile.
///
/// # Errors
/// In use, naming container and mount point.
pub fn refuse_shown(store: &Store, container: &ContainerRecord) -> Result<()> {
    let shown = store
        .snapshots
        .get(&container.id)?
        .and_then(|snapshot| snapshot.mounted_at);
    match shown {
        None => Ok(()),
        Some(target) => Err(Error::new(
            Kind::InUse,
            format!("container {} is mounted at {}", container.name, target.display()),
        )
        .hinted(format!("plywood umount {} first", container.name))),
    }
}

/// How a run ended.
#[derive(Debug)]
pub struct Ended {
    /// The command's code, or the failure with its code: 125 for everything before the command.
    pub outcome: Outcome,
    /// Whether plywood came as far as the command: else nothing of anybody's is in the container.
    pub began: bool,
}

/// Mounts the container, runs `spec` in it, unmounts it durably and records how it ended. `begins` is called when
/// it is recorded as running, just before its command.
pub fn run(
    session: &Session,
    host: &Host,
    container: &ContainerRecord,
    spec: &Spec,
    _hold: &hold::Hold,
    attendant: Attending<'_>,
    begins: impl FnOnce() -> Result<()>,
) -> Ended {
    if matches!(attendant, Attending::Caller) && spec.terminal && spec.stdin && !std::io::stdin().is_terminal() {
        session
            .output
            .note("standard input is not a terminal: passing it on as it is");
    }
    let (mounted, spec, users) = match mounted(host, container, spec) {
        Ok(mounted) => mounted,
        Err(failure) => {
            return Ended {
                outcome: Err(failure),
                began: false,
            };
        }
    };
    let connected = match connect::connect(session, host, container, &spec, users.as_ref()) {
        Ok(connected) => connected,
        Err(error) => {
            return Ended {
                outcome: both(Err(error), mounted.close()).map_err(before_command),
                began: false,
            };
        }
    };
    let (running, ended) = (connected.running(container), connected.ended(container));
    let prepared = Prepared {
        container: &running,
        spec: &spec,
        root: mounted.path(),
        connected: &connected,
        users: users.as_ref().map(|namespace| Users {
            namespace,
            root_is_mapped: mounted.is_mapped(),
        }),
    };
    let outcome = run_prepared(session, host, &prepared, attendant, begins);
    let (outcome, stopped) = match outcome {
        Ok((code, stopped)) => (Ok(code), stopped),
        Err(error) => (Err(error), None),
    };
    let began = !outcome.as_ref().is_err_and(exec::Error::is_before_command);
    let releasing = connected.release(host, &container.id);
    let closed = mounted.close();
    // The record names the endpoint until that is gone: a killed plywood's rules are found by it.
    let released = releasing.done();
    let last = if released.is_ok() { &ended } else { &running };
    let outcome = finish(host, last, outcome, closed);
    let outcome = match stopped {
        Some(error) => outcome.and(Err(before_command(error))),
        None => outcome,
    };
    if let Err(error) = released {
        session.output.note(format!("{error}; the next command tries again"));
    }
    Ended { outcome, began }
}

/// A container that lacks nothing but its process.
struct Prepared<'a> {
    /// The record to keep while it runs.
    container: &'a ContainerRecord,
    spec: &'a Spec,
    root: &'a Path,
    connected: &'a Connected,
    users: Option<Users<'a>>,
}

/// The container's root filesystem for one run, its volumes made, and its users' namespace where they are not the
/// host's.
fn mounted(
    host: &Host,
    container: &ContainerRecord,
    spec: &Spec,
) -> Result<(Mounted, Spec, Option<UserNamespace>), Failure> {
    let mount = |access| host.snapshotter.mount(&container.id, access).map_err(before_command);
    let Some(ids) = spec.ids else {
        let mounted = mount(Access::ReadWrite)?;
        return match volume::ready(&host.store, mounted.dir(), spec) {
            Ok(spec) => Ok((mounted, spec, None)),
            Err(error) => both(Err(error), mounted.close()).map_err(before_command),
        };
    };
    let users = UserNamespace::make(ids).map_err(failure)?;
    let mut spec = spec.clone();
    if !spec.volumes.is_empty() {
        // They are filled from the image as it is on the disk.
        let plain = mount(Access::ReadOnly)?;
        let ready = volume::ready(&host.store, plain.dir(), &spec);
        spec = both(ready, plain.close()).map_err(before_command)?;
    }
    let for_users = snapshot::Users {
        namespace: users.user(),
        root: ids.first,
    };
    let mounted = host
        .snapshotter
        .mount_for(&container.id, for_users)
        .map_err(before_command)?;
    Ok((mounted, spec, Some(users)))
}

/// Runs the command, within its limits. Its code, and why it was ended where the pool's watch has done that.
fn run_prepared(
    session: &Session,
    host: &Host,
    prepared: &Prepared<'_>,
    attending: Attending<'_>,
    begins: impl FnOnce() -> Result<()>,
) -> exec::Result<(i32, Option<Error>)> {
    let Prepared {
        container,
        spec,
        root,
        connected,
        users,
    } = *prepared;
    let devices = spec.devices.iter().map(Asked::find).collect::<exec::Result<Vec<_>>>()?;
    let rules = (!spec.privileged).then(|| devices::rules(&devices));
    let cgroup = Cgroup::create(&cgroup_name(&host.store, &container.id), &spec.limits, rules.as_deref())?;
    let is_detached = matches!(attending, Attending::Monitor(_));
    let passes = host.store.containers.is_passing(&container.id) && !matches!(attending, Attending::Build(_));
    let mut watch = None;
    let attendant = attendant(host, container, spec, attending);
    let outcome = attendant.and_then(|attendant| {
        let surroundings = Surroundings {
            cgroup: Some(&cgroup),
            users,
            devices: &devices,
            passes,
            ..connected.surroundings()
        };
        exec::run(root, spec, surroundings, attendant, |pid, made| {
            record(&host.store, container, running(container, pid, made)?)?;
            connected.announce(host)?;
            begins()?;
            // No earlier: a process with several threads is not to be forked.
            watch = Watch::begin(host.snapshotter.gauge(), &host.store, pid, container);
            if is_detached {
                session.output.gather();
            }
            Ok(())
        })
    });
    let ended = watch.and_then(Watch::end);
    if let Err(error) = freeze::wait_for_release(&host.store, &container.id) {
        session.output.note(format!("{error}"));
    }
    tell_out_of_memory(session, &cgroup, spec, outcome.as_ref().ok());
    if let Err(error) = cgroup.remove() {
        session.output.note(format!("{error}; the next command tries again"));
    }
    outcome.map(|code| (code, ended))
}

/// Who stays with a container while it runs.
#[derive(Debug)]
pub enum Attending<'a> {
    /// This process, for whoever called it.
    Caller,
    /// This process, as its monitor.
    Monitor(&'a mut Monitor),
    /// A build, which keeps what the command leaves and reads what it writes here.
    Build(Streams<'a>),
}

impl<'a> From<Option<&'a mut Monitor>> for Attending<'a> {
    fn from(monitor: Option<&'a mut Monitor>) -> Self {
        monitor.map_or(Self::Caller, Self::Monitor)
    }
}

/// Who stays with the container: its monitor, opened, or this process for its caller.
fn attendant<'a>(
    host: &Host,
    container: &ContainerRecord,
    spec: &Spec,
    attending: Attending<'a>,
) -> exec::Result<Attendant<'a>> {
    let monitor = match attending {
        Attending::Caller => return Ok(Attendant::Caller(Streams::own())),
        Attending::Build(streams) => return Ok(Attendant::Owner(streams)),
        Attending::Monitor(monitor) => monitor,
    };
    let log = logs::path(&host.store, &container.id)?;
    let socket = detach::socket(&host.store, &container.id)?;
    monitor.open(spec.stdin, &log, &socket)?;
    Ok(Attendant::Monitor(monitor))
}

fn running(container: &ContainerRecord, pid: u32, made: &[Made]) -> Result<ContainerState> {
    let start_ticks = state::start_ticks(pid)
        .ok_or_else(|| Error::not_found(format!("the process {pid} of container {} is gone", container.name)))?;
    Ok(ContainerState::Running {
        pid,
        start_ticks,
        started_at: now(),
        made: match made {
            [] => None,
            made => Some(as_json(&made)?),
        },
    })
}

/// The name of a container's cgroup.
pub fn cgroup_name(store: &Store, id: &str) -> String {
    cgroup::name(&store.meta().uuid, id)
}

/// Says that the kernel has killed something of the container for want of memory.
fn tell_out_of_memory(session: &Session, cgroup: &Cgroup, spec: &Spec, code: Option<&i32>) {
    if cgroup.out_of_memory() == 0 {
        return;
    }
    let limit = spec.limits.memory.map_or_else(
        || "the machine has no more".to_owned(),
        |limit| format!("limit {}", output::bytes(limit).replace(".00 ", " ")),
    );
    let what = if code == Some(&CODE_KILLED) {
        ""
    } else {
        "a process of the container was "
    };
    session.output.error(format!("{what}killed: out of memory, {limit}"));
}

/// Removes the cgroups and sockets of this root whose containers run no more: their plywood was killed.
///
/// # Errors
/// Where they cannot be listed, or one cannot be removed.
pub fn sweep_runs(store: &Store) -> Result<()> {
    let uuid = &store.meta().uuid;
    let left = |error: exec::Error| Error::invalid("cannot remove what a killed plywood left").caused_by(error);
    let mut names = Cgroup::names(uuid).map_err(left)?;
    names.extend(detach::sockets(&cgroup::name(uuid, ""))?);
    if names.is_empty() {
        return Ok(());
    }
    let ids = store.containers.keys()?;
    for name in names {
        let begins = name.rsplit('-').next().unwrap_or_default();
        let hold = match ids.iter().find(|id| id.starts_with(begins)) {
            Some(id) => match hold::try_take(store, id)? {
                Some(hold) => Some(hold),
                None => continue,
            },
            // A record goes after its cgroup.
            None => None,
        };
        Cgroup::of(&name).and_then(Cgroup::remove).map_err(left)?;
        detach::remove_socket(&name)?;
        drop(hold);
    }
    Ok(())
}

/// Records how the run ended, and gives it.
fn finish(host: &Host, container: &ContainerRecord, outcome: exec::Result<i32>, closed: Result<()>) -> Outcome {
    let code = match (&outcome, &closed) {
        (Err(error), _) => error.exit_code(),
        // The command's own code means nothing where its writes did not reach the disk.
        (Ok(_), Err(_)) => CODE_FAILED,
        (Ok(code), Ok(())) => *code,
    };
    let recorded = record(&host.store, container, ContainerState::Exited { code, ended_at: now() });
    let code = exit_code(outcome.map_err(failure)?);
    closed.map_err(|error| before_command(lost_writes(container, error)))?;
    recorded.map_err(before_command)?;
    Ok(code)
}

fn lost_writes(container: &ContainerRecord, error: Error) -> Error {
    let name = &container.name;
    let hint = error.hint().unwrap_or("the kernel's log (dmesg) says what happened");
    let hint = format!("{hint}; plywood mount {name} shows what was kept, plywood rm {name} frees its space");
    Error::new(
        error.kind(),
        format!("what container {name} wrote could not all be kept"),
    )
    .caused_by(error)
    .hinted(hint)
}

/// An error before the command ran, as `run` and `start` end with it.
pub fn before_command(error: Error) -> Failure {
    Failure::from(error).with_code(BEFORE_COMMAND)
}

fn record(store: &Store, container: &ContainerRecord, state: ContainerState) -> Result<()> {
    let lock = store.exclusive()?;
    store.containers.put(
        &lock,
        &ContainerRecord {
            state,
            ..container.clone()
        },
    )?;
    lock.done()
}

/// A failed run, as `run` and `start` end with it.
pub fn failure(error: exec::Error) -> Failure {
    let hint = match error.stage() {
        Stage::Command if error.errno().is_some_and(|errno| errno == Errno::NOENT) => Some(
            "the image has no such command in its PATH, or the script's interpreter or the program's loader is missing"
                .to_owned(),
        ),
        Stage::Command if error.errno().is_some_and(|errno| errno == Errno::NOEXEC) => {
            Some("it is made for another processor, or a script without #! line".to_owned())
        }
        Stage::User => {
            Some("users are looked up in the image's own /etc/passwd and /etc/group; a number always works".to_owned())
        }
        _ => None,
    };
    let code = exit_code(error.exit_code());
    Failure::of(error, code, hint)
}

/// A command's exit code, as plywood's own.
pub fn exit_code(code: i32) -> u8 {
    u8::try_from(code)
        .or(u8::try_from(CODE_FAILED))
        .unwrap_or(BEFORE_COMMAND)
}

/// The document that a container's record keeps of how to run it.
///
/// # Errors
/// None that can happen: a spec is text and numbers.
pub fn document(spec: &Spec) -> Result<serde_json::Value> {
    as_json(spec)
}

fn as_json(document: &impl Serialize) -> Result<serde_json::Value> {
    serde_json::to_value(document).map_err(|error| Error::invalid("cannot keep the run as JSON").caused_by(error))
}

/// What plywood made in a running container's filesystem to mount on: no change of the container's.
///
/// # Errors
/// Incompatible where another plywood wrote it in words that this one does not know.
pub fn recorded_made(container: &ContainerRecord) -> Result<Vec<Made>> {
    let ContainerState::Running { made: Some(made), .. } = &container.state else {
        return Ok(Vec::new());
    };
    serde_json::from_value(made.clone()).map_err(|error| unreadable(container, error))
}

/// Takes out of a container that does not run what a killed plywood had made in it to mount on, and has left there.
/// The caller holds it.
///
/// # Errors
/// Where it cannot be mounted.
pub fn clear_left(host: &Host, container: &ContainerRecord) -> Result<()> {
    let left = recorded_made(container)?;
    if left.is_empty() {
        return Ok(());
    }
    let mounted = host.snapshotter.mount(&container.id, Access::ReadWrite)?;
    exec::remove_made(mounted.dir(), mounted.path(), &left);
    mounted.close()
}

fn unreadable(container: &ContainerRecord, error: serde_json::Error) -> Error {
    Error::new(
        Kind::Incompatible,
        format!("cannot read how container {} is to be run", container.name),
    )
    .caused_by(error)
}

/// The spec that a container was made with.
///
/// # Errors
/// Incompatible where another plywood wrote it in words that this one does not know.
pub fn recorded_spec(container: &ContainerRecord) -> Result<Spec> {
    serde_json::from_value(container.spec.clone()).map_err(|error| unreadable(container, error))
}
