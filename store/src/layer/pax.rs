//! PAX extended header records (POSIX.1-2017, pax, "pax Header Block"): `LENGTH KEY=VALUE\n`.
//!
//! Keys that change what an entry is are understood, time stamps and names of
//! owners are passed over, and what would be lost is told. A value may hold
//! any byte but, in paths, NUL.

use std::collections::BTreeMap;

use super::entry::Time;
use super::sparse::Segment;

const XATTR: &[u8] = b"SCHILY.xattr.";

/// What the records of one header say.
#[derive(Debug, Clone, Default)]
pub(super) struct Records {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<i128>,
    pub(super) gid: Option<i128>,
    pub(super) mtime: Option<Time>,
    pub(super) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    pub(super) sparse: Option<Sparse>,
    /// What has no place in a layer, for the notes.
    pub(super) skipped: Vec<&'static str>,
}

/// GNU's sparse files in PAX form (tar manual, "Storing Sparse Files").
#[derive(Debug, Clone, Default)]
pub(super) struct Sparse {
    /// Bytes of the whole file.
    pub(super) size: Option<u64>,
    /// Forms 0.0 and 0.1; in form 1.0 the map is at the head of the content.
    pub(super) map: Option<Vec<Segment>>,
    /// The true name: `path` holds one for readers that do not know better.
    name: Option<Vec<u8>>,
    /// Form 0.0: the offset whose length is still to come.
    offset: Option<u64>,
    /// Forms 0.0 and 0.1: how many pieces the map has.
    pieces: Option<u64>,
    /// Form 1.0 says its number, in two halves.
    major: bool,
    minor: bool,
}

impl Sparse {
    /// Whether all that the form has is there and fits: readers make different files of a part of it.
    fn check(&self) -> Result<(), String> {
        let pieces = self.map.as_ref().map(|map| map.len() as u64);
        match (self.major, self.minor) {
            _ if self.offset.is_some() => Err("a sparse piece without a length".to_owned()),
            (true, true) if pieces.is_none() && self.pieces.is_none() => Ok(()),
            (false, false) if pieces.is_some() && pieces == self.pieces => Ok(()),
            _ => Err("a sparse file in none of GNU tar's forms".to_owned()),
        }
    }
}

impl Records {
    /// Whether anything in them says what an entry is.
    pub(super) fn describe_something(&self) -> bool {
        self.path.is_some()
            || self.link.is_some()
            || self.size.is_some()
            || self.uid.is_some()
            || self.gid.is_some()
            || self.mtime.is_some()
            || self.sparse.is_some()
            || !self.xattrs.is_empty()
            || !self.skipped.is_empty()
    }
}

/// The records of a header's `body`.
///
/// # Errors
/// What is wrong, to be put after "the tar has".
pub(super) fn parse(mut body: &[u8]) -> Result<Records, String> {
    let mut records = Records::default();
    while !body.is_empty() {
        let (key, value, rest) = split(body).ok_or("a malformed PAX record")?;
        take(&mut records, key, value).ok_or_else(|| {
            let key = String::from_utf8_lossy(key.get(..key.len().min(80)).unwrap_or(key));
            format!("an impossible PAX record {key:?}")
        })?;
        body = rest;
    }
    if let Some(sparse) = &mut records.sparse {
        sparse.check()?;
        if let Some(name) = sparse.name.take() {
            records.path = Some(name);
        }
    }
    Ok(records)
}

/// Key and value of the first record, and the bytes after it.
fn split(body: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = body.iter().position(|byte| *byte == b' ')?;
    let (digits, _) = body.split_at_checked(space)?;
    let length = usize::try_from(decimal(digits)?).ok()?;
    let (record, rest) = body.split_at_checked(length)?;
    let text = record.get(space + 1..)?.strip_suffix(b"\n")?;
    let equals = text.iter().position(|byte| *byte == b'=')?;
    let (key, value) = text.split_at_checked(equals)?;
    let plain = !key.is_empty() && !key.iter().any(|byte| matches!(byte, 0 | b'\n'));
    plain.then_some((key, value.get(1..)?, rest))
}

/// Puts one record into its place; none where it cannot be understood.
fn take(records: &mut Records, key: &[u8], value: &[u8]) -> Option<()> {
    if let Some(name) = key.strip_prefix(XATTR) {
        let name = unescape(name);
        if name.is_empty() || name.contains(&0) {
            return None;
        }
        records.xattrs.insert(name, value.to_vec());
        return Some(());
    }
    // POSIX lets an empty value take a record back; tar readers make 0, nothing or an error of it.
    let path = || (!value.is_empty() && !value.contains(&0)).then(|| value.to_vec());
    match key {
        b"path" => records.path = Some(path()?),
        b"linkpath" => records.link = Some(path()?),
        b"size" => records.size = Some(decimal(value)?),
        b"uid" => records.uid = Some(decimal(value)?.into()),
        b"gid" => records.gid = Some(decimal(value)?.into()),
        b"mtime" => records.mtime = Some(time(value)?),
        b"SCHILY.acl.access" | b"SCHILY.acl.default" | b"SCHILY.acl.ace" => {
            records.skipped.push("an ACL in text form");
        }
        b"SCHILY.realsize" => return None,
        _ if key.starts_with(b"GNU.sparse.") => {
            let sparse = records.sparse.get_or_insert_default();
            take_sparse(sparse, key.get(b"GNU.sparse.".len()..)?, value)?;
        }
        _ => {}
    }
    Some(())
}

fn take_sparse(sparse: &mut Sparse, key: &[u8], value: &[u8]) -> Option<()> {
    match key {
        b"size" | b"realsize" => sparse.size = Some(decimal(value)?),
        b"name" if value.contains(&0) => return None,
        b"name" => sparse.name = (!value.is_empty()).then(|| value.to_vec()),
        b"map" => {
            let mut map = Vec::new();
            let mut numbers = value.split(|byte| *byte == b',');
            while let Some(offset) = numbers.next() {
                map.push(Segment {
                    offset: decimal(offset)?,
                    length: decimal(numbers.next()?)?,
                });
            }
            sparse.map = Some(map);
        }
        b"offset" if sparse.offset.is_none() => sparse.offset = Some(decimal(value)?),
        b"numbytes" => {
            let segment = Segment {
                offset: sparse.offset.take()?,
                length: decimal(value)?,
            };
            sparse.map.get_or_insert_default().push(segment);
        }
        b"numblocks" => sparse.pieces = Some(decimal(value)?),
        b"major" if value == b"1" => sparse.major = true,
        b"minor" if value == b"0" => sparse.minor = true,
        _ => return None,
    }
    Some(())
}

/// Digits alone: no sign, no blanks, at most what 64 bits hold.
pub(super) fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// `[-]SECONDS[.FRACTION]`, rounded down to the nanosecond.
fn time(text: &[u8]) -> Option<Time> {
    let (negative, text) = match text.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (whole, fraction) = match text.iter().position(|byte| *byte == b'.') {
        Some(dot) => (text.get(..dot)?, text.get(dot + 1..)?),
        None => (text, &b""[..]),
    };
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let whole = i64::try_from(decimal(whole)?).ok()?;
    let digit = |place: usize| u32::from(fraction.get(place).map_or(0, |byte| byte - b'0'));
    let nanoseconds = (0..9).fold(0, |value, place| value * 10 + digit(place));
    let finer = fraction.iter().skip(9).any(|byte| *byte != b'0');
    if !negative {
        return Some(Time {
            seconds: whole,
            nanoseconds,
        });
    }
    // Down is away from zero here.
    let up = nanoseconds + u32::from(finer);
    let (borrow, nanoseconds) = match up {
        0 => (0, 0),
        up => (1, 1_000_000_000 - up),
    };
    Some(Time {
        seconds: -whole - borrow,
        nanoseconds,
    })
}

/// GNU tar writes `=` and `%` of an attribute's name as `%3D` and `%25`.
fn unescape(name: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(name.len());
    let mut rest = name;
    while let Some((byte, after)) = rest.split_first() {
        let (byte, after) = match rest {
            [b'%', b'3', b'D' | b'd', after @ ..] => (b'=', after),
            [b'%', b'2', b'5', after @ ..] => (b'%', after),
            _ => (*byte, after),
        };
        plain.push(byte);
        rest = after;
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(key: &str, value: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        super::super::write::put_record(&mut out, key.as_bytes(), value);
        out
    }

    #[test]
    fn records_are_binary_safe() {
        let body = [
            record("SCHILY.xattr.user.a%3Db%2525", b"x\ny=\0z"),
            record("path", b"caf\xe9"),
            record("size", b"12"),
            record("comment", b"passed over"),
        ]
        .concat();
        let records = parse(&body).unwrap();
        assert_eq!(records.xattrs[&b"user.a=b%25"[..]], b"x\ny=\0z");
        assert_eq!(records.path.unwrap(), b"caf\xe9");
        assert_eq!(records.size, Some(12));
    }

    #[test]
    fn u17_malformed_records_are_errors() {
        for body in [
            &b"12 size=1"[..],
            b"10 size=12",
            b"9 size=12\n",
            b"12 size=12\n",
            b"-10 size=12\n",
            b" 10 size=1\n",
            b"9 size1\n",
            b"5 =1\n",
            b"99999999999999999999999 a=b\n",
            b"11 size=+1\n\n",
            b"10 size=-1\n",
            b"10 size= 1\n",
            b"11 mtime=x\n",
            b"14 mtime=1.2.3\n",
            b"13 uid=1e3\n\n\n",
            b"\0\0\0\0",
        ] {
            assert!(parse(body).is_err(), "{:?}", String::from_utf8_lossy(body));
        }
        assert!(parse(&record("path", b"a\0b")).is_err());
        assert!(parse(&record("GNU.sparse.name", b"a\0b")).is_err());
        assert!(parse(&record("GNU.sparse.map", b"0,1,2")).is_err());
        assert!(parse(&record("GNU.sparse.offset", b"0")).is_err());
        assert!(parse(&record("GNU.sparse.unheard", b"0")).is_err());
    }

    #[test]
    fn u17_a_sparse_file_has_one_form_and_all_of_it() {
        let all = |records: &[(&str, &str)]| {
            let bodies = records
                .iter()
                .map(|(key, value)| record(&format!("GNU.sparse.{key}"), value.as_bytes()));
            parse(&bodies.collect::<Vec<_>>().concat())
        };
        assert!(all(&[("major", "1"), ("minor", "0"), ("realsize", "5")]).is_ok());
        assert!(all(&[("size", "5"), ("numblocks", "1"), ("map", "0,5")]).is_ok());
        assert!(all(&[("size", "5"), ("numblocks", "1"), ("offset", "0"), ("numbytes", "5")]).is_ok());
        for records in [
            &[("minor", "0"), ("realsize", "5")][..],
            &[("major", "1"), ("realsize", "5")],
            &[("major", "1"), ("minor", "0"), ("map", "0,5")],
            &[("size", "5"), ("map", "0,5")],
            &[("size", "5"), ("numblocks", "2"), ("map", "0,5")],
            &[("size", "5"), ("numblocks", "0")],
        ] {
            assert!(all(records).is_err(), "{records:?}");
        }
    }

    #[test]
    fn times_round_down() {
        for (text, seconds, nanoseconds) in [
            ("0", 0, 0),
            ("1.5", 1, 500_000_000),
            ("1.0000000019", 1, 1),
            ("-1", -1, 0),
            ("-1.5", -2, 500_000_000),
            ("-0.0000000001", -1, 999_999_999),
            ("4102444800.000000001", 4_102_444_800, 1),
        ] {
            let expected = Time { seconds, nanoseconds };
            assert_eq!(time(text.as_bytes()), Some(expected), "{text}");
        }
    }

    #[test]
    fn u17_an_empty_value_is_refused_but_for_an_attribute() {
        for key in ["path", "linkpath", "size", "uid", "gid", "mtime"] {
            assert!(parse(&record(key, b"")).is_err(), "{key}");
        }
        let records = parse(&record("SCHILY.xattr.user.e", b"")).unwrap();
        assert_eq!(records.xattrs[&b"user.e"[..]], b"");
    }
}
