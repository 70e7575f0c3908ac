//! What the fuzzer does with formats on blocks, and what must then hold. The corpora are replayed through the same
//! functions by `tests/corpus_blocks.rs`.

#![allow(dead_code, reason = "each target uses one of them")]

use std::collections::{BTreeMap, BTreeSet};

use plywood::blocks::{BLOCK, Counted, ReadAt};
use plywood::delta::exceptions::{Exceptions, Seen};
use plywood::delta::source::BlockSource;
use plywood::delta::thin::{Difference, Metadata};

/// Bytes of the input for each metadata block: all of a superblock's fields, a node with some entries. Zeros follow.
const PART: usize = 384;
/// Data blocks of the pool.
const DATA_BLOCKS: u64 = 4096;

/// A pool's metadata: what is said of them without looking at everything is what is found by looking at it.
pub(crate) fn thin_metadata(data: &[u8]) {
    let mut image = Vec::new();
    for (block, part) in (0_u64..).zip(data.chunks(PART)) {
        let mut bytes = vec![0; 4096];
        bytes[..part.len()].copy_from_slice(part);
        bytes[8..16].copy_from_slice(&block.to_le_bytes());
        let salt = if block == 0 { 160_774 } else { 121_107 };
        let sum = !crc32c::crc32c(&bytes[4..]) ^ salt;
        bytes[..4].copy_from_slice(&u32::to_le_bytes(sum));
        image.extend(bytes);
    }
    let counted = Counted::new(&image);
    if let Ok(metadata) = Metadata::open(&counted, 0) {
        let blocks = image.len() as u64 / 4096;
        ask(&metadata);
        let asked = metadata.volumes().map_or(0, |volumes| volumes.len() as u64);
        assert!(
            counted.reads() <= (asked + 2).pow(2) * 64 * blocks,
            "{} reads",
            counted.reads()
        );
    }
}

fn ask(metadata: &Metadata<'_>) {
    let Ok(volumes) = metadata.volumes() else { return };
    let mut whole = Vec::new();
    for (id, root) in &volumes {
        assert_eq!(metadata.root_of(*id).expect("its way is known"), Some(*root));
        let mut blocks = BTreeMap::new();
        let read = metadata.each_mapping(*root, &mut |mapping| {
            assert!(blocks.insert(mapping.block, mapping.data).is_none());
        });
        let runs = metadata.mapped(*root);
        assert_eq!(read.is_ok(), runs.is_ok());
        whole.push((*id, *root, read.ok().map(|()| blocks)));
    }
    for (_, before, left) in &whole {
        for (_, after, right) in &whole {
            let found = metadata.difference(*before, *after);
            if let (Some(left), Some(right)) = (left, right) {
                let found = found.expect("both can be read");
                let found = found
                    .iter()
                    .flat_map(|change| change.blocks.clone().map(|block| (block, change.kind)));
                // No volume is so large that it has the highest number.
                if !left.contains_key(&u64::MAX) && !right.contains_key(&u64::MAX) {
                    assert!(found.eq(differences(left, right)), "{left:?} {right:?}");
                }
            }
        }
    }
    let usage = metadata.usage(DATA_BLOCKS);
    let freed = metadata.freed_by(&volumes.iter().step_by(2).map(|(id, _)| *id).collect(), DATA_BLOCKS);
    let mut owners: BTreeMap<u64, BTreeSet<u32>> = BTreeMap::new();
    for (id, _, blocks) in &whole {
        let Some(blocks) = blocks else { return };
        for data in blocks.values() {
            owners.entry(*data).or_default().insert(*id);
        }
    }
    if owners.keys().any(|data| *data >= DATA_BLOCKS) {
        return;
    }
    let alone = |ids: &BTreeSet<u32>| owners.values().filter(|owners| owners.is_subset(ids)).count() as u64;
    let every_second = volumes.iter().step_by(2).map(|(id, _)| *id).collect();
    assert_eq!(freed.expect("all can be read"), alone(&every_second));
    if let Ok(usage) = usage {
        assert!(
            usage
                .iter()
                .all(|(id, usage)| usage.exclusive == alone(&BTreeSet::from([*id])))
        );
    }
}

fn differences<'a>(
    left: &'a BTreeMap<u64, u64>,
    right: &'a BTreeMap<u64, u64>,
) -> impl Iterator<Item = (u64, Difference)> + 'a {
    let blocks: BTreeSet<_> = left.keys().chain(right.keys()).copied().collect();
    blocks.into_iter().filter_map(|block| {
        let kind = match (left.get(&block), right.get(&block)) {
            (Some(_), None) => Difference::LeftOnly,
            (None, Some(_)) => Difference::RightOnly,
            (old, new) if old != new => Difference::Differ,
            _ => return None,
        };
        Some((block, kind))
    })
}

/// An exception store, zeros after the input: refused, or the snapshot can be read, and differs from its origin
/// nowhere else than is said.
pub(crate) fn exception_store(data: &[u8]) {
    const STORE: usize = 64 << 10;
    const ORIGIN: usize = (128 << 10) + 512;
    let mut store = data.to_vec();
    store.resize(data.len().max(STORE), 0);
    let Ok(exceptions) = Exceptions::read(&store, store.len() as u64, ORIGIN as u64) else {
        return;
    };
    let mut end = 0;
    for chunks in exceptions.chunks() {
        assert!(
            chunks.start < chunks.end && (end == 0 || end < chunks.start),
            "{chunks:?}"
        );
        assert!(chunks.end <= (ORIGIN as u64).div_ceil(exceptions.chunk_size()));
        end = chunks.end;
    }
    let ranges = exceptions.changed().expect("nothing is read");
    assert!(
        ranges
            .iter()
            .all(|range| range.start % BLOCK == 0 && range.end % BLOCK == 0)
    );
    let origin = vec![0xa5; ORIGIN];
    let snapshot = Seen::new(&origin, &store, &exceptions);
    let mut whole = vec![0; ORIGIN];
    snapshot.read_at(&mut whole, 0).expect("all that is named is there");
    for (at, block) in whole.chunks_exact(4096).enumerate() {
        let at = at as u64 * BLOCK;
        let changed = ranges.iter().any(|range| range.contains(&at));
        assert!(changed || block == &origin[..4096], "at {at}");
        let mut again = vec![0; 1000];
        snapshot.read_at(&mut again, at + 100).expect("a part of it");
        assert_eq!(again, block[100..1100]);
    }
}
