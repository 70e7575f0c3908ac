//! The pool in the kernel: its messages, each proven by the status line after it.

use std::path::PathBuf;
use std::sync::Arc;

use crate::dm::control::{Control, MessageError};
use crate::dm::locks::Locks;
use crate::dm::name::Names;
use crate::dm::pool::{ThinId, ThinPool};
use crate::dm::status::{Need, PoolStatus};
use crate::dm::underlay::Underlay;
use crate::dm::volume::Part;
use crate::error::{Error, Kind, Result};

/// A running pool. Cloning gives another handle on the same one.
#[derive(Debug, Clone)]
pub struct KernelPool {
    pub(super) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) control: Control,
    pub(super) names: Names,
    pub(super) locks: Locks,
    /// Where volumes are mounted, in this process's mount namespace.
    pub(super) mounts: PathBuf,
    /// What each volume can hold, bytes.
    pub(super) volume_size: u64,
    /// What the pool lies on.
    pub(super) underlay: Underlay,
}

impl KernelPool {
    /// A handle on the pool that `control` has under these names.
    pub(super) fn new(
        control: Control,
        names: Names,
        underlay: Underlay,
        locks: PathBuf,
        mounts: PathBuf,
        volume_size: u64,
    ) -> Self {
        let locks = Locks::new(locks);
        Self {
            inner: Arc::new(Inner {
                control,
                names,
                locks,
                mounts,
                volume_size,
                underlay,
            }),
        }
    }

    pub(super) fn control(&self) -> &Control {
        &self.inner.control
    }

    /// The pool's device name.
    pub fn name(&self) -> String {
        self.inner.names.pool()
    }

    /// Enlarges data, metadata or both, to these sizes in bytes, while the pool is in use.
    ///
    /// # Errors
    /// Invalid for a size that is smaller.
    pub fn grow(&self, data: Option<u64>, metadata: Option<u64>) -> Result<()> {
        self.inner.underlay.grow(self, data, metadata)
    }

    /// Takes up a growth whose command was killed between the files and the kernel.
    ///
    /// # Errors
    /// The kernel's.
    pub(super) fn finish_growth(&self) -> Result<()> {
        self.inner.underlay.finish_growth(self)
    }

    /// What the pool lies on, data first.
    ///
    /// # Errors
    /// The operating system's.
    pub fn underneath(&self) -> Result<Vec<Part>> {
        self.inner.underlay.describe()
    }

    /// Sectors that a volume shows to its filesystem.
    pub(super) fn sectors(&self) -> u64 {
        self.inner.volume_size / 512
    }

    /// Sends a message; a success is what the status line shows afterwards.
    fn message(&self, text: &str, need: Need, expected: Option<u64>) -> Result<(), MessageError> {
        let (before, after) = self.message_beside_others(text, need)?;
        let expected = expected.unwrap_or(before.transaction_id);
        if after.transaction_id == expected {
            return Ok(());
        }
        let error = Error::corrupt(format!(
            "the pool {} took {text:?}, but its transaction id is {} instead of {expected}",
            self.name(),
            after.transaction_id
        ));
        Err(MessageError { errno: None, error })
    }

    /// The same while others may move the transaction id: without the store's lock. The status before and after it.
    fn message_beside_others(&self, text: &str, need: Need) -> Result<(PoolStatus, PoolStatus), MessageError> {
        let name = self.name();
        let other = |error| MessageError { errno: None, error };
        let before = self.glance().map_err(other)?;
        before.require(need, &name).map_err(other)?;
        self.control().message(&name, text)?;
        let after = self.status().map_err(other)?;
        after.require(need, &name).map_err(other)?;
        Ok((before, after))
    }
}

/// Names what the kernel's number means for a volume.
fn explained(error: MessageError, id: ThinId) -> Error {
    match error.errno {
        Some(libc::EEXIST) => {
            Error::new(Kind::Exists, format!("the pool has a volume {id} already")).caused_by(error.error)
        }
        Some(libc::ENODATA) => Error::not_found(format!("the pool has no volume {id}"))
            .caused_by(error.error)
            .hinted("somebody deleted it, or the pool is an older one: plywood pool repair brings layers back, and tells what is lost"),
        _ => error.error,
    }
}

impl ThinPool for KernelPool {
    fn create_thin(&self, id: ThinId) -> Result<()> {
        self.message(&format!("create_thin {id}"), Need::Space, None)
            .map_err(|error| explained(error, id))
    }

    fn create_snap(&self, id: ThinId, origin: ThinId) -> Result<()> {
        self.message(&format!("create_snap {id} {origin}"), Need::Space, None)
            .map_err(|error| match error.errno {
                Some(libc::ENODATA) => explained(error, origin),
                _ => explained(error, id),
            })
    }

    fn delete(&self, id: ThinId) -> Result<bool> {
        match self.message(&format!("delete {id}"), Need::Metadata, None) {
            Ok(()) => Ok(true),
            Err(error) if error.errno == Some(libc::ENODATA) => Ok(false),
            Err(error) => Err(explained(error, id)),
        }
    }

    fn set_transaction_id(&self, from: u64, to: u64) -> Result<()> {
        self.message(&format!("set_transaction_id {from} {to}"), Need::Metadata, Some(to))
            .map_err(|error| error.error)
    }

    fn reserve_metadata_snap(&self) -> Result<u64> {
        let (_, after) = self
            .message_beside_others("reserve_metadata_snap", Need::Metadata)
            .map_err(|error| error.error)?;
        after
            .held_root
            .ok_or_else(|| Error::corrupt(format!("the pool {} holds no metadata snapshot", self.name())))
    }

    fn release_metadata_snap(&self) -> Result<()> {
        self.message_beside_others("release_metadata_snap", Need::Metadata)
            .map(drop)
            .map_err(|error| error.error)
    }

    fn status(&self) -> Result<PoolStatus> {
        self.control().status(&self.name())?.parse()
    }

    fn glance(&self) -> Result<PoolStatus> {
        self.control().glance(&self.name())?.parse()
    }
}
