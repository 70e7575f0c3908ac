//! Table lines as types: pure, total, round-trip tested.
//!
//! ```text
//! 0 209715200 thin-pool 7:1 7:0 128 0 1 error_if_no_space
//! 0 20971520 thin 252:0 7
//! 0 20971520 snapshot 252:3 252:4 PO 8
//! ```
//!
//! Feature words keep the order in which the kernel prints them, so that equal
//! tables are equal text (`Documentation/admin-guide/device-mapper/`, thin-provisioning.rst and snapshot.rst).

use std::fmt;
use std::str::FromStr;

use crate::dm::pool::ThinId;
use crate::error::{Error, Result};

/// One line of a table. Plywood's tables have one line each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// The first sector.
    pub start: u64,
    /// Sectors of 512 bytes.
    pub sectors: u64,
    /// What they are.
    pub target: Target,
}

/// What a line's sectors are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A pool.
    ThinPool(ThinPoolTarget),
    /// A volume in a pool.
    Thin {
        /// The pool's device: a path or `major:minor`.
        pool: String,
        /// The volume.
        id: ThinId,
    },
    /// A part of another device.
    Linear {
        /// That device: a path or `major:minor`.
        device: String,
        /// Its first sector.
        offset: u64,
    },
    /// A device whose chunks are copied into the stores of its snapshots before they are written.
    SnapshotOrigin {
        /// That device.
        device: String,
    },
    /// A device as it was, and what has been written since.
    Snapshot(SnapshotTarget),
    /// The same, and what has been written is on its way back into the device.
    SnapshotMerge(SnapshotTarget),
    /// Every access fails.
    Error,
}

/// The parameters of a classic snapshot. Its store survives reboots and tells overflow from damage (`PO`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotTarget {
    /// What it is a snapshot of: a path or `major:minor`.
    pub origin: String,
    /// Where its exceptions are.
    pub store: String,
    /// Sectors that are copied at a time: a power of two.
    pub chunk_sectors: u32,
}

impl fmt::Display for SnapshotTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} PO {}", self.origin, self.store, self.chunk_sectors)
    }
}

/// A pool's parameters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ThinPoolTarget {
    /// The metadata device: a path or `major:minor`.
    pub metadata: String,
    /// The data device.
    pub data: String,
    /// Sectors per block: 128 to 2097152, a multiple of 128.
    pub block_sectors: u32,
    /// Free blocks at which the kernel sends one event.
    pub low_water: u64,
    /// `skip_block_zeroing`.
    pub skip_zeroing: bool,
    /// `ignore_discard`.
    pub ignore_discard: bool,
    /// `no_discard_passdown`.
    pub no_discard_passdown: bool,
    /// `read_only`.
    pub read_only: bool,
    /// `error_if_no_space`.
    pub error_if_no_space: bool,
}

impl ThinPoolTarget {
    /// Plywood's pool: blocks zeroed, discards passed down, errors instead of waiting when it is full.
    pub fn new(metadata: String, data: String, block_sectors: u32) -> Self {
        Self {
            metadata,
            data,
            block_sectors,
            low_water: 0,
            skip_zeroing: false,
            ignore_discard: false,
            no_discard_passdown: false,
            read_only: false,
            error_if_no_space: true,
        }
    }

    fn features(&self) -> Vec<&'static str> {
        [
            (self.skip_zeroing, "skip_block_zeroing"),
            (self.ignore_discard, "ignore_discard"),
            (self.no_discard_passdown, "no_discard_passdown"),
            (self.read_only, "read_only"),
            (self.error_if_no_space, "error_if_no_space"),
        ]
        .into_iter()
        .filter_map(|(on, word)| on.then_some(word))
        .collect()
    }
}

impl Target {
    /// The target type's name.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::ThinPool(_) => "thin-pool",
            Self::Thin { .. } => "thin",
            Self::Linear { .. } => "linear",
            Self::SnapshotOrigin { .. } => "snapshot-origin",
            Self::Snapshot(_) => "snapshot",
            Self::SnapshotMerge(_) => "snapshot-merge",
            Self::Error => "error",
        }
    }

    /// What stands after the type's name.
    pub fn parameters(&self) -> String {
        match self {
            Self::ThinPool(pool) => {
                let features = pool.features();
                let mut text = format!(
                    "{} {} {} {} {}",
                    pool.metadata,
                    pool.data,
                    pool.block_sectors,
                    pool.low_water,
                    features.len()
                );
                for word in features {
                    text.push(' ');
                    text.push_str(word);
                }
                text
            }
            Self::Thin { pool, id } => format!("{pool} {id}"),
            Self::Linear { device, offset } => format!("{device} {offset}"),
            Self::SnapshotOrigin { device } => device.clone(),
            Self::Snapshot(snapshot) | Self::SnapshotMerge(snapshot) => snapshot.to_string(),
            Self::Error => String::new(),
        }
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.start, self.sectors, self.target.kind())?;
        match self.target.parameters() {
            none if none.is_empty() => Ok(()),
            parameters => write!(f, " {parameters}"),
        }
    }
}

impl FromStr for Table {
    type Err = Error;

    fn from_str(line: &str) -> Result<Self> {
        parse(line).ok_or_else(|| Error::invalid(format!("not a table line that plywood makes: {line:?}")))
    }
}

fn parse(line: &str) -> Option<Table> {
    let mut words = line.split_ascii_whitespace();
    let start = words.next()?.parse().ok()?;
    let sectors = words.next()?.parse().ok()?;
    let target = match words.next()? {
        "thin-pool" => Target::ThinPool(parse_pool(&mut words)?),
        "thin" => Target::Thin {
            pool: words.next()?.to_owned(),
            id: ThinId::new(words.next()?.parse().ok()?)?,
        },
        "linear" => Target::Linear {
            device: words.next()?.to_owned(),
            offset: words.next()?.parse().ok()?,
        },
        "snapshot-origin" => Target::SnapshotOrigin {
            device: words.next()?.to_owned(),
        },
        "snapshot" => Target::Snapshot(parse_snapshot(&mut words)?),
        "snapshot-merge" => Target::SnapshotMerge(parse_snapshot(&mut words)?),
        "error" => Target::Error,
        _ => return None,
    };
    words.next().is_none().then_some(Table { start, sectors, target })
}

fn parse_snapshot<'a>(words: &mut impl Iterator<Item = &'a str>) -> Option<SnapshotTarget> {
    let (origin, store) = (words.next()?.to_owned(), words.next()?.to_owned());
    (words.next()? == "PO").then_some(())?;
    let chunk_sectors = words.next()?.parse().ok()?;
    Some(SnapshotTarget {
        origin,
        store,
        chunk_sectors,
    })
}

fn parse_pool<'a>(words: &mut impl Iterator<Item = &'a str>) -> Option<ThinPoolTarget> {
    let metadata = words.next()?.to_owned();
    let data = words.next()?.to_owned();
    let mut pool = ThinPoolTarget::new(metadata, data, words.next()?.parse().ok()?);
    pool.low_water = words.next()?.parse().ok()?;
    pool.error_if_no_space = false;
    let count: usize = match words.next() {
        Some(count) => count.parse().ok()?,
        None => 0,
    };
    let mut seen: usize = 0;
    for word in words {
        let flag = match word {
            "skip_block_zeroing" => &mut pool.skip_zeroing,
            "ignore_discard" => &mut pool.ignore_discard,
            "no_discard_passdown" => &mut pool.no_discard_passdown,
            "read_only" => &mut pool.read_only,
            "error_if_no_space" => &mut pool.error_if_no_space,
            _ => return None,
        };
        if std::mem::replace(flag, true) {
            return None;
        }
        seen = seen.checked_add(1)?;
    }
    (seen == count).then_some(pool)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_kernels_lines_come_back_as_they_were() {
        for line in [
            "0 209715200 thin-pool 7:1 7:0 128 0 1 error_if_no_space",
            "0 8 thin-pool /dev/loop1 /dev/loop0 128 32768 0",
            "0 8 thin-pool a b 256 1 5 skip_block_zeroing ignore_discard no_discard_passdown read_only error_if_no_space",
            "0 20971520 thin 252:0 16777215",
            "0 8 error",
            "0 8 linear 7:0 2048",
            "0 8 snapshot-origin 252:3",
            "0 8 snapshot 252:3 252:4 PO 8",
            "0 8 snapshot-merge 252:3 252:4 PO 8",
        ] {
            assert_eq!(line.parse::<Table>().unwrap().to_string(), line);
        }
    }

    #[test]
    fn what_is_not_ours_is_refused() {
        for line in [
            "",
            "0",
            "0 8",
            "0 8 linear 7:0",
            "0 8 snapshot 7:0 7:1 N 8",
            "0 8 snapshot 7:0 7:1 PO 8 1 discard_zeroes_cow",
            "0 8 thin 7:0",
            "0 8 thin 7:0 16777216",
            "0 8 thin 7:0 1 7:1",
            "0 8 thin-pool a b 128 0 2 error_if_no_space",
            "0 8 thin-pool a b 128 0 2 error_if_no_space error_if_no_space",
            "0 8 thin-pool a b 128 0 1 unheard_of",
            "-1 8 error",
        ] {
            assert!(line.parse::<Table>().is_err(), "{line:?}");
        }
    }

    proptest! {
        #[test]
        fn pools_round_trip(block in 1u32.., low in any::<u64>(), flags in any::<[bool; 5]>(), start in any::<u64>(), sectors in any::<u64>()) {
            let [skip_zeroing, ignore_discard, no_discard_passdown, read_only, error_if_no_space] = flags;
            let pool = ThinPoolTarget { metadata: "7:1".into(), data: "7:0".into(), block_sectors: block, low_water: low, skip_zeroing, ignore_discard, no_discard_passdown, read_only, error_if_no_space };
            let table = Table { start, sectors, target: Target::ThinPool(pool) };
            prop_assert_eq!(table.to_string().parse::<Table>().unwrap(), table);
        }

        #[test]
        fn garbage_never_panics(line in "[ 0-9a-z:_-]{0,80}") {
            let _ = line.parse::<Table>();
        }
    }
}
