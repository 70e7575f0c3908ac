//! Directory blocks: one where that is enough, else a hash tree with its leaves in the order of the hashes.
//!
//! ```text
//! block 0      . and .., the root of the tree: hash -> block
//! 1..=n        index nodes, where the root has not room for all leaves
//! then         leaves, entries in hash order
//! ```
//!
//! Format: `Documentation/filesystems/ext4/directory.rst`.

use super::fields::{checksum, put, put16, put32};
use super::hash::Hasher;
use super::{Step, Stop};
use crate::ext4::layout::{BLOCK, CHECKSUM_ENTRY};

/// A name in a directory.
#[derive(Debug, Clone, Copy)]
pub(super) struct Child<'a> {
    pub(super) name: &'a [u8],
    pub(super) inode: u32,
    /// `file_type` of an entry.
    pub(super) kind: u8,
}

const KIND_DIRECTORY: u8 = 2;
/// Bytes of an entry without its name.
const ENTRY: usize = 8;
/// Bytes of the entry that holds a block's checksum.
const TAIL: usize = 12;
/// Bytes of `.` and of `..`.
const DOT: usize = 12;
/// Bytes that a leaf is filled to: some room, so that the next names do not split every block.
const LEAF_FULL: usize = (BLOCK - TAIL) / 8 * 7;
/// Where the entries of the tree begin in its root, and in a node.
const ROOT_INDEX: usize = 32;
const NODE_INDEX: usize = 8;
/// Bytes of one of them, and of the checksum behind them.
const INDEX_ENTRY: usize = 8;
const INDEX_TAIL: usize = 8;
const ROOT_LIMIT: usize = (BLOCK - ROOT_INDEX - INDEX_TAIL) / INDEX_ENTRY;
const NODE_LIMIT: usize = (BLOCK - NODE_INDEX - INDEX_TAIL) / INDEX_ENTRY;
const HALF_MD4: u8 = 1;

fn entry_bytes(name: &[u8]) -> usize {
    (ENTRY + name.len()).next_multiple_of(4)
}

/// A directory's blocks.
#[derive(Debug)]
pub(super) struct Blocks {
    /// All of them.
    pub(super) bytes: Vec<u8>,
    /// Whether they hold a hash tree.
    pub(super) is_indexed: bool,
}

/// The blocks of the directory `own` in `parent`; `seed` is the inode's.
pub(super) fn build(own: u32, parent: u32, children: &[Child<'_>], hasher: &Hasher, seed: u32) -> Step<Blocks> {
    let bytes: usize = children.iter().map(|child| entry_bytes(child.name)).sum();
    if 2 * DOT + bytes <= BLOCK - TAIL {
        let dots = [(own, &b"."[..]), (parent, b"..")].map(|(inode, name)| Child {
            name,
            inode,
            kind: KIND_DIRECTORY,
        });
        let mut block = vec![0; BLOCK];
        leaf(&mut block, dots.iter().chain(children), seed);
        return Ok(Blocks {
            bytes: block,
            is_indexed: false,
        });
    }
    let mut sorted: Vec<(u32, u32, &Child<'_>)> = children
        .iter()
        .map(|child| {
            let (hash, minor) = hasher.hash(child.name);
            (hash, minor, child)
        })
        .collect();
    sorted.sort_unstable_by_key(|(hash, minor, child)| (*hash, *minor, child.name));
    tree(own, parent, &sorted, seed)
}

fn tree(own: u32, parent: u32, sorted: &[(u32, u32, &Child<'_>)], seed: u32) -> Step<Blocks> {
    let leaves = leaves(sorted);
    let nodes = match leaves.len() {
        ..=ROOT_LIMIT => 0,
        many => many.div_ceil(NODE_LIMIT),
    };
    let first_leaf = 1 + nodes;
    if nodes > ROOT_LIMIT {
        return Err(Stop::declined(
            "a directory with more names than two levels of a hash tree hold",
        ));
    }
    let mut bytes = vec![0; (first_leaf + leaves.len()) * BLOCK];
    let mut index = Vec::new();
    let mut before = None;
    for (number, range) in leaves.into_iter().enumerate() {
        let entries = sorted.get(range).unwrap_or_default();
        let hash = entries.first().map_or(0, |(hash, ..)| *hash);
        // The lowest bit says that names of this hash are in the leaf before, too.
        let goes_on = before == Some(hash);
        before = entries.last().map(|(hash, ..)| *hash);
        index.push((hash | u32::from(goes_on), first_leaf + number));
        leaf(
            block(&mut bytes, first_leaf + number),
            entries.iter().map(|(.., child)| *child),
            seed,
        );
    }
    if nodes > 0 {
        let mut above = Vec::new();
        for (number, entries) in (1..).zip(index.chunks(NODE_LIMIT)) {
            let node = block(&mut bytes, number);
            put16(node, 4, u16::try_from(BLOCK).unwrap_or(0));
            put_index(node, NODE_INDEX, NODE_LIMIT, entries, seed);
            above.extend(entries.first().map(|(hash, _)| (*hash, number)));
        }
        index = above;
    }
    let root = block(&mut bytes, 0);
    put_entry(root, 0, DOT, own, KIND_DIRECTORY, b".");
    put_entry(root, DOT, BLOCK - DOT, parent, KIND_DIRECTORY, b"..");
    put(root, 2 * DOT + 4, &[HALF_MD4, 8, u8::from(nodes > 0), 0]);
    put_index(root, ROOT_INDEX, ROOT_LIMIT, &index, seed);
    Ok(Blocks {
        bytes,
        is_indexed: true,
    })
}

/// Which names go into which leaf.
fn leaves(sorted: &[(u32, u32, &Child<'_>)]) -> Vec<std::ops::Range<usize>> {
    let mut leaves = Vec::new();
    let (mut begin, mut bytes) = (0, 0);
    for (number, (.., child)) in sorted.iter().enumerate() {
        let more = entry_bytes(child.name);
        if bytes + more > LEAF_FULL {
            leaves.push(begin..number);
            (begin, bytes) = (number, 0);
        }
        bytes += more;
    }
    leaves.push(begin..sorted.len());
    leaves
}

fn block(bytes: &mut [u8], number: usize) -> &mut [u8] {
    bytes.get_mut(number * BLOCK..(number + 1) * BLOCK).unwrap_or_default()
}

/// Entries one after the other, the last of which takes all that is left, and the checksum.
fn leaf<'a>(block: &mut [u8], children: impl Iterator<Item = &'a Child<'a>>, seed: u32) {
    let mut children = children.peekable();
    let mut at = 0;
    while let Some(child) = children.next() {
        let bytes = match children.peek() {
            Some(_) => entry_bytes(child.name),
            None => BLOCK - TAIL - at,
        };
        put_entry(block, at, bytes, child.inode, child.kind, child.name);
        at += bytes;
    }
    let tail = BLOCK - TAIL;
    let sum = checksum(seed, block.get(..tail).unwrap_or_default());
    put_entry(block, tail, TAIL, 0, CHECKSUM_ENTRY, b"");
    put32(block, tail + ENTRY, sum);
}

fn put_entry(block: &mut [u8], at: usize, bytes: usize, inode: u32, kind: u8, name: &[u8]) {
    put32(block, at, inode);
    put16(block, at + 4, u16::try_from(bytes).unwrap_or(0));
    put(block, at + 6, &[u8::try_from(name.len()).unwrap_or(0), kind]);
    put(block, at + ENTRY, name);
}

/// The entries of a tree's block; their number and how many there could be take the first one's hash's place.
fn put_index(block: &mut [u8], at: usize, limit: usize, entries: &[(u32, usize)], seed: u32) {
    for (number, (hash, to)) in entries.iter().enumerate() {
        put32(block, at + number * INDEX_ENTRY, *hash);
        put32(block, at + number * INDEX_ENTRY + 4, u32::try_from(*to).unwrap_or(0));
    }
    put16(block, at, u16::try_from(limit).unwrap_or(0));
    put16(block, at + 2, u16::try_from(entries.len()).unwrap_or(0));
    let sum = checksum(seed, block.get(..at + entries.len() * INDEX_ENTRY).unwrap_or_default());
    // The tail's own eight bytes count as zeros.
    let sum = checksum(sum, &[0; INDEX_TAIL]);
    put32(block, at + limit * INDEX_ENTRY + 4, sum);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_fill_a_block_exactly_need_no_tree() {
        let hasher = Hasher {
            seed: [1, 2, 3, 4],
            signed: true,
        };
        let name = [b'x'; 252];
        let full: Vec<Child<'_>> = (0..15)
            .map(|inode| Child {
                name: &name,
                inode: inode + 20,
                kind: 1,
            })
            .chain([Child {
                name: &name[..150],
                inode: 19,
                kind: 1,
            }])
            .collect();
        let bytes = |children: &[Child<'_>]| build(12, 2, children, &hasher, 0).unwrap();
        assert!(!bytes(&full).is_indexed);
        let more = Child {
            name: b"y",
            inode: 40,
            kind: 1,
        };
        let tree = bytes(&[full, vec![more]].concat());
        assert!(tree.is_indexed);
        assert_eq!(tree.bytes.len(), 3 * BLOCK);
    }
}
