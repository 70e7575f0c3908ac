//! How much room a pool has, for those who write into it.
//!
//! [`crate::dm::underlay::Underlay::ensure_room`] refuses to begin in a nearly full pool; a
//! [`Gauge`] tells those who have begun when to stop: at a floor that leaves enough to
//! unmount, delete and write metadata.

use crate::dm::kernel::KernelPool;
use crate::dm::pool::ThinPool;
use crate::dm::status::{Need, PoolStatus};
use crate::dm::underlay::BLOCK;
use crate::error::{Error, Kind, Result};

/// Off, writers go on to the last block of a pool.
const SWITCH: &str = "PLYWOOD_POOL_WATCH";
const MIB: u64 = 1 << 20;
/// The floor is this part of the pool,
const FLOOR: u64 = 20;
/// but at least and at most so many bytes.
const FLOOR_LEAST: u64 = 8 * MIB;
const FLOOR_MOST: u64 = 1024 * MIB;
/// Of the metadata one part in so many stays free.
const METADATA_FLOOR: u64 = 20;

/// Whether those who write into a pool are to be stopped before it is full: unless somebody has switched that off.
pub fn is_watched() -> bool {
    std::env::var_os(SWITCH).is_none_or(|value| value != "off")
}

/// How much room there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Bytes that can be written still.
    pub free: u64,
    /// Bytes there are in all.
    pub total: u64,
    /// Bytes that must stay free: what is needed to end well.
    pub floor: u64,
    /// Whether it is the bookkeeping that is nearly full.
    pub metadata_is_low: bool,
}

impl Room {
    /// Refuses to go on where the floor is reached.
    ///
    /// # Errors
    /// No space, with the figures and the way out.
    pub fn require(&self, least: u64) -> Result<()> {
        if !self.metadata_is_low && self.free.saturating_sub(self.floor) >= least {
            return Ok(());
        }
        let what = if self.metadata_is_low {
            "the pool's metadata are"
        } else {
            "the pool is"
        };
        Err(Error::new(
            Kind::NoSpace,
            format!(
                "{what} nearly full: {} of {} MiB are left",
                self.free / MIB,
                self.total / MIB
            ),
        )
        .hinted("plywood rm, rmi and gc free space; plywood pool grow adds some; then the same command goes on"))
    }
}

/// Tells how much room there is, from any thread.
pub trait Gauge: Send {
    /// How much there is now.
    ///
    /// # Errors
    /// The kernel's.
    fn look(&self) -> Result<Room>;

    /// Enlarges what is low and can grow by itself, so that `wanted` bytes are free above the floor.
    ///
    /// # Errors
    /// The kernel's; no space where it is as large as it may become.
    fn make_room(&self, wanted: u64) -> Result<()>;
}

impl Gauge for KernelPool {
    fn look(&self) -> Result<Room> {
        let status = self.status()?;
        status.require(Need::Space, &self.name())?;
        let room = room_of(&status, BLOCK);
        Ok(match self.inner.underlay.host_free()? {
            // The data file is sparse: the disk under it may have less.
            Some(free) if free < room.free => Room { free, ..room },
            _ => room,
        })
    }

    fn make_room(&self, wanted: u64) -> Result<()> {
        self.inner.underlay.grow_if_low(self, wanted)
    }
}

/// Bytes that stay free of so many.
pub(super) fn floor_of(total: u64) -> u64 {
    (total / FLOOR).clamp(FLOOR_LEAST, FLOOR_MOST)
}

fn room_of(status: &PoolStatus, block: u64) -> Room {
    let total = status.data_total.saturating_mul(block);
    let metadata_free = status.metadata_total.saturating_sub(status.metadata_used);
    Room {
        free: status.data_total.saturating_sub(status.data_used).saturating_mul(block),
        total,
        floor: floor_of(total),
        metadata_is_low: metadata_free < status.metadata_total / METADATA_FLOOR,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_twentieth_is_the_floor_within_bounds() {
        let room = |data: &str| {
            let line = format!("5 60/4096 {data} - rw discard_passdown error_if_no_space - 1024");
            room_of(&line.parse().unwrap(), 65536)
        };
        let small = room("1000/2048");
        assert_eq!((small.free, small.floor), (1048 * 65536, 8 * MIB));
        assert_eq!(room("0/16384").floor, 1024 * MIB / 20);
        assert_eq!(room("0/1638400").floor, 1024 * MIB);
        assert!(!small.metadata_is_low);
    }
}
