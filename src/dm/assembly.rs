//! From files or block devices to a running pool, and back.
//!
//! A pool is made once and then only put together again: metadata that is not
//! zero is never overwritten, and a root that has a pool's record but no
//! metadata is an error, not a fresh start. Every function here is called under
//! the store's exclusive lock.

use std::path::{Path, PathBuf};

use plywood_store::Store;
use plywood_store::lock::Exclusive;
use plywood_store::record::{POOL_KEY, PoolDevices, PoolRecord};

use crate::dm::classic::Status;
use crate::dm::control::{Control, node_of};
use crate::dm::devices;
use crate::dm::kernel::KernelPool;
use crate::dm::name::Names;
use crate::dm::pool::{ThinId, ThinPool};
use crate::dm::repair;
use crate::dm::status::{Need, PoolStatus};
use crate::dm::underlay::{BLOCK, BLOCK_SECTORS, METADATA_MOST, Underlay, head_of};
use crate::dm::volume::Volumes;
use crate::error::{Error, Kind, Result, undone};
use crate::explain::quote;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
/// What a pool holds unless somebody says otherwise, bytes.
pub const DATA_SIZE: u64 = 100 * GIB;
/// What a volume holds unless somebody says otherwise, bytes.
pub const VOLUME_SIZE: u64 = 10 * GIB;
/// The magic number of a pool's superblock, at byte 32 (`drivers/md/dm-thin-metadata.c`).
const THIN_MAGIC: [u8; 8] = 27_022_010_u64.to_le_bytes();

/// What `pool init` can be told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// Bytes of data.
    pub data_size: Option<u64>,
    /// Bytes up to which the data file grows by itself.
    pub limit: Option<u64>,
    /// Bytes of metadata.
    pub metadata_size: Option<u64>,
    /// Block devices instead of files: data and metadata.
    pub devices: Option<(PathBuf, PathBuf)>,
    /// Bytes that a volume can hold.
    pub volume_size: Option<u64>,
}

impl Options {
    /// Refuses what no pool can be made of.
    ///
    /// # Errors
    /// Invalid.
    pub fn check(&self) -> Result<()> {
        match plan(self)?.devices {
            PoolDevices::LoopFiles { data_limit, .. } => self.metadata(data_limit).map(drop),
            PoolDevices::Block { .. } => Ok(()),
        }
    }

    /// Bytes of metadata for these bytes of data.
    fn metadata(&self, data: u64) -> Result<u64> {
        let metadata = self.metadata_size.unwrap_or_else(|| metadata_size(data));
        if !(2 * MIB..=METADATA_MOST).contains(&metadata) {
            return Err(Error::invalid("a pool's metadata are 2 MiB to 15 GiB"));
        }
        Ok(metadata / 4096 * 4096)
    }
}

/// Opens the root's pool, putting it together where it is not in the kernel, making it where there never was one.
///
/// # Errors
/// Where that is impossible; nothing is left half made.
pub fn open(store: &Store, lock: &Exclusive) -> Result<KernelPool> {
    repair::refuse_unfinished(store, lock)?;
    let Some(record) = store.pool.get(POOL_KEY)? else {
        return create(store, lock, &Options::default());
    };
    let pool = assemble(store, &record, false)?;
    pool.finish_growth()?;
    Ok(pool)
}

/// Opens the recorded pool whatever a repair has left to do: to look at it, to take it out, and to go on.
///
/// # Errors
/// Not found where there never was one.
pub fn reopen(store: &Store, _lock: &Exclusive) -> Result<KernelPool> {
    let record = store.pool.get(POOL_KEY)?;
    let record = record.ok_or_else(|| Error::not_found(format!("{} has no pool", store.root().display())))?;
    assemble(store, &record, false)
}

/// Makes the recorded pool afresh, over metadata that are empty on purpose.
pub(super) fn renew(store: &Store, _lock: &Exclusive, record: &PoolRecord) -> Result<KernelPool> {
    assemble(store, record, true)
}

/// Makes the pool that the options describe; false where it was there already.
///
/// # Errors
/// Exists where a pool of another shape is there.
pub fn init(store: &Store, lock: &Exclusive, options: &Options) -> Result<(KernelPool, bool)> {
    let Some(record) = store.pool.get(POOL_KEY)? else {
        return Ok((create(store, lock, options)?, true));
    };
    let wanted = plan(options)?;
    let same_devices = match (&record.devices, &wanted.devices) {
        (
            PoolDevices::LoopFiles { data_limit, grows_to },
            PoolDevices::LoopFiles {
                data_limit: size,
                grows_to: limit,
            },
        ) => (options.data_size.is_none() || data_limit == size) && (limit.is_none() || grows_to == limit),
        (PoolDevices::Block { .. }, PoolDevices::LoopFiles { .. }) => {
            options.data_size.is_none() && options.limit.is_none()
        }
        (there, wanted) => there == wanted,
    };
    let same_volumes = options.volume_size.is_none() || record.volume_size == wanted.volume_size;
    if !(same_devices && same_volumes) {
        return Err(Error::new(
            Kind::Exists,
            format!("{} has a pool already, of another shape", store.root().display()),
        )
        .hinted("plywood pool status shows it; plywood pool grow enlarges it; another --root takes another pool"));
    }
    Ok((assemble(store, &record, false)?, false))
}

/// Takes the pool out of the kernel, with the volumes that nobody uses; false where it was not there.
///
/// # Errors
/// In use where a volume is active.
pub fn detach(store: &Store, lock: &Exclusive) -> Result<bool> {
    if !is_attached(store)? {
        return Ok(false);
    }
    let pool = reopen(store, lock)?;
    pool.sweep()?;
    let active = pool.active_volumes()?;
    if !active.is_empty() {
        return Err(Error::new(
            Kind::InUse,
            format!("the pool {} has volumes in use: {}", pool.name(), active.join(", ")),
        )
        .hinted("end the containers (plywood ps) and undo the mounts (plywood umount) first"));
    }
    pool.control().remove(&pool.name())?;
    Ok(true)
}

/// Whether the root's pool is in the kernel now.
///
/// # Errors
/// The kernel's.
pub fn is_attached(store: &Store) -> Result<bool> {
    Ok(Control::open()?.info(&pool_name(store))?.is_some())
}

/// The name of the root's pool in the kernel.
pub fn pool_name(store: &Store) -> String {
    Names::of_root(&store.meta().uuid).pool()
}

/// What is wrong with the root's pool in the kernel, and as its hint the way out; none where nothing is, or the pool
/// is not there. It is asked by name: the pool is as it was.
///
/// # Errors
/// The kernel's.
pub fn trouble(store: &Store) -> Result<Option<Error>> {
    let (control, name) = (Control::open()?, pool_name(store));
    if control.info(&name)?.is_none() {
        return Ok(None);
    }
    let status: PoolStatus = control.status(&name)?.parse()?;
    Ok(status.require(Need::Space, &name).err())
}

/// What the kernel says of the exception store in this volume, or of a merge into it; none where neither is in
/// use. It is asked by name: the pool is as it was.
///
/// # Errors
/// The kernel's.
pub fn store_status(store: &Store, id: ThinId) -> Result<Option<Status>> {
    devices::status_of_store(&Control::open()?, &Names::of_root(&store.meta().uuid), id)
}

/// Checks the metadata with `thin_check`, which wants the pool out of the kernel for the moment.
///
/// # Errors
/// In use; corrupt, with what `thin_check` says.
pub fn check(store: &Store, lock: &Exclusive) -> Result<()> {
    let under = recorded(store)?;
    detach(store, lock)?;
    under.require_free()?;
    let metadata = under.metadata_path();
    if let Some(said) = repair::damage_of(&metadata)? {
        return Err(
            Error::corrupt(format!("the pool's metadata {} is damaged: {said}", metadata.display()))
                .hinted("plywood pool repair repairs them, and what stands on them"),
        );
    }
    if repair::needs_check(&metadata)? {
        return Err(Error::corrupt(format!(
            "the pool's metadata {} is whole, but the kernel saw an error and wants that acknowledged",
            metadata.display()
        ))
        .hinted("plywood pool repair does it, and looks at every layer and container"));
    }
    Ok(())
}

/// Gives the disk back what the data file holds of blocks that no volume has; the pool has to be out of the
/// kernel for the moment. Gives the number of bytes.
///
/// # Errors
/// In use; invalid for a pool on block devices of the user's; corrupt where the metadata cannot be read.
pub fn trim(store: &Store, lock: &Exclusive) -> Result<u64> {
    let under = recorded(store)?;
    if matches!(under.devices, PoolDevices::Block { .. }) {
        return Err(Error::invalid(
            "the pool lies on block devices: there is no disk to give space back to",
        ));
    }
    detach(store, lock)?;
    under.punch_free()
}

/// What the pool of this root's record lies on.
pub(super) fn recorded(store: &Store) -> Result<Underlay> {
    match store.pool.get(POOL_KEY)? {
        Some(record) => Underlay::of(store, &record),
        None => Err(Error::not_found(format!("{} has no pool", store.root().display()))),
    }
}

fn plan(options: &Options) -> Result<PoolRecord> {
    let volume_size = options.volume_size.unwrap_or(VOLUME_SIZE) / 4096 * 4096;
    if volume_size < 128 * MIB {
        return Err(Error::invalid("a volume holds at least 128 MiB"));
    }
    let devices = match &options.devices {
        Some((data, metadata)) => PoolDevices::Block {
            data: data.clone(),
            metadata: metadata.clone(),
        },
        None => {
            let data_limit = options.data_size.unwrap_or(DATA_SIZE) / BLOCK * BLOCK;
            if data_limit < 64 * MIB {
                return Err(Error::invalid("a pool's data are at least 64 MiB"));
            }
            let grows_to = options.limit.map(|limit| limit / BLOCK * BLOCK);
            if grows_to.is_some_and(|limit| limit < data_limit) {
                return Err(Error::invalid(format!(
                    "the data file has {} MiB from the beginning: its limit cannot be less",
                    data_limit / MIB
                )));
            }
            PoolDevices::LoopFiles { data_limit, grows_to }
        }
    };
    Ok(PoolRecord {
        transaction_id: 0,
        golden: None,
        volume_size,
        block_sectors: BLOCK_SECTORS,
        devices,
    })
}

/// Twice what the kernel's rule of 48 bytes for each block says: snapshots and shared blocks take more.
fn metadata_size(data: u64) -> u64 {
    let rule = (data / BLOCK).saturating_mul(2 * 48);
    rule.next_multiple_of(MIB).clamp(16 * MIB, METADATA_MOST)
}

fn create(store: &Store, lock: &Exclusive, options: &Options) -> Result<KernelPool> {
    let record = plan(options)?;
    let under = Underlay::of(store, &record)?;
    match &record.devices {
        PoolDevices::LoopFiles { data_limit, .. } => {
            under.make_files(*data_limit, options.metadata(*data_limit)?)?;
        }
        PoolDevices::Block { data, metadata } => refuse_foreign(data, metadata)?,
    }
    let pool = assemble(store, &record, true)?;
    let recorded = require_new(&pool).and_then(|()| store.pool.put(lock, &record));
    match recorded {
        Ok(()) => Ok(pool),
        Err(error) => Err(undone(error, pool.control().remove(&pool.name()))),
    }
}

/// A command that was killed before it wrote the record leaves an empty pool, which is taken up. Nothing else is.
fn require_new(pool: &KernelPool) -> Result<()> {
    let status = pool.status()?;
    status.require(Need::Space, &pool.name())?;
    if status.transaction_id == 0 && status.data_used == 0 {
        return Ok(());
    }
    Err(Error::new(
        Kind::Exists,
        format!("there is a pool that this root has no record of (status: {status})"),
    )
    .hinted("it is not overwritten; move its data and metadata away, or bring the root's records back"))
}

/// Block devices that hold something are not ours to overwrite.
fn refuse_foreign(data: &Path, metadata: &Path) -> Result<()> {
    let head = head_of(metadata)?;
    if head.get(32..40) == Some(THIN_MAGIC.as_slice()) {
        return Ok(());
    }
    refuse_filled(metadata, head)?;
    refuse_filled(data, head_of(data)?)
}

pub(super) fn refuse_filled(device: &Path, head: [u8; 4096]) -> Result<()> {
    if head.iter().all(|byte| *byte == 0) {
        return Ok(());
    }
    Err(
        Error::new(Kind::Exists, format!("{} is not empty", device.display())).hinted(format!(
            "if nobody needs what it holds: blkdiscard -z --length 1M {}",
            quote(device)
        )),
    )
}

fn assemble(store: &Store, record: &PoolRecord, new: bool) -> Result<KernelPool> {
    let control = Control::open()?;
    let names = Names::of_root(&store.meta().uuid);
    let under = Underlay::of(store, record)?;
    match control.info(&names.pool())? {
        // Half made by a command that was killed: only the exclusive lock's holder makes one.
        Some(info) if !info.has_table && info.uuid.as_deref() == Some(names.pool_uuid().as_str()) => {
            control.remove(&names.pool())?;
            under.load(&control, &names, record, new)?;
        }
        Some(info) => {
            under.require_ours(&control.table(&names.pool())?, &names.pool())?;
            if info.suspended {
                control.resume(&names.pool())?;
            }
            node_of(&control, &names.pool())?;
        }
        None => under.load(&control, &names, record, new)?,
    }
    let locks = store.folder("pool/volumes")?;
    let mounts = store.folder("mnt")?;
    Ok(KernelPool::new(
        control,
        names,
        under,
        locks,
        mounts,
        record.volume_size,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_is_twice_the_kernels_rule_within_bounds() {
        assert_eq!(metadata_size(64 * MIB), 16 * MIB);
        assert_eq!(metadata_size(100 * GIB), 150 * MIB);
        assert_eq!(metadata_size(u64::MAX), METADATA_MOST);
    }

    #[test]
    fn sizes_that_cannot_work_are_refused() {
        for options in [
            Options {
                data_size: Some(MIB),
                ..Options::default()
            },
            Options {
                volume_size: Some(MIB),
                ..Options::default()
            },
            Options {
                metadata_size: Some(MIB),
                ..Options::default()
            },
            Options {
                data_size: Some(128 * MIB),
                limit: Some(127 * MIB),
                ..Options::default()
            },
        ] {
            assert_eq!(options.check().unwrap_err().kind(), Kind::Invalid);
        }
    }
}
