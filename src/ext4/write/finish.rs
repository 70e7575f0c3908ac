//! What is written once the tree is known: directories, inode tables, bitmaps, counts, each from front to back.

use super::directory::{self, Child};
use super::extents::{self, Extent, Extents, ROOT_BYTES};
use super::fields::{put, put32, seed_of, u16_at, u32_at};
use super::geometry::set_bit;
use super::inode::Inode;
use super::layer::Layer;
use super::stream::read;
use super::tree::{Id, Map, Node, ROOT, Tree};
use super::{Step, Stop, Volume, generation_of, inode_of};
use crate::ext4::layout::{BLOCK, INODE, flag, mode};

/// Links of a directory above which it says that it has one.
const DIRECTORY_LINKS_MOST: u32 = 65_000;
/// Inodes that are always in use: the reserved ones.
const RESERVED: u32 = 10;
const NO_ATTRIBUTES: &[u8] = &[];

impl Layer<'_> {
    /// Completes the volume.
    pub(super) fn finish(mut self, volume: &dyn Volume) -> Step<plywood_store::layer::apply::Applied> {
        let root = Root::read(&self, volume)?;
        for extent in &root.extents {
            self.blocks
                .give_back(&self.geometry, extent.physical, extent.length.into())?;
        }
        self.directories(&root)?;
        self.inodes(volume, &root)?;
        self.inode_bitmaps()?;
        self.blocks.write(&mut self.geometry, &mut self.out)?;
        self.geometry.write(&mut self.out)?;
        self.out.flush()?;
        Ok(self.applied)
    }

    fn generation(id: Id, root: &Root) -> u32 {
        match id {
            ROOT => root.generation,
            id => generation_of(inode_of(id)),
        }
    }

    /// Writes the blocks of all directories, by their numbers.
    fn directories(&mut self, root: &Root) -> Step<()> {
        let mut order: Vec<u32> = (0..).zip(&self.tree.names).filter_map(live).collect();
        let names = &self.tree.names;
        order.sort_by_key(|number| names.get(*number as usize).map(|name| name.parent));
        let mut rest = order.as_slice();
        for id in 0..u32::try_from(self.tree.nodes.len()).unwrap_or(u32::MAX) {
            let Map::Directory { parent, .. } = self.tree.node(id)?.map else {
                continue;
            };
            let is_here = |number: &&u32| {
                self.tree
                    .names
                    .get(**number as usize)
                    .is_some_and(|name| name.parent == id)
            };
            let (here, after) = rest.split_at(rest.iter().take_while(is_here).count());
            rest = after;
            self.write_directory(id, parent, here, root)?;
        }
        Ok(())
    }

    fn write_directory(&mut self, id: Id, parent: Id, names: &[u32], root: &Root) -> Step<()> {
        let mut children = Vec::with_capacity(names.len());
        for number in names {
            let Some((name, id)) = self
                .tree
                .names
                .get(*number as usize)
                .and_then(|name| Some((name, Tree::named(name)?)))
            else {
                continue;
            };
            children.push(Child {
                name: self.tree.name(name),
                inode: inode_of(id),
                kind: kind_of(self.tree.node(id)?.mode),
            });
        }
        let inode = inode_of(id);
        let seed = seed_of(self.geometry.seed, inode, Self::generation(id, root));
        let built = directory::build(inode, inode_of(parent), &children, &self.geometry.hasher, seed)?;
        let mut extents = Extents::default();
        for (number, block) in (0..).zip(built.bytes.chunks(BLOCK)) {
            let at = self.blocks.take(&self.geometry)?;
            self.out.put(at, block)?;
            extents.push(number, at);
        }
        let map = match extents.only() {
            Some(Some(run)) if !built.is_indexed => Map::Run {
                first: run.physical,
                length: run.length,
            },
            // That it has a tree of hashes is told by this form.
            _ => {
                let (blocks, geometry, out) = (&mut self.blocks, &self.geometry, &mut self.out);
                let i_block = extents.root(seed, &mut || blocks.take(geometry), &mut |at, bytes| out.put(at, bytes))?;
                self.tree.add_root(i_block)?
            }
        };
        let node = self.tree.node_mut(id)?;
        (node.map, node.size) = (map, built.bytes.len() as u64);
        node.blocks += extents.blocks;
        Ok(())
    }

    /// Writes the inode tables as far as they are used.
    fn inodes(&mut self, volume: &dyn Volume, root: &Root) -> Step<()> {
        let (first, _) = self.geometry.slot(inode_of(ROOT));
        let (mut block, mut bytes) = (first, read(volume, first.into(), 1)?);
        for id in 0..u32::try_from(self.tree.nodes.len()).unwrap_or(u32::MAX) {
            let (at, offset) = self.geometry.slot(inode_of(id));
            if at != block {
                self.out.put(block, &bytes)?;
                bytes.fill(0);
                block = at;
            }
            let slot = self.encode(id, root)?;
            put(&mut bytes, offset, &slot);
        }
        // What behind the last one is left from the formatting is not in use, and the table says so.
        self.out.put(block, &bytes)
    }

    fn encode(&self, id: Id, root: &Root) -> Step<[u8; INODE]> {
        let node = self.tree.node(id)?;
        if node.mode == 0 {
            return Ok([0; INODE]);
        }
        let inode = inode_of(id);
        let generation = Self::generation(id, root);
        let attributes = (node.attributes as usize)
            .checked_sub(1)
            .and_then(|at| self.tree.attributes.get(at));
        let (i_block, flags) = self.i_block(node)?;
        let links = match (node.mode & mode::TYPE, node.links) {
            (mode::DIRECTORY, links) if links > DIRECTORY_LINKS_MOST => 1,
            (_, links) => u16::try_from(links).map_err(|_| Stop::declined("an inode with too many links"))?,
        };
        let inode_of = Inode {
            mode: node.mode,
            uid: node.uid,
            gid: node.gid,
            links,
            size: node.size,
            blocks: node.blocks,
            flags,
            time: node.time,
            generation,
            root: i_block,
            attributes: attributes.map_or(0, |attributes| attributes.block),
            inline: attributes.map_or(NO_ATTRIBUTES, |attributes| &attributes.inline),
        };
        Ok(inode_of.encode(seed_of(self.geometry.seed, inode, generation)))
    }

    fn i_block(&self, node: &Node) -> Step<([u8; ROOT_BYTES], u32)> {
        let kind = node.mode & mode::TYPE;
        let extent = |extent| Ok((extents::single(extent), flag::EXTENTS));
        match node.map {
            Map::None => Ok(([0; ROOT_BYTES], 0)),
            Map::Empty => extent(None),
            Map::Run { first, length } => extent(Some(Extent {
                logical: 0,
                length,
                physical: first,
            })),
            Map::Root(at) => {
                let root = self.tree.roots.get(at as usize).copied();
                let flags = match kind {
                    mode::SYMLINK => 0,
                    mode::DIRECTORY if node.size > BLOCK as u64 => flag::EXTENTS | flag::INDEX,
                    _ => flag::EXTENTS,
                };
                Ok((root.unwrap_or([0; ROOT_BYTES]), flags))
            }
            Map::Device { word, number } => {
                let mut root = [0; ROOT_BYTES];
                put32(&mut root, usize::from(word) * 4, number);
                Ok((root, 0))
            }
            Map::Directory { .. } => Err(Stop::declined("a directory that was not written")),
        }
    }

    /// Writes the bitmaps of the groups in which there are inodes.
    fn inode_bitmaps(&mut self) -> Step<()> {
        let per_group = self.geometry.group_inodes;
        let last = inode_of(u32::try_from(self.tree.nodes.len().saturating_sub(1)).unwrap_or(0)).max(RESERVED);
        for group in 0..self.geometry.groups {
            let before = group * per_group;
            if last <= before {
                break;
            }
            let mut bitmap = vec![0; BLOCK];
            let mut directories = 0;
            let mut highest = 0;
            for number in 0..per_group {
                let inode = before + number + 1;
                let node = (inode > RESERVED)
                    .then(|| self.tree.nodes.get((inode - RESERVED) as usize))
                    .flatten();
                let is_used = inode <= RESERVED || node.is_some_and(|node| node.mode != 0);
                if is_used {
                    set_bit(&mut bitmap, number);
                    highest = number;
                }
                directories += u32::from(node.is_some_and(|node| node.mode & mode::TYPE == mode::DIRECTORY));
            }
            // What is behind the group's last inode is in use.
            for bit in per_group..u32::try_from(BLOCK * 8).unwrap_or(0) {
                set_bit(&mut bitmap, bit);
            }
            self.geometry.set_inodes(group, &bitmap, highest, directories);
            self.out.put(self.geometry.inode_bitmap(group), &bitmap)?;
        }
        Ok(())
    }
}

/// The number of a name that is not gone.
fn live((number, name): (u32, &super::tree::Name)) -> Option<u32> {
    Tree::named(name).map(|_| number)
}

/// `file_type` of a directory entry.
fn kind_of(bits: u16) -> u8 {
    match bits & mode::TYPE {
        mode::FILE => 1,
        mode::DIRECTORY => 2,
        mode::CHARACTER => 3,
        mode::BLOCK => 4,
        mode::FIFO => 5,
        mode::SYMLINK => 7,
        _ => 0,
    }
}

/// What the empty volume's root directory has.
struct Root {
    generation: u32,
    extents: Vec<Extent>,
}

impl Root {
    fn read(layer: &Layer<'_>, volume: &dyn Volume) -> Step<Self> {
        let (block, offset) = layer.geometry.slot(inode_of(ROOT));
        let table = read(volume, block.into(), 1)?;
        let slot = table.get(offset..offset + INODE).unwrap_or_default();
        let plain = u16_at(slot, 0) & mode::TYPE == mode::DIRECTORY
            && u16_at(slot, 0x1A) == 2
            && u32_at(slot, 0x20) & flag::EXTENTS != 0
            && u32_at(slot, 0x68) == 0;
        let extents = slot.get(0x28..0x28 + ROOT_BYTES).and_then(extents::parse);
        match extents.filter(|_| plain) {
            Some(extents) => Ok(Self {
                generation: u32_at(slot, 0x64),
                extents,
            }),
            None => Err(Stop::declined("the volume's root is not an empty directory")),
        }
    }
}
