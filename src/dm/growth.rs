//! How a pool on files grows: by hand, and by itself where it is low.
//!
//! Metadata grow up to what the kernel can use. The data file grows up to a limit in
//! the pool's record, and never so far that what it can hold would take the last
//! tenth of its disk. Two who find one pool low grow it one after the other, under a
//! lock on the data file.

use std::fs::{File, OpenOptions};
use std::path::Path;

use plywood_store::durable;
use plywood_store::record::PoolDevices;
use rustix::fs::{FallocateFlags, FlockOperation};

use crate::dm::kernel::KernelPool;
use crate::dm::loops;
use crate::dm::pool::ThinPool;
use crate::dm::room::{floor_of, is_watched};
use crate::dm::status::{Need, PoolStatus};
use crate::dm::underlay::{BLOCK, METADATA_MOST, Underlay, size_of_device};
use crate::error::{Context, Error, Kind, Result};
use crate::explain::{quote, step};

const MIB: u64 = 1 << 20;
/// Free space below which nothing begins that writes: one part in ten.
const FLOOR: u64 = 10;
/// On a large disk this much is room enough to begin, bytes.
const HOST_FLOOR: u64 = 512 * MIB;
/// Bytes of a metadata block.
const METADATA_BLOCK: u64 = 4096;
/// Less than this is not worth suspending the pool for, bytes.
const STEP_LEAST: u64 = 16 * MIB;

/// A disk's bytes.
struct Disk {
    free: u64,
    total: u64,
}

impl Underlay {
    /// Refuses a pool with less than a tenth free, after growing what can grow.
    ///
    /// # Errors
    /// No space.
    pub(super) fn ensure_room(&self, pool: &KernelPool) -> Result<()> {
        let status = pool.glance()?;
        status.require(Need::Metadata, &pool.name())?;
        if let PoolDevices::LoopFiles { .. } = self.devices {
            self.require_host_room()?;
        }
        let has_room = |status: PoolStatus| {
            let ready = status.require(Need::Space, &pool.name());
            ready.and_then(|()| require_free(&status, &pool.name()))
        };
        if !is_metadata_low(&status) && goal(&status, 0).is_none() {
            return has_room(status);
        }
        let grown = self.grow_if_low(pool, 0);
        match (has_room(pool.status()?), grown) {
            (Err(error), Err(cause)) => Err(error.caused_by(cause)),
            (has_room, _) => has_room,
        }
    }

    /// Enlarges what is low and can grow: files. Metadata are doubled; so are data, or more where so many bytes are
    /// wanted above the floor.
    ///
    /// # Errors
    /// No space where the data file is at its limit, or its disk has none; the kernel's.
    pub(super) fn grow_if_low(&self, pool: &KernelPool, wanted: u64) -> Result<()> {
        let PoolDevices::LoopFiles { .. } = self.devices else {
            return Ok(());
        };
        let _alone = self.lock_size()?;
        let status = pool.status()?;
        let metadata = size_of_device(&self.metadata_path())?;
        if is_metadata_low(&status) && metadata < METADATA_MOST {
            let larger = metadata.saturating_mul(2).min(METADATA_MOST);
            self.enlarge(None, Some(larger))?;
            self.show(pool)?;
        }
        // Who wants to see a pool become full has switched the watch off.
        match goal(&status, wanted).filter(|_| is_watched()) {
            Some(goal) => self.grow_data(pool, &status, goal),
            None => Ok(()),
        }
    }

    fn grow_data(&self, pool: &KernelPool, status: &PoolStatus, goal: u64) -> Result<()> {
        let total = status.data_total.saturating_mul(BLOCK);
        let size = size_of_device(&self.data_path())? / BLOCK * BLOCK;
        // Who enlarged the file was killed before the pool had it.
        if size <= total {
            self.enlarge(Some(self.reachable(status, goal)?), None)?;
        }
        self.show(pool)
    }

    /// How far it can grow of its own accord: up to the goal, its limit, and what its disk has.
    fn reachable(&self, status: &PoolStatus, goal: u64) -> Result<u64> {
        let (used, total) = (
            status.data_used.saturating_mul(BLOCK),
            status.data_total.saturating_mul(BLOCK),
        );
        let path = self.data_path();
        let PoolDevices::LoopFiles { grows_to, .. } = self.devices else {
            return Ok(total);
        };
        if let Some(limit) = grows_to.filter(|limit| *limit < total.saturating_add(BLOCK)) {
            return Err(Error::new(
                Kind::NoSpace,
                format!(
                    "{} has {} MiB, and grows by itself to {} MiB",
                    path.display(),
                    total / MIB,
                    limit / MIB
                ),
            ));
        }
        let disk = self.disk()?;
        let most = used.saturating_add(disk.free.saturating_sub(disk.total / FLOOR));
        if most < total.saturating_add(STEP_LEAST) {
            return Err(Error::new(
                Kind::NoSpace,
                format!(
                    "{} has {} MiB and does not grow by itself: its disk has {} of {} MiB left, whose last tenth stays free",
                    path.display(),
                    total / MIB,
                    disk.free / MIB,
                    disk.total / MIB
                ),
            ));
        }
        Ok(goal.min(most).min(grows_to.unwrap_or(u64::MAX)) / BLOCK * BLOCK)
    }

    /// Bytes that the disk under the pool's files has; none where there are no files.
    pub(super) fn host_free(&self) -> Result<Option<u64>> {
        match self.devices {
            PoolDevices::Block { .. } => Ok(None),
            PoolDevices::LoopFiles { .. } => Ok(Some(self.disk()?.free)),
        }
    }

    fn disk(&self) -> Result<Disk> {
        let disk = rustix::fs::statvfs(&self.folder).context("look at the disk of", &self.folder)?;
        Ok(Disk {
            free: disk.f_bavail.saturating_mul(disk.f_frsize),
            total: disk.f_blocks.saturating_mul(disk.f_frsize),
        })
    }

    fn require_host_room(&self) -> Result<()> {
        let disk = self.disk()?;
        if disk.free < (disk.total / FLOOR).min(HOST_FLOOR) {
            return Err(Error::new(
                Kind::NoSpace,
                format!(
                    "the disk under {} has only {} MiB left",
                    self.folder.display(),
                    disk.free / MIB
                ),
            )
            .hinted("the pool's data file grows on it as layers are written: free some space there first"));
        }
        Ok(())
    }

    /// Enlarges data, metadata or both, to these sizes in bytes, under a pool in use.
    ///
    /// # Errors
    /// Invalid for a size that is smaller.
    pub(super) fn grow(&self, pool: &KernelPool, data: Option<u64>, metadata: Option<u64>) -> Result<()> {
        let _alone = self.lock_size()?;
        self.enlarge(data, metadata)?;
        self.show(pool)
    }

    /// Shows the kernel what it has not seen of the files: who enlarged them was killed before.
    ///
    /// # Errors
    /// The kernel's.
    pub(super) fn finish_growth(&self, pool: &KernelPool) -> Result<()> {
        if !self.is_larger_than(pool)? {
            return Ok(());
        }
        let _alone = self.lock_size()?;
        match self.is_larger_than(pool)? {
            true => self.show(pool),
            false => Ok(()),
        }
    }

    /// Whether the files have room that the pool does not use. One that is not well is left as it is: the kernel
    /// would not take it.
    fn is_larger_than(&self, pool: &KernelPool) -> Result<bool> {
        let PoolDevices::LoopFiles { .. } = self.devices else {
            return Ok(false);
        };
        let status = pool.glance()?;
        if status.require(Need::Metadata, &pool.name()).is_err() {
            return Ok(false);
        }
        let metadata = size_of_device(&self.metadata_path())?.min(METADATA_MOST);
        Ok(status.data_total < size_of_device(&self.data_path())? / BLOCK
            || status.metadata_total < metadata / METADATA_BLOCK)
    }

    /// Nobody else changes the size of the pool meanwhile: the kernel does not take a table that is smaller again.
    fn lock_size(&self) -> Result<Option<File>> {
        if let PoolDevices::Block { .. } = self.devices {
            return Ok(None);
        }
        let path = self.data_path();
        let file = File::open(&path).context("open", &path)?;
        durable::flock(&file, FlockOperation::LockExclusive).context("lock", &path)?;
        Ok(Some(file))
    }

    fn enlarge(&self, data: Option<u64>, metadata: Option<u64>) -> Result<()> {
        if let PoolDevices::Block { .. } = self.devices {
            return Ok(());
        }
        let (data_path, metadata_path) = (self.data_path(), self.metadata_path());
        let data = data.map(|size| larger(&data_path, size / BLOCK * BLOCK)).transpose()?;
        let metadata = metadata.map(|size| size.min(METADATA_MOST) / METADATA_BLOCK * METADATA_BLOCK);
        let metadata = metadata.map(|size| larger(&metadata_path, size)).transpose()?;
        if let Some(size) = data.flatten() {
            let path = data_path;
            step(|| format!("truncate -s {size} {}", quote(&path)));
            let file = OpenOptions::new().write(true).open(&path).context("open", &path)?;
            file.set_len(size)
                .and_then(|()| file.sync_all())
                .context("enlarge", &path)?;
        }
        if let Some(size) = metadata.flatten() {
            let path = metadata_path;
            step(|| format!("fallocate -l {size} {}", quote(&path)));
            let file = OpenOptions::new().write(true).open(&path).context("open", &path)?;
            rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, size).context("allocate", &path)?;
            file.sync_all().context("sync", &path)?;
        }
        Ok(())
    }

    /// Tells the kernel how large everything is now.
    fn show(&self, pool: &KernelPool) -> Result<()> {
        if let PoolDevices::LoopFiles { .. } = self.devices {
            for path in [self.data_path(), self.metadata_path()] {
                if let Some(device) = loops::find(&path)? {
                    loops::refresh_size(&device)?;
                }
            }
        }
        let name = pool.name();
        let mut table = pool.control().table(&name)?;
        table.sectors = self.data_sectors()?;
        pool.control().reload(&name, &table)
    }
}

/// How large the data should be, bytes, so that so many are free above the floor; none where they are.
fn goal(status: &PoolStatus, wanted: u64) -> Option<u64> {
    let (used, total) = (
        status.data_used.saturating_mul(BLOCK),
        status.data_total.saturating_mul(BLOCK),
    );
    let spare = total.saturating_sub(used).checked_sub(floor_of(total));
    if !is_low(used, total) && spare.is_some_and(|spare| spare >= wanted) {
        return None;
    }
    // A quarter more than what is needed: a tenth of it is free then, whatever the floor.
    let needed = used.saturating_add(wanted);
    Some(needed.saturating_add(needed / 4).max(total.saturating_mul(2)))
}

fn is_metadata_low(status: &PoolStatus) -> bool {
    is_low(status.metadata_used, status.metadata_total)
}

fn is_low(used: u64, total: u64) -> bool {
    total.saturating_sub(used) < total / FLOOR
}

fn require_free(status: &PoolStatus, name: &str) -> Result<()> {
    let full = |what: &str, used: u64, total: u64| {
        Error::new(
            Kind::NoSpace,
            format!("the pool {name} is nearly full: {used} of {total} {what} blocks are used"),
        )
        .hinted("plywood rm, rmi and gc free space; plywood pool grow adds some")
    };
    if is_low(status.data_used, status.data_total) {
        return Err(full("data", status.data_used, status.data_total));
    }
    if is_low(status.metadata_used, status.metadata_total) {
        return Err(full("metadata", status.metadata_used, status.metadata_total));
    }
    Ok(())
}

/// The size that a file is to have; none where it has it already.
fn larger(path: &Path, size: u64) -> Result<Option<u64>> {
    let now = size_of_device(path)?;
    if size < now {
        return Err(Error::invalid(format!(
            "{} has {now} bytes already: a pool only grows",
            path.display()
        )));
    }
    Ok((size > now).then_some(size))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenth_free_is_the_floor() {
        assert!(!is_low(90, 100));
        assert!(is_low(91, 100));
        assert!(!is_low(0, 5));
    }

    #[test]
    fn data_that_are_low_are_doubled_or_have_what_is_wanted() {
        let goal = |data: &str, wanted| {
            let line = format!("5 60/4096 {data} - rw discard_passdown error_if_no_space - 1024");
            goal(&line.parse().unwrap(), wanted)
        };
        // 192 MiB, whose floor is 9.6.
        assert_eq!(goal("1000/3072", 0), None);
        assert_eq!(goal("1000/3072", 100 * MIB), None);
        assert_eq!(goal("1000/3072", 121 * MIB), Some(384 * MIB));
        assert_eq!(goal("2800/3072", 0), Some(384 * MIB));
        assert_eq!(goal("3072/3072", 0), Some(384 * MIB));
        let needed = (192 + 400) * MIB;
        assert_eq!(goal("3072/3072", 400 * MIB), Some(needed + needed / 4));
    }
}
