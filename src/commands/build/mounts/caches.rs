//! `RUN --mount=type=cache`: folders of the store's own, which stay from build to build.
//!
//! Beside each folder is a lock: builds that use it hold that, and its time is when the last one began to. Ids, being
//! anybody's words, are never path names: their digests are.

use std::fs::{File, OpenOptions, Permissions};
use std::io::Seek;
use std::os::fd::AsFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use plywood_store::intent::Intent;
use plywood_store::layer::Limits;
use plywood_store::layer::apply::apply;
use plywood_store::layer::diff::{Everything, Options, write_layer};
use plywood_store::{Digest, Store};
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use super::binds::inside;
use super::{Mounts, Sources};
use crate::build::syntax::{Cache, Sharing};
use crate::commands::Host;
use crate::error::{Context, Error, Kind, Result};
use crate::walk;

/// The folder of caches, below the root.
const CACHES: &str = "build/caches";

/// Caches of one id that can be in use at a time (`sharing=private`).
const PRIVATE_MAX: u32 = 1000;

impl Mounts {
    pub(super) fn cache(&mut self, host: &Host, cache: &Cache, sources: &dyn Sources, owner: &Intent) -> Result<()> {
        let (path, lock, is_new) = take_cache(&host.store, cache)?;
        self.locks.push(lock);
        if is_new {
            if let Some(from) = &cache.from {
                let root = self.stack(host, sources.stack(from)?.as_ref(), false, owner)?;
                fill_cache(&host.store, &inside(&root, &cache.source)?, &path)?;
            }
            std::os::unix::fs::chown(&path, Some(cache.uid), Some(cache.gid)).context("set the owner of", &path)?;
            std::fs::set_permissions(&path, Permissions::from_mode(cache.mode)).context("set the mode of", &path)?;
        }
        self.bind(path, &cache.target, cache.read_only);
        Ok(())
    }
}

/// Copies a folder of an image's into a new cache.
fn fill_cache(store: &Store, from: &Path, to: &Path) -> Result<()> {
    let open = |path: &Path| {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::open(path, flags, Mode::empty()).context("open", path)
    };
    let (from, to) = (open(from)?, open(to)?);
    let folder = store.folder("tmp")?;
    let mut tar = tempfile::tempfile_in(&folder).context("make a temporary file in", &folder)?;
    write_layer(None, &from, &Everything, &Options::default(), &mut tar)?;
    tar.rewind().context("read", &folder)?;
    apply(to.as_fd(), &mut tar, &Limits::default()).map(drop)
}

/// The folder of a cache, its lock, and whether it is new.
fn take_cache(store: &Store, cache: &Cache) -> Result<(PathBuf, File, bool)> {
    let folder = store.folder(CACHES)?;
    let digest = Digest::of(cache.id.as_bytes()).hex();
    let operation = match cache.sharing {
        Sharing::Shared => FlockOperation::LockShared,
        Sharing::Locked => FlockOperation::LockExclusive,
        Sharing::Private => FlockOperation::NonBlockingLockExclusive,
    };
    for number in 0..PRIVATE_MAX {
        let name = match number {
            0 => digest.clone(),
            number => format!("{digest}-{number}"),
        };
        let lock = lock_file(&folder, &name)?;
        match flock(&lock, operation) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => continue,
            Err(error) => return Err(Error::io("lock the cache", cache.id.as_str(), error)),
        }
        lock.set_modified(SystemTime::now())
            .context("write to the lock of the cache", &cache.id)?;
        let path = folder.join(&name);
        return match std::fs::create_dir(&path) {
            Ok(()) => Ok((path, lock, true)),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok((path, lock, false)),
            Err(error) => Err(Error::io("make the cache", path, error)),
        };
    }
    Err(Error::new(
        Kind::InUse,
        format!("{PRIVATE_MAX} builds use the cache {:?}", cache.id),
    ))
}

fn flock(file: &File, operation: FlockOperation) -> Result<(), Errno> {
    loop {
        match rustix::fs::flock(file, operation) {
            Err(Errno::INTR) => {}
            done => return done,
        }
    }
}

fn lock_file(folder: &Path, name: &str) -> Result<File> {
    let path = folder.join(format!("{name}.lock"));
    OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&path)
        .context("open", &path)
}

/// How many caches there are, and the bytes that they take.
///
/// # Errors
/// I/O.
pub(in crate::commands::build) fn taken(store: &Store) -> Result<(usize, u64)> {
    let (mut count, mut bytes) = (0, 0);
    for name in names(store)? {
        let path = store.root().join(CACHES).join(name);
        count += usize::from(path.is_dir());
        bytes += walk::space_at(&path)?;
    }
    Ok((count, bytes))
}

/// The names of the caches that have a lock: of all that there are.
fn names(store: &Store) -> Result<Vec<String>> {
    let folder = store.root().join(CACHES);
    let entries = match std::fs::read_dir(&folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.context("list", &folder)?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let name = entry.context("list", &folder)?.file_name();
        names.extend(
            name.to_str()
                .and_then(|name| name.strip_suffix(".lock"))
                .map(str::to_owned),
        );
    }
    Ok(names)
}

/// Removes the caches that no build has used since `before` (seconds since 1970), and none that one uses now.
///
/// # Errors
/// I/O.
pub(in crate::commands::build) fn sweep(store: &Store, before: i64) -> Result<()> {
    let folder = store.root().join(CACHES);
    for name in names(store)? {
        let lock = lock_file(&folder, &name)?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            continue;
        }
        let used = lock
            .metadata()
            .and_then(|found| found.modified())
            .context("look at", &folder)?;
        let used = used
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, |since| since.as_secs());
        if i64::try_from(used).unwrap_or(i64::MAX) >= before {
            continue;
        }
        // The lock stays: somebody may be waiting for it.
        match std::fs::remove_dir_all(folder.join(&name)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::io("remove the cache", folder.join(&name), error));
            }
            _ => {}
        }
    }
    Ok(())
}
