//! What the fields of an entry's own header say of it: what kind it is, whose, which device.

use super::name;
use super::stream::Stream;
use crate::Result;
use crate::layer::Limits;
use crate::layer::entry::{Device, EntryKind};
use crate::layer::header::{self, name_of};

/// What an entry is that is called `raw`, and links to `target` if it is a link.
pub(super) fn kind(
    header: &tar::Header,
    raw: &[u8],
    target: &[u8],
    stream: &Stream<'_>,
    limits: &Limits,
) -> Result<EntryKind> {
    let flag = header.as_old().linkflag[0];
    let slash = raw.ends_with(b"/");
    if flag == b'\0' && slash != name_of(header).ends_with(b"/") {
        return Err(stream.bad("a directory by one of its names and a file by the other"));
    }
    let kind = match flag {
        // Before there was a type for directories, their names ended with a slash.
        b'\0' if slash && raw.iter().all(|byte| *byte == b'/') => {
            return Err(stream.bad("a root that some take for a file"));
        }
        b'\0' if slash => EntryKind::Directory,
        b'0' | b'7' | b'S' if slash => return Err(stream.bad("a file whose name ends with a slash")),
        b'\0' | b'0' | b'7' | b'S' => EntryKind::File,
        b'1' => {
            let path = name::normalise(target, limits)?;
            if path.as_os_str().is_empty() {
                return Err(stream.bad("a hard link to the root"));
            }
            EntryKind::HardLink(path)
        }
        b'2' => EntryKind::Symlink(name::target(target, stream, limits)?),
        b'3' => match device(header, stream)? {
            Device { major: 0, minor: 0 } if !limits.null_devices => {
                return Err(stream.bad("a character device 0:0, which overlayfs takes for a whiteout"));
            }
            device => EntryKind::Character(device),
        },
        b'4' => EntryKind::Block(device(header, stream)?),
        b'5' => EntryKind::Directory,
        b'6' => EntryKind::Fifo,
        other => return Err(stream.bad(&format!("an entry of the unknown type {:?}", char::from(other)))),
    };
    Ok(kind)
}

fn device(header: &tar::Header, stream: &Stream<'_>) -> Result<Device> {
    let (major, minor) = match (header.as_ustar(), header.as_gnu()) {
        (Some(ustar), _) => (&ustar.dev_major, &ustar.dev_minor),
        (_, Some(gnu)) => (&gnu.dev_major, &gnu.dev_minor),
        _ => return Err(stream.bad("a device without its number")),
    };
    let device = Device {
        major: number(major, "device number", stream)?,
        minor: number(minor, "device number", stream)?,
    };
    if device.major >= 1 << 12 || device.minor >= 1 << 20 {
        return Err(stream.bad("a device number that Linux does not have"));
    }
    Ok(device)
}

/// The number of a user or a group, by its PAX record where it has one.
pub(super) fn owner(record: Option<i128>, field: &[u8], what: &str, stream: &Stream<'_>) -> Result<u32> {
    // Looked at even where it does not count, as others look at it.
    let in_header: u32 = number(field, what, stream)?;
    let owner = match record {
        Some(owner) => u32::try_from(owner).map_err(|_| stream.bad(&format!("an impossible {what}")))?,
        None => in_header,
    };
    // The kernel's word for "leave it alone".
    if owner == u32::MAX {
        return Err(stream.bad(&format!("an impossible {what}")));
    }
    Ok(owner)
}

/// A number field that must be one of this type.
pub(super) fn number<T: TryFrom<i128>>(field: &[u8], what: &str, stream: &Stream<'_>) -> Result<T> {
    header::number(field)
        .and_then(|number| T::try_from(number).ok())
        .ok_or_else(|| stream.bad(&format!("an impossible {what}")))
}
