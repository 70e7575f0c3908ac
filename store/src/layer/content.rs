//! Content into a file: whole, or around its holes.

use std::os::fd::OwnedFd;

use rustix::io::Errno;

/// Bytes of a filesystem block, and so of the smallest hole.
const HOLE: usize = 4096;

/// Writes all of a piece.
pub(super) fn write_at(file: &OwnedFd, mut offset: u64, mut piece: &[u8]) -> Result<(), Errno> {
    while !piece.is_empty() {
        match rustix::io::pwrite(file, piece, offset) {
            Ok(0) => return Err(Errno::IO),
            Ok(count) => {
                offset += count as u64;
                piece = piece.get(count..).unwrap_or_default();
            }
            Err(Errno::INTR) => {}
            Err(cause) => return Err(cause),
        }
    }
    Ok(())
}

/// Writes a piece without its whole blocks of zeros; gives the end of what was written.
pub(super) fn write_around_holes(file: &OwnedFd, offset: u64, piece: &[u8]) -> Result<u64, Errno> {
    let mut end = 0;
    let mut at = offset;
    let mut run = offset;
    let mut rest = piece;
    let mut full: &[u8] = piece;
    loop {
        // Up to the next block of the file.
        let within = usize::try_from(at % HOLE as u64).unwrap_or(0);
        let (block, after) = rest.split_at(rest.len().min(HOLE - within));
        let hole = !block.iter().any(|byte| *byte != 0);
        if hole || block.is_empty() {
            let length = usize::try_from(at - run).unwrap_or(full.len());
            let (data, _) = full.split_at(length.min(full.len()));
            if !data.is_empty() {
                write_at(file, run, data)?;
                end = at;
            }
            if block.is_empty() {
                return Ok(end);
            }
            full = after;
            run = at + block.len() as u64;
        }
        at += block.len() as u64;
        rest = after;
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn u15_zeros_become_holes_and_everything_else_stays() {
        let block = |fill: u8| vec![fill; HOLE];
        let cases = [
            vec![],
            vec![block(1)],
            vec![block(0)],
            vec![block(0), block(1), block(0), block(0), block(2)],
            vec![block(1), block(0), vec![0; 100]],
            vec![vec![0; 100], block(0), vec![3]],
            vec![block(0), vec![0, 0, 1]],
        ];
        for case in cases {
            let whole = case.concat();
            for step in [1000, HOLE, 1 << 20] {
                let file = tempfile::tempfile().unwrap();
                let fd = OwnedFd::from(file.try_clone().unwrap());
                let mut end = 0;
                for (number, piece) in whole.chunks(step).enumerate() {
                    end = write_around_holes(&fd, (number * step) as u64, piece).unwrap().max(end);
                }
                assert!(end <= whole.len() as u64);
                file.set_len(whole.len() as u64).unwrap();
                let mut back = Vec::new();
                (&file).read_to_end(&mut back).unwrap();
                assert_eq!(back, whole);
            }
        }
        let mut file = tempfile::tempfile().unwrap();
        let fd = OwnedFd::from(file.try_clone().unwrap());
        assert_eq!(write_around_holes(&fd, 0, &vec![0; 64 * HOLE]).unwrap(), 0);
        file.set_len(64 * HOLE as u64).unwrap();
        assert_eq!(file.metadata().unwrap().blocks(), 0);
        file.write_all(b"x").unwrap();
    }
}
