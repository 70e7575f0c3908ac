//! What one import may write: a few packed bytes can hold any number.
//!
//! All that an import inflates is counted, its layers and an archive around
//! them alike. It may come to a hundred times what was packed, and to 4 GiB in
//! any case; real images come to three or four times. Where the tree lies on
//! the store's own disk, all that is written must also fit there. Both are told
//! while bytes flow, long before the disk is full.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Error, Kind};

/// Inflated bytes that nobody asks about.
const FLOOR: u64 = 4 << 30;
/// Inflated bytes for one packed byte.
const RATIO: u64 = 100;

/// Counts what one import reads and writes. Clones count together.
#[derive(Debug, Clone)]
pub struct Budget {
    /// What the user allows, instead of [`FLOOR`] and [`RATIO`].
    most: Option<u64>,
    /// Bytes that the disk has room for, where that is what limits.
    room: Option<u64>,
    spent: Arc<Spent>,
}

#[derive(Debug, Default)]
struct Spent {
    packed: AtomicU64,
    inflated: AtomicU64,
    written: AtomicU64,
}

impl Budget {
    /// At most `most` inflated bytes, where the user says so; at most `room` bytes on the disk, where it is one.
    pub fn new(most: Option<u64>, room: Option<u64>) -> Self {
        Self {
            most,
            room,
            spent: Arc::default(),
        }
    }

    /// So many bytes came, as they were packed.
    pub fn came(&self, bytes: u64) {
        self.spent.packed.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Counts what is read as [`Budget::came`].
    pub(super) fn coming<R: Read>(&self, reader: R) -> Counted<R> {
        self.counted(reader, Count::Packed)
    }

    /// Counts what is read as unpacked bytes; `inflated` where they were packed before. Too many are an error.
    pub(super) fn unpacking<R: Read>(&self, reader: R, inflated: bool) -> Counted<R> {
        self.counted(reader, if inflated { Count::Inflated } else { Count::Plain })
    }

    fn counted<R: Read>(&self, reader: R, count: Count) -> Counted<R> {
        Counted {
            budget: self.clone(),
            reader,
            count,
        }
    }

    fn spend(&self, bytes: u64, count: Count) -> Result<(), Error> {
        let Spent {
            packed,
            inflated,
            written,
        } = &*self.spent;
        if count == Count::Packed {
            self.came(bytes);
            return Ok(());
        }
        let packed = packed.load(Ordering::Relaxed);
        let written = written.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes);
        if let Some(room) = self.room.filter(|room| packed.saturating_add(written) > *room) {
            return Err(Error::new(
                Kind::NoSpace,
                format!("the import needs more than the {room} bytes that may be used on the store's disk"),
            ));
        }
        if count == Count::Plain {
            return Ok(());
        }
        let inflated = inflated.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes);
        let allowed = self.most.unwrap_or_else(|| FLOOR.max(packed.saturating_mul(RATIO)));
        if inflated > allowed {
            return Err(Error::invalid(format!(
                "{packed} packed bytes unpack to more than the {allowed} that are allowed: this looks like a bomb"
            ))
            .hinted("if it is meant to be so large: plywood import --max-unpacked SIZE"));
        }
        Ok(())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Count {
    Packed,
    Inflated,
    Plain,
}

/// A reader whose bytes are counted.
#[derive(Debug)]
pub(super) struct Counted<R> {
    budget: Budget,
    reader: R,
    count: Count,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.reader.read(buffer)?;
        self.budget.spend(count as u64, self.count).map_err(io::Error::other)?;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passes(budget: &Budget, bytes: u64, inflated: bool) -> Result<(), Error> {
        let mut reader = budget.unpacking(io::repeat(0).take(bytes), inflated);
        match io::copy(&mut reader, &mut io::sink()) {
            Ok(_) => Ok(()),
            Err(cause) => Err(cause.downcast().unwrap()),
        }
    }

    #[test]
    fn u14_what_is_packed_may_grow_a_hundredfold_and_to_four_gibibytes() {
        let small = Budget::new(None, None);
        small.came(65 << 10);
        small.spend(FLOOR, Count::Inflated).unwrap();
        let error = passes(&small, 1, true).unwrap_err();
        assert!(error.hint().unwrap().contains("--max-unpacked"), "{error}");
        let large = Budget::new(None, None);
        io::copy(&mut large.coming(io::repeat(0).take(1000)), &mut io::sink()).unwrap();
        large.came(FLOOR);
        large.spend(100 * FLOOR, Count::Inflated).unwrap();
        passes(&large, 100_000, true).unwrap();
        passes(&large, 1, true).unwrap_err();
        passes(&large, 1000, false).unwrap();
    }

    #[test]
    fn u14_the_user_may_say_how_much_but_not_more_than_the_disk_has() {
        let budget = Budget::new(Some(1000), Some(5000));
        passes(&budget, 1000, true).unwrap();
        assert_eq!(passes(&budget, 1, true).unwrap_err().kind(), Kind::Invalid);
        passes(&budget, 3999, false).unwrap();
        assert_eq!(passes(&budget, 1, false).unwrap_err().kind(), Kind::NoSpace);
        let more = Budget::new(Some(u64::MAX), Some(5000));
        more.came(4000);
        assert_eq!(passes(&more, 1001, true).unwrap_err().kind(), Kind::NoSpace);
    }
}
