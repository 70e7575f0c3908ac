//! The last steps of `run` and `exec`, from *go* to execve: working directory, limits,
//! user and capabilities, streams, filter.

use std::os::fd::{BorrowedFd, OwnedFd};

use super::channel::Channel;
use super::error::{Attempt, Error, Result, Stage};
use super::leave::{self, FIRST_OTHER};
use super::rlimit::{self, Limit};
use super::seccomp::Filter;
use super::spec::Spec;
use super::streams::Arranged;
use super::user::User;
use super::{command, ids, init, privilege};
use crate::explain;
use crate::sys::close_range;

/// What they need.
pub(super) struct Last<'a> {
    pub(super) spec: &'a Spec,
    pub(super) filter: Option<&'a Filter>,
    pub(super) user: User,
    pub(super) working_dir: OwnedFd,
    pub(super) streams: Arranged,
    /// The user namespace to enter: a handle on it, or on a process in it.
    pub(super) users: Option<BorrowedFd<'a>>,
    /// The mounts are to belong to it: they were made for this command.
    pub(super) own_mounts: bool,
}

impl Last<'_> {
    /// Takes them. Gives the exit code where this process did not become the command.
    pub(super) fn take(self, channel: &Channel) -> i32 {
        let spec = self.spec;
        let command = |env: &[String]| channel.fail(command::execute(&spec.args, env));
        let ended = self.prepare(channel).and_then(|env| match spec.init {
            true => init::run(spec.terminal, || command(&env)),
            false => Ok(command(&env)),
        });
        ended.unwrap_or_else(|error| channel.fail(error))
    }

    /// All but execve; gives the command's environment.
    fn prepare(self, channel: &Channel) -> Result<Vec<String>> {
        let (spec, user) = (self.spec, &self.user);
        let env = with_home(&spec.env, user);
        let limits = rlimit::chosen(&spec.ulimits);
        explain_steps(spec, self.filter, &env, user, &limits);
        enter_folder(&self.working_dir)?;
        // While it may raise them still.
        rlimit::set(&limits)?;
        if let Some(users) = self.users {
            ids::enter(users, self.own_mounts)?;
        }
        let last = privilege::become_user(user, spec, self.filter)?;
        // Becoming another user has cleared it; plywood may have died meanwhile.
        leave::stay_hidden()?;
        if !channel.is_open() {
            return Err(plywood_is_gone());
        }
        self.streams.take_places()?;
        close_range::close_on_exec(FIRST_OTHER, u32::MAX)
            .attempt(Stage::Namespaces, || "close descriptors".to_owned())?;
        last.take()?;
        Ok(env)
    }
}

/// Waits until plywood says *go*.
pub(super) fn wait_for_go(channel: &Channel) -> Result<()> {
    match channel.wait() {
        true => Ok(()),
        false => Err(plywood_is_gone()),
    }
}

/// Tells what follows while standard error is still plywood's.
fn explain_steps(spec: &Spec, filter: Option<&Filter>, env: &[String], user: &User, limits: &[Limit]) {
    explain::step(|| format!("cd {}", explain::quote(&spec.working_dir)));
    if let Some(filter) = filter {
        let length = filter.instructions();
        explain::step(|| format!("# plywood filters the command's system calls: {length} instructions of BPF"));
    }
    explain::step(|| {
        let words = |words: &[String]| words.iter().map(explain::quote).collect::<Vec<_>>().join(" ");
        let (limits, user) = (rlimit::command(limits), privilege::command(user, spec));
        let enter = match spec.ids {
            Some(_) => "nsenter --user=/proc/self/fd/9 unshare --mount ",
            None => "",
        };
        format!(
            "exec {enter}env -i {} {limits} {user} {}",
            words(env),
            words(&spec.args)
        )
    });
}

fn plywood_is_gone() -> Error {
    Error::new(Stage::Supervision, "start the command: plywood is gone")
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
