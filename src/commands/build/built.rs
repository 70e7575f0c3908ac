//! What a stage of a build has come to: its config and its layers.

use plywood_store::record::LayerRecord;
use plywood_store::{ChainId, DiffId, ImageId, Store};

use super::layers::stack;
use crate::build::state::State;
use crate::error::{Error, Result};
use crate::image::oci::{self, History};

/// What a stage has come to.
#[derive(Debug, Clone)]
pub(super) struct Built {
    /// Its config, with the layers' DiffIDs and the history, and what instructions see beside it.
    pub(super) state: State,
    /// Its layers.
    pub(super) top: Option<ChainId>,
    /// How many of them are its base's.
    pub(super) base_layers: usize,
    /// How much of the history is its base's.
    pub(super) base_history: usize,
    /// When its base was made.
    pub(super) base_created: Option<String>,
    /// When its last layer was made, RFC 3339: a build of cached steps alone is the same image again.
    pub(super) clock: Option<String>,
    /// The image that it began with, by way of other stages.
    pub(super) image: ImageId,
    /// What that is called.
    pub(super) image_name: String,
}

impl Built {
    /// Its layers, base first.
    ///
    /// # Errors
    /// Where one is not there.
    pub(super) fn records(&self, store: &Store) -> Result<Vec<LayerRecord>> {
        stack(store, self.top)
    }

    /// Notes a step that made no layer.
    pub(super) fn note(&mut self, created_by: String) -> Result<()> {
        let created = self.now()?;
        self.state.config.history.push(History {
            created: Some(created),
            created_by: Some(created_by),
            empty_layer: true,
            ..History::default()
        });
        Ok(())
    }

    /// Notes a step whose result is `top`, made at `created`.
    pub(super) fn step(&mut self, store: &Store, top: Option<ChainId>, created_by: &str, created: &str) -> Result<()> {
        let layer = match top {
            Some(chain) if top != self.top => store.layers.get(&chain.0.hex())?,
            _ => None,
        };
        if let Some(layer) = &layer {
            if self.state.config.rootfs.diff_ids.len() >= oci::LAYERS_MAX {
                return Err(Error::invalid(format!(
                    "the image would have more than {} layers, as many as an image may have",
                    oci::LAYERS_MAX
                ))
                .hinted("--squash makes one layer of a build's"));
            }
            self.state.config.rootfs.diff_ids.push(layer.diff_id);
            self.top = Some(layer.chain_id);
        }
        self.state.config.history.push(History {
            created: Some(created.to_owned()),
            created_by: Some(created_by.to_owned()),
            empty_layer: layer.is_none(),
            ..History::default()
        });
        self.clock = Some(created.to_owned());
        Ok(())
    }

    fn now(&self) -> Result<String> {
        match (&self.clock, &self.base_created) {
            (Some(clock), _) => Ok(clock.clone()),
            (None, Some(created)) => Ok(created.clone()),
            (None, None) => oci::created_now(),
        }
    }

    /// One layer, `top`, has taken the place of its own.
    ///
    /// # Errors
    /// Where that is not there.
    pub(super) fn squashed(&mut self, store: &Store, top: Option<ChainId>) -> Result<()> {
        let layers = stack(store, top)?;
        self.state.config.rootfs.diff_ids = layers.iter().map(|layer| layer.diff_id).collect::<Vec<DiffId>>();
        self.top = top;
        let mut steps = self.state.config.history.split_off(self.base_history);
        let last = steps.len().saturating_sub(1);
        for (number, step) in steps.iter_mut().enumerate() {
            step.empty_layer = number != last || layers.len() == self.base_layers;
        }
        self.state.config.history.append(&mut steps);
        Ok(())
    }
}
