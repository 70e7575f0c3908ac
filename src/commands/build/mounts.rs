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
//! All of it is ready before anything of the image runs, and goes after it.

mod binds;
mod caches;
mod secrets;

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;

use plywood_store::intent::Intent;
use plywood_store::{ChainId, Digest};

pub(super) use self::binds::content_of;
use self::binds::inside;
pub(super) use self::caches::{sweep, taken};
use crate::build::context::Tree;
use crate::build::key::Key;
use crate::build::syntax::Mount;
use crate::build::work::RunWork;
use crate::commands::Host;
use crate::error::{Context, Error, Result, both};
use crate::exec::spec::Bind;
use crate::explain::{quote, step};
use crate::snapshot::Mounted;

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
}
