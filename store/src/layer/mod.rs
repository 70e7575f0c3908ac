//! Layers: trees into OCI layer tars, and back.
//!
//! - [`read`] gives the entries of a foreign tar, checked and within [`Limits`];
//! - [`apply`] brings them into a directory, by handles only;
//! - [`folder`] is a directory of any tree, mounted or not;
//! - `merge` walks two directories side by side, in canonical order, and [`tree`] digests one;
//! - [`diff`] compares two directories, file by file (`compare`, and `links` for hard links), and writes the
//!   canonical tar of the difference;
//! - `write` is that canonical profile: same tree, same bytes.

pub mod apply;
mod compare;
mod content;
pub mod diff;
mod entry;
pub mod folder;
mod handle;
mod header;
mod links;
mod merge;
mod pax;
mod place;
pub mod read;
mod sparse;
pub mod times;
pub mod tree;
mod whiteout;
mod write;

pub use entry::{Device, Time};
pub use handle::{Node, NodeKind, Xattrs, carried, empty_tree, is_whiteout, remove_tree};
pub use whiteout::is_foreign_mark;

/// Directories that may lie within each other.
const DEPTH: usize = 1024;

/// What a foreign archive may ask for at most.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Bytes of file content, all entries together.
    pub total_bytes: u64,
    /// Bytes of one file.
    pub file_bytes: u64,
    /// Entries.
    pub entries: u64,
    /// Bytes of a path or link target.
    pub path_bytes: usize,
    /// Components of a path.
    pub depth: usize,
    /// Bytes of PAX records and long names of one entry.
    pub header_bytes: u64,
    /// Whether a character device 0:0 may come in: in a folder that overlayfs stacks it is a whiteout.
    pub null_devices: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            total_bytes: 1 << 40,
            file_bytes: 1 << 40,
            entries: 50_000_000,
            path_bytes: 4096,
            depth: DEPTH,
            header_bytes: 1 << 20,
            null_devices: true,
        }
    }
}
