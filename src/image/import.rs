//! Archives into the store: nothing is visible before all of it is verified.
//!
//! Each kind of archive is first read as [`Foreign`] images: config, names, and
//! where each layer's bytes are. What is missing is told before any work
//! begins. Then each layer that the store does not have is brought in, in one
//! pass ([`super::pipeline`]), checked against digest and DiffID; last, under
//! one short lock, image records, then names. A failure takes out again what
//! was made on the way, as far as nobody else uses it by now.

use std::io::{self, Read};

use plywood_store::blob::Descriptor;
use plywood_store::intent::{Intent, Plan};
use plywood_store::record::{ImageRecord, LayerRecord, NameRecord, Phase};
use plywood_store::{ChainId, DiffId, Digest, Reference, Store};

use super::ahead::Open;
use super::budget::Budget;
use super::compose::{self, ImageDraft, Step};
use super::foreign::{Foreign, ForeignLayer};
use super::oci::{self, ImageConfig};
use super::pipeline::{Incoming, Loader};
use super::source::{Parts, Source, Tree};
use super::undo::{self, Made};
use super::unpack::Unpacker;
use super::{Progress, docker, layout};
use crate::error::{Context, Error, Result};
use crate::snapshot::Snapshotter;

/// Brings images into a store.
#[derive(Clone, Copy)]
pub struct Importer<'a> {
    /// The store.
    pub store: &'a Store,
    /// Its driver.
    pub snapshotter: &'a dyn Snapshotter,
    /// Starts the confined children.
    pub unpacker: &'a Unpacker,
    /// What it may write.
    pub budget: &'a Budget,
    /// Where to tell how far it is.
    pub progress: &'a dyn Progress,
}

impl std::fmt::Debug for Importer<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Importer")
            .field("store", &self.store)
            .finish_non_exhaustive()
    }
}

/// What is to become of an archive.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// The one image's name, instead of the archive's own.
    pub name: Option<Reference>,
    /// Message and changes for the config.
    pub step: Step,
    /// What a layout folder's one manifest (or its image's id) must be; a file or stream was compared when it was opened.
    pub digest: Option<Digest>,
}

/// An image that came in.
#[derive(Debug, Clone)]
pub struct Imported {
    /// The image.
    pub image: ImageRecord,
    /// Its names from this import.
    pub names: Vec<Reference>,
}

impl Importer<'_> {
    /// Imports whatever `source` is.
    ///
    /// # Errors
    /// Invalid, corrupt or not found, with the store as it was.
    pub fn import(&self, source: Source, request: &Request) -> Result<Vec<Imported>> {
        match source {
            Source::Tree(tree) => Ok(vec![self.import_tree(tree, None, request)?]),
            Source::Oci(parts) => {
                let images = layout::read(&parts)?;
                if matches!(parts, Parts::Folder(_)) {
                    is_expected(&images, request.digest)?;
                }
                self.import_images(&parts, &images, request)
            }
            Source::Docker(parts) => self.import_images(&parts, &docker::read(&parts)?, request),
        }
    }

    /// Imports one tar as a new image, or as one layer on top of `parent`.
    ///
    /// # Errors
    /// As for [`Importer::import`].
    pub fn import_tree(&self, tree: Tree, parent: Option<&ImageRecord>, request: &Request) -> Result<Imported> {
        let layers = parent.map(|parent| parent.layers.clone()).unwrap_or_default();
        self.undoing(vec![], layers.clone(), |intent, made| {
            let base = parent.map(|parent| oci::read_config(self.store, parent)).transpose()?;
            let mut records = layers
                .iter()
                .map(|chain| {
                    self.layer(chain)?
                        .ok_or_else(|| Error::not_found(format!("layer {chain} of the parent is not in the store")))
                })
                .collect::<Result<Vec<_>>>()?;
            // Values that the config would refuse are told before the long work.
            compose::next_config(base.as_ref(), None, &request.step)?;
            let title = tree.path.file_name().map_or_else(
                || "standard input".to_owned(),
                |name| name.to_string_lossy().into_owned(),
            );
            let open: Open<'_> = Box::new(move || Ok(tree.reader));
            let incoming = Incoming {
                size: tree.size,
                blob: None,
                diff_id: None,
                shown: tree.path,
                title,
            };
            let layer = self.loader().load(vec![(open, incoming)], |loading| {
                loading.next(intent, layers.last(), made)
            })?;
            let config = compose::next_config(base.as_ref(), Some(&layer), &request.step)?;
            records.push(layer);
            let draft = ImageDraft::new(&config, records)?;
            let image = compose::publish_image(self.store, &draft, request.name.as_ref())?;
            Ok(Imported {
                image,
                names: request.name.iter().cloned().collect(),
            })
        })
    }

    fn import_images(&self, parts: &Parts, images: &[Foreign], request: &Request) -> Result<Vec<Imported>> {
        if request.name.is_some() && images.len() > 1 {
            return Err(Error::invalid(format!(
                "the archive holds {} images: one name cannot be all of theirs",
                images.len()
            ))
            .hinted("leave out NAME, and give the images other names with plywood tag"));
        }
        let blobs = images
            .iter()
            .flat_map(|image| &image.layers)
            .filter_map(|layer| layer.blob.map(|(digest, _)| digest))
            .collect();
        let chains = images
            .iter()
            .flat_map(|image| ChainId::stack(&image.diff_ids))
            .collect();
        self.undoing(blobs, chains, |intent, made| {
            images
                .iter()
                .try_for_each(|image| self.nothing_is_missing(parts, image))?;
            let mut drafts = Vec::new();
            for image in images {
                let layers = self.load_layers(parts, image, intent, made)?;
                drafts.push((self.draft(image, layers, &request.step)?, names(image, request)));
            }
            self.publish(&drafts)
        })
    }

    fn publish(&self, drafts: &[(ImageDraft, Vec<Reference>)]) -> Result<Vec<Imported>> {
        let lock = self.store.exclusive()?;
        let mut imported = Vec::new();
        for (draft, names) in drafts {
            let image = compose::put_image(self.store, &lock, draft)?;
            imported.push(Imported {
                image,
                names: names.clone(),
            });
        }
        for Imported { image, names } in &imported {
            for name in names {
                self.store.names.put(
                    &lock,
                    &NameRecord {
                        name: name.clone().without_digest(),
                        image: image.id,
                    },
                )?;
            }
        }
        lock.done()?;
        Ok(imported)
    }

    /// The image as it came; or, with changes, a new one whose config stands on it.
    fn draft(&self, image: &Foreign, layers: Vec<LayerRecord>, step: &Step) -> Result<ImageDraft> {
        if step.changes.is_empty() && step.message.is_none() {
            // A foreign manifest is kept only where the store has the very blobs that it names.
            let same = image
                .layers
                .iter()
                .map(|layer| layer.blob)
                .eq(layers.iter().map(|layer| Some((layer.blob.digest, layer.blob.size))));
            return Ok(ImageDraft {
                config: image.config.clone(),
                layers,
                manifest: image.manifest.clone().filter(|_| same),
            });
        }
        ImageDraft::new(
            &compose::next_config(Some(&ImageConfig::parse(&image.config)?), None, step)?,
            layers,
        )
    }

    fn load_layers(
        &self,
        parts: &Parts,
        image: &Foreign,
        intent: &mut Intent,
        made: &mut Made,
    ) -> Result<Vec<LayerRecord>> {
        let diff_ids = &image.diff_ids;
        let chains = ChainId::stack(diff_ids);
        let (mut records, mut incoming) = (Vec::new(), Vec::new());
        for (index, (layer, (chain, diff_id))) in image.layers.iter().zip(chains.iter().zip(diff_ids)).enumerate() {
            let there = self.layer(chain)?;
            match &there {
                Some(record) => self.mend(parts, layer, &record.blob)?,
                None => {
                    let title = format!("layer {}/{} {}", index + 1, diff_ids.len(), diff_id.0.short());
                    incoming.push(self.incoming(parts, layer, *diff_id, title)?);
                }
            }
            records.push(there);
        }
        self.loader().load(incoming, |loading| {
            let mut parent: Option<&ChainId> = None;
            let mut loaded = Vec::new();
            for (there, chain) in records.into_iter().zip(&chains) {
                loaded.push(match there {
                    Some(record) => record,
                    None => loading.next(intent, parent, made)?,
                });
                parent = Some(chain);
            }
            Ok(loaded)
        })
    }

    /// A layer's bytes: the archive's, or those that the store has of it.
    fn incoming<'b>(
        &'b self,
        parts: &'b Parts,
        layer: &'b ForeignLayer,
        diff_id: DiffId,
        title: String,
    ) -> Result<(Open<'b>, Incoming)> {
        let digest = layer.digest_or(diff_id);
        let store = self.store;
        let (open, size): (Open<'b>, u64) = match parts.open(&layer.file)? {
            Some(part) => {
                let gone = || Error::not_found(format!("{} is gone from the archive", layer.file));
                let open = move || Ok(parts.open(&layer.file)?.ok_or_else(gone)?.reader);
                (Box::new(open), part.size)
            }
            None => {
                let size = store.blobs.open(&digest)?.size();
                let open = move || -> Result<Box<dyn Read + Send>> { Ok(Box::new(store.blobs.open(&digest)?)) };
                (Box::new(open), size)
            }
        };
        if !matches!(parts, Parts::Tar(_)) {
            // A tar was counted as a whole.
            self.budget.came(size);
        }
        let incoming = Incoming {
            size: Some(size),
            blob: layer.blob,
            diff_id: Some(diff_id),
            shown: store.blobs.path(&digest),
            title,
        };
        Ok((open, incoming))
    }

    /// A stored blob that is missing or damaged is stored again where the archive has the same.
    fn mend(&self, parts: &Parts, layer: &ForeignLayer, blob: &Descriptor) -> Result<()> {
        let Some(mut part) = parts.open(&layer.file)?.filter(|part| part.size == blob.size) else {
            return Ok(());
        };
        let whole = self
            .store
            .blobs
            .open(&blob.digest)
            .is_ok_and(|mut stored| stored.size() == blob.size && io::copy(&mut stored, &mut io::sink()).is_ok());
        if whole {
            return Ok(());
        }
        let mut writer = self.store.blobs.writer()?;
        io::copy(&mut part.reader, &mut writer).context("copy", &layer.file)?;
        // Another packing of the same layer is no help.
        if writer.so_far()? == (blob.digest, blob.size) {
            writer.finish(None)?;
            tracing::warn!("blob {} was damaged, and is stored again from the archive", blob.digest);
        }
        Ok(())
    }

    /// Tells of every layer that is neither in the archive nor in the store.
    fn nothing_is_missing(&self, parts: &Parts, image: &Foreign) -> Result<()> {
        let diff_ids = &image.diff_ids;
        let mut missing = Vec::new();
        for (index, (layer, (chain, diff_id))) in image
            .layers
            .iter()
            .zip(ChainId::stack(diff_ids).iter().zip(diff_ids))
            .enumerate()
        {
            let digest = layer.digest_or(*diff_id);
            if self.layer(chain)?.is_none()
                && parts.open(&layer.file)?.is_none()
                && self.store.blobs.size(&digest)?.is_none()
            {
                missing.push(format!("layer {} of {} ({diff_id})", index + 1, diff_ids.len()));
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        let whose = image
            .names
            .first()
            .map_or_else(|| Digest::of(&image.config).to_string(), ToString::to_string);
        let are = if missing.len() == 1 { "is" } else { "are" };
        Err(Error::not_found(format!("{whose} is not whole: {} {are} neither in the archive nor in the store", missing.join(", ")))
            .hinted("it was exported with --since: import the image that it builds on first, or export it again without --since"))
    }

    fn layer(&self, chain: &ChainId) -> Result<Option<LayerRecord>> {
        Ok(self
            .store
            .layers
            .get(&chain.0.hex())?
            .filter(|layer| layer.phase == Phase::Ready))
    }

    fn loader(&self) -> Loader<'_> {
        Loader {
            store: self.store,
            snapshotter: self.snapshotter,
            unpacker: self.unpacker,
            budget: self.budget,
            progress: self.progress,
        }
    }

    fn undoing<T>(
        &self,
        blobs: Vec<Digest>,
        layers: Vec<ChainId>,
        work: impl FnOnce(&mut Intent, &mut Made) -> Result<T>,
    ) -> Result<T> {
        let plan = Plan::Work {
            verb: "import".to_owned(),
            blobs,
            layers,
        };
        undo::undoing(self.store, self.snapshotter, plan, work)
    }
}

/// A folder has no digest of its own, but its one image has.
fn is_expected(images: &[Foreign], expected: Option<Digest>) -> Result<()> {
    let Some(expected) = expected else { return Ok(()) };
    match images
        .iter()
        .find(|image| image.digest != expected && Digest::of(&image.config) != expected)
    {
        Some(other) => Err(Error::corrupt(format!(
            "the layout holds the image {}, not {expected}",
            other.digest
        ))),
        None => Ok(()),
    }
}

fn names(image: &Foreign, request: &Request) -> Vec<Reference> {
    match &request.name {
        Some(name) => vec![name.clone()],
        None => image.names.clone(),
    }
}
