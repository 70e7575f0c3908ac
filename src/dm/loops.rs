//! Loop devices under the pool's files.
//!
//! Attached in one step with 4096-byte sectors, direct I/O where the file's
//! filesystem has it, and autoclear: the pool's table holds them, and removing
//! the pool frees them, also when nobody is left to do it.

use std::fs::{File, OpenOptions};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use loopdev::{LoopControl, LoopDevice};

use crate::error::{Context, Error, Kind, Result};
use crate::explain::{quote, step};
use crate::sys::loop_device::{backing, borrow, configure};

/// Sectors of the loop devices, bytes: what direct I/O needs on any disk.
const SECTOR: u32 = 4096;
/// How often a loop device may be taken by somebody else meanwhile.
const ATTEMPTS: u32 = 64;
/// How often, every 20 ms, a file is looked for that the kernel is just letting go of.
const PATIENCE: u32 = 25;

/// A loop device with its file. It stays as long as this or the pool's table holds it.
#[derive(Debug)]
pub struct Attached {
    _device: LoopDevice,
    /// `/dev/loop0`.
    pub path: PathBuf,
}

/// Attaches a file; `variable` names the device in the shell command for it.
///
/// # Errors
/// In use where a loop device has that file already; the kernel's.
pub fn attach(file: &Path, variable: &str) -> Result<Attached> {
    require_detached(file)?;
    step(|| {
        format!(
            "{variable}=$(losetup --find --show --direct-io=on --sector-size {SECTOR} {})",
            quote(file)
        )
    });
    let backing_file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(file)
        .context("open", file)?;
    let control = LoopControl::open().context("open", "/dev/loop-control")?;
    for _ in 0..ATTEMPTS {
        let device = control
            .next_free()
            .context("get a free loop device from", "/dev/loop-control")?;
        let path = device
            .path()
            .ok_or_else(|| Error::not_found("the new loop device has no node"))?;
        match configure(borrow(&device), backing_file.as_fd(), SECTOR) {
            Ok(()) => return Ok(Attached { _device: device, path }),
            // Another process was faster with this one.
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {}
            Err(error) => return Err(Error::io(&format!("attach {} to", file.display()), &path, error)),
        }
    }
    Err(Error::new(
        Kind::InUse,
        "every free loop device was taken by somebody else",
    ))
}

/// Refuses a file that a loop device has.
///
/// # Errors
/// In use.
pub fn require_detached(file: &Path) -> Result<()> {
    match find_lasting(file)? {
        None => Ok(()),
        Some(taken) => Err(Error::new(
            Kind::InUse,
            format!("{} is attached to {} already", file.display(), taken.display()),
        )
        .hinted(format!("if nothing uses it: losetup --detach {}", taken.display()))),
    }
}

/// The same as [`find`] after a moment: the kernel lets go of a file a little after its last user has.
fn find_lasting(file: &Path) -> Result<Option<PathBuf>> {
    for _ in 0..PATIENCE {
        if find(file)?.is_none() {
            return Ok(None);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    find(file)
}

/// The loop device that has this very file, wherever its name says it is.
///
/// # Errors
/// The operating system's.
pub fn find(file: &Path) -> Result<Option<PathBuf>> {
    let wanted = std::fs::metadata(file).context("look at", file)?;
    for entry in std::fs::read_dir("/sys/block").context("list", "/sys/block")?.flatten() {
        let name = entry.file_name();
        if !name.to_string_lossy().starts_with("loop") || !entry.path().join("loop").exists() {
            continue;
        }
        let path = Path::new("/dev").join(&name);
        let Ok(device) = File::open(&path) else { continue };
        if let Some(below) = backing(device.as_fd()).context("ask", &path)?
            && (below.device, below.inode) == (wanted.dev(), wanted.ino())
        {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

/// Tells a loop device that its file has grown.
///
/// # Errors
/// The kernel's.
pub fn refresh_size(device: &Path) -> Result<()> {
    step(|| format!("losetup --set-capacity {}", quote(device)));
    LoopDevice::open(device)
        .and_then(|device| device.set_capacity())
        .context("set the capacity of", device)
}
