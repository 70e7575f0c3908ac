//! Maps of sparse files, in the forms that GNU tar writes (its manual, "Storing Sparse Files").
//!
//! A map lists the stored pieces of a file. It is believed only when its pieces
//! are in order, do not overlap, lie within the file and add up to what is stored.

use super::header::{BLOCK, number};
use super::pax::decimal;

/// A stored piece of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Segment {
    /// Where in the file, in bytes.
    pub(super) offset: u64,
    /// How many bytes.
    pub(super) length: u64,
}

/// A piece that no map may have.
const IMPOSSIBLE: Segment = Segment {
    offset: u64::MAX,
    length: u64::MAX,
};

/// Whether `map` is one of a file of `size` bytes of which `stored` are in the tar.
pub(super) fn check(map: &[Segment], size: u64, stored: u64) -> Result<(), &'static str> {
    let mut end = 0_u64;
    let mut sum = 0_u64;
    for segment in map {
        if segment.offset < end {
            return Err("a sparse map whose pieces overlap or are out of order");
        }
        end = segment
            .offset
            .checked_add(segment.length)
            .ok_or("a sparse map beyond all sizes")?;
        sum = sum.saturating_add(segment.length);
    }
    if end > size {
        return Err("a sparse map beyond the end of its file");
    }
    if sum != stored {
        return Err("a sparse map that does not add up to what is stored");
    }
    Ok(())
}

/// Adds the pieces of an old GNU header; false once the list has ended. What some readers take for
/// more of it behind its end makes a map that [`check`] refuses.
pub(super) fn take_old(pieces: &[tar::GnuSparseHeader], map: &mut Vec<Segment>) -> bool {
    let listed = pieces
        .iter()
        .take_while(|piece| push(&piece.offset, &piece.numbytes, map))
        .count();
    for piece in pieces.iter().skip(listed) {
        if push(&piece.offset, &piece.numbytes, map) {
            map.push(IMPOSSIBLE);
        }
    }
    listed == pieces.len()
}

/// Adds the pieces of an extension block; whether another one follows.
pub(super) fn take_extension(block: &[u8; BLOCK], map: &mut Vec<Segment>) -> bool {
    let (pieces, _) = block.split_at(21 * 24);
    let all = pieces.chunks_exact(24).all(|piece| {
        let (offset, length) = piece.split_at(12);
        push(offset, length, map)
    });
    all && block.get(21 * 24).is_some_and(|more| *more != 0)
}

/// An empty piece ends the list; a field that is no number makes a map that [`check`] refuses.
fn push(offset: &[u8], length: &[u8], map: &mut Vec<Segment>) -> bool {
    if [offset, length].concat().iter().all(|byte| *byte == 0) {
        return false;
    }
    let field = |field| number(field).and_then(|number| u64::try_from(number).ok());
    map.push(Segment {
        offset: field(offset).unwrap_or(u64::MAX),
        length: field(length).unwrap_or(u64::MAX),
    });
    true
}

/// The decimal lines at the head of a PAX 1.0 sparse file, block by block.
#[derive(Debug, Default)]
pub(super) struct Lines {
    line: Vec<u8>,
    wanted: Option<usize>,
    offset: Option<u64>,
    map: Vec<Segment>,
}

impl Lines {
    /// Takes a block; the map once it is whole.
    pub(super) fn take(&mut self, block: &[u8], most: usize) -> Result<Option<Vec<Segment>>, &'static str> {
        for byte in block {
            if *byte != b'\n' {
                self.line.push(*byte);
                if self.line.len() > 20 {
                    return Err("a sparse map that is no list of numbers");
                }
                continue;
            }
            let number = decimal(&std::mem::take(&mut self.line)).ok_or("a sparse map that is no list of numbers")?;
            match (self.wanted, self.offset.take()) {
                (None, _) => {
                    let wanted = usize::try_from(number).unwrap_or(usize::MAX);
                    if wanted > most {
                        return Err("too many pieces of a sparse file");
                    }
                    self.wanted = Some(wanted);
                }
                (Some(_), None) => self.offset = Some(number),
                (Some(_), Some(offset)) => self.map.push(Segment { offset, length: number }),
            }
            if self.wanted == Some(self.map.len()) {
                return Ok(Some(std::mem::take(&mut self.map)));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(offset: u64, length: u64) -> Segment {
        Segment { offset, length }
    }

    #[test]
    fn u15_maps_that_overlap_or_reach_out_are_refused() {
        assert!(check(&[segment(0, 5), segment(10, 5), segment(20, 0)], 20, 10).is_ok());
        for (map, size, stored) in [
            (vec![segment(5, 5), segment(0, 5)], 20, 10),
            (vec![segment(0, 6), segment(5, 5)], 20, 11),
            (vec![segment(0, 5)], 4, 5),
            (vec![segment(0, 5)], 20, 6),
            (vec![segment(u64::MAX, 5)], 20, 5),
        ] {
            assert!(check(&map, size, stored).is_err(), "{map:?}");
        }
    }

    #[test]
    fn decimal_lines_may_cross_blocks() {
        let mut lines = Lines::default();
        assert_eq!(lines.take(b"2\n0\n5\n1", 9), Ok(None));
        assert_eq!(
            lines.take(b"0\n5\n\0\0", 9),
            Ok(Some(vec![segment(0, 5), segment(10, 5)]))
        );
        assert!(Lines::default().take(b"x\n", 9).is_err());
        assert!(Lines::default().take(b"10\n", 9).is_err());
        assert_eq!(Lines::default().take(b"0\n", 9), Ok(Some(vec![])));
    }
}
