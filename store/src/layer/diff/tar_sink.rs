//! Writes what changed as a layer tar, in the order in which the walk finds it.
//!
//! A directory stands before what is in it, also where it did not change itself: it is written when
//! the first change beneath it comes. A name that is gone becomes a whiteout; what a tar cannot
//! carry is left out, and noted.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::{ChangeKind, Options, Sink, Written};
use crate::layer::compare::{Root, clamped};
use crate::layer::entry::{Device, Time, shown};
use crate::layer::folder::Folder;
use crate::layer::handle::{self, Node, NodeKind, Xattrs};
use crate::layer::links::Role;
use crate::layer::merge::{At, failed};
use crate::layer::write::{Item, Type, Writer};
use crate::piece::fill;
use crate::{Error, Kind, Result};

/// Bytes of content that are read and written at once.
const BUFFER: usize = 256 << 10;
/// Lines that [`Written::notes`] may have.
const NOTES: usize = 100;

/// A directory on the way to where the walk is.
struct Above {
    path: PathBuf,
    node: Node,
    written: bool,
}

pub(super) struct TarSink<'a> {
    root: &'a dyn Folder,
    writer: Writer<'a>,
    clamp: Option<i64>,
    room: Option<u64>,
    above: Vec<Above>,
    buffer: Vec<u8>,
    filtered: BTreeMap<Vec<u8>, u64>,
    written: Written,
}

impl Sink for TarSink<'_> {
    fn change(&mut self, kind: ChangeKind, at: &At<'_>, node: &Node, role: Option<&Role>) -> Result<()> {
        if handle::is_whiteout(at.name) {
            return Err(Error::invalid(format!(
                "{} cannot be in a layer: names that begin with .wh. mean deletions there",
                shown(at.path)
            ))
            .hinted("rename or remove it"));
        }
        self.parents()?;
        if kind == ChangeKind::Deleted {
            return self.whiteout(at);
        }
        if let Some(Role::LinkTo(first)) = role {
            return self.node(
                at.path,
                node,
                Type::HardLink,
                first.as_os_str().as_bytes(),
                &Xattrs::new(),
            );
        }
        let filtered = &mut self.filtered;
        let read = at.child.xattrs(at.name, &mut |name| {
            *filtered.entry(name.to_vec()).or_default() += 1;
        });
        let xattrs = read.map_err(|cause| failed("read the attributes of", at.path, cause))?;
        match node.kind {
            NodeKind::File => return self.file(at, node, &xattrs),
            NodeKind::Directory => {
                self.node(at.path, node, Type::Directory, b"", &xattrs)?;
                self.above.push(Above {
                    path: at.path.to_owned(),
                    node: *node,
                    written: true,
                });
            }
            NodeKind::Symlink => {
                let target = at.child.link_target(at.name);
                let target = target.map_err(|cause| failed("read", at.path, cause))?;
                self.node(at.path, node, Type::Symlink, &target, &xattrs)?;
            }
            NodeKind::Character => self.node(at.path, node, Type::Character, b"", &xattrs)?,
            NodeKind::Block => self.node(at.path, node, Type::Block, b"", &xattrs)?,
            NodeKind::Fifo => self.node(at.path, node, Type::Fifo, b"", &xattrs)?,
            NodeKind::Socket => {}
        }
        Ok(())
    }

    fn pass(&mut self, path: &Path, node: &Node) {
        self.above.push(Above {
            path: path.to_owned(),
            node: *node,
            written: false,
        });
    }

    fn leave(&mut self) {
        self.above.pop();
    }

    fn socket(&mut self, path: &Path) {
        self.note(format!("{}: a socket, left out", shown(path)));
    }
}

impl<'a> TarSink<'a> {
    /// Writes the changes of the tree at `root` to `out`.
    pub(super) fn new(root: &'a dyn Folder, options: &Options, out: &'a mut dyn Write) -> Self {
        Self {
            root,
            writer: Writer::new(out),
            clamp: options.clamp_mtime,
            room: options.room,
            above: Vec::new(),
            buffer: vec![0; BUFFER],
            filtered: BTreeMap::new(),
            written: Written::default(),
        }
    }

    /// Writes the root's own entry, without an mtime.
    pub(super) fn root(&mut self, root: &Root) -> Result<()> {
        let mut node = root.node;
        node.mtime = Time::default();
        self.node(Path::new(""), &node, Type::Directory, b"", &root.xattrs)
    }

    /// Writes the directories above that have not been written yet, as they are.
    fn parents(&mut self) -> Result<()> {
        let mut above = std::mem::take(&mut self.above);
        for parent in above.iter_mut().filter(|parent| !parent.written) {
            let dir = self
                .root
                .below(&parent.path)
                .map_err(|cause| failed("open", &parent.path, cause))?;
            let xattrs = dir
                .own_xattrs(&mut |_| {})
                .map_err(|cause| failed("read the attributes of", &parent.path, cause))?;
            self.node(&parent.path, &parent.node, Type::Directory, b"", &xattrs)?;
            parent.written = true;
        }
        self.above = above;
        Ok(())
    }

    fn item(&mut self, item: &Item<'_>) -> Result<()> {
        self.written.entries += 1;
        self.writer
            .item(item)
            .map_err(|cause| failed("write the layer's entry of", item.path, cause))
    }

    fn whiteout(&mut self, at: &At<'_>) -> Result<()> {
        let name = [b".wh.", at.name.as_bytes()].concat();
        let path = at.path.with_file_name(OsStr::from_bytes(&name));
        self.item(&Item {
            path: &path,
            kind: Type::File,
            mode: 0,
            uid: 0,
            gid: 0,
            mtime: Time::default(),
            size: 0,
            link: b"",
            device: Device { major: 0, minor: 0 },
            xattrs: &Xattrs::new(),
        })
    }

    fn node(&mut self, path: &Path, node: &Node, kind: Type, link: &[u8], xattrs: &Xattrs) -> Result<()> {
        self.item(&Item {
            path,
            kind,
            mode: if kind == Type::Symlink { 0o777 } else { node.mode },
            uid: node.uid,
            gid: node.gid,
            mtime: clamped(node.mtime, self.clamp),
            size: if kind == Type::File { node.size } else { 0 },
            link,
            device: node.device,
            xattrs,
        })
    }

    fn file(&mut self, at: &At<'_>, node: &Node, xattrs: &Xattrs) -> Result<()> {
        let file = at.child.file(at.name);
        let mut file = file.map_err(|cause| failed("open", at.path, cause))?;
        self.has_room_for(at.path, node.size)?;
        self.node(at.path, node, Type::File, b"", xattrs)?;
        let mut left = node.size;
        while left > 0 {
            let room = usize::try_from(left).unwrap_or(BUFFER).min(BUFFER);
            let buffer = self.buffer.get_mut(..room).unwrap_or_default();
            let count = fill(&mut file, buffer).map_err(|cause| failed("read", at.path, cause))?;
            if count == 0 {
                return Err(Error::new(
                    Kind::InUse,
                    format!("{} became shorter while it was read", shown(at.path)),
                )
                .hinted("stop what writes to it"));
            }
            let piece = buffer.get(..count).unwrap_or_default();
            let put = self.writer.content(piece);
            put.map_err(|cause| failed("write the layer's entry of", at.path, cause))?;
            left -= count as u64;
        }
        self.written.bytes += node.size;
        let padded = self.writer.pad(node.size);
        padded.map_err(|cause| failed("write the layer's entry of", at.path, cause))
    }

    fn has_room_for(&self, path: &Path, size: u64) -> Result<()> {
        match self.room {
            Some(room) if self.written.bytes.saturating_add(size) > room => Err(Error::new(
                Kind::NoSpace,
                format!(
                    "{} has {size} bytes, holes included: with it the layer needs more than the {room} that may be used on the store's disk",
                    shown(path)
                ),
            )),
            _ => Ok(()),
        }
    }

    fn note(&mut self, note: String) {
        tracing::debug!("{note}");
        if self.written.notes.len() < NOTES {
            self.written.notes.push(note);
        }
    }

    /// Ends the tar.
    pub(super) fn finish(mut self) -> Result<Written> {
        for (name, count) in std::mem::take(&mut self.filtered) {
            let name = String::from_utf8_lossy(&name);
            self.note(format!("extended attribute {name:?} left out, times {count}"));
        }
        let ended = self.writer.finish();
        ended.map_err(|cause| failed("write the end of", Path::new("the layer"), cause))?;
        Ok(self.written)
    }
}
