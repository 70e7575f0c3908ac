//! Little-endian numbers out of bytes.

/// Two bytes at an offset; past the end there are zeros.
pub(super) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(array(bytes, at))
}

/// Four bytes at an offset; past the end there are zeros.
pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array(bytes, at))
}

/// A number whose low four bytes and whose upper part are apart.
pub(super) fn joined(low: u32, high: impl Into<u64>) -> u64 {
    u64::from(low) | (high.into() << 32)
}

/// Whether both are the same outside of `masked`: ranges in order, the last of which begins where what counts ends.
pub(super) fn is_same_but(one: &[u8], other: &[u8], masked: &[std::ops::Range<usize>]) -> bool {
    let mut at = 0;
    masked.iter().all(|masked| {
        let same = one.get(at..masked.start) == other.get(at..masked.start);
        at = masked.end;
        same
    })
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let found = bytes.get(at..at.saturating_add(N));
    found.and_then(|found| found.try_into().ok()).unwrap_or([0; N])
}
