//! What every driver does alike: one suite over [`Snapshotter`], each case on a fresh root.
//!
//! Modelled on the test suite of containerd's snapshotters. A driver's own test
//! file calls [`run`] with a function that makes fresh subjects. The cases are in [`trees`], what is to be seen;
//! [`mounts`], what is done to what may be mounted; [`records`], what is taken, in use and gone.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test crate has a copy of its own and uses a part of it"
)]

#[path = "conformance/mounts.rs"]
mod mounts;
#[path = "conformance/records.rs"]
mod records;
#[path = "conformance/trees.rs"]
mod trees;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use plywood::snapshot::{Access, NewLayer, Snapshotter};
use plywood_store::blob::Descriptor;
use plywood_store::intent::{Intent, Plan};
use plywood_store::record::LayerRecord;
use plywood_store::{ChainId, DiffId, Store};

/// A fresh root and its driver. What keeps the root alive comes third.
pub struct Subject {
    pub store: Arc<Store>,
    pub driver: Box<dyn Snapshotter>,
    pub keep: Box<dyn std::any::Any>,
}

/// Runs every case. `deep` is the number of layers of the deep one.
pub fn run(make: &dyn Fn() -> Subject, deep: usize) {
    let mut failed = Vec::new();
    let mut case = |name: &'static str, test: &dyn Fn(&Subject)| {
        let subject = make();
        let start = std::time::Instant::now();
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            test(&subject);
            assert_eq!(
                subject.driver.verify().unwrap(),
                Vec::<String>::new(),
                "verify finds nothing"
            );
        }));
        println!(
            "conformance: {name}: {} in {:?}",
            if outcome.is_ok() { "ok" } else { "FAILED" },
            start.elapsed()
        );
        if outcome.is_err() {
            failed.push(name);
        }
    };
    case("an empty snapshot is empty", &trees::empty);
    case("what is committed is what is viewed", &trees::committed_is_viewed);
    case("a layer says what it is", &records::layer_record);
    case("changed owners and modes alone", &trees::changed_attributes);
    case("a directory becomes a file, a file a directory", &trees::changed_kinds);
    case("what is deleted above stays below", &trees::deleted_above);
    case("a directory that is made again is empty", &trees::made_again);
    case("renamed files", &trees::renamed);
    case("links, fifos, attributes, odd names", &trees::odd_things);
    case("a file that was not opened for writing is the same", &trees::untouched);
    case(
        "two snapshots over one layer know nothing of each other",
        &trees::siblings,
    );
    case("a view cannot be written", &mounts::view_is_read_only);
    case("views and layers share", &mounts::views_share);
    case("keys are taken once", &records::keys);
    case("parents that are not there", &records::missing_parents);
    case("a layer under others cannot be removed", &records::layer_in_use);
    case(
        "a layer that was promised to somebody cannot be removed",
        &records::layer_promised,
    );
    case("removing is final and can be repeated", &records::removing);
    case("what was never mounted is unmounted already", &mounts::never_mounted);
    case(
        "a mount that somebody else undid is forgotten",
        &mounts::unmounted_by_hand,
    );
    case(
        "a mount is undone and forgotten in one step",
        &mounts::unmounted_in_one_step,
    );
    case("the same layer twice", &records::same_layer_twice);
    case("a captured snapshot is frozen", &mounts::captured);
    case("a comparison shows both sides", &mounts::compared);
    case(
        "what a dead process leased goes, what a live one leases stays",
        &records::leases,
    );
    case("usage and stack", &records::usage_and_stack);
    case(
        "an active snapshot keeps what was written between mounts",
        &mounts::remounted,
    );
    case("deep stacks", &|subject| trees::deep_stack(subject, deep));
    assert!(failed.is_empty(), "these failed: {failed:?}");
}

impl Subject {
    /// Prepares a snapshot, changes it, commits it.
    pub fn layer(&self, parent: Option<ChainId>, name: &str, change: impl FnOnce(&Path)) -> LayerRecord {
        let key = format!("make-{name}");
        self.driver.prepare(&key, parent.as_ref(), None).unwrap();
        self.change(&key, change);
        self.driver.commit(&key, &self.describe(name.as_bytes())).unwrap()
    }

    /// Mounts an active snapshot and changes it.
    pub fn change(&self, key: &str, change: impl FnOnce(&Path)) {
        let mounted = self.driver.mount(key, Access::ReadWrite).unwrap();
        change(mounted.path());
        mounted.close().unwrap();
    }

    /// Looks into a snapshot.
    pub fn look<T>(&self, key: &str, look: impl FnOnce(&Path) -> T) -> T {
        let mounted = self.driver.mount(key, Access::ReadOnly).unwrap();
        let seen = look(mounted.path());
        mounted.close().unwrap();
        seen
    }

    /// Looks into a layer.
    pub fn view<T>(&self, layer: &LayerRecord, look: impl FnOnce(&Path) -> T) -> T {
        self.driver.view("look", &layer.chain_id, None).unwrap();
        let seen = self.look("look", look);
        self.driver.remove("look").unwrap();
        seen
    }

    /// An intent of a live command.
    fn work(&self) -> Intent {
        let plan = Plan::Work {
            verb: "test".into(),
            blobs: vec![],
            layers: vec![],
        };
        self.store.intents.begin(plan).unwrap()
    }

    /// A layer whose blob is `content`: a stand-in for its tar where nobody reads it.
    fn describe(&self, content: &[u8]) -> NewLayer {
        let stored = self.store.blobs.put(content).unwrap();
        NewLayer {
            diff_id: DiffId(stored.digest),
            blob: Descriptor {
                media_type: "application/vnd.oci.image.layer.v1.tar".into(),
                digest: stored.digest,
                size: stored.size,
            },
            size: stored.size,
        }
    }
}

fn read(path: &Path, name: &str) -> String {
    fs::read_to_string(path.join(name)).unwrap_or_else(|error| format!("{name}: {error}"))
}

fn names(path: &Path) -> Vec<String> {
    let entries = fs::read_dir(path).unwrap();
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}
