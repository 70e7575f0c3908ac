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

use std::sync::Arc;

use conformance::Subject;
use plywood::dm::assembly::{self, Options};
use plywood::snapshot::thin::Thin;
use plywood_store::{Driver, Store};

const MIB: u64 = 1 << 20;

/// A root of its own, whose pool leaves the kernel with it.
struct Root {
    folder: tempfile::TempDir,
    store: Arc<Store>,
}

impl Root {
    fn new(data: u64) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Arc::new(Store::create(&folder.path().join("root"), Driver::Thin).expect("a store"));
        let lock = store.exclusive().expect("the lock");
        let options = Options {
            data_size: Some(data),
            volume_size: Some(256 * MIB),
            ..Options::default()
        };
        assembly::init(&store, &lock, &options).expect("a pool");
        lock.done().expect("letting go");
        Self { folder, store }
    }

    fn open(&self) -> Thin {
        Thin::open(self.store.clone()).expect("the driver")
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        if let Err(error) = assembly::detach(&self.store) {
            eprintln!("{}: {error}", self.folder.path().display());
        }
    }
}

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
