//! A command more in a container that runs (`exec`), and a program of the host's in
//! some of its namespaces (`nsenter`).
//!
//! `exec` joins all namespaces of the container's first process by its pidfd, and
//! has the same cgroup, capabilities, filter and limits; from *ready* on it goes the way
//! of [`super::run`]. The container may have changed its `/dev` since it began, so
//! terminal and null device are opened by handle and looked at.
//!
//! `nsenter` has no mount namespace to offer: a program with the host's rights would
//! load the image's libraries there.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::sched::{CloneFlags, setns};
use nix::unistd::Pid;
use rustix::fs::{FileType, Gid, Mode, OFlags, ResolveFlags, Uid};

use super::cgroup::Cgroup;
use super::channel::{self, Channel, Message};
use super::error::{Attempt, Error, Result, Stage};
use super::last::{self, Last};
use super::seccomp::Filter;
use super::spec::Spec;
use super::streams::{Devices, OwnStreams};
use super::tree::Tree;
use super::{Attendant, Streams, follow, leave, privilege, supervise, user};
use crate::explain;
use crate::sys::{fork, openat2, signal};

/// What `statfs` says of a devpts (linux/magic.h).
const DEVPTS_SUPER_MAGIC: rustix::fs::FsWord = 0x1cd1;
/// The null device's numbers.
const NULL: (u32, u32) = (1, 3);

/// Runs `spec` in the namespaces of `process`, the pidfd of a running container's first process `pid`, and gives
/// the command's exit code.
///
/// # Errors
/// As for [`super::run`].
pub fn join(process: BorrowedFd<'_>, pid: u32, cgroup: &Cgroup, spec: &Spec, streams: Streams<'_>) -> Result<i32> {
    spec.check()?;
    let filter = spec.seccomp.filter(spec.capabilities)?;
    let signals = supervise::Signals::take()?;
    let (ours, theirs) = channel::pair()?;
    explain::step(|| format!("nsenter --target {pid} --pid --mount --uts --ipc --net setsid sh"));
    let forked = fork_in_pid_namespace(process, || {
        match set_up(process, cgroup, spec, filter.as_ref(), streams, &theirs) {
            Ok(last) => last.take(&theirs),
            Err(error) => theirs.fail(error),
        }
    })?;
    drop(theirs);
    let child = supervise::Child::new(forked)?;
    let mut attendant = Attendant::Caller(streams);
    let (_, outcome) = follow(&child, Some(cgroup), &ours, spec, &mut attendant, &signals, |_, _| {
        Ok(())
    })?;
    outcome
}

/// Forks a child into the pid namespace of `process`.
fn fork_in_pid_namespace(process: BorrowedFd<'_>, child: impl FnOnce() -> i32) -> Result<Pid> {
    let at = || "join the container's pid namespace".to_owned();
    let own = std::fs::File::open("/proc/self/ns/pid").attempt(Stage::Namespaces, at)?;
    setns(process, CloneFlags::CLONE_NEWPID).attempt(Stage::Namespaces, at)?;
    let forked = fork::fork(child).attempt(Stage::Namespaces, || "fork".to_owned());
    let back = setns(&own, CloneFlags::CLONE_NEWPID)
        .attempt(Stage::Namespaces, || "return to the host's pid namespace".to_owned());
    let pid = forked?;
    back.map(|()| pid)
}

/// As far as the command's last steps.
fn set_up<'a>(
    process: BorrowedFd<'a>,
    cgroup: &Cgroup,
    spec: &'a Spec,
    filter: Option<&'a Filter>,
    given: Streams<'_>,
    channel: &Channel,
) -> Result<Last<'a>> {
    leave::the_host(
        &[channel.as_fd(), process, given.stdin, given.stdout, given.stderr],
        spec,
    )?;
    let entrances = cgroup.entrances()?;
    privilege::own_keyring()?;
    let streams = OwnStreams::copy(given)?;
    let namespaces = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWCGROUP;
    setns(process, namespaces).attempt(Stage::Namespaces, || "join the container's namespaces".to_owned())?;
    let tree = Tree::inside()?;
    let user = user::look_up(&tree, &spec.user)?;
    user.check(spec.ids)?;
    let working_dir = open_folder(&tree, &spec.working_dir)?;
    let streams = streams.arrange(spec, &Inside { tree: &tree }, &user)?;
    channel.send(
        &Message::Ready { made: Vec::new() },
        streams.master.as_ref().map(AsFd::as_fd),
    )?;
    last::wait_for_go(channel)?;
    entrances.enter()?;
    Ok(Last {
        spec,
        filter,
        user,
        working_dir,
        streams,
        users: spec.ids.map(|_| process),
        own_mounts: false,
    })
}

fn open_folder(tree: &Tree, path: &str) -> Result<OwnedFd> {
    let path = Path::new(path).strip_prefix("/").unwrap_or(Path::new(path));
    let path = if path.as_os_str().is_empty() {
        Path::new(".")
    } else {
        path
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat2::open(
        tree.root(),
        path,
        flags,
        ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
    )
    .attempt(Stage::Root, || {
        format!("open the working directory /{}", path.display())
    })
}

/// The devices of a container that runs, which may have changed what lies at their names.
struct Inside<'a> {
    tree: &'a Tree,
}

impl Inside<'_> {
    fn open(&self, path: &str, flags: OFlags) -> Result<OwnedFd> {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        openat2::open(self.tree.root(), path, flags | OFlags::CLOEXEC, resolve)
            .attempt(Stage::Terminal, || format!("open the container's /{path}"))
    }
}

impl Devices for Inside<'_> {
    fn open_terminal(&self, owner: Uid) -> Result<(OwnedFd, OwnedFd)> {
        let at = || "open a terminal".to_owned();
        let place = self.open("dev/pts", OFlags::PATH | OFlags::DIRECTORY)?;
        let kind = rustix::fs::fstatfs(&place).attempt(Stage::Terminal, at)?.f_type;
        if kind != DEVPTS_SUPER_MAGIC {
            return Err(Error::new(
                Stage::Terminal,
                "open a terminal: the container has no devpts at /dev/pts",
            ));
        }
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let master = rustix::fs::openat(&place, "ptmx", flags, Mode::empty()).attempt(Stage::Terminal, at)?;
        rustix::pty::unlockpt(&master).attempt(Stage::Terminal, at)?;
        let flags =
            rustix::pty::OpenptFlags::RDWR | rustix::pty::OpenptFlags::NOCTTY | rustix::pty::OpenptFlags::CLOEXEC;
        let slave = rustix::pty::ioctl_tiocgptpeer(&master, flags).attempt(Stage::Terminal, at)?;
        rustix::fs::fchown(&slave, Some(owner), None::<Gid>)
            .attempt(Stage::Terminal, || "give the terminal to the user".to_owned())?;
        Ok((master, slave))
    }

    fn open_null(&self) -> Result<OwnedFd> {
        let at = || "look at the container's /dev/null".to_owned();
        // By its inode first: opening what the container put there could do anything, or wait for ever.
        let there = self.open("dev/null", OFlags::PATH)?;
        let stat = rustix::fs::fstat(&there).attempt(Stage::Terminal, at)?;
        let numbers = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
        if FileType::from_raw_mode(stat.st_mode) != FileType::CharacterDevice || numbers != NULL {
            return Err(Error::new(
                Stage::Terminal,
                "use the container's /dev/null: it is another file",
            ));
        }
        self.open("dev/null", OFlags::RDWR)
    }
}

/// The namespaces that `nsenter` joins.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Kinds {
    /// Network.
    pub net: bool,
    /// Processes.
    pub pid: bool,
    /// Host name.
    pub uts: bool,
    /// System V IPC and POSIX message queues.
    pub ipc: bool,
    /// Cgroups.
    pub cgroup: bool,
}

impl Kinds {
    fn flags(self) -> CloneFlags {
        let mut flags = CloneFlags::empty();
        flags.set(CloneFlags::CLONE_NEWNET, self.net);
        flags.set(CloneFlags::CLONE_NEWUTS, self.uts);
        flags.set(CloneFlags::CLONE_NEWIPC, self.ipc);
        flags.set(CloneFlags::CLONE_NEWCGROUP, self.cgroup);
        flags
    }

    fn words(self) -> String {
        let all = [
            (self.net, " --net"),
            (self.pid, " --pid"),
            (self.uts, " --uts"),
            (self.ipc, " --ipc"),
            (self.cgroup, " --cgroup"),
        ];
        all.into_iter().filter(|(is, _)| *is).map(|(_, word)| word).collect()
    }
}

/// Runs a program of the host's, with the host's rights and files, in these namespaces of `process`; gives its
/// exit code.
///
/// # Errors
/// Where a namespace cannot be joined, or the program not be executed.
pub fn enter(process: BorrowedFd<'_>, pid: u32, kinds: Kinds, args: &[String], env: &[String]) -> Result<i32> {
    let signals = supervise::Signals::take()?;
    let (ours, theirs) = channel::pair()?;
    explain::step(|| {
        let words: Vec<String> = args.iter().map(explain::quote).collect();
        format!("nsenter --target {pid}{} -- {}", kinds.words(), words.join(" "))
    });
    let child = || theirs.fail(enter_and_become(process, kinds, args, env));
    let forked = match kinds.pid {
        true => fork_in_pid_namespace(process, child)?,
        false => fork::fork(child).attempt(Stage::Namespaces, || "fork".to_owned())?,
    };
    drop(theirs);
    let child = supervise::Child::new(forked)?;
    if let Some((Message::Failed(error), _)) = ours.receive()? {
        child.wait()?;
        return Err(error.into());
    }
    supervise::watch(&child, &signals, supervise::OnSignal::Pass, None)
}

fn enter_and_become(process: BorrowedFd<'_>, kinds: Kinds, args: &[String], env: &[String]) -> Error {
    let ready = || {
        signal::default_all();
        leave::unblock_signals()?;
        leave::die_with_parent()?;
        if kinds.flags().is_empty() {
            return Ok(());
        }
        setns(process, kinds.flags()).attempt(Stage::Namespaces, || "join the container's namespaces".to_owned())
    };
    match ready() {
        Ok(()) => super::command::execute(args, env),
        Err(error) => error,
    }
}
