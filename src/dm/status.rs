//! The kernel's status lines as types: pure, round-trip tested, total.
//!
//! ```text
//! 5 60/4096 3200/1638400 - rw discard_passdown error_if_no_space - 1024      a pool
//! 24576 1048575                                                              a volume
//! ```
//!
//! `Documentation/admin-guide/device-mapper/thin-provisioning.rst`, and what
//! `drivers/md/dm-thin.c` prints beyond it.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Kind, Result};

/// What a thin pool's status line says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolStatus {
    /// Moved by `set_transaction_id` only.
    pub transaction_id: u64,
    /// Metadata blocks of 4096 bytes.
    pub metadata_used: u64,
    /// The same, in all.
    pub metadata_total: u64,
    /// Data blocks of the pool's block size.
    pub data_used: u64,
    /// The same, in all.
    pub data_total: u64,
    /// The block of the metadata snapshot.
    pub held_root: Option<u64>,
    /// Whether it can be written.
    pub mode: PoolMode,
    /// Whether discards reach the data device.
    pub discard_passdown: bool,
    /// Whether a write into a full pool fails at once, instead of waiting.
    pub error_if_no_space: bool,
    /// A metadata operation failed: thin_check first.
    pub needs_check: bool,
    /// Free metadata blocks at which the kernel sends an event, where it says so.
    pub metadata_low_water: Option<u64>,
}

/// The pool's mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PoolMode {
    /// `rw`.
    ReadWrite,
    /// `ro`.
    ReadOnly,
    /// `out_of_data_space`.
    OutOfDataSpace,
    /// `Fail`: every I/O errors.
    Failed,
}

/// Metadata blocks that the kernel keeps free, a tenth but no more than these: `set_metadata_reserve` of
/// `drivers/md/dm-thin-metadata.c`.
const METADATA_KEPT: u64 = 4096;

/// What a message needs of its pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Data can be written.
    Space,
    /// Metadata can be written: enough to delete something on a full pool.
    Metadata,
}

impl PoolStatus {
    /// What the line of a pool whose metadata cannot be read says: nothing.
    fn failed() -> Self {
        Self {
            transaction_id: 0,
            metadata_used: 0,
            metadata_total: 0,
            data_used: 0,
            data_total: 0,
            held_root: None,
            mode: PoolMode::Failed,
            discard_passdown: false,
            error_if_no_space: false,
            needs_check: false,
            metadata_low_water: None,
        }
    }

    /// The state that the pool is in, as `pool status` names it; the worst first.
    pub fn state(&self) -> &'static str {
        match self.mode {
            PoolMode::Failed => "failed",
            _ if self.needs_check => "needs_check",
            PoolMode::ReadOnly if self.is_out_of_metadata() => "out_of_metadata_space",
            PoolMode::ReadOnly => "ro",
            PoolMode::OutOfDataSpace => "out_of_data_space",
            PoolMode::ReadWrite => "rw",
        }
    }

    /// Whether there is no room for one change more: the kernel keeps some blocks for deleting.
    fn is_out_of_metadata(&self) -> bool {
        let free = self.metadata_total.saturating_sub(self.metadata_used);
        let kept = (self.metadata_total / 10).clamp(1, METADATA_KEPT);
        self.metadata_total > 0 && free <= kept
    }

    /// Refuses a pool that has failed: nothing else of what its line would say is known.
    ///
    /// # Errors
    /// Corrupt.
    pub fn require_known(&self, pool: &str) -> Result<()> {
        match self.mode {
            PoolMode::Failed => self.require(Need::Metadata, pool),
            _ => Ok(()),
        }
    }

    /// Refuses a pool that cannot do what is needed, naming it and the way out.
    ///
    /// # Errors
    /// No space, or corrupt where the pool has to be checked or repaired.
    pub fn require(&self, need: Need, pool: &str) -> Result<()> {
        if self.needs_check {
            return Err(Error::corrupt(format!(
                "the pool {pool} saw a metadata error and needs a check ({self})"
            ))
            .hinted(
                "plywood pool repair checks it, and every layer and container; what is stored can still be exported",
            ));
        }
        match (self.mode, need) {
            (PoolMode::ReadWrite, _) | (PoolMode::OutOfDataSpace, Need::Metadata) => Ok(()),
            (PoolMode::OutOfDataSpace, Need::Space) => Err(Error::new(
                Kind::NoSpace,
                format!(
                    "the pool {pool} is full: {} of {} blocks are used",
                    self.data_used, self.data_total
                ),
            )
            .hinted("plywood rm, rmi and gc free space; plywood pool grow adds some")),
            // The kernel says `ro` of this too, though growing is enough.
            (PoolMode::ReadOnly, _) if self.is_out_of_metadata() => Err(Error::new(
                Kind::NoSpace,
                format!(
                    "the pool {pool} has no room for metadata: {} of {} blocks are used",
                    self.metadata_used, self.metadata_total
                ),
            )
            .hinted("plywood pool grow --metadata-size adds some; plywood pool repair where that is refused")),
            (PoolMode::ReadOnly, _) => Err(Error::corrupt(format!("the pool {pool} is read-only ({self})")).hinted(
                "the kernel could not write its metadata: plywood pool repair, when the disk below is well again",
            )),
            (PoolMode::Failed, _) => Err(Error::corrupt(format!(
                "the pool {pool} has failed: every access to it is an error"
            ))
            .hinted("end what uses it, then plywood pool repair; the kernel's log (dmesg) says what happened")),
        }
    }
}

impl fmt::Display for PoolStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mode = match self.mode {
            PoolMode::ReadWrite => "rw",
            PoolMode::ReadOnly => "ro",
            PoolMode::OutOfDataSpace => "out_of_data_space",
            PoolMode::Failed => return f.write_str("Fail"),
        };
        write!(
            f,
            "{} {}/{} {}/{} ",
            self.transaction_id, self.metadata_used, self.metadata_total, self.data_used, self.data_total
        )?;
        match self.held_root {
            Some(block) => write!(f, "{block}")?,
            None => f.write_str("-")?,
        }
        let discards = if self.discard_passdown {
            "discard_passdown"
        } else {
            "no_discard_passdown"
        };
        let full = if self.error_if_no_space {
            "error_if_no_space"
        } else {
            "queue_if_no_space"
        };
        let check = if self.needs_check { "needs_check" } else { "-" };
        write!(f, " {mode} {discards} {full} {check}")?;
        match self.metadata_low_water {
            Some(blocks) => write!(f, " {blocks}"),
            None => Ok(()),
        }
    }
}

impl FromStr for PoolStatus {
    type Err = Error;

    fn from_str(line: &str) -> Result<Self> {
        parse_pool(line).ok_or_else(|| unreadable("thin-pool", line))
    }
}

fn parse_pool(line: &str) -> Option<PoolStatus> {
    // "Error": the kernel could not read the metadata just now.
    if matches!(line.trim(), "Fail" | "Error") {
        return Some(PoolStatus::failed());
    }
    let mut words = line.split_ascii_whitespace();
    let transaction_id = words.next()?.parse().ok()?;
    let (metadata_used, metadata_total) = ratio(words.next()?)?;
    let (data_used, data_total) = ratio(words.next()?)?;
    let held_root = dash(words.next()?)?;
    let mode = match words.next()? {
        "rw" => PoolMode::ReadWrite,
        "ro" => PoolMode::ReadOnly,
        "out_of_data_space" => PoolMode::OutOfDataSpace,
        _ => return None,
    };
    let discard_passdown = match words.next()? {
        "discard_passdown" => true,
        "no_discard_passdown" | "ignore_discard" => false,
        _ => return None,
    };
    let error_if_no_space = match words.next()? {
        "error_if_no_space" => true,
        "queue_if_no_space" => false,
        _ => return None,
    };
    let needs_check = match words.next()? {
        "needs_check" => true,
        "-" => false,
        _ => return None,
    };
    // Newer kernels may say more: what comes behind is theirs.
    let metadata_low_water = words.next().and_then(|word| word.parse().ok());
    Some(PoolStatus {
        transaction_id,
        metadata_used,
        metadata_total,
        data_used,
        data_total,
        held_root,
        mode,
        discard_passdown,
        error_if_no_space,
        needs_check,
        metadata_low_water,
    })
}

/// What a volume's status line says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ThinStatus {
    /// It works.
    Working {
        /// Sectors that have blocks, shared ones included.
        mapped: u64,
        /// The last sector that has one.
        highest: Option<u64>,
    },
    /// Its pool failed.
    Failed,
}

impl fmt::Display for ThinStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Working {
                mapped,
                highest: Some(highest),
            } => write!(f, "{mapped} {highest}"),
            Self::Working { mapped, highest: None } => write!(f, "{mapped} -"),
            Self::Failed => f.write_str("Fail"),
        }
    }
}

impl FromStr for ThinStatus {
    type Err = Error;

    fn from_str(line: &str) -> Result<Self> {
        parse_thin(line).ok_or_else(|| unreadable("thin", line))
    }
}

fn parse_thin(line: &str) -> Option<ThinStatus> {
    if matches!(line.trim(), "Fail" | "Error" | "-") {
        return Some(ThinStatus::Failed);
    }
    let mut words = line.split_ascii_whitespace();
    let mapped = words.next()?.parse().ok()?;
    let highest = dash(words.next()?)?;
    words
        .next()
        .is_none()
        .then_some(ThinStatus::Working { mapped, highest })
}

fn ratio(word: &str) -> Option<(u64, u64)> {
    let (used, total) = word.split_once('/')?;
    Some((used.parse().ok()?, total.parse().ok()?))
}

/// A number, or `-` for none.
fn dash(word: &str) -> Option<Option<u64>> {
    match word {
        "-" => Some(None),
        number => number.parse().ok().map(Some),
    }
}

fn unreadable(target: &str, line: &str) -> Error {
    Error::new(
        Kind::Incompatible,
        format!("not a status line of the {target} target as plywood knows it: {line:?}"),
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const WORKING: &str = "5 60/4096 3200/1638400 - rw discard_passdown error_if_no_space - 1024";

    #[test]
    fn the_kernels_pool_lines_come_back_as_they_were() {
        for line in [
            WORKING,
            "0 9/1024 0/16 7 ro no_discard_passdown queue_if_no_space needs_check 64",
            "1 1/2 2/2 - out_of_data_space discard_passdown error_if_no_space -",
            "Fail",
        ] {
            assert_eq!(line.parse::<PoolStatus>().unwrap().to_string(), line);
        }
    }

    #[test]
    fn the_kernels_volume_lines_come_back_as_they_were() {
        for line in ["24576 1048575", "0 -", "Fail"] {
            assert_eq!(line.parse::<ThinStatus>().unwrap().to_string(), line);
        }
    }

    #[test]
    fn garbage_is_refused() {
        for line in [
            "",
            "1",
            "1 2",
            "x 1/2 1/2 - rw discard_passdown error_if_no_space -",
            "1 1/2 1 - rw discard_passdown error_if_no_space -",
        ] {
            assert!(line.parse::<PoolStatus>().is_err(), "{line:?}");
        }
        for line in ["", "1", "x -", "1 2 3"] {
            assert!(line.parse::<ThinStatus>().is_err(), "{line:?}");
        }
    }

    #[test]
    fn only_a_pool_that_can_do_it_is_asked_to() {
        let working: PoolStatus = WORKING.parse().unwrap();
        assert!(working.require(Need::Space, "p").is_ok());
        let full = PoolStatus {
            mode: PoolMode::OutOfDataSpace,
            ..working.clone()
        };
        assert_eq!(full.require(Need::Space, "p").unwrap_err().kind(), Kind::NoSpace);
        assert!(full.require(Need::Metadata, "p").is_ok());
        for broken in [
            PoolStatus {
                needs_check: true,
                ..working.clone()
            },
            PoolStatus {
                mode: PoolMode::ReadOnly,
                ..working.clone()
            },
            PoolStatus {
                mode: PoolMode::Failed,
                ..working.clone()
            },
        ] {
            let error = broken.require(Need::Metadata, "p").unwrap_err();
            assert_eq!(error.kind(), Kind::Corrupt);
            assert!(error.hint().is_some());
        }
        assert!("Fail".parse::<PoolStatus>().unwrap().require_known("p").is_err());
        let checked = WORKING.replace("space - 1024", "space needs_check 1024");
        assert!(checked.parse::<PoolStatus>().unwrap().require_known("p").is_ok());
    }

    proptest! {
        #[test]
        fn cut_lines_never_panic(cut in 0usize..80, extra in "[ -~]{0,10}") {
            let line: String = WORKING.chars().take(cut).chain(extra.chars()).collect();
            let _ = line.parse::<PoolStatus>();
            let _ = line.parse::<ThinStatus>();
        }
    }
}
