//! The canonical tar profile: same tree, same bytes.
//!
//! ```text
//! [PAX header + records]  only where ustar cannot say it
//! header                  ustar, no names of owners, device numbers for devices only
//! content, padded to 512
//! ...
//! two zero blocks         and no padding to a tape record
//! ```
//!
//! Order: depth first; in each directory the whiteouts, then the entries, both
//! bytewise by name ([`diff`](super::diff) sees to that). Directories end with
//! `/`; the root, where it must be said, is `./`. PAX records, sorted by key,
//! carry names that are long or not ASCII (`hdrcharset=BINARY` where they are
//! not UTF-8 either), sizes from 8 GiB, owners from 2^21, mtimes with
//! nanoseconds or outside 1970 to 2242, and `SCHILY.xattr.*` with `=` and `%`
//! of a name as GNU tar writes them.

use std::io::{self, BufWriter, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::entry::{Device, Time};
use super::handle::Xattrs;
use super::header::BLOCK;

const BUFFER: usize = 256 << 10;
const XATTR: &[u8] = b"SCHILY.xattr.";

/// The type of an entry, as its header has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Type {
    File,
    HardLink,
    Symlink,
    Character,
    Block,
    Directory,
    Fifo,
}

impl Type {
    fn flag(self) -> u8 {
        match self {
            Self::File => b'0',
            Self::HardLink => b'1',
            Self::Symlink => b'2',
            Self::Character => b'3',
            Self::Block => b'4',
            Self::Directory => b'5',
            Self::Fifo => b'6',
        }
    }
}

/// An entry without its content.
#[derive(Debug)]
pub(super) struct Item<'a> {
    /// Relative to the root; empty for the root itself.
    pub(super) path: &'a Path,
    pub(super) kind: Type,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mtime: Time,
    /// Bytes of content that follow.
    pub(super) size: u64,
    /// Target of a link.
    pub(super) link: &'a [u8],
    pub(super) device: Device,
    pub(super) xattrs: &'a Xattrs,
}

/// Writes a tar in the canonical profile.
pub(super) struct Writer<'a> {
    out: BufWriter<&'a mut dyn Write>,
}

impl<'a> Writer<'a> {
    pub(super) fn new(out: &'a mut dyn Write) -> Self {
        Self {
            out: BufWriter::with_capacity(BUFFER, out),
        }
    }

    /// Writes an entry's headers.
    pub(super) fn item(&mut self, item: &Item<'_>) -> io::Result<()> {
        let mut header = tar::Header::new_ustar();
        let records = fill(&mut header, item);
        if !records.is_empty() {
            let mut extended = tar::Header::new_ustar();
            let old = extended.as_old_mut();
            put_bytes(&mut old.name, b"PaxHeader");
            old.linkflag = [b'x'];
            octal(&mut old.mode, 0o644);
            octal(&mut old.uid, 0);
            octal(&mut old.gid, 0);
            octal(&mut old.size, records.len() as u64);
            octal(&mut old.mtime, 0);
            extended.set_cksum();
            self.out.write_all(extended.as_bytes())?;
            self.out.write_all(&records)?;
            self.pad(records.len() as u64)?;
        }
        header.set_cksum();
        self.out.write_all(header.as_bytes())
    }

    /// Writes some of the content of the last entry.
    pub(super) fn content(&mut self, piece: &[u8]) -> io::Result<()> {
        self.out.write_all(piece)
    }

    /// Fills up to a block after `size` bytes of content.
    pub(super) fn pad(&mut self, size: u64) -> io::Result<()> {
        let padding = size.next_multiple_of(BLOCK as u64) - size;
        let zeros = [0; BLOCK];
        let padding = usize::try_from(padding).unwrap_or(0);
        self.out.write_all(zeros.get(..padding).unwrap_or_default())
    }

    /// Writes the end mark.
    pub(super) fn finish(mut self) -> io::Result<()> {
        self.out.write_all(&[0; 2 * BLOCK])?;
        self.out.flush()
    }
}

/// Fills a ustar header; gives the PAX records for what it cannot say.
fn fill(header: &mut tar::Header, item: &Item<'_>) -> Vec<u8> {
    let mut records: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    let mut record = |key: &str, value: Vec<u8>| records.push((key.as_bytes().to_vec(), value));
    let mut path = item.path.as_os_str().as_bytes().to_vec();
    if path.is_empty() {
        path.push(b'.');
    }
    if item.kind == Type::Directory {
        path.push(b'/');
    }
    if let Some(ustar) = header.as_ustar_mut() {
        match split(&path) {
            Some((prefix, name)) => {
                put_bytes(&mut ustar.prefix, prefix);
                put_bytes(&mut ustar.name, name);
            }
            None => {
                put_bytes(&mut ustar.name, &path);
                record("path", path.clone());
            }
        }
        put_bytes(&mut ustar.linkname, item.link);
        if matches!(item.kind, Type::Character | Type::Block) {
            octal(&mut ustar.dev_major, item.device.major.into());
            octal(&mut ustar.dev_minor, item.device.minor.into());
        }
    }
    if item.link.len() > 100 || !item.link.is_ascii() {
        record("linkpath", item.link.to_vec());
    }
    let old = header.as_old_mut();
    old.linkflag = [item.kind.flag()];
    octal(&mut old.mode, item.mode.into());
    let mut number = |field: &mut [u8], key: &str, value: u64| {
        let fits = value < 1 << (3 * (field.len() - 1));
        octal(field, if fits { value } else { 0 });
        if !fits {
            record(key, value.to_string().into_bytes());
        }
    };
    number(&mut old.uid, "uid", item.uid.into());
    number(&mut old.gid, "gid", item.gid.into());
    number(&mut old.size, "size", item.size);
    let seconds = u64::try_from(item.mtime.seconds)
        .ok()
        .filter(|seconds| *seconds < 1 << 33);
    octal(&mut old.mtime, seconds.unwrap_or(0));
    if seconds.is_none() || item.mtime.nanoseconds != 0 {
        record("mtime", time(item.mtime).into_bytes());
    }
    let text = |bytes: &[u8]| std::str::from_utf8(bytes).is_ok();
    if !text(&path) || !text(item.link) {
        record("hdrcharset", b"BINARY".to_vec());
    }
    for (name, value) in item.xattrs {
        records.push(([XATTR, &escape(name)].concat(), value.clone()));
    }
    records.sort_unstable();
    let mut body = Vec::new();
    for (key, value) in records {
        put_record(&mut body, &key, &value);
    }
    body
}

/// Prefix and name of a path that ustar can hold.
fn split(path: &[u8]) -> Option<(&[u8], &[u8])> {
    if !path.is_ascii() {
        return None;
    }
    if path.len() <= 100 {
        return Some((b"", path));
    }
    let slash = path.iter().take(156).rposition(|byte| *byte == b'/')?;
    let (prefix, name) = path.split_at_checked(slash)?;
    let name = name.get(1..)?;
    (!prefix.is_empty() && !name.is_empty() && name.len() <= 100).then_some((prefix, name))
}

fn put_bytes(field: &mut [u8], bytes: &[u8]) {
    for (to, from) in field.iter_mut().zip(bytes) {
        *to = *from;
    }
}

/// Octal digits with leading zeros and a NUL at the end.
fn octal(field: &mut [u8], mut value: u64) {
    let mut places = field.iter_mut().rev();
    if let Some(end) = places.next() {
        *end = 0;
    }
    for place in places {
        *place = b'0' + (value & 7).to_le_bytes()[0];
        value >>= 3;
    }
}

/// `SECONDS[.FRACTION]` without trailing zeros, negative before 1970.
fn time(time: Time) -> String {
    let Time { seconds, nanoseconds } = time;
    if nanoseconds == 0 {
        return seconds.to_string();
    }
    let (sign, whole, fraction) = if seconds < 0 {
        // Down to the second before is up to the next one, less the rest.
        ("-", (seconds + 1).unsigned_abs(), 1_000_000_000 - nanoseconds)
    } else {
        ("", seconds.unsigned_abs(), nanoseconds)
    };
    let text = format!("{sign}{whole}.{fraction:09}");
    text.trim_end_matches('0').to_owned()
}

fn escape(name: &[u8]) -> Vec<u8> {
    let mut escaped = Vec::with_capacity(name.len());
    for byte in name {
        match byte {
            b'%' => escaped.extend_from_slice(b"%25"),
            b'=' => escaped.extend_from_slice(b"%3D"),
            byte => escaped.push(*byte),
        }
    }
    escaped
}

/// One PAX record. Its length counts its own digits.
pub(super) fn put_record(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while rest + length.to_string().len() != length {
        length = rest + length.to_string().len();
    }
    out.extend_from_slice(length.to_string().as_bytes());
    out.push(b' ');
    out.extend_from_slice(key);
    out.push(b'=');
    out.extend_from_slice(value);
    out.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn record_lengths_count_themselves() {
        for (value, text) in [("v", "6 k=v\n"), ("vvvvv", "11 k=vvvvv\n"), ("vvvv", "9 k=vvvv\n")] {
            let mut out = Vec::new();
            put_record(&mut out, b"k", value.as_bytes());
            assert_eq!(String::from_utf8(out).unwrap(), text);
        }
        for size in 80..1100 {
            let mut out = Vec::new();
            put_record(&mut out, b"k", &vec![b'v'; size]);
            let digits = out.iter().position(|byte| *byte == b' ').unwrap();
            let length: usize = std::str::from_utf8(&out[..digits]).unwrap().parse().unwrap();
            assert_eq!(length, out.len());
        }
    }

    #[test]
    fn times_read_back() {
        for (seconds, nanoseconds, text) in [
            (0, 0, "0"),
            (1, 500_000_000, "1.5"),
            (-1, 0, "-1"),
            (-1, 500_000_000, "-0.5"),
            (-2, 500_000_000, "-1.5"),
            (-1, 999_999_999, "-0.000000001"),
            (4_102_444_800, 1, "4102444800.000000001"),
        ] {
            assert_eq!(time(Time { seconds, nanoseconds }), text);
        }
    }

    #[test]
    fn long_names_split_where_ustar_can_hold_them() {
        let deep = format!("{}/{}", "d".repeat(120), "n".repeat(90));
        assert_eq!(
            split(deep.as_bytes()).map(|(prefix, name)| (prefix.len(), name.len())),
            Some((120, 90))
        );
        assert_eq!(split(b"short"), Some((&b""[..], &b"short"[..])));
        assert_eq!(split("n".repeat(101).as_bytes()), None);
        assert_eq!(split(format!("{}/", "n".repeat(100)).as_bytes()), None);
        assert_eq!(split(format!("{}/n", "d".repeat(156)).as_bytes()), None);
        assert_eq!(split("café".as_bytes()), None);
    }
}
