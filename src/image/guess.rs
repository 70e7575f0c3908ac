//! What a file is that is no tar: to say more than that it is wrong.

use std::path::Path;

use crate::error::Error;

const TARS: &str = "images come as tar archives";
/// The kernel's filesystem code takes an image for its own: what is in one must not be another's.
const NEVER: &str = "plywood never mounts a filesystem that it did not make: import a tar of its content";

/// Where a kind of file has which bytes, what it is, and what to do.
const KNOWN: [(usize, &[u8], &str, &str); 15] = [
    (0, b"\xfd7zXZ\0", "packed with xz", "unpack it first: xz -d"),
    (0, b"BZh", "packed with bzip2", "unpack it first: bzip2 -d"),
    (0, b"PK\x03\x04", "a zip archive", TARS),
    (
        0,
        b"hsqs",
        "a squashfs image",
        "plywood never mounts a filesystem that it did not make: unpack it with unsquashfs, and import a tar of that",
    ),
    (0, b"QFI\xfb", "a qcow2 disk image", NEVER),
    (0, b"\x7fELF", "a program", TARS),
    (0, b"XFSB", "an xfs filesystem", NEVER),
    (0x400, b"\xe2\xe1\xf5\xe0", "an erofs image", NEVER),
    (0x438, b"\x53\xef", "an ext4 filesystem", NEVER),
    (0x8001, b"CD001", "an ISO 9660 image", NEVER),
    (0x1_0040, b"_BHRfS_M", "a btrfs filesystem", NEVER),
    (0x200, b"EFI PART", "a disk image with a partition table", NEVER),
    (0x1fe, b"\x55\xaa", "a disk image with a partition table", NEVER),
    (0, b"\x1f\x8b", "packed with gzip, but holds no tar", TARS),
    (0, b"\x28\xb5\x2f\xfd", "packed with zstd, but holds no tar", TARS),
];

/// The error for a file with this `head`, which begins with `begin` once unpacked.
pub(super) fn not_a_tar(head: &[u8], begin: &[u8], path: &Path) -> Error {
    let shown = if path == Path::new("-") {
        "standard input".to_owned()
    } else {
        path.display().to_string()
    };
    if head.is_empty() {
        return Error::invalid(format!("{shown} is empty")).hinted(TARS);
    }
    let is = |bytes: &[u8], (at, magic, ..): &(usize, &[u8], _, _)| {
        bytes.get(*at..).is_some_and(|rest| rest.starts_with(magic))
    };
    match KNOWN.iter().find(|kind| is(begin, kind) || is(head, kind)) {
        Some((_, _, what, hint)) => {
            Error::invalid(format!("{shown} is {what}, not an image or a root filesystem")).hinted(*hint)
        }
        None => Error::invalid(format!("{shown} is no tar archive")).hinted(
            "an image or a root filesystem comes as a tar, plain or packed with gzip or zstd, or as an OCI layout folder",
        ),
    }
}
