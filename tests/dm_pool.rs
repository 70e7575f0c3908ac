//! The pool in the kernel: made, used, taken out, put together again. Runs in the guest.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "helpers of tests panic and print as tests do"
)]

use std::path::Path;

use plywood::dm::assembly::{self, Options};
use plywood::dm::kernel::KernelPool;
use plywood::dm::pool::{ThinId, ThinPool};
use plywood::dm::volume::{Content, Mode, Volumes};
use plywood::error::{Kind, Result};
use plywood_store::{Driver, Store};

const MIB: u64 = 1 << 20;

/// A root of its own, whose pool leaves the kernel with it.
struct Root {
    folder: tempfile::TempDir,
    store: Store,
}

impl Root {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::create(&folder.path().join("root"), Driver::Thin).unwrap();
        Self { folder, store }
    }

    fn init(&self, data: u64) -> Result<(KernelPool, bool)> {
        let lock = self.store.exclusive()?;
        let options = Options {
            data_size: Some(data),
            volume_size: Some(256 * MIB),
            ..Options::default()
        };
        assembly::init(&self.store, &lock, &options)
    }

    fn detach(&self) -> Result<bool> {
        assembly::detach(&self.store, &self.store.exclusive()?)
    }

    fn open(&self) -> Result<KernelPool> {
        assembly::open(&self.store, &self.store.exclusive()?)
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        let lock = self.store.exclusive().unwrap();
        if let Err(error) = assembly::detach(&self.store, &lock) {
            eprintln!("{}: {error}", self.folder.path().display());
        }
    }
}

fn id(number: u32) -> ThinId {
    ThinId::new(number).unwrap()
}

fn allocated(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(path).unwrap().blocks() * 512
}

#[test]
fn dm_a_volume_is_made_snapshotted_written_and_deleted() {
    let root = Root::new();
    let (pool, created) = root.init(512 * MIB).unwrap();
    assert!(created);
    pool.create_thin(id(1)).unwrap();
    assert_eq!(pool.create_thin(id(1)).unwrap_err().kind(), Kind::Exists);
    pool.format(id(1)).unwrap();
    println!("an empty volume maps {} KiB", pool.mapped(id(1)).unwrap() / 1024);
    pool.create_snap(id(2), id(1)).unwrap();
    assert_eq!(pool.create_snap(id(3), id(9)).unwrap_err().kind(), Kind::NotFound);

    let mounted = pool.mount(id(2), Content::Active, Mode::ReadWrite).unwrap();
    assert_eq!(
        std::fs::read_dir(&mounted.path).unwrap().count(),
        0,
        "an empty volume is empty"
    );
    std::fs::write(mounted.path.join("file"), vec![7; 64 << 20]).unwrap();
    let again = pool.mount(id(2), Content::Active, Mode::ReadWrite);
    assert_eq!(again.unwrap_err().kind(), Kind::InUse);
    assert_eq!(pool.claim(id(2)).unwrap_err().kind(), Kind::InUse);
    mounted.close().unwrap();

    let first = pool.mount(id(2), Content::Layer, Mode::ReadOnly).unwrap();
    let second = pool.mount(id(2), Content::Layer, Mode::ReadOnly).unwrap();
    assert_eq!(std::fs::metadata(second.path.join("file")).unwrap().len(), 64 << 20);
    assert!(std::fs::write(first.path.join("file"), b"x").is_err());
    first.close().unwrap();
    assert_eq!(std::fs::metadata(second.path.join("file")).unwrap().len(), 64 << 20);
    second.close().unwrap();

    pool.set_transaction_id(0, 1).unwrap();
    assert!(pool.set_transaction_id(0, 1).is_err());
    assert_eq!(pool.status().unwrap().transaction_id, 1);
    assert_eq!(pool.ids().unwrap(), vec![id(1), id(2)]);

    let data = root.store.root().join("pool/data");
    let full = allocated(&data);
    let claim = pool.claim(id(2)).unwrap();
    pool.discard(&claim).unwrap();
    assert!(pool.delete(id(2)).unwrap());
    assert!(!pool.delete(id(2)).unwrap());
    drop(claim);
    let left = allocated(&data);
    assert!(
        left + (60 << 20) < full,
        "{full} -> {left}: the file gives its space back"
    );
}

#[test]
fn dm_a_pool_is_put_together_again_and_never_made_twice() {
    let root = Root::new();
    let (pool, _) = root.init(256 * MIB).unwrap();
    pool.create_thin(id(1)).unwrap();
    pool.format(id(1)).unwrap();
    assert!(!root.init(256 * MIB).unwrap().1, "the same again is a success");
    assert_eq!(root.init(512 * MIB).unwrap_err().kind(), Kind::Exists);
    drop(pool);
    assert!(root.detach().unwrap());
    assert!(!root.detach().unwrap());
    let data = root.store.root().join("pool/data");
    assert_eq!(
        plywood::dm::loops::find(&data).unwrap(),
        None,
        "the loop devices go with the pool"
    );
    assembly::check(&root.store, &root.store.exclusive().unwrap()).unwrap();

    let pool = root.open().unwrap();
    assert!(pool.mapped(id(1)).unwrap() > 0);
    drop(pool);
    root.detach().unwrap();
    std::fs::write(root.store.root().join("pool/metadata"), vec![0; 16 << 20]).unwrap();
    assert_eq!(
        root.open().unwrap_err().kind(),
        Kind::Corrupt,
        "an empty file is not formatted"
    );
}

#[test]
fn dm_a_pool_grows_under_its_users() {
    let root = Root::new();
    let (pool, _) = root.init(64 * MIB).unwrap();
    pool.create_thin(id(1)).unwrap();
    pool.format(id(1)).unwrap();
    let before = pool.status().unwrap();
    let mounted = pool.mount(id(1), Content::Active, Mode::ReadWrite).unwrap();
    pool.grow(Some(256 * MIB), Some(32 * MIB)).unwrap();
    let after = pool.status().unwrap();
    assert_eq!(after.data_total, 4 * before.data_total);
    assert_eq!(after.metadata_total, 2 * before.metadata_total);
    std::fs::write(mounted.path.join("file"), vec![7; 128 << 20]).unwrap();
    mounted.close().unwrap();
    assert!(pool.grow(Some(64 * MIB), None).is_err());
}

#[test]
fn dm_a_growth_that_was_killed_is_finished_by_the_next_command() {
    let root = Root::new();
    let (pool, _) = root.init(64 * MIB).unwrap();
    let before = pool.status().unwrap();
    let file = |name: &str| {
        let path = root.store.root().join("pool").join(name);
        std::fs::OpenOptions::new().write(true).open(path).unwrap()
    };
    // As far as the files: the kernel has not heard of it.
    file("data").set_len(256 * MIB).unwrap();
    file("metadata").set_len(32 * MIB).unwrap();
    assert_eq!(pool.status().unwrap(), before);
    let again = root.open().unwrap();
    let after = again.status().unwrap();
    assert_eq!(after.data_total, 4 * before.data_total);
    assert_eq!(after.metadata_total, 2 * before.metadata_total);
    // Who was killed is asked for the same again.
    again.grow(Some(256 * MIB), Some(32 * MIB)).unwrap();
    assert_eq!(again.status().unwrap().data_total, after.data_total);
}
