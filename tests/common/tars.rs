//! Tar archives byte by byte: what no honest tool would write.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test crate has a copy of its own and uses a part of it"
)]

use std::path::Path;

/// Modification time of every entry.
pub const MTIME: u64 = 1_500_000_000;

/// A ustar header, sum and all.
pub fn header(name: &[u8], flag: u8, link: &[u8], mode: u32, size: u64) -> [u8; 512] {
    let mut block = [0; 512];
    let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, name);
    put(100, format!("{mode:07o}\0{:07o}\0{:07o}\0", 0, 0).as_bytes());
    match size < 8 << 30 {
        true => put(124, format!("{size:011o}\0").as_bytes()),
        false => put(124, &[&[0x80, 0, 0, 0], &size.to_be_bytes()[..]].concat()),
    }
    put(136, format!("{MTIME:011o}\0").as_bytes());
    put(156, &[flag]);
    put(157, link);
    put(257, b"ustar\x0000");
    if matches!(flag, b'3' | b'4') {
        put(329, b"0000001\x000000003\0");
    }
    seal(&mut block);
    block
}

/// Puts the right check sum into a header.
pub fn seal(block: &mut [u8]) {
    block[148..156].fill(b' ');
    let sum: u32 = block[..512].iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

/// An entry: a header, and the content filled up to a block.
pub fn raw(name: &[u8], flag: u8, link: &[u8], mode: u32, content: &[u8]) -> Vec<u8> {
    let mut out = header(name, flag, link, mode, content.len() as u64).to_vec();
    out.extend_from_slice(content);
    out.resize(out.len().next_multiple_of(512), 0);
    out
}

pub fn file(name: &str, content: &str) -> Vec<u8> {
    raw(name.as_bytes(), b'0', b"", 0o644, content.as_bytes())
}

pub fn directory(name: &str) -> Vec<u8> {
    raw(name.as_bytes(), b'5', b"", 0o777, b"")
}

pub fn symlink(name: &str, to: impl AsRef<Path>) -> Vec<u8> {
    long_link(name, b'2', to)
}

pub fn hard_link(name: &str, to: &str) -> Vec<u8> {
    raw(name.as_bytes(), b'1', to.as_bytes(), 0o777, b"")
}

/// A character device: the null device, if that is what it is made to.
pub fn device(name: &str, major: u32, minor: u32) -> Vec<u8> {
    let mut block = header(name.as_bytes(), b'3', b"", 0o666, 0);
    block[329..345].copy_from_slice(format!("{major:07o}\0{minor:07o}\0").as_bytes());
    seal(&mut block);
    block.to_vec()
}

/// A link whose target may be longer than a header has room for.
pub fn long_link(name: &str, flag: u8, to: impl AsRef<Path>) -> Vec<u8> {
    let mut out = pax(&[("linkpath", to.as_ref().as_os_str().as_encoded_bytes())]);
    out.extend(raw(name.as_bytes(), flag, b"x", 0o777, b""));
    out
}

/// An entry behind PAX records.
pub fn with(records: &[(&str, &[u8])], entry: &[u8]) -> Vec<u8> {
    [&pax(records), entry].concat()
}

/// A PAX header for the entry after it.
pub fn pax(records: &[(&str, &[u8])]) -> Vec<u8> {
    raw(b"PaxHeader", b'x', b"", 0o644, &records_of(records))
}

/// A PAX header for all entries after it.
pub fn global(records: &[(&str, &[u8])]) -> Vec<u8> {
    raw(b"PaxHeader", b'g', b"", 0o644, &records_of(records))
}

/// GNU's long name (`L`) or long link (`K`) for the entry after it.
pub fn gnu_long(flag: u8, name: &[u8]) -> Vec<u8> {
    raw(b"././@LongLink", flag, b"", 0o644, &[name, b"\0"].concat())
}

/// PAX records, their lengths worked out.
pub fn records_of(records: &[(&str, &[u8])]) -> Vec<u8> {
    let mut body = Vec::new();
    for (key, value) in records {
        let rest = key.len() + value.len() + 3;
        let length = (rest + 1..)
            .find(|length| rest + length.to_string().len() == *length)
            .expect("a length");
        body.extend_from_slice(format!("{length} {key}=").as_bytes());
        body.extend_from_slice(value);
        body.push(b'\n');
    }
    body
}

/// Entries, and the end mark.
pub fn archive(entries: &[Vec<u8>]) -> Vec<u8> {
    let mut out = entries.concat();
    out.extend([0; 1024]);
    out
}

/// A tar of plain files.
pub fn files_tar<'a>(files: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Vec<u8> {
    let entries: Vec<_> = files
        .into_iter()
        .map(|(name, content)| raw(name.as_bytes(), b'0', b"", 0o644, content))
        .collect();
    archive(&entries)
}
