//! A config over layers becomes an image: blobs, then the record, then the name.
//!
//! [`publish_image`] is the one place where an image becomes visible; import,
//! commit and build end here. Everything before it is durable already, and a
//! cut between its steps leaves garbage, never a name that leads nowhere.

use std::time::{SystemTime, UNIX_EPOCH};

use plywood_store::blob::Descriptor;
use plywood_store::lock::Exclusive;
use plywood_store::record::{ImageRecord, LayerRecord, NameRecord, Phase};
use plywood_store::{ChainId, ImageId, Reference, Store};

use super::change::{self, Change};
use super::oci::{self, CONFIG, History, ImageConfig, Manifest};
use crate::error::{Error, Kind, Result};

/// An image that is not visible yet. Its layers are committed, and pinned by the caller's intent.
#[derive(Debug, Clone)]
pub struct ImageDraft {
    /// The config, as bytes: a foreign one must keep its digest.
    pub config: Vec<u8>,
    /// The layers, base first.
    pub layers: Vec<LayerRecord>,
    /// A foreign manifest and its media type, to be kept as it came. None where plywood writes its own.
    pub manifest: Option<(Vec<u8>, String)>,
}

impl ImageDraft {
    /// An image of plywood's own making.
    ///
    /// # Errors
    /// Invalid where config and layers do not belong together.
    pub fn new(config: &ImageConfig, layers: Vec<LayerRecord>) -> Result<Self> {
        Ok(Self {
            config: config.to_bytes()?,
            layers,
            manifest: None,
        })
    }
}

/// What is to be different in a new image.
#[derive(Debug, Clone, Default)]
pub struct Step {
    /// How it was made, for the history.
    pub created_by: Option<String>,
    /// What its maker says of it.
    pub message: Option<String>,
    /// Who made it.
    pub author: Option<String>,
    /// Changes of the config.
    pub changes: Vec<Change>,
}

/// The config that `step` makes of `base` (none: a new image) with `layer` on top (none: the config alone changes).
///
/// # Errors
/// Invalid for a change that has no value, or too many layers.
pub fn next_config(base: Option<&ImageConfig>, layer: Option<&LayerRecord>, step: &Step) -> Result<ImageConfig> {
    let mut config = base.cloned().unwrap_or_default();
    let created = oci::created_now()?;
    change::apply(&step.changes, &mut config.config)?;
    if let Some(layer) = layer {
        if config.rootfs.diff_ids.len() >= oci::LAYERS_MAX {
            return Err(Error::invalid(format!(
                "the image has {} layers already, as many as an image may have",
                oci::LAYERS_MAX
            ))
            .hinted("squash it: plywood export --format rootfs, then plywood import"));
        }
        // A history that did not tell of every layer cannot be continued: readers count its entries.
        if config.layers_in_history() != config.rootfs.diff_ids.len() {
            config.history = config.rootfs.diff_ids.iter().map(|_| History::default()).collect();
        }
        config.rootfs.diff_ids.push(layer.diff_id);
    }
    config.history.push(History {
        created: Some(created.clone()),
        created_by: step.created_by.clone(),
        author: step.author.clone(),
        comment: step.message.clone(),
        empty_layer: layer.is_none(),
    });
    config.created = Some(created);
    if step.author.is_some() {
        config.author.clone_from(&step.author);
    }
    Ok(config)
}

/// Makes an image visible, durably, and moves `name` to it. An image that is there already stays as it is.
///
/// Takes the store's exclusive lock. The caller's intent pins the layers.
///
/// # Errors
/// Invalid where config and layers disagree; not found where a layer is gone.
pub fn publish_image(store: &Store, draft: &ImageDraft, name: Option<&Reference>) -> Result<ImageRecord> {
    let lock = store.exclusive()?;
    let record = put_image(store, &lock, draft)?;
    if let Some(name) = name {
        store.names.put(
            &lock,
            &NameRecord {
                name: name.clone().without_digest(),
                image: record.id,
            },
        )?;
    }
    lock.done()?;
    Ok(record)
}

/// [`publish_image`]'s first half, under the caller's lock: blobs and image record, without a name.
///
/// # Errors
/// As for [`publish_image`].
pub fn put_image(store: &Store, lock: &Exclusive, draft: &ImageDraft) -> Result<ImageRecord> {
    let config = ImageConfig::parse(&draft.config)?;
    let chain = ChainId::stack(&config.rootfs.diff_ids);
    if !chain.iter().eq(draft.layers.iter().map(|layer| &layer.chain_id)) {
        return Err(Error::invalid(format!(
            "the config tells of {} layers, not of the {} that the image has",
            chain.len(),
            draft.layers.len()
        )));
    }
    for layer in &chain {
        if !store
            .layers
            .get(&layer.0.hex())?
            .is_some_and(|layer| layer.phase == Phase::Ready)
        {
            return Err(Error::not_found(format!("layer {layer} is not in the store any more")));
        }
    }
    let id = ImageId(plywood_store::Digest::of(&draft.config));
    if let Some(there) = store.images.get(&id.0.hex())?
        && store.blobs.read(&there.manifest.digest, oci::DOCUMENT_MAX).is_ok()
    {
        // Written also where it is there: that repairs a damaged one.
        store.blobs.put(&draft.config)?;
        return Ok(there);
    }
    let config_blob = Descriptor {
        media_type: CONFIG.to_owned(),
        digest: id.0,
        size: draft.config.len() as u64,
    };
    let (manifest, media_type) = match &draft.manifest {
        Some((bytes, media_type)) => (bytes.clone(), media_type.clone()),
        None => {
            let layers = draft.layers.iter().map(|layer| layer.blob.clone()).collect();
            (
                Manifest {
                    config: config_blob.clone(),
                    layers,
                }
                .to_bytes()?,
                oci::MANIFEST.to_owned(),
            )
        }
    };
    store.blobs.put_all(&[&draft.config, &manifest])?;
    let record = ImageRecord {
        id,
        config: config_blob,
        manifest: Descriptor {
            media_type,
            digest: plywood_store::Digest::of(&manifest),
            size: manifest.len() as u64,
        },
        layers: chain,
        created: config.created,
        stored_at: seconds_now()?,
    };
    store.images.put(lock, &record)?;
    Ok(record)
}

/// Seconds since 1970.
fn seconds_now() -> Result<i64> {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .ok()
        .and_then(|since| i64::try_from(since.as_secs()).ok());
    since.ok_or_else(|| Error::new(Kind::Io, "the machine's clock stands before 1970"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use plywood_store::record::Place;
    use plywood_store::{DiffId, Digest};

    fn layer(parent: Option<ChainId>, name: &str) -> LayerRecord {
        let diff_id = DiffId(Digest::of(name.as_bytes()));
        LayerRecord {
            chain_id: ChainId::new(parent, diff_id),
            diff_id,
            parent,
            blob: Descriptor {
                media_type: "application/vnd.oci.image.layer.v1.tar".into(),
                digest: diff_id.0,
                size: 1,
            },
            size: 1,
            place: Place::Folder(name.into()),
            phase: Phase::Ready,
        }
    }

    #[test]
    fn each_step_adds_to_the_history() {
        let base = next_config(
            None,
            Some(&layer(None, "a")),
            &Step {
                created_by: Some("plywood import a.tar".into()),
                ..Step::default()
            },
        )
        .unwrap();
        let step = Step {
            message: Some("m".into()),
            author: Some("me".into()),
            changes: vec![Change::parse("CMD [\"x\"]").unwrap()],
            ..Step::default()
        };
        let next = next_config(Some(&base), Some(&layer(None, "b")), &step).unwrap();
        let last = next_config(Some(&next), None, &Step::default()).unwrap();
        assert_eq!(
            last.rootfs.diff_ids,
            [layer(None, "a").diff_id, layer(None, "b").diff_id]
        );
        assert_eq!(
            last.history.iter().map(|step| step.empty_layer).collect::<Vec<_>>(),
            [false, false, true]
        );
        assert_eq!(last.history[1].comment.as_deref(), Some("m"));
        assert_eq!(
            (last.author.as_deref(), last.config.cmd),
            (Some("me"), Some(vec!["x".to_owned()]))
        );
    }

    #[test]
    fn a_history_that_tells_too_little_is_filled_up() {
        let mut base = next_config(None, Some(&layer(None, "a")), &Step::default()).unwrap();
        base.history.clear();
        let next = next_config(Some(&base), Some(&layer(None, "b")), &Step::default()).unwrap();
        assert_eq!(next.layers_in_history(), 2);
    }
}
