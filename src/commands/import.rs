//! `plywood import`: an archive becomes images.
//!
//! Recognise what it is; bring in the layers that the store lacks, each in one
//! verified pass through a confined child; publish images, then names.

use plywood_store::Driver;
use serde::Serialize;

use crate::cli::ImportArgs;
use crate::commands::room::Room;
use crate::commands::{Host, Session};
use crate::error::{Context, Error, Result};
use crate::failure::{Failure, OK, Outcome, USAGE};
use crate::image::budget::Budget;
use crate::image::change::Change;
use crate::image::compose::Step;
use crate::image::import::{Imported, Importer, Request};
use crate::image::source;
use crate::image::unpack::Unpacker;

/// What `--json` prints, one for each image.
#[derive(Debug, Serialize)]
struct Line {
    id: String,
    names: Vec<String>,
    manifest: String,
}

/// Runs the verb.
///
/// # Errors
/// Invalid or corrupt input, with the store as it was; whatever the driver refuses.
pub fn run(args: &ImportArgs, session: &Session) -> Outcome {
    let request = request(args).map_err(|error| Failure::from(error).with_code(USAGE))?;
    if args.file.as_os_str() != "-" {
        // Before a root is made for nothing.
        args.file.symlink_metadata().context("find", &args.file)?;
    }
    let host = session.host()?;
    let imported = import(args, session, &host, &request)?;
    if session.output.is_json() {
        session.output.json(&imported.iter().map(line).collect::<Vec<_>>())?;
    } else {
        imported
            .iter()
            .try_for_each(|one| session.output.line(one.image.id.to_string()))?;
    }
    for one in imported.iter().filter(|one| one.names.is_empty()) {
        session.output.note(format!(
            "{} has no name: plywood gc would remove it; plywood tag gives it one",
            one.image.id
        ));
    }
    Ok(OK)
}

fn request(args: &ImportArgs) -> Result<Request> {
    if let Some(name) = args.name.as_ref().filter(|name| name.digest().is_some()) {
        return Err(Error::invalid(format!("{name}: a new name carries no digest"))
            .hinted("use --digest to say what the archive must be"));
    }
    let changes = args
        .changes
        .iter()
        .map(|text| Change::parse(text))
        .collect::<Result<_>>()?;
    let step = Step {
        created_by: Some("plywood import".to_owned()),
        message: args.message.clone(),
        changes,
        ..Step::default()
    };
    Ok(Request {
        name: args.name.clone(),
        step,
        digest: args.digest,
    })
}

fn import(args: &ImportArgs, session: &Session, host: &Host, request: &Request) -> Result<Vec<Imported>> {
    // A volume is its own limit; a folder is not.
    let room = match host.snapshotter.driver() {
        Driver::Overlay => Some(Room::under(host.store.root())?),
        Driver::Thin => None,
    };
    let mut unpacker = Unpacker::default();
    if room.is_some() {
        let files = source::files_in(host.store.root())?.unwrap_or(u64::MAX);
        unpacker.limits.entries = unpacker.limits.entries.min(files);
    }
    let budget = Budget::new(args.max_unpacked, room.as_ref().map(Room::free));
    let imported = bring_in(args, session, host, request, &unpacker, &budget);
    imported.map_err(|error| match room {
        Some(room) => {
            let file = args.file.metadata().ok().filter(std::fs::Metadata::is_file);
            room.told(error, &args.file.display().to_string(), file.map(|file| file.len()))
        }
        None => error,
    })
}

fn bring_in(
    args: &ImportArgs,
    session: &Session,
    host: &Host,
    request: &Request,
    unpacker: &Unpacker,
    budget: &Budget,
) -> Result<Vec<Imported>> {
    let spool = host.store.folder("tmp")?;
    let importer = Importer {
        store: &host.store,
        snapshotter: &*host.snapshotter,
        unpacker,
        budget,
        progress: session.output.bars(),
    };
    match &args.parent {
        Some(parent) => {
            let parent = host.store.find_image(parent)?;
            let tree = source::open_layer(&args.file, &spool, args.digest.as_ref(), budget)?;
            Ok(vec![importer.import_tree(tree, Some(&parent), request)?])
        }
        None => importer.import(source::open(&args.file, &spool, args.digest.as_ref(), budget)?, request),
    }
}

fn line(one: &Imported) -> Line {
    Line {
        id: one.image.id.to_string(),
        names: one.names.iter().map(ToString::to_string).collect(),
        manifest: one.image.manifest.digest.to_string(),
    }
}
