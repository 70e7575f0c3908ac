//! Verifies the store against itself: records, blobs, names, index.
//!
//! It reads and changes nothing. Every finding is an [`Error`] that names its
//! object; that the list is empty is the proof that what was acknowledged is there.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::io::Read;
use std::path::Path;

use crate::blob::Descriptor;
use crate::compress;
use crate::digest::Hasher;
use crate::error::Context;
use crate::index::{self, Index};
use crate::lock::Shared;
use crate::record::{ContainerRecord, ImageRecord, LayerRecord, NameRecord, Phase, Record, Records, SnapshotRecord};
use crate::{ChainId, DiffId, Error, Kind, Result, Store, durable, gc, store};

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
    stray_files(store, &mut report)?;
    // Over records that cannot be read there is no index to compare with.
    if readable {
        check_index(store, &still, &mut report);
    }
    drop(still);
    if depth.data {
        check_blobs(store, &mut report, progress)?;
        check_diff_ids(store, &all, &mut report, progress);
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

    /// Every blob that a record names, with the length that it must have.
    fn descriptors(&self) -> impl Iterator<Item = &Descriptor> {
        let layers = self.layers.values().filter(|layer| layer.phase == Phase::Ready);
        let images = self.images.iter().flat_map(|image| [&image.config, &image.manifest]);
        layers.map(|layer| &layer.blob).chain(images)
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

/// The kinds of records, each a folder.
const KINDS: [&str; 7] = ["layers", "snapshots", "images", "names", "containers", "pool", "steps"];

/// What a folder of ours holds.
#[derive(Clone, Copy)]
enum Holds {
    Files,
    Folders,
    Both,
}

/// Whether a folder of ours may hold something of this name.
type Known<'a> = &'a dyn Fn(&str) -> bool;

/// What lies in the root's folders that nothing of plywood's would make. The drivers look into theirs.
fn stray_files(store: &Store, report: &mut Report) -> Result<()> {
    let is_hex = |name: &str| format!("sha256:{name}").parse::<crate::Digest>().is_ok();
    let is_record = |name: &str| name.strip_suffix(".json").is_some_and(crate::record::key_is_valid);
    let is_top = |name: &str| store::TOP.contains(&name);
    let is_kind = |name: &str| KINDS.contains(&name);
    // A file without a name has one for a moment, where the filesystem knows none such.
    let is_temporary = |name: &str| durable::is_unique_name(name) || name.starts_with(".tmp");
    let is_lock = |name: &str| name.strip_prefix("container-").is_some_and(crate::record::key_is_valid);
    let is_log = |name: &str| {
        let name = name.strip_suffix(".1").unwrap_or(name);
        name.strip_suffix(".log").is_some_and(crate::record::key_is_valid)
    };
    strays(store.root(), Holds::Both, &is_top, report)?;
    strays(
        &store.root().join("blobs"),
        Holds::Folders,
        &|name| name == "sha256",
        report,
    )?;
    strays(&store.root().join("records"), Holds::Folders, &is_kind, report)?;
    let mut folders: Vec<(String, Known<'_>)> = vec![
        ("blobs/sha256".to_owned(), &is_hex),
        ("intents".to_owned(), &is_record),
        ("tmp".to_owned(), &is_temporary),
        ("locks".to_owned(), &is_lock),
        ("logs".to_owned(), &is_log),
    ];
    folders.extend(
        KINDS
            .iter()
            .map(|kind| (format!("records/{kind}"), &is_record as Known<'_>)),
    );
    for (folder, known) in folders {
        strays(&store.root().join(folder), Holds::Files, known, report)?;
    }
    Ok(())
}

/// Finds what in one folder has another name or type than it can have.
fn strays(folder: &Path, holds: Holds, known: Known<'_>, report: &mut Report) -> Result<()> {
    let entries = match std::fs::read_dir(folder) {
        // Made when somebody needs it.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries.context("list", folder)?,
    };
    for entry in entries {
        let entry = entry.context("list", folder)?;
        let fits = entry.file_type().is_ok_and(|kind| match holds {
            Holds::Files => kind.is_file(),
            Holds::Folders => kind.is_dir(),
            Holds::Both => kind.is_file() || kind.is_dir(),
        });
        if !fits || !entry.file_name().to_str().is_some_and(known) {
            report.findings.push(
                Error::invalid(format!("{} is none of plywood's files", entry.path().display()))
                    .hinted("move it away: plywood neither reads nor removes it"),
            );
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

/// Reads to the end; tells how many bytes there were, block by block.
fn drain(mut from: impl Read, mut each: impl FnMut(&[u8])) -> std::io::Result<()> {
    let mut buffer = vec![0; 1 << 20];
    loop {
        match from.read(&mut buffer)? {
            0 => return Ok(()),
            count => each(buffer.get(..count).unwrap_or_default()),
        }
    }
}

fn check_blobs(store: &Store, report: &mut Report, progress: &dyn Fn(u64)) -> Result<()> {
    for (digest, _) in store.blobs.list()? {
        let read = store.blobs.open(&digest).and_then(|blob| {
            drain(blob, |bytes| {
                report.bytes_hashed += bytes.len() as u64;
                progress(bytes.len() as u64);
            })
            .context("read blob", store.blobs.path(&digest))
        });
        match read {
            // Collected meanwhile: it was garbage.
            Err(error) if error.kind() == Kind::NotFound => {}
            other => {
                report.keep(other);
            }
        }
    }
    Ok(())
}

fn check_diff_ids(store: &Store, all: &All, report: &mut Report, progress: &dyn Fn(u64)) {
    for layer in all.layers.values().filter(|layer| layer.phase == Phase::Ready) {
        // An unpacked tar is a blob like any other, and was read as one.
        let unpacked = (layer.blob.digest, layer.blob.size) == (layer.diff_id.0, layer.size);
        if unpacked || !matches!(store.blobs.size(&layer.blob.digest), Ok(Some(_))) {
            continue;
        }
        let mut hasher = Hasher::default();
        let unpacked = store.blobs.open(&layer.blob.digest).and_then(|blob| {
            let (_, tar) = compress::decoder(Box::new(blob))?;
            drain(tar, |bytes| {
                hasher.update(bytes);
                progress(bytes.len() as u64);
            })
            .context("unpack blob", store.blobs.path(&layer.blob.digest))
        });
        report.bytes_hashed += hasher.bytes();
        if report.keep(unpacked).is_none() {
            continue;
        }
        let size = hasher.bytes();
        let found = DiffId(hasher.digest());
        if (found, size) != (layer.diff_id, layer.size) {
            report.find(format!(
                "the layer {} should unpack to {} of {} bytes, but unpacks to {found} of {size}",
                layer.chain_id, layer.diff_id, layer.size
            ));
        }
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
    fn a_file_that_is_not_ours_is_found_wherever_it_lies_and_left_alone() {
        for place in [
            "foo",
            "newdir/",
            "records/foo",
            "records/more/",
            "blobs/md5/",
            "tmp/bar",
            "tmp/folder/",
        ] {
            let it = fixture();
            let path = it.store.root().join(place);
            match place.strip_suffix('/') {
                Some(_) => fs::create_dir(&path).unwrap(),
                None => fs::write(&path, "").unwrap(),
            }
            let found = findings(&it, false);
            assert_eq!(found.len(), 1, "{place}: {found:?}");
            assert!(found[0].contains("none of plywood's files"), "{found:?}");
            assert!(gc::mark(&it.store).unwrap().temporary.is_empty(), "{place}");
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
