//! Classic snapshots: what is written over a device is kept beside it, and can be folded back.
//!
//! A *store* holds the exceptions: the chunks that were written, and a table of
//! them (`drivers/md/dm-snap-persistent.c`), so that it survives a reboot. The
//! *base* is the device underneath. One sequence, as LVM's, serves a container's
//! volumes and plain files:
//!
//! ```text
//! base   snapshot-origin REAL                          [Snapshot::attach]
//! top    snapshot REAL STORE PO 8
//!        … somebody writes to top …
//! base   suspend; top removed                          [Snapshot::merge]
//! base   snapshot-merge REAL STORE PO 8; resume; until nothing is left
//! base   snapshot-origin REAL
//! ```
//!
//! What the kernel does not forbid and must not happen: merging while the plain
//! snapshot of the same store is loaded, and two merges into one device. Callers
//! have the store and the device for themselves.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use crate::dm::control::Control;
use crate::dm::table::{SnapshotTarget, Table, Target};
use crate::error::{Error, Kind, Result, both, undone};
use crate::explain::{quote, step};

/// What is copied at a time: 4 KiB, a block of the filesystem.
pub const CHUNK_SECTORS: u32 = 8;
/// Exceptions that a chunk of the store's table describes: 16 bytes each.
const EXCEPTIONS_PER_CHUNK: u64 = CHUNK_SECTORS as u64 * 512 / 16;
/// How often a merge is looked at.
const PAUSE: Duration = Duration::from_millis(50);

/// How large a store has to be that cannot overflow, in sectors, over a device of so many sectors:
/// every chunk, its place in the table, the header, and the part of the table that is cleared ahead.
pub fn store_sectors(sectors: u64) -> u64 {
    let chunk = u64::from(CHUNK_SECTORS);
    let chunks = sectors.div_ceil(chunk);
    let table = chunks / EXCEPTIONS_PER_CHUNK + 2;
    (1 + chunks + table) * chunk
}

/// Is told the chunks that are still to be merged and how many there were; its failure stops the merge.
pub type Progress<'a> = &'a mut dyn FnMut(u64, u64) -> Result<()>;

/// A device of device-mapper's: its name and uuid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// The name.
    pub name: String,
    /// The uuid.
    pub uuid: String,
}

/// A classic snapshot of one device, with the store of its exceptions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// What is written to.
    pub top: Device,
    /// The device of those who write the origin, or to which the merge belongs.
    pub base: Device,
    /// The device that `base` stands for.
    pub real: PathBuf,
    /// Where the exceptions are.
    pub store: PathBuf,
    /// Sectors of `real`.
    pub sectors: u64,
}

impl Snapshot {
    /// Makes `top`, over a base that nobody writes.
    ///
    /// # Errors
    /// The kernel's; corrupt where the store was given up by the kernel.
    pub fn attach_top(&self, control: &Control) -> Result<()> {
        let table = self.table(Target::Snapshot(self.target()));
        control.create(&self.top.name, &self.top.uuid, &table, false)?;
        let whole = self
            .status(control, &self.top)
            .and_then(|status| status.require(&self.top.name));
        match whole {
            Ok(_) => Ok(()),
            Err(error) => Err(undone(error, control.remove(&self.top.name))),
        }
    }

    /// Makes `base` and `top`.
    ///
    /// # Errors
    /// The kernel's; then neither is there.
    pub fn attach(&self, control: &Control) -> Result<()> {
        control.create(&self.base.name, &self.base.uuid, &self.origin_table(), false)?;
        self.attach_top(control)
            .map_err(|error| undone(error, control.remove(&self.base.name)))
    }

    /// Removes what is there of the two.
    ///
    /// # Errors
    /// In use.
    pub fn detach(&self, control: &Control) -> Result<()> {
        for device in [&self.top, &self.base] {
            if control.info(&device.name)?.is_some() {
                control.remove(&device.name)?;
            }
        }
        Ok(())
    }

    /// Folds the store into the real device; `top` is gone then, `base` is as it was before. Cut short, it
    /// goes on from where it was when it is called again.
    ///
    /// # Errors
    /// No space where the merge failed, corrupt where the store cannot be read; it can be called again.
    pub fn merge(&self, control: &Control, progress: Progress<'_>) -> Result<()> {
        let table = self.table(Target::SnapshotMerge(self.target()));
        let base = &self.base.name;
        let has_base = control.info(base)?.is_some();
        if has_base {
            let suspended = control.suspend(base)?;
            control.remove(&self.top.name)?;
            control.load(base, &table)?;
            suspended.resume()?;
        } else {
            if control.info(&self.top.name)?.is_some() {
                control.remove(&self.top.name)?;
            }
            control.create(base, &self.base.uuid, &table, false)?;
        }
        let merged = self.wait(control, progress);
        match (merged, has_base) {
            (Ok(()), true) => control.reload(base, &self.origin_table()),
            (merged, false) => both(merged, control.remove(base)),
            (Err(error), true) => Err(error),
        }
    }

    /// What `top` or `base` says of its store.
    ///
    /// # Errors
    /// The kernel's.
    pub fn status(&self, control: &Control, device: &Device) -> Result<Status> {
        control.status(&device.name)?.parse()
    }

    /// Until nothing is left to merge.
    fn wait(&self, control: &Control, progress: Progress<'_>) -> Result<()> {
        step(|| {
            let base = quote(&self.base.name);
            format!("until dmsetup status {base} | grep -q ' \\([0-9]*\\)/[0-9]* \\1$'; do sleep 1; done")
        });
        let mut first = None;
        loop {
            let status = self.status(control, &self.base)?;
            let left = status.require(&self.base.name)?;
            let looked = progress(left, *first.get_or_insert(left));
            if left == 0 {
                return Ok(());
            }
            looked?;
            std::thread::sleep(PAUSE);
        }
    }

    fn target(&self) -> SnapshotTarget {
        SnapshotTarget {
            origin: self.real.display().to_string(),
            store: self.store.display().to_string(),
            chunk_sectors: CHUNK_SECTORS,
        }
    }

    fn origin_table(&self) -> Table {
        self.table(Target::SnapshotOrigin {
            device: self.real.display().to_string(),
        })
    }

    fn table(&self, target: Target) -> Table {
        Table {
            start: 0,
            sectors: self.sectors,
            target,
        }
    }
}

/// What a snapshot's status line says (`Documentation/admin-guide/device-mapper/snapshot.rst`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum Status {
    /// It works. In sectors.
    Working {
        /// What the store has given out.
        allocated: u64,
        /// What it can.
        total: u64,
        /// How much of that is the table.
        metadata: u64,
    },
    /// The kernel has given the store up: a read or write of it failed.
    Invalid,
    /// The store was full.
    Overflow,
    /// A merge could not read or write something, and has stopped.
    MergeFailed,
    /// The kernel does not know yet.
    Unknown,
}

impl Status {
    /// Chunks that were written, and are not merged yet.
    ///
    /// # Errors
    /// Corrupt or no space where the store cannot be used, naming `device` and the way out.
    pub fn require(self, device: &str) -> Result<u64> {
        match self {
            Self::Working { allocated, metadata, .. } => {
                Ok(allocated.saturating_sub(metadata) / u64::from(CHUNK_SECTORS))
            }
            Self::Invalid => Err(Error::corrupt(format!(
                "the kernel has given up the exception store of {device}: a read or write of it failed"
            ))
            .hinted("its pool was full or failing: plywood pool grow, then plywood pool repair saves what had been synced")),
            Self::Overflow => Err(Error::new(
                Kind::NoSpace,
                format!("the exception store of {device} is full"),
            )),
            Self::MergeFailed => Err(Error::new(
                Kind::NoSpace,
                format!("the merge into {device} has stopped: something could not be read or written"),
            )
            .hinted("plywood pool status tells whether the pool is full; plywood pool grow adds space; then the same command goes on")),
            Self::Unknown => Err(Error::new(
                Kind::Io,
                format!("the kernel does not know yet what the exception store of {device} holds"),
            )),
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Working {
                allocated,
                total,
                metadata,
            } => write!(f, "{allocated}/{total} {metadata}"),
            Self::Invalid => f.write_str("Invalid"),
            Self::Overflow => f.write_str("Overflow"),
            Self::MergeFailed => f.write_str("Merge failed"),
            Self::Unknown => f.write_str("Unknown"),
        }
    }
}

impl FromStr for Status {
    type Err = Error;

    fn from_str(line: &str) -> Result<Self> {
        match line.trim() {
            "Invalid" => Ok(Self::Invalid),
            "Overflow" => Ok(Self::Overflow),
            "Merge failed" => Ok(Self::MergeFailed),
            "Unknown" => Ok(Self::Unknown),
            line => parse_working(line).ok_or_else(|| {
                Error::new(
                    Kind::Incompatible,
                    format!("not a status line of the snapshot target as plywood knows it: {line:?}"),
                )
            }),
        }
    }
}

fn parse_working(line: &str) -> Option<Status> {
    let (used, metadata) = line.split_once(' ')?;
    let (allocated, total) = used.split_once('/')?;
    Some(Status::Working {
        allocated: allocated.parse().ok()?,
        total: total.parse().ok()?,
        metadata: metadata.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_lines_come_back_as_they_were() {
        for line in [
            "16/20971520 16",
            "123528/20971520 496",
            "Invalid",
            "Overflow",
            "Merge failed",
            "Unknown",
        ] {
            assert_eq!(line.parse::<Status>().unwrap().to_string(), line);
        }
        for line in ["", "16", "16/32", "16/32 x", "16 32 16", "16/32 16 1"] {
            assert!(line.parse::<Status>().is_err(), "{line:?}");
        }
    }

    #[test]
    fn a_store_has_room_for_every_chunk() {
        assert_eq!(store_sectors(8), (1 + 1 + 2) * 8);
        // 256 chunks fill one chunk of the table; the next one is cleared then.
        assert_eq!(store_sectors(256 * 8), (1 + 256 + 3) * 8);
    }

    #[test]
    fn what_cannot_be_used_says_what_to_do() {
        assert_eq!("24/64 16".parse::<Status>().unwrap().require("d").unwrap(), 1);
        for status in [Status::Invalid, Status::MergeFailed] {
            assert!(status.require("d").unwrap_err().hint().is_some());
        }
    }
}
