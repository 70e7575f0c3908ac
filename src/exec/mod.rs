//! Run: a command in an image's root filesystem, in namespaces of its own.
//!
//! pivot_root first, then everything else happens inside; every file from an
//! image is reached by handle; no descriptor leaks. [`spec::Spec`] says what is
//! wanted, checked; [`run`] makes it so and gives the command's exit code.
//!
//! ```text
//! plywood                                   the container's first process
//!   fork, in a new pid namespace ------------> child: close descriptors, mount, uts, ipc, net namespaces
//!                                              rootfs: pivot_root, /proc /sys /dev, masks, host mounts
//!                                              user, working directory, terminal
//!   channel: ready <---------------------------
//!   the verb records the process
//!   channel: go ----------------------------->  cgroup, privilege, command: execve
//!   supervise: terminal, signals, exit code
//!   leftover: mount targets go away again
//! ```
//!
//! A cgroup ([`cgroup`]) is the caller's, and so is a network namespace other than an
//! empty one: both are given with the run's [`Surroundings`]. With users of its own
//! ([`ids`]) the container's first process enters their namespace after *go*.

pub mod attach;
pub mod capability;
pub mod cgroup;
mod channel;
mod child;
mod command;
pub mod device;
pub mod error;
mod files;
pub mod ids;
mod init;
mod join;
mod last;
mod leave;
mod leftover;
pub mod log;
mod masks;
pub mod monitor;
mod mounts;
mod privilege;
pub mod rlimit;
mod rootfs;
pub mod sealed;
pub mod seccomp;
pub mod signals;
pub mod spec;
pub mod state;
mod streams;
mod supervise;
mod terminal;
mod tree;
pub mod user;
mod wire;

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use nix::sched::CloneFlags;
use nix::unistd::Pid;

pub use command::DEFAULT_PATH;
pub use error::{Error, Result, Stage};
pub use join::{Kinds, enter, join};
pub use leftover::{Made, remove as remove_made};

use crate::explain;
use crate::sys::fork;
use cgroup::Cgroup;
use channel::{Channel, Message};
use device::Device;
use error::Attempt;
use ids::Users;
use monitor::Monitor;
use spec::{Network, Spec};
use supervise::OnSignal;

/// What the command reads and writes. With a terminal of its own these are what plywood relays.
#[derive(Debug, Clone, Copy)]
pub struct Streams<'a> {
    /// Passed on where [`Spec::stdin`] says so.
    pub stdin: BorrowedFd<'a>,
    /// Standard output, and a terminal's output.
    pub stdout: BorrowedFd<'a>,
    /// Standard error.
    pub stderr: BorrowedFd<'a>,
}

impl Streams<'static> {
    /// Plywood's own.
    pub fn own() -> Self {
        Self {
            stdin: rustix::stdio::stdin(),
            stdout: rustix::stdio::stdout(),
            stderr: rustix::stdio::stderr(),
        }
    }
}

/// Who is with the command while it runs.
#[derive(Debug)]
pub enum Attendant<'a> {
    /// This process, for whoever called it: the command has its streams.
    Caller(Streams<'a>),
    /// This process, for work of its own: a signal to it is no message to the command, but ends it.
    Owner(Streams<'a>),
    /// This process, as the container's [`Monitor`].
    Monitor(&'a mut Monitor),
}

/// A network namespace for the container's first process to join.
#[derive(Debug, Clone, Copy)]
pub struct Namespace<'a> {
    /// The namespace.
    pub handle: BorrowedFd<'a>,
    /// What a person would call it.
    pub path: &'a str,
}

/// What a run is given besides its spec: made for this one run, and taken away by whoever made it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Surroundings<'a> {
    /// What its processes are in.
    pub cgroup: Option<&'a Cgroup>,
    /// For [`Network::Bridge`] and [`Network::Container`].
    pub network: Option<Namespace<'a>>,
    /// The host's file that is `/etc/hosts`, where it may change while the container runs.
    pub hosts: Option<&'a Path>,
    /// What `/etc/resolv.conf` holds.
    pub resolv_conf: Option<&'a str>,
    /// [`Spec::devices`], looked up.
    pub devices: &'a [Device],
    /// For [`Spec::ids`].
    pub users: Option<Users<'a>>,
    /// The root filesystem goes when the command ends: what is left in it is nobody's.
    pub passes: bool,
}

/// Runs `spec` in the directory `root`, a mounted root filesystem, and gives the
/// command's exit code: its own, or 128+n where signal n ended it.
///
/// `started` is told the process's number (the host's), and what was made in `root` to mount on, when all is set up
/// and before the command runs; where it fails, the command never runs. The command
/// and all its children are dead when this returns, and it dies with this process.
///
/// # Errors
/// With the exit code that says how far it came: see [`Error::exit_code`].
pub fn run(
    root: &Path,
    spec: &Spec,
    surroundings: Surroundings<'_>,
    mut attendant: Attendant<'_>,
    started: impl FnOnce(u32, &[Made]) -> Result<()>,
) -> Result<i32> {
    spec.check()?;
    surroundings.check(spec)?;
    let files = files::generate(spec, surroundings)?;
    let filter = spec.seccomp.filter(spec.capabilities)?;
    let folder = leftover::open_host_folder(root)
        .attempt(Stage::Root, || format!("open the root filesystem {}", root.display()))?;
    let signals = supervise::Signals::take()?;
    let (ours, theirs) = channel::pair()?;
    let plan = child::Plan {
        root,
        spec,
        files: &files,
        filter: filter.as_ref(),
        surroundings,
        streams: attendant.streams()?,
    };

    let pid = fork_into_namespaces(&plan, || child::live(&plan, &theirs))?;
    drop(theirs);
    // Dropped, it kills a child that waits or runs still.
    let child = supervise::Child::new(pid)?;
    let (made, outcome) = follow(
        &child,
        surroundings.cgroup,
        &ours,
        spec,
        &mut attendant,
        &signals,
        started,
    )?;
    if !surroundings.passes {
        leftover::remove(folder.as_fd(), root, &made);
    }
    outcome
}

/// From the fork to the command's end: the mount targets that the child made, and the command's exit code.
fn follow(
    child: &supervise::Child,
    cgroup: Option<&Cgroup>,
    channel: &Channel,
    spec: &Spec,
    attendant: &mut Attendant<'_>,
    signals: &supervise::Signals,
    started: impl FnOnce(u32, &[Made]) -> Result<()>,
) -> Result<(Vec<Made>, Result<i32>)> {
    let (made, master) = match channel.receive()? {
        Some((Message::Ready { made }, master)) => (made, master),
        Some((Message::Failed(error), _)) => {
            child.wait()?;
            return Err(error.into());
        }
        None => {
            return Err(Error::new(
                Stage::Supervision,
                format!("set the container up: it ended with code {}", child.wait()?),
            ));
        }
    };
    cgroup.map_or(Ok(()), |cgroup| cgroup.add(child.pid()))?;
    let started = |pid| started(pid, &made);
    let outcome = match attendant {
        Attendant::Caller(streams) => attend(
            child,
            channel,
            spec,
            *streams,
            master,
            (signals, OnSignal::Pass),
            started,
        ),
        Attendant::Owner(streams) => attend(
            child,
            channel,
            spec,
            *streams,
            master,
            (signals, OnSignal::End),
            started,
        ),
        Attendant::Monitor(monitor) => monitor
            .take(master)
            .and_then(|()| go(child, channel, started))
            .and_then(|()| monitor.begin())
            .and_then(|()| monitor.watch(child, signals)),
    };
    Ok((made, outcome))
}

impl Surroundings<'_> {
    /// Whether they are what the spec needs.
    fn check(&self, spec: &Spec) -> Result<()> {
        if self.users.map(|users| users.namespace.range()) != spec.ids {
            return Err(Error::new(
                Stage::Request,
                "map the container's users: no namespace of theirs was made for the run",
            ));
        }
        let wanted = matches!(spec.network, Network::Bridge | Network::Container(_));
        if wanted == self.network.is_some() {
            return Ok(());
        }
        Err(Error::new(Stage::Request, "join a network: none was made for the run"))
    }
}

impl Attendant<'_> {
    fn streams(&self) -> Result<Streams<'_>> {
        let streams = match self {
            Self::Caller(streams) | Self::Owner(streams) => Some(*streams),
            Self::Monitor(monitor) => monitor.streams(),
        };
        streams.ok_or_else(|| Error::new(Stage::Supervision, "watch a container before its monitor is open"))
    }
}

/// From *ready* to the command's end, with the caller's own streams.
fn attend(
    child: &supervise::Child,
    channel: &Channel,
    spec: &Spec,
    streams: Streams<'_>,
    master: Option<std::os::fd::OwnedFd>,
    (signals, on_signal): (&supervise::Signals, OnSignal),
    started: impl FnOnce(u32) -> Result<()>,
) -> Result<i32> {
    let stdin = spec.stdin.then_some(streams.stdin);
    let relay = master
        .map(|master| terminal::Relay::new(master, stdin, streams.stdout))
        .transpose()?;
    if let Some(signal) = signals.early_end() {
        return Ok(128 + signal as i32);
    }
    go(child, channel, started)?;
    supervise::watch(child, signals, on_signal, relay)
}

/// From *ready* to the command.
fn go(child: &supervise::Child, channel: &Channel, started: impl FnOnce(u32) -> Result<()>) -> Result<()> {
    started(child.pid())?;
    channel.release()?;
    // The end of file says that execve has closed the child's end.
    if let Some((Message::Failed(error), _)) = channel.receive()? {
        child.wait()?;
        return Err(error.into());
    }
    Ok(())
}

/// Forks a child that is the first process of a new pid namespace.
fn fork_into_namespaces(plan: &child::Plan<'_>, child: impl FnOnce() -> i32) -> Result<Pid> {
    explain::step(|| {
        let (join, net) = match (plan.surroundings.network, &plan.spec.network) {
            (Some(network), _) => (format!("nsenter --net={} ", network.path), ""),
            (None, Network::None) => (String::new(), " --net"),
            (None, _) => (String::new(), ""),
        };
        match plan.surroundings.users {
            None => format!("{join}unshare --fork --kill-child --pid --mount --uts --ipc{net} setsid sh"),
            Some(_) => format!(
                "{join}nsenter --target $others{net} --uts --ipc unshare --fork --kill-child --pid --mount setsid sh"
            ),
        }
    });
    let at = || "make a pid namespace".to_owned();
    // Unsharing moves children only; what is forked after this one belongs to the host again.
    let own = std::fs::File::open("/proc/self/ns/pid").attempt(Stage::Namespaces, at)?;
    nix::sched::unshare(CloneFlags::CLONE_NEWPID).attempt(Stage::Namespaces, at)?;
    let forked = fork::fork(child).attempt(Stage::Namespaces, || "fork".to_owned());
    let back = nix::sched::setns(&own, CloneFlags::CLONE_NEWPID)
        .attempt(Stage::Namespaces, || "return to the host's pid namespace".to_owned());
    let pid = forked?;
    back.map(|()| pid)
}
