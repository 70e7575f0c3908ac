//! The device-mapper ioctls that the `devicemapper` crate would make wait for udev.
//!
//! For resume, remove and rename the crate makes a cookie semaphore and waits,
//! without a limit, whenever udevd seems to run. These calls ask for no cookie
//! and keep udev's rules, and with them blkid, off our devices.
#![allow(unsafe_code, reason = "the system call has no safe wrapper")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// `struct dm_ioctl` of `include/uapi/linux/dm-ioctl.h`.
#[repr(C)]
struct Header {
    version: [u32; 3],
    data_size: u32,
    data_start: u32,
    target_count: u32,
    open_count: i32,
    flags: u32,
    event_nr: u32,
    padding: u32,
    dev: u64,
    name: [u8; 128],
    uuid: [u8; 129],
    data: [u8; 7],
}

/// The header's length, which is a part of each request's number.
const HEADER: u32 = 312;
const _: () = assert!(size_of::<Header>() == HEADER as usize);

/// `DM_UDEV_DISABLE_{DM,SUBSYSTEM,DISK,OTHER}_RULES`, `_LIBRARY_FALLBACK` and `_PRIMARY_SOURCE`
/// of libdevmapper, shifted by `DM_UDEV_FLAGS_SHIFT`; the cookie in the low half is none.
const NO_UDEV: u32 = (0x1 | 0x2 | 0x4 | 0x8 | 0x20 | 0x40) << 16;

const SUSPEND: u32 = 1 << 1;

/// What to do to a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// `DM_DEV_REMOVE`.
    Remove,
    /// `DM_DEV_SUSPEND`: flushes, and freezes the filesystem on it.
    Suspend,
    /// `DM_DEV_SUSPEND` without its flag: puts a loaded table in place, and lets I/O through.
    Resume,
}

/// Does `change` to the device called `name`, without udev.
///
/// # Errors
/// The kernel's: ENXIO where there is no such device, EBUSY where it is held; EINVAL for a name that is too long.
pub fn change(control: BorrowedFd<'_>, name: &str, change: Change) -> io::Result<()> {
    let (number, flags, event_nr) = match change {
        Change::Remove => (4, 0, NO_UDEV),
        Change::Suspend => (6, SUSPEND, 0),
        Change::Resume => (6, 0, NO_UDEV),
    };
    let mut header = Header {
        version: [4, 0, 0],
        data_size: HEADER,
        data_start: HEADER,
        target_count: 0,
        open_count: 0,
        flags,
        event_nr,
        padding: 0,
        dev: 0,
        name: [0; 128],
        uuid: [0; 129],
        data: [0; 7],
    };
    match header.name.get_mut(..name.len()) {
        Some(room) if name.len() < 128 => room.copy_from_slice(name.as_bytes()),
        _ => return Err(io::Error::from_raw_os_error(libc::EINVAL)),
    }
    // _IOWR(0xfd, number, struct dm_ioctl)
    let request = (3 << 30) | (HEADER << 16) | (0xfd << 8) | number;
    // SAFETY: the kernel reads and writes `data_size` bytes, which is the header alone; it lives across the call.
    let outcome = unsafe { libc::ioctl(control.as_raw_fd(), request as _, &raw mut header) };
    if outcome == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
