//! Parent and child of a difference: two trees, and the names in them that can have changed.
//!
//! A tree is mounted, or read from its volume as it is; the differ sees no more of it than [`Side::folder`].

use std::path::Path;

use plywood_store::layer::diff::Scope;
use plywood_store::layer::folder::Folder;

use super::Mounted;
use crate::error::{Result, both};

/// How a difference is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Differ {
    /// In the way that costs least: by changed blocks on thin, by the upper folder on overlay, else by a walk.
    Auto,
    /// By changed blocks and in no other way.
    Block,
    /// By a walk through both trees.
    Walk,
}

/// One of the two trees of a difference.
pub trait Side {
    /// Its root directory.
    fn folder(&self) -> &dyn Folder;

    /// Where a person finds it: a mount point or a device.
    fn path(&self) -> &Path;

    /// Undoes what made it readable.
    ///
    /// # Errors
    /// The kernel's.
    fn close(self: Box<Self>) -> Result<()>;
}

impl Side for Mounted {
    fn folder(&self) -> &dyn Folder {
        Mounted::folder(self)
    }

    fn path(&self) -> &Path {
        Mounted::path(self)
    }

    fn close(self: Box<Self>) -> Result<()> {
        (*self).close()
    }
}

/// Parent and child of a difference, open.
pub struct Comparison {
    /// The names that can have changed. Dropped first: it may read the child.
    pub scope: Box<dyn Scope>,
    /// The layer underneath; none for a snapshot over nothing.
    pub parent: Option<Box<dyn Side>>,
    /// The snapshot, read-only.
    pub child: Box<dyn Side>,
    /// How they were found.
    pub found: Found,
}

/// How the names that can have changed were found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// By changed blocks: the volumes are read as they are, and nothing is mounted.
    Blocks,
    /// In the upper folder.
    Upper,
    /// Not at all: any name may have.
    Walk {
        /// Why not by changed blocks, where those could not tell: then times prove nothing either.
        because: Option<String>,
    },
}

impl std::fmt::Debug for Comparison {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Comparison")
            .field("parent", &self.parent.as_deref().map(Side::path))
            .field("child", &self.child.path())
            .field("scope", &self.scope)
            .field("found", &self.found)
            .finish()
    }
}

impl Comparison {
    /// The parent's root directory.
    pub fn parent(&self) -> Option<&dyn Folder> {
        self.parent.as_deref().map(Side::folder)
    }

    /// The child's root directory.
    pub fn child(&self) -> &dyn Folder {
        self.child.folder()
    }

    /// Whether equal times prove nothing, so that contents are to be compared. Where only what changed is looked at,
    /// that costs little, and a clock that ticks slowly hides no change; where blocks changed that nothing explains,
    /// it is why both trees are walked.
    pub fn is_thorough(&self) -> bool {
        matches!(self.found, Found::Blocks | Found::Walk { because: Some(_) })
    }

    /// Undoes what made both readable.
    ///
    /// # Errors
    /// The kernel's.
    pub fn close(self) -> Result<()> {
        // It may read the child itself.
        drop(self.scope);
        let child = self.child.close();
        both(child, self.parent.map_or(Ok(()), Side::close))
    }
}
