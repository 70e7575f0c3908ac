//! An exception store that the kernel has given up, taken back.
//!
//! When a read or write of the store fails, the kernel writes `valid` = 0 into its
//! header and errors every access, for ever: also where only the pool below was full.
//! What had been written before is there still. Once the pool has room, the word is set
//! back; what the store then shows is what had reached it, as after a power cut, and its
//! filesystem is checked. (Measured: what had been synced is there.)

use std::fs::File;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use crate::error::{Context, Error, Result};
use crate::explain::{quote, step};

/// `SNAP_MAGIC` (`drivers/md/dm-snap-persistent.c`): the header's first word; the second is `valid`.
const MAGIC: [u8; 4] = 0x7041_6e53_u32.to_le_bytes();
/// What direct I/O wants on any disk, bytes.
const ALIGNED: usize = 4096;

/// Whether the store on a device, which nobody uses, was given up by the kernel.
pub(super) fn is_given_up(device: &Path) -> Result<bool> {
    with_header(device, false, |header| {
        Ok((
            header.get(..4) == Some(&MAGIC) && header.get(4..8) == Some(&[0; 4]),
            false,
        ))
    })
}

/// Makes such a store valid again.
pub(super) fn revive(device: &Path) -> Result<()> {
    step(|| {
        format!(
            "printf '\\1' | dd of={} bs=1 seek=4 conv=notrunc,fsync    # the header's word `valid`",
            quote(device)
        )
    });
    with_header(device, true, |header| match header.get_mut(4..8) {
        Some(valid) => {
            valid.copy_from_slice(&1_u32.to_le_bytes());
            Ok(((), true))
        }
        None => Err(Error::corrupt("the exception store has no header")),
    })
}

/// Reads the first chunk past any cache; writes it back where `work` says so.
fn with_header<T>(device: &Path, write: bool, work: impl FnOnce(&mut [u8]) -> Result<(T, bool)>) -> Result<T> {
    let file = File::options()
        .read(true)
        .write(write)
        .custom_flags(libc::O_DIRECT)
        .open(device)
        .context("open", device)?;
    let mut buffer = vec![0_u8; 2 * ALIGNED];
    let begin = buffer.as_ptr().align_offset(ALIGNED);
    let header = buffer
        .get_mut(begin..begin + ALIGNED)
        .ok_or_else(|| Error::invalid("no aligned memory"))?;
    file.read_exact_at(header, 0).context("read", device)?;
    let (done, changed) = work(header)?;
    if changed {
        file.write_all_at(header, 0)
            .and_then(|()| file.sync_all())
            .context("write", device)?;
    }
    Ok(done)
}
