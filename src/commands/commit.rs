//! `plywood commit`: a container's changes as one layer more.
//!
//! The container's snapshot is captured, the copy compared with its parent, the
//! difference streamed through sha256 into a blob, the copy made the layer's
//! content, config and manifest written, the name moved. Until that last step
//! nothing of it can be seen; a kill before leaves what the next command clears.
//!
//! A container that runs is [frozen](super::freeze) meanwhile: on thin while it is
//! captured; on overlay, which cannot copy in a moment, while its difference is
//! written, and the layer is then made from that.

use plywood_store::intent::Plan;
use plywood_store::record::{ContainerRecord, ImageRecord, LayerRecord};
use plywood_store::{DiffId, Driver, Store};
use serde::Serialize;

use crate::cli::CommitArgs;
use crate::commands::freeze::Still;
use crate::commands::hold::{self, Hold};
use crate::commands::layer::{Committed, Writing};
use crate::commands::room::Room;
use crate::commands::{Host, Session, container, tag};
use crate::error::{Error, Kind, Result};
use crate::exec::state;
use crate::failure::{OK, Outcome};
use crate::image::change::Change;
use crate::image::compose::{self, ImageDraft, Step};
use crate::image::oci::{self, ImageConfig};
use crate::image::undo::undoing;

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
    let Some(host) = session.existing_host()? else {
        return Err(container::none(&args.container).into());
    };
    let container = host.store.find_container(&args.container)?;
    let user = User::found(session, &host.store, &container, args.pause)?;
    perform(session, &host, &container, args, changes, user)
}

/// Commits a container that `user` has.
///
/// # Errors
/// As for [`run`].
pub(super) fn perform(
    session: &Session,
    host: &Host,
    container: &ContainerRecord,
    args: &CommitArgs,
    changes: Vec<Change>,
    user: User<'_>,
) -> Outcome {
    let base = host.store.images.get(&container.image.0.hex())?.ok_or_else(|| {
        Error::corrupt(format!(
            "container {} stands on image {}, which has no record",
            container.name, container.image
        ))
    })?;
    // Of one that runs nobody keeps the image: it may go with its container.
    let config = oci::read_config(&host.store, &base)?;
    let plan = Plan::Work {
        verb: "commit".to_owned(),
        blobs: Vec::new(),
        layers: base.layers.clone(),
    };
    let bars = session.output.bars();
    let room = Room::under(host.store.root())?;
    let committed = undoing(&host.store, &*host.snapshotter, plan, |intent, made| {
        let writing = Writing {
            host,
            how: args.diff,
            bars,
            name: &container.name,
        };
        let layer = writing.layer(container, user, intent, made)?;
        for note in &layer.notes {
            session.output.note(format!("left out: {note}"));
        }
        let image = compose_image(host, args, container, (&base, &config), layer.record.as_ref(), changes)?;
        Ok((image, layer))
    });
    let (image, layer) = committed.map_err(|error| match host.snapshotter.driver() {
        Driver::Overlay => room.told(error, "the new layer", None),
        // Its pool, which the failure names.
        Driver::Thin => error,
    })?;
    tell(session, host, &image, layer)?;
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

/// Who has the container while it is committed.
pub(super) enum User<'a> {
    /// This command, which keeps others away until it ends.
    Held(Hold),
    /// This command, which goes on with the copy of its exception store that is under this key, if it is there
    /// already; it stays where it cannot be committed yet.
    Merging(Hold, String),
    /// The container itself.
    Still(Box<Still<'a>>),
}

impl<'a> User<'a> {
    fn found(session: &Session, store: &'a Store, container: &ContainerRecord, pause: bool) -> Result<Self> {
        loop {
            if let Some(still) = Still::take(store, container, pause)? {
                return Ok(Self::Still(Box::new(still)));
            }
            match hold::take(session, store, container) {
                Ok(hold) => {
                    container::refuse_shown(store, container)?;
                    return Ok(Self::Held(hold));
                }
                // Somebody has started it in between.
                Err(error) if error.kind() == Kind::InUse && is_running(store, container)? => {}
                Err(error) => return Err(error),
            }
        }
    }
}

fn is_running(store: &Store, container: &ContainerRecord) -> Result<bool> {
    let current = store.containers.get(&container.id)?;
    Ok(current.is_some_and(|current| state::is_alive(&current.state)))
}

fn compose_image(
    host: &Host,
    args: &CommitArgs,
    container: &ContainerRecord,
    (base, config): (&ImageRecord, &ImageConfig),
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
    let config = compose::next_config(Some(config), layer, &step)?;
    let mut layers = Vec::with_capacity(base.layers.len() + 1);
    for chain in &base.layers {
        let record = host.store.layers.get(&chain.0.hex())?;
        layers.push(record.ok_or_else(|| Error::corrupt(format!("layer {chain} of image {} has no record", base.id)))?);
    }
    layers.extend(layer.cloned());
    compose::publish_image(&host.store, &ImageDraft::new(&config, layers)?, args.name.as_ref())
}
