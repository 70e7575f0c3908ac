//! `plywood mount`: an image or a container in the host's tree, read-only.

use std::path::{Path, PathBuf};

use plywood_store::error::Kind;
use plywood_store::intent::Plan;
use plywood_store::{ChainId, Store};

use crate::cli::MountArgs;
use crate::commands::{Host, Session, tag};
use crate::error::{Context, Error, Result, both};
use crate::failure::{OK, Outcome};
use crate::snapshot;

/// Mounts, and prints where.
///
/// # Errors
/// No such object, a folder that is not empty, something mounted already.
pub fn run(args: &MountArgs, session: &Session) -> Outcome {
    if session.store()?.is_none() {
        return Err(tag::no_image(&args.object).into());
    }
    let host = session.host()?;
    let key = key(&host.store, &args.object)?;
    if let Some(mounted) = host.store.snapshots.get(&key)?.and_then(|snapshot| snapshot.mounted_at) {
        return Err(Error::new(
            Kind::InUse,
            format!("{} is mounted at {}", args.object, mounted.display()),
        )
        .hinted(format!("plywood umount {}", args.object))
        .into());
    }
    let target = target(&host.store, args.dir.as_deref(), &key)?;
    show(&host, &args.object, &key, &target)?;
    let path = target.display().to_string();
    match session.output.is_json() {
        true => session
            .output
            .json(&serde_json::json!({ "name": args.object, "path": path }))?,
        false => session.output.line(path)?,
    }
    Ok(OK)
}

/// Mounts the snapshot `key` of the object at `target`; an image's view is made for it.
fn show(host: &Host, name: &str, key: &str, target: &Path) -> Result<()> {
    let Object::Image(chain) = object(&host.store, name)? else {
        return host.snapshotter.mount_at(key, target);
    };
    let intent = host.store.intents.begin(Plan::Work {
        verb: "mount".to_owned(),
        blobs: Vec::new(),
        layers: Vec::new(),
    })?;
    if let Err(error) = host.snapshotter.view(key, &chain, Some(&intent)) {
        let error = match error.kind() {
            Kind::Exists => Error::new(Kind::InUse, format!("another command is just mounting {name}"))
                .hinted("wait until it has ended"),
            _ => error,
        };
        return both(Err(error), intent.done());
    }
    if let Err(error) = host.snapshotter.mount_at(key, target) {
        return both(Err(error), host.snapshotter.remove(key).and_then(|()| intent.done()));
    }
    intent.done()
}

/// Keys of the views that `mount` makes begin with this.
pub const VIEW: &str = "mount-";

/// What is mounted.
enum Object {
    Image(ChainId),
    Container,
}

fn object(store: &Store, name: &str) -> Result<Object> {
    if container(store, name)?.is_some() {
        return Ok(Object::Container);
    }
    let image = store.find_image(name)?;
    match image.layers.last() {
        Some(top) => Ok(Object::Image(*top)),
        None => Err(Error::invalid(format!(
            "image {name} has no layers: there is nothing to mount"
        ))),
    }
}

/// The key of the snapshot that shows `name`: the container's own, or the view of the image's top layer.
///
/// # Errors
/// Where it is neither.
pub fn key(store: &Store, name: &str) -> Result<String> {
    if let Some(id) = container(store, name)? {
        return Ok(id);
    }
    Ok(format!("{VIEW}{}", store.find_image(name)?.id.0.hex()))
}

fn container(store: &Store, name: &str) -> Result<Option<String>> {
    match store.find_container(name) {
        Ok(container) => Ok(Some(container.id)),
        Err(error) if matches!(error.kind(), Kind::NotFound | Kind::Invalid) => Ok(None),
        Err(error) => Err(error),
    }
}

fn target(store: &Store, dir: Option<&Path>, key: &str) -> Result<PathBuf> {
    let target = match dir {
        Some(dir) => std::fs::canonicalize(dir).context("use as mount point", dir)?,
        None => snapshot::point(store, key)?,
    };
    let is_empty = match std::fs::read_dir(&target) {
        Ok(mut entries) => entries.next().is_none(),
        // It is made when a record names it.
        Err(error) if dir.is_none() && error.kind() == std::io::ErrorKind::NotFound => true,
        Err(error) => return Err(Error::io("read", target, error)),
    };
    if !is_empty {
        return Err(
            Error::invalid(format!("{} is not empty", target.display())).hinted("name an empty folder, or none")
        );
    }
    Ok(target)
}
