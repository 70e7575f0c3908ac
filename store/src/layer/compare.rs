//! Whether a tar could tell two files apart: those of one name in two trees, or the trees' own roots.
//!
//! It tells them apart by type, mode, owner, device, size, mtime, extended attributes that layers
//! carry, link target and content. With `clamp_mtime`, mtimes are compared as they would be written,
//! so that a parent which kept its own gives the same bytes as one that was unpacked from its layer.
//! Contents and attributes are read only where inode number and change time do not settle it: a
//! snapshot shares both with its origin, and no write leaves the change time alone.

use std::path::Path;

use super::diff::Options;
use super::entry::Time;
use super::folder::Folder;
use super::handle::{Node, NodeKind, Xattrs};
use super::merge::{At, failed};
use crate::piece::fill;
use crate::{Error, Result};

/// Bytes of each of two contents that are compared at once.
const BUFFER: usize = 256 << 10;

/// The roots' own attributes.
pub(super) struct Root {
    pub(super) node: Node,
    pub(super) xattrs: Xattrs,
    /// An mtime alone does not count: mounting and unpacking move it.
    pub(super) changed: bool,
}

impl Root {
    pub(super) fn compare(parent: Option<&dyn Folder>, child: &dyn Folder) -> Result<Self> {
        let at = Path::new("");
        let read = |root: &dyn Folder| {
            let node = root.own().map_err(|cause| failed("look at", at, cause))?;
            let xattrs = root.own_xattrs(&mut |_| {});
            let xattrs = xattrs.map_err(|cause| failed("read the attributes of", at, cause))?;
            Ok::<_, Error>((node, xattrs))
        };
        let (node, xattrs) = read(child)?;
        // An empty snapshot's root has 0755 and 0:0, on every driver.
        let mut before = (0o755, 0, 0, Xattrs::new());
        if let Some(parent) = parent {
            let (old, attributes) = read(parent)?;
            before = (old.mode, old.uid, old.gid, attributes);
        }
        let changed = (node.mode, node.uid, node.gid, &xattrs) != (before.0, before.1, before.2, &before.3);
        Ok(Self { node, xattrs, changed })
    }
}

/// Whether a tar could tell the parent's file at a name from the child's, their other names left aside.
pub(super) fn differs(at: &At<'_>, old: &Node, new: &Node, options: &Options) -> Result<bool> {
    let visible = |node: &Node| {
        (
            node.kind,
            // A link's own mode means nothing, and differs between filesystems.
            if node.kind == NodeKind::Symlink { 0 } else { node.mode },
            node.uid,
            node.gid,
            node.device,
            if node.kind == NodeKind::File { node.size } else { 0 },
            clamped(node.mtime, options.clamp_mtime),
        )
    };
    if visible(old) != visible(new) {
        return Ok(true);
    }
    let settled = (old.inode, old.ctime, old.mtime) == (new.inode, new.ctime, new.mtime);
    let Some(parent) = at.parent.filter(|_| !settled || options.thorough) else {
        return Ok(false);
    };
    let xattrs = |dir: &dyn Folder| {
        let read = dir.xattrs(at.name, &mut |_| {});
        read.map_err(|cause| failed("read the attributes of", at.path, cause))
    };
    if xattrs(parent)? != xattrs(at.child)? {
        return Ok(true);
    }
    match new.kind {
        NodeKind::File => contents_differ(at, parent),
        NodeKind::Symlink => {
            let target = |dir: &dyn Folder| {
                let read = dir.link_target(at.name);
                read.map_err(|cause| failed("read", at.path, cause))
            };
            Ok(target(parent)? != target(at.child)?)
        }
        _ => Ok(false),
    }
}

fn contents_differ(at: &At<'_>, parent: &dyn Folder) -> Result<bool> {
    let open = |dir: &dyn Folder| dir.file(at.name).map_err(|cause| failed("open", at.path, cause));
    let (mut old, mut new) = (open(parent)?, open(at.child)?);
    let mut buffers = (vec![0; BUFFER], vec![0; BUFFER]);
    loop {
        let ours = fill(&mut old, &mut buffers.0).map_err(|cause| failed("read", at.path, cause))?;
        let theirs = fill(&mut new, &mut buffers.1).map_err(|cause| failed("read", at.path, cause))?;
        if buffers.0.get(..ours) != buffers.1.get(..theirs) {
            return Ok(true);
        }
        if ours == 0 {
            return Ok(false);
        }
    }
}

/// Later times become the clamp.
pub(super) fn clamped(time: Time, clamp: Option<i64>) -> Time {
    let latest = clamp.map(|seconds| Time {
        seconds,
        nanoseconds: 0,
    });
    latest.map_or(time, |latest| time.min(latest))
}
