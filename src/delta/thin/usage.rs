//! What volumes have of a pool's data, together and alone: what deleting them would free.
//!
//! A data block is somebody's alone if no mapping of anybody else names it. The inner nodes of all trees are read
//! first, and each node is marked with whom it belongs to, or as shared; whatever is below a shared node is shared.
//! Then each leaf is read, in the order of the disk, and marks its data blocks. So no node is read twice, and
//! memory is a mark for each data block and one for each node.
//!
//! A mark has a rank beside the volume: the lowest of all that have the block. So what several volumes have together
//! is counted on the same way, once: what deleting them would free is what is left when the others have a lower rank.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::node::{DEEPEST, Node, Place};
use super::{MAPPING, Mapping, Metadata, Root};
use crate::error::{Error, Result};

/// Whose a node or a data block is: a volume's number in the order of their ids, and its rank. In one word, because
/// there is one for each data block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Owner(u32);

impl Owner {
    /// Of what nobody has.
    const NOBODY: Self = Self(u32::MAX);
    /// The number of what more than one volume has.
    const SHARED: u32 = (1 << Self::NUMBER_BITS) - 1;
    /// There are no more than 2^24 volumes.
    const NUMBER_BITS: u32 = 28;

    /// `rank` is below [`RANKS`].
    fn new(number: u32, rank: u8) -> Self {
        Self(u32::from(rank.min(RANKS - 1)) << Self::NUMBER_BITS | number)
    }

    fn number(self) -> u32 {
        self.0 & Self::SHARED
    }

    fn rank(self) -> u8 {
        // 4 bits.
        (self.0 >> Self::NUMBER_BITS) as u8
    }

    /// Of what both have.
    fn and(self, other: Self) -> Self {
        if self == Self::NOBODY {
            return other;
        }
        let number = match self.number() == other.number() {
            true => self.number(),
            false => Self::SHARED,
        };
        Self::new(number, self.rank().min(other.rank()))
    }
}

/// Ranks that volumes can have: from 0 up to this.
pub const RANKS: u8 = 15;

/// What a volume has, in data blocks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// All that it has.
    pub mapped: u64,
    /// What nobody else has.
    pub exclusive: u64,
}

/// What the volumes of a pool have, in data blocks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Count {
    /// Each by itself.
    pub volumes: BTreeMap<u32, Usage>,
    /// What those of each rank have, and none of a lower rank. Together all that is in use.
    pub ranks: [u64; RANKS as usize],
}

impl Metadata<'_> {
    /// What each volume of a pool with `data_blocks` has.
    ///
    /// # Errors
    /// Corrupt; what reading fails with.
    pub fn usage(&self, data_blocks: u64) -> Result<BTreeMap<u32, Usage>> {
        Ok(self.count(&|_| 0, data_blocks)?.volumes)
    }

    /// The same, and what those of a rank have together. Every rank is below [`RANKS`].
    ///
    /// # Errors
    /// Corrupt; what reading fails with.
    pub fn count(&self, rank: &dyn Fn(u32) -> u8, data_blocks: u64) -> Result<Count> {
        let volumes = self.volumes()?;
        // No more than there are numbers of volumes.
        let owner = |(number, (id, root)): (u32, &(u32, Root))| (Owner::new(number, rank(*id)), *root);
        let owners: Vec<_> = (0..).zip(&volumes).map(owner).collect();
        let tally = self.tally(&owners, data_blocks)?;
        let mut count = Count {
            volumes: BTreeMap::new(),
            ranks: tally.ranks,
        };
        for ((id, _), exclusive) in volumes.iter().zip(tally.exclusive) {
            let details = self.details_of(*id)?;
            let details = details
                .ok_or_else(|| Error::corrupt(format!("the pool's metadata have no details of the volume {id}")))?;
            let usage = Usage {
                mapped: details.mapped_blocks,
                exclusive,
            };
            count.volumes.insert(*id, usage);
        }
        Ok(count)
    }

    /// How many of a pool's `data_blocks` deleting these volumes, all of them, would free: what they have and no
    /// other volume. Volumes that are not there have nothing.
    ///
    /// # Errors
    /// Corrupt; what reading fails with.
    pub fn freed_by(&self, ids: &BTreeSet<u32>, data_blocks: u64) -> Result<u64> {
        let volumes = self.volumes()?.into_iter();
        let owners: Vec<_> = volumes
            .map(|(id, root)| (Owner::new(0, u8::from(ids.contains(&id))), root))
            .collect();
        Ok(self.tally(&owners, data_blocks)?.ranks[1])
    }

    /// How many data blocks each number of `volumes` has alone, and each rank before those above it.
    fn tally(&self, volumes: &[(Owner, Root)], data_blocks: u64) -> Result<Tally> {
        let mut nodes = Nodes {
            metadata: self,
            marks: HashMap::new(),
            inner: HashMap::new(),
            leaves: HashMap::new(),
        };
        for (owner, root) in volumes {
            nodes.mark(*root, *owner)?;
        }
        let mut data = Data {
            total: data_blocks,
            owners: Vec::new(),
        };
        let mut leaves: Vec<(u64, Owner)> = nodes.leaf_owners().collect();
        leaves.sort_unstable_by_key(|(block, _)| *block);
        for (block, owner) in leaves {
            let mapped = match nodes.leaves.remove(&block) {
                Some(mapped) => mapped,
                None => data_of(&nodes.leaf(block)?),
            };
            mapped.into_iter().try_for_each(|mapped| data.mark(mapped, owner))?;
        }
        Ok(data.tally(volumes.len()))
    }
}

/// Data blocks, counted.
struct Tally {
    /// By number.
    exclusive: Vec<u64>,
    ranks: [u64; RANKS as usize],
}

/// The data blocks of a leaf.
fn data_of(leaf: &Node) -> Vec<u64> {
    let mapping = |at| Mapping::new(leaf.key(at), leaf.word(at));
    (0..leaf.len()).map(|at| mapping(at).data).collect()
}

/// The nodes that were met.
struct Nodes<'m> {
    metadata: &'m Metadata<'m>,
    marks: HashMap<u64, Mark>,
    /// The children of inner nodes.
    inner: HashMap<u64, Vec<Place>>,
    /// The data blocks of leaves that had to be read to find out how high their tree is.
    leaves: HashMap<u64, Vec<u64>>,
}

/// Of a node.
struct Mark {
    owner: Owner,
    /// Levels below it.
    height: usize,
}

impl Nodes<'_> {
    /// Marks the nodes of a tree.
    fn mark(&mut self, root: Root, owner: Owner) -> Result<()> {
        let height = self.height(root)?;
        let mut left = vec![(Place::root(root.0), height, owner)];
        while let Some((place, height, mut owner)) = left.pop() {
            match self.marks.entry(place.block) {
                Entry::Occupied(met) if met.get().height != height => {
                    return Err(place.damaged("trees have it at several heights"));
                }
                // So is everything below it.
                Entry::Occupied(met) if met.get().owner.and(owner) == met.get().owner => continue,
                Entry::Occupied(mut met) => {
                    owner = met.get().owner.and(owner);
                    met.get_mut().owner = owner;
                }
                Entry::Vacant(new) => {
                    new.insert(Mark { owner, height });
                }
            }
            if height > 0 {
                let children = self.children(&place)?;
                let children = children.ok_or_else(|| place.damaged("it is less deep than others"))?;
                left.extend(children.iter().map(|child| (child.clone(), height - 1, owner)));
            }
        }
        Ok(())
    }

    /// Levels below a root: a known node tells, or else the first leaf.
    fn height(&mut self, root: Root) -> Result<usize> {
        let mut place = Place::root(root.0);
        for above in 0..DEEPEST {
            if let Some(mark) = self.marks.get(&place.block) {
                return Ok(above + mark.height);
            }
            match self.children(&place)?.and_then(|children| children.first().cloned()) {
                Some(child) => place = child,
                None => return Ok(above),
            }
        }
        Err(place.damaged("the tree is deeper than any"))
    }

    /// The children of a node; none of a leaf.
    fn children(&mut self, place: &Place) -> Result<Option<&[Place]>> {
        if !self.inner.contains_key(&place.block) && !self.leaves.contains_key(&place.block) {
            let node = self.metadata.node(place.clone(), MAPPING)?;
            if node.is_leaf() {
                self.leaves.insert(place.block, data_of(&node));
            } else {
                let children = (0..node.len()).map(|at| node.child(at)).collect::<Result<_>>()?;
                self.inner.insert(place.block, children);
            }
        }
        Ok(self.inner.get(&place.block).map(Vec::as_slice))
    }

    fn leaf_owners(&self) -> impl Iterator<Item = (u64, Owner)> + '_ {
        let leaves = self.marks.iter().filter(|(_, mark)| mark.height == 0);
        leaves.map(|(block, mark)| (*block, mark.owner))
    }

    /// A leaf that was not read yet, and so is no root.
    fn leaf(&self, block: u64) -> Result<Node> {
        let place = Place {
            depth: 1,
            ..Place::root(block)
        };
        let node = self.metadata.node(place.clone(), MAPPING)?;
        match node.is_leaf() {
            true => Ok(node),
            false => Err(place.damaged("it is deeper than others")),
        }
    }
}

/// To whom the data blocks belong.
struct Data {
    /// How many there are.
    total: u64,
    /// Of each block, as far as any was met.
    owners: Vec<Owner>,
}

impl Data {
    fn mark(&mut self, block: u64, owner: Owner) -> Result<()> {
        let at = usize::try_from(block).ok().filter(|_| block < self.total);
        let at = at.ok_or_else(|| {
            Error::corrupt(format!(
                "the pool's metadata have the data block {block}, and there are {}",
                self.total
            ))
        })?;
        if at >= self.owners.len() {
            self.owners.resize(at + 1, Owner::NOBODY);
        }
        self.owners[at] = self.owners[at].and(owner);
        Ok(())
    }

    /// Counts them, of so many volumes.
    fn tally(&self, volumes: usize) -> Tally {
        let mut tally = Tally {
            exclusive: vec![0; volumes],
            ranks: [0; RANKS as usize],
        };
        for owner in self.owners.iter().filter(|owner| **owner != Owner::NOBODY) {
            tally.ranks[usize::from(owner.rank())] += 1;
            if let Some(exclusive) = tally.exclusive.get_mut(owner.number() as usize) {
                *exclusive += 1;
            }
        }
        tally
    }
}
