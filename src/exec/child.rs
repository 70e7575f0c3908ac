//! The child: one straight line from fork to execve.
//!
//! The order is the safety: foreign descriptors first, then namespaces, then
//! sources of the host by handle, then pivot_root, and only then anything that
//! the image has a say in. The command starts when the parent says so.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::sched::CloneFlags;
use rustix::fs::{Mode, Uid};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::process::{DumpableBehavior, Signal};

use super::cgroup_view::View;
use super::channel::{Channel, Message};
use super::error::{Attempt, Error, Result, Stage};
use super::files::Generated;
use super::limits::Limit;
use super::rootfs::{self, Devices, HostMount};
use super::seccomp::Filter;
use super::spec::{Network, Spec};
use super::tree::Tree;
use super::user::{self, User};
use super::{command, limits, privilege};
use crate::explain;
use crate::sys::{close_range, netdevice, signal};

/// The lowest descriptor that is not a standard stream.
const FIRST_OTHER: u32 = 3;

/// Everything that the child needs to know.
#[derive(Debug)]
pub(super) struct Plan<'a> {
    pub(super) root: &'a Path,
    pub(super) spec: &'a Spec,
    pub(super) files: &'a [Generated],
    pub(super) filter: Option<&'a Filter>,
    pub(super) streams: super::Streams<'a>,
}

/// The whole life of the child. Gives its exit code where it did not become the command.
pub(super) fn live(plan: &Plan<'_>, channel: &Channel) -> i32 {
    let error = match set_up_and_execute(plan, channel) {
        Ok(error) | Err(error) => error,
    };
    let code = error.exit_code();
    // Where the parent is gone too, nobody is left to tell.
    let _ = channel.send(&Message::Failed(error.into()), None);
    code
}

/// Gives why execve did not happen.
fn set_up_and_execute(plan: &Plan<'_>, channel: &Channel) -> Result<Error> {
    let spec = plan.spec;
    leave_the_host(plan, channel)?;
    let streams = OwnStreams::copy(plan.streams)?;

    let mounts = HostMounts::open(plan)?;
    rootfs::enter(plan.root, spec.privileged)?;
    let mut tree = Tree::inside()?;
    let devices = rootfs::mount_kernel(&mut tree, spec.privileged)?;
    if !spec.privileged {
        devices.mask()?;
    }
    set_names(spec)?;
    for file in plan.files {
        if has_folder(&tree, file.path) {
            devices.bind_generated(&mut tree, file.path, &file.content)?;
        }
    }
    mounts.mount(&mut tree)?;

    let user = user::look_up(&tree, &spec.user)?;
    let working_dir = tree.folder(Path::new(&spec.working_dir))?;
    let streams = streams.arrange(spec, &devices, &user)?;
    let cgroups = devices.cgroups(spec.privileged)?;
    devices.finish()?;
    if spec.read_only {
        rootfs::make_read_only(&tree)?;
    }

    channel.send(
        &Message::Ready { made: tree.into_made() },
        streams.master.as_ref().map(AsFd::as_fd),
    )?;
    if !channel.wait() {
        return Err(plywood_is_gone());
    }
    cgroups.map_or(Ok(()), View::enter)?;
    let env = with_home(&spec.env, &user);
    let limits = limits::chosen(&spec.limits);
    explain_last_steps(plan, &env, &user, &limits);
    enter_folder(&working_dir)?;
    // While it may raise them still.
    limits::set(&limits)?;
    let last = privilege::become_user(&user, spec, plan.filter)?;
    // Becoming another user has cleared it; plywood may have died meanwhile.
    die_with_parent()?;
    if !channel.is_open() {
        return Err(plywood_is_gone());
    }
    streams.take_places()?;
    close_range::close_on_exec(FIRST_OTHER, u32::MAX).attempt(Stage::Namespaces, || "close descriptors".to_owned())?;
    last.take()?;
    Ok(command::execute(&spec.args, &env))
}

/// Tells what follows while standard error is still plywood's.
fn explain_last_steps(plan: &Plan<'_>, env: &[String], user: &User, limits: &[Limit]) {
    let spec = plan.spec;
    explain::step(|| format!("cd {}", explain::quote(&spec.working_dir)));
    if let Some(filter) = plan.filter {
        let length = filter.instructions();
        explain::step(|| format!("# plywood filters the command's system calls: {length} instructions of BPF"));
    }
    explain::step(|| {
        let words = |words: &[String]| words.iter().map(explain::quote).collect::<Vec<_>>().join(" ");
        let (limits, user) = (limits::command(limits), privilege::command(user, spec));
        format!("exec env -i {} {limits} {user} {}", words(env), words(&spec.args))
    });
}

fn plywood_is_gone() -> Error {
    Error::new(Stage::Supervision, "start the command: plywood is gone")
}

/// Descriptors, signals, namespaces, session: nothing of plywood's is left but the given streams.
fn leave_the_host(plan: &Plan<'_>, channel: &Channel) -> Result<()> {
    let streams = plan.streams;
    close_all_but(&[channel.as_fd(), streams.stdin, streams.stdout, streams.stderr])?;
    signal::default_all();
    let none_blocked = nix::sys::signal::SigSet::empty();
    none_blocked
        .thread_set_mask()
        .attempt(Stage::Namespaces, || "unblock signals".to_owned())?;
    die_with_parent()?;
    limits::set_oom_score(plan.spec.oom_score)?;
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .attempt(Stage::Namespaces, || "forbid tracing".to_owned())?;
    rustix::process::setsid().attempt(Stage::Namespaces, || "start a session".to_owned())?;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    nix::sched::unshare(namespaces(plan.spec.network)).attempt(Stage::Namespaces, || "make namespaces".to_owned())?;
    privilege::own_keyring()
}

/// The namespaces that the child makes by itself; the pid namespace is the parent's doing.
fn namespaces(network: Network) -> CloneFlags {
    let net = match network {
        Network::Host => CloneFlags::empty(),
        Network::None => CloneFlags::CLONE_NEWNET,
    };
    CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWUTS | CloneFlags::CLONE_NEWIPC | net
}

fn die_with_parent() -> Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .attempt(Stage::Namespaces, || "tie the container to plywood".to_owned())
}

/// Closes everything but standard error, for `--explain`, and `keep`.
fn close_all_but(keep: &[BorrowedFd<'_>]) -> Result<()> {
    let mut keep: Vec<u32> = keep
        .iter()
        .filter_map(|handle| u32::try_from(handle.as_raw_fd()).ok())
        .collect();
    keep.sort_unstable();
    let at = || "close descriptors".to_owned();
    let mut first = FIRST_OTHER;
    for kept in keep.into_iter().filter(|kept| *kept >= FIRST_OTHER) {
        if kept > first {
            close_range::close(first, kept - 1).attempt(Stage::Namespaces, at)?;
        }
        first = first.max(kept + 1);
    }
    close_range::close(first, u32::MAX).attempt(Stage::Namespaces, at)
}

fn set_names(spec: &Spec) -> Result<()> {
    explain::step(|| format!("hostname {}", explain::quote(&spec.hostname)));
    rustix::system::sethostname(spec.hostname.as_bytes())
        .attempt(Stage::Namespaces, || format!("set the host name {:?}", spec.hostname))?;
    if spec.network == Network::None {
        explain::step(|| "ip link set lo up".to_owned());
        let at = || "bring the loopback interface up".to_owned();
        let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)
            .attempt(Stage::Namespaces, at)?;
        netdevice::loopback_up(&socket).attempt(Stage::Namespaces, at)?;
    }
    Ok(())
}

/// Whether the image has the folder that `path` lies in: an image without `/etc` is not given one.
fn has_folder(tree: &Tree, path: &str) -> bool {
    let folder = Path::new(path)
        .parent()
        .and_then(|folder| folder.strip_prefix("/").ok());
    folder.is_some_and(|folder| {
        let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC;
        rustix::fs::openat2(
            tree.root(),
            folder,
            flags,
            Mode::empty(),
            rustix::fs::ResolveFlags::IN_ROOT,
        )
        .is_ok()
    })
}

/// Changes into the working directory and makes sure that it lies in the container.
fn enter_folder(folder: &OwnedFd) -> Result<()> {
    let at = || "change into the working directory".to_owned();
    rustix::process::fchdir(folder).attempt(Stage::Root, at)?;
    let here = rustix::process::getcwd(Vec::new()).attempt(Stage::Root, at)?;
    // The kernel says "(unreachable)/…" for a directory outside of the root.
    if here.to_bytes().first() == Some(&b'/') {
        Ok(())
    } else {
        Err(Error::new(
            Stage::Root,
            "change into the working directory: it is outside of the container",
        ))
    }
}

/// The environment, with `HOME` from the image's passwd file where nothing else set it.
fn with_home(env: &[String], user: &User) -> Vec<String> {
    let mut env = env.to_vec();
    if !env.iter().any(|entry| entry.starts_with("HOME=")) {
        env.push(format!("HOME={}", user.home));
    }
    env
}

/// Mounts that the user asked for, their sources opened while the host's tree is there.
struct HostMounts<'a> {
    binds: Vec<(&'a Path, Option<HostMount>)>,
}

impl<'a> HostMounts<'a> {
    fn open(plan: &'a Plan<'_>) -> Result<Self> {
        let spec = plan.spec;
        let mut binds = Vec::new();
        for bind in &spec.binds {
            binds.push((
                bind.target.as_path(),
                Some(HostMount::open(plan.root, bind, spec.privileged)?),
            ));
        }
        binds.extend(spec.tmpfs.iter().map(|path| (Path::new(path), None)));
        // /a before /a/b, or it would hide it.
        binds.sort_by_key(|(path, _)| path.components().count());
        Ok(Self { binds })
    }

    fn mount(&self, tree: &mut Tree) -> Result<()> {
        for (path, bind) in &self.binds {
            match bind {
                Some(bind) => bind.mount_on(tree, path)?,
                None => rootfs::mount_tmpfs(tree, path)?,
            }
        }
        Ok(())
    }
}

/// The given streams, moved out of the way of 0, 1 and 2.
struct OwnStreams {
    stdin: OwnedFd,
    stdout: OwnedFd,
    stderr: OwnedFd,
}

/// The command's streams, and its terminal's other end.
struct Arranged {
    stdin: OwnedFd,
    stdout: OwnedFd,
    stderr: OwnedFd,
    master: Option<OwnedFd>,
}

impl OwnStreams {
    fn copy(streams: super::Streams<'_>) -> Result<Self> {
        let copy = |stream: BorrowedFd<'_>| {
            stream
                .try_clone_to_owned()
                .attempt(Stage::Namespaces, || "copy a stream".to_owned())
        };
        Ok(Self {
            stdin: copy(streams.stdin)?,
            stdout: copy(streams.stdout)?,
            stderr: copy(streams.stderr)?,
        })
    }

    fn arrange(self, spec: &Spec, devices: &Devices, user: &User) -> Result<Arranged> {
        if spec.terminal {
            let (master, slave) = devices.open_terminal(Uid::from_raw(user.uid))?;
            rustix::process::ioctl_tiocsctty(&slave)
                .attempt(Stage::Terminal, || "make it the session's terminal".to_owned())?;
            let copy = || {
                slave
                    .try_clone()
                    .attempt(Stage::Terminal, || "copy a stream".to_owned())
            };
            return Ok(Arranged {
                stdin: copy()?,
                stdout: copy()?,
                stderr: slave,
                master: Some(master),
            });
        }
        let stdin = if spec.stdin { self.stdin } else { devices.open_null()? };
        Ok(Arranged {
            stdin,
            stdout: self.stdout,
            stderr: self.stderr,
            master: None,
        })
    }
}

impl Arranged {
    fn take_places(&self) -> Result<()> {
        let at = || "connect the streams".to_owned();
        nix::unistd::dup2_stdin(&self.stdin).attempt(Stage::Namespaces, at)?;
        nix::unistd::dup2_stdout(&self.stdout).attempt(Stage::Namespaces, at)?;
        nix::unistd::dup2_stderr(&self.stderr).attempt(Stage::Namespaces, at)
    }
}
