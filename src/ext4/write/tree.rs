//! The tree that a layer makes, by names and inodes, in little memory: about 100 bytes for a file.
//!
//! Inodes are numbered as they come. A name is found by a keyed hash of its directory and its bytes, and
//! compared; names of one directory are brought together only at the end. Links are followed as the kernel
//! does below a root that is `/`; where it would not find a directory, the layer is declined.

use std::collections::{HashMap, VecDeque};
use std::ffi::{OsStr, OsString};
use std::hash::{BuildHasher, BuildHasherDefault, Hasher, RandomState};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use super::extents::ROOT_BYTES;
use super::inode::Stamp;
use super::{Step, Stop};
use crate::ext4::layout::mode;

/// An inode by the order in which it came; the root is 0.
pub(super) type Id = u32;
pub(super) const ROOT: Id = 0;
/// Links that a path may lead through. The kernel has 40; what needs nearly as many is left to it.
const LINKS_MOST: u32 = 32;
/// Directories that may lie within each other where a path leads through links.
const DEEPEST: u32 = 1000;
/// Links that one file may have.
const FILE_LINKS_MOST: u32 = 65_000;
/// Bytes of the longest target that is kept in an inode, and one more.
pub(super) const SHORT_TARGET: usize = ROOT_BYTES;
const STICKY: u16 = 0o1000;
const NOBODY: u32 = u32::MAX;

/// An inode to be.
#[derive(Debug, Clone, Default)]
pub(super) struct Node {
    /// Type and permissions; 0 where it is gone.
    pub(super) mode: u16,
    pub(super) links: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) time: Stamp,
    pub(super) size: u64,
    /// Blocks that it takes.
    pub(super) blocks: u32,
    pub(super) map: Map,
    /// What [`Tree::attributes`] has of it, counted from 1; 0 for nothing.
    pub(super) attributes: u32,
}

/// What `i_block` is to hold.
#[derive(Debug, Clone, Copy, Default)]
pub(super) enum Map {
    /// Nothing, as for a FIFO.
    #[default]
    None,
    /// No blocks, in the form of an extent tree.
    Empty,
    /// One run of blocks from the beginning on.
    Run {
        /// The first block.
        first: u32,
        /// How many.
        length: u16,
    },
    /// Something else: a place in [`Tree::roots`].
    Root(u32),
    /// A device number, in the word that its size asks for.
    Device {
        /// Which word.
        word: u8,
        /// What it says.
        number: u32,
    },
    /// A directory while the tree grows.
    Directory {
        /// Where it lies.
        parent: Id,
        /// Names in it.
        names: u32,
    },
}

/// Extended attributes of an inode, arranged.
#[derive(Debug, Default)]
pub(super) struct Attributes {
    /// Those in the inode.
    pub(super) inline: Box<[u8]>,
    /// The block with the others; 0 for none.
    pub(super) block: u32,
}

/// A name in a directory.
#[derive(Debug, Clone, Copy)]
pub(super) struct Name {
    at: u32,
    length: u8,
    /// The directory.
    pub(super) parent: Id,
    /// What it names; nobody where it is gone.
    node: Id,
}

/// The keys of the index are hashes already.
#[derive(Debug, Default)]
struct AsIs(u64);

impl Hasher for AsIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0 << 8 | u64::from(*byte);
        }
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = value;
    }
}

/// All of it.
#[derive(Debug)]
pub(super) struct Tree {
    pub(super) nodes: Vec<Node>,
    pub(super) names: Vec<Name>,
    bytes: Vec<u8>,
    index: HashMap<u64, u32, BuildHasherDefault<AsIs>>,
    key: RandomState,
    pub(super) roots: Vec<[u8; ROOT_BYTES]>,
    pub(super) attributes: Vec<Attributes>,
}

impl Tree {
    /// A root and nothing in it.
    pub(super) fn new() -> Self {
        let root = Node {
            mode: mode::DIRECTORY | 0o755,
            links: 2,
            map: Map::Directory { parent: ROOT, names: 0 },
            ..Node::default()
        };
        Self {
            nodes: vec![root],
            names: Vec::new(),
            bytes: Vec::new(),
            index: HashMap::default(),
            key: RandomState::new(),
            roots: Vec::new(),
            attributes: Vec::new(),
        }
    }

    /// An inode that is there.
    pub(super) fn node(&self, id: Id) -> Step<&Node> {
        self.nodes.get(id as usize).ok_or_else(inconsistent)
    }

    /// The same, to change.
    pub(super) fn node_mut(&mut self, id: Id) -> Step<&mut Node> {
        self.nodes.get_mut(id as usize).ok_or_else(inconsistent)
    }

    /// Adds an inode, which has no name yet.
    pub(super) fn add(&mut self, node: Node) -> Step<Id> {
        let id = number(self.nodes.len())?;
        self.nodes.push(node);
        Ok(id)
    }

    /// Keeps what is to be in `i_block`.
    pub(super) fn add_root(&mut self, root: [u8; ROOT_BYTES]) -> Step<Map> {
        let at = number(self.roots.len())?;
        self.roots.push(root);
        Ok(Map::Root(at))
    }

    /// The bytes of a name.
    pub(super) fn name(&self, name: &Name) -> &[u8] {
        let at = name.at as usize;
        self.bytes.get(at..at + usize::from(name.length)).unwrap_or_default()
    }

    /// What a name names; none where it is gone.
    pub(super) fn named(name: &Name) -> Option<Id> {
        (name.node != NOBODY).then_some(name.node)
    }

    fn hash(&self, parent: Id, name: &OsStr) -> u64 {
        self.key.hash_one((parent, name.as_bytes()))
    }

    /// What `name` in a directory is.
    pub(super) fn child(&self, parent: Id, name: &OsStr) -> Step<Option<Id>> {
        let Some(at) = self.index.get(&self.hash(parent, name)) else {
            return Ok(None);
        };
        let found = self.names.get(*at as usize).ok_or_else(inconsistent)?;
        if found.parent != parent || self.name(found) != name.as_bytes() {
            return Err(Stop::declined("two names with one hash"));
        }
        Ok(Some(found.node))
    }

    /// Gives an inode a name, which is free.
    pub(super) fn link(&mut self, parent: Id, name: &OsStr, id: Id) -> Step<()> {
        let hash = self.hash(parent, name);
        let entry = Name {
            at: number(self.bytes.len())?,
            length: u8::try_from(name.len()).map_err(|_| inconsistent())?,
            parent,
            node: id,
        };
        let is_directory = self.node(id)?.mode & mode::TYPE == mode::DIRECTORY;
        let above = self.node_mut(parent)?;
        above.links += u32::from(is_directory);
        let Map::Directory { names, .. } = &mut above.map else {
            return Err(inconsistent());
        };
        *names += 1;
        let node = self.node_mut(id)?;
        match &mut node.map {
            Map::Directory { parent: place, .. } => *place = parent,
            _ if node.links >= FILE_LINKS_MOST => return Err(Stop::declined("a file with too many links")),
            _ => node.links += 1,
        }
        self.bytes.extend(name.as_bytes());
        let number = number(self.names.len())?;
        self.names.push(entry);
        if self.index.insert(hash, number).is_some() {
            return Err(Stop::declined("two names with one hash"));
        }
        Ok(())
    }

    /// Takes a name away, and gives the inode where that was its last one. Directories with something in them
    /// are declined.
    pub(super) fn unlink(&mut self, parent: Id, name: &OsStr) -> Step<Option<Node>> {
        let hash = self.hash(parent, name);
        let Some(id) = self.child(parent, name)? else {
            return Ok(None);
        };
        if matches!(self.node(id)?.map, Map::Directory { names: 1.., .. }) {
            return Err(Stop::declined("a directory that makes way for something else"));
        }
        if let Some(at) = self.index.remove(&hash)
            && let Some(name) = self.names.get_mut(at as usize)
        {
            name.node = NOBODY;
        }
        let node = self.node_mut(id)?;
        let is_directory = node.mode & mode::TYPE == mode::DIRECTORY;
        node.links = node.links.saturating_sub(1);
        let gone = (is_directory || node.links == 0).then(|| std::mem::take(node));
        let above = self.node_mut(parent)?;
        above.links -= u32::from(is_directory);
        if let Map::Directory { names, .. } = &mut above.map {
            *names -= 1;
        }
        Ok(gone)
    }

    /// The directory at `path`, which may lead through links; `make` makes one that is missing.
    pub(super) fn enter(&mut self, path: &Path, make: &mut dyn FnMut(&mut Self, Id, &OsStr) -> Step<Id>) -> Step<Id> {
        let mut dir = ROOT;
        let mut links = 0;
        for name in path {
            dir = match self.child(dir, name)? {
                None => make(self, dir, name)?,
                Some(child) => self.step_into(dir, child, &mut links)?,
            };
        }
        if links > 0 {
            self.require_reach(dir)?;
        }
        Ok(dir)
    }

    /// The directory that a child of `dir` is, or leads to.
    fn step_into(&self, dir: Id, child: Id, links: &mut u32) -> Step<Id> {
        match self.node(child)?.mode & mode::TYPE {
            mode::DIRECTORY => Ok(child),
            mode::SYMLINK => self.follow(dir, child, links),
            _ => Err(Stop::declined("a path through something that is no directory")),
        }
    }

    /// Where a link in `dir` leads.
    fn follow(&self, dir: Id, link: Id, links: &mut u32) -> Step<Id> {
        let (mut dir, mut next) = (dir, Some(link));
        let mut rest: VecDeque<OsString> = VecDeque::new();
        loop {
            if let Some(link) = next.take() {
                *links += 1;
                // Whom the kernel lets follow a link in such a directory is set by the administrator.
                if *links > LINKS_MOST || self.node(dir)?.mode & STICKY != 0 {
                    return Err(Stop::declined("a path through an unusual link"));
                }
                let target = self.target(link)?;
                if target.is_absolute() {
                    dir = ROOT;
                }
                for part in target.components().rev() {
                    match part {
                        Component::Normal(name) => rest.push_front(name.to_owned()),
                        Component::ParentDir => rest.push_front("..".into()),
                        _ => {}
                    }
                }
            }
            let Some(name) = rest.pop_front() else {
                return Ok(dir);
            };
            if name == ".." {
                dir = self.parent(dir)?;
                continue;
            }
            let child = self.child(dir, &name)?;
            let child = child.ok_or_else(|| Stop::declined("a path through a link that leads nowhere"))?;
            match self.node(child)?.mode & mode::TYPE {
                mode::DIRECTORY => dir = child,
                mode::SYMLINK => next = Some(child),
                _ => return Err(Stop::declined("a path through a link to no directory")),
            }
        }
    }

    fn target(&self, link: Id) -> Step<PathBuf> {
        let node = self.node(link)?;
        let root = match node.map {
            Map::Root(at) => self.roots.get(at as usize),
            _ => None,
        };
        let length = usize::try_from(node.size).ok().filter(|length| *length < SHORT_TARGET);
        let target = root.zip(length).and_then(|(root, length)| root.get(..length));
        target
            .map(|target| PathBuf::from(OsStr::from_bytes(target)))
            .ok_or_else(|| Stop::declined("a path through a long link"))
    }

    fn parent(&self, dir: Id) -> Step<Id> {
        match self.node(dir)?.map {
            Map::Directory { parent, .. } => Ok(parent),
            _ => Err(inconsistent()),
        }
    }

    fn require_reach(&self, dir: Id) -> Step<()> {
        let mut above = dir;
        for _ in 0..DEEPEST {
            if above == ROOT {
                return Ok(());
            }
            above = self.parent(above)?;
        }
        Err(Stop::declined("a path that links lead too deep"))
    }
}

fn number(length: usize) -> Step<u32> {
    u32::try_from(length).map_err(|_| Stop::declined("a layer of more names than the writer can count"))
}

/// For what cannot be: the kernel does it then.
fn inconsistent() -> Stop {
    Stop::declined("a tree that does not hold together")
}
