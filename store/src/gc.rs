//! What nothing needs: mark over the records, then condemn, then sweep.
//!
//! Roots are names, containers and live intents. An image without a name that
//! no container uses is garbage; a layer that no image and no snapshot stands
//! on is garbage; a blob that no image and no layer names is garbage. The
//! sweep of layers' content is the driver's: this room says which.
//!
//! [`mark`] and [`condemn`] are one step under one exclusive lock: what was
//! marked cannot become needed before its record says that it is going. The
//! driver then takes the condemned away in its own time; a crash before that
//! leaves records that are garbage again next time.

mod temporary;

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use crate::intent::{Plan, ThinStep};
use crate::lock::Exclusive;
use crate::record::{ImageRecord, LayerRecord, Phase, Record, Records, SnapshotRecord, StepRecord};
use crate::{ChainId, Digest, Error, ImageId, Kind, Result, Store, index};

/// Bytes that a manifest may have.
const MANIFEST_MAX: u64 = 4 << 20;

/// What nothing needs.
#[derive(Debug, Default)]
pub struct Garbage {
    /// Images without name and container.
    pub images: Vec<ImageRecord>,
    /// Layers, top of each stack first, so that each can go before its parent.
    pub layers: Vec<LayerRecord>,
    /// Snapshots whose lease-holder is dead, or that are being deleted already.
    pub snapshots: Vec<SnapshotRecord>,
    /// Steps of builds: those whose layer is gone, and, where that is asked for, what builds have not used lately.
    pub steps: Vec<StepRecord>,
    /// Blobs, with their length in bytes.
    pub blobs: Vec<(Digest, u64)>,
    /// Unfinished files in `tmp/` that no live process writes, with their length in bytes.
    pub temporary: Vec<(String, u64)>,
}

impl Garbage {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.images.is_empty()
            && self.layers.is_empty()
            && self.snapshots.is_empty()
            && self.steps.is_empty()
            && self.blobs.is_empty()
            && self.temporary.is_empty()
    }
}

/// Finds what nothing needs. Call it under a lock that keeps the records still.
///
/// # Errors
/// A damaged record: nothing is called garbage by guessing.
pub fn mark(store: &Store) -> Result<Garbage> {
    mark_without(store, &Without::default())
}

/// What is taken for gone already when garbage is looked for.
#[derive(Debug, Clone, Default)]
pub struct Without {
    /// These images' names.
    pub names: BTreeSet<ImageId>,
    /// The steps of builds that none has needed since then (seconds since 1970).
    pub steps_before: Option<i64>,
}

/// Finds what nothing would need without some of what there is.
///
/// # Errors
/// As for [`mark`].
pub fn mark_without(store: &Store, without: &Without) -> Result<Garbage> {
    let pins = Pins::read(store)?;
    let (kept_images, images) = split_images(store, &without.names)?;
    let (kept_snapshots, snapshots): (Vec<_>, Vec<_>) = store.snapshots.list()?.into_iter().partition(|snapshot| {
        let leased = snapshot.lease.as_ref().is_none_or(|lease| pins.live.contains(lease));
        snapshot.phase == Phase::Ready && leased
    });

    let mut wanted = pins.layers;
    wanted.extend(kept_images.iter().flat_map(|image| image.layers.iter().copied()));
    wanted.extend(kept_snapshots.iter().filter_map(|snapshot| snapshot.parent));
    let stacks = Stacks::read(store)?;
    let (kept_steps, steps): (Vec<_>, Vec<_>) = steps(store)?.into_iter().partition(|step| {
        let lately = without.steps_before.is_none_or(|then| step.used_at >= then);
        lately && step.top.is_none_or(|top| stacks.has(&top))
    });
    wanted.extend(kept_steps.iter().filter_map(|step| step.top));
    let needed = stacks.with_all_below(wanted)?;

    let mut needed_blobs = pins.blobs;
    for image in &kept_images {
        needed_blobs.extend(blobs_of_image(store, image)?);
    }
    let (kept_layers, mut layers): (Vec<_>, Vec<_>) = stacks
        .layers
        .values()
        .cloned()
        .partition(|layer| needed.contains(&layer.chain_id) && layer.phase == Phase::Ready);
    needed_blobs.extend(kept_layers.iter().map(|layer| layer.blob.digest));
    layers.sort_by_key(|layer| std::cmp::Reverse(stacks.depth(layer)));

    let mut blobs = store.blobs.list()?;
    blobs.retain(|(digest, _)| !needed_blobs.contains(digest));
    Ok(Garbage {
        images,
        layers,
        snapshots,
        steps,
        blobs,
        temporary: temporary::dead(store)?,
    })
}

/// Who has been promised that a layer stays: an image, or a live command that pins it. Under the lock nobody
/// can be promised it meanwhile.
///
/// A driver asks before it removes a layer, however that was found to be garbage: since the mark, or
/// since [`condemn`], the same layer may have been made anew, and an image put on it.
///
/// # Errors
/// A damaged record.
pub fn promised(store: &Store, _lock: &Exclusive, chain: &ChainId) -> Result<Option<String>> {
    let images = store.images.list()?;
    if let Some(image) = images.iter().find(|image| image.layers.contains(chain)) {
        return Ok(Some(format!("image {}", image.id)));
    }
    let pinned = |plan: &Plan| matches!(plan, Plan::Work { layers, .. } if layers.contains(chain));
    let live = store.intents.live()?;
    let command = live.iter().find(|(_, plan)| pinned(plan));
    Ok(command.map(|(id, _)| format!("the running command {id}")))
}

/// Takes away what the store itself owns of `garbage` (image records, blobs,
/// temporary files), and writes on the layers and snapshots that they are going:
/// the driver removes those. Under the same lock as the [`mark`] that found it.
///
/// What frees space without a write comes first, so that this works on a full
/// disk; a layer's blob goes only when its record says that the layer is going.
///
/// # Errors
/// I/O. What was not reached is garbage again next time.
pub fn condemn(store: &Store, lock: &Exclusive, garbage: &Garbage) -> Result<()> {
    for (name, _) in &garbage.temporary {
        temporary::remove(store, name)?;
    }
    for image in &garbage.images {
        store.images.remove(lock, &image.key())?;
    }
    // Before their layers: a build must not find a step whose layer is going.
    for step in &garbage.steps {
        store.steps.remove(lock, &step.key())?;
    }
    let of_layers: BTreeSet<Digest> = garbage.layers.iter().map(|layer| layer.blob.digest).collect();
    let (last, first): (Vec<_>, Vec<_>) = garbage
        .blobs
        .iter()
        .map(|(digest, _)| digest)
        .partition(|digest| of_layers.contains(*digest));
    for digest in first {
        store.blobs.remove(lock, digest)?;
    }
    for snapshot in &garbage.snapshots {
        if snapshot.phase == Phase::Ready {
            let mut going = snapshot.clone();
            going.phase = Phase::Deleting;
            put_on_full_disk(store, lock, &store.snapshots, &going)?;
        }
    }
    for layer in &garbage.layers {
        if layer.phase == Phase::Ready {
            let mut going = layer.clone();
            going.phase = Phase::Deleting;
            put_on_full_disk(store, lock, &store.layers, &going)?;
        }
    }
    for digest in last {
        store.blobs.remove(lock, digest)?;
    }
    Ok(())
}

/// Writes a record; where there is no room for it, the index makes some.
fn put_on_full_disk<T: Record>(store: &Store, lock: &Exclusive, records: &Records<T>, record: &T) -> Result<()> {
    match records.put(lock, record) {
        Err(error) if error.kind() == Kind::NoSpace => {
            index::give_up(store.root(), lock)?;
            records.put(lock, record)
        }
        other => other,
    }
}

/// What intents keep.
#[derive(Default)]
struct Pins {
    /// Intents with a live owner.
    live: BTreeSet<String>,
    blobs: BTreeSet<Digest>,
    layers: BTreeSet<ChainId>,
}

impl Pins {
    fn read(store: &Store) -> Result<Self> {
        let mut pins = Self::default();
        for (id, plan, live) in store.intents.list()? {
            match plan {
                Plan::Work { blobs, layers, .. } if live => {
                    pins.blobs.extend(blobs);
                    pins.layers.extend(layers);
                }
                Plan::Work { .. } | Plan::Container { .. } => {}
                // Even a dead owner's: recovery may take this step forward.
                Plan::Thin {
                    step: ThinStep::Publish { layer, .. },
                    ..
                } => {
                    pins.blobs.insert(layer.blob.digest);
                    pins.layers.extend(layer.parent);
                }
                Plan::Thin { .. } => {}
            }
            if live {
                pins.live.insert(id);
            }
        }
        Ok(pins)
    }
}

/// The build cache.
fn steps(store: &Store) -> Result<Vec<StepRecord>> {
    if !store.steps.folder().is_dir() {
        return Ok(Vec::new());
    }
    store.steps.list()
}

/// The images that something needs, and the others.
fn split_images(store: &Store, unnamed: &BTreeSet<ImageId>) -> Result<(Vec<ImageRecord>, Vec<ImageRecord>)> {
    let mut used: BTreeSet<_> = store.names.list()?.into_iter().map(|name| name.image).collect();
    used.retain(|image| !unnamed.contains(image));
    used.extend(store.containers.list()?.into_iter().map(|container| container.image));
    Ok(store
        .images
        .list()?
        .into_iter()
        .partition(|image| used.contains(&image.id)))
}

/// All layers, by what they are.
struct Stacks {
    layers: BTreeMap<ChainId, LayerRecord>,
}

impl Stacks {
    fn read(store: &Store) -> Result<Self> {
        let layers = store.layers.list()?;
        Ok(Self {
            layers: layers.into_iter().map(|layer| (layer.chain_id, layer)).collect(),
        })
    }

    fn has(&self, chain: &ChainId) -> bool {
        self.layers.get(chain).is_some_and(|layer| layer.phase == Phase::Ready)
    }

    /// `wanted` and everything underneath.
    fn with_all_below(&self, wanted: BTreeSet<ChainId>) -> Result<BTreeSet<ChainId>> {
        let mut needed = BTreeSet::new();
        for top in wanted {
            // What is only pinned need not be there yet.
            let mut next = self.layers.get(&top);
            while let Some(layer) = next {
                if !needed.insert(layer.chain_id) {
                    break;
                }
                next = match layer.parent {
                    Some(parent) => Some(self.layers.get(&parent).ok_or_else(|| missing(layer, parent))?),
                    None => None,
                };
            }
        }
        Ok(needed)
    }

    /// Layers underneath; a ring, which only damage could make, ends the count.
    fn depth(&self, layer: &LayerRecord) -> usize {
        std::iter::successors(layer.parent, |below| self.layers.get(below)?.parent)
            .take(self.layers.len())
            .count()
    }
}

fn missing(layer: &LayerRecord, parent: ChainId) -> Error {
    Error::corrupt(format!(
        "the layer {} stands on {parent}, which is not there",
        layer.chain_id
    ))
    .hinted("`plywood check` lists all that is damaged")
}

/// The parts of an OCI manifest or Docker's that this room reads.
#[derive(Deserialize)]
struct Manifest {
    #[serde(default)]
    layers: Vec<Named>,
}

#[derive(Deserialize)]
struct Named {
    digest: Digest,
}

/// The blobs that an image needs: config, manifest, and the layers as its own
/// manifest has them, which may be packed otherwise than the layer records' blobs.
///
/// # Errors
/// Not found or corrupt where the manifest is missing or damaged.
pub fn blobs_of_image(store: &Store, image: &ImageRecord) -> Result<Vec<Digest>> {
    let content = store.blobs.read(&image.manifest.digest, MANIFEST_MAX)?;
    let manifest: Manifest = serde_json::from_slice(&content).map_err(|error| {
        Error::corrupt(format!(
            "the manifest {} of image {} is none",
            image.manifest.digest, image.id
        ))
        .caused_by(error)
    })?;
    let mut blobs = vec![image.config.digest, image.manifest.digest];
    blobs.extend(manifest.layers.into_iter().map(|layer| layer.digest));
    Ok(blobs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{fixture, unname};
    use crate::record::Place;

    fn snapshot(key: &str, parent: &LayerRecord, lease: Option<&str>) -> SnapshotRecord {
        SnapshotRecord {
            key: key.into(),
            parent: Some(parent.chain_id),
            read_only: false,
            place: Place::Folder(key.into()),
            phase: Phase::Ready,
            lease: lease.map(str::to_owned),
            mounted_at: None,
        }
    }

    #[test]
    fn a_named_image_keeps_all_that_it_needs() {
        let it = fixture();
        assert!(mark(&it.store).unwrap().is_empty());
        let stray = it.store.blobs.put(b"stray").unwrap();
        assert_eq!(mark(&it.store).unwrap().blobs, [(stray.digest, 5)]);
    }

    #[test]
    fn an_unnamed_image_goes_with_its_layers_top_first() {
        let it = fixture();
        unname(&it.store);
        let garbage = mark(&it.store).unwrap();
        assert_eq!(garbage.images, std::slice::from_ref(&it.image));
        assert_eq!(garbage.layers, [it.top.clone(), it.base.clone()]);
        assert_eq!(garbage.blobs.len(), 5);
    }

    #[test]
    fn a_snapshot_keeps_its_layer_while_its_lease_holder_lives() {
        let it = fixture();
        unname(&it.store);
        let plan = Plan::Work {
            verb: "commit".into(),
            blobs: Vec::new(),
            layers: Vec::new(),
        };
        let intent = it.store.intents.begin(plan).unwrap();
        let lock = it.store.exclusive().unwrap();
        let leased = snapshot("leased", &it.base, Some(intent.id()));
        it.store.snapshots.put(&lock, &leased).unwrap();
        lock.done().unwrap();
        assert_eq!(mark(&it.store).unwrap().layers, std::slice::from_ref(&it.top));
        drop(intent);
        let garbage = mark(&it.store).unwrap();
        assert_eq!(garbage.snapshots, [leased]);
        assert_eq!(garbage.layers.len(), 2);
    }

    #[test]
    fn pins_of_the_living_and_steps_that_may_go_forward_are_roots() {
        let it = fixture();
        unname(&it.store);
        let plan = Plan::Work {
            verb: "import".into(),
            blobs: vec![it.image.config.digest],
            layers: vec![it.top.chain_id],
        };
        let intent = it.store.intents.begin(plan).unwrap();
        let garbage = mark(&it.store).unwrap();
        assert!(garbage.layers.is_empty());
        assert_eq!(garbage.blobs.len(), 2, "{garbage:?}");
        drop(intent);

        let step = ThinStep::Publish {
            key: "x".into(),
            layer: Box::new(it.top.clone()),
        };
        drop(it.store.intents.begin(Plan::Thin { from: 1, step }).unwrap());
        let garbage = mark(&it.store).unwrap();
        assert_eq!(garbage.layers, std::slice::from_ref(&it.top));
        let gone: Vec<_> = garbage.blobs.iter().map(|(digest, _)| *digest).collect();
        assert!(!gone.contains(&it.top.blob.digest));
    }

    #[test]
    fn condemning_leaves_only_what_the_driver_must_remove() {
        let it = fixture();
        unname(&it.store);
        let lock = it.store.exclusive().unwrap();
        it.store
            .snapshots
            .put(&lock, &snapshot("dead", &it.top, Some("1-2")))
            .unwrap();
        condemn(&it.store, &lock, &mark(&it.store).unwrap()).unwrap();
        // A second time finds the same, and changes nothing.
        let garbage = mark(&it.store).unwrap();
        condemn(&it.store, &lock, &garbage).unwrap();
        lock.done().unwrap();
        assert!(garbage.images.is_empty() && garbage.blobs.is_empty());
        assert_eq!((garbage.snapshots.len(), garbage.layers.len()), (1, 2));
        assert!(garbage.layers.iter().all(|layer| layer.phase == Phase::Deleting));
        assert!(it.store.blobs.list().unwrap().is_empty());
    }

    #[test]
    fn damage_stops_the_marking() {
        let it = fixture();
        std::fs::remove_file(it.store.layers.path(&it.base.key()).unwrap()).unwrap();
        let error = mark(&it.store).unwrap_err();
        assert!(error.to_string().contains(&it.base.chain_id.to_string()));
        let it = fixture();
        std::fs::write(it.store.blobs.path(&it.image.manifest.digest), "{}").unwrap();
        mark(&it.store).unwrap_err();
    }
}
