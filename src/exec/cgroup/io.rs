//! Limits of what a container reads from disks and writes to them.
//!
//! What goes through the page cache is written later, by the kernel: only cgroup v2 with its memory controller counts
//! it for whom it is; v1 limits what goes to the disk directly.

use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::limits::Limits;
use super::{Group, Version};
use crate::exec::error::{Attempt, Error, Result, Stage};

/// What of a disk is limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Limited {
    /// Bytes read in a second.
    ReadBytes,
    /// Bytes written in a second.
    WriteBytes,
    /// Reads in a second.
    Reads,
    /// Writes in a second.
    Writes,
}

/// A limit of one disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IoLimit {
    /// The disk's node on the host.
    pub device: PathBuf,
    /// What is limited.
    pub limited: Limited,
    /// How many of it a second.
    pub rate: u64,
}

/// Docker's weights, which are cgroup v1's.
pub(super) const WEIGHTS: std::ops::RangeInclusive<u16> = 10..=1000;

impl Limited {
    /// v1's file, and v2's word in `io.max`.
    fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::ReadBytes => ("blkio.throttle.read_bps_device", "rbps"),
            Self::WriteBytes => ("blkio.throttle.write_bps_device", "wbps"),
            Self::Reads => ("blkio.throttle.read_iops_device", "riops"),
            Self::Writes => ("blkio.throttle.write_iops_device", "wiops"),
        }
    }
}

impl IoLimit {
    /// `MAJOR:MINOR` of the disk.
    fn numbers(&self) -> Result<String> {
        let shown = self.device.display();
        let found =
            std::fs::metadata(&self.device).attempt(Stage::Limits, || format!("limit {shown}: look up the disk"))?;
        if !found.file_type().is_block_device() {
            return Err(Error::new(Stage::Limits, format!("limit {shown}: it is no disk")));
        }
        let device = found.rdev();
        Ok(format!("{}:{}", rustix::fs::major(device), rustix::fs::minor(device)))
    }
}

impl Group {
    /// Sets the limits of disks.
    pub(super) fn limit_io(&self, limits: &Limits) -> Result<()> {
        for limit in &limits.io {
            let (numbers, (file, word)) = (limit.numbers()?, limit.limited.names());
            let (file, value) = match self.version {
                Version::V1 => (file, format!("{numbers} {}", limit.rate)),
                Version::V2 => ("io.max", format!("{numbers} {word}={}", limit.rate)),
            };
            self.needs(file)?;
            self.write(file, &value).map_err(|error| match error.errno() {
                Some(rustix::io::Errno::NODEV) => Error::new(
                    Stage::Limits,
                    format!(
                        "limit {}: it is a part of a disk, and only whole disks have limits",
                        limit.device.display()
                    ),
                ),
                _ => error,
            })?;
        }
        let Some(weight) = limits.io_weight else { return Ok(()) };
        let (file, weight) = match self.version {
            Version::V1 => ("blkio.weight", u32::from(weight)),
            // As runc has it: 10 to 1000 is 1 to 10000.
            Version::V2 => ("io.weight", 1 + (u32::from(weight) - 10) * 9999 / 990),
        };
        self.needs(file)?;
        self.write(file, &weight.to_string())
    }

    /// Whether this kernel has the file, which it leaves out with what it was built without.
    fn needs(&self, file: &str) -> Result<()> {
        if self.path.join(file).exists() {
            return Ok(());
        }
        Err(Error::new(
            Stage::Limits,
            format!("limit disks: this kernel's cgroups have no {file}"),
        ))
    }
}
