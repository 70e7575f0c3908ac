//! Volumes: folders of the store's that outlive containers, `plywood volume`.
//!
//! `ROOT/volumes/NAME` is made when a container first wants it, with what the
//! image has at that place: beside its name and renamed, so that a kill leaves none
//! half filled. A path that the image's config calls a volume, and that nothing else
//! is mounted on, gets one of the container's own, which goes with it.

use std::fs::File;
use std::io::{ErrorKind, Seek};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use plywood_store::Store;
use plywood_store::layer::Limits;
use plywood_store::layer::apply::apply;
use plywood_store::layer::diff::{Everything, Options, write_layer};
use rustix::fs::{FlockOperation, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use serde::Serialize;

use crate::cli::{VolumeRmArgs, VolumeVerb};
use crate::commands::{Session, container, random_key};
use crate::error::{Context, Error, Kind, Result};
use crate::exec::spec::{Bind, Spec, VolumeMount};
use crate::explain;
use crate::failure::{Each, OK, Outcome};
use crate::image::oci::RunConfig;
use crate::sys::openat2;
use crate::walk;

/// The folder of volumes.
const FOLDER: &str = "volumes";
/// Held by whoever makes or removes one.
const LOCK: &str = ".lock";
/// One that is being made begins like this.
const UNFINISHED: &str = ".new-";
/// Bytes that a name may have.
const NAME_MAX: usize = 128;

/// A volume, as `--json` shows it.
#[derive(Debug, Serialize)]
struct Row {
    name: String,
    path: PathBuf,
    /// Names of the containers that have it.
    containers: Vec<String>,
}

/// Runs the verb.
///
/// # Errors
/// A bad name; one that is there already, or in use.
pub fn run(verb: &VolumeVerb, session: &Session) -> Outcome {
    match verb {
        VolumeVerb::Ls => list(session)?,
        VolumeVerb::Create(args) => {
            check_name(&args.name)?;
            let host = session.host()?;
            let volumes = Volumes::open(&host.store)?;
            if volumes.path(&args.name).exists() {
                let there = Error::new(Kind::Exists, format!("there is a volume {} already", args.name));
                return Err(there.into());
            }
            volumes.make(&args.name, None)?;
            session.output.line(&args.name)?;
        }
        VolumeVerb::Rm(args) => return remove(args, session),
    }
    Ok(OK)
}

fn list(session: &Session) -> Result<()> {
    let rows = match session.store()? {
        Some(store) => rows(&store)?,
        None => Vec::new(),
    };
    if session.output.is_json() {
        return session.output.json(&rows);
    }
    let cells = rows
        .into_iter()
        .map(|row| vec![row.name, row.containers.join(", "), row.path.display().to_string()]);
    session.output.table(&["VOLUME", "CONTAINERS", "PATH"], cells.collect())
}

fn rows(store: &Store) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for name in names(store)? {
        rows.push(Row {
            path: store.root().join(FOLDER).join(&name),
            containers: users(store, &name)?,
            name,
        });
    }
    Ok(rows)
}

fn remove(args: &VolumeRmArgs, session: &Session) -> Outcome {
    let store = session.store()?;
    let mut each = Each::new(&session.output);
    for name in &args.names {
        let none = || Error::not_found(format!("no volume {name}")).hinted("plywood volume ls shows what there is");
        let removed = store.as_ref().ok_or_else(none).and_then(|store| {
            let volumes = Volumes::open(store)?;
            let users = users(store, name)?;
            if !users.is_empty() {
                let used = format!("volume {name} is of container {}", users.join(", "));
                return Err(Error::new(Kind::InUse, used).hinted(format!("plywood rm {} first", users.join(" "))));
            }
            match check_name(name).is_ok() && volumes.path(name).is_dir() {
                true => volumes.remove(name),
                false => Err(none()),
            }
        });
        if each.done(removed).is_some() {
            session.output.line(name)?;
        }
    }
    each.outcome()
}

/// The volumes that there are, sorted.
fn names(store: &Store) -> Result<Vec<String>> {
    let folder = store.root().join(FOLDER);
    let entries = match std::fs::read_dir(&folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.context("list", &folder)?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let name = entry.context("list", &folder)?.file_name().into_string();
        names.extend(name.ok().filter(|name| check_name(name).is_ok()));
    }
    names.sort_unstable();
    Ok(names)
}

/// How many volumes there are, and the bytes that they take.
///
/// # Errors
/// I/O.
pub fn taken(store: &Store) -> Result<(usize, u64)> {
    let names = names(store)?;
    let folder = store.root().join(FOLDER);
    let bytes = names.iter().map(|name| walk::space_at(&folder.join(name)));
    Ok((names.len(), bytes.sum::<Result<u64>>()?))
}

/// The names of the containers that have a volume.
fn users(store: &Store, name: &str) -> Result<Vec<String>> {
    let mut users = Vec::new();
    for record in store.containers.list()? {
        let spec = container::recorded_spec(&record)?;
        if spec.volumes.iter().any(|volume| volume.name == name) {
            users.push(record.name);
        }
    }
    users.sort_unstable();
    Ok(users)
}

/// Whether a volume can be called this.
///
/// # Errors
/// Invalid, saying what a name is.
pub fn check_name(name: &str) -> Result<()> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    let begins = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    if begins && name.len() <= NAME_MAX && name.bytes().all(fits) {
        return Ok(());
    }
    Err(Error::invalid(format!("{name:?} is no name for a volume")).hinted(format!(
        "a name is 1 to {NAME_MAX} letters, digits, _ . and -, and begins with a letter or digit; a folder of the host's is a path with a /"
    )))
}

/// The volumes that the image's config wants for container `id`, where nothing else is mounted.
pub fn of_image(config: &RunConfig, id: &str, spec: &Spec) -> Vec<VolumeMount> {
    let clean = |path: &str| Path::new("/").join(path.trim_start_matches('/'));
    let taken: Vec<PathBuf> = spec
        .binds
        .iter()
        .map(|bind| bind.target.clone())
        .chain(spec.volumes.iter().map(|volume| volume.target.clone()))
        .chain(spec.tmpfs.iter().map(PathBuf::from))
        .collect();
    let paths = config.volumes.keys().map(|path| clean(path));
    let free = paths.filter(|path| path != Path::new("/") && !taken.contains(path));
    free.enumerate()
        .map(|(number, target)| VolumeMount {
            name: format!("{id}-{number}"),
            target,
            read_only: false,
        })
        .collect()
}

/// Makes the volumes of `spec` that are not there, from the image's tree `root`; gives the spec with them bound.
///
/// # Errors
/// I/O; what of the image cannot be copied.
pub fn ready(store: &Store, root: BorrowedFd<'_>, spec: &Spec) -> Result<Spec> {
    let mut bound = spec.clone();
    if spec.volumes.is_empty() {
        return Ok(bound);
    }
    let volumes = Volumes::open(store)?;
    for volume in &spec.volumes {
        check_name(&volume.name)?;
        let path = volumes.path(&volume.name);
        if is_empty(&path)? {
            volumes.make(&volume.name, content(root, &volume.target)?)?;
        }
        bound.binds.push(Bind {
            source: path,
            target: volume.target.clone(),
            read_only: volume.read_only,
            // It is the store's, and has owners as an image has them.
            map_ids: spec.ids.is_some(),
        });
    }
    Ok(bound)
}

/// Removes the volumes that are container `id`'s own.
///
/// # Errors
/// I/O.
pub fn remove_own(store: &Store, id: &str) -> Result<()> {
    let own = format!("{id}-");
    let names: Vec<String> = names(store)?
        .into_iter()
        .filter(|name| name.starts_with(&own))
        .collect();
    if names.is_empty() {
        return Ok(());
    }
    let volumes = Volumes::open(store)?;
    names.iter().try_for_each(|name| volumes.remove(name))
}

/// Whether there is nothing, or nothing in it.
fn is_empty(path: &Path) -> Result<bool> {
    match std::fs::read_dir(path) {
        Ok(mut entries) => Ok(entries.next().is_none()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(true),
        Err(error) => Err(Error::io("list", path, error)),
    }
}

/// The image's folder at `target`, if it has one.
fn content(root: BorrowedFd<'_>, target: &Path) -> Result<Option<OwnedFd>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let target = target.strip_prefix("/").unwrap_or(target);
    match openat2::open(root, target, flags, resolve) {
        Ok(folder) => Ok(Some(folder)),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
        Err(error) => Err(Error::io("open the image's", target, error)),
    }
}

/// The folder of volumes, locked.
struct Volumes {
    folder: PathBuf,
    scratch: PathBuf,
    _lock: File,
}

/// Removes what a killed command left of a volume that it made or removed; while one is at it, that is its own.
///
/// # Errors
/// I/O.
pub fn sweep(store: &Store) -> Result<()> {
    if !store.root().join(FOLDER).exists() {
        return Ok(());
    }
    Volumes::lock(store, FlockOperation::NonBlockingLockExclusive).map(drop)
}

impl Volumes {
    fn open(store: &Store) -> Result<Self> {
        let locked = Self::lock(store, FlockOperation::LockExclusive)?;
        locked.ok_or_else(|| Error::new(Kind::InUse, "another command is making or removing a volume"))
    }

    /// None where another has the lock and it is not waited for.
    fn lock(store: &Store, how: FlockOperation) -> Result<Option<Self>> {
        let folder = store.folder(FOLDER)?;
        let path = folder.join(LOCK);
        let lock = File::options()
            .create(true)
            .append(true)
            .open(&path)
            .context("open", &path)?;
        if !plywood_store::durable::try_flock(&lock, how).context("lock", &path)? {
            return Ok(None);
        }
        let volumes = Self {
            scratch: store.folder("tmp")?,
            folder,
            _lock: lock,
        };
        volumes.sweep()?;
        Ok(Some(volumes))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// What is unfinished under the lock was left by a kill.
    fn sweep(&self) -> Result<()> {
        for entry in std::fs::read_dir(&self.folder).context("list", &self.folder)? {
            let entry = entry.context("list", &self.folder)?;
            if entry.file_name().as_encoded_bytes().starts_with(UNFINISHED.as_bytes()) {
                std::fs::remove_dir_all(entry.path()).context("remove", entry.path())?;
            }
        }
        Ok(())
    }

    /// Makes the volume, durably, with what is in `content`.
    fn make(&self, name: &str, content: Option<OwnedFd>) -> Result<()> {
        let path = self.path(name);
        let new = self.folder.join(random_key(UNFINISHED.trim_end_matches('-')));
        explain::step(|| format!("mkdir {}", explain::quote(&path)));
        std::fs::create_dir(&new).context("make", &new)?;
        let filled = self.fill(&new, content);
        let filled = filled.and_then(|()| std::fs::rename(&new, &path).context("rename", &new));
        match filled {
            Ok(()) => plywood_store::durable::sync_folder(&self.folder),
            Err(error) => crate::error::both(Err(error), std::fs::remove_dir_all(&new).context("remove", &new)),
        }
    }

    fn fill(&self, new: &Path, content: Option<OwnedFd>) -> Result<()> {
        let folder = File::open(new).context("open", new)?;
        if let Some(content) = content {
            let mut tar = tempfile::tempfile_in(&self.scratch).context("make a file in", &self.scratch)?;
            write_layer(None, &content.as_fd(), &Everything, &Options::default(), &mut tar)?;
            tar.rewind().context("read", &self.scratch)?;
            apply(folder.as_fd(), &mut tar, &Limits::default())?;
            let stat = rustix::fs::fstat(&content).context("look at the image's", new)?;
            let owner = (
                rustix::fs::Uid::from_raw(stat.st_uid),
                rustix::fs::Gid::from_raw(stat.st_gid),
            );
            rustix::fs::fchown(&folder, Some(owner.0), Some(owner.1)).context("set the owner of", new)?;
            rustix::fs::fchmod(&folder, Mode::from_raw_mode(stat.st_mode)).context("set the mode of", new)?;
        }
        rustix::fs::syncfs(&folder).context("sync", new)
    }

    fn remove(&self, name: &str) -> Result<()> {
        let path = self.path(name);
        // Renamed first: a kill leaves no half of it.
        let going = self.folder.join(random_key(UNFINISHED.trim_end_matches('-')));
        explain::step(|| format!("rm -rf {}", explain::quote(&path)));
        std::fs::rename(&path, &going).context("rename", &path)?;
        std::fs::remove_dir_all(&going).context("remove", &going)?;
        plywood_store::durable::sync_folder(&self.folder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_no_path() {
        for good in ["data", "0", "a.b-c_d"] {
            check_name(good).unwrap();
        }
        for bad in ["", ".", "..", ".lock", "-x", "a/b", "a b", "é", &"x".repeat(129)] {
            assert!(check_name(bad).is_err(), "{bad:?}");
        }
    }
}
