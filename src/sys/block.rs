//! Block devices: discarding what they hold.
#![allow(unsafe_code, reason = "the system call has no safe wrapper")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// `BLKDISCARD` of `include/uapi/linux/fs.h`.
const BLKDISCARD: libc::c_ulong = 0x1277;

/// `FITRIM` of `include/uapi/linux/fs.h`.
const FITRIM: libc::c_ulong = 0xC018_5879;

/// Lets a mounted filesystem discard all that it does not use.
///
/// # Errors
/// The kernel's; EOPNOTSUPP where its device takes no discards.
pub fn trim_filesystem(root: BorrowedFd<'_>) -> io::Result<()> {
    // `struct fstrim_range`: from where, how much, and runs of how much at least.
    let mut range = [0, u64::MAX, 0];
    // SAFETY: FITRIM reads and writes three u64 at the pointer, which `range` outlives.
    let outcome = unsafe { libc::ioctl(root.as_raw_fd(), FITRIM as _, range.as_mut_ptr()) };
    if outcome == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

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
