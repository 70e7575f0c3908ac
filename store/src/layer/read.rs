//! Reads a foreign tar: entries, checked and within limits.
//!
//! The framing is our own, over the `tar` crate's header types: where two tar
//! readers could disagree about where an entry ends, or what it is called, one
//! of them can be fooled, so such archives are refused by name (RUSTSEC-2025-0111).
//!
//! | what | rule |
//! |---|---|
//! | size | a PAX `size` wins; links, directories, devices and FIFOs carry no bytes |
//! | PAX records | malformed ones are errors, never skipped; global ones may not describe entries |
//! | names | bytes; leading `/` and `./` go, `.` and `//` fold, `..` and NUL are refused |
//! | sparse files | GNU (old, and PAX 0.0, 0.1, 1.0) with a sorted map inside the logical size |
//! | mode | its low twelve bits |
//! | uid, gid | 0 to 2^32-2 |
//! | mtime | whole seconds in 64 bits, PAX fractions cut to nanoseconds |
//! | the end | two zero blocks (one at the end of the stream); then nothing but zeros |

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use super::Limits;
use super::entry::shown;
pub use super::entry::{Device, Entry, EntryKind, Time};
use super::header::{BLOCK, Form, form_of, has_numbers, is_sound, name_of, number, until_nul};
use super::pax::{self, Records};
use super::sparse::{self, Segment};
use crate::{Error, Kind, Result, compress};

/// Bytes read at once: what a pipe of ours holds, and a good write.
const BUFFER: usize = 256 << 10;
/// What the size field of a header holds in octal, in bytes: beyond that a PAX record is needed.
const MOST_IN_HEADER: u64 = (8 << 30) - 1;

/// Whether a stream that begins like this begins with a tar header.
pub fn is_header(begin: &[u8]) -> bool {
    let mut header = tar::Header::new_old();
    begin.get(..BLOCK).is_some_and(|block| {
        header.as_mut_bytes().copy_from_slice(block);
        is_sound(&header)
    })
}

/// The entries of a tar stream.
pub struct Reader<'a> {
    input: BufReader<&'a mut dyn Read>,
    limits: Limits,
    /// Bytes of the stream that headers and their bodies took, and contents that were passed.
    at: u64,
    /// Stored bytes of the current entry that nobody has read yet, without padding.
    left: u64,
    /// Bytes of the input's buffer that [`Reader::content`] has handed out.
    lent: usize,
    /// Bytes after them up to the next block.
    padding: u64,
    /// Where the stored bytes go, last segment first.
    segments: Vec<Segment>,
    current: PathBuf,
    entries: u64,
    total: u64,
    notes: Vec<String>,
    ended: bool,
}

impl std::fmt::Debug for Reader<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader")
            .field("entries", &self.entries)
            .finish_non_exhaustive()
    }
}

impl<'a> Reader<'a> {
    /// Reads `tar`, within `limits`.
    pub fn new(tar: &'a mut dyn Read, limits: &Limits) -> Self {
        Self {
            input: BufReader::with_capacity(BUFFER, tar),
            limits: limits.clone(),
            at: 0,
            left: 0,
            lent: 0,
            padding: 0,
            segments: Vec::new(),
            current: PathBuf::new(),
            entries: 0,
            total: 0,
            notes: Vec::new(),
            ended: false,
        }
    }

    /// Entries read so far.
    pub fn entries(&self) -> u64 {
        self.entries
    }

    /// Where in the stream the content of the entry at hand begins, and how many bytes it takes up
    /// there: for who wants to read it later by itself. Ask before [`Reader::content`].
    pub fn extent(&self) -> (u64, u64) {
        (self.at, self.left)
    }

    /// What was left out on purpose since the last call.
    pub fn take_notes(&mut self) -> Vec<String> {
        std::mem::take(&mut self.notes)
    }

    /// The next entry; none after the last, when the stream has been read to its very end.
    ///
    /// # Errors
    /// Anything that the table above refuses, by entry; a limit; a failed read.
    pub fn next_entry(&mut self) -> Result<Option<Entry>> {
        if self.ended {
            return Ok(None);
        }
        self.skip_content()?;
        let mut extended: Option<Records> = None;
        let mut long_name = None;
        let mut long_link = None;
        let mut header_bytes = 0;
        loop {
            let Some(header) = self.header()? else {
                if extended.is_some() || long_name.is_some() || long_link.is_some() {
                    return Err(self.bad("an extended header without an entry"));
                }
                self.end()?;
                return Ok(None);
            };
            match header.as_old().linkflag[0] {
                b'x' if extended.is_none() => extended = Some(self.records(&header, &mut header_bytes)?),
                b'g' => self.global(&header)?,
                b'L' if long_name.is_none() => long_name = Some(self.long(&header, &mut header_bytes)?),
                b'K' if long_link.is_none() => long_link = Some(self.long(&header, &mut header_bytes)?),
                b'x' | b'L' | b'K' => return Err(self.bad("two extended headers for one entry")),
                _ => {
                    let records = extended.unwrap_or_default();
                    return self.entry(&header, records, long_name, long_link).map(Some);
                }
            }
        }
    }

    /// The next bytes of the current entry's content, with their offset in the file; none at its end.
    /// What no piece covers, up to [`Entry::size`], is zeros.
    ///
    /// # Errors
    /// A stream that ends too early, or cannot be read.
    pub fn content(&mut self) -> Result<Option<(u64, &[u8])>> {
        self.take_back();
        let Some(segment) = self.segments.last_mut() else {
            return Ok(None);
        };
        let offset = segment.offset;
        let got = match self.input.fill_buf() {
            Ok(buffer) => buffer.len().min(usize::try_from(segment.length).unwrap_or(BUFFER)),
            Err(cause) => return Err(broken(&self.current, cause)),
        };
        if got == 0 {
            return Err(short(&self.current));
        }
        segment.offset += got as u64;
        segment.length -= got as u64;
        if segment.length == 0 {
            self.segments.pop();
        }
        self.left -= got as u64;
        self.at += got as u64;
        self.lent = got;
        Ok(self.input.buffer().get(..got).map(|piece| (offset, piece)))
    }

    fn take_back(&mut self) {
        self.input.consume(std::mem::take(&mut self.lent));
    }

    /// A block that is a header with a right check sum; none for the zero block of the end.
    fn header(&mut self) -> Result<Option<tar::Header>> {
        let mut header = tar::Header::new_old();
        let block: &mut [u8] = header.as_mut_bytes();
        self.input.read_exact(block).map_err(|cause| {
            if cause.kind() == std::io::ErrorKind::UnexpectedEof {
                return Error::invalid(format!(
                    "the tar ends without its end mark after {} entries: it is cut off, or no tar",
                    self.entries
                ));
            }
            compress::broken("the tar", cause)
        })?;
        self.at += BLOCK as u64;
        if block.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        if !is_sound(&header) {
            let error = self.bad("a header with a wrong check sum");
            return Err(if self.entries == 0 {
                error.hinted("is it a tar? gzip and zstd are recognised, other packings are not")
            } else {
                error
            });
        }
        if form_of(&header).is_none() {
            return Err(self.bad("a header of an unknown format"));
        }
        if !has_numbers(&header) {
            return Err(self.bad("a header with something else in a number's place"));
        }
        // Counted here, so that a stream of extended headers only is limited too.
        self.entries += 1;
        if self.entries > self.limits.entries {
            return Err(self.bad(&format!("more than {} entries", self.limits.entries)));
        }
        Ok(Some(header))
    }

    /// Reads on to the very end: nothing but zeros may follow the end mark.
    fn end(&mut self) -> Result<()> {
        self.ended = true;
        let mut trailing = 0_u64;
        loop {
            let buffer = self
                .input
                .fill_buf()
                .map_err(|cause| compress::broken("the end of the tar", cause))?;
            let count = buffer.len();
            if count == 0 {
                return Ok(());
            }
            if buffer.iter().any(|byte| *byte != 0) {
                return Err(self.bad("data after the end mark"));
            }
            trailing += count as u64;
            if trailing > self.limits.total_bytes {
                return Err(self.bad("zeros without end after the end mark"));
            }
            self.input.consume(count);
        }
    }

    fn entry(
        &mut self,
        header: &tar::Header,
        mut records: Records,
        long_name: Option<Vec<u8>>,
        long_link: Option<Vec<u8>>,
    ) -> Result<Entry> {
        // GNU tar takes the later one, Go the GNU one, others the PAX one.
        if records.path.is_some() && long_name.is_some() || records.link.is_some() && long_link.is_some() {
            return Err(self.bad("two long names for one entry"));
        }
        let raw = records.path.take().or(long_name).unwrap_or_else(|| name_of(header));
        let path = self.normalise(&raw)?;
        self.current.clone_from(&path);
        let flag = header.as_old().linkflag[0];
        // Looked at even where it does not count, as others look at it.
        let in_header = self.field(&header.as_old().size, "size")?;
        let stored = records.size.unwrap_or(in_header);
        if i64::try_from(stored).is_err() {
            return Err(self.bad("an impossible size"));
        }
        let target = records.link.take().or(long_link);
        let target = target.unwrap_or_else(|| until_nul(&header.as_old().linkname).to_vec());
        let kind = self.kind(flag, &raw, header, &target)?;
        if stored > 0 && !matches!(kind, EntryKind::File) {
            return Err(self.bad("bytes of content in an entry that is no file"));
        }
        self.left = stored;
        self.padding = stored.next_multiple_of(BLOCK as u64) - stored;
        let size = self.layout(flag, header, &mut records, stored)?;
        self.budget(size)?;
        let entry = Entry {
            path,
            kind,
            mode: self.field::<u32>(&header.as_old().mode, "mode")? & 0o7777,
            uid: self.owner(records.uid, &header.as_old().uid, "uid")?,
            gid: self.owner(records.gid, &header.as_old().gid, "gid")?,
            mtime: match records.mtime {
                Some(mtime) => mtime,
                None => Time {
                    seconds: self.field(&header.as_old().mtime, "mtime")?,
                    nanoseconds: 0,
                },
            },
            size,
            xattrs: records.xattrs.into_iter().collect(),
        };
        for skipped in records.skipped {
            self.notes.push(format!("{}: {skipped} left out", shown(&entry.path)));
        }
        Ok(entry)
    }

    fn kind(&self, flag: u8, raw: &[u8], header: &tar::Header, target: &[u8]) -> Result<EntryKind> {
        let slash = raw.ends_with(b"/");
        if flag == b'\0' && slash != name_of(header).ends_with(b"/") {
            return Err(self.bad("a directory by one of its names and a file by the other"));
        }
        let kind = match flag {
            // Before there was a type for directories, their names ended with a slash.
            b'\0' if slash && raw.iter().all(|byte| *byte == b'/') => {
                return Err(self.bad("a root that some take for a file"));
            }
            b'\0' if slash => EntryKind::Directory,
            b'0' | b'7' | b'S' if slash => return Err(self.bad("a file whose name ends with a slash")),
            b'\0' | b'0' | b'7' | b'S' => EntryKind::File,
            b'1' => {
                let path = self.normalise(target)?;
                if path.as_os_str().is_empty() {
                    return Err(self.bad("a hard link to the root"));
                }
                EntryKind::HardLink(path)
            }
            b'2' => EntryKind::Symlink(self.target(target)?),
            b'3' => match self.device(header)? {
                Device { major: 0, minor: 0 } if !self.limits.null_devices => {
                    return Err(self.bad("a character device 0:0, which overlayfs takes for a whiteout"));
                }
                device => EntryKind::Character(device),
            },
            b'4' => EntryKind::Block(self.device(header)?),
            b'5' => EntryKind::Directory,
            b'6' => EntryKind::Fifo,
            other => return Err(self.bad(&format!("an entry of the unknown type {:?}", char::from(other)))),
        };
        Ok(kind)
    }

    /// Where the stored bytes go, and how long the file is.
    fn layout(&mut self, flag: u8, header: &tar::Header, records: &mut Records, stored: u64) -> Result<u64> {
        let (mut map, size) = if flag == b'S' {
            let Some(gnu) = header.as_gnu() else {
                return Err(self.bad("a GNU sparse file without a GNU header"));
            };
            if records.size.is_some() {
                return Err(self.bad("a GNU sparse file with a PAX size: that of the file or of what is stored"));
            }
            let size = self.field(&gnu.realsize, "real size")?;
            let mut map = Vec::new();
            let is_full = sparse::take_old(&gnu.sparse, &mut map);
            let mut more = gnu.isextended[0] != 0;
            if more && !is_full {
                return Err(self.bad("a sparse map that goes on behind its end"));
            }
            while more {
                let mut block = [0; BLOCK];
                self.read_exact(&mut block)?;
                more = sparse::take_extension(&block, &mut map);
                if map.len() > self.most_segments() {
                    return Err(self.bad("too many pieces of a sparse file"));
                }
            }
            (map, size)
        } else if let Some(form) = records.sparse.take() {
            if form_of(header) != Some(Form::Ustar) {
                return Err(self.bad("a PAX sparse file whose header is not a PAX one"));
            }
            // Python's tarfile goes on behind the wrong one of the two.
            if records.size.is_some_and(|size| size <= MOST_IN_HEADER) {
                return Err(self.bad("a sparse file whose size is told twice"));
            }
            let size = form.size.ok_or_else(|| self.bad("a sparse file without its size"))?;
            let map = match form.map {
                Some(map) => map,
                None => self.sparse_map()?,
            };
            (map, size)
        } else {
            let whole = Segment {
                offset: 0,
                length: stored,
            };
            (vec![whole], stored)
        };
        sparse::check(&map, size, self.left).map_err(|what| self.bad(what))?;
        map.retain(|segment| segment.length > 0);
        map.reverse();
        self.segments = map;
        Ok(size)
    }

    /// The map of a PAX 1.0 sparse file: decimal lines at the head of its content, padded to a block.
    fn sparse_map(&mut self) -> Result<Vec<Segment>> {
        let mut parser = sparse::Lines::default();
        loop {
            if self.left < BLOCK as u64 {
                return Err(self.bad("a sparse map that is cut off"));
            }
            let mut block = [0; BLOCK];
            self.read_exact(&mut block)?;
            self.left -= BLOCK as u64;
            match parser.take(&block, self.most_segments()) {
                Ok(None) => {}
                Ok(Some(map)) => return Ok(map),
                Err(what) => return Err(self.bad(what)),
            }
        }
    }

    /// Sparse pieces that the header limit leaves room for, at 24 bytes each as GNU tar writes them.
    fn most_segments(&self) -> usize {
        usize::try_from(self.limits.header_bytes / 24).unwrap_or(usize::MAX)
    }

    fn budget(&mut self, size: u64) -> Result<()> {
        if size > self.limits.file_bytes {
            return Err(self.bad(&format!("a file of {size} bytes, more than {}", self.limits.file_bytes)));
        }
        self.total = self.total.saturating_add(size);
        if self.total > self.limits.total_bytes {
            return Err(self.bad(&format!("more than {} bytes of content", self.limits.total_bytes)));
        }
        Ok(())
    }

    /// A file name as a path under the root.
    fn normalise(&self, raw: &[u8]) -> Result<PathBuf> {
        let short: &[u8] = raw.get(..raw.len().min(self.limits.path_bytes)).unwrap_or(raw);
        let bad = |what: &str| {
            Error::invalid(format!(
                "the tar has {what}: {}",
                shown(Path::new(OsStr::from_bytes(short)))
            ))
        };
        if raw.len() > self.limits.path_bytes {
            return Err(bad(&format!("a path of more than {} bytes", self.limits.path_bytes)));
        }
        if raw.contains(&0) {
            return Err(bad("a path with a NUL byte"));
        }
        if raw.is_empty() {
            return Err(bad("an entry without a name"));
        }
        let mut path = PathBuf::new();
        for (depth, component) in Path::new(OsStr::from_bytes(raw)).components().enumerate() {
            match component {
                // A whiteout names what it hides behind four bytes of its own, and is no file itself.
                Component::Normal(name) if hidden(name).len() > 255 => {
                    return Err(bad("a name of more than 255 bytes"));
                }
                Component::Normal(name) => path.push(name),
                Component::ParentDir => return Err(bad("a path with ..")),
                Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
            }
            if depth > self.limits.depth {
                return Err(bad(&format!("a path of more than {} names", self.limits.depth)));
            }
        }
        Ok(path)
    }

    /// A symbolic link's target: any bytes that a kernel takes.
    fn target(&self, raw: &[u8]) -> Result<PathBuf> {
        if raw.is_empty() || raw.contains(&0) {
            return Err(self.bad("a symbolic link without a target, or with a NUL byte in it"));
        }
        if raw.len() > self.limits.path_bytes {
            return Err(self.bad(&format!("a link target of more than {} bytes", self.limits.path_bytes)));
        }
        Ok(PathBuf::from(OsStr::from_bytes(raw)))
    }

    fn device(&self, header: &tar::Header) -> Result<Device> {
        let (major, minor) = match (header.as_ustar(), header.as_gnu()) {
            (Some(ustar), _) => (&ustar.dev_major, &ustar.dev_minor),
            (_, Some(gnu)) => (&gnu.dev_major, &gnu.dev_minor),
            _ => return Err(self.bad("a device without its number")),
        };
        let device = Device {
            major: self.field(major, "device number")?,
            minor: self.field(minor, "device number")?,
        };
        if device.major >= 1 << 12 || device.minor >= 1 << 20 {
            return Err(self.bad("a device number that Linux does not have"));
        }
        Ok(device)
    }

    fn owner(&self, record: Option<i128>, field: &[u8], what: &str) -> Result<u32> {
        // Looked at even where it does not count, as others look at it.
        let in_header: u32 = self.field(field, what)?;
        let owner = match record {
            Some(owner) => u32::try_from(owner).map_err(|_| self.bad(&format!("an impossible {what}")))?,
            None => in_header,
        };
        // The kernel's word for "leave it alone".
        if owner == u32::MAX {
            return Err(self.bad(&format!("an impossible {what}")));
        }
        Ok(owner)
    }

    fn field<T: TryFrom<i128>>(&self, field: &[u8], what: &str) -> Result<T> {
        number(field)
            .and_then(|number| T::try_from(number).ok())
            .ok_or_else(|| self.bad(&format!("an impossible {what}")))
    }

    /// The body of an extended header, within the entry's budget.
    fn body(&mut self, header: &tar::Header, header_bytes: &mut u64) -> Result<Vec<u8>> {
        let size: u64 = self.field(&header.as_old().size, "extended header size")?;
        *header_bytes = header_bytes.saturating_add(size);
        if *header_bytes > self.limits.header_bytes {
            return Err(self.bad(&format!(
                "extended headers of more than {} bytes",
                self.limits.header_bytes
            )));
        }
        let padded = size.next_multiple_of(BLOCK as u64);
        let mut body = vec![0; usize::try_from(padded).map_err(|_| self.bad("a huge extended header"))?];
        self.read_exact(&mut body)?;
        body.truncate(usize::try_from(size).unwrap_or(body.len()));
        Ok(body)
    }

    fn records(&mut self, header: &tar::Header, header_bytes: &mut u64) -> Result<Records> {
        let body = self.body(header, header_bytes)?;
        pax::parse(&body).map_err(|what: String| self.bad(&what))
    }

    fn long(&mut self, header: &tar::Header, header_bytes: &mut u64) -> Result<Vec<u8>> {
        // GNU tar reads on to the NUL, whatever the size says; Go up to the size.
        let body = self.body(header, header_bytes)?;
        let name = until_nul(&body);
        if name.len() + 1 != body.len() {
            return Err(self.bad("a long name that does not end with its one NUL"));
        }
        Ok(name.to_vec())
    }

    /// A global header may carry remarks, as git's does, but describe nothing: some readers let it
    /// count for every entry, others for none.
    fn global(&mut self, header: &tar::Header) -> Result<()> {
        if self.records(header, &mut 0)?.describe_something() {
            return Err(self.bad("a global header that describes entries"));
        }
        Ok(())
    }

    fn read_exact(&mut self, buffer: &mut [u8]) -> Result<()> {
        self.at += buffer.len() as u64;
        self.input
            .read_exact(buffer)
            .map_err(|cause| broken(&self.current, cause))
    }

    fn skip_content(&mut self) -> Result<()> {
        self.take_back();
        self.segments.clear();
        let mut skip = std::mem::take(&mut self.left) + std::mem::take(&mut self.padding);
        self.at += skip;
        while skip > 0 {
            let count = match self.input.fill_buf() {
                Ok(buffer) => buffer.len().min(usize::try_from(skip).unwrap_or(usize::MAX)),
                Err(cause) => return Err(broken(&self.current, cause)),
            };
            if count == 0 {
                return Err(short(&self.current));
            }
            self.input.consume(count);
            skip -= count as u64;
        }
        Ok(())
    }

    fn bad(&self, what: &str) -> Error {
        let place = if self.current.as_os_str().is_empty() {
            "at its beginning".to_owned()
        } else {
            format!("at or after {}", shown(&self.current))
        };
        Error::new(Kind::Invalid, format!("the tar has {what}, {place}"))
    }
}

/// The name without the prefix of a whiteout.
fn hidden(name: &OsStr) -> &[u8] {
    let name = name.as_bytes();
    name.strip_prefix(b".wh.").unwrap_or(name)
}

fn broken(current: &Path, cause: std::io::Error) -> Error {
    compress::broken(&format!("the tar at {}", shown(current)), cause)
}

fn short(current: &Path) -> Error {
    Error::invalid(format!("the tar is cut off at {}", shown(current)))
}
