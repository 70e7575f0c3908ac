//! The envelope around every record: kind, version, checksum.
//!
//! ```text
//! {"plywood":"layer","version":1,"checksum":"sha256:…","body":{…}}
//! ```
//!
//! The checksum is of the body's bytes as they stand in the file; the envelope's
//! own bytes must be the ones that we would write. So one changed byte is always seen.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::error::Context;
use crate::{Digest, Error, Kind, Result};

/// The version of the envelope and of the bodies in it.
const VERSION: u32 = 1;
/// Bytes that a record's file may have.
const RECORD_MAX: u64 = 1 << 20;
/// Bytes that are read at once: most records have fewer.
const USUAL: usize = 4096;

#[derive(Serialize, Deserialize)]
struct Envelope<'a> {
    plywood: String,
    version: u32,
    checksum: Digest,
    #[serde(borrow)]
    body: &'a RawValue,
}

/// The file content of `body` as a record of `kind`.
///
/// # Errors
/// Invalid where it would be larger than a record may be.
pub fn encode<T: Serialize>(kind: &str, body: &T) -> Result<Vec<u8>> {
    let unfit = |error| Error::invalid(format!("cannot write a {kind} record")).caused_by(error);
    let body = serde_json::value::to_raw_value(body).map_err(unfit)?;
    let text = seal(kind, &body).map_err(unfit)?;
    if text.len() as u64 > RECORD_MAX {
        return Err(Error::invalid(format!(
            "a {kind} record of {} bytes is larger than the {RECORD_MAX} that a record may have",
            text.len()
        )));
    }
    Ok(text)
}

fn seal(kind: &str, body: &RawValue) -> serde_json::Result<Vec<u8>> {
    serde_json::to_vec(&Envelope {
        plywood: kind.to_owned(),
        version: VERSION,
        checksum: Digest::of(body.get().as_bytes()),
        body,
    })
}

/// The body of a record of `kind`, as [`encode`] wrote it. `path` is for messages.
///
/// # Errors
/// Corrupt where one byte is not as it was written; incompatible where a newer
/// plywood wrote it.
pub fn decode<T: DeserializeOwned>(kind: &str, content: &[u8], path: &Path) -> Result<T> {
    let damaged = |why: &str| {
        Error::corrupt(format!("the record {} is damaged: {why}", path.display()))
            .hinted("`plywood check` lists all that is damaged and what it touches")
    };
    let envelope: Envelope<'_> =
        serde_json::from_slice(content).map_err(|error| damaged("no envelope").caused_by(error))?;
    if envelope.plywood != kind {
        return Err(damaged(&format!(
            "it says {:?} where {kind:?} belongs",
            envelope.plywood
        )));
    }
    let too_new = |what: &str| {
        Error::new(Kind::Incompatible, format!("the record {} {what}", path.display()))
            .hinted("a newer plywood made it: use that one")
    };
    if envelope.version != VERSION {
        return Err(too_new(&format!(
            "has version {}, this plywood knows {VERSION}",
            envelope.version
        )));
    }
    if Digest::of(envelope.body.get().as_bytes()) != envelope.checksum {
        return Err(damaged("its checksum does not fit"));
    }
    // The envelope's own bytes are not under the checksum: they must be the ones that we write.
    let canonical = seal(kind, envelope.body).is_ok_and(|text| text == content);
    if !canonical {
        return Err(damaged("its envelope is not as it was written"));
    }
    serde_json::from_str(envelope.body.get())
        .map_err(|error| too_new("has a body that this plywood does not know").caused_by(error))
}

/// The content of a record's file, or none where it is missing.
pub(crate) fn read_file(path: &Path) -> Result<Option<Vec<u8>>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io("open record", path, error)),
    };
    let mut content = Vec::with_capacity(USUAL);
    file.take(RECORD_MAX + 1)
        .read_to_end(&mut content)
        .context("read record", path)?;
    if content.len() as u64 > RECORD_MAX {
        return Err(Error::corrupt(format!(
            "the record {} is larger than a record can be",
            path.display()
        )));
    }
    Ok(Some(content))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ImageId;
    use crate::record::NameRecord;

    fn name(text: &str) -> NameRecord {
        NameRecord {
            name: text.parse().unwrap(),
            image: ImageId(Digest::of(text.as_bytes())),
        }
    }

    #[test]
    fn every_changed_byte_is_refused() {
        let path = Path::new("x.json");
        let record = name("base:12");
        let good = encode("name", &record).unwrap();
        assert_eq!(decode::<NameRecord>("name", &good, path).unwrap(), record);
        for at in 0..good.len() {
            for flip in 1..=255 {
                let mut bad = good.clone();
                bad[at] ^= flip;
                let error = decode::<NameRecord>("name", &bad, path).unwrap_err();
                assert!(
                    matches!(error.kind(), Kind::Corrupt | Kind::Incompatible),
                    "{at} {flip}"
                );
            }
            assert!(decode::<NameRecord>("name", &good[..at], path).is_err());
        }
        for bad in [[&good[..], b"\n"].concat(), [b" ", &good[..]].concat()] {
            assert!(decode::<NameRecord>("name", &bad, path).is_err());
        }
    }

    #[test]
    fn corrupt_is_not_incompatible() {
        let path = Path::new("x.json");
        let newer = encode("name", &name("a")).unwrap();
        let newer = String::from_utf8(newer).unwrap();
        let newer = newer.replace("\"version\":1", "\"version\":2");
        let error = decode::<NameRecord>("name", newer.as_bytes(), path).unwrap_err();
        assert_eq!(error.kind(), Kind::Incompatible);
        let other = encode("image", &name("a")).unwrap();
        let error = decode::<NameRecord>("name", &other, path).unwrap_err();
        assert_eq!(error.kind(), Kind::Corrupt);
        let unknown = encode("name", &"something else").unwrap();
        let error = decode::<NameRecord>("name", &unknown, path).unwrap_err();
        assert_eq!(error.kind(), Kind::Incompatible);
    }
}
