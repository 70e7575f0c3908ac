//! What the sources of changed blocks say, held against brute force and against the tools of thin-provisioning:
//! thin metadata, exception stores, bytes.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    clippy::single_range_in_vec_init,
    reason = "helpers of tests panic as tests do, and lists of ranges are meant"
)]

#[path = "common/exception_store.rs"]
mod exception_store;
#[path = "common/thin_metadata.rs"]
mod thin_metadata;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write as _;
use std::io;
use std::ops::Range;
use std::process::{Command, Stdio};

use exception_store::{Entries, store};
use plywood::blocks::{BLOCK, ReadAt};
use plywood::delta::bytewise::{Bytewise, refine};
use plywood::delta::exceptions::{Exceptions, Seen};
use plywood::delta::source::BlockSource;
use plywood::delta::thin::{Change, Difference, Mapping, Metadata, Source, Usage};
use plywood::error::{Kind, Result};
use thin_metadata::{DATA_BLOCKS, Dice, Pool, SIZE, put32, put64, seal};

/// Remembers which blocks were read.
struct Recorded<'a> {
    inner: &'a [u8],
    blocks: RefCell<Vec<u64>>,
}

impl<'a> Recorded<'a> {
    fn new(inner: &'a [u8]) -> Self {
        Self {
            inner,
            blocks: RefCell::new(Vec::new()),
        }
    }
}

impl ReadAt for Recorded<'_> {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.blocks.borrow_mut().push(offset / SIZE as u64);
        self.inner.read_at(buffer, offset)
    }
}

/// What differs, one block after the other.
fn brute_force(before: &BTreeMap<u64, u64>, after: &BTreeMap<u64, u64>) -> Vec<(u64, Difference)> {
    let keys: BTreeSet<_> = before.keys().chain(after.keys()).collect();
    let kind = |key| match (before.get(key), after.get(key)) {
        (Some(_), None) => Some(Difference::LeftOnly),
        (None, Some(_)) => Some(Difference::RightOnly),
        (old, new) => (old != new).then_some(Difference::Differ),
    };
    keys.into_iter().filter_map(|key| Some((*key, kind(key)?))).collect()
}

/// Changes one block after the other; the runs must be apart.
fn singly(changes: &[Change]) -> Vec<(u64, Difference)> {
    for pair in changes.windows(2) {
        let apart = pair[0].blocks.end < pair[1].blocks.start;
        let touch = pair[0].blocks.end == pair[1].blocks.start && pair[0].kind != pair[1].kind;
        assert!(apart || touch, "{pair:?}");
    }
    let each = changes.iter();
    each.flat_map(|change| change.blocks.clone().map(|block| (block, change.kind)))
        .collect()
}

fn mappings(metadata: &Metadata<'_>, id: u32) -> Result<Vec<Mapping>> {
    let mut found = Vec::new();
    let root = metadata.root_of(id)?.expect("a volume");
    metadata.each_mapping(root, &mut |mapping| found.push(mapping))?;
    Ok(found)
}

/// A pool with related volumes, made by chance.
fn random_pool(seed: u64) -> Pool {
    let mut dice = Dice::new(seed);
    let mut pool = Pool::new([6, 12, 252][dice.below(3) as usize]);
    let span = [40, 400, 4000][dice.below(3) as usize];
    pool.create(1);
    let first = dice.below(span);
    pool.edit(1, &mut dice, first, span);
    for id in 2..2 + dice.below(6) as u32 {
        let ids: Vec<u32> = pool.volumes.keys().copied().collect();
        match dice.below(8) {
            0 => pool.create(id * 3000),
            1 => pool.create(id),
            _ => pool.snap(id, ids[dice.below(ids.len() as u64) as usize]),
        }
        for _ in 0..3 {
            let ids: Vec<u32> = pool.volumes.keys().copied().collect();
            let edits = [1, 5, 60][dice.below(3) as usize];
            pool.edit(ids[dice.below(ids.len() as u64) as usize], &mut dice, edits, span);
            if dice.below(2) == 0 {
                pool.commit();
            }
        }
    }
    pool
}

#[test]
fn what_is_said_of_a_pool_is_what_brute_force_finds() {
    for seed in 0..300 {
        let pool = random_pool(seed);
        let (image, held) = pool.image();
        for superblock in [0, held] {
            let metadata = Metadata::open(&image, superblock).unwrap();
            assert_eq!(metadata.superblock().held_root, Some(held));
            let volumes = metadata.volumes().unwrap();
            assert!(volumes.iter().map(|(id, _)| id).eq(pool.volumes.keys()), "seed {seed}");
            assert_eq!(metadata.root_of(9999).unwrap(), None);
            assert_eq!(metadata.details_of(9999).unwrap(), None);
            for (id, root) in &volumes {
                let expected = &pool.volumes[id];
                assert_eq!(metadata.root_of(*id).unwrap(), Some(*root));
                let details = metadata.details_of(*id).unwrap().unwrap();
                assert_eq!(details.mapped_blocks, expected.len() as u64);
                assert_eq!((details.transaction_id, details.snapshotted_time), (u64::from(*id), 2));
                let found = mappings(&metadata, *id).unwrap();
                let found = found.iter().map(|mapping| (mapping.block, mapping.data));
                assert!(
                    found.eq(expected.iter().map(|(key, data)| (*key, *data))),
                    "seed {seed}"
                );
                let runs = metadata.mapped(*root).unwrap();
                assert!(runs.into_iter().flatten().eq(expected.keys().copied()), "seed {seed}");
                for (other, root_of_other) in &volumes {
                    let changes = metadata.difference(*root, *root_of_other).unwrap();
                    let expected = brute_force(expected, &pool.volumes[other]);
                    assert_eq!(singly(&changes), expected, "seed {seed}, {id} and {other}");
                }
            }
        }
    }
}

#[test]
fn what_volumes_have_alone_is_what_brute_force_finds() {
    for seed in 0..300 {
        let pool = random_pool(seed);
        let (image, held) = pool.image();
        let mut owners: HashMap<u64, BTreeSet<u32>> = HashMap::new();
        for (id, blocks) in &pool.volumes {
            for data in blocks.values() {
                owners.entry(*data).or_default().insert(*id);
            }
        }
        let alone = |ids: &BTreeSet<u32>| owners.values().filter(|owners| owners.is_subset(ids)).count() as u64;
        let recorded = Recorded::new(&image);
        let metadata = Metadata::open(&recorded, held).unwrap();
        let usage = metadata.usage(DATA_BLOCKS).unwrap();
        assert!(usage.keys().eq(pool.volumes.keys()));
        for (id, found) in &usage {
            let expected = Usage {
                mapped: pool.volumes[id].len() as u64,
                exclusive: alone(&BTreeSet::from([*id])),
            };
            assert_eq!(*found, expected, "seed {seed}, volume {id}");
        }
        let mut blocks = recorded.blocks.take();
        // The nodes of the pool's own trees come after those of the volumes.
        blocks.retain(|block| (1..=pool.nodes()).contains(block));
        let all = blocks.len();
        blocks.sort_unstable();
        blocks.dedup();
        assert_eq!(blocks.len(), all, "seed {seed}: a node is read once");

        let mut dice = Dice::new(seed);
        for _ in 0..4 {
            let ids: BTreeSet<u32> = pool.volumes.keys().copied().filter(|_| dice.below(2) == 0).collect();
            let freed = metadata.freed_by(&ids, DATA_BLOCKS).unwrap();
            assert_eq!(freed, alone(&ids), "seed {seed}: {ids:?}");
        }
    }
}

#[test]
fn a_change_costs_its_way_down_however_large_the_volume() {
    let mut pool = Pool::new(252);
    pool.create(1);
    (0..1_000_000).for_each(|key| pool.write(1, key));
    let mut dice = Dice::new(1);
    let counts = [0_u64, 1, 10, 100];
    for (id, changes) in (2..).zip(counts) {
        pool.snap(id, 1);
        for _ in 0..changes {
            let key = dice.below(1_000_000);
            pool.write(id, key);
        }
    }
    let depth = pool.depth(1) as u64;
    let (image, held) = pool.image();
    let metadata = Metadata::open(&image, held).unwrap();
    let root = metadata.root_of(1).unwrap().unwrap();
    for (id, changes) in (2..).zip(counts) {
        let other = metadata.root_of(id).unwrap().unwrap();
        for (before, after) in [(root, other), (other, root)] {
            let read = metadata.nodes_read();
            let found = metadata.difference(before, after).unwrap();
            let read = metadata.nodes_read() - read;
            println!("{changes} changes in 1,000,000 mappings, {depth} levels: {read} nodes read");
            assert_eq!(singly(&found).len() as u64, changes);
            assert!(read <= 2 * depth * changes, "{read}");
        }
    }
    let read = metadata.nodes_read();
    metadata.each_mapping(root, &mut |_| ()).unwrap();
    println!("all of one volume: {} nodes", metadata.nodes_read() - read);
}

/// Damages something.
type Forgery<'a, T> = &'a dyn Fn(&mut T);

/// Everything that can be asked of metadata.
fn ask(image: &[u8], superblock: u64) -> Result<()> {
    let metadata = Metadata::open(&image, superblock)?;
    let volumes = metadata.volumes()?;
    for (id, root) in &volumes {
        metadata.details_of(*id)?;
        metadata.mapped(*root)?;
        for (_, other) in &volumes {
            metadata.difference(*root, *other)?;
        }
    }
    metadata.usage(DATA_BLOCKS)?;
    metadata.freed_by(&BTreeSet::from([1]), DATA_BLOCKS)?;
    Ok(())
}

/// Two volumes whose trees have three levels, none of their nodes shared with both.
fn small_pool() -> (Pool, Vec<u8>) {
    let mut pool = Pool::new(6);
    pool.create(1);
    (0..30).for_each(|key| pool.write(1, 2 * key));
    pool.snap(2, 1);
    pool.write(2, 31);
    assert_eq!(pool.depth(1), 3);
    let (image, _) = pool.image();
    (pool, image)
}

#[test]
fn a_flipped_bit_is_noticed() {
    let (_, image) = small_pool();
    ask(&image, 0).unwrap();
    // Each bit of the superblock's fields, and of a node's header, keys and values.
    let root = small_pool().0.root(1) as usize * SIZE;
    for at in (0..364).chain(root..root + 32 + 12 * 8) {
        for bit in 0..8 {
            let mut image = image.clone();
            image[at] ^= 1 << bit;
            let error = ask(&image, 0).unwrap_err();
            assert_eq!(error.kind(), Kind::Corrupt, "byte {at}: {error}");
            let block = at / SIZE;
            assert!(
                error
                    .to_string()
                    .contains(&format!("block {block} of the pool's metadata")),
                "{error}"
            );
        }
    }
}

/// With a good checksum, so that what is in the block is looked at.
#[test]
fn no_forged_node_is_followed_for_ever() {
    let (pool, image) = small_pool();
    let root = pool.root(1);
    let forge = |change: &dyn Fn(&mut [u8])| {
        let mut image = image.clone();
        let block = &mut image[root as usize * SIZE..][..SIZE];
        change(block);
        seal(block, 121_107);
        ask(&image, 0)
    };
    forge(&|_| ()).unwrap();
    let values = 32 + 6 * 8;
    let refused: [(&str, Forgery<'_, [u8]>); 12] = [
        ("more entries than room", &|node| put32(node, 16, 7)),
        ("more entries than room", &|node| put32(node, 20, 255)),
        ("more entries than room", &|node| put32(node, 20, u32::MAX)),
        ("empty", &|node| put32(node, 16, 0)),
        ("another size", &|node| put32(node, 24, 0)),
        ("another size", &|node| put32(node, 24, u32::MAX)),
        ("neither internal nor a leaf", &|node| put32(node, 4, 3)),
        ("that of another block", &|node| put64(node, 8, root + 1)),
        ("out of order", &|node| put64(node, 40, 0)),
        ("past the end", &|node| put64(node, values, u64::MAX)),
        ("past the end", &|node| put64(node, values, 4000)),
        // A cycle.
        ("block", &|node| put64(node, values, root)),
    ];
    for (said, change) in refused {
        let error = forge(change).expect_err(said);
        assert_eq!(error.kind(), Kind::Corrupt);
        assert!(error.to_string().contains(said), "{said}: {error}");
    }
    // All children the same one, and each of them the root, too.
    forge(&|node| (0..3).for_each(|at| put64(node, values + 8 * at, root))).unwrap_err();
    let chain = |node: &mut [u8]| {
        put32(node, 16, 1);
        put64(node, values, root);
    };
    assert!(forge(&chain).unwrap_err().to_string().contains("deeper than any"));
}

#[test]
fn no_forged_byte_makes_a_panic_or_a_walk_without_end() {
    let (pool, image) = small_pool();
    let blocks = [
        0,
        pool.root(1),
        pool.root(2),
        pool.nodes() / 2,
        pool.nodes() + 1,
        pool.nodes() + 2,
    ];
    for block in blocks {
        let salt = if block == 0 { 160_774 } else { 121_107 };
        let range = block as usize * SIZE..(block as usize + 1) * SIZE;
        for at in (4..140).chain(320..364) {
            for value in [0, 1, 2, 3, 0x7f, 0xff] {
                let mut image = image.clone();
                image[range.clone()][at] = value;
                seal(&mut image[range.clone()], salt);
                let recorded = Recorded::new(&image);
                let _ = ask(&image, 0);
                let metadata = Metadata::open(&recorded, 0);
                let _ = metadata.and_then(|metadata| metadata.usage(DATA_BLOCKS));
                assert!(recorded.blocks.borrow().len() < 10 * image.len() / SIZE);
            }
        }
    }
    // At the end is the other superblock.
    for length in (0..image.len() - SIZE).step_by(SIZE / 2) {
        ask(&image[..length], 0).unwrap_err();
    }
}

fn shell(script: &str) -> String {
    let output = Command::new("sh")
        .arg("-ec")
        .arg(script)
        .stdin(Stdio::null())
        .output()
        .expect("a shell");
    assert!(
        output.status.success(),
        "{script}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).expect("text").trim().to_owned()
}

/// The value of an attribute in a line of XML.
fn attribute(line: &str, name: &str) -> Option<u64> {
    let (_, rest) = line.split_once(&format!(" {name}=\""))?;
    rest.split('"').next()?.parse().ok()
}

/// A volume's mappings as `thin_dump` writes them: block, data, time.
fn dumped(xml: &str, id: u64) -> Vec<(u64, u64, u64)> {
    let mut found = Vec::new();
    let mut inside = false;
    for line in xml.lines() {
        if line.contains("<device ") {
            inside = attribute(line, "dev_id") == Some(id);
        }
        let begin = attribute(line, "origin_begin").or(attribute(line, "origin_block"));
        let data = attribute(line, "data_begin").or(attribute(line, "data_block"));
        if let (true, Some(begin), Some(data)) = (inside, begin, data) {
            let time = attribute(line, "time").unwrap();
            let length = attribute(line, "length").unwrap_or(1);
            found.extend((0..length).map(|at| (begin + at, data + at, time)));
        }
    }
    found
}

#[test]
fn thin_delta_and_thin_dump_agree() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().display();
    for seed in 0..12 {
        let pool = random_pool(1000 + seed);
        let mut xml = String::from(
            "<superblock uuid=\"\" time=\"9\" transaction=\"5\" flags=\"0\" version=\"2\" data_block_size=\"128\" \
             nr_data_blocks=\"100000\">\n",
        );
        for (id, blocks) in &pool.volumes {
            let count = blocks.len();
            let _ = writeln!(
                xml,
                "<device dev_id=\"{id}\" mapped_blocks=\"{count}\" transaction=\"3\" creation_time=\"1\" snap_time=\"2\">"
            );
            for (block, data) in blocks {
                let time = data % 5;
                let _ = writeln!(
                    xml,
                    "<single_mapping origin_block=\"{block}\" data_block=\"{data}\" time=\"{time}\"/>"
                );
            }
            xml.push_str("</device>\n");
        }
        xml.push_str("</superblock>\n");
        std::fs::write(folder.path().join("xml"), xml).unwrap();
        shell(&format!(
            "rm -f {path}/metadata; truncate -s 16M {path}/metadata; thin_restore -i {path}/xml -o {path}/metadata"
        ));
        let image = std::fs::read(folder.path().join("metadata")).unwrap();
        let metadata = Metadata::open(&image, 0).unwrap();
        assert_eq!(
            (metadata.superblock().transaction_id, metadata.block_size()),
            (5, 64 << 10)
        );
        let dump = shell(&format!("thin_dump {path}/metadata"));
        for id in pool.volumes.keys() {
            let found = mappings(&metadata, *id).unwrap().into_iter();
            let found = found.map(|mapping| (mapping.block, mapping.data, u64::from(mapping.time)));
            assert!(found.eq(dumped(&dump, u64::from(*id))), "seed {seed}, volume {id}");
            let details = metadata.details_of(*id).unwrap().unwrap();
            assert_eq!((details.creation_time, details.snapshotted_time), (1, 2));
        }
        let ids: Vec<u32> = pool.volumes.keys().copied().collect();
        for pair in ids.windows(2) {
            let roots = [pair[0], pair[1]].map(|id| metadata.root_of(id).unwrap().unwrap());
            let found = metadata.difference(roots[0], roots[1]).unwrap();
            let told = shell(&format!(
                "thin_delta --snap1 {} --snap2 {} {path}/metadata",
                pair[0], pair[1]
            ));
            assert_eq!(found, thin_metadata::delta(&told), "seed {seed}: {pair:?}");
        }
    }
}

#[test]
fn a_volumes_changed_bytes_end_with_it() {
    let mut pool = Pool::new(12);
    pool.create(1);
    pool.snap(2, 1);
    [0, 3, 4].into_iter().for_each(|key| pool.write(2, key));
    let (image, _) = pool.image();
    let metadata = Metadata::open(&image, 0).unwrap();
    let [before, after] = [1, 2].map(|id| metadata.root_of(id).unwrap().unwrap());
    let source = |size| Source {
        metadata: &metadata,
        before,
        after,
        size,
    };
    let unit = metadata.block_size();
    assert_eq!(source(10 * unit).changed().unwrap(), [0..unit, 3 * unit..5 * unit]);
    assert_eq!(
        source(4 * unit + 5000).changed().unwrap(),
        [0..unit, 3 * unit..4 * unit + 4096]
    );
    assert_eq!(source(unit / 2).changed().unwrap(), vec![0..unit / 2]);
}

/// An origin of chunks that say which they are.
fn origin(chunks: u64, chunk: u64) -> Vec<u8> {
    (0..chunks).flat_map(|at| vec![at as u8; chunk as usize]).collect()
}

#[test]
fn exceptions_are_read_as_they_were_written() {
    for (seed, chunk) in (0..40).zip([512, 4096, 4096, 65536].into_iter().cycle()) {
        let mut dice = Dice::new(seed);
        let per_area = chunk / 16;
        let count = [0, 1, per_area - 1, per_area, per_area + 1, 2 * per_area, 700, 3][seed as usize % 8];
        let count = count.min((32 << 20) / chunk);
        let chunks = 2 * count + 5;
        let mut olds: Vec<u64> = (0..chunks).collect();
        let mut entries = Entries::new();
        for _ in 0..count {
            // In any order, and sometimes one after the other.
            let at = if dice.below(3) == 0 {
                dice.below(olds.len() as u64) as usize
            } else {
                0
            };
            entries.push(olds.remove(at));
        }
        let (image, news) = store(chunk, &entries);
        let size = chunks * chunk;
        let exceptions = Exceptions::read(&image, image.len() as u64, size).unwrap();
        assert_eq!(exceptions.chunk_size(), chunk);
        let mut expected = entries.clone();
        expected.sort_unstable();
        let found: Vec<u64> = exceptions.chunks().into_iter().flatten().collect();
        assert_eq!(found, expected, "seed {seed}");
        let ranges = exceptions.changed().unwrap();
        let of_ranges: u64 = ranges.iter().map(|range| range.end - range.start).sum();
        assert!(of_ranges >= count * chunk || size % BLOCK != 0);
        assert!(
            ranges
                .iter()
                .all(|range| range.start % BLOCK == 0 && range.end % BLOCK == 0)
        );

        let origin = origin(chunks, chunk);
        let mut seen = origin.clone();
        for (old, new) in entries.iter().zip(&news) {
            seen[(old * chunk) as usize..][..chunk as usize]
                .copy_from_slice(&image[(new * chunk) as usize..][..chunk as usize]);
        }
        let snapshot = Seen::new(&origin, &image, &exceptions);
        for _ in 0..50 {
            let from = dice.below(size) as usize;
            let length = dice.below((size - from as u64 + 1).min(200_000)) as usize;
            let mut read = vec![0; length];
            snapshot.read_at(&mut read, from as u64).unwrap();
            assert!(read == seen[from..from + length], "seed {seed}");
        }
        assert!(snapshot.read_at(&mut [0; 2], size - 1).is_err());
        let compared = Bytewise::new(&origin, &seen, size).changed().unwrap();
        assert_eq!(compared, ranges, "seed {seed}");
    }
}

#[test]
fn a_store_that_was_never_used_has_nothing() {
    let exceptions = Exceptions::read(&vec![0; 1 << 20], 1 << 20, 1 << 30).unwrap();
    assert_eq!(exceptions.changed().unwrap(), Vec::<Range<u64>>::new());
}

#[test]
fn a_store_that_cannot_be_believed_is_refused() {
    let entries: Entries = (0..300).map(|at| 2 * at).collect();
    let (image, _) = store(4096, &entries);
    let size = image.len() as u64;
    let origin = 1000 * 4096;
    Exceptions::read(&image, size, origin).unwrap();
    let refused: [(&str, Forgery<'_, Vec<u8>>); 13] = [
        ("another magic", &|store| store[0] ^= 1),
        ("given the exception store up", &|store| put32(store, 4, 0)),
        ("version 2", &|store| put32(store, 8, 2)),
        ("no chunk has that size", &|store| put32(store, 12, 0)),
        ("no chunk has that size", &|store| put32(store, 12, 9)),
        ("no chunk has that size", &|store| put32(store, 12, 1 << 31)),
        // The second area, or the header, or past the end.
        ("where others are listed", &|store| put64(store, 4096 + 8, 258)),
        ("where others are listed", &|store| put64(store, 4096 + 8, 1)),
        ("past its end", &|store| put64(store, 4096 + 8, 5000)),
        ("past the end of the origin", &|store| put64(store, 4096, 1000)),
        ("two exceptions are in one chunk", &|store| put64(store, 4096 + 8, 3)),
        ("has two exceptions", &|store| put64(store, 4096, 2)),
        ("cut short", &|store| store.truncate(258 * 4096)),
    ];
    for (said, change) in refused {
        let mut image = image.clone();
        change(&mut image);
        let error = Exceptions::read(&image, size, origin).unwrap_err();
        let expected = if said.starts_with("version") {
            Kind::Incompatible
        } else {
            Kind::Corrupt
        };
        assert_eq!(error.kind(), expected);
        assert!(error.to_string().contains(said), "{said}: {error}");
    }
    // Exactly one area, and no room for the next.
    let (mut full, _) = store(4096, &(0..256).collect::<Entries>());
    full.truncate(258 * 4096);
    let error = Exceptions::read(&full, full.len() as u64, origin).unwrap_err();
    assert!(error.to_string().contains("goes on past its end"), "{error}");
}

#[test]
fn only_blocks_that_differ_are_left() {
    let size = 5 << 20;
    let before: Vec<u8> = (0..size).map(|at: u64| (at / 512) as u8).collect();
    for seed in 0..40 {
        let mut dice = Dice::new(seed);
        let mut after = before.clone();
        let mut expected = BTreeSet::new();
        for _ in 0..dice.below(30) {
            let at = dice.below(size);
            after[at as usize] ^= 0x80;
            expected.insert(at / BLOCK);
        }
        expected.retain(|block| {
            let range = (block * BLOCK) as usize..((block + 1) * BLOCK) as usize;
            before[range.clone()] != after[range]
        });
        let expected: Vec<u64> = expected.into_iter().collect();
        let whole = Bytewise::new(&before, &after, size);
        let ranges = whole.changed().unwrap();
        assert_eq!(refine(&before, &after, &ranges).unwrap(), expected);
        assert_eq!(refine(&before, &after, &[0..size]).unwrap(), expected);
        let half = size / 2;
        let within = Bytewise::new(&before, &after, size)
            .within(vec![0..half])
            .changed()
            .unwrap();
        let inside: Vec<u64> = expected.iter().copied().filter(|block| block * BLOCK < half).collect();
        assert_eq!(refine(&before, &after, &within).unwrap(), inside);
    }
    assert!(refine(&before, &before, &[size - BLOCK..size + BLOCK]).is_err());
}
