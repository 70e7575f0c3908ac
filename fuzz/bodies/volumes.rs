//! What the fuzzer does with ext4, and what must then hold. The corpus is replayed through the same function by
//! `tests/corpus_blocks.rs`.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::{OsStr, OsString};
use std::io::{self, Read, Write};
use std::path::Path;
use std::rc::Rc;
use std::sync::OnceLock;

use plywood::blocks::ReadAt;
use plywood::delta::changes::{Compared, compare};
use plywood::delta::names::{Parents, scan};
use plywood::ext4::layout::{INODES_PER_BLOCK, JOURNAL};
use plywood::ext4::tree::Directory;
use plywood::ext4::volume::Volume;
use plywood_store::layer::diff::{Everything, Options, Scope, write_layer};
use plywood_store::layer::folder::Folder;
use plywood_store::layer::{Node, Xattrs};

const BLOCK: usize = 4096;
/// Bytes of the longest patch.
const LONGEST: usize = 32;
/// Bytes of a layer, and of contents that are read for one: what would be longer ends there with an error.
const ENOUGH: u64 = 32 << 20;
/// Reads that a look at everything may need: the blocks of both volumes, some times over.
const READS: u64 = 100_000;

/// The two volumes that `fuzz/images/make` made.
struct Pair {
    volumes: [Vec<u8>; 2],
    /// Blocks that differ.
    changed: BTreeSet<u64>,
    /// Blocks that a patch can be for: those that hold anything.
    held: Vec<u64>,
    /// Blocks that are believed without anything that speaks for them: the superblock, descriptors, bitmaps, and the
    /// journal's inode.
    believed: BTreeSet<u64>,
    /// In which directories the child's inodes have names.
    parents: HashMap<u32, Vec<u32>>,
}

fn pair() -> &'static Pair {
    static PAIR: OnceLock<Pair> = OnceLock::new();
    PAIR.get_or_init(|| {
        let packed: &[u8] = include_bytes!("../images/ext4.zst");
        let mut parent = zstd::decode_all(packed).expect("zstd");
        let child = parent.split_off(parent.len() / 2);
        let volumes = [parent, child];
        let blocks = volumes[0].chunks(BLOCK).zip(volumes[1].chunks(BLOCK));
        let blocks = (0_u64..).zip(blocks);
        let changed = blocks
            .clone()
            .filter(|(_, (old, new))| old != new)
            .map(|(block, _)| block);
        let held = blocks
            .clone()
            .filter(|(_, (old, new))| [old, new].iter().any(|block| block.iter().any(|byte| *byte != 0)));
        let volume = Rc::new(Volume::open(Box::new(volumes[1].clone())).expect("a volume"));
        let mut believed: BTreeSet<u64> = volume.geometry().headers().flatten().collect();
        for group in volume.groups() {
            believed.extend([group.block_bitmap, group.inode_bitmap]);
            believed.insert(group.inode_table + u64::from(JOURNAL - 1) / INODES_PER_BLOCK);
        }
        let mut parents: HashMap<u32, Vec<u32>> = HashMap::new();
        for (inode, directory) in scan(&volume).expect("names") {
            parents.entry(inode).or_default().push(directory);
        }
        Pair {
            changed: changed.collect(),
            held: held.map(|(block, _)| block).collect(),
            believed,
            parents,
            volumes,
        }
    })
}

/// What was noted before the volume was damaged.
#[derive(Debug)]
struct Noted;

impl Parents for Noted {
    fn parents(&self, inode: u32) -> plywood::error::Result<Vec<u32>> {
        Ok(pair().parents.get(&inode).cloned().unwrap_or_default())
    }
}

/// A volume with some blocks that are others.
struct Patched {
    volume: &'static [u8],
    blocks: Rc<BTreeMap<u64, Vec<u8>>>,
    reads: Rc<Cell<u64>>,
}

impl ReadAt for Patched {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.reads.set(self.reads.get() + 1);
        self.volume.read_at(buffer, offset)?;
        let end = offset + buffer.len() as u64;
        for (block, bytes) in self.blocks.range(offset / BLOCK as u64..end.div_ceil(BLOCK as u64)) {
            let begin = block * BLOCK as u64;
            let (from, to) = (begin.max(offset), (begin + BLOCK as u64).min(end));
            buffer[(from - offset) as usize..(to - offset) as usize]
                .copy_from_slice(&bytes[(from - begin) as usize..(to - begin) as usize]);
        }
        Ok(())
    }
}

/// A tree of which no more than so many bytes are read.
struct Capped {
    folder: Box<dyn Folder>,
    left: Rc<Cell<u64>>,
}

impl Folder for Capped {
    fn names(&self) -> io::Result<Vec<OsString>> {
        self.folder.names()
    }

    fn look(&self, name: &OsStr) -> io::Result<Option<Node>> {
        self.folder.look(name)
    }

    fn xattrs(&self, name: &OsStr, left_out: &mut dyn FnMut(&[u8])) -> io::Result<Xattrs> {
        self.folder.xattrs(name, left_out)
    }

    fn link_target(&self, name: &OsStr) -> io::Result<Vec<u8>> {
        self.folder.link_target(name)
    }

    fn file(&self, name: &OsStr) -> io::Result<Box<dyn Read>> {
        Ok(Box::new(Limited(self.folder.file(name)?, Rc::clone(&self.left))))
    }

    fn own(&self) -> io::Result<Node> {
        self.folder.own()
    }

    fn own_xattrs(&self, left_out: &mut dyn FnMut(&[u8])) -> io::Result<Xattrs> {
        self.folder.own_xattrs(left_out)
    }

    fn child(&self, name: &OsStr) -> io::Result<Box<dyn Folder>> {
        self.same(self.folder.child(name)?)
    }

    fn below(&self, path: &Path) -> io::Result<Box<dyn Folder>> {
        self.same(self.folder.below(path)?)
    }
}

impl Capped {
    fn same(&self, folder: Box<dyn Folder>) -> io::Result<Box<dyn Folder>> {
        let left = Rc::clone(&self.left);
        Ok(Box::new(Self { folder, left }))
    }
}

/// So much of a file.
struct Limited<T>(T, Rc<Cell<u64>>);

fn take(left: &Cell<u64>, count: usize) -> io::Result<()> {
    let rest = left.get().checked_sub(count as u64);
    left.set(rest.ok_or_else(|| io::Error::other("enough"))?);
    Ok(())
}

impl<T: Read> Read for Limited<T> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.0.read(buffer)?;
        take(&self.1, count)?;
        Ok(count)
    }
}

impl Write for Limited<Vec<u8>> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        take(&self.1, bytes.len())?;
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Patches two volumes (whose, which of the blocks that hold anything, where in it, how many bytes, the bytes), and
/// compares them: by blocks what changed is what a walk through both finds, where both come to an end.
pub(crate) fn ext4(data: &[u8]) {
    let pair = pair();
    let mut patched = [BTreeMap::new(), BTreeMap::new()];
    let mut rest = data;
    while let [whose, block, block_high, at, at_high, length, bytes @ ..] = rest {
        let block = pair.held[usize::from(u16::from_le_bytes([*block, *block_high])) % pair.held.len()];
        let at = usize::from(u16::from_le_bytes([*at, *at_high])) % BLOCK;
        let length = (usize::from(*length) % LONGEST + 1).min(bytes.len()).min(BLOCK - at);
        for (side, blocks) in (0_u8..).zip(&mut patched) {
            if whose % 3 != 1 - side {
                let volume = &pair.volumes[usize::from(side)];
                let first = block as usize * BLOCK;
                let old = || volume[first..first + BLOCK].to_vec();
                let block: &mut Vec<u8> = blocks.entry(block).or_insert_with(old);
                block[at..at + length].copy_from_slice(&bytes[..length]);
            }
        }
        rest = &bytes[length..];
    }
    compared(pair, &patched.map(Rc::new));
}

fn compared(pair: &'static Pair, patched: &[Rc<BTreeMap<u64, Vec<u8>>>; 2]) {
    let reads = Rc::new(Cell::new(0));
    let touched: BTreeSet<u64> = patched.iter().flat_map(|blocks| blocks.keys().copied()).collect();
    let open = |side: usize| {
        let source = Patched {
            volume: &pair.volumes[side],
            blocks: Rc::clone(&patched[side]),
            reads: Rc::clone(&reads),
        };
        Volume::open(Box::new(source)).map(Rc::new)
    };
    let (Ok(parent), Ok(child)) = (open(0), open(1)) else {
        return;
    };
    let differs = |block: &u64| {
        let bytes = |side: usize| {
            let first = *block as usize * BLOCK;
            let whole = &pair.volumes[side][first..first + BLOCK];
            patched[side].get(block).map_or(whole, Vec::as_slice)
        };
        bytes(0) != bytes(1)
    };
    let changed: Vec<u64> = pair.changed.union(&touched).copied().filter(differs).collect();
    let _ = scan(&parent);
    let is_told = no_name_is_untold(&child);
    let by_blocks = match compare(&parent, &child, &changed, Box::new(Noted)) {
        Ok(Compared::Known(changes)) => layer(&parent, &child, &changes),
        Ok(Compared::Unknown(_)) | Err(_) => None,
    };
    let by_walk = layer(&parent, &child, &Everything);
    assert!(reads.get() <= READS, "{} reads", reads.get());
    if touched.is_empty() {
        assert!(by_blocks.is_some() && by_walk.is_some());
    }
    if let (Some(by_blocks), Some(by_walk)) = (by_blocks, by_walk)
        && pair.believed.is_disjoint(&touched)
        && is_told
    {
        assert!(by_blocks == by_walk, "blocks and walk tell different changes");
    }
}

/// Whether no file has more names than it says. Another one that was there before, in a directory that did not change,
/// is found by reading all directories only, and who has as many as were noted is not looked for there.
fn no_name_is_untold(volume: &Volume) -> bool {
    let names = scan(volume).unwrap_or_default();
    names.chunk_by(|one, other| one.0 == other.0).all(|names| {
        let inode = volume.live(names[0].0).ok().flatten();
        inode.is_none_or(|inode| names.len() <= usize::from(inode.links()))
    })
}

/// The layer; none where there is an error, or more than enough.
fn layer(parent: &Rc<Volume>, child: &Rc<Volume>, scope: &dyn Scope) -> Option<Vec<u8>> {
    let left = Rc::new(Cell::new(ENOUGH));
    let root = |volume| {
        let folder = Box::new(Directory::root(volume).ok()?);
        Some(Capped {
            folder,
            left: Rc::clone(&left),
        })
    };
    let options = Options {
        thorough: true,
        room: Some(ENOUGH),
        ..Options::default()
    };
    let mut out = Limited(Vec::new(), Rc::new(Cell::new(ENOUGH)));
    let written = write_layer(Some(&root(parent)?), &root(child)?, scope, &options, &mut out);
    written.ok().map(|_| out.0)
}
