//! plywood: parse, trace, dispatch, exit code; nothing else.

#![warn(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Parser;
use plywood::cli::Cli;
use plywood::commands::{Session, dispatch};
use plywood::image::unpack;
use plywood::output::{self, Output};
use plywood::{explain, failure};

fn main() -> ExitCode {
    // Not a verb: the child that unpacks a layer, confined before anything else.
    if std::env::args_os()
        .nth(1)
        .is_some_and(|word| word == unpack::CHILD_ARGUMENT || word == unpack::DEVICE_CHILD_ARGUMENT)
    {
        return unpack::child_main();
    }
    let cli = Cli::parse();
    trace(cli.global.verbose);
    if cli.global.explain {
        explain::set_sink(output::explained);
    }
    let session = Session {
        output: Output::new(cli.global.json, cli.global.quiet),
        global: cli.global,
    };
    match dispatch(cli.verb, &session) {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            if let Some(report) = failure::Failure::report(&failure) {
                session.output.error(report);
            }
            ExitCode::from(failure.code())
        }
    }
}

/// Sends the rooms' events to stderr: warnings always, more with `-v` and `-vv`.
fn trace(verbose: u8) {
    let level = match verbose {
        0 => tracing::Level::WARN,
        1 => tracing::Level::INFO,
        _ => tracing::Level::DEBUG,
    };
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(output::Log::default)
        .with_ansi(std::io::stderr().is_terminal())
        .without_time()
        .with_target(false)
        .init();
}
