//! Tars from short programs: whatever bytes the fuzzer makes up, headers with right check sums come
//! out, over a few names that meet again and again. Bytes that are missing at the end are zeros.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

const BLOCK: usize = 512;

/// The names that a tree is made of; [`super::scratch`] has a tree of them too.
pub(crate) const NAMES: [&str; 4] = ["a", "b", "c", "d"];

const MODES: [u32; 8] = [0o644, 0o755, 0o4755, 0o1777, 0, 0o7777, 0o600, 0o2755];
const IDS: [u32; 8] = [0, 0, 1000, 65_534, 65_536, 2_097_152, 4_294_967_294, 1];
const TIMES: [i64; 8] = [0, 1, 1_700_000_000, -1, 4_102_444_800, 8_589_934_592, -86_400, 0];
const LENGTHS: [usize; 8] = [0, 1, 3, 511, 512, 513, 1500, 66_000];
const TARGETS: [&str; 16] = [
    "a",
    "b",
    "c",
    "d",
    "..",
    "../a",
    "../d/a",
    "/",
    "/a",
    "/d",
    "../outside",
    "../../outside",
    "/proc/self/root",
    ".",
    "nowhere",
    "a/../../outside/secret",
];
const DEVICES: [(u32, u32); 4] = [(1, 3), (0, 0), (4095, 1_048_575), (7, 0)];

/// A version 2 ACL with a named user: owner, user 7, group, mask, others.
const ACL: &[u8] = &[
    2, 0, 0, 0, 1, 0, 7, 0, 0xff, 0xff, 0xff, 0xff, 2, 0, 5, 0, 7, 0, 0, 0, 4, 0, 5, 0, 0xff, 0xff, 0xff, 0xff, 0x10,
    0, 7, 0, 0xff, 0xff, 0xff, 0xff, 0x20, 0, 4, 0, 0xff, 0xff, 0xff, 0xff,
];
/// A version 2 file capability, `cap_net_raw+ep`.
const CAPABILITY: &[u8] = &[1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
const ATTRIBUTES: [(&str, &[u8]); 8] = [
    ("security.capability", CAPABILITY),
    ("trusted.x", b"1"),
    ("system.posix_acl_default", ACL),
    ("system.posix_acl_access", ACL),
    ("trusted.overlay.opaque", b"y"),
    ("security.capability", b"short"),
    ("user.a%3Db%25", b"\n\0="),
    ("user.", b""),
];

/// The bytes of a program, taken one by one.
pub(crate) struct Code<'a>(pub(crate) &'a [u8]);

impl<'a> Code<'a> {
    /// The next byte, 0 after the last.
    pub(crate) fn byte(&mut self) -> u8 {
        let (first, rest) = self.0.split_first().unwrap_or((&0, &[]));
        self.0 = rest;
        *first
    }

    /// Up to `count` bytes.
    pub(crate) fn bytes(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// Whether there is more.
    pub(crate) fn goes_on(&self) -> bool {
        !self.0.is_empty()
    }
}

/// One of `of`, by the low bits of `by`.
fn pick<T: Copy, const N: usize>(of: [T; N], by: u8) -> T {
    of[usize::from(by) % N]
}

/// A path of one to three names.
fn path(by: u8) -> String {
    let name = |shift: u8| NAMES[usize::from(by >> shift & 3)];
    match by & 3 {
        0 => name(2).to_owned(),
        3 => [name(2), name(4), name(6)].join("/"),
        _ => [name(2), name(4)].join("/"),
    }
}

/// What a header says.
pub(crate) struct Header<'a> {
    pub(crate) flag: u8,
    pub(crate) name: &'a [u8],
    pub(crate) link: &'a [u8],
    pub(crate) mode: u32,
    pub(crate) owner: (u32, u32),
    pub(crate) size: usize,
    pub(crate) mtime: i64,
    pub(crate) device: (u32, u32),
}

impl Default for Header<'_> {
    fn default() -> Self {
        Self {
            flag: b'0',
            name: b"n",
            link: b"",
            mode: 0o644,
            owner: (0, 0),
            size: 0,
            mtime: 1,
            device: (0, 0),
        }
    }
}

impl Header<'_> {
    /// Its block, with the magic of ustar, or GNU's where the flag is one of GNU's.
    pub(crate) fn block(&self) -> [u8; BLOCK] {
        let mut block = [0; BLOCK];
        let mut put = |at: usize, room: usize, text: &[u8]| {
            let fits = text.len().min(room);
            block[at..at + fits].copy_from_slice(&text[..fits]);
        };
        put(0, 100, self.name);
        put(100, 8, &number(self.mode.into(), 8));
        put(108, 8, &number(self.owner.0.into(), 8));
        put(116, 8, &number(self.owner.1.into(), 8));
        put(124, 12, &number(self.size as i64, 12));
        put(136, 12, &number(self.mtime, 12));
        put(156, 1, &[self.flag]);
        put(157, 100, self.link);
        let gnu = matches!(self.flag, b'L' | b'K' | b'S');
        put(257, 8, if gnu { b"ustar  \0" } else { b"ustar\x0000" });
        put(329, 8, &number(self.device.0.into(), 8));
        put(337, 8, &number(self.device.1.into(), 8));
        seal(&mut block);
        block
    }
}

/// Octal where that holds it, else GNU's big-endian form.
fn number(value: i64, room: usize) -> Vec<u8> {
    let octal = format!("{value:0width$o}\0", width = room - 1).into_bytes();
    if value >= 0 && octal.len() == room {
        return octal;
    }
    let mut field = vec![if value < 0 { 0xff } else { 0 }; room];
    let bytes = value.to_be_bytes();
    let fits = bytes.len().min(room);
    field[room - fits..].copy_from_slice(&bytes[bytes.len() - fits..]);
    field[0] |= 0x80;
    field
}

/// Makes the check sum right.
fn seal(block: &mut [u8; BLOCK]) {
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

/// `LENGTH KEY=VALUE\n`.
pub(crate) fn record(key: &[u8], value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while rest + length.to_string().len() != length {
        length += 1;
    }
    [format!("{length} ").as_bytes(), key, b"=", value, b"\n"].concat()
}

/// Adds `content`, and zeros up to the next block.
pub(crate) fn put_padded(tar: &mut Vec<u8>, content: &[u8]) {
    tar.extend_from_slice(content);
    tar.resize(tar.len().next_multiple_of(BLOCK), 0);
}

/// Adds a header of its own for `body`.
pub(crate) fn put_extended(tar: &mut Vec<u8>, flag: u8, body: &[u8]) {
    let header = Header {
        flag,
        name: b"extended",
        size: body.len(),
        ..Header::default()
    };
    tar.extend_from_slice(&header.block());
    put_padded(tar, body);
}

/// Kinds of steps: see [`Step::name`], [`Step::kind`] and [`Layer::new`].
const KINDS: u8 = 20;

/// One entry of a program: eight bytes.
struct Step {
    kind: u8,
    name: u8,
    other: u8,
    look: u8,
    owner: u8,
    time: u8,
    extras: u8,
    seed: u8,
}

/// The entries of a layer, in order, with the headers that belong to them.
pub(crate) struct Layer {
    entries: Vec<(Vec<u8>, bool)>,
}

impl Layer {
    /// What `code` says; `outside` is where a link may want to go. A plain layer has no symbolic links
    /// and no damaged headers.
    pub(crate) fn new(mut code: Code<'_>, outside: &Path, plain: bool) -> Self {
        let mut entries = Vec::new();
        let mut damage = None;
        while code.goes_on() {
            let step = Step {
                kind: code.byte() % KINDS,
                name: code.byte(),
                other: code.byte(),
                look: code.byte(),
                owner: code.byte(),
                time: code.byte(),
                extras: code.byte(),
                seed: code.byte(),
            };
            let mut tar = Vec::new();
            match step.kind {
                4 | 5 | 18 if plain => continue,
                18 => damage = Some((usize::from(step.name) << 1 | usize::from(step.other & 1), step.seed)),
                19 => put_extended(&mut tar, b'g', &record(b"comment", &[step.seed])),
                _ => step.put(&mut tar, outside, damage.take()),
            }
            entries.push((tar, matches!(step.kind, 11..=13)));
        }
        Self { entries }
    }

    /// The whole tar.
    pub(crate) fn tar(&self) -> Vec<u8> {
        let mut tar: Vec<u8> = self.entries.iter().flat_map(|(entry, _)| entry).copied().collect();
        tar.extend([0; 2 * BLOCK]);
        tar
    }

    /// The same layer with its whiteouts before all else.
    pub(crate) fn whiteouts_first(mut self) -> Self {
        self.entries.sort_by_key(|(_, whiteout)| !*whiteout);
        self
    }
}

impl Step {
    fn name(&self) -> String {
        let path = path(self.name);
        let (above, name) = path
            .rsplit_once('/')
            .map_or(("", &*path), |(above, name)| (above, name));
        let slash = if above.is_empty() { "" } else { "/" };
        match self.kind {
            11 | 12 => format!("{above}{slash}.wh.{name}"),
            13 => format!("{path}/.wh..wh..opq"),
            16 => ".".to_owned(),
            17 => format!("{path}/.wh..wh.plnk"),
            _ => match self.look >> 3 & 3 {
                1 => format!("./{path}"),
                2 => format!("/{}", path.replace('/', "//")),
                3 if matches!(self.kind, 2 | 3) => format!("{path}/"),
                _ => path,
            },
        }
    }

    /// The type flag, and what the entry links to.
    fn kind(&self, outside: &Path) -> (u8, Vec<u8>) {
        match self.kind {
            2 | 3 | 16 => (b'5', Vec::new()),
            4 if self.other & 16 != 0 => (b'2', outside.as_os_str().as_bytes().to_vec()),
            4 | 5 => (b'2', pick(TARGETS, self.other).into()),
            6 | 7 => (b'1', path(self.other).into()),
            8 => (b'3', Vec::new()),
            9 => (b'4', Vec::new()),
            10 => (b'6', Vec::new()),
            14 if self.other & 1 != 0 => (b'S', Vec::new()),
            _ => (b'0', Vec::new()),
        }
    }

    /// The bytes that are stored: with a map before them where the file is sparse and says so there.
    fn content(&self) -> Vec<u8> {
        let data = vec![self.seed; pick(LENGTHS, self.other)];
        match self.kind {
            0 | 1 => data,
            // Half of it zeros, which may become holes.
            14 => vec![self.seed; 3],
            15 => {
                let mut map = b"2\n0\n1\n70000\n2\n".to_vec();
                map.resize(BLOCK, 0);
                [map, vec![self.seed; 3]].concat()
            }
            _ => Vec::new(),
        }
    }

    fn records(&self) -> Vec<u8> {
        let mut records = Vec::new();
        match (self.kind, self.other & 1) {
            (14, 0) => {
                records.extend(record(b"GNU.sparse.size", b"70010"));
                records.extend(record(b"GNU.sparse.numblocks", b"2"));
                records.extend(record(b"GNU.sparse.map", b"0,1,70000,2"));
            }
            (15, _) => {
                records.extend(record(b"GNU.sparse.major", b"1"));
                records.extend(record(b"GNU.sparse.minor", b"0"));
                records.extend(record(b"GNU.sparse.realsize", b"70010"));
            }
            _ => {}
        }
        if self.extras & 1 != 0 {
            records.extend(record(b"SCHILY.xattr.user.k", &vec![self.seed; usize::from(self.seed)]));
        }
        if self.extras & 2 != 0 {
            let (key, value) = pick(ATTRIBUTES, self.extras >> 5);
            records.extend(record(format!("SCHILY.xattr.{key}").as_bytes(), value));
        }
        if self.extras & 4 != 0 {
            records.extend(record(b"SCHILY.acl.access", b"user::rwx"));
        }
        if self.time & 8 != 0 {
            let mtime = format!("{}.{:03}", pick(TIMES, self.time), self.seed);
            records.extend(record(b"mtime", mtime.as_bytes()));
        }
        records
    }

    fn put(&self, tar: &mut Vec<u8>, outside: &Path, damage: Option<(usize, u8)>) {
        let name = self.name();
        let (flag, link) = self.kind(outside);
        let content = self.content();
        let mut records = self.records();
        match self.look >> 5 & 3 {
            1 => records.extend(record(b"path", name.as_bytes())),
            2 => put_extended(tar, b'L', &[name.as_bytes(), b"\0"].concat()),
            _ => {}
        }
        // Where it does not fit, there is no other way.
        if !link.is_empty() && (self.look & 0x80 != 0 || link.len() > 100) {
            records.extend(record(b"linkpath", &link));
        }
        if !records.is_empty() {
            put_extended(tar, b'x', &records);
        }
        let header = Header {
            flag,
            name: name.as_bytes(),
            link: &link,
            mode: pick(MODES, self.look),
            owner: (pick(IDS, self.owner), pick(IDS, self.owner >> 3)),
            size: content.len(),
            mtime: pick(TIMES, self.time),
            device: pick(DEVICES, self.other),
        };
        let mut block = header.block();
        if flag == b'S' {
            for (at, value) in [(386, 0), (398, 1), (410, 70_000), (422, 2), (483, 70_010)] {
                block[at..at + 12].copy_from_slice(&number(value, 12));
            }
            seal(&mut block);
        }
        if let Some((at, value)) = damage {
            block[at] = value;
            seal(&mut block);
        }
        tar.extend_from_slice(&block);
        put_padded(tar, &content);
    }
}
