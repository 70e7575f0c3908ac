//! A layer's entries into the tree, and their content onto the volume as it comes.
//!
//! What an entry means is what [`apply`](plywood_store::layer::apply) makes of it on an empty tree. Whatever
//! that would refuse is declined here, so that it is refused there, in its words.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use plywood_store::layer::apply::Applied;
use plywood_store::layer::read::{Device, Entry, EntryKind, Reader};
use plywood_store::layer::{carried, is_foreign_mark, is_whiteout};

use super::allocate::Blocks;
use super::content::Content;
use super::extents;
use super::fields::put;
use super::geometry::Geometry;
use super::inode::Stamp;
use super::stream::Stream;
use super::tree::{Attributes, Id, Map, Node, ROOT, SHORT_TARGET, Tree};
use super::xattr;
use super::{Step, Stop, Volume, generation_of, inode_of};
use crate::ext4::layout::{BLOCK, mode};

/// Lines that [`Applied::notes`] may have.
const NOTES: usize = 100;
/// Blocks that a file can have.
const FILE_BLOCKS: u64 = u32::MAX as u64;

/// A volume that is being filled.
#[derive(Debug)]
pub(super) struct Layer<'v> {
    pub(super) geometry: Geometry,
    pub(super) blocks: Blocks<'v>,
    pub(super) out: Stream<'v>,
    pub(super) tree: Tree,
    content: Content,
    /// The directory of the entry before, as the tar names it.
    here: (PathBuf, Id),
    filtered: BTreeMap<Vec<u8>, u64>,
    pub(super) applied: Applied,
}

impl<'v> Layer<'v> {
    /// An empty volume, nothing written yet.
    pub(super) fn new(volume: &'v dyn Volume) -> Step<Self> {
        Ok(Self {
            geometry: Geometry::read(volume)?,
            blocks: Blocks::new(volume),
            out: Stream::new(volume),
            tree: Tree::new(),
            content: Content::default(),
            here: (PathBuf::new(), ROOT),
            filtered: BTreeMap::new(),
            applied: Applied::default(),
        })
    }

    /// Takes in all entries of a tar, which is read to its end.
    pub(super) fn take(&mut self, reader: &mut Reader<'_>) -> Step<()> {
        while let Some(entry) = reader.next_entry()? {
            self.entry(&entry, reader)?;
            for note in reader.take_notes() {
                self.note(note);
            }
        }
        self.applied.entries = reader.entries();
        for (name, count) in std::mem::take(&mut self.filtered) {
            let name = String::from_utf8_lossy(&name).into_owned();
            self.note(format!("extended attribute {name:?} left out, times {count}"));
        }
        Ok(())
    }

    fn entry(&mut self, entry: &Entry, reader: &mut Reader<'_>) -> Step<()> {
        let (Some(name), Some(parent)) = (entry.path.file_name(), entry.path.parent()) else {
            return match entry.kind {
                EntryKind::Directory => self.describe(ROOT, entry),
                _ => Err(Stop::declined("a root that is no directory")),
            };
        };
        if is_foreign_mark(parent, name) {
            return Ok(());
        }
        if parent.iter().any(is_whiteout) {
            return Err(Stop::declined("something below a whiteout"));
        }
        if is_whiteout(name) {
            return self.whiteout(entry, name);
        }
        let dir = self.enter(parent)?;
        match &entry.kind {
            EntryKind::Directory => self.directory(dir, name, entry),
            EntryKind::HardLink(target) => self.hard_link(dir, name, target),
            EntryKind::File => {
                self.clear(dir, name)?;
                let id = self.make(mode::FILE, entry)?;
                self.file(id, entry, reader)?;
                self.tree.link(dir, name, id)
            }
            EntryKind::Symlink(target) => {
                self.clear(dir, name)?;
                let id = self.make(mode::SYMLINK, entry)?;
                self.symlink(id, target.as_os_str())?;
                self.tree.link(dir, name, id)
            }
            EntryKind::Character(device) => self.special(dir, name, entry, mode::CHARACTER, Some(*device)),
            EntryKind::Block(device) => self.special(dir, name, entry, mode::BLOCK, Some(*device)),
            EntryKind::Fifo => self.special(dir, name, entry, mode::FIFO, None),
        }
    }

    /// There is nothing that it could hide: it only has to be one.
    fn whiteout(&mut self, entry: &Entry, name: &OsStr) -> Step<()> {
        let no_name = matches!(name.as_bytes(), b".wh." | b".wh.." | b".wh...");
        if entry.kind != EntryKind::File || no_name {
            return Err(Stop::declined("an invalid whiteout"));
        }
        self.applied.whiteouts += 1;
        Ok(())
    }

    /// The directory at `path`; made where it is missing.
    fn enter(&mut self, path: &Path) -> Step<Id> {
        if self.here.0 == path {
            return Ok(self.here.1);
        }
        let id = self.tree.enter(path, &mut |tree, above, name| {
            let implied = Node {
                mode: mode::DIRECTORY | 0o755,
                links: 2,
                map: Map::Directory {
                    parent: above,
                    names: 0,
                },
                ..Node::default()
            };
            let id = tree.add(implied)?;
            tree.link(above, name, id)?;
            Ok(id)
        })?;
        self.require_room()?;
        self.here = (path.to_owned(), id);
        Ok(id)
    }

    fn directory(&mut self, dir: Id, name: &OsStr, entry: &Entry) -> Step<()> {
        let there = match self.tree.child(dir, name)? {
            Some(id) if self.tree.node(id)?.mode & mode::TYPE == mode::DIRECTORY => Some(id),
            _ => None,
        };
        let id = match there {
            Some(id) => {
                self.describe(id, entry)?;
                id
            }
            None => {
                self.clear(dir, name)?;
                let id = self.make(mode::DIRECTORY, entry)?;
                let node = self.tree.node_mut(id)?;
                node.links = 2;
                node.map = Map::Directory { parent: dir, names: 0 };
                self.tree.link(dir, name, id)?;
                id
            }
        };
        self.here = (entry.path.clone(), id);
        Ok(())
    }

    fn hard_link(&mut self, dir: Id, name: &OsStr, target: &Path) -> Step<()> {
        let (Some(above), Some(old)) = (target.parent(), target.file_name()) else {
            return Err(Stop::declined("a hard link to the root"));
        };
        let missing = || Stop::declined("a hard link to what is not there");
        let above = self.tree.enter(above, &mut |_, _, _| Err(missing()))?;
        let id = self.tree.child(above, old)?.ok_or_else(missing)?;
        if self.tree.node(id)?.mode & mode::TYPE == mode::DIRECTORY {
            return Err(Stop::declined("a hard link to a directory"));
        }
        if self.tree.child(dir, name)? == Some(id) {
            return Ok(());
        }
        self.clear(dir, name)?;
        self.tree.link(dir, name, id)
    }

    fn special(&mut self, dir: Id, name: &OsStr, entry: &Entry, kind: u16, device: Option<Device>) -> Step<()> {
        self.clear(dir, name)?;
        let id = self.make(kind, entry)?;
        if let Some(Device { major, minor }) = device {
            // The old form where it is enough, as the kernel writes it.
            let (word, number) = match (major, minor) {
                (..=0xFF, ..=0xFF) => (0, major << 8 | minor),
                _ => (1, minor & 0xFF | major << 8 | (minor & !0xFF) << 12),
            };
            self.tree.node_mut(id)?.map = Map::Device { word, number };
        }
        self.tree.link(dir, name, id)
    }

    /// A new inode of what an entry describes.
    fn make(&mut self, kind: u16, entry: &Entry) -> Step<Id> {
        let id = self.tree.add(Node {
            mode: kind,
            ..Node::default()
        })?;
        self.require_room()?;
        self.describe(id, entry)?;
        Ok(id)
    }

    fn require_room(&self) -> Step<()> {
        let last = self.tree.nodes.len().saturating_sub(1);
        match u32::try_from(last).map(inode_of) {
            Ok(inode) if inode <= self.geometry.inodes => Ok(()),
            _ => Err(Stop::declined("the layer has more files than the volume has inodes")),
        }
    }

    /// Owner, mode, time and extended attributes, those that it had before forgotten.
    fn describe(&mut self, id: Id, entry: &Entry) -> Step<()> {
        let kind = self.tree.node(id)?.mode & mode::TYPE;
        for (key, _) in &entry.xattrs {
            if !carried(key) && (self.filtered.len() < NOTES || self.filtered.contains_key(key)) {
                *self.filtered.entry(key.clone()).or_default() += 1;
            }
        }
        let kept = entry.xattrs.iter().filter(|(key, _)| carried(key));
        let kept = xattr::arrange(kind, kept.map(|(key, value)| (key.as_slice(), value.as_slice())))?;
        let permissions = match kind {
            mode::SYMLINK => 0o777,
            _ => u16::try_from(entry.mode & 0o7777).unwrap_or(0),
        };
        let permissions = kept.permissions.map_or(permissions, |acl| permissions & !0o777 | acl);
        let node = self.tree.node_mut(id)?;
        (node.uid, node.gid) = (entry.uid, entry.gid);
        node.mode = kind | permissions;
        node.time = Stamp::of(entry.mtime);
        let before = std::mem::take(&mut node.attributes);
        self.forget_attributes(before, Some(id))?;
        if kept.inline.is_empty() && kept.block.is_none() {
            return Ok(());
        }
        let block = match kept.block {
            Some(mut bytes) => {
                let at = self.blocks.take(&self.geometry)?;
                xattr::seal(&mut bytes, self.geometry.seed, at);
                self.out.put(at, &bytes)?;
                self.tree.node_mut(id)?.blocks += 1;
                at
            }
            None => 0,
        };
        self.tree.attributes.push(Attributes {
            inline: kept.inline.into(),
            block,
        });
        let number = u32::try_from(self.tree.attributes.len()).unwrap_or(u32::MAX);
        self.tree.node_mut(id)?.attributes = number;
        Ok(())
    }

    fn forget_attributes(&mut self, number: u32, owner: Option<Id>) -> Step<()> {
        let Some(number) = (number as usize).checked_sub(1) else {
            return Ok(());
        };
        let gone = self.tree.attributes.get_mut(number).map(std::mem::take);
        let block = gone.map_or(0, |gone| gone.block);
        if block > 0 {
            self.blocks.give_back(&self.geometry, block, 1)?;
            if let Some(owner) = owner {
                self.tree.node_mut(owner)?.blocks -= 1;
            }
        }
        Ok(())
    }

    /// Removes what stands in the way of an entry.
    fn clear(&mut self, dir: Id, name: &OsStr) -> Step<()> {
        if self.tree.child(dir, name)?.is_none() {
            return Ok(());
        }
        let gone = self.tree.unlink(dir, name)?;
        self.here = (PathBuf::new(), ROOT);
        self.note(format!("{name:?}: named twice, the last one counts"));
        let Some(gone) = gone else { return Ok(()) };
        self.forget_attributes(gone.attributes, None)?;
        let runs = match gone.map {
            Map::Run { first, length } => vec![(first, length)],
            Map::Root(at) if gone.mode & mode::TYPE == mode::FILE => {
                let root = self.tree.roots.get(at as usize);
                let list = root.and_then(|root| extents::parse(root));
                let list = list.ok_or_else(|| Stop::declined("a file in many pieces that makes way for another"))?;
                list.iter().map(|extent| (extent.physical, extent.length)).collect()
            }
            _ => Vec::new(),
        };
        for (first, length) in runs {
            self.blocks.give_back(&self.geometry, first, length.into())?;
        }
        Ok(())
    }

    fn file(&mut self, id: Id, entry: &Entry, reader: &mut Reader<'_>) -> Step<()> {
        if entry.size.div_ceil(BLOCK as u64) > FILE_BLOCKS {
            return Err(Stop::declined("a file that is larger than ext4 can have it"));
        }
        let Self {
            content,
            blocks,
            geometry,
            out,
            applied,
            ..
        } = self;
        while let Some((offset, piece)) = reader.content()? {
            applied.bytes += piece.len() as u64;
            content.add(offset, piece, &mut |bytes| {
                let at = blocks.take(geometry)?;
                out.put(at, bytes)?;
                Ok(at)
            })?;
        }
        self.end_content(id, entry.size)
    }

    fn symlink(&mut self, id: Id, target: &OsStr) -> Step<()> {
        let target = target.as_bytes();
        if target.len() < SHORT_TARGET {
            let mut root = [0; SHORT_TARGET];
            put(&mut root, 0, target);
            let map = self.tree.add_root(root)?;
            let node = self.tree.node_mut(id)?;
            (node.map, node.size) = (map, target.len() as u64);
            return Ok(());
        }
        if target.len() >= BLOCK {
            return Err(Stop::declined("a link with too long a target"));
        }
        let at = self.blocks.take(&self.geometry)?;
        self.out.put(at, target)?;
        let node = self.tree.node_mut(id)?;
        (node.map, node.size) = (Map::Run { first: at, length: 1 }, target.len() as u64);
        node.blocks += 1;
        Ok(())
    }

    /// Notes where the content is that was added last.
    fn end_content(&mut self, id: Id, size: u64) -> Step<()> {
        let Self {
            content,
            blocks,
            geometry,
            out,
            ..
        } = self;
        let mut take = || blocks.take(geometry);
        content.finish(&mut |bytes| {
            let at = take()?;
            out.put(at, bytes)?;
            Ok(at)
        })?;
        let inode = inode_of(id);
        let seed = super::fields::seed_of(geometry.seed, inode, generation_of(inode));
        let map = match content.extents.only() {
            Some(None) => Map::Empty,
            Some(Some(run)) => Map::Run {
                first: run.physical,
                length: run.length,
            },
            None => {
                let root = content
                    .extents
                    .root(seed, &mut take, &mut |at, bytes| out.put(at, bytes))?;
                self.tree.add_root(root)?
            }
        };
        let blocks = self.content.extents.blocks;
        self.content.extents.clear();
        let node = self.tree.node_mut(id)?;
        node.blocks += blocks;
        (node.map, node.size) = (map, size);
        Ok(())
    }

    fn note(&mut self, note: String) {
        tracing::debug!("{note}");
        if self.applied.notes.len() < NOTES {
            self.applied.notes.push(note);
        }
    }
}
