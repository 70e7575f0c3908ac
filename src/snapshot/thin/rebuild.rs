//! Layers: verified against their digests, unpacked again from their blobs where they differ.
//!
//! A layer that came from elsewhere need not have the bytes that our differ writes:
//! then what its blob unpacks to decides.

use plywood_store::compress;
use plywood_store::digest::Hashing;
use plywood_store::intent::{Plan, ThinStep};
use plywood_store::layer::diff::{Everything, Options, write_layer};
use plywood_store::layer::tree;
use plywood_store::lock::Exclusive;
use plywood_store::record::{LayerRecord, Phase, Place, SnapshotRecord};
use plywood_store::{ChainId, DiffId, Digest, Store};

use super::id_of;
use super::repair::{Work, condemned, whole};
use crate::dm::volume::Content;
use crate::error::{Context, Error, Result, both};
use crate::snapshot::{Access, Mounted, Snapshotter, base_first};

impl Work<'_> {
    /// Verifies every layer, base first, and replaces what is not whole.
    pub(super) fn layers(&mut self) -> Result<()> {
        let records = self.thin.store.layers.list()?;
        for layer in base_first(
            records
                .into_iter()
                .filter(|layer| layer.phase == Phase::Ready)
                .collect(),
        ) {
            (self.wishes.at)(&layer);
            self.told.layers += 1;
            if let Some(parent) = layer.parent.filter(|parent| self.broken.contains(parent)) {
                self.lose(&layer, &format!("it stands on {parent}, which is not whole"))?;
                continue;
            }
            let found = self.look_at(&layer)?;
            match found {
                Found::Whole => {}
                Found::Damaged(why) => match self.rebuild(&layer) {
                    Ok(()) => self
                        .told
                        .repaired
                        .push(format!("rebuilt the layer {} from its blob: {why}", layer.chain_id)),
                    Err(error) => self.lose(&layer, &format!("{why}; and it cannot be rebuilt: {}", whole(&error)))?,
                },
                Found::Unlike => self.decide(&layer)?,
            }
        }
        Ok(())
    }

    fn lose(&mut self, layer: &LayerRecord, why: &str) -> Result<()> {
        let id = id_of(&layer.place)?;
        if self.there.contains(&id.get()) {
            // Nobody builds on it or reads it for what it is not.
            self.thin.pool.distrust(&self.thin.pool.claim(id)?)?;
        }
        self.broken.insert(layer.chain_id);
        self.told
            .left
            .push(format!("the layer {} is not whole: {why}", layer.chain_id));
        Ok(())
    }

    fn look_at(&self, layer: &LayerRecord) -> Result<Found> {
        let id = id_of(&layer.place)?;
        if !self.there.contains(&id.get()) {
            return Ok(Found::Damaged(format!("the pool has no volume {id} any more")));
        }
        self.thin.pool.forgive(&self.thin.pool.claim(id)?)?;
        if let Some(why) = self.damage(id.get(), Content::Layer)? {
            return Ok(Found::Damaged(why));
        }
        Ok(match self.difference(layer) {
            Ok(digest) if digest == layer.diff_id => Found::Whole,
            Ok(_) => Found::Unlike,
            Err(error) => Found::Damaged(whole(&error)),
        })
    }

    /// The digest of what differs between a layer and its parent, every byte of both read.
    fn difference(&self, layer: &LayerRecord) -> Result<DiffId> {
        let parent = match &layer.parent {
            Some(chain) => Some(self.mount_layer(&self.thin.layer(chain)?)?),
            None => None,
        };
        let child = self.mount_layer(layer)?;
        let options = Options {
            thorough: true,
            ..Options::default()
        };
        let mut hashing = Hashing::new(std::io::sink());
        let written = write_layer(
            parent.as_ref().map(Mounted::folder),
            child.folder(),
            &Everything,
            &options,
            &mut hashing,
        );
        let closed = both(child.close(), parent.map_or(Ok(()), Mounted::close));
        both(written, closed)?;
        let (_, digest, _) = hashing.finish();
        Ok(DiffId(digest))
    }

    fn mount_layer(&self, layer: &LayerRecord) -> Result<Mounted> {
        self.thin.mount_volume(&layer.place, Content::Layer, Access::ReadOnly)
    }

    /// Its own bytes are not those of its tar: what the tar unpacks to decides.
    fn decide(&mut self, layer: &LayerRecord) -> Result<()> {
        let compared = self.with_fresh(layer, |key| {
            let fresh = self.thin.mount(key, Access::ReadOnly)?;
            let expected = tree::digest(&fresh.dir());
            let expected = both(expected, fresh.close())?;
            let is_whole = self.tree_of(layer).is_ok_and(|digest| digest == expected);
            if !is_whole {
                self.replace(layer, key)?;
            }
            Ok(is_whole)
        });
        match compared {
            Ok(true) => {}
            Ok(false) => self.told.repaired.push(format!(
                "rebuilt the layer {} from its blob: its content was not what its digest says",
                layer.chain_id
            )),
            Err(error) => self.lose(
                layer,
                &format!("it is not what its digest says, or cannot be told: {}", whole(&error)),
            )?,
        }
        Ok(())
    }

    fn tree_of(&self, layer: &LayerRecord) -> Result<Digest> {
        let mounted = self.mount_layer(layer)?;
        let digest = tree::digest(&mounted.dir());
        both(digest, mounted.close())
    }

    fn rebuild(&self, layer: &LayerRecord) -> Result<()> {
        self.with_fresh(layer, |key| self.replace(layer, key))
    }

    /// Unpacks a layer's blob over its parent into a snapshot of its own, for `work`; it is gone afterwards.
    fn with_fresh<T>(&self, layer: &LayerRecord, work: impl FnOnce(&str) -> Result<T>) -> Result<T> {
        let intent = self.thin.store.intents.begin(Plan::Work {
            verb: "repair".to_owned(),
            blobs: vec![layer.blob.digest],
            layers: vec![layer.chain_id],
        })?;
        let key = format!("repair-{}", layer.chain_id.0.short());
        let worked = self.thin.remove(&key).and_then(|()| {
            self.thin.prepare(&key, layer.parent.as_ref(), Some(&intent))?;
            let worked = self.unpack(layer, &key).and_then(|()| work(&key));
            both(worked, self.thin.remove(&key))
        });
        both(worked, intent.done())
    }

    fn unpack(&self, layer: &LayerRecord, key: &str) -> Result<()> {
        let blobs = &self.thin.store.blobs;
        let (_, tar) = compress::decoder(Box::new(blobs.open(&layer.blob.digest)?))?;
        let mut tar = Hashing::new(tar);
        let mounted = self.thin.mount(key, Access::Fill)?;
        let path = blobs.path(&layer.blob.digest);
        let unpacked = (self.wishes.unpack)(&mounted, &mut tar, &path)
            .and_then(|_| std::io::copy(&mut tar, &mut std::io::sink()).context("read", &path));
        both(unpacked, mounted.close())?;
        let (_, digest, _) = tar.finish();
        match DiffId(digest) == layer.diff_id {
            true => Ok(()),
            false => Err(
                Error::corrupt(format!("its blob {} is not what it should be", layer.blob.digest))
                    .hinted("import its image again"),
            ),
        }
    }

    /// The snapshot becomes the layer's volume; the old one goes.
    fn replace(&self, layer: &LayerRecord, key: &str) -> Result<()> {
        let thin = self.thin;
        let place = thin.snapshot(key)?.place;
        let claim = thin.pool.claim(id_of(&place)?)?;
        thin.pool.seal(&claim, false)?;
        let old = id_of(&layer.place)?.get();
        let is_there = self.there.contains(&old);
        let record = LayerRecord { place, ..layer.clone() };
        let publish = ThinStep::Publish {
            key: key.to_owned(),
            layer: Box::new(record.clone()),
        };
        let mut transaction = thin.begin()?;
        transaction.step(
            publish,
            |_| Ok(()),
            |store, lock, _| {
                // Before the layer: exceptions over another base would be garbage.
                orphan_stores(store, lock, &record.chain_id)?;
                store.layers.put(lock, &record)?;
                if is_there {
                    store.snapshots.put(lock, &condemned(old))?;
                }
                store.snapshots.remove(lock, key).map(drop)?;
                self.settle_views(lock)
            },
        )?;
        transaction.finish()?;
        drop(claim);
        match is_there {
            true => thin.remove(&condemned(old).key),
            false => Ok(()),
        }
    }
}

/// What a look at a layer shows.
enum Found {
    /// Its difference to its parent is what its digest says.
    Whole,
    /// Something is wrong with it for certain.
    Damaged(String),
    /// Another difference: damaged, or written by another tool than ours.
    Unlike,
}

/// Takes the origin from the stores that were written over a layer's old volume: over the new one they mean nothing.
fn orphan_stores(store: &Store, lock: &Exclusive, chain: &ChainId) -> Result<()> {
    for snapshot in store.snapshots.list()? {
        if matches!(snapshot.place, Place::Cow(_)) && snapshot.parent.as_ref() == Some(chain) {
            store.snapshots.put(
                lock,
                &SnapshotRecord {
                    parent: None,
                    ..snapshot
                },
            )?;
        }
    }
    Ok(())
}
