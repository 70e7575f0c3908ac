//! `plywood rmi`: removes names, and images that have none left.

use std::collections::BTreeSet;

use plywood_store::error::Kind;
use plywood_store::record::{ImageRecord, LayerRecord, name_key};
use plywood_store::{Reference, Store};
use serde::Serialize;

use crate::cli::RmiArgs;
use crate::commands::{Host, Session, collect, tag};
use crate::error::{Error, Result};
use crate::failure::{Failure, OK, Outcome};
use crate::output;

/// What became of one argument, as `--json` shows it.
#[derive(Debug, Default, Serialize)]
struct Removed {
    untagged: Vec<String>,
    deleted: Vec<String>,
    layers: Vec<String>,
    freed_bytes: u64,
}

/// Removes each image, and says for each what became of it.
///
/// # Errors
/// Where one could not be removed; the others are.
pub fn run(args: &RmiArgs, session: &Session) -> Outcome {
    let host = session.existing_host()?;
    let mut removed = Removed::default();
    let mut failed = false;
    for text in &args.images {
        let done = match &host {
            Some(host) => remove(host, text, args, &mut removed),
            None => Err(tag::no_image(text)),
        };
        match done {
            Ok(()) => {}
            Err(error) if args.force && error.kind() == Kind::NotFound => {}
            Err(error) => {
                failed = true;
                if let Some(report) = Failure::from(error).report() {
                    session.output.error(report);
                }
            }
        }
    }
    let freed = match &host {
        Some(host) => free(host, args.dry_run, &mut removed),
        None => Ok(()),
    };
    // The names are gone, whatever became of the space.
    tell(&removed, args.dry_run, session)?;
    freed?;
    if failed { Err(Failure::told()) } else { Ok(OK) }
}

/// Frees what only the deleted images needed, or with `dry_run` says what that would be.
fn free(host: &Host, dry_run: bool, removed: &mut Removed) -> Result<()> {
    if dry_run {
        return predict(host, removed);
    }
    if removed.deleted.is_empty() {
        return Ok(());
    }
    let swept = collect::sweep(host)?;
    removed.layers = swept.layers.iter().map(|layer| layer.chain_id.to_string()).collect();
    removed.freed_bytes = swept.blobs.iter().map(|(_, size)| size).sum();
    Ok(())
}

/// Removes one name, or all of an image's when it was given by id.
fn remove(host: &Host, text: &str, args: &RmiArgs, removed: &mut Removed) -> Result<()> {
    let store = &host.store;
    let lock = store.exclusive()?;
    let image = store.find_image(text)?;
    let names = store.names_of(&image.id)?;
    let going = match named(text, &names) {
        Some(name) => vec![name],
        None if names.len() > 1 && !args.force => {
            return Err(Error::new(
                Kind::InUse,
                format!("image {} has several names: {}", image.id.0.short(), list(&names)),
            )
            .hinted("remove them by name, or all at once with -f"));
        }
        None => names.clone(),
    };
    let last = going.len() == names.len();
    if last {
        refuse_if_used(store, &image)?;
    }
    if !args.dry_run {
        for name in &going {
            store.names.remove(&lock, &name_key(name))?;
        }
        if last {
            store.images.remove(&lock, &image.id.0.hex())?;
        }
        lock.done()?;
    }
    removed.untagged.extend(going.iter().map(ToString::to_string));
    if last {
        removed.deleted.push(image.id.to_string());
    }
    Ok(())
}

/// The name that `text` is, if it is one of the image's names and not its id.
fn named(text: &str, names: &[Reference]) -> Option<Reference> {
    let typed = text.parse::<Reference>().ok()?.without_digest();
    names.iter().find(|name| **name == typed).cloned()
}

fn refuse_if_used(store: &Store, image: &ImageRecord) -> Result<()> {
    let users: Vec<String> = store
        .containers
        .list()?
        .into_iter()
        .filter(|container| container.image == image.id)
        .map(|container| container.name)
        .collect();
    if users.is_empty() {
        return Ok(());
    }
    Err(Error::new(
        Kind::InUse,
        format!("image {} is used by container {}", image.id.0.short(), users.join(", ")),
    )
    .hinted(format!("plywood rm {} first", users.join(" "))))
}

/// What the deletions would free: layers and blobs that only they need.
fn predict(host: &Host, removed: &mut Removed) -> Result<()> {
    let store = &host.store;
    let images = store.images.list()?;
    let (going, staying): (Vec<_>, Vec<_>) = images
        .into_iter()
        .partition(|image| removed.deleted.contains(&image.id.to_string()));
    let needed: BTreeSet<_> = staying.iter().flat_map(|image| &image.layers).copied().collect();
    let kept: BTreeSet<_> = staying
        .iter()
        .flat_map(|image| [image.config.digest, image.manifest.digest])
        .collect();
    let layers: BTreeSet<_> = going
        .iter()
        .flat_map(|image| &image.layers)
        .filter(|chain| !needed.contains(chain))
        .copied()
        .collect();
    let records: Vec<LayerRecord> = store
        .layers
        .list()?
        .into_iter()
        .filter(|layer| layers.contains(&layer.chain_id))
        .collect();
    for layer in &records {
        removed.freed_bytes += layer.blob.size + host.snapshotter.layer_usage(&layer.chain_id)?.exclusive.unwrap_or(0);
    }
    removed.freed_bytes += going
        .iter()
        .flat_map(|image| [&image.config, &image.manifest])
        .filter(|blob| !kept.contains(&blob.digest))
        .map(|blob| blob.size)
        .sum::<u64>();
    removed.layers = records.iter().map(|layer| layer.chain_id.to_string()).collect();
    Ok(())
}

fn tell(removed: &Removed, dry_run: bool, session: &Session) -> Result<()> {
    if session.output.is_json() {
        return session.output.json(removed);
    }
    for (what, names) in [
        ("Untagged", &removed.untagged),
        ("Deleted", &removed.deleted),
        ("Deleted layer", &removed.layers),
    ] {
        for name in names {
            session.output.line(format!("{what}: {name}"))?;
        }
    }
    if dry_run {
        session
            .output
            .line(format!("Would free: {}", output::bytes(removed.freed_bytes)))?;
    }
    Ok(())
}

fn list(names: &[Reference]) -> String {
    names.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
