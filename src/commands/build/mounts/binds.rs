//! `RUN --mount=type=bind`: the layers of a stage or image, or a copy of what the context has.
//!
//! A source's path is resolved once, below its own root, before anything of the image runs; what is bound is where
//! that led.

use std::io::Seek;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use plywood_store::intent::Intent;
use plywood_store::{ChainId, Digest, Store};
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::Mounts;
use crate::build::context::{Form, Picked, Tree};
use crate::build::key::{self, Counted};
use crate::build::target;
use crate::commands::{Host, random_key};
use crate::error::{Context, Error, Result};
use crate::snapshot::{Access, Mounted};
use crate::sys::openat2;

/// What a source in the context holds now.
///
/// # Errors
/// Not there; several.
pub(in crate::commands::build) fn content_of(tree: &Tree, source: &str) -> Result<Digest> {
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
    /// The root of a stack, mounted. What is written to it goes nowhere.
    pub(super) fn stack(
        &mut self,
        host: &Host,
        stack: Option<&ChainId>,
        writable: bool,
        owner: &Intent,
    ) -> Result<PathBuf> {
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
    pub(super) fn copy_of_context(
        &mut self,
        host: &Host,
        tree: &Tree,
        source: &str,
        owner: &Intent,
    ) -> Result<PathBuf> {
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
}

/// Where `source` leads below `root`, whatever links there are: a path without any.
pub(super) fn inside(root: &Path, source: &str) -> Result<PathBuf> {
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
