//! `--userns auto`: the container's users are others than the host's.
//!
//! A container has a range of the host's user and group numbers ([`IdRange`]), and its root is the first of them.
//! Files keep the image's owners on the disk: the mount shows them shifted into the range (an idmapped mount), and
//! what is made through it is written shifted back.
//!
//! ```text
//! plywood                                    a holder, for a moment
//!   fork -------------------------------------> unshare: user
//!   /proc/<holder>/uid_map, gid_map
//!   go ---------------------------------------> root of it; unshare: net, uts, ipc
//!   handles on the four namespaces, which live by them
//!   end --------------------------------------> ends
//! ```
//!
//! The container's first process mounts and makes devices with the host's rights, as host user *first*
//! ([`act_as`]), so that what it makes belongs to the container's root. It enters the user namespace right
//! before it becomes the command's user ([`enter`]), and loses all other rights with that.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::Pid;
use rustix::io::Errno;
use rustix::process::{DumpableBehavior, Gid, Uid};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};
use serde::{Deserialize, Serialize};

use super::error::{Attempt, Error, Result, Stage};
use super::leave;
use crate::error::Context;
use crate::explain;
use crate::sys::{file_user, fork};

/// Numbers of users that a container has, and as many of groups.
pub const COUNT: u32 = 65536;

/// The host's user and group numbers of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdRange {
    /// The container's root.
    pub first: u32,
    /// How many.
    pub count: u32,
}

impl IdRange {
    /// The host's number of the container's `id`; none for one that it does not have.
    pub fn host(self, id: u32) -> Option<u32> {
        (id < self.count).then(|| self.first.checked_add(id)).flatten()
    }

    /// Whether a number is in both.
    pub fn overlaps(self, other: Self) -> bool {
        let end = |range: Self| u64::from(range.first) + u64::from(range.count);
        u64::from(self.first) < end(other) && u64::from(other.first) < end(self)
    }

    /// Whether the kernel can map it, and host root is not in it.
    pub(super) fn check(self) -> Result<()> {
        match self.first.checked_add(self.count) {
            Some(_) if self.first > 0 && self.count > 0 => Ok(()),
            _ => Err(Error::new(
                Stage::Request,
                format!("map {} users from {} on", self.count, self.first),
            )),
        }
    }

    /// user_namespaces(7)'s `uid_map` and `gid_map`.
    fn map(self) -> String {
        format!("0 {} {}", self.first, self.count)
    }
}

/// A user namespace for one run, and the namespaces that belong to it.
#[derive(Debug)]
pub struct UserNamespace {
    range: IdRange,
    user: OwnedFd,
    network: OwnedFd,
    uts: OwnedFd,
    ipc: OwnedFd,
}

/// A user namespace, and whether the root filesystem shows its users already.
#[derive(Debug, Clone, Copy)]
pub struct Users<'a> {
    /// The namespace.
    pub namespace: &'a UserNamespace,
    /// Else the container's first process has it shown so.
    pub root_is_mapped: bool,
}

impl UserNamespace {
    /// Makes one with this range, with a network namespace that has nothing but a loopback device, which is down.
    ///
    /// # Errors
    /// The kernel's: it has no user namespaces, or no more of them.
    pub fn make(range: IdRange) -> Result<Self> {
        range.check()?;
        explain::step(|| "unshare --user sleep infinity & users=$!; sleep 0.1".to_owned());
        let mut holder = Holder::start()?;
        let folder = format!("/proc/{}", holder.pid);
        for file in ["uid_map", "gid_map"] {
            explain::step(|| format!("echo {} > /proc/$users/{file}", range.map()));
            let path = format!("{folder}/{file}");
            std::fs::write(&path, range.map()).attempt(Stage::Namespaces, || format!("map users: write {path}"))?;
        }
        explain::step(|| {
            "nsenter --target $users --user unshare --net --uts --ipc sleep infinity & others=$!; sleep 0.1; exec 9< /proc/$users/ns/user".to_owned()
        });
        holder.go_on()?;
        let open = |name: &str| {
            let path = format!("{folder}/ns/{name}");
            File::open(&path)
                .map(OwnedFd::from)
                .attempt(Stage::Namespaces, || format!("open {path}"))
        };
        Ok(Self {
            range,
            user: open("user")?,
            network: open("net")?,
            uts: open("uts")?,
            ipc: open("ipc")?,
        })
    }

    /// The host's numbers.
    pub fn range(&self) -> IdRange {
        self.range
    }

    /// The network namespace that belongs to it, for one who furnishes it.
    pub fn network(&self) -> BorrowedFd<'_> {
        self.network.as_fd()
    }

    /// The user namespace.
    pub fn user(&self) -> BorrowedFd<'_> {
        self.user.as_fd()
    }

    /// All that a child needs of it.
    pub(super) fn handles(&self) -> [BorrowedFd<'_>; 4] {
        [&self.user, &self.network, &self.uts, &self.ipc].map(AsFd::as_fd)
    }

    /// Moves this process into its namespaces but for the user namespace, and the network's only where `network`.
    pub(super) fn join_others(&self, network: bool) -> Result<()> {
        let at = || "join the namespaces of the container's users".to_owned();
        setns(&self.uts, CloneFlags::CLONE_NEWUTS).attempt(Stage::Namespaces, at)?;
        setns(&self.ipc, CloneFlags::CLONE_NEWIPC).attempt(Stage::Namespaces, at)?;
        match network {
            true => setns(&self.network, CloneFlags::CLONE_NEWNET).attempt(Stage::Namespaces, at),
            false => Ok(()),
        }
    }
}

impl Drop for UserNamespace {
    fn drop(&mut self) {
        // The processes that a person has them by.
        explain::step(|| "kill $others $users; exec 9<&-".to_owned());
    }
}

/// The process that makes the namespaces, and that they need until somebody has a handle on them.
struct Holder {
    pid: Pid,
    line: UnixStream,
}

impl Holder {
    /// Starts it, and waits until it has the user namespace.
    fn start() -> Result<Self> {
        let at = || "make a user namespace".to_owned();
        let (line, theirs) = UnixStream::pair().attempt(Stage::Namespaces, at)?;
        let pid = fork::fork(|| hold(&theirs)).attempt(Stage::Namespaces, at)?;
        let mut holder = Self { pid, line };
        drop(theirs);
        holder.answer()?;
        Ok(holder)
    }

    /// Has it make the other namespaces, now that its users are mapped.
    fn go_on(&mut self) -> Result<()> {
        let at = || "make the namespaces of the container's users".to_owned();
        self.line.write_all(&[0]).attempt(Stage::Namespaces, at)?;
        self.answer()
    }

    /// What its step came to: the kernel's error number, or zero.
    fn answer(&mut self) -> Result<()> {
        let at = || "make a user namespace".to_owned();
        let mut code = [0; 4];
        self.line.read_exact(&mut code).attempt(Stage::Namespaces, at)?;
        match i32::from_le_bytes(code) {
            0 => Ok(()),
            code if Errno::from_raw_os_error(code) == Errno::NOSPC => Err(Error::new(
                Stage::Namespaces,
                "make a user namespace: the kernel allows no more (sysctl user.max_user_namespaces)",
            )),
            code => Err(std::io::Error::from_raw_os_error(code)).attempt(Stage::Namespaces, at),
        }
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = nix::sys::signal::kill(self.pid, nix::sys::signal::Signal::SIGKILL);
        let _ = nix::sys::wait::waitpid(self.pid, None);
    }
}

/// The holder's life.
fn hold(mut line: &UnixStream) -> i32 {
    let own = leave::close_all_but(&[line.as_fd()]).and_then(|()| leave::die_with_parent());
    let made = own.and_then(|()| {
        unshare(CloneFlags::CLONE_NEWUSER).attempt(Stage::Namespaces, || "make a user namespace".to_owned())
    });
    let code = made
        .err()
        .map_or(0, |error| error.errno().unwrap_or(Errno::IO).raw_os_error());
    let mut order = [0];
    if line.write_all(&code.to_le_bytes()).is_err() || code != 0 || line.read_exact(&mut order).is_err() {
        return 1;
    }
    // As its root: what the kernel makes with an ipc namespace belongs to who makes it.
    let others = become_root().and_then(|()| {
        let others = CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWUTS | CloneFlags::CLONE_NEWIPC;
        unshare(others).map_err(|error| Errno::from_raw_os_error(error as i32))
    });
    let code = others.err().map_or(0, Errno::raw_os_error);
    let _ = line.write_all(&code.to_le_bytes());
    // Until plywood has its handles.
    let _ = line.read(&mut order);
    0
}

/// Becomes the root of the user namespace that this process is in.
///
/// # Errors
/// The kernel's.
pub fn become_root() -> Result<(), Errno> {
    set_thread_groups(&[])?;
    set_thread_res_gid(Gid::ROOT, Gid::ROOT, Gid::ROOT)?;
    set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT)
}

/// Enters the user namespace `namespace` (a handle on it, or on a process in it) for good: with all rights in it,
/// and none outside. With `own_mounts` the mounts are its own too: whoever has `CAP_SYS_ADMIN` in it can mount, and
/// undo nothing of plywood's.
pub(super) fn enter(namespace: BorrowedFd<'_>, own_mounts: bool) -> Result<()> {
    let at = || "enter the user namespace".to_owned();
    setns(namespace, CloneFlags::CLONE_NEWUSER).attempt(Stage::User, at)?;
    leave::stay_hidden()?;
    match own_mounts {
        true => unshare(CloneFlags::CLONE_NEWNS).attempt(Stage::User, at),
        false => Ok(()),
    }
}

/// Calls `work` as root of the user namespace that the process `process` is in, in a process of its own, which has
/// no rights elsewhere: owners are seen, and given, as that one has them. What it fails with comes back as text.
///
/// # Errors
/// The kernel's; what `work` failed with.
pub fn as_root_of(
    process: BorrowedFd<'_>,
    work: impl FnOnce() -> crate::error::Result<()>,
) -> crate::error::Result<()> {
    let what = "the container's user namespace";
    let (mut line, mut theirs) = UnixStream::pair().context("work in", what)?;
    let child = || {
        let entered = || -> std::io::Result<()> {
            rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
            setns(process, CloneFlags::CLONE_NEWUSER)?;
            rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
            Ok(become_root()?)
        };
        let done = entered().context("enter", what).and_then(|()| work());
        let Err(error) = done else { return 0 };
        let mut told = error.to_string();
        let mut cause = std::error::Error::source(&error);
        while let Some(deeper) = cause {
            told = format!("{told}: {deeper}");
            cause = deeper.source();
        }
        let _ = theirs.write_all(told.as_bytes());
        1
    };
    let pid = fork::fork(child).context("work in", what)?;
    drop(theirs);
    let mut told = String::new();
    let read = line.read_to_string(&mut told);
    let ended = nix::sys::wait::waitpid(pid, None).map_err(std::io::Error::from);
    read.context("hear from", what)?;
    match ended.context("wait for", what)? {
        nix::sys::wait::WaitStatus::Exited(_, 0) => Ok(()),
        _ if told.is_empty() => Err(crate::error::Error::invalid(format!(
            "the process in {what} was killed"
        ))),
        _ => Err(crate::error::Error::invalid(told)),
    }
}

/// From here on this process's files belong to the container's root; its rights stay the host's.
pub(super) fn act_as(range: IdRange) -> Result<()> {
    let first = range.first;
    explain::step(|| format!("# plywood makes what follows as host user {first}: the container's root"));
    file_user::make_files_as(range.first)
        .attempt(Stage::Namespaces, || "make files as the container's root".to_owned())?;
    leave::stay_hidden()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_has_its_numbers_and_no_others() {
        let range = |first, count| IdRange { first, count };
        let own = range(524_288, COUNT);
        assert_eq!(own.host(0), Some(524_288));
        assert_eq!(own.host(65_535), Some(589_823));
        assert_eq!(own.host(65_536), None);
        let after = range(589_824, 1);
        assert!(own.overlaps(own) && !own.overlaps(after) && !after.overlaps(own));
        assert!(own.overlaps(range(589_823, 1)));
    }

    #[test]
    fn a_range_with_the_hosts_root_or_past_the_end_is_refused() {
        for (first, count) in [(0, 10), (1, 0), (u32::MAX, 1), (u32::MAX - 5, COUNT)] {
            assert_eq!(IdRange { first, count }.check().unwrap_err().exit_code(), 125);
        }
    }
}
