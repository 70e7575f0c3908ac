//! `plywood commit`: a container's changes as one layer more.
//!
//! The container's snapshot is captured, the copy compared with its parent, the
//! difference streamed through sha256 into a blob, the copy made the layer's
//! content, config and manifest written, the name moved. Until that last step
//! nothing of it can be seen; a kill before leaves what the next command clears.

use std::io::Write;

use plywood_store::blob::Descriptor;
use plywood_store::compress::Compression;
use plywood_store::digest::Hashing;
use plywood_store::intent::{Intent, Plan};
use plywood_store::layer::Limits;
use plywood_store::layer::diff::{Everything, Options, Written, write_layer};
use plywood_store::layer::times::set_times;
use plywood_store::record::{ContainerRecord, ImageRecord, LayerRecord};
use plywood_store::{DiffId, Digest, Driver};
use serde::Serialize;

use crate::cli::{CommitArgs, DiffChoice};
use crate::commands::room::Room;
use crate::commands::{Host, Session, container, random_key, tag};
use crate::error::{Error, Result, both};
use crate::explain::{quote, step};
use crate::failure::{OK, Outcome};
use crate::image::change::Change;
use crate::image::compose::{self, ImageDraft, Step};
use crate::image::undo::{Made, undoing};
use crate::image::{oci, source};
use crate::output::Bars;
use crate::snapshot::{Access, Comparison, NewLayer};

/// Commits, and prints the new image's id.
///
/// # Errors
/// No such container, one that runs, a change that is none, a full disk or pool.
pub fn run(args: &CommitArgs, session: &Session) -> Outcome {
    let changes = args
        .changes
        .iter()
        .map(|change| Change::parse(change))
        .collect::<Result<Vec<_>>>()
        .map_err(|error| crate::failure::Failure::from(error).with_code(crate::failure::USAGE))?;
    args.name.as_ref().map_or(Ok(()), tag::refuse_digest)?;
    if session.store()?.is_none() {
        return Err(container::none(&args.container).into());
    }
    let host = session.host()?;
    let container = host.store.find_container(&args.container)?;
    let _hold = container::hold(session, &host.store, &container)?;
    container::refuse_shown(&host.store, &container)?;
    let base = host.store.images.get(&container.image.0.hex())?.ok_or_else(|| {
        Error::corrupt(format!(
            "container {} stands on image {}, which has no record",
            container.name, container.image
        ))
    })?;
    let plan = Plan::Work {
        verb: "commit".to_owned(),
        blobs: Vec::new(),
        layers: base.layers.clone(),
    };
    let bars = session.output.bars();
    let room = Room::under(host.store.root())?;
    let committed = undoing(&host.store, &*host.snapshotter, plan, |intent, made| {
        bars.begin(&format!("committing {}", container.name), None);
        let layer = commit_layer(&host, &container, args.diff, intent, made, bars);
        bars.end();
        let layer = layer?;
        for note in &layer.notes {
            session.output.note(format!("left out: {note}"));
        }
        let image = compose_image(&host, args, &container, &base, layer.record.as_ref(), changes)?;
        Ok((image, layer))
    });
    let (image, layer) = committed.map_err(|error| match host.snapshotter.driver() {
        Driver::Overlay => room.told(error, "the new layer", None),
        // Its pool, which the failure names.
        Driver::Thin => error,
    })?;
    tell(session, &host, &image, layer)?;
    Ok(OK)
}

fn tell(session: &Session, host: &Host, image: &ImageRecord, layer: Committed) -> Result<()> {
    if !session.output.is_json() {
        return session.output.line(image.id.to_string());
    }
    session.output.json(&Told {
        id: image.id.to_string(),
        names: host
            .store
            .names_of(&image.id)?
            .iter()
            .map(ToString::to_string)
            .collect(),
        manifest: image.manifest.digest.to_string(),
        diff_id: layer.record.map(|layer| layer.diff_id),
        left_out: layer.notes,
    })
}

/// The new image, as `--json` shows it.
#[derive(Debug, Serialize)]
struct Told {
    id: String,
    names: Vec<String>,
    manifest: String,
    /// The new layer's; none where nothing changed.
    diff_id: Option<DiffId>,
    /// What a layer cannot hold, such as sockets.
    left_out: Vec<String>,
}

/// What became of the changes.
struct Committed {
    /// None where nothing changed: no layer is needed for it.
    record: Option<LayerRecord>,
    notes: Vec<String>,
}

fn commit_layer(
    host: &Host,
    container: &ContainerRecord,
    how: DiffChoice,
    intent: &mut Intent,
    made: &mut Made,
    bars: &Bars,
) -> Result<Committed> {
    let copy = random_key("commit");
    host.snapshotter.capture(&container.id, &copy, intent)?;
    match commit_copy(host, &copy, how, intent, made, bars) {
        Ok(committed) => Ok(committed),
        Err(error) => both(Err(error), host.snapshotter.remove(&copy)),
    }
}

fn commit_copy(
    host: &Host,
    copy: &str,
    how: DiffChoice,
    intent: &mut Intent,
    made: &mut Made,
    bars: &Bars,
) -> Result<Committed> {
    let comparison = host.snapshotter.compare(copy)?;
    let (written, layer) = write_blob(host, &comparison, how, intent, made, bars)?;
    let Comparison { parent, child, .. } = comparison;
    child.close()?;
    if let Some(parent) = parent {
        parent.close()?;
    }
    if written.entries == 0 {
        host.snapshotter.remove(copy)?;
        return Ok(Committed {
            record: None,
            notes: written.notes,
        });
    }
    if let Some(latest) = oci::source_date_epoch()?
        && host.snapshotter.driver() == Driver::Thin
    {
        settle_times(host, copy, &layer, latest)?;
    }
    let record = made.layer(&host.store, host.snapshotter.as_ref(), intent, copy, &layer)?;
    Ok(Committed {
        record: Some(record),
        notes: written.notes,
    })
}

/// On thin the copy itself becomes the layer: it must have the times that the layer's tar says, none of them
/// after `latest` (seconds since 1970).
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

/// Streams the difference into a blob: stored as it is, so its digest is the DiffID.
fn write_blob(
    host: &Host,
    comparison: &Comparison,
    how: DiffChoice,
    intent: &mut Intent,
    made: &mut Made,
    bars: &Bars,
) -> Result<(Written, NewLayer)> {
    let options = Options {
        clamp_mtime: oci::source_date_epoch()?,
        room: Some(source::room_in(host.store.root())?),
        ..Options::default()
    };
    explain_difference(comparison);
    let parent = comparison.parent.as_ref().map(|parent| parent.dir());
    let child = comparison.child.dir();
    let mut out = Counting {
        inner: host.store.blobs.writer()?,
        bars,
    };
    let written = match how {
        DiffChoice::Walk => write_layer(parent, child, &Everything, &options, &mut out)?,
        DiffChoice::Auto | DiffChoice::Verify => {
            write_layer(parent, child, comparison.scope.as_ref(), &options, &mut out)?
        }
    };
    if written.entries == 0 {
        let nothing = Descriptor {
            media_type: Compression::None.layer_media_type().to_owned(),
            digest: Digest::of(b""),
            size: 0,
        };
        return Ok((
            written,
            NewLayer {
                diff_id: DiffId(nothing.digest),
                size: 0,
                blob: nothing,
            },
        ));
    }
    let stored = made.blob(out.inner, intent, None)?;
    if how == DiffChoice::Verify {
        let thorough = Options {
            thorough: true,
            ..options
        };
        let mut oracle = Hashing::new(std::io::sink());
        write_layer(parent, child, &Everything, &thorough, &mut oracle)?;
        let (_, digest, _) = oracle.finish();
        if digest != stored.digest {
            return Err(Error::corrupt(format!(
                "the differs disagree: {} by the driver's own, {digest} by a walk that reads everything",
                stored.digest
            ))
            .hinted("this is a bug in plywood; --diff=walk commits what the walk found"));
        }
    }
    let blob = Descriptor {
        media_type: Compression::None.layer_media_type().to_owned(),
        digest: stored.digest,
        size: stored.size,
    };
    Ok((
        written,
        NewLayer {
            diff_id: DiffId(stored.digest),
            size: stored.size,
            blob,
        },
    ))
}

/// No program of a shell writes an OCI layer; one that shows what is in it comes next to it.
fn explain_difference(comparison: &Comparison) {
    let child = quote(comparison.child.path());
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

fn compose_image(
    host: &Host,
    args: &CommitArgs,
    container: &ContainerRecord,
    base: &ImageRecord,
    layer: Option<&LayerRecord>,
    changes: Vec<Change>,
) -> Result<ImageRecord> {
    let words = container
        .spec
        .get("args")
        .and_then(|args| serde_json::from_value::<Vec<String>>(args.clone()).ok());
    let step = Step {
        created_by: words.map(|words| words.join(" ")),
        message: args.message.clone(),
        author: args.author.clone(),
        changes,
    };
    let config = compose::next_config(Some(&oci::read_config(&host.store, base)?), layer, &step)?;
    let mut layers = Vec::with_capacity(base.layers.len() + 1);
    for chain in &base.layers {
        let record = host.store.layers.get(&chain.0.hex())?;
        layers.push(record.ok_or_else(|| Error::corrupt(format!("layer {chain} of image {} has no record", base.id)))?);
    }
    layers.extend(layer.cloned());
    compose::publish_image(&host.store, &ImageDraft::new(&config, layers)?, args.name.as_ref())
}

/// Tells the bar what passes.
struct Counting<'a, W> {
    inner: W,
    bars: &'a Bars,
}

impl<W: Write> Write for Counting<'_, W> {
    fn write(&mut self, buffer: &[u8]) -> std::io::Result<usize> {
        let count = self.inner.write(buffer)?;
        self.bars.advance(count as u64);
        Ok(count)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}
