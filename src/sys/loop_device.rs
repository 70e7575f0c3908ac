//! Loop devices, where the `loopdev` crate knows less: attaching in one step, and what lies below.
#![allow(unsafe_code, reason = "the system call has no safe wrapper")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// `LOOP_GET_STATUS64` of `include/uapi/linux/loop.h`.
const LOOP_GET_STATUS64: libc::c_ulong = 0x4C05;
/// `LOOP_CONFIGURE`, Linux 5.8.
const LOOP_CONFIGURE: libc::c_ulong = 0x4C0A;
const LO_FLAGS_AUTOCLEAR: u32 = 4;
const LO_FLAGS_DIRECT_IO: u32 = 16;

/// `struct loop_info64`.
#[repr(C)]
struct Info {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

impl Info {
    const fn empty() -> Self {
        Self {
            device: 0,
            inode: 0,
            rdevice: 0,
            offset: 0,
            size_limit: 0,
            number: 0,
            encrypt_type: 0,
            encrypt_key_size: 0,
            flags: 0,
            file_name: [0; 64],
            crypt_name: [0; 64],
            encrypt_key: [0; 32],
            init: [0; 2],
        }
    }
}

/// `struct loop_config`.
#[repr(C)]
struct Config {
    fd: u32,
    block_size: u32,
    info: Info,
    reserved: [u64; 8],
}

const _: () = assert!(size_of::<Info>() == 232 && size_of::<Config>() == 304);

/// What a loop device lies on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backing {
    /// The device of the file's filesystem, as stat(2) gives it.
    pub device: u64,
    /// The file's inode number.
    pub inode: u64,
    /// Whether the file is read and written without the page cache.
    pub direct: bool,
}

/// Attaches `file` whole to `device`, in one step: sectors of `block_size` bytes, direct I/O where the
/// file's filesystem has it, detached by the kernel when its last user is gone.
///
/// # Errors
/// The kernel's; EBUSY where the device is taken meanwhile.
pub fn configure(device: BorrowedFd<'_>, file: BorrowedFd<'_>, block_size: u32) -> io::Result<()> {
    let fd = u32::try_from(file.as_raw_fd()).map_err(|_| io::Error::from_raw_os_error(libc::EBADF))?;
    let mut info = Info::empty();
    info.flags = LO_FLAGS_AUTOCLEAR | LO_FLAGS_DIRECT_IO;
    let config = Config {
        fd,
        block_size,
        info,
        reserved: [0; 8],
    };
    // SAFETY: LOOP_CONFIGURE reads one `struct loop_config` from the pointer, which lives across the call.
    let outcome = unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CONFIGURE as _, &raw const config) };
    if outcome == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// What a loop device lies on; none for a free one.
///
/// # Errors
/// The kernel's.
pub fn backing(device: BorrowedFd<'_>) -> io::Result<Option<Backing>> {
    let mut info = Info::empty();
    // SAFETY: LOOP_GET_STATUS64 writes one `struct loop_info64` to the pointer, which lives across the call.
    let outcome = unsafe { libc::ioctl(device.as_raw_fd(), LOOP_GET_STATUS64 as _, &raw mut info) };
    if outcome == 0 {
        return Ok(Some(Backing {
            device: info.device,
            inode: info.inode,
            direct: info.flags & LO_FLAGS_DIRECT_IO != 0,
        }));
    }
    match io::Error::last_os_error() {
        error if error.raw_os_error() == Some(libc::ENXIO) => Ok(None),
        error => Err(error),
    }
}

/// The crate's device as a borrowed descriptor: the crate itself gives only the number.
pub fn borrow(owner: &loopdev::LoopDevice) -> BorrowedFd<'_> {
    // SAFETY: `owner` keeps its descriptor open for as long as it is borrowed here.
    unsafe { BorrowedFd::borrow_raw(owner.as_raw_fd()) }
}
