//! ext4 as bytes: what plywood's volumes hold, read and written without a mount.
//!
//! A volume is made with one pinned set of features ([`crate::dm::ext4`]), so this room knows that set and
//! refuses everything else. Whoever runs in a container decides what is in these bytes: every number is checked
//! before it is used, every walk is bounded, and what does not fit is an error that names the block.
//!
//! Formats: `Documentation/filesystems/ext4/*.rst` of the kernel.

mod claims;
pub mod content;
pub mod directory;
pub mod extents;
mod fields;
pub mod inode;
pub mod layout;
pub mod superblock;
pub mod tree;
pub mod volume;
pub mod write;
pub mod xattr;
