//! A pool's superblock: where its trees begin, and what its blocks measure.
//!
//! ```text
//!   0 checksum u32   4 flags u32      8 own block u64   32 magic u64   40 version u32
//!  48 transaction id u64             56 held root u64  64, 192 space maps, 128 bytes each
//! 320 mapping tree u64              328 details tree u64
//! 336 data block, sectors u32       340 metadata block, sectors u32   344 metadata blocks u64
//! 360 incompatible features u32
//! ```
//!
//! Little-endian; `struct thin_disk_superblock` of `drivers/md/dm-thin-metadata.c`.

use super::MOST_BLOCKS;
use super::block::{Block, le32, le64, sum};
use crate::error::{Error, Kind, Result};

/// What its checksum is mixed with.
const SALT: u32 = 160_774;
const MAGIC: u64 = 27_022_010;
/// Sectors of a metadata block.
const METADATA_SECTORS: u32 = 8;
/// Sectors of the smallest data block, of which each is a multiple, and of the largest.
const DATA_SECTORS: (u32, u32) = (128, 1 << 21);

/// What a superblock says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Superblock {
    /// The pool's transaction id.
    pub transaction_id: u64,
    /// The block of the metadata snapshot that is reserved, if one is.
    pub held_root: Option<u64>,
    /// Sectors of 512 bytes per data block.
    pub data_block_sectors: u32,
    /// The tree from thin ids to the roots of their mapping trees.
    pub(super) mapping_root: u64,
    /// The tree from thin ids to their details.
    pub(super) details_root: u64,
}

impl Superblock {
    /// Decodes the superblock that was read from `block`.
    ///
    /// # Errors
    /// Corrupt where it is damaged or none; incompatible where a newer kernel wrote it.
    pub(super) fn decode(bytes: &Block, block: u64) -> Result<Self> {
        let damaged =
            |what: &str| Error::corrupt(format!("block {block} of the pool's metadata, a superblock: {what}"));
        if le64(bytes, 32) != MAGIC {
            return Err(damaged("it has another magic number"));
        }
        if le32(bytes, 0) != sum(bytes, SALT) {
            return Err(damaged("its checksum is wrong"));
        }
        if le64(bytes, 8) != block {
            return Err(damaged("it is that of another block"));
        }
        let (version, features) = (le32(bytes, 40), le32(bytes, 360));
        if !(1..=2).contains(&version) || features != 0 {
            return Err(Error::new(
                Kind::Incompatible,
                format!(
                    "the pool's metadata have version {version} and features {features:#x}, which this plywood does not know"
                ),
            ));
        }
        let sectors = le32(bytes, 336);
        if !sectors.is_multiple_of(DATA_SECTORS.0) || !(DATA_SECTORS.0..=DATA_SECTORS.1).contains(&sectors) {
            return Err(damaged("no data block has that size"));
        }
        if le32(bytes, 340) != METADATA_SECTORS {
            return Err(damaged("no metadata block has that size"));
        }
        let (mapping_root, details_root, held) = (le64(bytes, 320), le64(bytes, 328), le64(bytes, 56));
        if [mapping_root, details_root, held]
            .into_iter()
            .any(|block| block >= MOST_BLOCKS)
        {
            return Err(damaged("it points past the end"));
        }
        Ok(Self {
            transaction_id: le64(bytes, 48),
            held_root: (held != 0).then_some(held),
            data_block_sectors: sectors,
            mapping_root,
            details_root,
        })
    }
}
