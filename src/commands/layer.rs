//! How a container's changes become a layer: read, written as a blob, made the
//! content of a snapshot, and that the layer.

use std::io::{Read, Write};
use std::path::Path;

use plywood_store::blob::{BlobWriter, Descriptor};
use plywood_store::compress::Compression;
use plywood_store::digest::Hashing;
use plywood_store::intent::Intent;
use plywood_store::layer::Limits;
use plywood_store::layer::diff::{Everything, Options, Written, write_layer};
use plywood_store::layer::times::set_times;
use plywood_store::record::{ContainerRecord, LayerRecord};
use plywood_store::{ChainId, DiffId, Digest, Driver};

use crate::cli::DiffChoice;
use crate::commands::commit::User;
use crate::commands::freeze::Still;
use crate::commands::{Host, container, random_key};
use crate::error::{Error, Kind, Result, both};
use crate::exec;
use crate::explain::{quote, step};
use crate::image::undo::Made;
use crate::image::{oci, source, unpack};
use crate::output::Bars;
use crate::snapshot::{self, Access, Comparison, Differ, Found, NewLayer};

/// Bytes of the chunks in which a merge is counted.
const CHUNK: u64 = 4096;

/// What became of the changes.
pub(super) struct Committed {
    /// None where nothing changed: no layer is needed for it.
    pub(super) record: Option<LayerRecord>,
    /// What a layer cannot hold, a line each.
    pub(super) notes: Vec<String>,
}

/// The work, and what it needs besides the container.
pub(super) struct Writing<'a> {
    pub(super) host: &'a Host,
    pub(super) how: DiffChoice,
    pub(super) bars: &'a Bars,
    /// The container's name, for the bars.
    pub(super) name: &'a str,
}

/// A layer's tar that is written, and is not yet a blob.
struct Difference {
    written: Written,
    writer: BlobWriter,
    /// What a walk that reads everything found, where that was asked for.
    oracle: Option<Oracle>,
}

/// The digest of a layer that is right; none where nothing differs.
#[derive(Debug, Clone, Copy)]
struct Oracle(Option<Digest>);

impl Oracle {
    /// # Errors
    /// Where `found` is another.
    fn confirm(self, found: Option<Digest>) -> Result<()> {
        if self.0 == found {
            return Ok(());
        }
        let told = |digest: Option<Digest>| digest.map_or("nothing".to_owned(), |digest| digest.to_string());
        Err(Error::corrupt(format!(
            "the differs disagree: {} by the driver's own, {} by a walk that reads everything",
            told(found),
            told(self.0)
        ))
        .hinted("this is a bug in plywood; --diff=walk commits what the walk found"))
    }
}

impl Writing<'_> {
    /// Commits what `user` has.
    ///
    /// # Errors
    /// What the driver refuses; a file that no layer can hold; a full disk or pool; I/O.
    pub(super) fn layer(
        &self,
        container: &ContainerRecord,
        user: User<'_>,
        intent: &mut Intent,
        made: &mut Made,
    ) -> Result<Committed> {
        let copy = random_key("commit");
        match user {
            User::Held(_hold) => {
                container::clear_left(self.host, container)?;
                self.host.snapshotter.capture(&container.id, &copy, Some(intent))?;
                self.copy(&copy, intent, made)
            }
            User::Merging(_hold, copy) => {
                if self.host.store.snapshots.get(&copy)?.is_none() {
                    container::clear_left(self.host, container)?;
                    self.host.snapshotter.capture(&container.id, &copy, None)?;
                }
                self.compare(&copy, intent, made)
            }
            User::Still(still) => self.live(*still, &copy, intent, made),
        }
    }

    /// Commits the leased snapshot `key`, which nobody else knows of. It is gone then, whatever became of it.
    ///
    /// # Errors
    /// As for [`Writing::layer`].
    pub(super) fn leased(&self, key: &str, intent: &mut Intent, made: &mut Made) -> Result<Committed> {
        match self.compare_as(key, true, intent, made) {
            Ok(committed) => Ok(committed),
            Err(error) => both(Err(error), self.host.snapshotter.remove(key)),
        }
    }

    fn live(&self, still: Still<'_>, copy: &str, intent: &mut Intent, made: &mut Made) -> Result<Committed> {
        self.refuse_mapped(&still)?;
        still.write_back()?;
        let held_back = |work: &mut dyn FnMut() -> Result<()>| still.while_frozen(work);
        let user = snapshot::User {
            process: still.holder(),
            held_back: &held_back,
        };
        let Host { store, snapshotter } = self.host;
        let id = &still.record().id;
        // Of the run, not of the container: as when that has ended.
        let passing = container::recorded_made(still.record())?;
        let Some(comparison) = snapshotter.capture_live(id, copy, intent, &user)? else {
            let cleared = still.release().and_then(|()| self.clear(copy, &passing));
            return match cleared {
                Ok(()) => self.copy(copy, intent, made),
                Err(error) => both(Err(error), snapshotter.remove(copy)),
            };
        };
        let record = store.snapshots.get(id)?;
        let parent = record.and_then(|record| record.parent);
        let options = Options {
            // What is to be cleared is known by its times.
            clamp_mtime: oci::source_date_epoch()?.filter(|_| passing.is_empty()),
            ..self.options()?
        };
        let difference = still.while_frozen(|| {
            let mut difference = self.difference(&comparison, &options, Some(&still))?;
            if self.how == DiffChoice::Verify && still.is_paused() {
                difference.oracle = Some(walked(&comparison, &options)?);
            }
            Ok(difference)
        })?;
        comparison.close()?;
        still.release()?;
        if !passing.is_empty() {
            let mut tar = difference.writer.reread()?;
            self.fill(copy, parent.as_ref(), &mut tar, Path::new("-"), intent)?;
            let passing: Vec<_> = passing.iter().map(exec::Made::copied).collect();
            return match self.clear(copy, &passing) {
                Ok(()) => self.copy(copy, intent, made),
                Err(error) => both(Err(error), snapshotter.remove(copy)),
            };
        }
        let (notes, layer) = keep(difference, intent, made)?;
        let record = layer.map(|layer| {
            let (digest, parent) = (&layer.blob.digest, parent.as_ref());
            let mut tar = store.blobs.open(digest)?;
            self.fill(copy, parent, &mut tar, &store.blobs.path(digest), intent)?;
            match made.layer(store, snapshotter.as_ref(), intent, copy, &layer) {
                Ok(record) => Ok(record),
                Err(error) => both(Err(error), snapshotter.remove(copy)),
            }
        });
        Ok(Committed {
            record: record.transpose()?,
            notes,
        })
    }

    /// An overlay mount shows a container's own users as the files' owners, and only that mount has its changes.
    fn refuse_mapped(&self, still: &Still<'_>) -> Result<()> {
        let record = still.record();
        let is_mapped = container::recorded_spec(record)?.ids.is_some();
        if !is_mapped || self.host.snapshotter.driver() == Driver::Thin {
            return Ok(());
        }
        let name = &record.name;
        Err(Error::new(
            Kind::InUse,
            format!("container {name} has users of its own: on overlay it is committed when it has ended"),
        )
        .hinted(format!(
            "plywood stop {name}, then commit it; the thin driver needs no stop"
        )))
    }

    /// Makes the snapshot `key`, and unpacks a layer's tar into it.
    fn fill(
        &self,
        key: &str,
        parent: Option<&ChainId>,
        tar: &mut dyn Read,
        shown: &Path,
        intent: &Intent,
    ) -> Result<()> {
        let snapshotter = &self.host.snapshotter;
        snapshotter.prepare(key, parent, Some(intent))?;
        let filled = snapshotter.mount(key, Access::Fill).and_then(|mounted| {
            let filled = unpack::unpack(&mounted, tar, shown);
            both(filled.map(drop), mounted.close())
        });
        filled.or_else(|error| both(Err(error), snapshotter.remove(key)))
    }

    /// Takes out of a copy what was made in the container to mount on.
    fn clear(&self, key: &str, passing: &[exec::Made]) -> Result<()> {
        if passing.is_empty() {
            return Ok(());
        }
        let mounted = self.host.snapshotter.mount(key, Access::ReadWrite)?;
        exec::remove_made(mounted.dir(), mounted.path(), passing);
        mounted.close()
    }

    /// Makes a captured copy the layer, or removes it.
    fn copy(&self, copy: &str, intent: &mut Intent, made: &mut Made) -> Result<Committed> {
        match self.compare(copy, intent, made) {
            Ok(committed) => Ok(committed),
            Err(error) => both(Err(error), self.host.snapshotter.remove(copy)),
        }
    }

    fn compare(&self, copy: &str, intent: &mut Intent, made: &mut Made) -> Result<Committed> {
        // On overlay a copy is made with the times that the layer has.
        self.compare_as(copy, self.host.snapshotter.driver() == Driver::Thin, intent, made)
    }

    /// `settles`: the snapshot itself becomes the layer, and may have other times than that.
    fn compare_as(&self, copy: &str, settles: bool, intent: &mut Intent, made: &mut Made) -> Result<Committed> {
        let Host { store, snapshotter } = self.host;
        self.fold(copy)?;
        let difference = self.found(copy)?;
        let (notes, layer) = keep(difference, intent, made)?;
        let Some(layer) = layer else {
            snapshotter.remove(copy)?;
            return Ok(Committed { record: None, notes });
        };
        if let Some(latest) = oci::source_date_epoch()?
            && settles
        {
            settle_times(self.host, copy, &layer, latest)?;
        }
        let record = made.layer(store, snapshotter.as_ref(), intent, copy, &layer)?;
        Ok(Committed {
            record: Some(record),
            notes,
        })
    }

    /// What differs, found in the way that was asked for.
    fn found(&self, copy: &str) -> Result<Difference> {
        let differ = match self.how {
            DiffChoice::Auto | DiffChoice::Verify => Differ::Auto,
            DiffChoice::Block => Differ::Block,
            DiffChoice::Walk => Differ::Walk,
        };
        let comparison = self.host.snapshotter.compare(copy, differ)?;
        let by_blocks = comparison.found == Found::Blocks;
        let found = self.difference(&comparison, &self.options()?, None);
        let found = both(found, comparison.close());
        match found {
            // What does not fit together in a volume's own structures is for the kernel to read.
            Err(error) if by_blocks && self.how == DiffChoice::Auto && error.kind() == Kind::Corrupt => {
                tracing::warn!(
                    "cannot read the changes of {} block by block, so both trees are walked: {error}",
                    self.name
                );
                let comparison = self.host.snapshotter.compare(copy, Differ::Walk)?;
                let thorough = Options {
                    thorough: true,
                    ..self.options()?
                };
                both(self.difference(&comparison, &thorough, None), comparison.close())
            }
            Ok(mut difference) if self.how == DiffChoice::Verify => {
                let comparison = self.host.snapshotter.compare(copy, Differ::Walk)?;
                difference.oracle = Some(both(walked(&comparison, &self.options()?), comparison.close())?);
                Ok(difference)
            }
            found => found,
        }
    }

    /// An exception store becomes a volume first.
    fn fold(&self, copy: &str) -> Result<()> {
        let title = format!("merging {}", self.name);
        merging(self.bars, &title, |progress| self.host.snapshotter.fold(copy, progress))
    }

    fn options(&self) -> Result<Options> {
        Ok(Options {
            clamp_mtime: oci::source_date_epoch()?,
            room: Some(source::room_in(self.host.store.root())?),
            ..Options::default()
        })
    }

    /// Writes the difference: as it is, so that its digest is the DiffID. Of a container that stands `still` meanwhile
    /// it ends when a signal asks for that.
    fn difference(&self, comparison: &Comparison, options: &Options, still: Option<&Still<'_>>) -> Result<Difference> {
        let store = &self.host.store;
        explain_difference(comparison);
        let mut out = Counting {
            inner: store.blobs.writer()?,
            bars: self.bars,
            still,
        };
        // An overlay that runs is read as it is, whichever differ was asked for.
        let scope = match self.how {
            DiffChoice::Walk => &Everything,
            _ => comparison.scope.as_ref(),
        };
        let options = Options {
            thorough: options.thorough || comparison.is_thorough(),
            ..options.clone()
        };
        self.bars.begin(&format!("committing {}", self.name), None);
        let written = write_layer(comparison.parent(), comparison.child(), scope, &options, &mut out);
        self.bars.end();
        let written = written?;
        Ok(Difference {
            written,
            writer: out.inner,
            oracle: None,
        })
    }
}

/// Shows how far a merge is, if there is anything to merge.
///
/// # Errors
/// The work's.
pub(super) fn merging<T>(
    bars: &Bars,
    title: &str,
    work: impl FnOnce(&mut dyn FnMut(u64, u64)) -> Result<T>,
) -> Result<T> {
    let mut done = None;
    let worked = work(&mut |left, all| {
        let now = all.saturating_sub(left).saturating_mul(CHUNK);
        let before = done.replace(now).unwrap_or_else(|| {
            bars.begin(title, Some(all.saturating_mul(CHUNK)));
            0
        });
        bars.advance(now.saturating_sub(before));
    });
    if done.is_some() {
        bars.end();
    }
    worked
}

/// The layer that a walk finds which takes no time's word for anything: its digest, none where nothing differs.
fn walked(comparison: &Comparison, options: &Options) -> Result<Oracle> {
    let thorough = Options {
        thorough: true,
        ..options.clone()
    };
    let mut walked = Hashing::new(std::io::sink());
    let written = write_layer(
        comparison.parent(),
        comparison.child(),
        &Everything,
        &thorough,
        &mut walked,
    )?;
    Ok(Oracle((written.entries > 0).then(|| walked.finish().1)))
}

/// What was written becomes a blob; none where nothing changed. And what was left out.
fn keep(difference: Difference, intent: &mut Intent, made: &mut Made) -> Result<(Vec<String>, Option<NewLayer>)> {
    let Difference {
        written,
        writer,
        oracle,
    } = difference;
    if written.entries == 0 {
        oracle.map_or(Ok(()), |oracle| oracle.confirm(None))?;
        return Ok((written.notes, None));
    }
    let stored = made.blob(writer, intent, None)?;
    oracle.map_or(Ok(()), |oracle| oracle.confirm(Some(stored.digest)))?;
    let blob = Descriptor {
        media_type: Compression::None.layer_media_type().to_owned(),
        digest: stored.digest,
        size: stored.size,
    };
    let layer = NewLayer {
        diff_id: DiffId(stored.digest),
        size: stored.size,
        blob,
    };
    Ok((written.notes, Some(layer)))
}

/// A snapshot that itself becomes the layer must have the times that the layer's tar says, none of them after
/// `latest` (seconds since 1970).
fn settle_times(host: &Host, copy: &str, layer: &NewLayer, latest: i64) -> Result<()> {
    let mut tar = host.store.blobs.open(&layer.blob.digest)?;
    let mounted = host.snapshotter.mount(copy, Access::ReadWrite)?;
    step(|| {
        let folder = quote(mounted.path());
        format!(
            "find {folder} -mindepth 1 -newermt @{latest} -exec touch --no-dereference --date=@{latest} {{}} +    # what the layer has"
        )
    });
    let settled = set_times(mounted.dir(), &mut tar, &Limits::default());
    both(settled, mounted.close())
}

/// No program of a shell writes an OCI layer; one that shows what is in it comes next to it.
fn explain_difference(comparison: &Comparison) {
    let child = quote(comparison.child.path());
    if let (Found::Blocks, Some(parent)) = (&comparison.found, &comparison.parent) {
        let parent = quote(parent.path());
        step(|| {
            format!(
                "# plywood reads the changed files from {child} itself, and what they were from {parent}; to see one: debugfs -R 'stat /etc/hostname' {child}"
            )
        });
        return;
    }
    match &comparison.parent {
        Some(parent) => {
            let parent = quote(parent.path());
            step(|| {
                format!(
                    "# plywood writes what differs between {parent} and {child} as a layer tar; to see it: diff -rq --no-dereference {parent} {child}"
                )
            });
        }
        None => step(|| format!("# plywood writes all of {child} as a layer tar")),
    }
}

/// Tells the bar what passes.
struct Counting<'a, W> {
    inner: W,
    bars: &'a Bars,
    still: Option<&'a Still<'a>>,
}

impl<W: Write> Write for Counting<'_, W> {
    fn write(&mut self, buffer: &[u8]) -> std::io::Result<usize> {
        if self.still.is_some_and(Still::is_interrupted) {
            return Err(std::io::Error::other("a signal asks plywood to end"));
        }
        let count = self.inner.write(buffer)?;
        self.bars.advance(count as u64);
        Ok(count)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}
