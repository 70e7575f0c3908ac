//! What `RUN --mount` puts in the way of a command, and takes away again.
//!
//! ```text
//! bind     a read-only view of a stage's or image's layers; of the context a copy, without what .dockerignore
//!          hides; rw: a snapshot of its own that goes afterwards. No write reaches a source.
//! cache    ROOT/build/caches/<digest of its id>, the store's own folder, kept from build to build
//! secret   a file in a tmpfs of this command's own mount namespace, which nobody else can see
//! tmpfs    memory
//! ```
//!
//! A source's path is resolved once, below its own root, before anything of the image runs; what is bound is
//! where that led. Ids, being anybody's words, are never path names: their digests are.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions, Permissions};
use std::io::Seek;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use plywood_store::intent::Intent;
use plywood_store::layer::Limits;
use plywood_store::layer::apply::apply;
use plywood_store::layer::diff::{Everything, Options, write_layer};
use plywood_store::{ChainId, Digest, Store};
use rustix::fs::{FlockOperation, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::MountFlags;

use crate::build::context::{Form, Picked, Tree};
use crate::build::key::{self, Counted, Key};
use crate::build::syntax::{Cache, Mount, Secret, Sharing};
use crate::build::target;
use crate::build::work::{RunWork, Script};
use crate::commands::{Host, random_key};
use crate::error::{Context, Error, Kind, Result, both};
use crate::exec::spec::Bind;
use crate::explain::{quote, step};
use crate::snapshot::{Access, Mounted};
use crate::sys::openat2;

/// The folder of caches, below the root.
const CACHES: &str = "build/caches";
/// Where the tmpfs for secrets is mounted, in this process's own mount namespace.
const SECRETS: &str = "build/secrets";
/// Caches of one id that can be in use at a time (`sharing=private`).
const PRIVATE_MAX: u32 = 1000;

/// Where the sources of mounts come from.
pub(super) trait Sources {
    /// The stack of a stage or image; none for an empty one.
    ///
    /// # Errors
    /// Where there is none of that name.
    fn stack(&self, name: &str) -> Result<Option<ChainId>>;

    /// The build's context.
    ///
    /// # Errors
    /// Where the build has none.
    fn context(&self) -> Result<&Tree>;

    /// The secret `id`; none where it was not given.
    ///
    /// # Errors
    /// Where it cannot be read.
    fn secret(&self, id: &str) -> Result<Option<Vec<u8>>>;
}

/// Mounts that are ready, and what holds them.
#[derive(Debug, Default)]
pub(super) struct Mounts {
    /// For the container.
    pub(super) binds: Vec<Bind>,
    /// For the container.
    pub(super) tmpfs: Vec<String>,
    /// For the container.
    pub(super) tmpfs_sizes: BTreeMap<String, u64>,
    /// Variables with secrets.
    pub(super) env: Vec<String>,
    snapshots: Vec<(String, Option<Mounted>)>,
    contents: BTreeMap<String, Digest>,
    locks: Vec<File>,
    secrets: Option<PathBuf>,
}

/// Adds to `key` what the mounts of a command can make different: contents that it is given, and which caches.
/// `content` says what a source in the context holds.
///
/// # Errors
/// A source that is not there.
pub(super) fn add_to_key(
    key: &mut Key,
    work: &RunWork,
    sources: &dyn Sources,
    content: &dyn Fn(&str) -> Result<Digest>,
) -> Result<()> {
    key.number(work.mounts.len() as u64);
    for mount in &work.mounts {
        match mount {
            Mount::Bind {
                target,
                source,
                from: Some(from),
                writable,
            } => {
                let stack = sources.stack(from)?.map(|chain| chain.to_string());
                key.text("bind").text(target).text(source).option(stack.as_deref());
                key.number(u64::from(*writable));
            }
            Mount::Bind {
                target,
                source,
                from: None,
                writable,
            } => {
                let content = content(source)?;
                key.text("context").text(target).text(&content.to_string());
                key.number(u64::from(*writable));
            }
            Mount::Cache(cache) => {
                key.text("cache").text(&cache.target).text(&cache.id);
            }
            Mount::Tmpfs { target, .. } => {
                key.text("tmpfs").text(target);
            }
            Mount::Secret(secret) => {
                key.text("secret")
                    .text(&secret.id)
                    .option(secret.target.as_deref())
                    .option(secret.env.as_deref());
            }
        }
    }
    Ok(())
}

/// What a source in the context holds now.
///
/// # Errors
/// Not there; several.
pub(super) fn content_of(tree: &Tree, source: &str) -> Result<Digest> {
    let mut picked = tree.pick(source, false)?;
    let (Some(picked), true) = (picked.pop(), picked.is_empty()) else {
        return Err(Error::invalid(format!(
            "{source:?} is several files: a mount has one source"
        )));
    };
    key::content_of(counted(&picked), |out| {
        tree.write(&picked, picked.name(), &Form::default(), out)
    })
}

/// Where a file is, and so what it is called, is in the key by itself.
fn counted(picked: &Picked) -> Counted {
    Counted {
        names: picked.is_folder(),
        owners: true,
    }
}

impl Mounts {
    /// What the sources in the context held when they were copied, which may be newer than what was looked for.
    ///
    /// # Errors
    /// One that was not copied.
    pub(super) fn content(&self, source: &str) -> Result<Digest> {
        let content = self.contents.get(source).copied();
        content.ok_or_else(|| Error::invalid(format!("{source:?} was not copied")))
    }

    /// Makes everything ready. What is made is leased by `owner`.
    ///
    /// # Errors
    /// A source that is not there; a secret that is required; I/O.
    pub(super) fn prepare(host: &Host, work: &RunWork, sources: &dyn Sources, owner: &Intent) -> Result<Self> {
        let mut mounts = Self::default();
        let made = work
            .mounts
            .iter()
            .try_for_each(|mount| mounts.add(host, mount, sources, owner))
            .and_then(|()| {
                work.script
                    .as_ref()
                    .map_or(Ok(()), |script| mounts.script(&host.store, script))
            });
        match made {
            Ok(()) => Ok(mounts),
            Err(error) => both(Err(error), mounts.close(host)),
        }
    }

    /// Takes everything away.
    ///
    /// # Errors
    /// Where something stays; what was leased goes with its owner.
    pub(super) fn close(self, host: &Host) -> Result<()> {
        let mut outcome = Ok(());
        for (key, mounted) in self.snapshots {
            let closed = mounted.map_or(Ok(()), Mounted::close);
            outcome = both(outcome, both(closed, host.snapshotter.remove(&key)));
        }
        if let Some(path) = &self.secrets {
            step(|| format!("umount {}", quote(path)));
            let gone = rustix::mount::unmount(path, rustix::mount::UnmountFlags::DETACH).context("unmount", path);
            outcome = both(outcome, gone);
        }
        outcome
    }

    fn add(&mut self, host: &Host, mount: &Mount, sources: &dyn Sources, owner: &Intent) -> Result<()> {
        match mount {
            Mount::Bind {
                target,
                source,
                from,
                writable,
            } => {
                let root = match from {
                    Some(from) => self.stack(host, sources.stack(from)?.as_ref(), *writable, owner)?,
                    None => self.copy_of_context(host, sources.context()?, source, owner)?,
                };
                let source = inside(&root, source)?;
                self.bind(source, target, !writable);
            }
            Mount::Cache(cache) => self.cache(host, cache, sources, owner)?,
            Mount::Tmpfs { target, size } => {
                self.tmpfs.push(target.clone());
                self.tmpfs_sizes.extend(size.map(|size| (target.clone(), size)));
            }
            Mount::Secret(secret) => self.secret(&host.store, secret, sources)?,
        }
        Ok(())
    }

    fn bind(&mut self, source: PathBuf, target: &str, read_only: bool) {
        self.binds.push(Bind {
            source,
            target: target.into(),
            read_only,
            map_ids: false,
        });
    }

    /// The root of a stack, mounted. What is written to it goes nowhere.
    fn stack(&mut self, host: &Host, stack: Option<&ChainId>, writable: bool, owner: &Intent) -> Result<PathBuf> {
        let key = random_key("mount");
        let access = match stack {
            Some(stack) if !writable => {
                host.snapshotter.view(&key, stack, Some(owner))?;
                Access::ReadOnly
            }
            stack => {
                host.snapshotter.prepare(&key, stack, Some(owner))?;
                Access::ReadWrite
            }
        };
        self.snapshots.push((key.clone(), None));
        let mounted = host.snapshotter.mount(&key, access)?;
        let path = mounted.path().to_owned();
        self.hold(mounted);
        Ok(path)
    }

    fn hold(&mut self, mounted: Mounted) {
        if let Some((_, place)) = self.snapshots.last_mut() {
            *place = Some(mounted);
        }
    }

    /// A snapshot with what the context has at `source`, at the same path.
    fn copy_of_context(&mut self, host: &Host, tree: &Tree, source: &str, owner: &Intent) -> Result<PathBuf> {
        let key = random_key("mount");
        host.snapshotter.prepare(&key, None, Some(owner))?;
        self.snapshots.push((key.clone(), None));
        let mounted = host.snapshotter.mount(&key, Access::ReadWrite)?;
        let copied = copy_into(&host.store, tree, source, &mounted);
        let path = mounted.path().to_owned();
        self.hold(mounted);
        self.contents.insert(source.to_owned(), copied?);
        Ok(path)
    }

    fn cache(&mut self, host: &Host, cache: &Cache, sources: &dyn Sources, owner: &Intent) -> Result<()> {
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

    fn secret(&mut self, store: &Store, secret: &Secret, sources: &dyn Sources) -> Result<()> {
        let Some(content) = sources.secret(&secret.id)? else {
            return match secret.required {
                false => Ok(()),
                true => Err(Error::not_found(format!("the secret {:?} was not given", secret.id))
                    .hinted(format!("--secret id={},src=FILE gives it", secret.id))),
            };
        };
        if let Some(name) = &secret.env {
            let value = String::from_utf8(content.clone()).map_err(|_| {
                Error::invalid(format!(
                    "the secret {:?} is no text: it cannot be a variable",
                    secret.id
                ))
            })?;
            self.env.push(format!("{name}={value}"));
        }
        if let Some(target) = &secret.target {
            let path = self.secret_file(store, &content, secret.mode)?;
            std::os::unix::fs::chown(&path, Some(secret.uid), Some(secret.gid)).context("set the owner of", &path)?;
            self.bind(path, target, true);
        }
        Ok(())
    }

    fn script(&mut self, store: &Store, script: &Script) -> Result<()> {
        let path = self.secret_file(store, script.content.as_bytes(), 0o755)?;
        self.bind(path, &script.path, true);
        Ok(())
    }

    /// A new file in memory.
    fn secret_file(&mut self, store: &Store, content: &[u8], mode: u32) -> Result<PathBuf> {
        let folder = match &self.secrets {
            Some(folder) => folder.clone(),
            None => {
                let folder = store.folder(SECRETS)?;
                step(|| format!("mount -t tmpfs -o mode=0700,nosuid,nodev tmpfs {}", quote(&folder)));
                let flags = MountFlags::NOSUID | MountFlags::NODEV;
                rustix::mount::mount("tmpfs", &folder, "tmpfs", flags, Some(c"mode=0700"))
                    .context("mount a tmpfs on", &folder)?;
                self.secrets = Some(folder.clone());
                folder
            }
        };
        let path = folder.join(self.binds.len().to_string());
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .context("make", &path)?;
        std::io::Write::write_all(&mut file, content).context("write", &path)?;
        file.set_permissions(Permissions::from_mode(mode))
            .context("set the mode of", &path)?;
        Ok(path)
    }
}

/// Where `source` leads below `root`, whatever links there are: a path without any.
fn inside(root: &Path, source: &str) -> Result<PathBuf> {
    let handle = rustix::fs::open(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .context("open", root)?;
    let path = if source.is_empty() { "." } else { source };
    let how = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let found = openat2::open(&handle, path, OFlags::PATH | OFlags::CLOEXEC, how).map_err(|error| match error {
        Errno::NOENT | Errno::NOTDIR => Error::not_found(format!("there is no {source:?} to mount")),
        error => Error::io("open", source, error),
    })?;
    let own = format!("/proc/self/fd/{}", found.as_raw_fd());
    std::fs::read_link(&own).context("look at", &own)
}

/// Puts what `tree` has at `source` to the same place below a root; gives what that was.
fn copy_into(store: &Store, tree: &Tree, source: &str, mounted: &Mounted) -> Result<Digest> {
    let folder = store.folder("tmp")?;
    let mut content = None;
    for picked in tree.pick(source, false)? {
        let path = format!("/{}", picked.path.display());
        let place = match picked.is_folder() {
            true => target::folder(mounted.dir(), &path, (0, 0))?.with_the_folder_itself(),
            false => target::file(mounted.dir(), &path, (0, 0))?,
        };
        let mut tar = tempfile::tempfile_in(&folder).context("make a temporary file in", &folder)?;
        tree.write(&picked, picked.name(), &Form::default(), &mut tar)?;
        place.fill(&mut tar)?;
        tar.rewind().context("read", &folder)?;
        content = Some(key::content(&mut tar, counted(&picked))?);
    }
    content.ok_or_else(|| Error::not_found(format!("there is no {source:?} to mount")))
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

/// Removes the caches that no build has used since `before` (seconds since 1970), and none that one uses now.
///
/// # Errors
/// I/O.
pub(super) fn sweep(store: &Store, before: i64) -> Result<()> {
    let folder = store.root().join(CACHES);
    let entries = match std::fs::read_dir(&folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries.context("list", &folder)?,
    };
    for entry in entries {
        let name = entry.context("list", &folder)?.file_name();
        let Some(name) = name.to_str().and_then(|name| name.strip_suffix(".lock")) else {
            continue;
        };
        let lock = lock_file(&folder, name)?;
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
        match std::fs::remove_dir_all(folder.join(name)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::io("remove the cache", folder.join(name), error));
            }
            _ => {}
        }
    }
    Ok(())
}
