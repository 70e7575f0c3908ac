//! `plywood pool repair`: makes the pool's metadata whole, then verifies all that stands on it.

use serde::Serialize;

use crate::cli::PoolRepairArgs;
use crate::commands::{Session, pool};
use crate::dm::repair::{Means, Metadata};
use crate::error::{Error, Result};
use crate::failure::{FAILED, OK, Outcome};
use crate::image::unpack::unpack;
use crate::snapshot::thin::repair::{Repaired, Wishes, repair};

/// What was done, as `--json` shows it.
#[derive(Debug, Serialize)]
struct Told<'a> {
    /// Whether everything is whole now.
    ok: bool,
    metadata: &'a Metadata,
    #[serde(flatten)]
    rest: &'a Repaired,
}

/// Runs the verb.
///
/// # Errors
/// Volumes in use; metadata that nothing can be made of; another failure. What cannot be repaired is told, and makes
/// the exit code 1.
pub(super) fn run(args: &PoolRepairArgs, session: &Session) -> Outcome {
    let store = pool::thin_store(session)?;
    let means = Means {
        spare: args.spare.as_deref(),
        accept_loss: args.accept_loss,
    };
    let bars = session.output.bars();
    let wishes = Wishes {
        unpack: &unpack,
        remove_strangers: args.remove_strangers,
        at: &|layer| {
            bars.end();
            bars.begin(&format!("verifying layer {}", layer.chain_id.0.short()), None);
        },
    };
    let done = repair(&store, means, &wishes);
    bars.end();
    let (metadata, repaired) = done?;
    tell(session, &metadata, &repaired)?;
    Ok(if repaired.left.is_empty() { OK } else { FAILED })
}

fn tell(session: &Session, metadata: &Metadata, repaired: &Repaired) -> Result<(), Error> {
    let out = &session.output;
    if out.is_json() {
        return out.json(&Told {
            ok: repaired.left.is_empty(),
            metadata,
            rest: repaired,
        });
    }
    match metadata {
        Metadata::Whole => out.line("the pool's metadata was whole")?,
        Metadata::Cleared => {
            out.line("the pool's metadata was whole; the kernel's demand for a check is taken back")?
        }
        Metadata::Repaired { kept, damage } => {
            out.line(format!("repaired the pool's metadata: {damage}"))?;
            out.line(format!("the damaged metadata is kept: {}", kept.display()))?;
        }
        Metadata::Renewed { kept, damage } => {
            out.line(format!("gave up the pool's metadata for empty ones: {damage}"))?;
            out.line(format!("the damaged metadata is kept: {}", kept.display()))?;
        }
    }
    for line in &repaired.repaired {
        out.line(line)?;
    }
    for line in &repaired.left {
        out.line(format!("NOT WHOLE: {line}"))?;
    }
    out.note(format!(
        "{} layers verified: {}",
        repaired.layers,
        match repaired.left.len() {
            0 => "everything is whole".to_owned(),
            1 => "1 thing is not whole".to_owned(),
            count => format!("{count} things are not whole"),
        }
    ));
    Ok(())
}
