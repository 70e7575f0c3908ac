//! What volumes have of a pool's data, together and alone: what deleting them would free.
//!
//! A data block is somebody's alone if no mapping of anybody else names it. The inner nodes of all trees are read
//! first, and each node is marked with whom it belongs to, or as shared; whatever is below a shared node is shared.
//! Then each leaf is read, in the order of the disk, and marks its data blocks. So no node is read twice, and
//! memory is a mark for each data block and one for each node.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::node::{DEEPEST, Node, Place};
use super::{MAPPING, Mapping, Metadata, Root};
use crate::error::{Error, Result};

/// Of a block that nobody has.
const NOBODY: u32 = 0;
/// Of a block that more than one group has.
const SHARED: u32 = u32::MAX;

/// What a volume has, in data blocks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// All that it has.
    pub mapped: u64,
    /// What nobody else has.
    pub exclusive: u64,
}

impl Metadata<'_> {
    /// What each volume of a pool with `data_blocks` has.
    ///
    /// # Errors
    /// Corrupt; what reading fails with.
    pub fn usage(&self, data_blocks: u64) -> Result<BTreeMap<u32, Usage>> {
        let volumes = self.volumes()?;
        // From 1 on; no more than there are numbers of volumes.
        let groups: Vec<(u32, Root)> = (1..).zip(volumes.iter().map(|(_, root)| *root)).collect();
        let mut exclusive = self.exclusive(&groups, data_blocks)?;
        let mut found = BTreeMap::new();
        for ((id, _), (group, _)) in volumes.iter().zip(&groups) {
            let details = self.details_of(*id)?;
            let details = details
                .ok_or_else(|| Error::corrupt(format!("the pool's metadata have no details of the volume {id}")))?;
            let usage = Usage {
                mapped: details.mapped_blocks,
                exclusive: exclusive.remove(group).unwrap_or(0),
            };
            found.insert(*id, usage);
        }
        Ok(found)
    }

    /// How many of a pool's `data_blocks` deleting these volumes, all of them, would free: what they have and no
    /// other volume. Volumes that are not there have nothing.
    ///
    /// # Errors
    /// Corrupt; what reading fails with.
    pub fn freed_by(&self, ids: &BTreeSet<u32>, data_blocks: u64) -> Result<u64> {
        const OURS: u32 = 1;
        const OTHERS: u32 = 2;
        let groups: Vec<(u32, Root)> = self
            .volumes()?
            .into_iter()
            .map(|(id, root)| (if ids.contains(&id) { OURS } else { OTHERS }, root))
            .collect();
        Ok(self.exclusive(&groups, data_blocks)?.remove(&OURS).unwrap_or(0))
    }

    /// How many data blocks each group of volumes has alone.
    fn exclusive(&self, groups: &[(u32, Root)], data_blocks: u64) -> Result<HashMap<u32, u64>> {
        let mut nodes = Nodes {
            metadata: self,
            marks: HashMap::new(),
            inner: HashMap::new(),
            leaves: HashMap::new(),
        };
        for (group, root) in groups {
            nodes.mark(*root, *group)?;
        }
        let mut data = Data {
            total: data_blocks,
            owners: Vec::new(),
            exclusive: HashMap::new(),
        };
        let mut leaves: Vec<(u64, u32)> = nodes.leaf_owners().collect();
        leaves.sort_unstable();
        for (block, owner) in leaves {
            let mapped = match nodes.leaves.remove(&block) {
                Some(mapped) => mapped,
                None => data_of(&nodes.leaf(block)?),
            };
            mapped.into_iter().try_for_each(|mapped| data.mark(mapped, owner))?;
        }
        Ok(data.exclusive)
    }
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
    /// A group, or [`SHARED`].
    owner: u32,
    /// Levels below it.
    height: usize,
}

impl Nodes<'_> {
    /// Marks the nodes of a tree.
    fn mark(&mut self, root: Root, group: u32) -> Result<()> {
        let height = self.height(root)?;
        let mut left = vec![(Place::root(root.0), height, group)];
        while let Some((place, height, mut group)) = left.pop() {
            match self.marks.entry(place.block) {
                Entry::Occupied(met) if met.get().height != height => {
                    return Err(place.damaged("trees have it at several heights"));
                }
                // So is everything below it.
                Entry::Occupied(met) if [group, SHARED].contains(&met.get().owner) => continue,
                Entry::Occupied(mut met) => {
                    group = SHARED;
                    met.get_mut().owner = SHARED;
                }
                Entry::Vacant(new) => {
                    new.insert(Mark { owner: group, height });
                }
            }
            if height > 0 {
                let children = self.children(&place)?;
                let children = children.ok_or_else(|| place.damaged("it is less deep than others"))?;
                left.extend(children.iter().map(|child| (child.clone(), height - 1, group)));
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

    fn leaf_owners(&self) -> impl Iterator<Item = (u64, u32)> + '_ {
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
    /// A group, [`SHARED`] or [`NOBODY`] for each block, as far as any was met.
    owners: Vec<u32>,
    /// How many each group has alone.
    exclusive: HashMap<u32, u64>,
}

impl Data {
    fn mark(&mut self, block: u64, owner: u32) -> Result<()> {
        let at = usize::try_from(block).ok().filter(|_| block < self.total);
        let at = at.ok_or_else(|| {
            Error::corrupt(format!(
                "the pool's metadata have the data block {block}, and there are {}",
                self.total
            ))
        })?;
        if at >= self.owners.len() {
            self.owners.resize(at + 1, NOBODY);
        }
        let before = self.owners[at];
        if before == owner {
            return Ok(());
        }
        self.owners[at] = if before == NOBODY { owner } else { SHARED };
        match before {
            NOBODY if owner != SHARED => *self.exclusive.entry(owner).or_default() += 1,
            NOBODY | SHARED => {}
            before => *self.exclusive.entry(before).or_default() -= 1,
        }
        Ok(())
    }
}
