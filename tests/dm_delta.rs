//! What is read of the metadata of a pool in use and of an exception store, held against the kernel and
//! `thin_delta`. Runs in the guest.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    clippy::single_range_in_vec_init,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "helpers of tests panic and print as tests do"
)]

#[path = "common/pool_root.rs"]
mod pool_root;
#[path = "common/thin_metadata.rs"]
mod thin_metadata;

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use plywood::blocks::ReadAt;
use plywood::delta::bytewise::refine;
use plywood::delta::exceptions::{Exceptions, Seen};
use plywood::delta::source::BlockSource;
use plywood::dm::assembly;
use plywood::dm::direct::Direct;
use plywood::dm::pool::ThinId;
use plywood::dm::volume::Volumes;
use plywood::sys::block::discard;
use plywood_store::Store;
use pool_root::{MIB, Root, pool_name, shell};
use thin_metadata::{Dice, delta};

/// Bytes of a data block.
const UNIT: u64 = 64 << 10;
/// Of a volume.
const SIZE: u64 = 256 * MIB;

fn id(number: u32) -> ThinId {
    ThinId::new(number).unwrap()
}

/// Random writes and discards of a volume, behind plywood's back.
fn edit(volume: u32, pool: &str, dice: &mut Dice, edits: u64) {
    let sectors = SIZE / 512;
    shell(&format!(
        "dmsetup create edited --table '0 {sectors} thin /dev/mapper/{pool} {volume}'"
    ));
    let device = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/mapper/edited")
        .unwrap();
    for _ in 0..edits {
        let block = dice.below(SIZE / UNIT);
        let length = (1 + dice.below(12)).min(SIZE / UNIT - block);
        match dice.below(5) {
            0 => discard(device.as_fd(), block * UNIT, length * UNIT).unwrap(),
            1 => device
                .write_all_at(&vec![7; 2 * UNIT as usize], (block * UNIT).min(SIZE - 2 * UNIT))
                .unwrap(),
            _ => device
                .write_all_at(&[9; 512], block * UNIT + 4096 * dice.below(16))
                .unwrap(),
        }
        if dice.below(10) == 0 {
            device.sync_all().unwrap();
        }
    }
    device.sync_all().unwrap();
    drop(device);
    shell("dmsetup remove --retry edited");
}

#[test]
fn dm_the_difference_of_two_volumes_is_what_thin_delta_says() {
    let root = Root::new(512 * MIB);
    let driver = root.open();
    let (pool, name) = (driver.pool(), pool_name());
    let metadata_device = shell(&format!("dmsetup table {name} | cut -d' ' -f4"));
    let metadata_device = format!("/dev/block/{metadata_device}");
    let device = match Path::new(&metadata_device).exists() {
        true => metadata_device,
        false => metadata_device.replace("/dev/block/7:", "/dev/loop"),
    };
    let mut dice = Dice::new(6);
    let mut volumes = vec![100];
    pool.create_thin(id(100)).unwrap();
    edit(100, &name, &mut dice, 400);
    for round in 0..12 {
        let (new, origin) = (101 + round, volumes[dice.below(volumes.len() as u64) as usize]);
        pool.create_snap(id(new), id(origin)).unwrap();
        volumes.push(new);
        let edited = volumes[dice.below(volumes.len() as u64) as usize];
        for volume in BTreeSet::from([new, edited]) {
            let edits = [0, 1, 10, 150][dice.below(4) as usize];
            edit(volume, &name, &mut dice, edits);
        }
        let held = pool.hold_metadata().unwrap().expect("a pool with metadata");
        let metadata = held.metadata().unwrap();
        let volumes: Vec<u32> = volumes.iter().copied().filter(|_| dice.below(2) == 0).collect();
        for pair in volumes.windows(2) {
            let roots = [pair[0], pair[1]].map(|id| metadata.root_of(id).unwrap().unwrap());
            let read = metadata.nodes_read();
            let found = metadata.difference(roots[0], roots[1]).unwrap();
            let read = metadata.nodes_read() - read;
            let told = shell(&format!(
                "thin_delta --metadata-snap --snap1 {} --snap2 {} {device}",
                pair[0], pair[1]
            ));
            assert_eq!(found, delta(&told), "{pair:?}");
            println!("{pair:?}: {} runs, {read} nodes read", found.len());
        }
        held.close().unwrap();
    }

    let before = pool.status().unwrap();
    assert_eq!(before.held_root, None);
    let held = pool.hold_metadata().unwrap().expect("a pool with metadata");
    let metadata = held.metadata().unwrap();
    let usage = metadata.usage(held.data_blocks()).unwrap();
    let one = usage
        .iter()
        .max_by_key(|(_, usage)| usage.exclusive)
        .map(|(id, usage)| (*id, *usage));
    let (one, of_one) = one.unwrap();
    let others: BTreeSet<u32> = volumes.iter().copied().filter(|id| *id != one).step_by(2).collect();
    let rest: BTreeSet<u32> = others.iter().copied().chain([one]).collect();
    let of_rest = metadata.freed_by(&rest, held.data_blocks()).unwrap();
    let blocks = shell(&format!(
        "dmsetup create look --table '0 {} thin /dev/mapper/{name} {one}'; dmsetup status look; dmsetup remove --retry look",
        SIZE / 512
    ));
    let sectors: u64 = blocks.split_whitespace().nth(3).unwrap().parse().unwrap();
    assert_eq!(of_one.mapped * UNIT / 512, sectors, "{blocks}");
    held.close().unwrap();
    assert!(
        of_one.exclusive > 0 && of_rest > of_one.exclusive,
        "{of_one:?} {of_rest}"
    );
    let used = || pool.status().unwrap().data_used;
    pool.delete(id(one)).unwrap();
    assert_eq!(before.data_used - used(), of_one.exclusive);
    for volume in others {
        pool.delete(id(volume)).unwrap();
    }
    assert_eq!(before.data_used - used(), of_rest);
}

#[test]
fn dm_metadata_that_have_grown_are_read() {
    let root = Root::new(512 * MIB);
    let driver = root.open();
    let (pool, name) = (driver.pool(), pool_name());
    let lock = root.store.exclusive().unwrap();
    let kernel = assembly::open(&root.store, &lock).unwrap();
    lock.done().unwrap();
    let grown = 4 * pool.status().unwrap().metadata_total * 4096;
    kernel.grow(None, Some(grown)).unwrap();
    pool.create_thin(id(100)).unwrap();
    edit(100, &name, &mut Dice::new(1), 300);
    pool.create_snap(id(101), id(100)).unwrap();
    edit(101, &name, &mut Dice::new(2), 3);
    let held = pool.hold_metadata().unwrap().expect("a pool with metadata");
    let metadata = held.metadata().unwrap();
    let [before, after] = [100, 101].map(|id| metadata.root_of(id).unwrap().unwrap());
    assert!(!metadata.difference(before, after).unwrap().is_empty());
    assert_eq!(metadata.difference(before, before).unwrap(), vec![]);
    held.close().unwrap();
}

/// The test's own second process: holds the metadata until it is killed.
fn hold(root: &str) -> ! {
    let store = Store::open(Path::new(root)).unwrap().unwrap();
    let lock = store.exclusive().unwrap();
    let pool = assembly::open(&store, &lock).unwrap();
    lock.done().unwrap();
    let _held = pool.hold_metadata().unwrap().expect("a pool with metadata");
    println!("holding");
    std::io::stdout().flush().unwrap();
    loop {
        std::thread::sleep(Duration::from_secs(60));
    }
}

#[test]
fn dm_what_a_killed_process_held_is_released_by_the_next() {
    if let Ok(root) = std::env::var("PLYWOOD_TEST_HOLD") {
        hold(&root);
    }
    let root = Root::new(64 * MIB);
    let driver = root.open();
    let pool = driver.pool();
    pool.create_thin(id(100)).unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "dm_what_a_killed_process_held_is_released_by_the_next",
            "--nocapture",
        ])
        .env("PLYWOOD_TEST_HOLD", root.store.root())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(child.stdout.take().unwrap())
        .lines()
        .map(|line| line.unwrap());
    assert!(said.any(|line| line.contains("holding")));
    let theirs = pool.status().unwrap().held_root;
    assert!(theirs.is_some());
    std::thread::scope(|threads| {
        let (tell, told) = mpsc::channel();
        let root = &root;
        threads.spawn(move || {
            // As `thin::Thin::verify` does it.
            tell.send(root.open().pool().ids().unwrap()).unwrap();
        });
        let early = told.recv_timeout(Duration::from_millis(500));
        let still = pool.status().unwrap().held_root;
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(early.is_err(), "who lives is waited for");
        assert_eq!(still, theirs);
        assert!(told.recv().unwrap().contains(&id(100)));
    });
    assert_eq!(pool.status().unwrap().held_root, None);
    let held = pool.hold_metadata().unwrap();
    assert!(pool.status().unwrap().held_root.is_some());
    drop(held);
    assert_eq!(pool.status().unwrap().held_root, None);
}

#[test]
fn dm_an_exception_store_is_read_as_the_kernel_wrote_it() {
    const BYTES: u64 = 64 * MIB;
    let folder = tempfile::tempdir().unwrap();
    let attach = |name: &str, bytes: u64| {
        let path = folder.path().join(name);
        std::fs::File::create(&path).unwrap().set_len(bytes).unwrap();
        shell(&format!("losetup --find --show {}", path.display()))
    };
    let (origin, store) = (attach("origin", BYTES), attach("store", BYTES));
    let before: Vec<u8> = (0..BYTES).map(|at| (at / 4096) as u8).collect();
    std::fs::write(&origin, &before).unwrap();
    let sectors = BYTES / 512;
    shell(&format!(
        "dmsetup create edited --table '0 {sectors} snapshot {origin} {store} PO 8'"
    ));
    let mut written = BTreeSet::new();
    let mut dice = Dice::new(3);
    let snapshot = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/mapper/edited")
        .unwrap();
    // More than two areas of 256.
    while written.len() < 700 {
        let chunk = dice.below(BYTES / 4096 - 20);
        let length = 1 + dice.below(20);
        snapshot
            .write_all_at(&vec![dice.below(256) as u8; 4096 * length as usize], chunk * 4096)
            .unwrap();
        written.extend(chunk..chunk + length);
    }
    snapshot.sync_all().unwrap();
    let mut after = vec![0; BYTES as usize];
    snapshot.read_exact_at(&mut after, 0).unwrap();
    drop(snapshot);
    shell("dmsetup remove --retry edited");

    let (lower, upper) = (
        Direct::open(Path::new(&origin)).unwrap(),
        Direct::open(Path::new(&store)).unwrap(),
    );
    let exceptions = Exceptions::read(&upper, BYTES, BYTES).unwrap();
    assert_eq!(exceptions.chunk_size(), 4096);
    assert!(exceptions.chunks().into_iter().flatten().eq(written));
    let seen = Seen::new(&lower, &upper, &exceptions);
    let mut read = vec![0; BYTES as usize];
    seen.read_at(&mut read, 0).unwrap();
    assert!(read == after, "the snapshot as it was seen");
    let changed = refine(&lower, &seen, &exceptions.changed().unwrap()).unwrap();
    assert_eq!(changed, refine(&before, &after, &[0..BYTES]).unwrap());
    drop((lower, upper));
    shell(&format!("losetup --detach {origin} {store}"));
}
