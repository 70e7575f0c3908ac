//! An inode: 256 bytes that say what a file is.

use std::ops::Range;

use plywood_store::layer::{Device, Node, NodeKind, Time};

use super::fields::{is_same_but, joined, u16_at, u32_at};
use super::layout::{INODE, flag, mode};
use crate::error::{Error, Result};

/// Bytes of a small symlink's target, of two device numbers, or of the root of an extent tree.
pub const PAYLOAD: usize = 60;

/// An inode as it is on the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inode {
    number: u32,
    raw: Box<[u8; INODE]>,
}

impl Inode {
    /// The inode `number`, whose 256 bytes are given.
    ///
    /// # Errors
    /// Corrupt where there are fewer.
    pub fn parse(number: u32, bytes: &[u8]) -> Result<Self> {
        let raw = bytes
            .try_into()
            .map_err(|_| Error::corrupt(format!("inode {number} is cut short")))?;
        Ok(Self {
            number,
            raw: Box::new(raw),
        })
    }

    /// Its number.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// Its bytes.
    pub(super) fn raw(&self) -> &[u8; INODE] {
        &self.raw
    }

    /// `i_mode`.
    pub fn mode(&self) -> u16 {
        u16_at(&*self.raw, 0x00)
    }

    /// `i_links_count`: names; 0 of one that is deleted.
    pub fn links(&self) -> u16 {
        u16_at(&*self.raw, 0x1A)
    }

    /// `i_flags`.
    pub fn flags(&self) -> u32 {
        u32_at(&*self.raw, 0x20)
    }

    /// Bytes of content.
    pub fn size(&self) -> u64 {
        joined(u32_at(&*self.raw, 0x04), u32_at(&*self.raw, 0x6C))
    }

    /// `i_block`.
    pub fn payload(&self) -> &[u8] {
        self.raw.get(0x28..0x28 + PAYLOAD).unwrap_or_default()
    }

    /// The block of its extended attributes; 0 for none.
    pub fn xattr_block(&self) -> u64 {
        joined(u32_at(&*self.raw, 0x68), u16_at(&*self.raw, 0x76))
    }

    /// Bytes of its fields past the first 128.
    pub(super) fn extra(&self) -> usize {
        usize::from(u16_at(&*self.raw, 0x80))
    }

    /// Whether it is a directory.
    pub fn is_directory(&self) -> bool {
        self.mode() & mode::TYPE == mode::DIRECTORY
    }

    /// Whether its content is found by extents.
    pub fn has_extents(&self) -> bool {
        self.flags() & flag::EXTENTS != 0
    }

    /// What tells this file from another that has the number later: generation, creation, type.
    pub fn identity(&self) -> (u32, u32, u32, u16) {
        (
            u32_at(&*self.raw, 0x64),
            u32_at(&*self.raw, 0x90),
            u32_at(&*self.raw, 0x94),
            self.mode() & mode::TYPE,
        )
    }

    /// What a layer can say about it.
    ///
    /// # Errors
    /// Corrupt where its type is none, or it has fields that plywood's volumes never have.
    pub fn node(&self) -> Result<Node> {
        let unknown = flag::EA_INODE | flag::INLINE_DATA | flag::ENCRYPT | flag::COMPRESSED;
        let kind = match self.mode() & mode::TYPE {
            mode::FILE => Some(NodeKind::File),
            mode::DIRECTORY => Some(NodeKind::Directory),
            mode::SYMLINK => Some(NodeKind::Symlink),
            mode::CHARACTER => Some(NodeKind::Character),
            mode::BLOCK => Some(NodeKind::Block),
            mode::FIFO => Some(NodeKind::Fifo),
            mode::SOCKET => Some(NodeKind::Socket),
            _ => None,
        };
        let Some(kind) = kind.filter(|_| self.flags() & unknown == 0) else {
            return Err(Error::corrupt(format!(
                "inode {} is of a type that is not known (mode {:#o}, flags {:#x})",
                self.number,
                self.mode(),
                self.flags()
            )));
        };
        Ok(Node {
            kind,
            mode: u32::from(self.mode()) & 0o7777,
            uid: u32::from(u16_at(&*self.raw, 0x02)) | u32::from(u16_at(&*self.raw, 0x78)) << 16,
            gid: u32::from(u16_at(&*self.raw, 0x18)) | u32::from(u16_at(&*self.raw, 0x7A)) << 16,
            device: match kind {
                NodeKind::Character | NodeKind::Block => self.device(),
                _ => Device { major: 0, minor: 0 },
            },
            size: self.size(),
            mtime: self.time(0x10, 0x88),
            ctime: self.time(0x0C, 0x84),
            filesystem: 0,
            inode: u64::from(self.number),
            links: u64::from(self.links()),
        })
    }

    /// The old encoding, 8 and 8 bits, or where it is zero the new one, 12 and 20 (`fs/ext4/ext4.h` and
    /// `include/linux/kdev_t.h` name both).
    fn device(&self) -> Device {
        let (old, new) = (u32_at(self.payload(), 0), u32_at(self.payload(), 4));
        if old != 0 {
            return Device {
                major: (old >> 8) & 0xFF,
                minor: old & 0xFF,
            };
        }
        Device {
            major: (new >> 8) & 0xFFF,
            minor: (new & 0xFF) | ((new >> 12) & 0xF_FF00),
        }
    }

    /// A time: its seconds, and where there is room for it 2 bits more of them and the nanoseconds.
    fn time(&self, seconds: usize, extra: usize) -> Time {
        let low = i64::from(u32_at(&*self.raw, seconds).cast_signed());
        let end = extra + 4;
        let extra = if self.extra() + 0x80 >= end {
            u32_at(&*self.raw, extra)
        } else {
            0
        };
        Time {
            seconds: low + (i64::from(extra & 3) << 32),
            nanoseconds: (extra >> 2).min(999_999_999),
        }
    }

    /// Whether both say the same, but for what reading a file changes and what follows from the rest: access time,
    /// version, checksum.
    pub fn is_same(one: &[u8], other: &[u8]) -> bool {
        const MASKED: [Range<usize>; 7] = [
            0x08..0x0C,
            0x24..0x28,
            0x7C..0x7E,
            0x82..0x84,
            0x8C..0x90,
            0x98..0x9C,
            INODE..INODE,
        ];
        is_same_but(one, other, &MASKED)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inode(bytes: &[(usize, &[u8])]) -> Inode {
        let mut raw = [0; INODE];
        for (at, bytes) in bytes {
            raw[*at..*at + bytes.len()].copy_from_slice(bytes);
        }
        Inode::parse(12, &raw).unwrap()
    }

    #[test]
    fn times_go_from_1901_to_2446() {
        let extra = (0x80, 32u16.to_le_bytes());
        for (low, high, seconds) in [(-1i32, 0u32, -1i64), (-1, 1, (1 << 32) - 1), (7, 3, 7 + (3 << 32))] {
            let made = inode(&[
                (extra.0, &extra.1),
                (0x10, &low.to_le_bytes()),
                (0x88, &(high | 5 << 2).to_le_bytes()),
            ]);
            assert_eq!(
                made.time(0x10, 0x88),
                Time {
                    seconds,
                    nanoseconds: 5
                }
            );
        }
    }

    #[test]
    fn device_numbers_are_in_either_encoding() {
        let old = inode(&[(0, &mode::BLOCK.to_le_bytes()), (0x28, &0x0803u32.to_le_bytes())]);
        assert_eq!(old.node().unwrap().device, Device { major: 8, minor: 3 });
        let new = inode(&[(0, &mode::BLOCK.to_le_bytes()), (0x2C, &0x1234_0567u32.to_le_bytes())]);
        assert_eq!(
            new.node().unwrap().device,
            Device {
                major: 0x405 & 0xFFF,
                minor: 0x67 | 0x1_2300
            }
        );
    }

    #[test]
    fn reading_a_file_does_not_change_it() {
        let before = inode(&[]);
        let read = inode(&[(0x08, &[1; 4]), (0x8C, &[1; 4]), (0x82, &[1; 2])]);
        assert!(Inode::is_same(before.raw(), read.raw()));
        for at in [0, 0x0C, 0x28, 0x64, 0x90, 0xFF] {
            assert!(!Inode::is_same(before.raw(), inode(&[(at, &[1])]).raw()), "{at:#x}");
        }
    }
}
