//! The canonical tar profile: same tree, same bytes.
//!
//! - ustar headers (POSIX.1-1988), with PAX records (POSIX.1-2001, `pax`) before
//!   them only for what does not fit: long or non-ASCII paths and link targets,
//!   owners above 2,097,151, sizes from 8 GiB, times that are not whole seconds
//!   since 1970, and extended attributes (`SCHILY.xattr.`);
//! - records sorted by key, no user names, device numbers for devices only;
//! - folders end with `/`, nothing begins with `./` but the root itself;
//! - whiteouts are empty files of mode 0, owner 0:0, time 0;
//! - padded to 512 bytes, two zero blocks at the end, no more.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::tree::{Meta, Type};
use crate::error::{Context, Error, Kind, Result};

/// Bytes of a tar block.
const BLOCK: usize = 512;
/// The most that seven octal digits hold.
const SEVEN_DIGITS: u64 = 0o7_777_777;
/// The most that eleven octal digits hold: 8 GiB less one.
const ELEVEN_DIGITS: u64 = 0o77_777_777_777;
/// What a whiteout's name begins with.
pub(crate) const WHITEOUT: &[u8] = b".wh.";

/// One header's worth.
struct Header<'a> {
    path: Vec<u8>,
    flag: u8,
    mode: u32,
    uid: u32,
    gid: u32,
    size: u64,
    mtime: (i64, u32),
    link: &'a [u8],
    device: Option<(u32, u32)>,
    xattrs: Option<&'a BTreeMap<Vec<u8>, Vec<u8>>>,
}

/// Writes entries of a layer, in the order in which they are given.
pub(crate) struct LayerWriter<'a> {
    out: &'a mut dyn Write,
    clamp: Option<i64>,
}

impl std::fmt::Debug for LayerWriter<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LayerWriter")
            .field("clamp", &self.clamp)
            .finish_non_exhaustive()
    }
}

impl<'a> LayerWriter<'a> {
    /// Later mtimes than `clamp` (seconds since 1970) become that one.
    pub(crate) fn new(out: &'a mut dyn Write, clamp: Option<i64>) -> Self {
        Self { out, clamp }
    }

    /// `name` in the folder `path` is gone.
    pub(crate) fn whiteout(&mut self, folder: &Path, name: &[u8]) -> Result<()> {
        let mut path = folder.as_os_str().as_bytes().to_vec();
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(WHITEOUT);
        path.extend_from_slice(name);
        let header = Header {
            path,
            flag: b'0',
            mode: 0,
            uid: 0,
            gid: 0,
            size: 0,
            mtime: (0, 0),
            link: b"",
            device: None,
            xattrs: None,
        };
        self.header(&header)
    }

    /// `path` is another name of the file at `first`, an earlier entry.
    pub(crate) fn hard_link(&mut self, path: &Path, meta: &Meta, first: &Path) -> Result<()> {
        let mut header = self.entry(path, meta, b'1');
        header.size = 0;
        header.link = first.as_os_str().as_bytes();
        // The first name carries them for all.
        header.xattrs = None;
        self.header(&header)
    }

    /// Anything but a regular file; an empty path is the tree's root.
    pub(crate) fn special(&mut self, path: &Path, meta: &Meta) -> Result<()> {
        let flag = match meta.kind {
            Type::Directory => b'5',
            Type::Symlink => b'2',
            Type::Character => b'3',
            Type::Block => b'4',
            Type::Fifo => b'6',
            Type::Regular | Type::Socket => {
                return Err(Error::invalid(format!(
                    "{} cannot be written without content",
                    path.display()
                )));
            }
        };
        let mut header = self.entry(path, meta, flag);
        if meta.kind == Type::Symlink {
            header.link = &meta.target;
        }
        if matches!(meta.kind, Type::Character | Type::Block) {
            header.device = Some(meta.device);
        }
        self.header(&header)
    }

    /// A regular file with its content, exactly as long as `meta` says.
    pub(crate) fn file(&mut self, path: &Path, meta: &Meta, content: &mut dyn Read) -> Result<()> {
        let header = self.entry(path, meta, b'0');
        self.header(&header)?;
        let copied = io::copy(&mut content.take(meta.size), &mut self.out).context("copy", path)?;
        if copied != meta.size {
            return Err(Error::new(
                Kind::InUse,
                format!("{} became shorter while it was read", path.display()),
            )
            .hinted("stop what writes to it, then try again"));
        }
        self.pad(meta.size)
    }

    /// The end of the archive.
    pub(crate) fn finish(self) -> Result<()> {
        self.out
            .write_all(&[0; 2 * BLOCK])
            .and_then(|()| self.out.flush())
            .context("write", "the layer")
    }

    fn entry<'m>(&self, path: &Path, meta: &'m Meta, flag: u8) -> Header<'m> {
        let mut bytes = path.as_os_str().as_bytes().to_vec();
        if bytes.is_empty() {
            bytes.push(b'.');
        }
        if meta.kind == Type::Directory {
            bytes.push(b'/');
        }
        let mtime = match self.clamp {
            Some(clamp) if meta.mtime.0 >= clamp => (clamp, 0),
            _ => meta.mtime,
        };
        Header {
            path: bytes,
            flag,
            mode: meta.mode,
            uid: meta.uid,
            gid: meta.gid,
            size: meta.size,
            mtime,
            link: b"",
            device: None,
            xattrs: Some(&meta.xattrs),
        }
    }

    fn header(&mut self, header: &Header<'_>) -> Result<()> {
        let records = pax_records(header);
        if !records.is_empty() {
            self.pax(&header.path, &records)?;
        }
        self.write(&ustar(header))
    }

    fn pax(&mut self, path: &[u8], records: &BTreeMap<Vec<u8>, Vec<u8>>) -> Result<()> {
        let mut content = Vec::new();
        for (key, value) in records {
            push_record(&mut content, key, value);
        }
        let trimmed = path.strip_suffix(b"/").unwrap_or(path);
        let name = trimmed.rsplit(|byte| *byte == b'/').next().unwrap_or(trimmed);
        let ascii = name
            .iter()
            .map(|byte| if byte.is_ascii_graphic() { *byte } else { b'_' })
            .take(80);
        let size = content.len() as u64;
        let header = Header {
            path: b"PaxHeaders/".iter().copied().chain(ascii).collect(),
            flag: b'x',
            mode: 0o644,
            uid: 0,
            gid: 0,
            size,
            mtime: (0, 0),
            link: b"",
            device: None,
            xattrs: None,
        };
        self.write(&ustar(&header))?;
        self.write(&content)?;
        self.pad(size)
    }

    fn pad(&mut self, size: u64) -> Result<()> {
        // Below 512, so it cannot be cut.
        let rest = usize::try_from(size % BLOCK as u64).unwrap_or(0);
        if rest == 0 {
            Ok(())
        } else {
            self.write(&[0; BLOCK][rest..])
        }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.out.write_all(bytes).context("write", "the layer")
    }
}

/// What the ustar header cannot say.
fn pax_records(header: &Header<'_>) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut records = BTreeMap::new();
    let mut say = |key: &[u8], value: Vec<u8>| {
        records.insert(key.to_vec(), value);
    };
    if !header.path.is_ascii() || split(&header.path).is_none() {
        say(b"path", header.path.clone());
    }
    if !header.link.is_ascii() || header.link.len() > 100 {
        say(b"linkpath", header.link.to_vec());
    }
    for (key, id) in [(&b"uid"[..], header.uid), (b"gid", header.gid)] {
        if u64::from(id) > SEVEN_DIGITS {
            say(key, id.to_string().into_bytes());
        }
    }
    if header.size > ELEVEN_DIGITS {
        say(b"size", header.size.to_string().into_bytes());
    }
    if header.mtime.1 != 0 || !u64::try_from(header.mtime.0).is_ok_and(|seconds| seconds <= ELEVEN_DIGITS) {
        say(b"mtime", decimal(header.mtime).into_bytes());
    }
    for (name, value) in header.xattrs.into_iter().flatten() {
        say(&[b"SCHILY.xattr.", name.as_slice()].concat(), value.clone());
    }
    if records.values().any(|value| std::str::from_utf8(value).is_err()) {
        records.insert(b"hdrcharset".to_vec(), b"BINARY".to_vec());
    }
    records
}

/// A PAX record is `LENGTH KEY=VALUE\n`, and the length counts itself.
pub(super) fn push_record(content: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    content.extend_from_slice(length.to_string().as_bytes());
    content.push(b' ');
    content.extend_from_slice(key);
    content.push(b'=');
    content.extend_from_slice(value);
    content.push(b'\n');
}

/// Seconds as PAX writes them. The kernel's nanoseconds count upwards, before 1970 too.
fn decimal((seconds, nanoseconds): (i64, u32)) -> String {
    let text = match (seconds, nanoseconds) {
        (_, 0) => return seconds.to_string(),
        (0.., _) => format!("{seconds}.{nanoseconds:09}"),
        _ => format!("-{}.{:09}", -(seconds + 1), 1_000_000_000 - nanoseconds),
    };
    text.trim_end_matches('0').to_owned()
}

/// Where a path fits into ustar's prefix (155 bytes) and name (100 bytes).
fn split(path: &[u8]) -> Option<(&[u8], &[u8])> {
    if path.len() <= 100 {
        return Some((b"", path));
    }
    let slash = (0..path.len().min(156))
        .rev()
        .find(|at| path[*at] == b'/' && at + 1 < path.len())?;
    let (prefix, name) = (&path[..slash], &path[slash + 1..]);
    (!prefix.is_empty() && name.len() <= 100).then_some((prefix, name))
}

fn ustar(header: &Header<'_>) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    let (prefix, name) = split(&header.path).unwrap_or((b"", &header.path[..header.path.len().min(100)]));
    put(&mut block[0..100], name);
    octal(&mut block[100..108], u64::from(header.mode));
    octal(&mut block[108..116], u64::from(header.uid));
    octal(&mut block[116..124], u64::from(header.gid));
    octal(&mut block[124..136], header.size);
    octal(&mut block[136..148], u64::try_from(header.mtime.0).unwrap_or(0));
    block[148..156].fill(b' ');
    block[156] = header.flag;
    put(&mut block[157..257], header.link);
    block[257..265].copy_from_slice(b"ustar\x0000");
    if let Some((major, minor)) = header.device {
        octal(&mut block[329..337], u64::from(major));
        octal(&mut block[337..345], u64::from(minor));
    }
    put(&mut block[345..500], prefix);
    let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
    octal(&mut block[148..155], sum);
    block
}

/// As much of `bytes` as fits.
fn put(field: &mut [u8], bytes: &[u8]) {
    let length = field.len().min(bytes.len());
    field[..length].copy_from_slice(&bytes[..length]);
}

/// Zero-filled octal digits and a NUL; 0 for what does not fit (a PAX record says it then).
fn octal(field: &mut [u8], value: u64) {
    let digits = field.len() - 1;
    let text = format!("{value:0digits$o}");
    let text = if text.len() > digits { "0".repeat(digits) } else { text };
    field[..digits].copy_from_slice(text.as_bytes());
    field[digits] = 0;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn record_lengths_count_themselves() {
        for (key, value, record) in [
            ("a", "b".to_owned(), "6 a=b\n".to_owned()),
            ("path", "x".repeat(91), format!("100 path={}\n", "x".repeat(90))),
        ] {
            let mut content = Vec::new();
            push_record(&mut content, key.as_bytes(), value.as_bytes());
            let written = String::from_utf8(content.clone()).unwrap();
            let length: usize = written.split(' ').next().unwrap().parse().unwrap();
            assert_eq!(length, content.len());
            if key == "a" {
                assert_eq!(written, record);
            }
        }
    }

    #[test]
    fn times_before_1970_count_down_to_it() {
        for (time, text) in [
            ((0, 0), "0"),
            ((1, 500_000_000), "1.5"),
            ((-2, 500_000_000), "-1.5"),
            ((-1, 1), "-0.999999999"),
            ((-3, 0), "-3"),
        ] {
            assert_eq!(decimal(time), text);
        }
    }

    #[test]
    fn long_paths_are_split_at_a_slash_or_told_in_a_record() {
        let (folder, file) = ("d".repeat(120), "f".repeat(90));
        let path = format!("{folder}/{file}");
        assert_eq!(split(path.as_bytes()), Some((folder.as_bytes(), file.as_bytes())));
        assert_eq!(split("x".repeat(101).as_bytes()), None);
        assert_eq!(split(format!("{}/", "x".repeat(120)).as_bytes()), None);
        assert_eq!(split(format!("{}/{}", "x".repeat(200), "y").as_bytes()), None);
    }
}
