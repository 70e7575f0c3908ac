//! `plywood attach`: a detached container's terminal, or its streams.

use crate::cli::AttachArgs;
use crate::commands::container::{self, before_command};
use crate::commands::live::{self, Live};
use crate::commands::{Session, detach};
use crate::error::Error;
use crate::exec::Streams;
use crate::exec::attach::{Client, Wishes};
use crate::failure::{OK, Outcome};

/// Runs the verb.
///
/// # Errors
/// 125 where the container does not run, or was not detached; else the command's code.
pub fn run(args: &AttachArgs, session: &Session) -> Outcome {
    let host = live::host(session, &args.container).map_err(before_command)?;
    let live = Live::find(&host.store, &args.container).map_err(before_command)?;
    let spec = container::recorded_spec(&live.record).map_err(before_command)?;
    let keys = detach::detach_keys(&args.detach_keys).map_err(before_command)?;
    let socket = detach::socket(&host.store, &live.record.id).map_err(before_command)?;
    if !socket.exists() {
        let refused = Error::invalid(format!(
            "container {} was not detached: it has its caller's streams",
            live.record.name
        ));
        return Err(before_command(
            refused.hinted("plywood run -d detaches one; plywood exec runs a command beside it"),
        ));
    }
    let client = Client::connect(&socket).map_err(container::failure)?;
    let wishes = Wishes {
        stdin: spec.stdin && !args.no_stdin,
        terminal: spec.terminal,
        signals: args.sig_proxy,
        detach_keys: &keys,
    };
    let code = detach::tell(session, client.attend(Streams::own(), wishes))?;
    if code.is_some() {
        live::wait_for_end(&host.store, &live.record.id, None).map_err(before_command)?;
    }
    Ok(code.unwrap_or(OK))
}
