//! The thin driver on a real pool: the conformance suite, and what only a kernel does. Runs in the guest.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "helpers of tests panic and print as tests do"
)]

#[path = "common/conformance.rs"]
mod conformance;
#[path = "common/pool_root.rs"]
mod pool_root;

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use conformance::Subject;
use plywood::dm::assembly::{self, Options};
use plywood::dm::status::PoolMode;
use plywood::error::Kind;
use plywood::snapshot::thin::Thin;
use plywood::snapshot::{Access, Group, Snapshotter};
use plywood_store::Store;
use plywood_store::intent::Plan;
use plywood_store::record::Place;
use pool_root::{MIB, Root, content, shell, write};

#[test]
fn dm_the_thin_driver_conforms_on_a_real_pool() {
    let make = || {
        let root = Root::new(512 * MIB);
        Subject {
            store: root.store.clone(),
            driver: Box::new(root.open()),
            keep: Box::new(root),
        }
    };
    conformance::run(&make, 12);
}

#[test]
fn dm_a_full_pool_is_a_clean_failure_and_removing_frees_it() {
    let root = Root::new(128 * MIB);
    let driver = root.open();
    let base = root.layer(&driver, "precious");
    driver.prepare("big", Some(&base.chain_id), None).unwrap();
    assert!(
        write(&driver, "big", &vec![7; 200 << 20]).is_err(),
        "what was not written back is told"
    );
    assert_eq!(driver.pool().status().unwrap().mode, PoolMode::OutOfDataSpace);
    assert_eq!(
        driver.commit("big", &root.describe("big")).unwrap_err().kind(),
        Kind::Corrupt
    );
    let refused = driver.prepare("more", Some(&base.chain_id), None).unwrap_err();
    assert_eq!(refused.kind(), Kind::NoSpace);
    assert!(refused.hint().is_some());
    driver.remove("big").unwrap();
    assert_eq!(driver.recover().unwrap(), Vec::<String>::new());
    assert_eq!(driver.pool().status().unwrap().mode, PoolMode::ReadWrite);
    assert_eq!(content(&driver, &base), "precious");
    driver.prepare("more", Some(&base.chain_id), None).unwrap();
    write(&driver, "more", b"fits").unwrap();
    assert_eq!(driver.verify().unwrap(), Vec::<String>::new());
}

/// The test's own second process: holds a mounted snapshot until it is killed.
fn hold(root: &str) -> ! {
    plywood::sys::mount::enter_private_namespace().unwrap();
    let store = Arc::new(Store::open(Path::new(root)).unwrap().unwrap());
    let driver = Thin::open(store.clone()).unwrap();
    let work = store
        .intents
        .begin(Plan::Work {
            verb: "test".into(),
            blobs: vec![],
            layers: vec![],
        })
        .unwrap();
    driver.prepare("held", None, Some(&work)).unwrap();
    let mounted = driver.mount("held", Access::ReadWrite).unwrap();
    std::fs::write(mounted.path().join("file"), "half").unwrap();
    println!("holding");
    std::io::stdout().flush().unwrap();
    loop {
        std::thread::sleep(std::time::Duration::from_secs(60));
    }
}

#[test]
fn dm_what_a_killed_process_held_is_given_back() {
    if let Ok(root) = std::env::var("PLYWOOD_TEST_HOLD") {
        hold(&root);
    }
    let root = Root::new(256 * MIB);
    let driver = root.open();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "dm_what_a_killed_process_held_is_given_back", "--nocapture"])
        .env("PLYWOOD_TEST_HOLD", root.store.root())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let said = BufReader::new(child.stdout.take().unwrap())
        .lines()
        .map(|line| line.unwrap());
    assert!(said.into_iter().any(|line| line.contains("holding")));
    assert_eq!(
        driver.recover().unwrap(),
        Vec::<String>::new(),
        "a live process keeps what it has"
    );
    for refused in [
        driver.remove("held").unwrap_err(),
        driver.mount("held", Access::ReadWrite).unwrap_err(),
    ] {
        assert_eq!(refused.kind(), Kind::InUse);
    }
    assert_eq!(root.detach().unwrap_err().kind(), Kind::InUse);
    child.kill().unwrap();
    child.wait().unwrap();
    let done = driver.recover().unwrap();
    assert!(done.iter().any(|line| line.contains("held")), "{done:?}");
    assert!(root.store.snapshots.list().unwrap().is_empty());
    assert_eq!(driver.verify().unwrap(), Vec::<String>::new());
    assert_eq!(shell("dmsetup ls | grep -c -- -thin- || true"), "0");
}

#[test]
fn dm_a_copy_of_a_root_cannot_use_the_pool_of_the_first() {
    let root = Root::new(64 * MIB);
    drop(root.open());
    let copy = root.folder.path().join("copy");
    shell(&format!("cp -a {} {}", root.store.root().display(), copy.display()));
    let refused = Thin::open(Arc::new(Store::open(&copy).unwrap().unwrap())).unwrap_err();
    assert_eq!(refused.kind(), Kind::InUse);
    assert!(refused.hint().is_some_and(|hint| hint.contains("copy")));
}

#[test]
fn dm_udev_is_not_waited_for() {
    shell("mkdir -p /run/udev && touch /run/udev/control");
    let root = Root::new(64 * MIB);
    let driver = root.open();
    let base = root.layer(&driver, "x");
    assert_eq!(content(&driver, &base), "x");
    assert_eq!(shell("tail -n +2 /proc/sysvipc/sem"), "", "no cookie is left behind");
    shell("rm /run/udev/control");
}

#[test]
fn dm_a_suspended_device_is_resumed() {
    let root = Root::new(64 * MIB);
    let driver = root.open();
    driver.prepare("a", None, None).unwrap();
    let mounted = driver.mount("a", Access::ReadWrite).unwrap();
    let device = shell("dmsetup ls | grep -o '^plywood-[^ \t]*-thin-[0-9]*'");
    shell(&format!("dmsetup suspend {device}"));
    let done = driver.recover().unwrap();
    assert!(done.iter().any(|line| line.contains(&device)), "{done:?}");
    std::fs::write(mounted.path().join("file"), "x").unwrap();
    mounted.close().unwrap();
}

#[test]
fn dm_a_layer_is_branched_while_others_measure_it() {
    let root = Root::new(128 * MIB);
    let base = root.layer(&root.open(), "x");
    std::thread::scope(|threads| {
        let measuring = threads.spawn(|| {
            let driver = root.open();
            for _ in 0..40 {
                let group = Group {
                    layers: vec![base.clone()],
                    ..Group::default()
                };
                assert!(driver.space(&[group]).unwrap().layers[&base.chain_id].bytes > 0);
                let resumed = driver.recover().unwrap();
                assert_eq!(resumed, Vec::<String>::new(), "what is quiet on purpose stays quiet");
            }
        });
        let driver = root.open();
        while !measuring.is_finished() {
            driver.prepare("a", Some(&base.chain_id), None).unwrap();
            write(&driver, "a", b"y").unwrap();
            driver.remove("a").unwrap();
        }
        measuring.join().unwrap();
    });
    assert_eq!(shell("dmsetup ls | grep -c -- -thin- || true"), "0");
}

#[test]
fn dm_a_success_that_the_pool_did_not_keep_is_a_failure() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().display();
    let data = shell(&format!(
        "truncate -s 256M {path}/data; losetup --find --show {path}/data"
    ));
    let below = shell(&format!(
        "truncate -s 16M {path}/meta; losetup --find --show {path}/meta"
    ));
    let sectors = 16 * MIB / 512;
    shell(&format!("dmsetup create flaky --table '0 {sectors} linear {below} 0'"));
    let devices = Some((data.clone().into(), "/dev/mapper/flaky".into()));
    let root = Root::with(&Options {
        devices,
        volume_size: Some(256 * MIB),
        ..Options::default()
    });
    let driver = root.open();
    let base = root.layer(&driver, "precious");

    let switch = |table: &str| {
        shell(&format!(
            "dmsetup suspend --nolockfs flaky; dmsetup load flaky --table '0 {sectors} {table}'; dmsetup resume flaky"
        ));
    };
    switch(&format!("flakey {below} 0 0 1 1 error_writes"));
    let refused = driver.prepare("lost", Some(&base.chain_id), None).unwrap_err();
    assert_eq!(refused.kind(), Kind::Corrupt, "{refused}");
    let done = driver.recover().unwrap();
    assert!(done.iter().all(|line| line.contains("nothing yet")), "{done:?}");
    assert_eq!(content(&driver, &base), "precious", "what is stored can still be read");
    drop(driver);
    root.detach().unwrap();
    switch(&format!("linear {below} 0"));

    let driver = root.open();
    driver.recover().unwrap();
    assert_eq!(driver.verify().unwrap(), Vec::<String>::new());
    assert_eq!(content(&driver, &base), "precious");
    driver.prepare("found", Some(&base.chain_id), None).unwrap();
    drop(driver);
    root.detach().unwrap();
    drop(root);
    shell(&format!("dmsetup remove flaky; losetup -d {data} {below}"));
}

#[test]
fn dm_trimming_gives_back_what_was_deleted_without_a_discard() {
    let root = Root::new(256 * MIB);
    let driver = root.open();
    driver.prepare("a", None, None).unwrap();
    write(&driver, "a", &vec![7; 64 << 20]).unwrap();
    let pool = shell("dmsetup ls | grep -o '^plywood-[^ \t]*-pool'");
    // Behind our back: the volume of "a" is the highest.
    shell(&format!("dmsetup message {pool} 0 'delete 2'"));
    drop(driver);
    let lock = root.store.exclusive().unwrap();
    assert!(assembly::trim(&root.store, &lock).unwrap() >= 60 << 20);
    assembly::check(&root.store, &lock).unwrap();
    lock.done().unwrap();
    assert_eq!(
        root.open().verify().unwrap().len(),
        1,
        "the snapshot's volume is missed"
    );
}

#[test]
fn dm_trimming_takes_no_block_that_a_volume_has() {
    let root = Root::new(256 * MIB);
    let driver = root.open();
    let layer = root.layer(&driver, "kept");
    driver.prepare("a", Some(&layer.chain_id), None).unwrap();
    let snapshot = root.store.snapshots.get("a").unwrap().expect("a");
    let (Place::Thin(layer), Place::Thin(snapshot)) = (layer.place, snapshot.place) else {
        panic!("volumes");
    };
    // Of the last blocks that the pool handed out every byte counts.
    write(&driver, "a", &vec![7; 3 << 20]).unwrap();
    let pool = shell("dmsetup ls | grep -o '^plywood-[^ \t]*-pool'");
    let digests = || {
        // Volume 1 is the golden one.
        shell(&format!(
            "for id in 1 {layer} {snapshot}; do dmsetup create look --table \"0 524288 thin /dev/mapper/{pool} $id\"
             sha256sum < /dev/mapper/look; dmsetup remove look; done"
        ))
    };
    let before = digests();
    assert_eq!(before.lines().count(), 3, "{before}");
    drop(driver);
    let lock = root.store.exclusive().unwrap();
    let _: u64 = assembly::trim(&root.store, &lock).unwrap();
    lock.done().unwrap();
    drop(root.open());
    assert_eq!(digests(), before);
}
