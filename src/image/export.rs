//! Images out of the store: OCI layout, docker-archive, a whole tree, one layer.
//!
//! Blobs go out as they are stored unless another packing is asked for. Same
//! images, same bytes: no time, no owner, one order. What goes to a file is
//! there whole or not at all ([`super::sink`]); every byte of it was compared
//! with its digest on the way.

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use plywood_store::blob::Descriptor;
use plywood_store::compress::{self, Compression, Encoder};
use plywood_store::digest::Hashing;
use plywood_store::intent::{Intent, Plan};
use plywood_store::layer::diff::{Everything, Options, write_layer};
use plywood_store::record::{ImageRecord, LayerRecord};
use plywood_store::{ChainId, Reference, Store};
use serde_json::json;

use super::oci::{self, ImageConfig, Index, IndexEntry, Manifest, Platform};
use super::sink::Sink;
use super::{Progress, filesystem, layout, pipeline};
use crate::error::{Context, Error, Kind, Result, both};
use crate::snapshot::{Access, Mounted, Snapshotter};

/// An image to write, and the name it is to have in the archive.
#[derive(Debug, Clone)]
pub struct Chosen {
    /// The image.
    pub image: ImageRecord,
    /// Its name, where it was chosen by one.
    pub name: Option<Reference>,
}

/// Writes images of a store.
#[derive(Clone, Copy)]
pub struct Exporter<'a> {
    /// The store.
    pub store: &'a Store,
    /// Where to tell how far it is.
    pub progress: &'a dyn Progress,
    /// How layers are to be packed; none for as they are.
    pub compress: Option<Compression>,
}

impl std::fmt::Debug for Exporter<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Exporter")
            .field("store", &self.store)
            .field("compress", &self.compress)
            .finish_non_exhaustive()
    }
}

/// A layer's content on its way out.
struct Outgoing {
    reader: Box<dyn Read + Send>,
    blob: Descriptor,
}

impl Exporter<'_> {
    /// Writes an OCI layout, without the layers that are in `left_out`.
    ///
    /// # Errors
    /// Not found or corrupt where a blob is missing or damaged; I/O of the sink.
    pub fn layout(&self, images: &[Chosen], left_out: &HashSet<ChainId>, sink: &mut dyn Sink) -> Result<()> {
        let intent = self.pin(images)?;
        sink.file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        sink.folder("blobs")?;
        sink.folder("blobs/sha256")?;
        let mut written = HashSet::new();
        let mut index = Index { manifests: Vec::new() };
        for chosen in images {
            let config_bytes = self.store.blobs.read(&chosen.image.config.digest, oci::DOCUMENT_MAX)?;
            let config = ImageConfig::parse(&config_bytes)?;
            let mut layers = Vec::new();
            for layer in self.layers(&chosen.image)? {
                // What stays behind is named as it is stored, so that it is found where it is.
                let blob = if left_out.contains(&layer.chain_id) {
                    layer.blob
                } else {
                    self.write_blob(&layer, sink, &mut written)?
                };
                layers.push(blob);
            }
            let mut put = |blob: &Descriptor, bytes: &[u8]| {
                if written.insert(blob.digest) {
                    sink.file(&blob_file(blob), bytes)
                } else {
                    Ok(())
                }
            };
            put(&chosen.image.config, &config_bytes)?;
            let (manifest, bytes) = self.manifest(&chosen.image, layers)?;
            put(&manifest, &bytes)?;
            index.manifests.push(entry(manifest, &config, chosen.name.as_ref()));
        }
        sink.file("index.json", &index.to_bytes()?)?;
        intent.done()
    }

    /// Writes a docker-archive, without the layers that are in `left_out`. Layers are unpacked unless packing was asked for.
    ///
    /// # Errors
    /// As for [`Exporter::layout`].
    pub fn docker(&self, images: &[Chosen], left_out: &HashSet<ChainId>, sink: &mut dyn Sink) -> Result<()> {
        let intent = self.pin(images)?;
        let mut written = HashSet::new();
        let mut entries: BTreeMap<usize, (ImageRecord, Vec<String>, Vec<String>)> = BTreeMap::new();
        for chosen in images {
            let mut files = Vec::new();
            for layer in self.layers(&chosen.image)? {
                let file = format!("{}.tar", layer.diff_id.0.hex());
                if !left_out.contains(&layer.chain_id) && written.insert(layer.diff_id.0) {
                    let outgoing = self.packed(&layer, self.compress.unwrap_or(Compression::None))?;
                    self.copy(&layer, outgoing, &file, sink)?;
                }
                files.push(file);
            }
            let name = chosen.name.iter().map(|name| name.clone().without_digest().to_string());
            let at = entries
                .values()
                .position(|(image, ..)| image.id == chosen.image.id)
                .unwrap_or(entries.len());
            entries
                .entry(at)
                .or_insert_with(|| (chosen.image.clone(), Vec::new(), files))
                .1
                .extend(name);
        }
        let mut manifest = Vec::new();
        for (image, names, files) in entries.into_values() {
            let config = format!("{}.json", image.config.digest.hex());
            sink.file(
                &config,
                &self.store.blobs.read(&image.config.digest, oci::DOCUMENT_MAX)?,
            )?;
            manifest.push(json!({ "Config": config, "RepoTags": names, "Layers": files }));
        }
        sink.file("manifest.json", &oci::to_bytes("manifest.json", &manifest)?)?;
        intent.done()
    }

    /// Writes the top layer's tar: unpacked unless packing was asked for.
    ///
    /// # Errors
    /// Invalid for an image without layers; else as for [`Exporter::layout`].
    pub fn top_layer(&self, chosen: &Chosen, out: &mut dyn Write) -> Result<()> {
        let intent = self.pin(std::slice::from_ref(chosen))?;
        let layer = self
            .layers(&chosen.image)?
            .pop()
            .ok_or_else(|| Error::invalid(format!("image {} has no layer", chosen.image.id)))?;
        let outgoing = self.packed(&layer, self.compress.unwrap_or(Compression::None))?;
        self.progress.begin(&title(&layer), Some(outgoing.blob.size));
        let copied = copy(outgoing.reader, out, self.progress);
        self.progress.end();
        copied?;
        intent.done()
    }

    /// Writes the whole tree as one canonical tar.
    ///
    /// # Errors
    /// What the driver refuses; I/O of the output.
    pub fn tree(&self, snapshotter: &dyn Snapshotter, chosen: &Chosen, out: &mut dyn Write) -> Result<()> {
        self.with_tree(snapshotter, chosen, |mounted| self.write_tree(mounted, chosen, out))
    }

    /// The image's tree, mounted read-only for as long as `work` takes.
    fn with_tree<T>(
        &self,
        snapshotter: &dyn Snapshotter,
        chosen: &Chosen,
        work: impl FnOnce(&Mounted) -> Result<T>,
    ) -> Result<T> {
        let intent = self.pin(std::slice::from_ref(chosen))?;
        let key = pipeline::random_key("export")?;
        match chosen.image.layers.last() {
            Some(top) => snapshotter.view(&key, top, Some(&intent))?,
            None => snapshotter.prepare(&key, None, Some(&intent))?,
        }
        let worked = snapshotter.mount(&key, Access::ReadOnly).and_then(|mounted| {
            let worked = work(&mounted);
            both(worked, mounted.close())
        });
        let done = both(worked, snapshotter.remove(&key))?;
        intent.done().map(|()| done)
    }

    /// Writes the whole tree as an ext4 filesystem into the file `target`, of `size` bytes or as many as it needs
    /// and as many again. False where the file could not be marked as plywood's.
    ///
    /// # Errors
    /// As for [`filesystem::write`].
    pub fn filesystem(
        &self,
        snapshotter: &dyn Snapshotter,
        chosen: &Chosen,
        size: Option<u64>,
        target: &Path,
    ) -> Result<bool> {
        let layers = self.layers(&chosen.image)?.iter().map(|layer| layer.size).sum();
        let size = size.unwrap_or_else(|| filesystem::default_size(layers));
        let mounts = self.store.folder("mnt")?;
        self.with_tree(snapshotter, chosen, |mounted| {
            self.progress
                .begin(&format!("exporting {}", chosen.image.id.0.short()), None);
            let written = filesystem::write(mounted, target, size, &mounts, &|bytes| self.progress.advance(bytes));
            self.progress.end();
            written
        })
    }

    fn write_tree(&self, mounted: &Mounted, chosen: &Chosen, out: &mut dyn Write) -> Result<()> {
        self.progress
            .begin(&format!("exporting {}", chosen.image.id.0.short()), None);
        let counting = Counting {
            out,
            progress: self.progress,
        };
        let written = Encoder::new(counting, self.compress.unwrap_or(Compression::None)).and_then(|mut packer| {
            write_layer(None, &mounted.dir(), &Everything, &Options::default(), &mut packer)?;
            packer.finish().map(drop)
        });
        self.progress.end();
        written
    }

    /// Keeps the images' parts from `gc`, and makes sure that they are still there.
    fn pin(&self, images: &[Chosen]) -> Result<Intent> {
        let layers: Vec<ChainId> = images.iter().flat_map(|chosen| chosen.image.layers.clone()).collect();
        let blobs = images
            .iter()
            .flat_map(|chosen| [chosen.image.config.digest, chosen.image.manifest.digest])
            .collect();
        let intent = self.store.intents.begin(Plan::Work {
            verb: "export".to_owned(),
            blobs,
            layers,
        })?;
        for chosen in images {
            self.layers(&chosen.image)?;
        }
        Ok(intent)
    }

    fn layers(&self, image: &ImageRecord) -> Result<Vec<LayerRecord>> {
        let layer = |chain: &ChainId| {
            let missing = || {
                Error::corrupt(format!("layer {chain} of image {} is missing from the store", image.id))
                    .hinted("plywood check says what else is wrong; importing the image again brings the layer back")
            };
            self.store.layers.get(&chain.0.hex())?.ok_or_else(missing)
        };
        image.layers.iter().map(layer).collect()
    }

    /// Writes a layer's blob once; what it is in the archive.
    fn write_blob(
        &self,
        layer: &LayerRecord,
        sink: &mut dyn Sink,
        written: &mut HashSet<plywood_store::Digest>,
    ) -> Result<Descriptor> {
        if self.compress.is_none() && !written.insert(layer.blob.digest) {
            return Ok(layer.blob.clone());
        }
        let outgoing = match self.compress {
            Some(how) => self.packed(layer, how)?,
            None => self.stored(layer)?,
        };
        let blob = outgoing.blob.clone();
        if self.compress.is_none() || written.insert(blob.digest) {
            self.copy(layer, outgoing, &blob_file(&blob), sink)?;
        }
        Ok(blob)
    }

    fn copy(&self, layer: &LayerRecord, outgoing: Outgoing, file: &str, sink: &mut dyn Sink) -> Result<()> {
        // What it reads it hashes, too: that goes on while the sink writes.
        let mut counted = CountingReader {
            inner: Box::new(compress::read_ahead(outgoing.reader)?),
            progress: self.progress,
        };
        self.progress.begin(&title(layer), Some(outgoing.blob.size));
        let copied = sink.stream(file, outgoing.blob.size, &mut counted);
        self.progress.end();
        copied
    }

    /// The blob as it is stored.
    fn stored(&self, layer: &LayerRecord) -> Result<Outgoing> {
        Ok(Outgoing {
            reader: Box::new(self.store.blobs.open(&layer.blob.digest)?),
            blob: layer.blob.clone(),
        })
    }

    /// The layer packed like `how`.
    fn packed(&self, layer: &LayerRecord, how: Compression) -> Result<Outgoing> {
        let stored = self.stored(layer)?;
        let (is, tar) = compress::decoder(stored.reader)?;
        let media_type = how.layer_media_type().to_owned();
        match (is, how) {
            // Packed alike already. A zstd stream does not tell its level: that is packed anew.
            (Compression::None, Compression::None) | (Compression::Gzip, Compression::Gzip) => self.stored(layer),
            (_, Compression::None) => {
                let blob = Descriptor {
                    media_type,
                    digest: layer.diff_id.0,
                    size: layer.size,
                };
                Ok(Outgoing {
                    reader: Box::new(Checked {
                        inner: Hashing::new(tar),
                        layer: layer.clone(),
                    }),
                    blob,
                })
            }
            _ => self.pack(
                layer,
                Checked {
                    inner: Hashing::new(tar),
                    layer: layer.clone(),
                },
                how,
                media_type,
            ),
        }
    }

    /// Packs into an unnamed temporary file: an archive wants size and digest first.
    fn pack(&self, layer: &LayerRecord, mut tar: Checked, how: Compression, media_type: String) -> Result<Outgoing> {
        let spool = self.store.folder("tmp")?;
        let file = tempfile::tempfile_in(&spool).context("make a temporary file in", &spool)?;
        self.progress
            .begin(&format!("packing {}", layer.diff_id.0.short()), Some(layer.size));
        let mut packer = Encoder::new(Hashing::new(io::BufWriter::with_capacity(1 << 20, file)), how)?;
        let copied = copy(Box::new(&mut tar), &mut packer, self.progress);
        self.progress.end();
        copied?;
        let (buffered, digest, size) = packer.finish()?.finish();
        let mut file: File = buffered
            .into_inner()
            .map_err(io::IntoInnerError::into_error)
            .context("write a temporary file in", &spool)?;
        io::Seek::rewind(&mut file).context("seek in a temporary file in", &spool)?;
        Ok(Outgoing {
            reader: Box::new(file),
            blob: Descriptor {
                media_type,
                digest,
                size,
            },
        })
    }

    /// The stored manifest where it names these very blobs, else one that does.
    fn manifest(&self, image: &ImageRecord, layers: Vec<Descriptor>) -> Result<(Descriptor, Vec<u8>)> {
        let stored = oci::read_manifest(self.store, image)?;
        let same = stored
            .layers
            .iter()
            .map(|layer| layer.digest)
            .eq(layers.iter().map(|layer| layer.digest));
        let bytes = if same {
            self.store.blobs.read(&image.manifest.digest, oci::DOCUMENT_MAX)?
        } else {
            Manifest {
                config: image.config.clone(),
                layers,
            }
            .to_bytes()?
        };
        let blob = Descriptor {
            media_type: oci::MANIFEST.to_owned(),
            digest: plywood_store::Digest::of(&bytes),
            size: bytes.len() as u64,
        };
        Ok((blob, bytes))
    }
}

fn title(layer: &LayerRecord) -> String {
    format!("layer {}", layer.diff_id.0.short())
}

fn blob_file(blob: &Descriptor) -> String {
    format!("blobs/sha256/{}", blob.digest.hex())
}

fn entry(blob: Descriptor, config: &ImageConfig, name: Option<&Reference>) -> IndexEntry {
    let variant = config
        .other
        .get("variant")
        .and_then(serde_json::Value::as_str)
        .map(str::to_owned);
    let platform = Platform {
        architecture: config.architecture.clone(),
        os: config.os.clone(),
        variant,
    };
    let annotations = name
        .map(|name| (layout::REF_NAME.to_owned(), name.clone().without_digest().to_string()))
        .into_iter()
        .collect();
    IndexEntry {
        blob,
        platform: Some(platform),
        annotations,
    }
}

/// Copies, tells how far it is, and tells a damaged source from a full disk.
fn copy(mut from: Box<dyn Read + '_>, to: &mut dyn Write, progress: &dyn Progress) -> Result<()> {
    let mut buffer = vec![0; 256 << 10];
    loop {
        let count = match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => count,
            Err(cause) if cause.kind() == io::ErrorKind::Interrupted => continue,
            Err(cause) => return Err(super::unpack::of_reader(cause)),
        };
        to.write_all(buffer.get(..count).unwrap_or_default())
            .context("write", "the archive")?;
        progress.advance(count as u64);
    }
}

/// A layer's unpacked tar that must be what the layer's record says.
struct Checked {
    inner: Hashing<Box<dyn Read + Send>>,
    layer: LayerRecord,
}

impl Read for Checked {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        if count == 0 && !buffer.is_empty() {
            let inner = std::mem::replace(&mut self.inner, Hashing::new(Box::new(io::empty())));
            let (_, digest, size) = inner.finish();
            // Asked again at its end, it is what is left of it: nothing.
            if size > 0 && digest != self.layer.diff_id.0 {
                let error = Error::new(
                    Kind::Corrupt,
                    format!("layer {} is damaged: its content is {digest}", self.layer.diff_id),
                )
                .hinted("importing its image again repairs it");
                return Err(io::Error::new(io::ErrorKind::InvalidData, error));
            }
        }
        Ok(count)
    }
}

struct CountingReader<'a> {
    inner: Box<dyn Read + Send>,
    progress: &'a dyn Progress,
}

impl Read for CountingReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.progress.advance(count as u64);
        Ok(count)
    }
}

struct Counting<'a> {
    out: &'a mut dyn Write,
    progress: &'a dyn Progress,
}

impl Write for Counting<'_> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let count = self.out.write(buffer)?;
        self.progress.advance(count as u64);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
