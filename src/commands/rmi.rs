//! `plywood rmi`: removes names, and images that have none left.

use std::collections::BTreeSet;

use plywood_store::error::Kind;
use plywood_store::gc::{self, Garbage};
use plywood_store::record::{ImageRecord, name_key};
use plywood_store::{ChainId, ImageId, Reference, Store};
use serde::Serialize;

use crate::cli::RmiArgs;
use crate::commands::{Host, Session, collect, tag};
use crate::error::{Error, Result};
use crate::failure::{Each, Outcome};
use crate::output;
use crate::snapshot::Group;

/// What became of one argument, as `--json` shows it.
#[derive(Debug, Default, Serialize)]
struct Removed {
    untagged: Vec<String>,
    deleted: Vec<String>,
    layers: Vec<String>,
    /// Layers of the images that went, which only the build cache keeps.
    kept_by_build_cache: Vec<String>,
    /// Bytes of both that follow.
    freed_bytes: u64,
    /// Bytes of blobs.
    blob_bytes: u64,
    /// Bytes of layers' content, and of what dead commands have left.
    layer_bytes: u64,
    #[serde(skip)]
    images: BTreeSet<ImageId>,
    /// Their layers.
    #[serde(skip)]
    stacks: BTreeSet<ChainId>,
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

/// Frees what only the deleted images needed, or with `dry_run` says what that would be. What layers take costs a look
/// at all of it: it is `measured` where somebody asks.
fn free(host: &Host, dry_run: bool, measured: bool, removed: &mut Removed) -> Result<()> {
    if removed.deleted.is_empty() {
        return Ok(());
    }
    if dry_run || measured {
        let garbage = {
            let _lock = host.store.shared()?;
            let without = gc::Without {
                names: removed.images.clone(),
                ..gc::Without::default()
            };
            gc::mark_without(&host.store, &without)?
        };
        let going = Group {
            layers: garbage.layers.clone(),
            snapshots: garbage.snapshots.clone(),
        };
        removed.layer_bytes = host.snapshotter.space(&[going])?.groups.iter().sum();
        removed.went(&garbage);
    }
    if !dry_run {
        removed.went(&collect::sweep(host)?);
    }
    removed.kept_by_build_cache = kept(&host.store, removed)?;
    Ok(())
}

/// Those of the images' layers that would go, were it not for the build cache.
fn kept(store: &Store, removed: &Removed) -> Result<Vec<String>> {
    if !store.steps.folder().is_dir() {
        return Ok(Vec::new());
    }
    let _lock = store.shared()?;
    let without = gc::Without {
        names: removed.images.clone(),
        steps_before: Some(i64::MAX),
    };
    let chains = gc::mark_without(store, &without)?.layers;
    let chains = chains
        .into_iter()
        .filter(|layer| removed.stacks.contains(&layer.chain_id));
    let mut chains: Vec<String> = chains.map(|layer| layer.chain_id.to_string()).collect();
    chains.retain(|chain| !removed.layers.contains(chain));
    Ok(chains)
}

impl Removed {
    fn went(&mut self, garbage: &Garbage) {
        self.layers = garbage.layers.iter().map(|layer| layer.chain_id.to_string()).collect();
        self.blob_bytes = garbage.blobs.iter().map(|(_, size)| size).sum();
        self.freed_bytes = self.blob_bytes + self.layer_bytes;
    }
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
        removed.stacks.extend(&image.layers);
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
    let kept = removed.kept_by_build_cache.len();
    if kept > 0 {
        let (layers, stay, them) = match kept {
            1 => ("layer", "stays", "it"),
            _ => ("layers", "stay", "them"),
        };
        session.output.note(format!(
            "{kept} {layers} {stay}, as the build cache keeps {them}: plywood gc --build-cache frees what only it keeps"
        ));
    }
    if dry_run {
        session.output.line(format!(
            "Would free: {}, {} of blobs and {} of layers",
            output::bytes(removed.freed_bytes),
            output::bytes(removed.blob_bytes),
            output::bytes(removed.layer_bytes)
        ))?;
    }
    Ok(())
}

fn list(names: &[Reference]) -> String {
    names.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
