//! A classic snapshot over a file that holds a filesystem, without any pool.
//!
//! ```text
//! FILE -> loop -> real (linear) -> base (snapshot-origin)
//! COW  -> loop -> store (linear) -> top (snapshot of real, exceptions in store)
//! ```
//!
//! [`super::classic`] has the sequence. The devices are named after the file's
//! inode, so that whoever comes next finds what a killed command left.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::dm::classic::{Device, Snapshot, store_sectors};
use crate::dm::control::{Control, node_of};
use crate::dm::loops;
use crate::dm::name::node;
use crate::dm::table::{Table, Target};
use crate::error::{Context, Error, Kind, Result, both, undone};
use crate::explain::{quote, step};

/// Bytes of a sector of device-mapper's.
const SECTOR: u64 = 512;

/// A file's snapshot in the kernel.
#[derive(Debug)]
pub struct Plain {
    control: Control,
    real: Device,
    store: Device,
    snapshot: Snapshot,
}

impl Plain {
    /// Makes the devices over `file`, whose exceptions go to `cow`, a new file or one of an earlier time.
    /// What a killed command left of them is removed first.
    ///
    /// # Errors
    /// In use where somebody has the file's devices, or one of the files on a loop device; the kernel's.
    pub fn attach(file: &Path, cow: &Path) -> Result<Self> {
        let plain = Self::of(file)?;
        plain.remove_unused()?;
        make_store(cow, store_sectors(plain.snapshot.sectors) * SECTOR)?;
        let made = plain
            .linear(&plain.real, file, "ORIGIN", plain.snapshot.sectors)
            .and_then(|()| plain.linear(&plain.store, cow, "COW", store_sectors(plain.snapshot.sectors)))
            .and_then(|()| plain.snapshot.attach(&plain.control));
        match made {
            Ok(()) => Ok(plain),
            Err(error) => Err(undone(error, plain.remove_unused())),
        }
    }

    /// Folds what is left in `cow` into `file`, and takes the devices away.
    ///
    /// # Errors
    /// As for [`Plain::attach`] and [`Plain::merge`].
    pub fn finish_merge(file: &Path, cow: &Path, progress: &mut dyn FnMut(u64, u64)) -> Result<()> {
        let plain = Self::of(file)?;
        plain.remove_unused()?;
        let merged = plain
            .linear(&plain.real, file, "ORIGIN", plain.snapshot.sectors)
            .and_then(|()| plain.linear(&plain.store, cow, "COW", store_sectors(plain.snapshot.sectors)))
            .and_then(|()| plain.merge(progress));
        both(merged, plain.detach())
    }

    /// The device that is written to.
    ///
    /// # Errors
    /// Where it has no node.
    pub fn device(&self) -> Result<PathBuf> {
        node_of(&self.control, &self.snapshot.top.name)
    }

    /// Refuses a store that the kernel has given up.
    ///
    /// # Errors
    /// Corrupt or no space.
    pub fn require_whole(&self) -> Result<()> {
        let status = self.snapshot.status(&self.control, &self.snapshot.top)?;
        status.require(&self.snapshot.top.name).map(drop)
    }

    /// Folds what was written into the file. Nobody has it mounted.
    ///
    /// # Errors
    /// As for [`Snapshot::merge`].
    pub fn merge(&self, progress: &mut dyn FnMut(u64, u64)) -> Result<()> {
        self.snapshot.merge(&self.control, &mut |left, all| {
            progress(left, all);
            Ok(())
        })
    }

    /// Takes the devices away; the files stay.
    ///
    /// # Errors
    /// In use.
    pub fn detach(&self) -> Result<()> {
        self.snapshot.detach(&self.control)?;
        for device in [&self.store, &self.real] {
            if self.control.info(&device.name)?.is_some() {
                self.control.remove(&device.name)?;
            }
        }
        Ok(())
    }

    fn of(file: &Path) -> Result<Self> {
        let about = std::fs::metadata(file).context("look at", file)?;
        let named = |part: &str| Device {
            name: format!("plywood-try-{:x}-{:x}-{part}", about.dev(), about.ino()),
            uuid: format!("PLYWOOD-try-{:x}-{:x}-{part}", about.dev(), about.ino()),
        };
        let (real, store) = (named("real"), named("store"));
        let snapshot = Snapshot {
            top: named("top"),
            base: named("base"),
            real: node(&real.name),
            store: node(&store.name),
            sectors: about.len() / SECTOR,
        };
        Ok(Self {
            control: Control::open()?,
            real,
            store,
            snapshot,
        })
    }

    fn remove_unused(&self) -> Result<()> {
        for device in [&self.snapshot.top, &self.snapshot.base, &self.store, &self.real] {
            match self.control.info(&device.name)? {
                Some(info) if info.open_count > 0 => {
                    return Err(
                        Error::new(Kind::InUse, format!("the device {} is in use", device.name)).hinted(format!(
                            "what uses it: dmsetup ls --tree, findmnt {}",
                            node(&device.name).display()
                        )),
                    );
                }
                Some(_) => self.control.remove(&device.name)?,
                None => {}
            }
        }
        Ok(())
    }

    /// A file as a device of device-mapper's, which keeps its loop device until it goes.
    fn linear(&self, device: &Device, file: &Path, variable: &str, sectors: u64) -> Result<()> {
        let attached = loops::attach(file, variable)?;
        let table = |below: &Path| Table {
            start: 0,
            sectors,
            target: Target::Linear {
                device: below.display().to_string(),
                offset: 0,
            },
        };
        step(|| {
            let shown = table(Path::new(&format!("${variable}")));
            format!(
                "dmsetup create {} --uuid {} --table \"{shown}\"",
                quote(&device.name),
                quote(&device.uuid)
            )
        });
        self.control
            .create_unexplained(&device.name, &device.uuid, &table(&attached.path), false)?;
        step(|| format!("losetup --detach ${variable}    # for when {} goes", device.name));
        Ok(())
    }
}

/// An exception store of so many bytes, sparse: new, or as it is.
fn make_store(cow: &Path, size: u64) -> Result<()> {
    step(|| format!("truncate -s {size} {}", quote(cow)));
    let file: File = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(cow)
        .context("make", cow)?;
    let about = file.metadata().context("look at", cow)?;
    match about.len() {
        _ if !about.is_file() => Err(Error::invalid(format!("{} is no file", cow.display()))),
        0 => file
            .set_len(size)
            .and_then(|()| file.sync_all())
            .context("enlarge", cow),
        there if there == size => Ok(()),
        there => Err(Error::invalid(format!(
            "{} has {there} bytes: the exception store for this file has {size}",
            cow.display()
        ))
        .hinted("name another file for it, or the one that was kept for this very file")),
    }
}
