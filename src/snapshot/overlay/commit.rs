//! What an active snapshot changed, and how it becomes a layer.
//!
//! Its own folder becomes the layer's where nobody else needs the folder
//! ([`Overlay::publish`]); for a captured copy the layer's folder is built from
//! the layer's own tar ([`Overlay::rebuild`]), so that it holds what the tar
//! says and nothing that was copied up without a change.

use std::os::fd::AsFd;
use std::path::PathBuf;

use plywood_store::blob::Descriptor;
use plywood_store::digest::Hashing;
use plywood_store::layer::diff::{Everything, Scope};
use plywood_store::record::{LayerRecord, Phase, SnapshotRecord};
use plywood_store::{ChainId, Digest};

use super::stack::{self, MAX_LAYERS};
use super::{Overlay, Upper, folders, upper};
use crate::error::{Context, Error, Result, both};
use crate::snapshot::{Access, Comparison, Differ, Found, Mounted, NewLayer, Side, Snapshotter, shown};

impl Overlay {
    /// The record of what `key` becomes, if no such layer is there and the stack does not grow too high.
    pub(super) fn planned(&self, record: &SnapshotRecord, layer: &NewLayer) -> Result<LayerRecord> {
        let height = self.layers(record.parent.as_ref())?.len() + 1;
        if height > MAX_LAYERS {
            return Err(stack::too_many(height));
        }
        Ok(LayerRecord {
            chain_id: ChainId::new(record.parent, layer.diff_id),
            diff_id: layer.diff_id,
            parent: record.parent,
            blob: layer.blob.clone(),
            size: layer.size,
            place: record.place.clone(),
            phase: Phase::Ready,
        })
    }

    /// The snapshot's own folder becomes the layer.
    pub(super) fn publish(&self, record: &SnapshotRecord, name: &str, layer: &NewLayer) -> Result<LayerRecord> {
        let planned = self.planned(record, layer)?;
        self.complete(record, name)?;
        // Nobody writes to it any more; what was written must be there before the record says so.
        let owned = self.own(&record.key, name)?;
        folders::sync_filesystem(owned.as_fd(), &self.folders.tree(name))?;
        let lock = self.store.exclusive()?;
        if let Some(there) = self.store.layers.get(&planned.chain_id.0.hex())? {
            if there.phase == Phase::Deleting {
                self.finish_layer(&lock, &there)?;
            } else {
                lock.done()?;
                drop(owned);
                self.remove(&record.key)?;
                return Ok(there);
            }
        }
        // The parent may have been removed since; the exclusive lock holds it from here on.
        self.stack_of(record.parent.as_ref(), None)?;
        self.folders.mark_deletion(&lock, name)?;
        self.store.layers.put(&lock, &planned)?;
        self.store.snapshots.remove(&lock, &record.key)?;
        lock.done()?;
        // The layer is there, whatever happens now: what is left is recovery's.
        if let Err(error) = self.folders.delete_work(name).and_then(|()| self.folders.settled(name)) {
            tracing::debug!("the work folder of {name} stays for recovery: {error}");
        }
        Ok(planned)
    }

    /// Makes the folder say by itself what index and folder say together.
    pub(super) fn complete(&self, record: &SnapshotRecord, name: &str) -> Result<()> {
        if !upper::has_index(&self.folders.work(name))? {
            return Ok(());
        }
        let mounted = self.mount_record(record, Access::ReadWrite, None)?;
        let upper = upper::handle(&self.folders.tree(name))?;
        let completed = upper::complete_links(mounted.dir(), upper.as_fd());
        drop(upper);
        both(completed, mounted.close())
    }

    /// Builds the layer of a captured copy from its own tar, over the same parent.
    pub(super) fn rebuild(&self, record: &SnapshotRecord, layer: &NewLayer) -> Result<LayerRecord> {
        let chain = ChainId::new(record.parent, layer.diff_id);
        let there = self
            .store
            .layers
            .get(&chain.0.hex())?
            .filter(|there| there.phase == Phase::Ready);
        let made = match there {
            Some(there) => there,
            None => {
                self.planned(record, layer)?;
                let key = format!("{}.layer", record.key);
                self.prepare_leased(&key, record.parent.as_ref(), record.lease.clone(), false)?;
                match self.fill(&key, layer).and_then(|()| self.commit(&key, layer)) {
                    Ok(made) => made,
                    Err(error) => return both(Err(error), self.remove(&key)),
                }
            }
        };
        self.remove(&record.key)?;
        Ok(made)
    }

    pub(super) fn fill(&self, key: &str, layer: &NewLayer) -> Result<()> {
        let mounted = self.mount(key, Access::Fill)?;
        let filled = self
            .unpack_blob(&mounted, &layer.blob)
            .and_then(|digest| match digest == layer.diff_id.0 {
                true => Ok(()),
                false => Err(Error::corrupt(format!(
                    "blob {} holds the layer {digest}, not {}",
                    layer.blob.digest, layer.diff_id
                ))),
            });
        both(filled, mounted.close())
    }

    pub(super) fn unpack_blob(&self, mounted: &Mounted, blob: &Descriptor) -> Result<Digest> {
        let packed = self.store.blobs.open(&blob.digest)?;
        let (_, tar) = plywood_store::compress::decoder(Box::new(packed))?;
        let mut tar = Hashing::new(tar);
        (self.unpack)(mounted, &mut tar, &self.store.blobs.path(&blob.digest))?;
        std::io::copy(&mut tar, &mut std::io::sink()).context("read", format!("blob {}", blob.digest))?;
        Ok(tar.finish().1)
    }

    /// Parent and child, which `child` gives, with the names that the upper folder has.
    pub(super) fn comparison(
        &self,
        record: &SnapshotRecord,
        differ: Differ,
        child: impl FnOnce() -> Result<Mounted>,
    ) -> Result<Comparison> {
        let parent: Option<Box<dyn Side>> = match &record.parent {
            None => None,
            Some(chain) => {
                let stack = self.stack_of(Some(chain), None)?;
                Some(Box::new(stack::mount_stack(
                    &stack,
                    &self.folders,
                    &self.points,
                    false,
                    None,
                    None,
                )?))
            }
        };
        let child = Box::new(child()?);
        let upper = Upper::of(record)?.name().filter(|_| differ != Differ::Walk);
        let (scope, found): (Box<dyn Scope>, Found) = match upper {
            Some(name) => (
                Box::new(upper::UpperScope::open(&self.folders.tree(name))?),
                Found::Upper,
            ),
            None => (Box::new(Everything), Found::Walk { because: None }),
        };
        Ok(Comparison {
            parent,
            child,
            scope,
            found,
        })
    }

    /// A snapshot that process `user` has mounted. A second mount of the same upper folder would not know its hard
    /// links, and the kernel refuses it: so it is reached where that process has it.
    pub(super) fn shown_to(&self, record: &SnapshotRecord, user: u32) -> Result<Comparison> {
        let stack = self.stack_of(record.parent.as_ref(), Upper::of(record)?.name())?;
        self.comparison(record, Differ::Auto, || {
            let found = shown::mounted_by(user, &stack.source())?;
            let target = found.ok_or_else(|| {
                Error::not_found(format!(
                    "snapshot {} is not mounted by process {user} any more",
                    record.key
                ))
                .hinted("its container has just ended, or outlived its plywood: plywood kill ends it, then commit it")
            })?;
            let path = PathBuf::from(format!("/proc/{user}/root")).join(target.strip_prefix("/").unwrap_or(&target));
            let dir = folders::open(&path)?;
            Ok(Mounted::new(path, dir, || Ok(())))
        })
    }
}
