//! The metadata of a pool in use, held still while they are read.
//!
//! A pool goes on writing its metadata; what it has reserved as its metadata snapshot stays as it is. It has one at a
//! time, so a lock of the pool says whose that is: who has the lock and finds one knows that its owner is dead, and
//! releases it. While it is held the pool copies what it changes, so it is held for as long as a walk takes.

use std::fs::File;

use crate::delta::thin::Metadata;
use crate::dm::direct::Direct;
use crate::dm::kernel::KernelPool;
use crate::dm::pool::ThinPool;
use crate::dm::volume::Guard;
use crate::error::Result;
use crate::explain::step;

/// A pool's metadata snapshot, ours until this is dropped.
#[derive(Debug)]
#[must_use = "dropping it releases the metadata snapshot"]
pub struct Held<'a> {
    device: Direct,
    word: String,
    superblock: u64,
    data_blocks: u64,
    // Released before the lock is.
    release: Guard<'a>,
    _lock: File,
}

impl Held<'_> {
    /// What is in it.
    ///
    /// # Errors
    /// Corrupt; what reading fails with.
    pub fn metadata(&self) -> Result<Metadata<'_>> {
        Metadata::open(&self.device, self.superblock)
    }

    /// Prints the command, of a program that reads thin metadata, that tells the same as what is read next.
    pub fn explain(&self, command: impl std::fmt::Display) {
        step(|| format!("{command} --metadata-snap {}", self.word));
    }

    /// Data blocks that the pool has, used or free.
    pub fn data_blocks(&self) -> u64 {
        self.data_blocks
    }

    /// Releases it.
    ///
    /// # Errors
    /// The kernel's.
    pub fn close(self) -> Result<()> {
        self.release.close()
    }
}

impl KernelPool {
    /// Holds the pool's metadata still; waits for others that do. The volumes that are looked at must not be written
    /// meanwhile, or what is read of them is older than they are. Nobody who has them held waits for the store's lock.
    ///
    /// # Errors
    /// The kernel's; where the pool's metadata cannot be written.
    pub(super) fn hold(&self) -> Result<Held<'_>> {
        let lock = self.inner.locks.metadata()?;
        if let Some(left) = self.glance()?.held_root {
            tracing::warn!(
                "the pool {} still held its metadata snapshot {left}: released",
                self.name()
            );
            self.release_metadata_snap()?;
        }
        let device = self.inner.underlay.metadata_device()?;
        let superblock = self.reserve_metadata_snap()?;
        let release = Guard::new("release the metadata snapshot", || self.release_metadata_snap());
        Ok(Held {
            device: Direct::open(&device)?,
            word: self.inner.underlay.metadata_word(),
            superblock,
            data_blocks: self.glance()?.data_total,
            release,
            _lock: lock,
        })
    }
}
