//! `plywood mount` and `umount`, and what is left of them when they are killed.

#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it must be")]

mod common;

use std::fs;
use std::path::Path;

use common::{Plywood, import_base};
use plywood_store::Store;
use plywood_store::intent::{Intent, Plan};
use plywood_store::record::SnapshotRecord;

/// A store with the image `base`, and mounts that nobody else sees.
fn with_base() -> Plywood {
    plywood::sys::mount::enter_private_namespace().unwrap();
    let plywood = Plywood::new("overlay");
    import_base(&plywood);
    plywood
}

/// Nothing is left that would keep the image's layer.
fn leaves_nothing(plywood: &Plywood) {
    plywood.ok(["gc"]);
    let store = Store::open(&plywood.root()).unwrap().unwrap();
    assert_eq!(store.snapshots.keys().unwrap(), Vec::<String>::new());
    assert_eq!(fs::read_dir(plywood.root().join("mounted")).unwrap().count(), 0);
    plywood.ok(["rmi", "base"]);
    plywood.sound();
    assert_eq!(store.layers.keys().unwrap(), Vec::<String>::new());
}

#[test]
fn root_an_image_is_mounted_and_unmounted() {
    let plywood = with_base();
    let at = plywood.ok(["mount", "base"]);
    assert_eq!(fs::read_to_string(format!("{at}/etc/hostname")).unwrap(), "base\n");
    plywood.fails(1, ["mount", "base"]);
    plywood.ok(["umount", &at]);
    leaves_nothing(&plywood);
}

#[test]
fn root_a_mount_beside_another_is_told_so() {
    let plywood = with_base();
    let at = plywood.ok(["mount", "base"]);
    let store = Store::open(&plywood.root()).unwrap().unwrap();
    let [view] = store.snapshots.list().unwrap().try_into().unwrap();
    plywood.ok(["umount", &at]);
    // As far as another one has come.
    let other = store.intents.begin(mounting()).unwrap();
    put(&store, &leased(&view, &other));
    let error = plywood.fails(1, ["mount", "base"]);
    assert!(error.contains("another command is just mounting base"), "{error}");
    drop(other);
    leaves_nothing(&plywood);
}

/// What `mount` says before it makes a view.
fn mounting() -> Plan {
    Plan::Work {
        verb: "mount".to_owned(),
        blobs: Vec::new(),
        layers: Vec::new(),
    }
}

/// The view as it was before it was mounted.
fn leased(view: &SnapshotRecord, owner: &Intent) -> SnapshotRecord {
    SnapshotRecord {
        lease: Some(owner.id().to_owned()),
        mounted_at: None,
        ..view.clone()
    }
}

fn put(store: &Store, view: &SnapshotRecord) {
    let lock = store.exclusive().unwrap();
    store.snapshots.put(&lock, view).unwrap();
    lock.done().unwrap();
}

/// Leaves the store as a `mount` or `umount` does that is killed on its way.
type Kill = fn(&Store, &SnapshotRecord, &Path);

#[test]
fn root_a_killed_mount_or_umount_leaves_nothing() {
    let view_without_mount: Kill = |store, view, point| {
        let dead = store.intents.begin(mounting()).unwrap();
        put(store, &leased(view, &dead));
        fs::remove_dir(point).unwrap();
    };
    let record_without_point: Kill = |_, _, point| fs::remove_dir(point).unwrap();
    let point_without_mount: Kill = |_, _, _| {};
    for kill in [view_without_mount, record_without_point, point_without_mount] {
        for mounts_again in [false, true] {
            let plywood = with_base();
            let at = plywood.ok(["mount", "base"]);
            nix::mount::umount(at.as_str()).unwrap();
            let store = Store::open(&plywood.root()).unwrap().unwrap();
            let [view] = store.snapshots.list().unwrap().try_into().unwrap();
            kill(&store, &view, Path::new(&at));
            if mounts_again {
                plywood.ok(["mount", "base"]);
                plywood.ok(["umount", "base"]);
            }
            leaves_nothing(&plywood);
        }
    }
}
