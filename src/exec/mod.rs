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
//!   channel: go ----------------------------->  privilege, command: execve
//!   supervise: terminal, signals, exit code
//!   leftover: mount targets go away again
//! ```
//!
//! A cgroup is entered by the parent between *ready* and *go*; a bridge is
//! attached there too. They are not here yet.

pub mod capability;
mod cgroup_view;
mod channel;
mod child;
mod command;
pub mod error;
mod files;
mod leftover;
pub mod limits;
mod masks;
mod mounts;
mod privilege;
mod rootfs;
pub mod sealed;
pub mod seccomp;
pub mod spec;
pub mod state;
mod supervise;
mod terminal;
mod tree;
pub mod user;

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use nix::sched::CloneFlags;
use nix::unistd::Pid;

pub use command::DEFAULT_PATH;
pub use error::{Error, Result, Stage};

use crate::explain;
use crate::sys::fork;
use channel::{Channel, Message};
use error::Attempt;
use spec::{Network, Spec};

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

/// Runs `spec` in the directory `root`, a mounted root filesystem, and gives the
/// command's exit code: its own, or 128+n where signal n ended it.
///
/// `started` is told the process's number (the host's) when all is set up and
/// before the command runs; where it fails, the command never runs. The command
/// and all its children are dead when this returns, and it dies with this process.
///
/// # Errors
/// With the exit code that says how far it came: see [`Error::exit_code`].
pub fn run(
    root: &Path,
    spec: &Spec,
    streams: Streams<'_>,
    started: impl FnOnce(u32) -> crate::error::Result<()>,
) -> Result<i32> {
    spec.check()?;
    let files = files::generate(spec)?;
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
        streams,
    };

    let pid = fork_into_namespaces(spec.network, || child::live(&plan, &theirs))?;
    drop(theirs);
    let child = supervise::Child::new(pid)?;
    let (made, master) = match ours.receive()? {
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
    let outcome = let_run(&child, &ours, spec, streams, master, &signals, started);
    // Where that failed, the child may wait or run still.
    drop(child);
    leftover::remove(folder.as_fd(), root, &made);
    outcome
}

/// From *ready* to the command's end.
fn let_run(
    child: &supervise::Child,
    channel: &Channel,
    spec: &Spec,
    streams: Streams<'_>,
    master: Option<std::os::fd::OwnedFd>,
    signals: &supervise::Signals,
    started: impl FnOnce(u32) -> crate::error::Result<()>,
) -> Result<i32> {
    let stdin = spec.stdin.then_some(streams.stdin);
    let relay = master
        .map(|master| terminal::Relay::new(master, stdin, streams.stdout))
        .transpose()?;
    if let Some(signal) = signals.early_end() {
        return Ok(128 + signal as i32);
    }
    started(child.pid())?;
    channel.release()?;
    // The end of file says that execve has closed the child's end.
    if let Some((Message::Failed(error), _)) = channel.receive()? {
        child.wait()?;
        return Err(error.into());
    }
    supervise::watch(child, signals, relay)
}

/// Forks a child that is the first process of a new pid namespace.
fn fork_into_namespaces(network: Network, child: impl FnOnce() -> i32) -> Result<Pid> {
    explain::step(|| {
        let net = if network == Network::None { " --net" } else { "" };
        format!("unshare --fork --kill-child --pid --mount --uts --ipc{net} setsid sh")
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
