//! A stream read in pieces that are full: all but the last have the same length.
//!
//! The memory of a piece is given, so that it can be that of one that is done with: new memory costs a page fault for
//! every 4 KiB, and zeros for all of it before anything is read.

use std::io::{self, Read};

/// Reads until `buffer` is full or the stream at its end; gives how many bytes there were.
///
/// # Errors
/// The stream's; what was read before it is lost.
pub fn fill(from: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match from.read(rest) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(cause) if cause.kind() == io::ErrorKind::Interrupted => {}
            Err(cause) => return Err(cause),
        }
    }
    Ok(filled)
}

/// Makes `piece` the next `length` bytes of the stream, or those that are left, whatever it held before.
///
/// # Errors
/// As for [`fill`].
pub fn refill(from: &mut dyn Read, piece: &mut Vec<u8>, length: usize) -> io::Result<()> {
    // Zeros only what the piece did not have before.
    piece.resize(length, 0);
    let filled = fill(from, piece)?;
    piece.truncate(filled);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives a few bytes at a time, and is interrupted between.
    struct Slow<'a> {
        rest: &'a [u8],
        interrupted: bool,
    }

    impl Read for Slow<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.interrupted = !self.interrupted;
            if self.interrupted {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let most = buffer.len().min(3);
            self.rest.read(&mut buffer[..most])
        }
    }

    #[test]
    fn pieces_are_full_up_to_the_last_and_keep_nothing_of_the_one_before() {
        let mut stream = Slow {
            rest: b"one two three",
            interrupted: false,
        };
        let mut piece = b"what was there".to_vec();
        for expected in [&b"one t"[..], b"wo th", b"ree", b""] {
            refill(&mut stream, &mut piece, 5).unwrap();
            assert_eq!(piece, expected);
        }
    }
}
