//! Block devices: discarding what they hold.
#![allow(unsafe_code, reason = "the system call has no safe wrapper")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// `BLKDISCARD` of `include/uapi/linux/fs.h`.
const BLKDISCARD: libc::c_ulong = 0x1277;

/// Discards `length` bytes from `start` on.
///
/// # Errors
/// The kernel's; EOPNOTSUPP where the device takes no discards.
pub fn discard(device: BorrowedFd<'_>, start: u64, length: u64) -> io::Result<()> {
    let range = [start, length];
    // SAFETY: BLKDISCARD reads two u64 from the pointer, which `range` outlives.
    let outcome = unsafe { libc::ioctl(device.as_raw_fd(), BLKDISCARD as _, range.as_ptr()) };
    if outcome == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
