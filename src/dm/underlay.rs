//! What a pool lies on: files on loop devices, or block devices of the user's.
//!
//! ```text
//! ROOT/pool/data        sparse: it costs what is written
//! ROOT/pool/metadata    allocated in full: on a sparse one a full disk would break the pool
//! ROOT/pool/volumes/    the locks of the volumes
//! ```
//!
//! Makes the files and puts the pool's table over them; how they grow is told in
//! [`crate::dm::growth`]. Metadata that is empty where a pool is recorded is an error,
//! not a fresh start.

use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use plywood_store::Store;
use plywood_store::record::{PoolDevices, PoolRecord};
use rustix::fs::FallocateFlags;

use crate::dm::control::Control;
use crate::dm::loops;
use crate::dm::mappings::Mappings;
use crate::dm::name::Names;
use crate::dm::pool::ThinId;
use crate::dm::program::Program;
use crate::dm::table::{Table, Target, ThinPoolTarget};
use crate::dm::volume::Part;
use crate::error::{Context, Error, Kind, Result};
use crate::explain::{quote, step};

/// Sectors per block: 64 KiB, the smallest that the kernel takes, shares the most.
pub(super) const BLOCK_SECTORS: u32 = 128;
/// The same in bytes.
pub(super) const BLOCK: u64 = 512 * BLOCK_SECTORS as u64;
/// The kernel uses no more metadata than this.
pub(super) const METADATA_MOST: u64 = 15 << 30;

/// What a pool lies on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Underlay {
    /// `ROOT/pool`.
    pub(super) folder: PathBuf,
    pub(super) devices: PoolDevices,
}

impl Underlay {
    pub(super) fn of(store: &Store, record: &PoolRecord) -> Result<Self> {
        Ok(Self {
            folder: store.folder("pool")?,
            devices: record.devices.clone(),
        })
    }

    pub(super) fn data_path(&self) -> PathBuf {
        match &self.devices {
            PoolDevices::LoopFiles { .. } => self.folder.join("data"),
            PoolDevices::Block { data, .. } => data.clone(),
        }
    }

    pub(super) fn metadata_path(&self) -> PathBuf {
        match &self.devices {
            PoolDevices::LoopFiles { .. } => self.folder.join("metadata"),
            PoolDevices::Block { metadata, .. } => metadata.clone(),
        }
    }

    /// Refuses files that a loop device has.
    ///
    /// # Errors
    /// In use.
    pub(super) fn require_free(&self) -> Result<()> {
        if let PoolDevices::LoopFiles { .. } = self.devices {
            loops::require_detached(&self.metadata_path())?;
            loops::require_detached(&self.data_path())?;
        }
        Ok(())
    }

    /// What metadata are repaired into, where they are in a file.
    pub(super) fn spare_path(&self) -> PathBuf {
        self.folder.join("metadata.spare")
    }

    pub(super) fn make_files(&self, data: u64, metadata: u64) -> Result<()> {
        let path = self.metadata_path();
        step(|| {
            format!(
                "mkdir -p {} && fallocate -l {metadata} {}",
                quote(&self.folder),
                quote(&path)
            )
        });
        let file = private_file(&path)?;
        rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, metadata).context("allocate", &path)?;
        file.sync_all().context("sync", &path)?;
        let path = self.data_path();
        step(|| format!("truncate -s {data} {}", quote(&path)));
        let file = private_file(&path)?;
        file.set_len(data).context("enlarge", &path)?;
        file.sync_all().context("sync", &path)?;
        File::open(&self.folder)
            .and_then(|folder| folder.sync_all())
            .context("sync", &self.folder)
    }

    /// Puts the pool into the kernel.
    pub(super) fn load(&self, control: &Control, names: &Names, record: &PoolRecord, new: bool) -> Result<()> {
        let metadata = self.metadata_path();
        if !new && head_of(&metadata)?.iter().all(|byte| *byte == 0) {
            return Err(Error::corrupt(format!("{} is empty, but this root has a pool", metadata.display()))
                .hinted("bring the file back from where it went; plywood does not make a new pool over the records of an old one"));
        }
        let sectors = self.data_sectors()?;
        let (name, uuid) = (names.pool(), names.pool_uuid());
        let table = |metadata: &Path, data: &Path| {
            let target = ThinPoolTarget::new(
                metadata.display().to_string(),
                data.display().to_string(),
                record.block_sectors,
            );
            Table {
                start: 0,
                sectors,
                target: Target::ThinPool(target),
            }
        };
        match &self.devices {
            PoolDevices::Block { data, metadata } => control
                .create(&name, &uuid, &table(metadata, data), false)
                .map_err(unloadable),
            PoolDevices::LoopFiles { .. } => {
                let meta = loops::attach(&metadata, "META")?;
                let data = loops::attach(&self.data_path(), "DATA")?;
                step(|| {
                    let shown = table(Path::new("$META"), Path::new("$DATA"));
                    format!(
                        "dmsetup create {} --uuid {} --table \"{shown}\"",
                        quote(&name),
                        quote(&uuid)
                    )
                });
                control
                    .create_unexplained(&name, &uuid, &table(&meta.path, &data.path), false)
                    .map_err(unloadable)?;
                // Autoclear: from here on the pool's table alone holds them.
                step(|| "losetup --detach $META $DATA    # for when the pool lets go of them".to_owned());
                Ok(())
            }
        }
    }

    /// Refuses a pool of this name that lies on other files: the root was copied while its pool was in the kernel.
    pub(super) fn require_ours(&self, table: &Table, name: &str) -> Result<()> {
        let Target::ThinPool(pool) = &table.target else {
            return Err(
                Error::new(Kind::InUse, format!("the device {name} is not a pool: {table}")).hinted(format!(
                    "somebody put another table into it: dmsetup remove {name}, and the next use brings the pool back"
                )),
            );
        };
        for (path, device) in [(self.metadata_path(), &pool.metadata), (self.data_path(), &pool.data)] {
            let below = self.device_of(&path)?;
            let number = match &below {
                Some(below) => Some(number_of(below)?),
                None => None,
            };
            if number.as_ref() != Some(device) {
                return Err(Error::new(
                    Kind::InUse,
                    format!(
                        "the pool {name} is in the kernel already, but not on {}",
                        path.display()
                    ),
                )
                .hinted("this root is a copy of one whose pool is in use: plywood --root ORIGINAL pool detach"));
            }
        }
        Ok(())
    }

    fn device_of(&self, path: &Path) -> Result<Option<PathBuf>> {
        match &self.devices {
            PoolDevices::LoopFiles { .. } => loops::find(path),
            PoolDevices::Block { .. } => Ok(Some(path.to_owned())),
        }
    }

    pub(super) fn data_sectors(&self) -> Result<u64> {
        let bytes = size_of_device(&self.data_path())?;
        Ok(bytes / BLOCK * u64::from(BLOCK_SECTORS))
    }

    /// What the pool lies on, data first.
    ///
    /// # Errors
    /// The operating system's.
    pub fn describe(&self) -> Result<Vec<Part>> {
        let mut parts = Vec::new();
        for (path, what) in [(self.data_path(), "data"), (self.metadata_path(), "metadata")] {
            match &self.devices {
                PoolDevices::Block { .. } => parts.push(Part::new("device", path.display().to_string()).with(what)),
                PoolDevices::LoopFiles { .. } => {
                    if let Some(device) = loops::find(&path)? {
                        parts.push(Part::new("loop", device.display().to_string()).with(what));
                    }
                    let allocated = std::fs::metadata(&path)
                        .context("look at", &path)?
                        .blocks()
                        .saturating_mul(512);
                    parts.push(
                        Part::new("file", path.display().to_string())
                            .with(format!("{what}, {allocated} bytes allocated")),
                    );
                }
            }
        }
        Ok(parts)
    }

    /// The device that has the metadata of the pool in use.
    ///
    /// # Errors
    /// Not found where it is not attached.
    pub(super) fn metadata_device(&self) -> Result<PathBuf> {
        let path = self.metadata_path();
        let device = self.device_of(&path)?;
        device.ok_or_else(|| Error::not_found(format!("{} is not attached", path.display())))
    }

    /// The same as a shell finds it.
    pub(super) fn metadata_word(&self) -> String {
        let path = self.metadata_path();
        match &self.devices {
            PoolDevices::LoopFiles { .. } => {
                format!("$(losetup --noheadings --output NAME --associated {})", quote(&path))
            }
            PoolDevices::Block { .. } => quote(&path),
        }
    }

    /// The volumes in metadata that are at rest.
    pub(super) fn volumes_of(metadata: &Path) -> Result<Vec<ThinId>> {
        let words: [&std::ffi::OsStr; 4] = [
            "--no-headers".as_ref(),
            "--format".as_ref(),
            "DEV".as_ref(),
            metadata.as_os_str(),
        ];
        let listed = Program::ThinLs.run(&words)?;
        let ids = listed
            .split_ascii_whitespace()
            .map(|word| word.parse().ok().and_then(ThinId::new));
        ids.collect::<Option<_>>()
            .ok_or_else(|| Error::corrupt(format!("cannot read what thin_ls says: {listed:?}")))
    }

    /// Gives the disk back what the data file holds of blocks that no volume has. Gives the number of bytes.
    ///
    /// # Errors
    /// In use where a loop device has one of the files; corrupt where the metadata cannot be read.
    pub(super) fn punch_free(&self) -> Result<u64> {
        let (data, metadata) = (self.data_path(), self.metadata_path());
        self.require_free()?;
        let most = size_of_device(&data)? / BLOCK;
        let mappings = Program::ThinDump.read(&[&metadata], |dump| Mappings::read(dump, BLOCK_SECTORS, most))?;
        let before = allocated(&data)?;
        let file = OpenOptions::new().write(true).open(&data).context("open", &data)?;
        for run in mappings.free() {
            let (offset, length) = (run.start * BLOCK, (run.end - run.start) * BLOCK);
            step(|| {
                format!(
                    "fallocate --punch-hole --offset {offset} --length {length} {}",
                    quote(&data)
                )
            });
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            rustix::fs::fallocate(&file, flags, offset, length).context("punch holes into", &data)?;
        }
        Ok(before.saturating_sub(allocated(&data)?))
    }
}

/// The kernel takes no pool whose metadata it cannot read; what it says of a wrong checksum nobody would guess.
fn unloadable(error: Error) -> Error {
    let code = std::error::Error::source(&error)
        .and_then(|source| source.downcast_ref::<std::io::Error>())
        .and_then(std::io::Error::raw_os_error);
    match code {
        Some(libc::EILSEQ | libc::EINVAL | libc::EIO | libc::ENOTBLK | libc::ENODATA) => {
            Error::corrupt("the kernel does not take the pool: its metadata are damaged, or what it lies on is")
                .caused_by(error)
                .hinted("plywood pool check tells; plywood pool repair repairs the metadata")
        }
        _ => error,
    }
}

/// Bytes that a file has on its disk.
fn allocated(path: &Path) -> Result<u64> {
    Ok(std::fs::metadata(path)
        .context("look at", path)?
        .blocks()
        .saturating_mul(512))
}

/// A file's or device's length in bytes.
pub(super) fn size_of_device(path: &Path) -> Result<u64> {
    File::open(path)
        .and_then(|mut file| file.seek(SeekFrom::End(0)))
        .context("measure", path)
}

pub(super) fn private_file(path: &Path) -> Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .context("make", path)
}

fn number_of(device: &Path) -> Result<String> {
    let number = std::fs::metadata(device).context("look at", device)?.rdev();
    Ok(format!("{}:{}", rustix::fs::major(number), rustix::fs::minor(number)))
}

/// The first 4096 bytes of a file or device.
pub(super) fn head_of(device: &Path) -> Result<[u8; 4096]> {
    let mut head = [0; 4096];
    let file = File::open(device).context("open", device)?;
    file.read_exact_at(&mut head, 0).context("read", device)?;
    Ok(head)
}
