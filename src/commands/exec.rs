//! `plywood exec`: a command more in a running container; `plywood nsenter`: a program
//! of the host's in a running container's namespaces.

use std::io::IsTerminal;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStringExt;

use crate::cli::{ExecArgs, NsenterArgs};
use crate::commands::container::{self, before_command};
use crate::commands::live::{self, Live};
use crate::commands::{Session, request};
use crate::error::Result;
use crate::exec::cgroup::Cgroup;
use crate::exec::spec::Spec;
use crate::exec::{self, Kinds, Streams};
use crate::failure::{Failure, Outcome};

/// Runs the verb.
///
/// # Errors
/// As for `plywood run`: the command's code, or 125 to 127.
pub fn run(args: &ExecArgs, session: &Session) -> Outcome {
    let host = live::host(session, &args.container).map_err(before_command)?;
    let live = Live::find(&host.store, &args.container).map_err(before_command)?;
    let spec = spec(args, &live).map_err(before_command)?;
    let cgroup = Cgroup::of(&container::cgroup_name(&host.store, &live.record.id)).map_err(container::failure)?;
    if spec.terminal && spec.stdin && !std::io::stdin().is_terminal() {
        session
            .output
            .note("standard input is not a terminal: passing it on as it is");
    }
    let ended = exec::join(live.handle.as_fd(), live.pid, &cgroup, &spec, Streams::own());
    outcome(ended)
}

/// The container's own spec, for another command.
fn spec(args: &ExecArgs, live: &Live) -> Result<Spec> {
    let own = container::recorded_spec(&live.record)?;
    let env = request::more_environment(&own.env, &args.env, args.tty)?;
    Ok(Spec {
        args: args.command.clone(),
        env,
        working_dir: request::working_dir(args.workdir.as_deref(), &own.working_dir)?,
        user: args.user.clone().unwrap_or_else(|| own.user.clone()),
        terminal: args.tty,
        stdin: args.interactive,
        init: false,
        ..own
    })
}

/// Runs the verb.
///
/// # Errors
/// The program's code, or 125 to 127.
pub fn nsenter(args: &NsenterArgs, session: &Session) -> Outcome {
    let host = live::host(session, &args.container).map_err(before_command)?;
    let live = Live::find(&host.store, &args.container).map_err(before_command)?;
    let asked = Kinds {
        net: args.net,
        pid: args.pid,
        uts: args.uts,
        ipc: args.ipc,
        cgroup: args.cgroup,
    };
    let kinds = match asked == Kinds::default() {
        true => Kinds {
            net: true,
            uts: true,
            ipc: true,
            ..asked
        },
        false => asked,
    };
    // The person's own environment: it is their program.
    let env: Vec<String> = std::env::vars_os()
        .filter_map(|(key, value)| {
            let entry = [key.into_vec(), b"=".to_vec(), value.into_vec()].concat();
            String::from_utf8(entry).ok()
        })
        .collect();
    outcome(exec::enter(live.handle.as_fd(), live.pid, kinds, &args.command, &env))
}

fn outcome(ended: exec::Result<i32>) -> Result<u8, Failure> {
    ended.map(container::exit_code).map_err(container::failure)
}
