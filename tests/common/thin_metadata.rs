//! Builds the metadata of a thin pool as the kernel does: B-trees whose nodes are copied before they change where
//! a snapshot has them too, split when they are full and merged when they are nearly empty. And writes them.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::cast_possible_truncation,
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "helpers of tests panic as tests do, and each test crate uses a part of them"
)]

use std::collections::{BTreeMap, HashSet};

use plywood::delta::thin::{Change, Difference};

/// Bytes of a metadata block.
pub const SIZE: usize = 4096;
/// The data blocks of every pool here.
pub const DATA_BLOCKS: u64 = 1 << 24;

/// Random numbers that a seed repeats (xorshift64*).
#[derive(Debug)]
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// Below `limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16) % limit
    }
}

#[derive(Debug, Clone)]
struct Node {
    height: usize,
    keys: Vec<u64>,
    values: Vec<u64>,
}

/// A pool.
#[derive(Debug)]
pub struct Pool {
    /// Of block 1 and so on.
    nodes: Vec<Node>,
    counts: Vec<u32>,
    /// Copied in this transaction already.
    young: HashSet<u64>,
    /// Entries that a node has room for.
    most: usize,
    roots: BTreeMap<u32, u64>,
    next_data: u64,
    time: u64,
    /// What each volume has.
    pub volumes: BTreeMap<u32, BTreeMap<u64, u64>>,
}

impl Pool {
    /// Without a volume.
    pub fn new(most: usize) -> Self {
        Self {
            nodes: Vec::new(),
            counts: Vec::new(),
            young: HashSet::new(),
            most,
            roots: BTreeMap::new(),
            next_data: 0,
            time: 0,
            volumes: BTreeMap::new(),
        }
    }

    pub fn create(&mut self, id: u32) {
        let root = self.add(Node {
            height: 0,
            keys: vec![],
            values: vec![],
        });
        self.roots.insert(id, root);
        self.volumes.insert(id, BTreeMap::new());
    }

    pub fn snap(&mut self, id: u32, origin: u32) {
        self.young.clear();
        self.time += 1;
        let root = self.roots[&origin];
        *self.count(root) += 1;
        self.roots.insert(id, root);
        self.volumes.insert(id, self.volumes[&origin].clone());
    }

    pub fn delete(&mut self, id: u32) {
        let root = self.roots.remove(&id).expect("a volume");
        self.drop_node(root);
        self.volumes.remove(&id);
    }

    /// The block of a volume's root.
    pub fn root(&self, id: u32) -> u64 {
        self.roots[&id]
    }

    /// The highest block of a volume's node.
    pub fn nodes(&self) -> u64 {
        self.nodes.len() as u64
    }

    /// Levels of a volume's tree.
    pub fn depth(&self, id: u32) -> usize {
        self.node(self.roots[&id]).height + 1
    }

    /// Gives a block of a volume a new data block.
    pub fn write(&mut self, id: u32, key: u64) {
        let data = self.next_data;
        self.next_data += 1;
        self.volumes.get_mut(&id).expect("a volume").insert(key, data);
        let value = data << 24 | self.time;
        let root = self.shadow(self.roots[&id]);
        self.roots.insert(id, root);
        if self.node(root).keys.len() >= self.most {
            self.split_root(root);
        }
        let mut block = root;
        while self.node(block).height > 0 {
            let node = self.node_mut(block);
            let at = node.keys.partition_point(|other| *other <= key).saturating_sub(1);
            node.keys[at] = node.keys[at].min(key);
            let child = node.values[at];
            let child = self.shadow(child);
            self.node_mut(block).values[at] = child;
            if self.node(child).keys.len() < self.most {
                block = child;
                continue;
            }
            let half = self.node(child).keys.len() / 2;
            let height = self.node(child).height;
            let keys = self.node_mut(child).keys.split_off(half);
            let values = self.node_mut(child).values.split_off(half);
            let first = keys[0];
            let sibling = self.add(Node { height, keys, values });
            let node = self.node_mut(block);
            node.keys.insert(at + 1, first);
            node.values.insert(at + 1, sibling);
            block = if key < first { child } else { sibling };
        }
        let leaf = self.node_mut(block);
        match leaf.keys.binary_search(&key) {
            Ok(at) => leaf.values[at] = value,
            Err(at) => {
                leaf.keys.insert(at, key);
                leaf.values.insert(at, value);
            }
        }
    }

    /// Discards a block of a volume.
    pub fn discard(&mut self, id: u32, key: u64) {
        if self.volumes.get_mut(&id).expect("a volume").remove(&key).is_none() {
            return;
        }
        let mut root = self.shadow(self.roots[&id]);
        self.remove(root, key);
        while self.node(root).height > 0 && self.node(root).keys.len() == 1 {
            root = self.node(root).values[0];
        }
        if self.node(root).keys.is_empty() {
            self.node_mut(root).height = 0;
        }
        self.roots.insert(id, root);
    }

    /// From here on every node is copied before it changes, as after a commit with a metadata snapshot.
    pub fn commit(&mut self) {
        self.young.clear();
    }

    fn remove(&mut self, block: u64, key: u64) {
        let at = self.node(block).keys.partition_point(|other| *other <= key) - 1;
        if self.node(block).height == 0 {
            self.node_mut(block).keys.remove(at);
            self.node_mut(block).values.remove(at);
            return;
        }
        let child = self.shadow(self.node(block).values[at]);
        self.node_mut(block).values[at] = child;
        self.remove(child, key);
        if self.node(child).keys.is_empty() {
            self.node_mut(block).keys.remove(at);
            self.node_mut(block).values.remove(at);
            return;
        }
        // Merged with the next where both are small.
        let Some(next) = self.node(block).values.get(at + 1).copied() else {
            return;
        };
        if self.node(child).keys.len() + self.node(next).keys.len() <= self.most / 3 {
            let next = self.shadow(next);
            let other = self.node(next).clone();
            self.node_mut(child).keys.extend(other.keys);
            self.node_mut(child).values.extend(other.values);
            self.node_mut(block).keys.remove(at + 1);
            self.node_mut(block).values.remove(at + 1);
        }
    }

    fn split_root(&mut self, root: u64) {
        let node = self.node(root).clone();
        let half = node.keys.len() / 2;
        let halves = [0..half, half..node.keys.len()].map(|range| {
            self.add(Node {
                height: node.height,
                keys: node.keys[range.clone()].to_vec(),
                values: node.values[range].to_vec(),
            })
        });
        *self.node_mut(root) = Node {
            height: node.height + 1,
            keys: vec![node.keys[0], node.keys[half]],
            values: halves.to_vec(),
        };
    }

    fn node(&self, block: u64) -> &Node {
        &self.nodes[block as usize - 1]
    }

    fn node_mut(&mut self, block: u64) -> &mut Node {
        &mut self.nodes[block as usize - 1]
    }

    fn count(&mut self, block: u64) -> &mut u32 {
        &mut self.counts[block as usize - 1]
    }

    fn add(&mut self, node: Node) -> u64 {
        self.nodes.push(node);
        self.counts.push(1);
        let block = self.nodes.len() as u64;
        self.young.insert(block);
        block
    }

    /// The same node where only the caller's parent has it and it is new; else a copy.
    fn shadow(&mut self, block: u64) -> u64 {
        if *self.count(block) == 1 && self.young.contains(&block) {
            return block;
        }
        let node = self.node(block).clone();
        *self.count(block) -= 1;
        if *self.count(block) > 0 && node.height > 0 {
            for child in &node.values {
                *self.count(*child) += 1;
            }
        }
        self.add(node)
    }

    fn drop_node(&mut self, block: u64) {
        *self.count(block) -= 1;
        if *self.count(block) == 0 && self.node(block).height > 0 {
            for child in self.node(block).values.clone() {
                self.drop_node(child);
            }
        }
    }

    /// Random writes and discards of a volume that has keys below `span`.
    pub fn edit(&mut self, id: u32, dice: &mut Dice, edits: u64, span: u64) {
        for _ in 0..edits {
            let key = dice.below(span);
            match dice.below(10) {
                0..6 => self.write(id, key),
                6 => (key..span.min(key + 1 + dice.below(20))).for_each(|key| self.write(id, key)),
                7 => (key..span.min(key + 1 + dice.below(40))).for_each(|key| self.discard(id, key)),
                _ => self.discard(id, key),
            }
        }
    }

    /// The whole metadata, and the block of the metadata snapshot in them.
    pub fn image(&self) -> (Vec<u8>, u64) {
        let mut image = vec![0; SIZE * (self.nodes.len() + 1)];
        for (block, node) in (1..).zip(&self.nodes) {
            let bytes = &mut image[block as usize * SIZE..][..SIZE];
            let values: Vec<_> = node.values.iter().map(|value| value.to_le_bytes().to_vec()).collect();
            write_node(bytes, block, node.height == 0, self.most, &node.keys, &values);
        }
        let words = |root: &u64| root.to_le_bytes().to_vec();
        let mapping = bulk(
            &mut image,
            self.roots.iter().map(|(id, root)| (*id, words(root))).collect(),
        );
        let details = self.volumes.iter().map(|(id, blocks)| {
            let mut value = (blocks.len() as u64).to_le_bytes().to_vec();
            value.extend(u64::from(*id).to_le_bytes());
            value.extend(1_u32.to_le_bytes());
            value.extend(2_u32.to_le_bytes());
            (*id, value)
        });
        let details = bulk(&mut image, details.collect());
        let held = (image.len() / SIZE) as u64;
        image.extend([0; SIZE]);
        for block in [0, held] {
            let bytes = &mut image[block as usize * SIZE..][..SIZE];
            for (at, word) in [(8, block), (32, 27_022_010), (48, 7), (56, held)] {
                put64(bytes, at, word);
            }
            for (at, word) in [(320, mapping), (328, details), (344, held + 1)] {
                put64(bytes, at, word);
            }
            for (at, word) in [(40, 2), (44, self.time as u32), (336, 128), (340, 8)] {
                put32(bytes, at, word);
            }
            seal(bytes, 160_774);
        }
        (image, held)
    }
}

/// A tree at once: as many leaves as it takes, under one root.
fn bulk(image: &mut Vec<u8>, entries: Vec<(u32, Vec<u8>)>) -> u64 {
    let size = entries.first().map_or(8, |(_, value)| value.len());
    let most = 4064 / (8 + size) / 3 * 3;
    let mut add = |leaf: bool, most: usize, entries: &[(u64, Vec<u8>)]| {
        let block = (image.len() / SIZE) as u64;
        let mut bytes = vec![0; SIZE];
        let (keys, values): (Vec<u64>, Vec<Vec<u8>>) = entries.iter().cloned().unzip();
        write_node(&mut bytes, block, leaf, most, &keys, &values);
        image.extend(bytes);
        block
    };
    let entries: Vec<_> = entries.into_iter().map(|(id, value)| (u64::from(id), value)).collect();
    if entries.len() <= most {
        return add(true, most, &entries);
    }
    let leaves: Vec<_> = entries
        .chunks(most)
        .map(|chunk| (chunk[0].0, add(true, most, chunk).to_le_bytes().to_vec()))
        .collect();
    add(false, 252, &leaves)
}

fn write_node(bytes: &mut [u8], block: u64, leaf: bool, most: usize, keys: &[u64], values: &[Vec<u8>]) {
    let size = values.first().map_or(8, Vec::len);
    put32(bytes, 4, if leaf { 2 } else { 1 });
    put64(bytes, 8, block);
    for (at, word) in [(16, keys.len()), (20, most), (24, size)] {
        put32(bytes, at, word as u32);
    }
    for (at, (key, value)) in keys.iter().zip(values).enumerate() {
        put64(bytes, 32 + 8 * at, *key);
        bytes[32 + 8 * most + size * at..][..size].copy_from_slice(value);
    }
    seal(bytes, 121_107);
}

pub fn put32(bytes: &mut [u8], at: usize, word: u32) {
    bytes[at..at + 4].copy_from_slice(&word.to_le_bytes());
}

pub fn put64(bytes: &mut [u8], at: usize, word: u64) {
    bytes[at..at + 8].copy_from_slice(&word.to_le_bytes());
}

/// Puts the right checksum into a block, told by what kind of block it is.
pub fn seal(block: &mut [u8], salt: u32) {
    // CRC-32C bit by bit: not the code that is tested.
    let mut sum = u32::MAX;
    for byte in &block[4..] {
        sum ^= u32::from(*byte);
        for _ in 0..8 {
            sum = (sum >> 1) ^ if sum & 1 == 1 { 0x82f6_3b78 } else { 0 };
        }
    }
    put32(block, 0, sum ^ salt);
}

/// What `thin_delta` has said, as far as it is a change.
pub fn delta(xml: &str) -> Vec<Change> {
    let attribute = |line: &str, name: &str| -> u64 {
        let (_, rest) = line.split_once(&format!(" {name}=\"")).expect("an attribute");
        rest.split('"').next().expect("a value").parse().expect("a number")
    };
    let kind = |line: &str| match line.trim_start().split(' ').next() {
        Some("<left_only") => Some(Difference::LeftOnly),
        Some("<right_only") => Some(Difference::RightOnly),
        Some("<different") => Some(Difference::Differ),
        _ => None,
    };
    let change = |line: &str| {
        let begin = attribute(line, "begin");
        let blocks = begin..begin + attribute(line, "length");
        Some(Change {
            kind: kind(line)?,
            blocks,
        })
    };
    xml.lines()
        .filter(|line| kind(line).is_some())
        .filter_map(change)
        .collect()
}
