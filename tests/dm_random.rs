//! Same changes, same bytes, on both drivers: random edits of random trees, made on a thin pool and on
//! overlayfs, give the same layers, and each layer applied to its parent gives the tree that was committed.
//!
//! `PLYWOOD_TEST_SEED` repeats one; see [`common::seeds`].

mod common;

use std::io::Read;
use std::sync::Arc;

use common::edits::Dice;
use plywood::dm::assembly;
use plywood::error::Result;
use plywood::snapshot::overlay::Overlay;
use plywood::snapshot::thin::Thin;
use plywood::snapshot::{Access, Differ, Found, Mounted, NewLayer, Snapshotter};
use plywood::sys::mount::enter_private_namespace;
use plywood_store::blob::Descriptor;
use plywood_store::intent::Plan;
use plywood_store::layer::apply::{Applied, apply};
use plywood_store::layer::diff::{Everything, Options, write_layer};
use plywood_store::layer::folder::Folder;
use plywood_store::layer::{Limits, tree};
use plywood_store::{ChainId, DiffId, Digest, Driver, Store};

/// Later times become this one: what the edits themselves make is of now. Seconds since 1970.
const CLAMP: i64 = 1_000_000_000;
/// Commits per seed.
const LAYERS: usize = 3;

/// A root with a driver of its own.
struct Root {
    store: Arc<Store>,
    driver: Box<dyn Snapshotter>,
    _folder: tempfile::TempDir,
}

fn unpack(mounted: &Mounted, tar: &mut dyn Read, _: &std::path::Path) -> Result<Applied> {
    apply(mounted.dir(), tar, &Limits::default())
}

impl Root {
    fn new(kind: Driver) -> Self {
        let folder = tempfile::Builder::new()
            .prefix("plywood-random-")
            .tempdir()
            .expect("a folder");
        let store = Arc::new(Store::create(&folder.path().join("root"), kind).expect("a store"));
        let driver: Box<dyn Snapshotter> = match kind {
            Driver::Thin => Box::new(Thin::open(Arc::clone(&store)).expect("the thin driver")),
            Driver::Overlay => {
                Box::new(Overlay::open(Arc::clone(&store), Box::new(unpack)).expect("the overlay driver"))
            }
        };
        Self {
            store,
            driver,
            _folder: folder,
        }
    }

    /// The layer of a snapshot that nobody has.
    fn compared(&self, key: &str) -> Vec<u8> {
        let compared = self.driver.compare(key, Differ::Auto).expect("two trees");
        let options = Options {
            clamp_mtime: Some(CLAMP),
            thorough: compared.is_thorough(),
            ..Options::default()
        };
        let mut tar = Vec::new();
        write_layer(
            compared.parent(),
            compared.child(),
            compared.scope.as_ref(),
            &options,
            &mut tar,
        )
        .expect("a layer");
        compared.close().expect("closed");
        tar
    }

    /// Edits a new snapshot over `parent` and commits it: the layer, its tar, and the tree's digest.
    fn layer(&self, key: &str, parent: Option<&ChainId>, dice: &mut Dice) -> (ChainId, Vec<u8>, Digest) {
        // Every other container's changes are exceptions, on thin: that changes no byte either.
        let stored = dice.below(2) == 0 && self.driver.driver() == Driver::Thin;
        match parent.filter(|_| stored) {
            Some(parent) => self.driver.prepare_cow(key, parent, None).expect("a store"),
            None => self.driver.prepare(key, parent, None).expect("a snapshot"),
        }
        let mounted = self.driver.mount(key, Access::ReadWrite).expect("a mount");
        let count = dice.below(60);
        dice.edits(mounted.path(), count);
        mounted.close().expect("written back");

        let plan = Plan::Work {
            verb: "commit".into(),
            blobs: Vec::new(),
            layers: Vec::new(),
        };
        let intent = self.store.intents.begin(plan).expect("an intent");
        let before = self.compared(key);
        self.driver.capture(key, "copy", Some(&intent)).expect("a copy");
        self.driver.fold("copy", &mut |_, _| ()).expect("a volume");
        let compared = self.driver.compare("copy", Differ::Auto).expect("two trees");
        let options = Options {
            clamp_mtime: Some(CLAMP),
            thorough: compared.is_thorough(),
            ..Options::default()
        };
        let above = compared.parent();
        let mut tar = Vec::new();
        write_layer(above, compared.child(), compared.scope.as_ref(), &options, &mut tar).expect("a layer");
        let narrow = (self.driver.driver() == Driver::Thin && parent.is_some()).then_some(Found::Blocks);
        assert_eq!(narrow.as_ref().unwrap_or(&compared.found), &compared.found, "{key}");
        assert!(tar == before, "{key}: twice the same trees, other bytes");
        let whole = whole_tree(compared.child());
        if let Some(parent) = above {
            applied_to_its_parent_gives_the_child(parent, &tar, &whole, key, self.driver.driver());
        }
        compared.close().expect("closed");

        let stored = self.store.blobs.put(&tar).expect("a blob");
        let media_type = "application/vnd.oci.image.layer.v1.tar".to_owned();
        let blob = Descriptor {
            media_type,
            digest: stored.digest,
            size: stored.size,
        };
        let new = NewLayer {
            diff_id: DiffId(stored.digest),
            blob,
            size: stored.size,
        };
        let record = self.driver.commit("copy", &new).expect("a layer");
        intent.done().expect("done");
        self.driver.remove(key).expect("removed");
        (record.chain_id, tar, Digest::of(&whole))
    }
}

/// The whole tree as one tar, with late times clamped.
fn whole_tree(root: &dyn Folder) -> Vec<u8> {
    let options = Options {
        clamp_mtime: Some(CLAMP),
        ..Options::default()
    };
    let mut tar = Vec::new();
    write_layer(None, root, &Everything, &options, &mut tar).expect("a tar");
    tar
}

fn applied_to_its_parent_gives_the_child(parent: &dyn Folder, layer: &[u8], wanted: &[u8], key: &str, driver: Driver) {
    let folder = tempfile::tempdir().expect("a folder");
    let dir = std::fs::File::open(folder.path()).expect("the folder");
    let handle = std::os::fd::AsFd::as_fd(&dir);
    for tar in [whole_tree(parent).as_slice(), layer] {
        apply(handle, &mut &tar[..], &Limits::default()).expect("applied");
    }
    let mut wanted_tree = Vec::new();
    let wanted_folder = tempfile::tempdir().expect("a folder");
    let wanted_dir = std::fs::File::open(wanted_folder.path()).expect("the folder");
    apply(
        std::os::fd::AsFd::as_fd(&wanted_dir),
        &mut &wanted[..],
        &Limits::default(),
    )
    .expect("applied");
    let options = Options {
        clamp_mtime: Some(CLAMP),
        ..Options::default()
    };
    write_layer(
        None,
        &std::os::fd::AsFd::as_fd(&wanted_dir),
        &Everything,
        &options,
        &mut wanted_tree,
    )
    .expect("a tar");
    let mut got = Vec::new();
    write_layer(None, &handle, &Everything, &options, &mut got).expect("a tar");
    assert_eq!(entries(&got), entries(&wanted_tree), "{key} on {driver:?}");
    assert!(got == wanted_tree, "{key} on {driver:?}: same entries, other bytes");
    let _ = tree::digest(&handle).expect("a digest");
}

/// Kind, path, link and mode of every entry, for a readable difference.
fn entries(tar: &[u8]) -> Vec<String> {
    let mut archive = tar::Archive::new(tar);
    let entries = archive.entries().expect("an archive").map(|entry| {
        let entry = entry.expect("an entry");
        let header = entry.header();
        let link = entry.link_name().expect("a link");
        let mode = header.mode().expect("a mode");
        format!(
            "{:?} {:?} -> {link:?} {mode:o}",
            header.entry_type(),
            entry.path().expect("a path")
        )
    });
    entries.collect()
}

fn play(seed: u64, thin: &Root, overlay: &Root) {
    let (mut one, mut other) = (Dice::new(seed), Dice::new(seed));
    let (mut below_one, mut below_other) = (None, None);
    for layer in 0..LAYERS {
        let key = format!("seed{seed}-{layer}");
        let (chain_one, tar_one, tree_one) = thin.layer(&key, below_one.as_ref(), &mut one);
        let (chain_other, tar_other, tree_other) = overlay.layer(&key, below_other.as_ref(), &mut other);
        assert_eq!(
            entries(&tar_one),
            entries(&tar_other),
            "seed {seed}, layer {layer}: thin and overlay"
        );
        assert!(
            tar_one == tar_other,
            "seed {seed}, layer {layer}: same entries, other bytes"
        );
        assert_eq!(chain_one, chain_other);
        assert_eq!(tree_one, tree_other, "seed {seed}, layer {layer}: the trees");
        (below_one, below_other) = (Some(chain_one), Some(chain_other));
    }
}

#[test]
fn dm_random_edits_give_the_same_layers_on_thin_and_on_overlay() {
    enter_private_namespace().expect("a mount namespace");
    let (thin, overlay) = (Root::new(Driver::Thin), Root::new(Driver::Overlay));
    common::seeds(8).for_each(|seed| play(seed, &thin, &overlay));
    assert_eq!(thin.driver.verify().expect("looked at"), Vec::<String>::new());
    let lock = thin.store.exclusive().expect("the lock");
    assembly::detach(&thin.store, &lock).expect("the pool leaves the kernel");
    lock.done().expect("letting go");
}
