//! Extended headers: they come before an entry's own one, and say what has no room there.
//!
//! | type | what its body holds |
//! |---|---|
//! | `x` | [PAX records](pax) |
//! | `L`, `K` | GNU's long name and long link target, ended by one NUL |
//! | `g` | PAX records for all entries after it: remarks only |
//!
//! One of each at most, and a name in one of them only: readers differ in which they believe.

use super::fields::number;
use super::stream::Stream;
use crate::Result;
use crate::layer::Limits;
use crate::layer::header::{BLOCK, until_nul};
use crate::layer::pax::{self, Records};

/// What the extended headers of one entry say.
#[derive(Default)]
pub(super) struct Extended {
    records: Option<Records>,
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    /// Bytes of their bodies.
    bytes: u64,
}

impl Extended {
    /// Whether there was none.
    pub(super) fn is_empty(&self) -> bool {
        self.records.is_none() && self.name.is_none() && self.link.is_none()
    }

    /// Takes an extended header, and its body from the stream. False where it is an entry's own.
    pub(super) fn take(&mut self, header: &tar::Header, stream: &mut Stream<'_>, limits: &Limits) -> Result<bool> {
        match header.as_old().linkflag[0] {
            b'x' if self.records.is_none() => {
                self.records = Some(records(header, &mut self.bytes, stream, limits)?);
            }
            b'g' => global(header, stream, limits)?,
            b'L' if self.name.is_none() => self.name = Some(long(header, &mut self.bytes, stream, limits)?),
            b'K' if self.link.is_none() => self.link = Some(long(header, &mut self.bytes, stream, limits)?),
            b'x' | b'L' | b'K' => return Err(stream.bad("two extended headers for one entry")),
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// All that they say, GNU's long names among it.
    pub(super) fn into_records(self, stream: &Stream<'_>) -> Result<Records> {
        let mut records = self.records.unwrap_or_default();
        // GNU tar takes the later one, Go the GNU one, others the PAX one.
        if records.path.is_some() && self.name.is_some() || records.link.is_some() && self.link.is_some() {
            return Err(stream.bad("two long names for one entry"));
        }
        records.path = records.path.or(self.name);
        records.link = records.link.or(self.link);
        Ok(records)
    }
}

/// The body of an extended header; `bytes` are those of all that one entry has.
fn body(header: &tar::Header, bytes: &mut u64, stream: &mut Stream<'_>, limits: &Limits) -> Result<Vec<u8>> {
    let size: u64 = number(&header.as_old().size, "extended header size", stream)?;
    *bytes = bytes.saturating_add(size);
    if *bytes > limits.header_bytes {
        return Err(stream.bad(&format!("extended headers of more than {} bytes", limits.header_bytes)));
    }
    let padded = size.next_multiple_of(BLOCK as u64);
    let mut body = vec![0; usize::try_from(padded).map_err(|_| stream.bad("a huge extended header"))?];
    stream.read_exact(&mut body)?;
    body.truncate(usize::try_from(size).unwrap_or(body.len()));
    Ok(body)
}

fn records(header: &tar::Header, bytes: &mut u64, stream: &mut Stream<'_>, limits: &Limits) -> Result<Records> {
    let body = body(header, bytes, stream, limits)?;
    pax::parse(&body).map_err(|what: String| stream.bad(&what))
}

fn long(header: &tar::Header, bytes: &mut u64, stream: &mut Stream<'_>, limits: &Limits) -> Result<Vec<u8>> {
    // GNU tar reads on to the NUL, whatever the size says; Go up to the size.
    let body = body(header, bytes, stream, limits)?;
    let name = until_nul(&body);
    if name.len() + 1 != body.len() {
        return Err(stream.bad("a long name that does not end with its one NUL"));
    }
    Ok(name.to_vec())
}

/// A global header may carry remarks, as git's does, but describe nothing: some readers let it
/// count for every entry, others for none.
fn global(header: &tar::Header, stream: &mut Stream<'_>, limits: &Limits) -> Result<()> {
    if records(header, &mut 0, stream, limits)?.describe_something() {
        return Err(stream.bad("a global header that describes entries"));
    }
    Ok(())
}
