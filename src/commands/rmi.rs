//! `plywood rmi`: removes names, and images that have none left.

use std::collections::{BTreeMap, BTreeSet};

use plywood_store::error::Kind;
use plywood_store::gc::{self, Garbage};
use plywood_store::record::{ImageRecord, Phase, name_key};
use plywood_store::{ChainId, Driver, ImageId, Reference, Store};
use serde::Serialize;

use crate::cli::RmiArgs;
use crate::commands::{Host, Session, collect, tag};
use crate::error::{Error, Result};
use crate::failure::{Each, Outcome};
use crate::output;

/// What became of one argument, as `--json` shows it.
#[derive(Debug, Default, Serialize)]
struct Removed {
    untagged: Vec<String>,
    deleted: Vec<String>,
    layers: Vec<String>,
    /// Bytes of blobs, and of layers' content where the driver can tell.
    freed_bytes: u64,
    /// Whether it can. On thin, the blocks that only these layers map come on top.
    counts_layers: bool,
    #[serde(skip)]
    images: BTreeSet<ImageId>,
}

/// Removes each image, and says for each what became of it.
///
/// # Errors
/// Where one could not be removed; the others are.
pub fn run(args: &RmiArgs, session: &Session) -> Outcome {
    let host = session.existing_host()?;
    let mut removed = Removed::default();
    let mut each = Each::new(&session.output);
    for text in &args.images {
        let done = match &host {
            Some(host) => remove(host, text, args, &mut removed),
            None => Err(tag::no_image(text)),
        };
        match done {
            Err(error) if args.force && error.kind() == Kind::NotFound => {}
            done => {
                each.done(done);
            }
        }
    }
    let freed = match &host {
        Some(host) => free(host, args.dry_run, session.output.is_json(), &mut removed),
        None => Ok(()),
    };
    // The names are gone, whatever became of the space.
    tell(&removed, args.dry_run, session)?;
    freed?;
    each.outcome()
}

/// Frees what only the deleted images needed, or with `dry_run` says what that would be. Sizes cost a
/// walk on some drivers: they are `measured` where somebody asks.
fn free(host: &Host, dry_run: bool, measured: bool, removed: &mut Removed) -> Result<()> {
    removed.counts_layers = host.snapshotter.driver() == Driver::Overlay;
    if removed.deleted.is_empty() {
        return Ok(());
    }
    let (garbage, sizes) = if dry_run || measured {
        measure(host, removed)?
    } else {
        Default::default()
    };
    let garbage = if dry_run { garbage } else { collect::sweep(host)? };
    removed.freed_bytes = garbage.blobs.iter().map(|(_, size)| size).sum();
    for layer in &garbage.layers {
        removed.layers.push(layer.chain_id.to_string());
        removed.freed_bytes += sizes.get(&layer.chain_id).copied().unwrap_or(0);
    }
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
        removed.images.insert(image.id);
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

/// What the deletions leave to collect, and what each layer of it takes by itself, where the driver can tell.
fn measure(host: &Host, removed: &Removed) -> Result<(Garbage, BTreeMap<ChainId, u64>)> {
    let garbage = {
        let _lock = host.store.shared()?;
        gc::mark_without(&host.store, &removed.images)?
    };
    let mut sizes = BTreeMap::new();
    for layer in garbage.layers.iter().filter(|layer| layer.phase == Phase::Ready) {
        let usage = host.snapshotter.layer_usage(&layer.chain_id)?;
        sizes.insert(layer.chain_id, usage.exclusive.unwrap_or(0));
    }
    Ok((garbage, sizes))
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
        let bytes = output::bytes(removed.freed_bytes);
        session.output.line(match removed.counts_layers {
            true => format!("Would free: {bytes}"),
            false => format!("Would free: {bytes} of blobs, and the pool's blocks that only these layers map"),
        })?;
    }
    Ok(())
}

fn list(names: &[Reference]) -> String {
    names.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
