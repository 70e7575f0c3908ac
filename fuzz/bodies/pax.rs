//! PAX records under right headers, and what must then hold. The corpus is replayed through the same
//! functions by `store/tests/corpus.rs`.
//!
//! A program makes the records, so the fuzzer knows what they say: what a reader that believes every
//! sound record must give, and that none which is not sound may be believed.

#![allow(dead_code, reason = "each target uses one of them")]

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use plywood_store::layer::Limits;
use plywood_store::layer::read::{Entry, EntryKind, Reader};

mod program;

use program::{Code, Header, put_extended, put_padded, record};

const KEYS: [&str; 24] = [
    "path",
    "linkpath",
    "size",
    "uid",
    "gid",
    "mtime",
    "atime",
    "uname",
    "comment",
    "SCHILY.xattr.user.a",
    "SCHILY.xattr.user.b%3D%25",
    "SCHILY.xattr.trusted.x",
    "SCHILY.xattr.",
    "SCHILY.acl.access",
    "SCHILY.realsize",
    "GNU.sparse.size",
    "GNU.sparse.realsize",
    "GNU.sparse.map",
    "GNU.sparse.name",
    "GNU.sparse.offset",
    "GNU.sparse.numbytes",
    "GNU.sparse.major",
    "GNU.sparse.minor",
    "GNU.sparse.numblocks",
];

/// Values that are good for some key and bad for another.
const VALUES: [&[u8]; 16] = [
    b"",
    b"0",
    b"512",
    b"1000",
    b"-1",
    b"4294967294",
    b"4294967295",
    b"18446744073709551615",
    b"1700000000.123456789",
    b"-0.5",
    b"a/b",
    b"../a",
    b"a\0b",
    b"0,3,70000,2",
    b"\xff\xfe\n=",
    b"/./a//b/",
];

/// Bytes that the entry's content has.
const STORED: usize = 512;

/// Records of an `x` header before an entry.
pub(crate) fn records(data: &[u8]) {
    let mut code = Code(data);
    let kind = code.byte();
    let mut body = Vec::new();
    let mut told = Vec::new();
    let mut sound = true;
    while code.goes_on() {
        let key = KEYS[usize::from(code.byte()) % KEYS.len()].as_bytes();
        let style = code.byte();
        let value = match style & 0x10 {
            0 => VALUES[usize::from(style) % VALUES.len()],
            _ => code.bytes(usize::from(style & 0x0f)),
        };
        let record = record(key, value);
        sound &= style >> 5 < 5;
        body.extend(damaged(record, style >> 5));
        told.push((key, value));
    }
    let tar = archive(kind, &body);
    let mut input = &*tar;
    let mut reader = Reader::new(&mut input, &Limits::default());
    let Ok(Some(entry)) = reader.next_entry() else { return };
    assert!(
        sound,
        "damaged records are believed: {:?}",
        String::from_utf8_lossy(&body)
    );
    is_as_told(&entry, &told);
    while let Ok(Some((offset, piece))) = reader.content() {
        assert!(offset + piece.len() as u64 <= entry.size);
    }
    // A record that changes a size changes where the end is: then there may be none.
    if !told.iter().any(|(key, _)| *key == b"size") {
        assert!(matches!(reader.next_entry(), Ok(None)), "what follows is not the end");
    }
}

/// A record with a fault in three of eight cases.
fn damaged(mut record: Vec<u8>, how: u8) -> Vec<u8> {
    match how {
        // The line's end is missing, and what follows takes its place.
        5 => drop(record.pop()),
        // A sign before the length, or something that is no digit in it.
        6 => record.insert(0, b'+'),
        7 => record[0] = b'x',
        _ => {}
    }
    record
}

/// A file or link after the records in `body`, and the end of the archive.
fn archive(kind: u8, body: &[u8]) -> Vec<u8> {
    let (flag, size) = match kind % 4 {
        0 | 1 => (b'0', STORED),
        2 => (b'2', 0),
        _ => (b'1', 0),
    };
    let mut tar = Vec::new();
    put_extended(&mut tar, b'x', body);
    let header = Header {
        flag,
        name: b"name",
        link: b"target",
        owner: (7, 8),
        size,
        ..Header::default()
    };
    tar.extend_from_slice(&header.block());
    put_padded(&mut tar, &vec![b'x'; size]);
    tar.extend([0; 1024]);
    tar
}

/// The last word of each key counts, and an empty one takes it back.
fn is_as_told(entry: &Entry, told: &[(&[u8], &[u8])]) {
    let last: BTreeMap<&[u8], &[u8]> = told.iter().copied().collect();
    let given = |key: &str| last.get(key.as_bytes()).copied().filter(|value| !value.is_empty());
    let number = |key: &str, default: u64| match given(key) {
        Some(value) => String::from_utf8_lossy(value)
            .parse::<u64>()
            .expect("a number was believed"),
        None => default,
    };
    let plain = |raw: &[u8]| {
        let names = Path::new(OsStr::from_bytes(raw)).components();
        names
            .filter(|part| matches!(part, std::path::Component::Normal(_)))
            .collect::<std::path::PathBuf>()
    };
    let sparse = last.keys().any(|key| key.starts_with(b"GNU.sparse."));
    let name = given("GNU.sparse.name").or_else(|| given("path")).unwrap_or(b"name");
    assert_eq!(entry.path, plain(name));
    assert_eq!(u64::from(entry.uid), number("uid", 7));
    assert_eq!(u64::from(entry.gid), number("gid", 8));
    if !sparse && entry.kind == EntryKind::File {
        assert_eq!(entry.size, number("size", STORED as u64));
    }
    let link = given("linkpath").unwrap_or(b"target");
    match &entry.kind {
        EntryKind::Symlink(target) => assert_eq!(target.as_os_str().as_bytes(), link),
        EntryKind::HardLink(target) => assert_eq!(*target, plain(link)),
        _ => {}
    }
    let attribute = |key: &[u8]| {
        let key = key.strip_prefix(b"SCHILY.xattr.")?;
        Some(
            String::from_utf8_lossy(key)
                .replace("%3D", "=")
                .replace("%25", "%")
                .into_bytes(),
        )
    };
    let expected: Vec<(Vec<u8>, Vec<u8>)> = last
        .iter()
        .filter_map(|(key, value)| Some((attribute(key)?, value.to_vec())))
        .collect::<BTreeMap<_, _>>()
        .into_iter()
        .collect();
    assert_eq!(entry.xattrs, expected);
}
