//! Where the stored bytes of a file go: all in a row, or by a sparse map in one of GNU tar's forms.
//!
//! | form | size of the file | map |
//! |---|---|---|
//! | old GNU (type `S`) | in its header | in its header, and blocks after it |
//! | PAX 0.0, 0.1 | a record | records |
//! | PAX 1.0 | a record | at the head of the content |

use super::fields::number;
use super::stream::Stream;
use crate::Result;
use crate::layer::Limits;
use crate::layer::header::{BLOCK, Form, form_of};
use crate::layer::pax::{Records, Sparse};
use crate::layer::sparse::{self, Segment};

/// What the size field of a header holds in octal, in bytes: beyond that a PAX record is needed.
const MOST_IN_HEADER: u64 = (8 << 30) - 1;

/// Lays out the `stored` bytes of the entry at hand; gives how long the file is.
pub(super) fn lay_out(
    header: &tar::Header,
    records: &mut Records,
    stored: u64,
    stream: &mut Stream<'_>,
    limits: &Limits,
) -> Result<u64> {
    let (map, size) = if header.as_old().linkflag[0] == b'S' {
        old_gnu(header, records, stream, limits)?
    } else if let Some(form) = records.sparse.take() {
        pax(header, form, records, stream, limits)?
    } else {
        let whole = Segment {
            offset: 0,
            length: stored,
        };
        (vec![whole], stored)
    };
    stream.lay_out(map, size)?;
    Ok(size)
}

fn old_gnu(
    header: &tar::Header,
    records: &Records,
    stream: &mut Stream<'_>,
    limits: &Limits,
) -> Result<(Vec<Segment>, u64)> {
    let Some(gnu) = header.as_gnu() else {
        return Err(stream.bad("a GNU sparse file without a GNU header"));
    };
    if records.size.is_some() {
        return Err(stream.bad("a GNU sparse file with a PAX size: that of the file or of what is stored"));
    }
    let size = number(&gnu.realsize, "real size", stream)?;
    let mut map = Vec::new();
    let is_full = sparse::take_old(&gnu.sparse, &mut map);
    let mut more = gnu.isextended[0] != 0;
    if more && !is_full {
        return Err(stream.bad("a sparse map that goes on behind its end"));
    }
    while more {
        let mut block = [0; BLOCK];
        stream.read_exact(&mut block)?;
        more = sparse::take_extension(&block, &mut map);
        if map.len() > most_segments(limits) {
            return Err(stream.bad("too many pieces of a sparse file"));
        }
    }
    Ok((map, size))
}

fn pax(
    header: &tar::Header,
    form: Sparse,
    records: &Records,
    stream: &mut Stream<'_>,
    limits: &Limits,
) -> Result<(Vec<Segment>, u64)> {
    if form_of(header) != Some(Form::Ustar) {
        return Err(stream.bad("a PAX sparse file whose header is not a PAX one"));
    }
    // Python's tarfile goes on behind the wrong one of the two.
    if records.size.is_some_and(|size| size <= MOST_IN_HEADER) {
        return Err(stream.bad("a sparse file whose size is told twice"));
    }
    let size = form.size.ok_or_else(|| stream.bad("a sparse file without its size"))?;
    let map = match form.map {
        Some(map) => map,
        None => map_in_content(stream, limits)?,
    };
    Ok((map, size))
}

/// The map of a PAX 1.0 sparse file: decimal lines at the head of its content, padded to a block.
fn map_in_content(stream: &mut Stream<'_>, limits: &Limits) -> Result<Vec<Segment>> {
    let mut parser = sparse::Lines::default();
    loop {
        let Some(block) = stream.stored_block()? else {
            return Err(stream.bad("a sparse map that is cut off"));
        };
        match parser.take(&block, most_segments(limits)) {
            Ok(None) => {}
            Ok(Some(map)) => return Ok(map),
            Err(what) => return Err(stream.bad(what)),
        }
    }
}

/// Sparse pieces that the header limit leaves room for, at 24 bytes each as GNU tar writes them.
fn most_segments(limits: &Limits) -> usize {
    usize::try_from(limits.header_bytes / 24).unwrap_or(usize::MAX)
}
