//! Same changes, same bytes: the upper folder's names and the walk over everything give one tar,
//! and the layer that a commit makes of it shows the tree that the container had.
//!
//! Random trees, randomly edited through the mount. `PLYWOOD_TEST_SEED` repeats one; see [`common::seeds`].

mod common;

use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::edits::Dice;

use plywood::error::Result;
use plywood::snapshot::overlay::Overlay;
use plywood::snapshot::{Access, Differ, Mounted, NewLayer, Snapshotter};
use plywood::sys::mount::enter_private_namespace;
use plywood_store::blob::Descriptor;
use plywood_store::intent::Plan;
use plywood_store::layer::apply::{Applied, apply};
use plywood_store::layer::diff::{Everything, Options, write_layer};
use plywood_store::layer::{Limits, tree};
use plywood_store::record::LayerRecord;
use plywood_store::{ChainId, DiffId, Digest, Driver, Store};

fn unpack(mounted: &Mounted, tar: &mut dyn Read, _: &Path) -> Result<Applied> {
    apply(mounted.dir(), tar, &Limits::default())
}

struct Root {
    store: Arc<Store>,
    driver: Overlay,
    _folder: tempfile::TempDir,
}

impl Root {
    fn new() -> Self {
        enter_private_namespace().unwrap();
        let folder = tempfile::Builder::new().prefix("plywood-differ-").tempdir().unwrap();
        let store = Arc::new(Store::create(folder.path(), Driver::Overlay).unwrap());
        let driver = Overlay::open(Arc::clone(&store), Box::new(unpack)).unwrap();
        Self {
            store,
            driver,
            _folder: folder,
        }
    }

    /// Commits the container as `plywood commit` does, every way there is.
    #[track_caller]
    fn commit(&self, key: &str, seed: u64) -> LayerRecord {
        let plan = Plan::Work {
            verb: "commit".into(),
            blobs: Vec::new(),
            layers: Vec::new(),
        };
        let intent = self.store.intents.begin(plan).unwrap();
        self.driver.capture(key, "copy", Some(&intent)).unwrap();
        let compared = self.driver.compare("copy", Differ::Auto).unwrap();
        let parent = compared.parent();
        let write = |scope| {
            let mut tar = Vec::new();
            write_layer(parent, compared.child(), scope, &Options::default(), &mut tar).unwrap();
            tar
        };
        let narrow = write(&*compared.scope);
        let (wide, thorough) = (write(&Everything), {
            let mut tar = Vec::new();
            let options = Options {
                thorough: true,
                ..Options::default()
            };
            write_layer(parent, compared.child(), &Everything, &options, &mut tar).unwrap();
            tar
        });
        assert_same(&narrow, &wide, &format!("seed {seed}: upper folder and walk"));
        assert_same(
            &narrow,
            &thorough,
            &format!("seed {seed}: upper folder and thorough walk"),
        );
        let wanted = tree::digest(compared.child()).unwrap();
        compared.close().unwrap();
        let layer = self.driver.commit("copy", &self.new_layer(&narrow)).unwrap();
        intent.done().unwrap();
        self.assert_shows(&layer.chain_id, &wanted, seed);
        layer
    }

    fn new_layer(&self, tar: &[u8]) -> NewLayer {
        let stored = self.store.blobs.put(tar).unwrap();
        let media_type = "application/vnd.oci.image.layer.v1.tar".to_owned();
        let blob = Descriptor {
            media_type,
            digest: stored.digest,
            size: stored.size,
        };
        NewLayer {
            diff_id: DiffId(stored.digest),
            blob,
            size: stored.size,
        }
    }

    #[track_caller]
    fn assert_shows(&self, chain: &ChainId, wanted: &Digest, seed: u64) {
        self.driver.view("look", chain, None).unwrap();
        let mounted = self.driver.mount("look", Access::ReadOnly).unwrap();
        let shown = tree::digest(&mounted.dir()).unwrap();
        assert_eq!(
            shown,
            *wanted,
            "seed {seed}: the layer shows another tree\n{}",
            listing(mounted.path())
        );
        mounted.close().unwrap();
        self.driver.remove("look").unwrap();
    }
}

fn listing(path: &Path) -> String {
    let listed = std::process::Command::new("find")
        .arg(path)
        .args(["-printf", "%y %m %n %i %s %T@ %P\n"])
        .output();
    String::from_utf8_lossy(&listed.unwrap().stdout).into_owned()
}

#[track_caller]
fn assert_same(one: &[u8], other: &[u8], what: &str) {
    let entries = |tar: &[u8]| {
        let mut archive = tar::Archive::new(tar);
        let entries = archive.entries().unwrap().map(|entry| {
            let entry = entry.unwrap();
            let header = entry.header();
            format!(
                "{:?} {:?} -> {:?} {:o}",
                header.entry_type(),
                entry.path().unwrap(),
                entry.link_name().unwrap(),
                header.mode().unwrap()
            )
        });
        entries.collect::<Vec<_>>()
    };
    if one != other {
        assert_eq!(entries(one), entries(other), "{what}");
        assert_eq!(Digest::of(one), Digest::of(other), "{what}: same entries, other bytes");
    }
}

fn play(seed: u64) {
    let root = Root::new();
    let mut dice = Dice::new(seed);
    let mut parent = None;
    for layer in 0..3 {
        let key = format!("container{layer}");
        root.driver.prepare(&key, parent.as_ref(), None).unwrap();
        // Stopped and started again in between: the index must hold over mounts.
        for _ in 0..2 {
            let mounted = root.driver.mount(&key, Access::ReadWrite).unwrap();
            let count = dice.below(40);
            dice.edits(mounted.path(), count);
            mounted.close().unwrap();
        }
        parent = Some(root.commit(&key, seed).chain_id);
    }
    assert_eq!(root.driver.verify().unwrap(), Vec::<String>::new());
}

#[test]
fn root_random_edits_give_the_same_bytes_by_every_differ() {
    common::seeds(common::as_many(60, 12)).for_each(play);
}

#[test]
fn root_a_snapshot_committed_by_itself_shows_what_it_held() {
    for seed in 100..105 {
        let root = Root::new();
        let mut dice = Dice::new(seed);
        let mut parent: Option<ChainId> = None;
        for layer in 0..3 {
            let key = format!("import{layer}");
            root.driver.prepare(&key, parent.as_ref(), None).unwrap();
            let mounted = root.driver.mount(&key, Access::ReadWrite).unwrap();
            dice.edits(mounted.path(), 60);
            let wanted = tree::digest(&mounted.dir()).unwrap();
            mounted.close().unwrap();
            let made = root.driver.commit(&key, &root.new_layer(key.as_bytes())).unwrap();
            root.assert_shows(&made.chain_id, &wanted, seed);
            parent = Some(made.chain_id);
        }
    }
}

#[test]
fn root_what_is_copied_up_and_not_changed_is_not_in_the_layer() {
    let root = Root::new();
    root.driver.prepare("base", None, None).unwrap();
    let mounted = root.driver.mount("base", Access::ReadWrite).unwrap();
    for name in ["opened", "same", "touched"] {
        fs::write(mounted.path().join(name), name).unwrap();
    }
    fs::hard_link(mounted.path().join("touched"), mounted.path().join("also")).unwrap();
    mounted.close().unwrap();
    let base = root.commit("base", 0);
    root.driver.prepare("container", Some(&base.chain_id), None).unwrap();
    let mounted = root.driver.mount("container", Access::ReadWrite).unwrap();
    let path = |name: &str| mounted.path().join(name);
    fs::OpenOptions::new()
        .write(true)
        .open(path("opened"))
        .map(drop)
        .unwrap();
    let mode = fs::metadata(path("same")).unwrap().permissions();
    fs::set_permissions(path("same"), mode).unwrap();
    fs::set_permissions(path("touched"), PermissionsExt::from_mode(0o600)).unwrap();
    mounted.close().unwrap();
    let layer = root.commit("container", 0);
    let tar = root.store.blobs.read(&layer.blob.digest, 1 << 20).unwrap();
    let mut archive = tar::Archive::new(&tar[..]);
    let names: Vec<_> = archive
        .entries()
        .unwrap()
        .map(|entry| entry.unwrap().path().unwrap().into_owned())
        .collect();
    assert_eq!(
        names,
        ["also", "touched"].map(PathBuf::from),
        "both names of the changed link, nothing else"
    );
}

/// overlayfs marks the directory that was made again as opaque, and none of those that are made again in it.
#[test]
fn root_what_went_with_its_directory_stays_gone_when_directories_are_made_again() {
    let root = Root::new();
    root.driver.prepare("base", None, None).unwrap();
    let mounted = root.driver.mount("base", Access::ReadWrite).unwrap();
    for directory in ["cache/pool/main", "cache/pool/other"] {
        fs::create_dir_all(mounted.path().join(directory)).unwrap();
        fs::write(mounted.path().join(directory).join("old"), "old").unwrap();
    }
    mounted.close().unwrap();
    let base = root.commit("base", 0);
    root.driver.prepare("container", Some(&base.chain_id), None).unwrap();
    let mounted = root.driver.mount("container", Access::ReadWrite).unwrap();
    fs::remove_dir_all(mounted.path().join("cache")).unwrap();
    fs::create_dir_all(mounted.path().join("cache/pool/main")).unwrap();
    mounted.close().unwrap();
    let layer = root.commit("container", 0);
    let tar = root.store.blobs.read(&layer.blob.digest, 1 << 20).unwrap();
    let mut archive = tar::Archive::new(&tar[..]);
    let entries = archive.entries().unwrap();
    let gone: Vec<_> = entries
        .map(|entry| entry.unwrap().path().unwrap().into_owned())
        .filter(|path| path.to_string_lossy().contains(".wh."))
        .collect();
    assert_eq!(
        gone,
        ["cache/pool/.wh.other", "cache/pool/main/.wh.old"].map(PathBuf::from)
    );
}
