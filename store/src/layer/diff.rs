//! The walk differ: compares a parent tree with a child tree, by [folders](Folder), and
//! writes what changed as a canonical layer tar.
//!
//! A [`Scope`] narrows the walk to names that can have changed (overlay's upper
//! folder, later the block differ's list) without changing one byte of the
//! result: same changes, same bytes.
//!
//! A name changed where a tar could tell: type, mode, owner, device, size, mtime,
//! extended attributes that layers carry, link target, content, or its group of
//! [hard links](super::links). With `clamp_mtime`, mtimes are compared as they
//! would be written, so that a parent which kept its own gives the same bytes as
//! one that was unpacked from its layer. Contents and attributes are read only
//! where inode number and change time do not settle it: a snapshot shares both
//! with its origin, and no write leaves the change time alone.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::entry::{Device, Time, shown};
use super::folder::Folder;
use super::handle::{self, Node, NodeKind, Xattrs};
use super::links::{Links, Role, is_linked};
use super::merge::{At, Visitor, failed, merge};
use super::write::{Item, Type, Writer};
use crate::{Error, Result};

const BUFFER: usize = 256 << 10;
/// Lines that [`Written::notes`] may have.
const NOTES: usize = 100;

/// Which names under a directory can have changed.
pub trait Scope: std::fmt::Debug {
    /// For the directory at `path` (relative, empty for the root): the candidate names.
    fn names(&self, path: &Path) -> Result<Candidates>;

    /// All names, in the child, of the file with this inode number, which has several; none where only a walk can tell.
    fn names_of(&self, _inode: u64) -> Result<Option<Vec<PathBuf>>> {
        Ok(None)
    }
}

/// The candidate names of one directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Candidates {
    /// Any name of the parent or the child, here and in all directories beneath: the scope is not asked about those.
    All,
    /// These alone.
    Only(Vec<std::ffi::OsString>),
}

/// A scope that leaves nothing out.
#[derive(Debug, Clone, Copy)]
pub struct Everything;

impl Scope for Everything {
    fn names(&self, _path: &Path) -> Result<Candidates> {
        Ok(Candidates::All)
    }
}

/// What became of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeKind {
    /// `A`: new.
    Added,
    /// `C`: something a tar shows is different.
    Changed,
    /// `D`: gone.
    Deleted,
}

/// One changed path, relative to the root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// What became of it.
    pub kind: ChangeKind,
    /// Relative to the root, without leading slash.
    pub path: PathBuf,
}

/// How a difference is written.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Later mtimes become this one (`SOURCE_DATE_EPOCH`): seconds since 1970.
    pub clamp_mtime: Option<i64>,
    /// Compare contents even where inode number and change time are equal in both trees.
    pub thorough: bool,
    /// Begin with the root's own entry, whether it changed or not: for a tar that stands alone.
    pub with_root: bool,
    /// Bytes of content that there is room for: holes take no room in a tree, but do in a tar.
    pub room: Option<u64>,
}

/// What a layer tar came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Written {
    /// Entries, whiteouts included.
    pub entries: u64,
    /// Bytes of file content.
    pub bytes: u64,
    /// What was left out on purpose (sockets, filtered xattrs), a line each, at most 100.
    pub notes: Vec<String>,
}

/// Writes the layer tar that turns `parent` (none: an empty tree) into `child`.
///
/// # Errors
/// A name that a layer cannot carry; a file that cannot be read or shrinks; a failed write.
pub fn write_layer(
    parent: Option<&dyn Folder>,
    child: &dyn Folder,
    scope: &dyn Scope,
    options: &Options,
    out: &mut dyn Write,
) -> Result<Written> {
    let mut sink = TarSink {
        root: child,
        writer: Writer::new(out),
        clamp: options.clamp_mtime,
        room: options.room,
        above: Vec::new(),
        buffer: vec![0; BUFFER],
        filtered: BTreeMap::new(),
        written: Written::default(),
    };
    let root = Root::compare(parent, child)?;
    if root.changed || options.with_root {
        sink.root(&root)?;
    }
    run(parent, child, scope, options, &mut sink)?;
    sink.finish()
}

/// Lists the changed paths in canonical order, for `diff`. Unchanged parents of
/// changed paths are not listed, as Docker's `diff` lists a directory only
/// where its own attributes (mtime included) changed.
///
/// # Errors
/// What cannot be read, and what `each` fails with.
pub fn changes(
    parent: Option<&dyn Folder>,
    child: &dyn Folder,
    scope: &dyn Scope,
    options: &Options,
    each: &mut dyn FnMut(Change) -> Result<()>,
) -> Result<()> {
    if parent.is_some() && Root::compare(parent, child)?.changed {
        each(Change {
            kind: ChangeKind::Changed,
            path: PathBuf::new(),
        })?;
    }
    run(parent, child, scope, options, &mut ListSink { each })
}

fn run(
    parent: Option<&dyn Folder>,
    child: &dyn Folder,
    scope: &dyn Scope,
    options: &Options,
    sink: &mut dyn Sink,
) -> Result<()> {
    let links = Links::find(parent, child, scope, options)?;
    let mut differ = Differ {
        links: &links,
        options,
        sink,
    };
    merge(parent, child, &links.widen(scope), &mut differ).map(drop)
}

/// The roots' own attributes.
struct Root {
    node: Node,
    xattrs: Xattrs,
    /// An mtime alone does not count: mounting and unpacking move it.
    changed: bool,
}

impl Root {
    fn compare(parent: Option<&dyn Folder>, child: &dyn Folder) -> Result<Self> {
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

/// What is done with a difference.
trait Sink {
    fn change(&mut self, kind: ChangeKind, at: &At<'_>, node: &Node, role: Option<&Role>) -> Result<()>;
    /// A directory is entered that did not change itself.
    fn pass(&mut self, _path: &Path, _node: &Node) {}
    fn leave(&mut self) {}
    fn socket(&mut self, _path: &Path) {}
}

/// Decides what changed.
struct Differ<'a> {
    links: &'a Links,
    options: &'a Options,
    sink: &'a mut dyn Sink,
}

impl Visitor for Differ<'_> {
    fn gone(&mut self, at: &At<'_>, old: &Node) -> Result<()> {
        self.sink.change(ChangeKind::Deleted, at, old, None)
    }

    fn found(&mut self, at: &At<'_>, old: Option<&Node>, new: &Node) -> Result<()> {
        let role = self.links.role(at.path);
        let changed = match old {
            _ if role.is_some() => true,
            None => true,
            // Its group has been looked at as a whole.
            Some(_) if is_linked(old, new) => false,
            Some(old) => differs(at, old, new, self.options)?,
        };
        if changed {
            let kind = if old.is_some() {
                ChangeKind::Changed
            } else {
                ChangeKind::Added
            };
            self.sink.change(kind, at, new, role)?;
        } else if new.kind == NodeKind::Directory {
            self.sink.pass(at.path, new);
        }
        Ok(())
    }

    fn leave(&mut self) {
        self.sink.leave();
    }

    fn socket(&mut self, path: &Path) {
        self.sink.socket(path);
    }
}

/// Later times become the clamp.
fn clamped(time: Time, clamp: Option<i64>) -> Time {
    let latest = clamp.map(|seconds| Time {
        seconds,
        nanoseconds: 0,
    });
    latest.map_or(time, |latest| time.min(latest))
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

/// Reads until the buffer is full or the file at its end.
fn fill(file: &mut dyn Read, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read(rest) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(cause) if cause.kind() == std::io::ErrorKind::Interrupted => {}
            Err(cause) => return Err(cause),
        }
    }
    Ok(filled)
}

struct ListSink<'a> {
    each: &'a mut dyn FnMut(Change) -> Result<()>,
}

impl Sink for ListSink<'_> {
    fn change(&mut self, kind: ChangeKind, at: &At<'_>, _node: &Node, _role: Option<&Role>) -> Result<()> {
        (self.each)(Change {
            kind,
            path: at.path.to_owned(),
        })
    }
}

/// A directory on the way to where the walk is.
struct Above {
    path: PathBuf,
    node: Node,
    written: bool,
}

struct TarSink<'a> {
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

impl TarSink<'_> {
    fn root(&mut self, root: &Root) -> Result<()> {
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
        let path = at.path.with_file_name(std::ffi::OsStr::from_bytes(&name));
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
                    crate::Kind::InUse,
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
                crate::Kind::NoSpace,
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

    fn finish(mut self) -> Result<Written> {
        for (name, count) in std::mem::take(&mut self.filtered) {
            let name = String::from_utf8_lossy(&name);
            self.note(format!("extended attribute {name:?} left out, times {count}"));
        }
        let ended = self.writer.finish();
        ended.map_err(|cause| failed("write the end of", Path::new("the layer"), cause))?;
        Ok(self.written)
    }
}
