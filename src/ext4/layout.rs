//! Where things are on an ext4 disk: numbers only, as `Documentation/filesystems/ext4/*.rst` gives them.
//!
//! What [`mkfs`](crate::dm::ext4) pins: 4 KiB blocks, 256-byte inodes, extents, 64-bit descriptors, flex_bg,
//! metadata_csum with the seed taken from the UUID.

/// Bytes per block.
pub const BLOCK: usize = 4096;
/// Bytes per inode.
pub const INODE: usize = 256;
/// Inodes in one block of an inode table.
pub const INODES_PER_BLOCK: u64 = (BLOCK / INODE) as u64;
/// Bytes per group descriptor with the feature 64bit.
pub const DESCRIPTOR: usize = 64;
/// Where the superblock begins, in bytes.
pub const SUPERBLOCK: u64 = 1024;
/// Bytes of the superblock.
pub const SUPERBLOCK_BYTES: usize = 1024;
/// `s_magic`.
pub const MAGIC: u16 = 0xEF53;

/// The root directory's inode number.
pub const ROOT: u32 = 2;
/// The first inode number of a file, as every formatter has it.
pub const FIRST_INODE: u32 = 11;
/// That of the resize inode.
pub const RESIZE: u32 = 7;
/// That of the journal.
pub const JOURNAL: u32 = 8;

/// `s_feature_incompat`.
pub mod incompat {
    /// Directory entries have a type.
    pub const FILETYPE: u32 = 0x2;
    /// The journal has to be replayed.
    pub const RECOVER: u32 = 0x4;
    /// Files are mapped by extents.
    pub const EXTENTS: u32 = 0x40;
    /// 64-byte descriptors.
    pub const BIT64: u32 = 0x80;
    /// Bitmaps and tables are anywhere.
    pub const FLEX_BG: u32 = 0x200;
}

/// `s_feature_ro_compat`.
pub mod ro_compat {
    /// Backups in groups 0, 1 and powers of 3, 5, 7.
    pub const SPARSE_SUPER: u32 = 0x1;
    /// Files of 2 GiB and more.
    pub const LARGE_FILE: u32 = 0x2;
    /// `i_blocks` may count blocks.
    pub const HUGE_FILE: u32 = 0x8;
    /// Directories may have more than 65,000 subdirectories: their links are 1 then.
    pub const DIR_NLINK: u32 = 0x20;
    /// Inodes have fields past 128 bytes.
    pub const EXTRA_ISIZE: u32 = 0x40;
    /// Checksums everywhere.
    pub const METADATA_CSUM: u32 = 0x400;
}

/// `s_feature_compat`.
pub mod compat {
    /// There is a journal.
    pub const HAS_JOURNAL: u32 = 0x4;
    /// Extended attributes.
    pub const EXT_ATTR: u32 = 0x8;
    /// Directories may have a hash tree.
    pub const DIR_INDEX: u32 = 0x20;
}

/// `i_flags`.
pub mod flag {
    /// The directory has a hash tree.
    pub const INDEX: u32 = 0x1000;
    /// `i_block` is the root of an extent tree.
    pub const EXTENTS: u32 = 0x8_0000;
    /// The inode's own bytes are an extended attribute's value.
    pub const EA_INODE: u32 = 0x20_0000;
    /// The file's content is in the inode.
    pub const INLINE_DATA: u32 = 0x1000_0000;
    /// Encrypted.
    pub const ENCRYPT: u32 = 0x800;
    /// Compressed.
    pub const COMPRESSED: u32 = 0x4;
}

/// `bg_flags`.
pub mod group {
    /// The inode bitmap is not initialised: no inode is in use.
    pub const INODE_UNINIT: u16 = 1;
    /// The block bitmap is not initialised: only the group's own metadata are in use.
    pub const BLOCK_UNINIT: u16 = 2;
    /// The inode table was zeroed.
    pub const INODE_ZEROED: u16 = 4;
}

/// `i_mode`'s types.
pub mod mode {
    /// All type bits.
    pub const TYPE: u16 = 0xF000;
    /// FIFO.
    pub const FIFO: u16 = 0x1000;
    /// Character device.
    pub const CHARACTER: u16 = 0x2000;
    /// Directory.
    pub const DIRECTORY: u16 = 0x4000;
    /// Block device.
    pub const BLOCK: u16 = 0x6000;
    /// Regular file.
    pub const FILE: u16 = 0x8000;
    /// Symbolic link.
    pub const SYMLINK: u16 = 0xA000;
    /// Socket.
    pub const SOCKET: u16 = 0xC000;
}

/// Magic of an extent node's header.
pub const EXTENT_MAGIC: u16 = 0xF30A;
/// Magic before extended attributes, in an inode and in a block of their own.
pub const XATTR_MAGIC: u32 = 0xEA02_0000;
/// The type of the entry that holds a directory block's checksum.
pub const CHECKSUM_ENTRY: u8 = 0xDE;
/// An extent of more blocks than this is unwritten, and reads as zeros.
pub const LONGEST_EXTENT: u16 = 32768;
