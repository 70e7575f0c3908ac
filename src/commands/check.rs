//! `plywood check`: verifies the store against itself, its index and its driver.

use serde::Serialize;

use plywood_store::check::{Depth, check};

use crate::cli::CheckArgs;
use crate::commands::{Session, open_driver};
use crate::failure::{FAILED, OK, Outcome};
use crate::output;

/// What was looked at, as `--json` shows it.
#[derive(Debug, Serialize)]
struct Checked {
    records: u64,
    blobs: u64,
    bytes_hashed: u64,
    index_rebuilt: bool,
    findings: Vec<String>,
}

/// Looks, tells, changes nothing but (with `--rebuild`) the index.
///
/// # Errors
/// Where the check itself cannot run. Findings are not errors: they make the exit code 1.
pub fn run(args: &CheckArgs, session: &Session) -> Outcome {
    let mut checked = Checked {
        records: 0,
        blobs: 0,
        bytes_hashed: 0,
        index_rebuilt: false,
        findings: Vec::new(),
    };
    if let Some(store) = session.store()? {
        if args.rebuild {
            plywood_store::index::Index::rebuild(&store)?;
            checked.index_rebuilt = true;
        }
        session.output.bars().begin("checking", None);
        let report = check(&store, Depth { data: args.data }, &|bytes| {
            session.output.bars().advance(bytes)
        });
        session.output.bars().end();
        let report = report?;
        (checked.records, checked.blobs, checked.bytes_hashed) = (report.records, report.blobs, report.bytes_hashed);
        checked.findings.extend(report.findings.iter().map(whole));
        // A driver that cannot be opened is a finding too: the rest of the report still stands.
        match open_driver(&store).and_then(|driver| driver.verify()) {
            Ok(findings) => checked.findings.extend(findings),
            Err(error) => checked.findings.push(whole(&error)),
        }
    }
    let code = if checked.findings.is_empty() { OK } else { FAILED };
    if session.output.is_json() {
        session.output.json(&checked)?;
        return Ok(code);
    }
    for finding in &checked.findings {
        session.output.line(finding)?;
    }
    let hashed = if args.data {
        format!(", {} hashed", output::bytes(checked.bytes_hashed))
    } else {
        String::new()
    };
    session.output.note(format!(
        "{} records, {} blobs{hashed}: {}",
        checked.records,
        checked.blobs,
        match checked.findings.len() {
            0 => "nothing wrong".to_owned(),
            1 => "1 finding".to_owned(),
            count => format!("{count} findings"),
        }
    ));
    Ok(code)
}

/// An error with its causes on one line.
fn whole(error: &crate::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
