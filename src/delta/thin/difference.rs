//! Where two volumes of a pool differ, without a look at what they share.
//!
//! Both trees are walked at once, lowest key first. Where both have the same node in hand, it is left out: a
//! shared node has the same mappings. Else the one that comes first is opened, or that which stands higher, so
//! that what both share is in hand on both sides at one time. A meeting that is missed costs reads: its mappings
//! come out as pairs and are the same.

use std::collections::HashMap;
use std::ops::Range;

use super::node::{Node, Place};
use super::{MAPPING, MOST_BLOCKS, Mapping, Metadata, Root};
use crate::delta::source::{BlockSource, Ranges};
use crate::error::Result;

/// How two volumes differ in a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Difference {
    /// Only the first has it: in the second it reads as zeros.
    LeftOnly,
    /// Only the second has it.
    RightOnly,
    /// Each has another data block. The content may be the same all the same.
    Differ,
}

/// A run of blocks in which two volumes differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Block numbers in the volume.
    pub blocks: Range<u64>,
    /// How.
    pub kind: Difference,
}

impl Metadata<'_> {
    /// Where two volumes differ, ascending and as long as possible. Reads about twice as many nodes as the changed
    /// leaves are deep, however large the volumes; none where both have the same root.
    ///
    /// # Errors
    /// Corrupt; what reading fails with.
    pub fn difference(&self, before: Root, after: Root) -> Result<Vec<Change>> {
        let mut changes = Changes(Vec::new());
        if before == after {
            return Ok(changes.0);
        }
        let (mut left, mut right) = self.sides(before, after)?;
        loop {
            match (left.items.last(), right.items.last()) {
                (Some(Item::Mapping(a)), other) if other.is_none_or(|b| a.block < b.first()) => {
                    changes.add(a.block, Difference::LeftOnly);
                    left.items.pop();
                }
                (other, Some(Item::Mapping(b))) if other.is_none_or(|a| b.block < a.first()) => {
                    changes.add(b.block, Difference::RightOnly);
                    right.items.pop();
                }
                (Some(Item::Mapping(a)), Some(Item::Mapping(b))) => {
                    if a.data != b.data {
                        changes.add(a.block, Difference::Differ);
                    }
                    left.items.pop();
                    right.items.pop();
                }
                (Some(Item::Node(a)), Some(Item::Node(b))) if a.block == b.block => {
                    left.items.pop();
                    right.items.pop();
                }
                (Some(Item::Node(a)), Some(Item::Node(b))) => {
                    match opens_first(a, left.height(a), b, right.height(b)) {
                        true => left.open()?,
                        false => right.open()?,
                    }
                }
                (Some(Item::Node(_)), _) => left.open()?,
                (_, Some(Item::Node(_))) => right.open()?,
                // Nothing is left: a mapping alone was taken above.
                (Some(Item::Mapping(_)) | None, None) | (None, Some(Item::Mapping(_))) => return Ok(changes.0),
            }
        }
    }

    /// Both trees, unopened, with the depth of their leaves. That is found on a way down through nodes that they do
    /// not share, which are opened later anyway.
    fn sides(&self, before: Root, after: Root) -> Result<(Side<'_>, Side<'_>)> {
        let [mut left, mut right] = [before, after].map(|root| Side {
            metadata: self,
            leaves: 0,
            items: vec![Item::Node(Place::root(root.0))],
            known: HashMap::new(),
            opened: 0,
        });
        let mut next = (Some(Place::root(before.0)), Some(Place::root(after.0)));
        while next != (None, None) {
            let (a, b) = (left.read(next.0)?, right.read(next.1)?);
            next = (way_down(a.as_ref(), b.as_ref())?, way_down(b.as_ref(), a.as_ref())?);
            left.keep(a);
            right.keep(b);
        }
        Ok((left, right))
    }
}

/// The first child of a node that another does not have at the same place.
fn way_down(node: Option<&Node>, other: Option<&Node>) -> Result<Option<Place>> {
    let Some(node) = node.filter(|node| !node.is_leaf()) else {
        return Ok(None);
    };
    let other = other.filter(|other| !other.is_leaf());
    let shared = |at: usize| other.is_some_and(|other| at < other.len() && other.word(at) == node.word(at));
    let own = (0..node.len()).find(|at| !shared(*at));
    node.child(own.unwrap_or(0)).map(Some)
}

/// Whether of two different nodes the first is to be opened: as it lies before the other, stands higher, or
/// begins earlier.
fn opens_first(a: &Place, height: usize, b: &Place, other_height: usize) -> bool {
    if a.keys.end() < b.keys.start() {
        return true;
    }
    if b.keys.end() < a.keys.start() {
        return false;
    }
    match height.cmp(&other_height) {
        std::cmp::Ordering::Equal => a.keys.start() <= b.keys.start(),
        order => order.is_gt(),
    }
}

/// What one tree still has, the lowest last.
struct Side<'m> {
    metadata: &'m Metadata<'m>,
    /// The depth of every leaf.
    leaves: usize,
    items: Vec<Item>,
    /// Nodes that were read to find that depth.
    known: HashMap<u64, Node>,
    opened: u64,
}

enum Item {
    Node(Place),
    Mapping(Mapping),
}

impl Item {
    /// The lowest block that it can have.
    fn first(&self) -> u64 {
        match self {
            Self::Node(place) => *place.keys.start(),
            Self::Mapping(mapping) => mapping.block,
        }
    }
}

impl Side<'_> {
    /// A node on the way down.
    fn read(&self, place: Option<Place>) -> Result<Option<Node>> {
        place.map(|place| self.metadata.node(place, MAPPING)).transpose()
    }

    /// Keeps it until it is opened.
    fn keep(&mut self, node: Option<Node>) {
        if let Some(node) = node {
            self.leaves = node.place().depth;
            self.known.insert(node.place().block, node);
        }
    }

    /// Levels below a node.
    fn height(&self, place: &Place) -> usize {
        self.leaves.saturating_sub(place.depth)
    }

    /// Puts what a node has in its place, if that is what comes next.
    fn open(&mut self) -> Result<()> {
        let Some(Item::Node(place)) = self.items.pop() else {
            return Ok(());
        };
        self.opened += 1;
        if self.opened > MOST_BLOCKS {
            return Err(place.damaged("the tree has more nodes than there are blocks"));
        }
        let known = self.known.remove(&place.block).filter(|node| *node.place() == place);
        let node = match known {
            Some(node) => node,
            None => self.metadata.node(place.clone(), MAPPING)?,
        };
        if node.is_leaf() != (place.depth == self.leaves) {
            return Err(place.damaged("it is deeper than others, or less deep"));
        }
        for at in (0..node.len()).rev() {
            self.items.push(match node.is_leaf() {
                true => Item::Mapping(Mapping::new(node.key(at), node.word(at))),
                false => Item::Node(node.child(at)?),
            });
        }
        Ok(())
    }
}

/// Changes, as long as possible.
struct Changes(Vec<Change>);

impl Changes {
    fn add(&mut self, block: u64, kind: Difference) {
        match self.0.last_mut() {
            Some(last) if last.blocks.end == block && last.kind == kind => last.blocks.end += 1,
            // The highest number would have no end; no volume reaches it.
            _ => self.0.push(Change {
                blocks: block..block.saturating_add(1),
                kind,
            }),
        }
    }
}

/// What changed from one volume of a pool to another.
#[derive(Debug)]
pub struct Source<'m> {
    /// The pool's metadata, which have both.
    pub metadata: &'m Metadata<'m>,
    /// The volume before.
    pub before: Root,
    /// The volume after.
    pub after: Root,
    /// Bytes of both.
    pub size: u64,
}

impl BlockSource for Source<'_> {
    fn changed(&self) -> Result<Vec<Range<u64>>> {
        let unit = self.metadata.block_size();
        let mut ranges = Ranges::within(self.size);
        for change in self.metadata.difference(self.before, self.after)? {
            ranges.add(change.blocks.start.saturating_mul(unit)..change.blocks.end.saturating_mul(unit));
        }
        Ok(ranges.done())
    }
}
