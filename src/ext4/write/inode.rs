//! An inode's 256 bytes. Format: `Documentation/filesystems/ext4/inodes.rst`.

use super::extents::ROOT_BYTES;
use super::fields::{checksum, halves, put, put16, put32, words};
use super::xattr::INLINE;
use crate::ext4::layout::INODE;
use plywood_store::layer::read::Time;

/// What an inode says.
#[derive(Debug, Clone)]
pub(super) struct Inode<'a> {
    /// Type and permissions.
    pub(super) mode: u16,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) links: u16,
    pub(super) size: u64,
    /// Blocks that it takes, those of its tree and attributes too.
    pub(super) blocks: u32,
    pub(super) flags: u32,
    /// When it was changed, and all its other times.
    pub(super) time: Stamp,
    pub(super) generation: u32,
    /// `i_block`.
    pub(super) root: [u8; ROOT_BYTES],
    /// The block with its extended attributes; 0 for none.
    pub(super) attributes: u32,
    /// Those behind its fields; empty for none.
    pub(super) inline: &'a [u8],
}

/// Bytes of fields behind the first 128.
const EXTRA: u16 = 32;
const FIELDS: usize = INODE - INLINE;
const SUM_LOW: usize = 0x7C;
const SUM_HIGH: usize = 0x82;

/// A time as inodes have it: 34 bits of seconds from 1901 on, and nanoseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Stamp {
    /// The low 32 bits of the seconds.
    pub(super) seconds: u32,
    /// The two bits above, and the nanoseconds.
    pub(super) extra: u32,
}

impl Stamp {
    const FIRST: i64 = i32::MIN as i64;
    const LAST: i64 = Self::FIRST + (1 << 34) - 1;

    /// The nearest that there is; as the kernel does it, the first and the last have no fraction.
    pub(super) fn of(time: Time) -> Self {
        let seconds = time.seconds.clamp(Self::FIRST, Self::LAST);
        let fraction = if seconds == Self::FIRST || seconds == Self::LAST {
            0
        } else {
            time.nanoseconds
        };
        let (low, _) = words(seconds.cast_unsigned());
        let epoch = (seconds - i64::from(low.cast_signed())) >> 32;
        Self {
            seconds: low,
            extra: fraction << 2 | (words(epoch.cast_unsigned()).0 & 3),
        }
    }
}

impl Inode<'_> {
    /// The bytes; `seed` is the inode's.
    pub(super) fn encode(&self, seed: u32) -> [u8; INODE] {
        let mut slot = [0; INODE];
        let s = &mut slot;
        let ((uid, uid_high), (gid, gid_high)) = (halves(self.uid), halves(self.gid));
        let (size, size_high) = words(self.size);
        // Counted in sectors.
        let (blocks, blocks_high) = words(u64::from(self.blocks) * 8);
        put16(s, 0x0, self.mode);
        put16(s, 0x2, uid);
        put32(s, 0x4, size);
        for at in [0x8, 0xC, 0x10, 0x90] {
            put32(s, at, self.time.seconds);
        }
        for at in [0x84, 0x88, 0x8C, 0x94] {
            put32(s, at, self.time.extra);
        }
        put16(s, 0x18, gid);
        put16(s, 0x1A, self.links);
        put32(s, 0x1C, blocks);
        put32(s, 0x20, self.flags);
        put(s, 0x28, &self.root);
        put32(s, 0x64, self.generation);
        put32(s, 0x68, self.attributes);
        put32(s, 0x6C, size_high);
        put16(s, 0x74, halves(blocks_high).0);
        put16(s, 0x78, uid_high);
        put16(s, 0x7A, gid_high);
        put16(s, 0x80, EXTRA);
        put(s, FIELDS, self.inline);
        let (low, high) = halves(checksum(seed, s));
        put16(s, SUM_LOW, low);
        put16(s, SUM_HIGH, high);
        slot
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_kept_from_1901_to_2446() {
        for (seconds, nanoseconds, low, extra) in [
            (0, 0, 0, 0),
            (-1, 5, u32::MAX, 20),
            (1 << 31, 1, 1 << 31, 5),
            (1 << 32, 0, 0, 1),
            (15_032_385_535, 9, 0x7FFF_FFFF, 3),
            (i64::MAX, 9, 0x7FFF_FFFF, 3),
            (i64::MIN, 9, 0x8000_0000, 0),
        ] {
            let stamp = Stamp::of(Time { seconds, nanoseconds });
            assert_eq!((stamp.seconds, stamp.extra), (low, extra), "{seconds}");
        }
    }
}
