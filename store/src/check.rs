//! Verifies the store against itself: records, blobs, names, index.
//!
//! It reads and changes nothing. Every finding is an [`Error`] that names its
//! object; that the list is empty is the proof that what was acknowledged is there.

mod data;
mod strays;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;

use crate::blob::Descriptor;
use crate::index::{self, Index};
use crate::lock::Shared;
use crate::record::{ContainerRecord, ImageRecord, LayerRecord, NameRecord, Phase, Record, Records, SnapshotRecord};
use crate::{ChainId, Error, Kind, Result, Store, gc};

/// How deep to look.
#[derive(Debug, Clone, Copy, Default)]
pub struct Depth {
    /// Read every blob and compare it with its digest, and each layer's with its DiffID.
    pub data: bool,
}

/// What was looked at, and what is wrong.
#[derive(Debug, Default)]
pub struct Report {
    /// Records read.
    pub records: u64,
    /// Blobs looked at.
    pub blobs: u64,
    /// Bytes read and hashed: of blobs, and of what packed layers unpack to.
    pub bytes_hashed: u64,
    /// What is wrong; empty for a sound store.
    pub findings: Vec<Error>,
}

impl Report {
    fn find(&mut self, what: impl Into<String>) {
        self.findings.push(Error::corrupt(what));
    }

    /// Takes a failure into the findings.
    fn keep<T>(&mut self, result: Result<T>) -> Option<T> {
        result.map_err(|error| self.findings.push(error)).ok()
    }
}

/// Verifies records against each other, blobs against records, the index against both.
/// `progress` is told of each piece that was hashed how many bytes it had.
///
/// Records are compared under the shared lock; blobs, which never change, are read without one.
///
/// # Errors
/// Only where the check itself cannot run.
pub fn check(store: &Store, depth: Depth, progress: &dyn Fn(u64)) -> Result<Report> {
    let mut report = Report::default();
    let still = store.shared()?;
    let all = All::read(store, &mut report)?;
    let readable = report.findings.is_empty();
    all.check_layers(&mut report);
    all.check_images(store, &mut report);
    all.check_references(&store.containers.passing_keys()?, &mut report);
    check_sizes(store, &all, &mut report)?;
    strays::find(store, &mut report)?;
    // Over records that cannot be read there is no index to compare with.
    if readable {
        check_index(store, &still, &mut report);
    }
    drop(still);
    if depth.data {
        data::check_blobs(store, &mut report, progress)?;
        data::check_layers(store, all.ready_layers(), &mut report, progress);
    }
    Ok(report)
}

/// The records that can be read.
struct All {
    layers: BTreeMap<ChainId, LayerRecord>,
    snapshots: Vec<SnapshotRecord>,
    images: Vec<ImageRecord>,
    names: Vec<NameRecord>,
    containers: Vec<ContainerRecord>,
}

impl All {
    fn read(store: &Store, report: &mut Report) -> Result<Self> {
        let layers = readable(&store.layers, report)?;
        readable(&store.pool, report)?;
        if store.steps.folder().is_dir() {
            readable(&store.steps, report)?;
        }
        let intents = store.intents.list();
        report.keep(intents);
        Ok(Self {
            layers: layers.into_iter().map(|layer| (layer.chain_id, layer)).collect(),
            snapshots: readable(&store.snapshots, report)?,
            images: readable(&store.images, report)?,
            names: readable(&store.names, report)?,
            containers: readable(&store.containers, report)?,
        })
    }

    /// Each layer's ChainID is its parent's and its own DiffID, and its parent is there.
    fn check_layers(&self, report: &mut Report) {
        for layer in self.layers.values() {
            let chain = ChainId::new(layer.parent, layer.diff_id);
            if chain != layer.chain_id {
                report.find(format!("the layer {} says it is {chain}", layer.chain_id));
            }
            if layer.phase == Phase::Ready {
                self.must_have_layer(layer.parent, format_args!("the layer {}", layer.chain_id), report);
            }
        }
    }

    /// Each image's manifest and config are blobs, and its layers are one stack.
    fn check_images(&self, store: &Store, report: &mut Report) {
        for image in &self.images {
            if image.config.digest != image.id.0 {
                report.find(format!("the image {} has the config {}", image.id, image.config.digest));
            }
            let mut below = None;
            for chain in &image.layers {
                self.must_have_layer(Some(*chain), format_args!("the image {}", image.id), report);
                if let Some(layer) = self.layers.get(chain)
                    && layer.parent != below
                {
                    report.find(format!(
                        "the layers of image {} are no stack, from {chain} on",
                        image.id
                    ));
                }
                below = Some(*chain);
            }
            if let Some(blobs) = report.keep(gc::blobs_of_image(store, image)) {
                for blob in blobs {
                    if matches!(store.blobs.size(&blob), Ok(None)) {
                        report.find(format!(
                            "the image {} needs the blob {blob}, which is not there",
                            image.id
                        ));
                    }
                }
            }
        }
    }

    /// What names, containers and snapshots refer to is there.
    fn check_references(&self, passing: &[String], report: &mut Report) {
        let images: BTreeSet<_> = self.images.iter().map(|image| image.id).collect();
        for name in &self.names {
            if !images.contains(&name.image) {
                report.find(format!(
                    "the name {} stands for image {}, which is not there",
                    name.name, name.image
                ));
            }
        }
        let mut taken = BTreeSet::new();
        for container in &self.containers {
            // One that passes may be a build's, which stands on no image yet.
            if !images.contains(&container.image) && !passing.contains(&container.id) {
                report.find(format!(
                    "the container {} is made from image {}, which is not there",
                    container.name, container.image
                ));
            }
            if !taken.insert(&container.name) {
                report.find(format!("two containers have the name {}", container.name));
            }
        }
        for snapshot in self.snapshots.iter().filter(|one| one.phase == Phase::Ready) {
            self.must_have_layer(snapshot.parent, format_args!("the snapshot {}", snapshot.key), report);
        }
    }

    fn must_have_layer(&self, layer: Option<ChainId>, who: impl Display, report: &mut Report) {
        let Some(chain) = layer else { return };
        match self.layers.get(&chain).map(|layer| layer.phase) {
            Some(Phase::Ready) => {}
            Some(Phase::Deleting) => report.find(format!("{who} needs the layer {chain}, which is being deleted")),
            None => report.find(format!("{who} needs the layer {chain}, which is not there")),
        }
    }

    fn ready_layers(&self) -> impl Iterator<Item = &LayerRecord> {
        self.layers.values().filter(|layer| layer.phase == Phase::Ready)
    }

    /// Every blob that a record names, with the length that it must have.
    fn descriptors(&self) -> impl Iterator<Item = &Descriptor> {
        let layers = self.ready_layers().map(|layer| &layer.blob);
        layers.chain(self.images.iter().flat_map(|image| [&image.config, &image.manifest]))
    }
}

/// Reads every record of a kind; what cannot be read is a finding.
fn readable<T: Record>(records: &Records<T>, report: &mut Report) -> Result<Vec<T>> {
    let mut readable = Vec::new();
    for key in records.keys()? {
        report.records += 1;
        readable.extend(report.keep(records.get(&key)).flatten());
    }
    Ok(readable)
}

fn check_sizes(store: &Store, all: &All, report: &mut Report) -> Result<()> {
    let there: BTreeMap<_, _> = store.blobs.list()?.into_iter().collect();
    report.blobs = there.len() as u64;
    for blob in all.descriptors() {
        match there.get(&blob.digest) {
            Some(size) if *size == blob.size => {}
            Some(size) => report.find(format!(
                "the blob {} has {size} bytes instead of {}",
                blob.digest, blob.size
            )),
            None => report.findings.push(
                Error::corrupt(format!("the blob {} is not there", blob.digest))
                    .hinted("importing its image again brings it back"),
            ),
        }
    }
    Ok(())
}

/// Where there is an index, it holds what the records say, and no more.
fn check_index(store: &Store, _still: &Shared, report: &mut Report) {
    if !store.root().join("index").exists() {
        return;
    }
    let compared = Index::look(store).and_then(|index| Ok((index.all()?, index::expected(store)?)));
    match compared {
        Ok((held, expected)) if held == expected => {}
        Ok((held, expected)) => report.findings.push(
            Error::corrupt(format!(
                "the index holds {} links that it should not, and lacks {}",
                held.difference(&expected).count(),
                expected.difference(&held).count()
            ))
            .hinted("`plywood check --rebuild` makes it again; nothing is lost"),
        ),
        // Held by another process: not a finding.
        Err(error) if error.kind() == Kind::InUse => tracing::warn!("the index was not checked: {error}"),
        Err(error) => report
            .findings
            .push(error.hinted("`plywood check --rebuild` makes the index again; nothing is lost")),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::fixture::{Fixture, fixture};

    fn findings(it: &Fixture, data: bool) -> Vec<String> {
        let report = check(&it.store, Depth { data }, &|_| {}).unwrap();
        report.findings.iter().map(ToString::to_string).collect()
    }

    fn key<T: Record>(record: &T) -> String {
        record.key()
    }

    #[test]
    fn a_sound_store_has_no_findings() {
        let it = fixture();
        // A root may be a filesystem of its own.
        fs::create_dir(it.store.root().join("lost+found")).unwrap();
        for folder in ["locks", "mounted", "network", "mnt", "pool", "overlay"] {
            it.store.folder(folder).unwrap();
        }
        assert_eq!(findings(&it, true), Vec::<String>::new());
        let told = std::cell::Cell::new(0);
        let report = check(&it.store, Depth { data: true }, &|bytes| told.set(told.get() + bytes)).unwrap();
        assert_eq!((report.records, report.blobs), (4, 5));
        assert!(report.bytes_hashed > 0);
        assert_eq!(told.get(), report.bytes_hashed, "progress is told of each byte once");
    }

    /// Does harm to a store.
    type Harm = fn(&Fixture);

    #[test]
    fn each_harm_is_found_and_named() {
        let harms: [(&str, Harm); 9] = [
            ("is not there", |it| {
                fs::remove_file(it.store.blobs.path(&it.top.blob.digest)).unwrap();
            }),
            ("instead of 3", |it| {
                fs::write(it.store.blobs.path(&it.top.blob.digest), "topp").unwrap();
            }),
            ("needs the layer", |it| {
                fs::remove_file(it.store.layers.path(&key(&it.base)).unwrap()).unwrap();
            }),
            ("stands for image", |it| {
                fs::remove_file(it.store.images.path(&key(&it.image)).unwrap()).unwrap();
            }),
            ("is damaged", |it| {
                fs::write(it.store.layers.path(&key(&it.top)).unwrap(), "{}").unwrap();
            }),
            ("being deleted", |it| {
                let lock = it.store.exclusive().unwrap();
                let mut going = it.base.clone();
                going.phase = Phase::Deleting;
                it.store.layers.put(&lock, &going).unwrap();
            }),
            ("no stack", |it| {
                let lock = it.store.exclusive().unwrap();
                let mut upside_down = it.image.clone();
                upside_down.layers.reverse();
                it.store.images.put(&lock, &upside_down).unwrap();
            }),
            ("none of plywood's files", |it| {
                fs::write(it.store.root().join("blobs/sha256/notes.txt"), "").unwrap();
            }),
            ("says it is", |it| {
                let lock = it.store.exclusive().unwrap();
                let mut other = it.top.clone();
                other.diff_id = it.base.diff_id;
                it.store.layers.put(&lock, &other).unwrap();
            }),
        ];
        for (what, harm) in harms {
            let it = fixture();
            harm(&it);
            let found = findings(&it, false);
            assert!(found.iter().any(|finding| finding.contains(what)), "{what}: {found:?}");
        }
    }

    #[test]
    fn bytes_that_changed_under_the_same_length_are_found_by_reading() {
        let it = fixture();
        let path = it.store.blobs.path(&it.top.blob.digest);
        fs::write(&path, "tip").unwrap();
        assert_eq!(findings(&it, false), Vec::<String>::new());
        let found = findings(&it, true);
        assert!(
            found
                .iter()
                .all(|finding| finding.contains(&path.display().to_string())),
            "{found:?}"
        );
        assert!(!found.is_empty());
    }
}
