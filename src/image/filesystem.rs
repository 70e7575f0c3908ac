//! An image as an ext4 filesystem in a file, and the mark that tells such a file from others.
//!
//! The mark is an extended attribute of the file's, of the kind that only root can
//! set: whoever can forge it can mount what they like without it. What is copied
//! without its attributes is nobody's work until somebody vouches for it.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use plywood_store::layer::diff::{Everything, Options, write_layer};
use rustix::fs::XattrFlags;
use rustix::io::Errno;

use super::unpack::unpack;
use super::whole;
use crate::dm::ext4;
use crate::dm::loops;
use crate::dm::volume::Mode;
use crate::error::{Context, Error, Kind, Result, both};
use crate::explain::{quote, step};
use crate::snapshot::Mounted;

/// The attribute's name.
pub const MARK: &str = "trusted.plywood.ext4";
const MIB: u64 = 1 << 20;
/// Bytes below which the journal has no room.
const SIZE_LEAST: u64 = 64 * MIB;

/// What the mark of a file says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// It can be mounted.
    Whole,
    /// Changes are being folded into it: it cannot be used before that has ended.
    Merging,
}

/// Reads the mark of a file; none where it has none.
///
/// # Errors
/// The operating system's.
pub fn mark(file: &File) -> std::io::Result<Option<Mark>> {
    let mut value = [0; 16];
    match rustix::fs::fgetxattr(file, MARK, &mut value) {
        Ok(length) => Ok(match value.get(..length) {
            Some(b"whole") => Some(Mark::Whole),
            Some(b"merging") => Some(Mark::Merging),
            _ => None,
        }),
        Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::RANGE) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Marks a file, durably.
///
/// # Errors
/// The operating system's; unsupported where the filesystem keeps no attributes.
pub fn set_mark(file: &File, mark: Mark) -> std::io::Result<()> {
    let value: &[u8] = match mark {
        Mark::Whole => b"whole",
        Mark::Merging => b"merging",
    };
    rustix::fs::fsetxattr(file, MARK, value, XattrFlags::empty())?;
    file.sync_all()
}

/// What a filesystem of an image with so many bytes of layers has room for, with as much again for what comes.
pub fn default_size(layers: u64) -> u64 {
    (layers.saturating_mul(2).saturating_add(128 * MIB)).div_ceil(MIB) * MIB
}

/// Makes `target` a file of `size` bytes with an ext4 filesystem that holds `tree`; `mounts` is a folder for the
/// mount point. It appears whole, or not at all. False where it could not be marked.
///
/// # Errors
/// No space where the tree does not fit; the formatter's; I/O.
pub fn write(tree: &Mounted, target: &Path, size: u64, mounts: &Path, passed: &(dyn Fn(u64) + Sync)) -> Result<bool> {
    if size < SIZE_LEAST {
        return Err(Error::invalid(format!(
            "a filesystem of {size} bytes is too small: --size takes 64M and more"
        )));
    }
    let mut marked = true;
    whole::to_named_file(target, |at| {
        step(|| format!("truncate -s {size} {}", quote(at)));
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NOFOLLOW)
            .open(at)
            .context("open", at)?;
        file.set_len(size).context("enlarge", at)?;
        ext4::format(at)?;
        fill(tree, at, mounts, passed).map_err(|error| match error.kind() {
            Kind::NoSpace => Error::invalid(format!("the image does not fit into a filesystem of {size} bytes"))
                .caused_by(error)
                .hinted("--size takes more"),
            _ => error,
        })?;
        step(|| format!("setfattr -n {MARK} -v whole {}", quote(at)));
        match set_mark(&file, Mark::Whole) {
            Err(error) if error.kind() == std::io::ErrorKind::Unsupported => marked = false,
            done => done.context("mark", at)?,
        }
        Ok(())
    })?;
    Ok(marked)
}

fn fill(tree: &Mounted, at: &Path, mounts: &Path, passed: &(dyn Fn(u64) + Sync)) -> Result<()> {
    let device = loops::attach(at, "DEVICE")?;
    let point = tempfile::tempdir_in(mounts).context("make a folder in", mounts)?;
    ext4::mount(&device.path, point.path(), Mode::ReadWrite)?;
    let dir = File::open(point.path()).context("open", point.path());
    let dir = match dir {
        Ok(dir) => dir,
        Err(error) => return both(Err(error), ext4::unmount(point.path())),
    };
    let path: PathBuf = point.path().to_owned();
    let watch = dir.try_clone().context("open", point.path())?;
    let mounted = Mounted::new(path.clone(), dir.into(), move || {
        let synced = rustix::fs::syncfs(&watch).context("sync", &path);
        drop(watch);
        both(synced, ext4::unmount(&path))
    });
    let filled = ext4::empty(mounted.path()).and_then(|()| copy(tree, &mounted, passed));
    both(filled, mounted.close())
}

/// One tree into another, as a layer's tar would bring it.
fn copy(tree: &Mounted, into: &Mounted, passed: &(dyn Fn(u64) + Sync)) -> Result<()> {
    let (mut reader, writer) = std::io::pipe().context("make", "a pipe")?;
    let from = tree.dir();
    std::thread::scope(|threads| {
        let written = threads.spawn(move || {
            let mut out = Counting { inner: writer, passed };
            write_layer(None, &from, &Everything, &Options::default(), &mut out).map(drop)
        });
        let unpacked = unpack(into, &mut reader, Path::new("the image's tree")).map(drop);
        // Without its reader the writer ends.
        drop(reader);
        let written = written
            .join()
            .unwrap_or_else(|_| Err(Error::corrupt("reading the image's tree failed")));
        unpacked.and(written)
    })
}

struct Counting<'a> {
    inner: std::io::PipeWriter,
    passed: &'a (dyn Fn(u64) + Sync),
}

impl std::io::Write for Counting<'_> {
    fn write(&mut self, buffer: &[u8]) -> std::io::Result<usize> {
        let count = self.inner.write(buffer)?;
        (self.passed)(count as u64);
        Ok(count)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filesystem_has_room_for_more_than_its_tree() {
        assert_eq!(default_size(0), 128 * MIB);
        assert_eq!(default_size(100 * MIB + 1), 329 * MIB);
    }
}
