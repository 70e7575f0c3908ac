//! `plywood completion`: a shell's completion script.

use clap::CommandFactory;

use crate::cli::{Cli, CompletionArgs};
use crate::commands::Session;
use crate::failure::{OK, Outcome};

/// Prints the script.
///
/// # Errors
/// Where standard output cannot be written.
pub fn run(args: &CompletionArgs, session: &Session) -> Outcome {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "plywood", &mut script);
    session.output.bytes(&script)?;
    Ok(OK)
}
