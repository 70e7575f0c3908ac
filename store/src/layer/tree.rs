//! The digest of a tree, to compare trees that no layer connects.

use std::collections::HashMap;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::diff::Everything;
use super::folder::Folder;
use super::handle::{Node, NodeKind, Xattrs};
use super::merge::{At, Visitor, failed, merge};
use crate::digest::Hasher;
use crate::{Digest, Result};

const BUFFER: usize = 128 << 10;

/// The digest of everything that a layer tar can say of the tree under `root`
/// (types, modes, owners, sizes, mtimes to the nanosecond, xattrs, link targets
/// and groups, devices, contents), for tests and `check`. The root's own mtime is left out.
///
/// # Errors
/// What cannot be read, by path.
pub fn digest(root: &dyn Folder) -> Result<Digest> {
    let mut digester = Digester {
        hasher: Hasher::default(),
        first: HashMap::new(),
    };
    let at = Path::new("");
    let mut node = root.own().map_err(|cause| failed("look at", at, cause))?;
    let own = root.own_xattrs(&mut |_| {});
    let own = own.map_err(|cause| failed("read the attributes of", at, cause))?;
    node.mtime = super::entry::Time::default();
    digester.attributes(at, &node, &own);
    merge(None, root, &Everything, &mut digester)?;
    Ok(digester.hasher.digest())
}

struct Digester {
    hasher: Hasher,
    /// The first path of each file with several names.
    first: HashMap<(u64, u64), PathBuf>,
}

impl Digester {
    /// With its length, so that no two fields run together.
    fn bytes(&mut self, bytes: &[u8]) {
        self.hasher.update(&(bytes.len() as u64).to_le_bytes());
        self.hasher.update(bytes);
    }

    fn attributes(&mut self, path: &Path, node: &Node, xattrs: &Xattrs) {
        self.bytes(path.as_os_str().as_bytes());
        let sized = if node.kind == NodeKind::File { node.size } else { 0 };
        let text = format!(
            "{:?} {:o} {} {} {} {} {} {} {}",
            node.kind,
            if node.kind == NodeKind::Symlink { 0 } else { node.mode },
            node.uid,
            node.gid,
            node.device.major,
            node.device.minor,
            node.mtime.seconds,
            node.mtime.nanoseconds,
            sized
        );
        self.bytes(text.as_bytes());
        self.hasher.update(&(xattrs.len() as u64).to_le_bytes());
        for (name, value) in xattrs {
            self.bytes(name);
            self.bytes(value);
        }
    }

    fn content(&mut self, at: &At<'_>) -> Result<()> {
        let fail = |cause| failed("read", at.path, cause);
        let file = at.child.file(at.name);
        let mut file = file.map_err(|cause| failed("open", at.path, cause))?;
        let mut buffer = vec![0; BUFFER];
        loop {
            let count = file.read(&mut buffer).map_err(fail)?;
            if count == 0 {
                return Ok(());
            }
            self.hasher.update(buffer.get(..count).unwrap_or_default());
        }
    }
}

impl Visitor for Digester {
    fn gone(&mut self, _at: &At<'_>, _old: &Node) -> Result<()> {
        Ok(())
    }

    fn found(&mut self, at: &At<'_>, _old: Option<&Node>, new: &Node) -> Result<()> {
        let xattrs = at
            .child
            .xattrs(at.name, &mut |_| {})
            .map_err(|cause| failed("read the attributes of", at.path, cause))?;
        self.attributes(at.path, new, &xattrs);
        if new.kind != NodeKind::Directory && new.links > 1 {
            let inode = (new.filesystem, new.inode);
            if let Some(first) = self.first.get(&inode).cloned() {
                self.bytes(b"another name of");
                self.bytes(first.as_os_str().as_bytes());
                return Ok(());
            }
            self.first.insert(inode, at.path.to_owned());
        }
        match new.kind {
            NodeKind::File => self.content(at)?,
            NodeKind::Symlink => {
                let target = at
                    .child
                    .link_target(at.name)
                    .map_err(|cause| failed("read", at.path, cause))?;
                self.bytes(&target);
            }
            _ => {}
        }
        Ok(())
    }

    fn leave(&mut self) {
        self.bytes(b"..");
    }
}
