//! Accounting: every changed block is explained by a changed inode, or the difference is not known.
//!
//! This is what makes a difference by blocks safe: a clock that stood still, a write past the filesystem, a
//! gap in what is read here each leave a block that nothing explains, and then both trees are walked. They cost
//! time, never a change.

use std::collections::BTreeSet;
use std::ops::Range;

use crate::error::{Error, Result};
use crate::ext4::inode::Inode;
use crate::ext4::layout::INODE;
use crate::ext4::volume::Volume;
use crate::ext4::xattr::is_same_block;

/// The inodes whose bytes changed, each with more than its access time, sorted.
pub type Inodes = BTreeSet<u32>;

/// What the changed blocks come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Account {
    /// All explained.
    Whole(Inodes),
    /// This one belongs to a file that says it did not change.
    Unexplained(u64),
}

/// What lies where, on the volumes of one filesystem.
struct Places {
    /// Sorted by their beginning.
    tables: Vec<(Range<u64>, Table)>,
}

#[derive(Debug, Clone, Copy)]
enum Table {
    /// A descriptor, a bitmap or the journal: says nothing that an inode does not say too.
    Own,
    /// This group's inodes.
    Inodes(usize),
}

impl Places {
    fn of(volume: &Volume) -> Result<Self> {
        let length = volume.geometry().table_blocks();
        let headers = volume.geometry().headers();
        let mut tables: Vec<_> = headers.map(|header| (header, Table::Own)).collect();
        for (index, group) in volume.groups().enumerate() {
            tables.push((group.block_bitmap..group.block_bitmap + 1, Table::Own));
            tables.push((group.inode_bitmap..group.inode_bitmap + 1, Table::Own));
            tables.push((group.inode_table..group.inode_table + length, Table::Inodes(index)));
        }
        let journal = volume.journal()?;
        let extents = journal.extents.iter();
        tables.extend(extents.map(|extent| (extent.physical..extent.physical + extent.length, Table::Own)));
        tables.extend(journal.nodes.iter().map(|node| (*node..*node + 1, Table::Own)));
        tables.sort_by_key(|(range, _)| range.start);
        // Else a block of inodes could pass for the journal's.
        match tables.is_sorted_by(|(before, _), (after, _)| before.end <= after.start) {
            true => Ok(Self { tables }),
            false => Err(Error::corrupt("the tables of the ext4 filesystem overlap")),
        }
    }

    fn find(&self, block: u64) -> Option<(u64, Table)> {
        let after = self.tables.partition_point(|(range, _)| range.start <= block);
        let (range, table) = self.tables.get(after.checked_sub(1)?)?;
        range.contains(&block).then(|| (block - range.start, *table))
    }
}

/// Explains `changed`: sorted blocks whose bytes differ between two volumes of one filesystem.
///
/// # Errors
/// Corrupt where the structures of either do not fit together; what reading fails with.
pub fn account(parent: &Volume, child: &Volume, changed: &[u64]) -> Result<Account> {
    if parent.journal()? != child.journal()? {
        return Err(Error::corrupt("the journal of the ext4 filesystem has moved"));
    }
    let places = Places::of(child)?;
    let mut inodes = Inodes::new();
    let mut rest = BTreeSet::new();
    for &block in changed {
        match places.find(block) {
            Some((_, Table::Own)) => {}
            Some((at, Table::Inodes(group))) => {
                let (before, now) = (parent.block(block)?, child.block(block)?);
                let slots = before.chunks_exact(INODE).zip(now.chunks_exact(INODE));
                let differ = child.inodes_at(group, at).zip(slots);
                inodes.extend(
                    differ
                        .filter(|(_, (before, now))| !Inode::is_same(before, now))
                        .map(|(number, _)| number),
                );
            }
            None => {
                rest.insert(block);
            }
        }
    }
    inodes.retain(|number| !child.geometry().is_reserved(*number));
    for &number in &inodes {
        if rest.is_empty() {
            break;
        }
        // One that lost its last name while it was open has its blocks still.
        if let Some(inode) = child.in_use(number)? {
            explain(child, &inode, &mut rest)?;
        }
    }
    for block in rest {
        let shared = || Ok::<_, crate::error::Error>(is_same_block(&*child.block(block)?, &*parent.block(block)?));
        if !child.is_free(block)? && !shared()? {
            return Ok(Account::Unexplained(block));
        }
    }
    Ok(Account::Whole(inodes))
}

/// Takes an inode's blocks away from those that are not explained.
fn explain(child: &Volume, inode: &Inode, rest: &mut BTreeSet<u64>) -> Result<()> {
    let mapping = child.mapping(inode)?;
    for extent in &mapping.extents {
        let own = extent.physical..extent.physical + extent.length;
        let found: Vec<u64> = rest.range(own).copied().collect();
        for block in found {
            rest.remove(&block);
        }
    }
    for node in mapping.nodes {
        rest.remove(&node);
    }
    rest.remove(&inode.xattr_block());
    Ok(())
}
