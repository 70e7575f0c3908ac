//! A metadata block as it lies on the disk: its words and its checksum.

/// Bytes of a metadata block.
pub(super) const SIZE: usize = 4096;

/// A metadata block.
pub(super) type Block = [u8; SIZE];

/// The little-endian word of 4 bytes at `at`, which lies within.
pub(super) fn le32(bytes: &Block, at: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(word)
}

/// The same of 8 bytes.
pub(super) fn le64(bytes: &Block, at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}

/// The checksum that the first word should be: CRC-32C of the others without its final inversion, mixed
/// with what the kind of block has for that (`dm_bm_checksum` of `drivers/md/persistent-data`).
pub(super) fn sum(bytes: &Block, salt: u32) -> u32 {
    !crc32c::crc32c(&bytes[4..]) ^ salt
}
