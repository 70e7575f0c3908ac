//! Little-endian fields in a block, and the checksum that ext4 puts over them.

pub(super) use crate::ext4::fields::{u16_at, u32_at};

/// CRC32c as ext4 and device-mapper use it: going on from `crc`, not inverted at the end.
pub(super) fn checksum(crc: u32, bytes: &[u8]) -> u32 {
    !crc32c::crc32c_append(!crc, bytes)
}

/// What the checksums of everything that belongs to an inode begin with.
pub(super) fn seed_of(volume: u32, inode: u32, generation: u32) -> u32 {
    checksum(checksum(volume, &inode.to_le_bytes()), &generation.to_le_bytes())
}

/// Puts bytes where there is room for them.
pub(super) fn put(bytes: &mut [u8], at: usize, field: &[u8]) {
    let room = bytes.get_mut(at..at + field.len());
    debug_assert!(room.is_some(), "{} bytes at {at}", field.len());
    if let Some(room) = room {
        room.copy_from_slice(field);
    }
}

/// Two bytes.
pub(super) fn put16(bytes: &mut [u8], at: usize, value: u16) {
    put(bytes, at, &value.to_le_bytes());
}

/// Four bytes.
pub(super) fn put32(bytes: &mut [u8], at: usize, value: u32) {
    put(bytes, at, &value.to_le_bytes());
}

/// The low and the high half of a 32-bit number.
pub(super) fn halves(value: u32) -> (u16, u16) {
    let [a, b, c, d] = value.to_le_bytes();
    (u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d]))
}

/// The low and the high half of a 64-bit number.
pub(super) fn words(value: u64) -> (u32, u32) {
    let [a, b, c, d, e, f, g, h] = value.to_le_bytes();
    (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_not_inverted_at_the_end() {
        // The check value of CRC32c, of which the usual form is the inversion.
        assert_eq!(checksum(!0, b"123456789"), !0xE306_9283);
    }
}
