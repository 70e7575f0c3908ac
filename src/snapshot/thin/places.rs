//! From a record to the volume that it names, and to its mount.

use plywood_store::record::{Place, SnapshotRecord};

use super::{Thin, id_of};
use crate::dm::pool::ThinId;
use crate::dm::volume::{Content, Mode, VolumeMount};
use crate::error::{Error, Kind, Result};
use crate::snapshot::{Access, Mounted};

impl Thin {
    /// A view is its layer's own volume.
    pub(super) fn content_of(&self, snapshot: &SnapshotRecord) -> Result<Content> {
        match (&snapshot.place, snapshot.read_only) {
            (Place::Cow(_), _) => Ok(Content::Store {
                origin: self.origin_of(snapshot)?,
            }),
            (_, true) => Ok(Content::Layer),
            (_, false) => Ok(Content::Active),
        }
    }

    /// The volume of the layer that a snapshot stands on.
    pub(super) fn origin_of(&self, snapshot: &SnapshotRecord) -> Result<ThinId> {
        match &snapshot.parent {
            Some(chain) => id_of(&self.layer(chain)?.place),
            None => Err(Error::not_found(format!(
                "what the exception store of {:?} was written over is gone: the layer had to be rebuilt",
                snapshot.key
            ))
            .hinted("its changes are lost: plywood rm removes it")),
        }
    }

    /// The volume of a layer; a repair may have found that it is not what its digest says.
    pub(super) fn trusted(&self, place: &Place) -> Result<ThinId> {
        let id = id_of(place)?;
        if self.pool.has_lost_writes(id)? {
            return Err(Error::corrupt(format!(
                "the layer on volume {id} is damaged, and could not be rebuilt from its blob"
            ))
            .hinted("import its image again, then plywood pool repair; or plywood rmi it"));
        }
        Ok(id)
    }

    pub(super) fn mount_volume(&self, place: &Place, content: Content, access: Access) -> Result<Mounted> {
        if let Place::Merging { target, .. } = place {
            return Err(Error::new(Kind::InUse, format!("the volume {target} is half merged"))
                .hinted("the command that merges it goes on where it was when it is given again"));
        }
        let mode = match access {
            Access::ReadOnly => Mode::ReadOnly,
            Access::ReadWrite | Access::Fill => Mode::ReadWrite,
        };
        let id = match content {
            Content::Layer => self.trusted(place)?,
            Content::Active | Content::Store { .. } => id_of(place)?,
        };
        let VolumeMount { path, dir, undo } = self.pool.mount(id, content, mode)?;
        Ok(Mounted::new(path, dir, move || undo.close()))
    }
}
