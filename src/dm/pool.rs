//! The pool's messages and nothing more: [`ThinPool`].
//!
//! A message that returns 0 proves nothing by itself: with failing metadata
//! writes the kernel returns 0 and the status line shows the new id (measured).
//! So every implementation reads the status line after each message and
//! succeeds only for mode `rw`, no `needs_check`, and the expected id.

use crate::error::Result;

/// A thin device's number in its pool: 24 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ThinId(u32);

impl ThinId {
    /// The highest that the kernel takes.
    pub const MAX: u32 = (1 << 24) - 1;

    /// A checked id.
    pub fn new(id: u32) -> Option<Self> {
        (id <= Self::MAX).then_some(Self(id))
    }

    /// The number.
    pub fn get(self) -> u32 {
        self.0
    }
}

impl std::fmt::Display for ThinId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// A pool: the kernel's own messages.
pub trait ThinPool {
    /// `create_thin`: an empty device.
    ///
    /// # Errors
    /// Exists where the id is taken; otherwise as for every message: the kernel's refusal,
    /// or a status line that does not show the success.
    fn create_thin(&self, id: ThinId) -> Result<()>;
    /// `create_snap`: a device that shares everything with `origin`, which the caller has made quiet.
    fn create_snap(&self, id: ThinId, origin: ThinId) -> Result<()>;
    /// `delete`. Not there: a success, and false.
    fn delete(&self, id: ThinId) -> Result<bool>;
    /// `set_transaction_id`: compare and swap.
    fn set_transaction_id(&self, from: u64, to: u64) -> Result<()>;
    /// `reserve_metadata_snap`; the block where it is held.
    fn reserve_metadata_snap(&self) -> Result<u64>;
    /// `release_metadata_snap`.
    fn release_metadata_snap(&self) -> Result<()>;
    /// The status line.
    fn status(&self) -> Result<crate::dm::status::PoolStatus>;

    /// The status line without the commit that the kernel makes for [`ThinPool::status`], which the disk has to flush:
    /// for what is looked at before anything is done, and proves nothing.
    fn glance(&self) -> Result<crate::dm::status::PoolStatus> {
        self.status()
    }

    /// The transaction id. A pool that has failed does not tell it.
    ///
    /// # Errors
    /// Corrupt where it has failed; the kernel's.
    fn transaction_id(&self) -> Result<u64> {
        let status = self.status()?;
        status.require_known("of this root")?;
        Ok(status.transaction_id)
    }
}
