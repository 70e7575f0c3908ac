//! A layer straight onto an empty volume: ext4's own structures, written without a mount.
//!
//! ```text
//! tar -> entries -> tree of names and inodes, in memory
//!            content -> blocks, onto the volume as they come, one after the other
//! then directories, inode tables, bitmaps, descriptors, superblock: each from front to back
//! ```
//!
//! The volume is the formatter's work, empty: journal, backups, table positions, UUID and seeds stay as they
//! are. The same layer on the same volume gives the same bytes. The tree is the one that
//! [`apply`](plywood_store::layer::apply) makes on the mounted volume; whatever is unusual, and whatever that
//! would refuse, is *declined*: the volume is then good for nothing, and the layer is applied to a mounted one.
//! Nothing is durable before the volume is synced.

mod allocate;
mod content;
mod directory;
mod extents;
mod fields;
mod finish;
mod geometry;
mod hash;
mod inode;
mod layer;
mod stream;
mod tree;
mod xattr;

use std::io::Read;

use plywood_store::layer::Limits;
use plywood_store::layer::apply::Applied;
use plywood_store::layer::read::Reader;

use self::layer::Layer;
use self::tree::{Id, ROOT};
use crate::blocks::{ReadAt, WriteAt};
use crate::error::{Error, Result};
use crate::ext4::layout;

/// A device, or what stands for one.
pub trait Volume: ReadAt + WriteAt {}

impl<T: ReadAt + WriteAt> Volume for T {}

/// What came of it.
#[derive(Debug)]
pub enum Filled {
    /// The volume holds the layer.
    Whole(Applied),
    /// It holds nothing of use; the layer has to be applied to a mounted volume, for this reason.
    Declined(String),
}

/// Fills an empty volume with a base layer's uncompressed tar, which is read to its end.
///
/// # Errors
/// A tar that cannot be read, or that its [`Reader`] refuses; what the volume fails with.
pub fn fill(volume: &dyn Volume, tar: &mut dyn Read, limits: &Limits) -> Result<Filled> {
    let filled = Layer::new(volume).and_then(|mut layer| {
        layer.take(&mut Reader::new(tar, limits))?;
        layer.finish(volume)
    });
    match filled {
        Ok(applied) => Ok(Filled::Whole(applied)),
        Err(Stop::Declined(why)) => Ok(Filled::Declined(why)),
        Err(Stop::Failed(error)) => Err(error),
    }
}

/// Why the work ended early.
#[derive(Debug)]
enum Stop {
    /// It is none for this writer.
    Declined(String),
    /// It failed.
    Failed(Error),
}

impl Stop {
    fn declined(why: &str) -> Self {
        Self::Declined(why.to_owned())
    }
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// The result of a step of the work.
type Step<T> = Result<T, Stop>;

/// The number of an inode, by the order in which it came: the first behind the reserved ones.
fn inode_of(id: Id) -> u32 {
    match id {
        ROOT => layout::ROOT,
        id => id.saturating_add(10),
    }
}

/// Tells an inode from a later one of the same number, to which the kernel gives a random one.
fn generation_of(inode: u32) -> u32 {
    inode.wrapping_mul(0x9E37_79B1) ^ 0x706C_7977
}
