//! The overlay driver on this kernel: what the conformance suite does not ask, because only overlayfs has it.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "helpers of tests fail like tests"
)]

#[path = "common/conformance.rs"]
mod conformance;
#[path = "common/environment.rs"]
mod environment;

use std::fs;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use plywood::error::{Kind, Result};
use plywood::snapshot::overlay::Overlay;
use plywood::snapshot::{Access, Differ, Mounted, NewLayer, Snapshotter};
use plywood::sys::mount::enter_private_namespace;
use plywood_store::blob::Descriptor;
use plywood_store::intent::{Intent, Plan};
use plywood_store::layer::apply::Applied;
use plywood_store::record::{LayerRecord, Phase, Place};
use plywood_store::{ChainId, DiffId, Digest, Driver, Store};
use tempfile::TempDir;

/// A root folder with its driver, in a mount namespace of the test's own.
struct Root {
    store: Arc<Store>,
    driver: Overlay,
    folder: TempDir,
}

fn unpack(mounted: &Mounted, tar: &mut dyn Read, _: &Path) -> Result<Applied> {
    plywood_store::layer::apply::apply(mounted.dir(), tar, &plywood_store::layer::Limits::default())
}

fn open(root: &Path) -> (Arc<Store>, Overlay) {
    let store = Arc::new(Store::create(root, Driver::Overlay).unwrap());
    let driver = Overlay::open(Arc::clone(&store), Box::new(unpack)).unwrap();
    (store, driver)
}

impl Root {
    fn new() -> Self {
        enter_private_namespace().unwrap();
        let folder = tempfile::Builder::new().prefix("plywood-overlay-").tempdir().unwrap();
        let (store, driver) = open(&folder.path().join("root"));
        Self { store, driver, folder }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("root")
    }

    fn overlay(&self) -> PathBuf {
        self.path().join("overlay")
    }

    /// Edits the snapshot through its mount.
    fn edit(&self, key: &str, edit: impl FnOnce(&Path)) {
        let mounted = self.driver.mount(key, Access::ReadWrite).unwrap();
        edit(mounted.path());
        mounted.close().unwrap();
    }

    /// Commits an edited snapshot over `parent` as a layer that the text identifies.
    fn layer(&self, parent: Option<&ChainId>, text: &str, edit: impl FnOnce(&Path)) -> LayerRecord {
        self.driver.prepare(text, parent, None).unwrap();
        self.edit(text, edit);
        self.driver.commit(text, &self.named(text)).unwrap()
    }

    /// A layer whose stored tar is this text: enough for whatever does not unpack it.
    fn named(&self, text: &str) -> NewLayer {
        let stored = self.store.blobs.put(text.as_bytes()).unwrap();
        let media_type = "application/vnd.oci.image.layer.v1.tar".to_owned();
        NewLayer {
            diff_id: DiffId(Digest::of(text.as_bytes())),
            blob: Descriptor {
                media_type,
                digest: stored.digest,
                size: stored.size,
            },
            size: stored.size,
        }
    }

    /// Looks at a layer through a view.
    fn look<T>(&self, chain: &ChainId, look: impl FnOnce(&Path) -> T) -> T {
        self.driver.view("look", chain, None).unwrap();
        let mounted = self.driver.mount("look", Access::ReadOnly).unwrap();
        let seen = look(mounted.path());
        mounted.close().unwrap();
        self.driver.remove("look").unwrap();
        seen
    }

    fn work(&self) -> Intent {
        let plan = Plan::Work {
            verb: "test".into(),
            blobs: Vec::new(),
            layers: Vec::new(),
        };
        self.store.intents.begin(plan).unwrap()
    }

    #[track_caller]
    fn assert_sound(&self) {
        assert_eq!(self.driver.verify().unwrap(), Vec::<String>::new());
        assert_eq!(names(&self.overlay().join("pending")), Vec::<String>::new());
        assert_eq!(names(&self.path().join("mnt/overlay")), Vec::<String>::new());
    }
}

fn names(path: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(path)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn folder_of(place: &Place) -> &str {
    match place {
        Place::Folder(name) => name,
        other => panic!("a volume of the overlay driver's: {other:?}"),
    }
}

#[test]
fn root_overlay_does_what_every_driver_does() {
    let make = || {
        let Root { store, driver, folder } = Root::new();
        conformance::Subject {
            store,
            driver: Box::new(driver),
            keep: Box::new(folder),
        }
    };
    // Each layer is some synced records; the guest's disk is slow.
    conformance::run(&make, environment::as_many(128, 40));
}

#[test]
fn root_a_snapshot_over_nothing_becomes_a_layer_without_a_copy() {
    let root = Root::new();
    root.driver.prepare("base", None, None).unwrap();
    let place = root.store.snapshots.get("base").unwrap().unwrap().place;
    root.edit("base", |path| {
        let stat = fs::metadata(path).unwrap();
        assert_eq!(
            (stat.mode() & 0o7777, stat.uid(), stat.gid(), stat.mtime()),
            (0o755, 0, 0, 0)
        );
        assert_eq!(names(path), Vec::<String>::new());
        fs::write(path.join("file"), "base").unwrap();
    });
    let layer = root.driver.commit("base", &root.named("base")).unwrap();
    assert_eq!(layer.place, place);
    assert!(root.store.snapshots.get("base").unwrap().is_none());
    assert_eq!(
        root.look(&layer.chain_id, |path| fs::read_to_string(path.join("file")).unwrap()),
        "base"
    );
    assert_eq!(names(&root.overlay().join("work")), Vec::<String>::new());
    root.assert_sound();
}

#[test]
fn root_a_hard_link_changed_by_one_name_is_changed_by_all_in_the_layer() {
    let root = Root::new();
    let base = root.layer(None, "base", |path| {
        fs::create_dir(path.join("dir")).unwrap();
        fs::write(path.join("dir/a"), "one").unwrap();
        fs::set_permissions(path.join("dir/a"), PermissionsExt::from_mode(0o4755)).unwrap();
        fs::hard_link(path.join("dir/a"), path.join("b")).unwrap();
    });
    let mut before = None;
    let child = root.layer(Some(&base.chain_id), "child", |path| {
        before = Some(fs::metadata(path).unwrap().modified().unwrap());
        fs::hard_link(path.join("b"), path.join("c")).unwrap();
        fs::remove_file(path.join("c")).unwrap();
        let mut times = fs::FileTimes::new();
        times = times.set_modified(before.unwrap());
        fs::File::open(path).unwrap().set_times(times).unwrap();
        fs::OpenOptions::new()
            .append(true)
            .open(path.join("dir/a"))
            .map(|mut file| std::io::Write::write_all(&mut file, b" two"))
            .unwrap()
            .unwrap();
    });
    root.look(&child.chain_id, |path| {
        let (a, b) = (
            fs::metadata(path.join("dir/a")).unwrap(),
            fs::metadata(path.join("b")).unwrap(),
        );
        assert_eq!((a.ino(), a.nlink()), (b.ino(), 2));
        assert_eq!(fs::read_to_string(path.join("b")).unwrap(), "one two");
        assert_eq!(fs::metadata(path).unwrap().modified().unwrap(), before.unwrap());
    });
    root.assert_sound();
}

#[test]
fn root_the_layers_root_directory_shows_through_an_untouched_snapshot() {
    let root = Root::new();
    let base = root.layer(None, "base", |path| {
        fs::set_permissions(path, PermissionsExt::from_mode(0o1711)).unwrap();
        std::os::unix::fs::chown(path, Some(7), Some(8)).unwrap();
        rustix::fs::setxattr(path, "user.colour", b"red", rustix::fs::XattrFlags::empty()).unwrap();
    });
    let child = root.layer(Some(&base.chain_id), "child", |path| {
        assert_eq!(fs::metadata(path).unwrap().mode() & 0o7777, 0o1711);
    });
    root.look(&child.chain_id, |path| {
        let stat = fs::metadata(path).unwrap();
        assert_eq!((stat.mode() & 0o7777, stat.uid(), stat.gid()), (0o1711, 7, 8));
        let mut value = [0_u8; 8];
        assert_eq!(rustix::fs::getxattr(path, "user.colour", &mut value[..]).unwrap(), 3);
    });
}

#[test]
fn root_what_overlayfs_takes_for_a_whiteout_cannot_come_in_even_with_a_base_layer() {
    let root = Root::new();
    root.driver.prepare("base", None, None).unwrap();
    root.edit("base", |path| {
        let made = rustix::fs::mknodat(
            rustix::fs::CWD,
            path.join("w"),
            rustix::fs::FileType::CharacterDevice,
            0o600.into(),
            0,
        );
        assert_eq!(made, Err(rustix::io::Errno::PERM));
        let null = rustix::fs::makedev(1, 3);
        rustix::fs::mknodat(
            rustix::fs::CWD,
            path.join("null"),
            rustix::fs::FileType::CharacterDevice,
            0o600.into(),
            null,
        )
        .unwrap();
    });
}

#[test]
fn root_five_hundred_layers_stack_and_one_more_is_refused_with_a_way_out() {
    let root = Root::new();
    let base = root.layer(None, "base", |path| fs::write(path.join("file"), "base").unwrap());
    // The folders between are made by hand: 500 commits would be 500 times two synced records.
    let lock = root.store.exclusive().unwrap();
    let mut top = base.chain_id;
    for number in 1..500 {
        let mut name = format!("m{number:04}").into_bytes();
        name[1..].iter_mut().for_each(|digit| *digit += b'a' - b'0');
        let place = String::from_utf8(name).unwrap();
        fs::create_dir(root.overlay().join(&place)).unwrap();
        fs::write(root.overlay().join(&place).join(&place), "").unwrap();
        let diff_id = DiffId(Digest::of(place.as_bytes()));
        let chain_id = ChainId::new(Some(top), diff_id);
        let layer = LayerRecord {
            chain_id,
            diff_id,
            parent: Some(top),
            place: Place::Folder(place),
            ..base.clone()
        };
        root.store.layers.put(&lock, &layer).unwrap();
        top = chain_id;
    }
    lock.done().unwrap();
    root.look(&top, |path| assert_eq!(names(path).len(), 500));
    root.driver.prepare("top", Some(&top), None).unwrap();
    root.edit("top", |path| fs::write(path.join("file"), "changed").unwrap());
    let refused = root.driver.commit("top", &root.named("top")).unwrap_err();
    assert_eq!(refused.kind(), Kind::Invalid);
    assert!(refused.hint().unwrap().contains("--format rootfs"));
    root.edit("top", |path| {
        assert_eq!(fs::read_to_string(path.join("file")).unwrap(), "changed")
    });
}

#[test]
fn root_a_copied_root_folder_keeps_all_but_changed_hard_links() {
    let root = Root::new();
    let base = root.layer(None, "base", |path| {
        fs::write(path.join("file"), "base").unwrap();
        fs::hard_link(path.join("file"), path.join("link")).unwrap();
        fs::write(path.join("single"), "base").unwrap();
        fs::write(path.join("removed"), "base").unwrap();
    });
    for (key, changed) in [("plain", "single"), ("linked", "file")] {
        root.driver.prepare(key, Some(&base.chain_id), None).unwrap();
        root.edit(key, |path| {
            fs::write(path.join(changed), "changed").unwrap();
            // Leaves overlayfs a whiteout in its index folder, which is no entry.
            fs::remove_file(path.join("removed")).unwrap();
        });
    }
    let copy = root.folder.path().join("copy");
    assert!(
        Command::new("cp")
            .arg("-a")
            .arg(root.path())
            .arg(&copy)
            .status()
            .unwrap()
            .success()
    );
    let (_, driver) = open(&copy);
    let refused = driver.mount("linked", Access::ReadWrite).unwrap_err();
    assert_eq!(refused.kind(), Kind::Incompatible, "{refused}");
    assert!(refused.hint().unwrap().contains("commit it where it was"));
    driver.view("look", &base.chain_id, None).unwrap();
    for (key, single) in [("look", "base"), ("plain", "changed")] {
        for _ in 0..2 {
            let mounted = driver.mount(key, Access::ReadOnly).unwrap();
            let read = |name: &str| fs::read_to_string(mounted.path().join(name)).unwrap();
            assert_eq!([read("single"), read("link")], [single, "base"]);
            mounted.close().unwrap();
        }
    }
    let mounted = driver.mount("plain", Access::ReadWrite).unwrap();
    fs::write(mounted.path().join("file"), "linked").unwrap();
    assert_eq!(fs::read_to_string(mounted.path().join("link")).unwrap(), "linked");
    mounted.close().unwrap();
}

#[test]
fn root_a_root_folder_on_overlayfs_is_refused_by_name() {
    let root = Root::new();
    root.driver.prepare("host", None, None).unwrap();
    let mounted = root.driver.mount("host", Access::ReadWrite).unwrap();
    let store = Arc::new(Store::create(&mounted.path().join("nested"), Driver::Overlay).unwrap());
    let refused = Overlay::open(store, Box::new(unpack)).unwrap_err();
    assert!(refused.to_string().contains("overlayfs"), "{refused}");
    assert!(refused.hint().unwrap().contains("ext4"));
    assert!(
        plywood::snapshot::overlay::probe(mounted.path())
            .iter()
            .any(|(_, can, _)| !can)
    );
    mounted.close().unwrap();
    assert!(
        plywood::snapshot::overlay::probe(root.folder.path())
            .iter()
            .all(|(_, can, _)| *can)
    );
}

#[test]
fn root_what_is_in_use_is_neither_removed_nor_mounted_twice() {
    let root = Root::new();
    let base = root.layer(None, "base", |_| {});
    root.driver.prepare("active", Some(&base.chain_id), None).unwrap();
    assert_eq!(
        root.driver.remove_layer(&base.chain_id).unwrap_err().kind(),
        Kind::InUse
    );
    let mounted = root.driver.mount("active", Access::ReadWrite).unwrap();
    assert_eq!(
        root.driver.mount("active", Access::ReadWrite).unwrap_err().kind(),
        Kind::InUse
    );
    assert_eq!(
        root.driver.compare("active", Differ::Auto).unwrap_err().kind(),
        Kind::InUse
    );
    assert_eq!(root.driver.remove("active").unwrap_err().kind(), Kind::InUse);
    let work = root.work();
    assert_eq!(
        root.driver.capture("active", "copy", Some(&work)).unwrap_err().kind(),
        Kind::InUse
    );
    mounted.close().unwrap();
    root.driver.capture("active", "copy", Some(&work)).unwrap();
    assert_eq!(
        root.driver.mount("active", Access::ReadWrite).unwrap_err().kind(),
        Kind::InUse
    );
    assert_eq!(root.driver.remove("active").unwrap_err().kind(), Kind::InUse);
    root.driver.remove("copy").unwrap();
    root.driver.remove("active").unwrap();
    root.driver.remove("active").unwrap();
    root.driver.remove_layer(&base.chain_id).unwrap();
    root.driver.remove_layer(&base.chain_id).unwrap();
    work.done().unwrap();
    root.assert_sound();
    assert_eq!(names(&root.overlay()), ["empty", "pending", "work"]);
}

#[test]
fn root_a_mount_in_the_callers_tree_is_recorded_read_only_and_undone_once() {
    let root = Root::new();
    let base = root.layer(None, "base", |path| fs::write(path.join("file"), "base").unwrap());
    root.driver.view("shown", &base.chain_id, None).unwrap();
    let target = root.folder.path().join("target");
    fs::create_dir(&target).unwrap();
    root.driver.mount_at("shown", &target).unwrap();
    assert_eq!(fs::read_to_string(target.join("file")).unwrap(), "base");
    assert_eq!(
        fs::write(target.join("file"), "x").unwrap_err().raw_os_error(),
        Some(nix::libc::EROFS)
    );
    assert_eq!(
        root.driver.stack("shown").unwrap()[0].name,
        target.display().to_string()
    );
    assert_eq!(root.driver.mount_at("shown", &target).unwrap_err().kind(), Kind::InUse);
    assert_eq!(root.driver.remove("shown").unwrap_err().kind(), Kind::InUse);
    root.driver.unmount_at("shown").unwrap();
    root.driver.unmount_at("shown").unwrap();
    assert_eq!(names(&target), Vec::<String>::new());
    assert_eq!(root.store.snapshots.list().unwrap(), [], "a view goes with its mount");
    root.assert_sound();
}

#[test]
fn root_a_layer_keeps_its_folder_when_its_commit_was_killed_before_the_snapshots_record_went() {
    for take_up in [
        |root: &Root| drop(root.driver.recover().unwrap()),
        |root: &Root| root.driver.remove("import").unwrap(),
    ] {
        let root = Root::new();
        let dead = root.work();
        root.driver.prepare("import", None, Some(&dead)).unwrap();
        root.edit("import", |path| fs::write(path.join("file"), "precious").unwrap());
        drop(dead);
        // As far as a commit had come: the mark, the layer's record; the snapshot's is there still.
        let snapshot = root.store.snapshots.get("import").unwrap().unwrap();
        let new = root.named("tar");
        let layer = LayerRecord {
            chain_id: ChainId::new(None, new.diff_id),
            diff_id: new.diff_id,
            parent: None,
            blob: new.blob,
            size: new.size,
            place: snapshot.place,
            phase: Phase::Ready,
        };
        let Place::Folder(name) = &layer.place else {
            unreachable!()
        };
        fs::create_dir(root.overlay().join("pending").join(name)).unwrap();
        let lock = root.store.exclusive().unwrap();
        root.store.layers.put(&lock, &layer).unwrap();
        lock.done().unwrap();

        take_up(&root);
        root.driver.recover().unwrap();
        assert_eq!(root.store.snapshots.keys().unwrap(), Vec::<String>::new());
        let seen = root.look(&layer.chain_id, |path| fs::read_to_string(path.join("file")).unwrap());
        assert_eq!(seen, "precious");
        assert_eq!(names(&root.overlay().join("pending")), Vec::<String>::new());
        root.assert_sound();
    }
}

#[test]
fn root_what_a_dead_command_leased_is_removed_and_nothing_else() {
    let root = Root::new();
    let base = root.layer(None, "base", |_| {});
    root.driver.prepare("container", Some(&base.chain_id), None).unwrap();
    let live = root.work();
    root.driver.prepare("live", Some(&base.chain_id), Some(&live)).unwrap();
    let dead = root.work();
    root.driver.prepare("dead", Some(&base.chain_id), Some(&dead)).unwrap();
    root.driver.capture("container", "copy", Some(&dead)).unwrap();
    drop(dead);
    assert_eq!(root.driver.recover().unwrap().len(), 2);
    assert_eq!(root.driver.recover().unwrap(), Vec::<String>::new());
    assert_eq!(root.store.snapshots.keys().unwrap(), ["container", "live"]);
    root.edit("container", |path| fs::write(path.join("still"), "there").unwrap());
    root.assert_sound();
}

#[test]
fn root_every_half_made_step_is_finished_or_undone() {
    let root = Root::new();
    let base = root.layer(None, "base", |path| fs::write(path.join("file"), "base").unwrap());
    let (overlay, pending) = (root.overlay(), root.overlay().join("pending"));
    // prepare, cut before its record.
    for folder in [
        &overlay.join("aaaaa"),
        &overlay.join("work/aaaaa"),
        &pending.join("aaaaa"),
        &pending.join("bbbbb"),
    ] {
        fs::create_dir(folder).unwrap();
    }
    fs::write(overlay.join("aaaaa/file"), "").unwrap();
    // prepare, cut after its record.
    root.driver.prepare("made", Some(&base.chain_id), None).unwrap();
    let made = root.store.snapshots.get("made").unwrap().unwrap();
    fs::create_dir(pending.join(folder_of(&made.place))).unwrap();
    // remove_layer, cut before and after its folder was moved.
    for (text, moved) in [("early", false), ("late", true)] {
        let mut layer = root.layer(None, text, |path| fs::write(path.join("file"), text).unwrap());
        layer.phase = plywood_store::record::Phase::Deleting;
        let name = folder_of(&layer.place).to_owned();
        fs::create_dir(pending.join(&name)).unwrap();
        let lock = root.store.exclusive().unwrap();
        root.store.layers.put(&lock, &layer).unwrap();
        lock.done().unwrap();
        if moved {
            fs::rename(overlay.join(&name), pending.join(&name)).unwrap();
        }
    }
    // commit, cut between its two records.
    let published = root.layer(Some(&base.chain_id), "published", |_| {});
    let lock = root.store.exclusive().unwrap();
    let stale = plywood_store::record::SnapshotRecord {
        key: "stale".into(),
        place: published.place.clone(),
        ..made
    };
    root.store.snapshots.put(&lock, &stale).unwrap();
    lock.done().unwrap();
    fs::create_dir(pending.join(folder_of(&published.place))).unwrap();
    fs::create_dir(overlay.join("work").join(folder_of(&published.place))).unwrap();

    // What is half done is no damage.
    assert_eq!(root.driver.verify().unwrap(), Vec::<String>::new());
    root.driver.recover().unwrap();
    assert_eq!(root.driver.recover().unwrap(), Vec::<String>::new());
    root.assert_sound();
    assert_eq!(root.store.snapshots.keys().unwrap(), ["made"]);
    assert_eq!(root.store.layers.keys().unwrap().len(), 2);
    assert_eq!(
        root.look(&published.chain_id, |path| fs::read_to_string(path.join("file"))
            .unwrap()),
        "base"
    );
}

#[test]
fn root_a_lock_that_a_program_has_which_is_just_starting_is_waited_for() {
    let root = Root::new();
    root.driver.prepare("one", None, None).unwrap();
    let place = root.store.snapshots.get("one").unwrap().unwrap().place;
    let inherited = fs::File::open(root.overlay().join(folder_of(&place))).unwrap();
    rustix::fs::flock(&inherited, rustix::fs::FlockOperation::LockExclusive).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            std::thread::sleep(std::time::Duration::from_millis(100));
            drop(inherited);
        });
        root.edit("one", |path| fs::write(path.join("file"), "x").unwrap());
    });
}

/// Names the root folder to the process that is to be killed.
const VICTIM: &str = "PLYWOOD_TEST_OVERLAY_VICTIM";

#[test]
fn root_killed_while_it_writes_a_command_leaves_nothing() {
    if let Some(path) = std::env::var_os(VICTIM) {
        return be_killed(Path::new(&path));
    }
    let root = Root::new();
    let name = "root_killed_while_it_writes_a_command_leaves_nothing";
    let mut victim = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(VICTIM, root.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = std::io::BufReader::new(victim.stdout.take().unwrap());
    let mut line = String::new();
    while !line.contains("mounted") {
        line.clear();
        assert_ne!(
            std::io::BufRead::read_line(&mut said, &mut line).unwrap(),
            0,
            "the victim ended too early"
        );
    }
    assert_eq!(root.driver.recover().unwrap(), Vec::<String>::new());
    victim.kill().unwrap();
    victim.wait().unwrap();
    assert_eq!(root.driver.recover().unwrap().len(), 1);
    root.assert_sound();
    assert_eq!(root.store.snapshots.keys().unwrap(), Vec::<String>::new());
    assert_eq!(root.store.intents.live().unwrap(), Vec::new());
}

#[test]
fn root_a_passing_snapshot_ends_with_the_machine() {
    let root = Root::new();
    let base = root.layer(None, "base", |path| fs::write(path.join("file"), "x").unwrap());
    for key in ["kept", "lost"] {
        root.driver.prepare_passing(key, Some(&base.chain_id)).unwrap();
        root.edit(key, |path| fs::write(path.join("file"), "y").unwrap());
        assert!(root.store.snapshots.is_passing(key));
    }
    // What another command does first leaves them alone.
    assert_eq!(root.driver.recover().unwrap(), Vec::<String>::new());
    assert_eq!(names(&root.overlay().join("pending")).len(), 2);
    root.driver.remove("kept").unwrap();
    assert_eq!(names(&root.overlay().join("pending")).len(), 1);

    // As after a power cut: the records are another boot's, and the mark tells of the folder.
    let boots = root.path().join("passing");
    let this = names(&boots).remove(0);
    let another = boots.join("00000000-0000-4000-8000-000000000000");
    fs::rename(boots.join(this), &another).unwrap();
    fs::write(another.join("snapshots/lost.json"), "").unwrap();
    assert_eq!(root.driver.recover().unwrap().len(), 1);
    assert_eq!(names(&boots), Vec::<String>::new());
    assert_eq!(root.store.snapshots.keys().unwrap(), Vec::<String>::new());
    assert_eq!(names(&root.overlay().join("work")), Vec::<String>::new());
    root.assert_sound();
}

fn be_killed(path: &Path) {
    enter_private_namespace().unwrap();
    let (store, driver) = open(path);
    let plan = Plan::Work {
        verb: "victim".into(),
        blobs: Vec::new(),
        layers: Vec::new(),
    };
    let intent = store.intents.begin(plan).unwrap();
    driver.prepare("victim", None, Some(&intent)).unwrap();
    let mounted = driver.mount("victim", Access::ReadWrite).unwrap();
    println!("mounted");
    loop {
        fs::write(mounted.path().join("file"), "more").unwrap();
    }
}
