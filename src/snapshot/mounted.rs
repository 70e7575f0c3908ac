//! What a driver gives into somebody's hands: a mounted snapshot, or an empty one as a device.
//!
//! Both say whether what was written has arrived: only [`Mounted::close`] and [`Device::close`] can.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use plywood_store::layer::folder::Folder;

use crate::dm::volume::VolumeDevice;
use crate::error::{Context, Result};

/// A mounted snapshot. [`Mounted::close`] unmounts and reports; dropping it unmounts and only logs.
pub struct Mounted {
    path: PathBuf,
    dir: Option<OwnedFd>,
    bare: bool,
    mapped: bool,
    undo: Option<Box<dyn FnOnce() -> Result<()>>>,
}

impl std::fmt::Debug for Mounted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mounted")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

impl Mounted {
    /// A mount at `path`, whose root directory is `dir`, undone (synced, unmounted, deactivated) by `undo`.
    pub fn new(path: PathBuf, dir: OwnedFd, undo: impl FnOnce() -> Result<()> + 'static) -> Self {
        Self {
            path,
            dir: Some(dir),
            bare: false,
            mapped: false,
            undo: Some(Box::new(undo)),
        }
    }

    /// The same for a folder that overlayfs will stack, and that is not mounted now.
    pub fn bare(path: PathBuf, dir: OwnedFd, undo: impl FnOnce() -> Result<()> + 'static) -> Self {
        let mut mounted = Self::new(path, dir, undo);
        mounted.bare = true;
        mounted
    }

    /// The same mount, whose owners are shown as a user namespace has them.
    #[must_use]
    pub fn mapped(self) -> Self {
        let mut mounted = self;
        mounted.mapped = true;
        mounted
    }

    /// Whether its owners are shown as a user namespace has them, not as they are on the disk.
    pub fn is_mapped(&self) -> bool {
        self.mapped
    }

    /// Whether it is a folder under no overlayfs, which would not refuse overlayfs's own marks.
    pub fn is_bare(&self) -> bool {
        self.bare
    }

    /// Where it is mounted, in this process's mount namespace.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A handle on its root directory.
    pub fn dir(&self) -> BorrowedFd<'_> {
        self.root().as_fd()
    }

    /// Its root directory, for the differ.
    pub fn folder(&self) -> &dyn Folder {
        self.root()
    }

    fn root(&self) -> &OwnedFd {
        match &self.dir {
            Some(dir) => dir,
            None => unreachable!("the handle is taken only by close and drop"),
        }
    }

    /// Makes what was written durable, unmounts, deactivates.
    ///
    /// # Errors
    /// Any failure to write back: then nothing that was written may be trusted.
    pub fn close(mut self) -> Result<()> {
        self.undo()
    }

    fn undo(&mut self) -> Result<()> {
        drop(self.dir.take());
        match self.undo.take() {
            Some(undo) => undo(),
            None => Ok(()),
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Err(error) = self.undo() {
            tracing::warn!(path = %self.path.display(), "cannot unmount: {error}");
        }
    }
}

/// An empty snapshot as a device. [`Device::close`] makes it durable and reports; dropping it only logs.
#[derive(Debug)]
pub struct Device(VolumeDevice);

impl Device {
    /// A volume's.
    pub fn new(volume: VolumeDevice) -> Self {
        Self(volume)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// Brings what was written so far to the disk.
    ///
    /// # Errors
    /// A failed write, of whoever has the device open.
    pub fn sync(&self) -> Result<()> {
        self.0.file.sync_data().context("sync", &self.0.path)
    }

    /// Makes what was written durable, deactivates.
    ///
    /// # Errors
    /// Any failure to write back: then nothing that was written may be trusted.
    pub fn close(self) -> Result<()> {
        let VolumeDevice { file, undo, .. } = self.0;
        drop(file);
        undo.close()
    }
}
