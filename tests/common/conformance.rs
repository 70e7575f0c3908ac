//! What every driver does alike: one suite over [`Snapshotter`], each case on a fresh root.
//!
//! Modelled on the test suite of containerd's snapshotters. A driver's own test
//! file calls [`run`] with a function that makes fresh subjects.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test crate has a copy of its own and uses a part of it"
)]

use std::ffi::CString;
use std::fs;
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown, symlink};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use plywood::error::Kind;
use plywood::snapshot::{Access, Differ, Group, NewLayer, Snapshotter};
use plywood_store::blob::Descriptor;
use plywood_store::intent::{Intent, Plan};
use plywood_store::layer::folder::Folder;
use plywood_store::record::{ImageRecord, LayerRecord, Phase, Record, SnapshotRecord};
use plywood_store::{ChainId, DiffId, Digest, ImageId, Store};

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
    case("an empty snapshot is empty", &empty);
    case("what is committed is what is viewed", &committed_is_viewed);
    case("a layer says what it is", &layer_record);
    case("changed owners and modes alone", &changed_attributes);
    case("a directory becomes a file, a file a directory", &changed_kinds);
    case("what is deleted above stays below", &deleted_above);
    case("a directory that is made again is empty", &made_again);
    case("renamed files", &renamed);
    case("links, fifos, attributes, odd names", &odd_things);
    case("a file that was not opened for writing is the same", &untouched);
    case("two snapshots over one layer know nothing of each other", &siblings);
    case("a view cannot be written", &view_is_read_only);
    case("views and layers share", &views_share);
    case("keys are taken once", &keys);
    case("parents that are not there", &missing_parents);
    case("a layer under others cannot be removed", &layer_in_use);
    case(
        "a layer that was promised to somebody cannot be removed",
        &layer_promised,
    );
    case("removing is final and can be repeated", &removing);
    case("what was never mounted is unmounted already", &never_mounted);
    case("a mount that somebody else undid is forgotten", &unmounted_by_hand);
    case("a mount is undone and forgotten in one step", &unmounted_in_one_step);
    case("the same layer twice", &same_layer_twice);
    case("a captured snapshot is frozen", &captured);
    case("a comparison shows both sides", &compared);
    case("what a dead process leased goes, what a live one leases stays", &leases);
    case("usage and stack", &usage_and_stack);
    case("an active snapshot keeps what was written between mounts", &remounted);
    case("deep stacks", &|subject| deep_stack(subject, deep));
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

/// A layer's tar with these files in it.
fn tar(files: &[(&str, &str)]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_ustar();
        header.set_mode(0o644);
        header.set_size(u64::try_from(content.len()).unwrap());
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        tar.append_data(&mut header, name, content.as_bytes()).unwrap();
    }
    tar.into_inner().unwrap()
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

fn empty(subject: &Subject) {
    subject.driver.prepare("a", None, None).unwrap();
    let (mode, uid, gid, mtime, count) = subject.look("a", |root| {
        let meta = fs::metadata(root).unwrap();
        (
            meta.mode() & 0o7777,
            meta.uid(),
            meta.gid(),
            meta.mtime(),
            names(root).len(),
        )
    });
    assert_eq!((mode, uid, gid, mtime, count), (0o755, 0, 0, 0, 0));
    subject.driver.remove("a").unwrap();
}

fn committed_is_viewed(subject: &Subject) {
    let layer = subject.layer(None, "one", |root| {
        fs::create_dir(root.join("dir")).unwrap();
        fs::write(root.join("dir/file"), "content").unwrap();
    });
    assert_eq!(subject.view(&layer, |root| read(root, "dir/file")), "content");
    let above = subject.layer(Some(layer.chain_id), "two", |root| {
        assert_eq!(read(root, "dir/file"), "content");
        fs::write(root.join("dir/file"), "changed").unwrap();
        fs::write(root.join("more"), "more").unwrap();
    });
    assert_eq!(
        subject.view(&above, |root| read(root, "dir/file") + &read(root, "more")),
        "changedmore"
    );
    assert_eq!(
        subject.view(&layer, |root| (read(root, "dir/file"), names(root))),
        ("content".into(), vec!["dir".to_owned()])
    );
}

fn layer_record(subject: &Subject) {
    let base = subject.layer(None, "one", |root| fs::write(root.join("file"), "1").unwrap());
    let top = subject.layer(Some(base.chain_id), "two", |root| {
        fs::write(root.join("file"), "2").unwrap()
    });
    assert_eq!(base.parent, None);
    assert_eq!(base.chain_id, ChainId::new(None, base.diff_id));
    assert_eq!(top.parent, Some(base.chain_id));
    assert_eq!(top.chain_id, ChainId::new(Some(base.chain_id), top.diff_id));
    assert_eq!(subject.store.layers.list().unwrap().len(), 2);
    assert!(subject.store.snapshots.list().unwrap().is_empty());
}

fn changed_attributes(subject: &Subject) {
    let base = subject.layer(None, "one", |root| {
        fs::create_dir(root.join("dir")).unwrap();
        for name in ["a", "b", "dir/c"] {
            fs::write(root.join(name), name).unwrap();
        }
    });
    let top = subject.layer(Some(base.chain_id), "two", |root| {
        chown(root.join("a"), Some(1), Some(2)).unwrap();
        fs::set_permissions(root.join("b"), fs::Permissions::from_mode(0o4711)).unwrap();
        chown(root.join("dir"), Some(3), None).unwrap();
    });
    subject.view(&top, |root| {
        let meta = |name: &str| fs::metadata(root.join(name)).unwrap();
        assert_eq!((meta("a").uid(), meta("a").gid(), read(root, "a")), (1, 2, "a".into()));
        assert_eq!((meta("b").mode() & 0o7777, read(root, "b")), (0o4711, "b".into()));
        assert_eq!((meta("dir").uid(), read(root, "dir/c")), (3, "dir/c".into()));
    });
    assert_eq!(
        subject.view(&base, |root| fs::metadata(root.join("a")).unwrap().uid()),
        0
    );
}

fn changed_kinds(subject: &Subject) {
    let base = subject.layer(None, "one", |root| {
        fs::create_dir_all(root.join("dir/sub")).unwrap();
        fs::write(root.join("dir/sub/file"), "x").unwrap();
        fs::write(root.join("file"), "x").unwrap();
    });
    let top = subject.layer(Some(base.chain_id), "two", |root| {
        fs::remove_dir_all(root.join("dir")).unwrap();
        fs::write(root.join("dir"), "now a file").unwrap();
        fs::remove_file(root.join("file")).unwrap();
        fs::create_dir(root.join("file")).unwrap();
        symlink("file", root.join("file/link")).unwrap();
    });
    subject.view(&top, |root| {
        assert_eq!(read(root, "dir"), "now a file");
        assert_eq!(names(&root.join("file")), ["link"]);
    });
    assert_eq!(subject.view(&base, |root| read(root, "dir/sub/file")), "x");
}

fn deleted_above(subject: &Subject) {
    let base = subject.layer(None, "one", |root| {
        fs::create_dir_all(root.join("dir/sub")).unwrap();
        for name in ["dir/sub/file", "dir/file", "file"] {
            fs::write(root.join(name), "x").unwrap();
        }
    });
    let middle = subject.layer(Some(base.chain_id), "two", |root| {
        fs::remove_dir_all(root.join("dir/sub")).unwrap();
        fs::remove_file(root.join("file")).unwrap();
    });
    let top = subject.layer(Some(middle.chain_id), "three", |root| {
        assert_eq!(
            (names(root), names(&root.join("dir"))),
            (vec!["dir".to_owned()], vec!["file".to_owned()])
        );
        fs::write(root.join("file"), "again").unwrap();
    });
    assert_eq!(subject.view(&top, |root| read(root, "file")), "again");
    assert_eq!(subject.view(&middle, names), ["dir"]);
    assert_eq!(
        subject.view(&base, |root| read(root, "dir/sub/file") + &read(root, "file")),
        "xx"
    );
}

fn made_again(subject: &Subject) {
    let base = subject.layer(None, "one", |root| {
        fs::create_dir_all(root.join("dir/sub")).unwrap();
        fs::write(root.join("dir/old"), "x").unwrap();
    });
    let top = subject.layer(Some(base.chain_id), "two", |root| {
        fs::remove_dir_all(root.join("dir")).unwrap();
        fs::create_dir(root.join("dir")).unwrap();
        fs::write(root.join("dir/new"), "x").unwrap();
    });
    assert_eq!(subject.view(&top, |root| names(&root.join("dir"))), ["new"]);
    assert_eq!(subject.view(&base, |root| names(&root.join("dir"))), ["old", "sub"]);
}

fn renamed(subject: &Subject) {
    let base = subject.layer(None, "one", |root| {
        fs::create_dir(root.join("dir")).unwrap();
        fs::write(root.join("a"), "a").unwrap();
        fs::write(root.join("b"), "b").unwrap();
    });
    let top = subject.layer(Some(base.chain_id), "two", |root| {
        fs::rename(root.join("a"), root.join("dir/moved")).unwrap();
        fs::rename(root.join("b"), root.join("c")).unwrap();
        fs::write(root.join("b"), "new b").unwrap();
    });
    subject.view(&top, |root| {
        assert_eq!(names(root), ["b", "c", "dir"]);
        assert_eq!(
            [read(root, "dir/moved"), read(root, "b"), read(root, "c")],
            ["a", "new b", "b"]
        );
    });
}

fn odd_things(subject: &Subject) {
    let long = "n".repeat(255);
    let raw = std::ffi::OsStr::from_bytes(b"not \xff unicode\n");
    let layer = subject.layer(None, "one", |root| {
        fs::write(root.join("one"), "shared").unwrap();
        fs::hard_link(root.join("one"), root.join("two")).unwrap();
        symlink("/nowhere/../at all", root.join("link")).unwrap();
        nix::unistd::mkfifo(&root.join("fifo"), nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
        fs::write(root.join(&long), "long").unwrap();
        fs::write(root.join(raw), "raw").unwrap();
        set_xattr(&root.join("one"), "user.plywood", b"\0\xffvalue");
    });
    subject.view(&layer, |root| {
        let one = fs::metadata(root.join("one")).unwrap();
        assert_eq!(
            (one.nlink(), one.ino()),
            (2, fs::metadata(root.join("two")).unwrap().ino())
        );
        assert_eq!(
            fs::read_link(root.join("link")).unwrap(),
            Path::new("/nowhere/../at all")
        );
        assert!(fs::symlink_metadata(root.join("fifo")).unwrap().file_type().is_fifo());
        assert_eq!(fs::read(root.join(&long)).unwrap(), b"long");
        assert_eq!(fs::read(root.join(raw)).unwrap(), b"raw");
        assert_eq!(get_xattr(&root.join("two"), "user.plywood"), b"\0\xffvalue");
    });
}

fn set_xattr(path: &Path, name: &str, value: &[u8]) {
    rustix::fs::setxattr(path, name, value, rustix::fs::XattrFlags::empty()).unwrap();
}

fn get_xattr(path: &Path, name: &str) -> Vec<u8> {
    let mut value = vec![0; 256];
    let name = CString::new(name).unwrap();
    let length = rustix::fs::getxattr(path, name, &mut value[..]).unwrap();
    value.truncate(length);
    value
}

fn untouched(subject: &Subject) {
    let base = subject.layer(None, "one", |root| fs::write(root.join("file"), "x").unwrap());
    let before = subject.view(&base, |root| fs::metadata(root.join("file")).unwrap().mtime_nsec());
    let top = subject.layer(Some(base.chain_id), "two", |root| {
        assert_eq!(read(root, "file"), "x");
        fs::write(root.join("other"), "y").unwrap();
    });
    assert_eq!(
        subject.view(&top, |root| fs::metadata(root.join("file")).unwrap().mtime_nsec()),
        before
    );
}

fn siblings(subject: &Subject) {
    let base = subject.layer(None, "base", |root| fs::write(root.join("file"), "x").unwrap());
    for key in ["a", "b"] {
        subject.driver.prepare(key, Some(&base.chain_id), None).unwrap();
    }
    let a = subject.driver.mount("a", Access::ReadWrite).unwrap();
    let b = subject.driver.mount("b", Access::ReadWrite).unwrap();
    fs::write(a.path().join("file"), "a").unwrap();
    fs::remove_file(b.path().join("file")).unwrap();
    assert_eq!((read(a.path(), "file"), names(b.path()).len()), ("a".into(), 0));
    a.close().unwrap();
    b.close().unwrap();
    assert_eq!(subject.view(&base, |root| read(root, "file")), "x");
}

fn view_is_read_only(subject: &Subject) {
    let base = subject.layer(None, "base", |root| fs::write(root.join("file"), "x").unwrap());
    subject.driver.view("v", &base.chain_id, None).unwrap();
    let mounted = subject.driver.mount("v", Access::ReadOnly).unwrap();
    let refused = fs::write(mounted.path().join("file"), "y").unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
    mounted.close().unwrap();
    assert!(
        subject.driver.mount("v", Access::ReadWrite).is_err(),
        "a view is not mounted for writing"
    );
    assert!(
        subject.driver.commit("v", &subject.describe(b"v")).is_err(),
        "a view is not committed"
    );
}

fn views_share(subject: &Subject) {
    let base = subject.layer(None, "base", |root| fs::write(root.join("file"), "x").unwrap());
    subject.driver.view("v", &base.chain_id, None).unwrap();
    subject.driver.view("w", &base.chain_id, None).unwrap();
    let v = subject.driver.mount("v", Access::ReadOnly).unwrap();
    let w = subject.driver.mount("w", Access::ReadOnly).unwrap();
    subject.driver.prepare("a", Some(&base.chain_id), None).unwrap();
    subject.change("a", |root| fs::write(root.join("file"), "y").unwrap());
    v.close().unwrap();
    subject.driver.remove("v").unwrap();
    assert_eq!(read(w.path(), "file"), "x");
    w.close().unwrap();
    subject.driver.remove("w").unwrap();
    assert_eq!(subject.view(&base, |root| read(root, "file")), "x");
}

fn keys(subject: &Subject) {
    let base = subject.layer(None, "base", |_| ());
    subject.driver.prepare("a", None, None).unwrap();
    assert_eq!(
        subject.driver.prepare("a", None, None).unwrap_err().kind(),
        Kind::Exists
    );
    assert_eq!(
        subject.driver.view("a", &base.chain_id, None).unwrap_err().kind(),
        Kind::Exists
    );
    for key in ["../up", "", "a/b"] {
        assert!(subject.driver.prepare(key, None, None).is_err(), "{key:?}");
    }
    assert_eq!(
        subject.driver.mount("none", Access::ReadOnly).unwrap_err().kind(),
        Kind::NotFound
    );
    assert_eq!(
        subject
            .driver
            .commit("none", &subject.describe(b"x"))
            .unwrap_err()
            .kind(),
        Kind::NotFound
    );
    assert_eq!(subject.store.snapshots.list().unwrap().len(), 1);
}

fn missing_parents(subject: &Subject) {
    let nowhere = ChainId::new(None, subject.describe(b"never committed").diff_id);
    assert_eq!(
        subject.driver.prepare("a", Some(&nowhere), None).unwrap_err().kind(),
        Kind::NotFound
    );
    assert_eq!(
        subject.driver.view("a", &nowhere, None).unwrap_err().kind(),
        Kind::NotFound
    );
    assert!(subject.store.snapshots.list().unwrap().is_empty());
}

fn layer_in_use(subject: &Subject) {
    let base = subject.layer(None, "base", |root| fs::write(root.join("file"), "x").unwrap());
    let top = subject.layer(Some(base.chain_id), "top", |root| {
        fs::write(root.join("more"), "x").unwrap()
    });
    assert_eq!(
        subject.driver.remove_layer(&base.chain_id).unwrap_err().kind(),
        Kind::InUse
    );
    subject.driver.prepare("a", Some(&top.chain_id), None).unwrap();
    assert_eq!(
        subject.driver.remove_layer(&top.chain_id).unwrap_err().kind(),
        Kind::InUse
    );
    assert_eq!(subject.look("a", |root| names(root).len()), 2);
    subject.driver.remove("a").unwrap();
    subject.driver.remove_layer(&top.chain_id).unwrap();
    assert_eq!(subject.view(&base, |root| read(root, "file")), "x");
    subject.driver.remove_layer(&base.chain_id).unwrap();
    assert!(subject.store.layers.list().unwrap().is_empty());
}

/// A sweep may come to a layer that another command has made anew, and put an image on, since it was marked.
fn layer_promised(subject: &Subject) {
    let base = subject.layer(None, "base", |root| fs::write(root.join("file"), "x").unwrap());
    let refused = || {
        let error = subject.driver.remove_layer(&base.chain_id).unwrap_err();
        assert_eq!(error.kind(), Kind::InUse, "{error}");
    };
    let mut command = subject.work();
    command.pin_layer(base.chain_id).unwrap();
    refused();
    let image = ImageRecord {
        id: ImageId(Digest::of(b"config")),
        config: base.blob.clone(),
        manifest: base.blob.clone(),
        layers: vec![base.chain_id],
        created: None,
        stored_at: 0,
    };
    let lock = subject.store.exclusive().unwrap();
    subject.store.images.put(&lock, &image).unwrap();
    lock.done().unwrap();
    command.done().unwrap();
    refused();
    assert_eq!(subject.view(&base, |root| read(root, "file")), "x");
    let lock = subject.store.exclusive().unwrap();
    subject.store.images.remove(&lock, &image.key()).unwrap();
    lock.done().unwrap();
    subject.driver.remove_layer(&base.chain_id).unwrap();
}

fn removing(subject: &Subject) {
    let base = subject.layer(None, "base", |root| fs::write(root.join("file"), "x").unwrap());
    subject.driver.prepare("a", Some(&base.chain_id), None).unwrap();
    subject.change("a", |root| fs::write(root.join("file"), "y").unwrap());
    subject.driver.remove("a").unwrap();
    subject.driver.remove("a").unwrap();
    subject.driver.prepare("a", Some(&base.chain_id), None).unwrap();
    assert_eq!(
        subject.look("a", |root| read(root, "file")),
        "x",
        "nothing of the removed one comes back"
    );
    subject.driver.remove("a").unwrap();
    subject.driver.remove_layer(&base.chain_id).unwrap();
    subject.driver.remove_layer(&base.chain_id).unwrap();
    assert_eq!(
        subject
            .driver
            .prepare("a", Some(&base.chain_id), None)
            .unwrap_err()
            .kind(),
        Kind::NotFound
    );
}

/// A command can be killed between a container's record and its snapshot: removing it must not stop there.
fn never_mounted(subject: &Subject) {
    subject.driver.unmount_at("none").unwrap();
    subject.driver.prepare("a", None, None).unwrap();
    subject.driver.unmount_at("a").unwrap();
    let store = &subject.store;
    let lock = store.exclusive().unwrap();
    let going = SnapshotRecord {
        phase: Phase::Deleting,
        ..store.snapshots.get("a").unwrap().unwrap()
    };
    store.snapshots.put(&lock, &going).unwrap();
    lock.done().unwrap();
    subject.driver.unmount_at("a").unwrap();
    subject.driver.remove("a").unwrap();
    assert_eq!(store.snapshots.list().unwrap(), []);
}

/// By hand, or by a restart of the machine: the record must not outlive the mount, nor a view its use.
fn unmounted_by_hand(subject: &Subject) {
    let base = subject.layer(None, "base", |root| fs::write(root.join("file"), "x").unwrap());
    let driver = &subject.driver;
    driver.prepare("active", Some(&base.chain_id), None).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("a mount point");
    fs::create_dir(&target).unwrap();
    for key in ["active", "view"] {
        let work = subject.work();
        if key == "view" {
            driver.view(key, &base.chain_id, Some(&work)).unwrap();
        }
        driver.mount_at(key, &target).unwrap();
        work.done().unwrap();
        driver.recover().unwrap();
        assert_eq!(driver.sweep_mounts().unwrap(), [], "it is mounted");
        assert_eq!(read(&target, "file"), "x");
        assert_eq!(driver.mount_at(key, &target).unwrap_err().kind(), Kind::InUse);
        nix::mount::umount(&target).unwrap();
        let gone = driver.sweep_mounts().unwrap();
        assert_eq!(gone.len(), 1);
        assert_eq!(gone[0].mounted_at.as_deref(), Some(target.as_path()));
        assert_eq!(driver.sweep_mounts().unwrap(), []);
    }
    let left = subject.store.snapshots.list().unwrap();
    assert_eq!(left.len(), 1, "{left:?}");
    driver.mount_at("active", &target).unwrap();
    driver.unmount_at("active").unwrap();
    driver.remove("active").unwrap();
    driver.remove_layer(&base.chain_id).unwrap();
}

/// Otherwise somebody might mount it again in between, and that mount would be forgotten.
fn unmounted_in_one_step(subject: &Subject) {
    let base = subject.layer(None, "base", |root| fs::write(root.join("file"), "x").unwrap());
    subject.driver.prepare("active", Some(&base.chain_id), None).unwrap();
    let folder = tempfile::tempdir().unwrap();
    subject.driver.mount_at("active", folder.path()).unwrap();
    std::thread::scope(|threads| {
        let (tell, told) = std::sync::mpsc::channel();
        let (store, target) = (&subject.store, folder.path());
        threads.spawn(move || {
            let lock = store.exclusive().unwrap();
            tell.send(()).unwrap();
            std::thread::sleep(std::time::Duration::from_millis(100));
            assert_eq!(read(target, "file"), "x", "the lock is not yet free");
            lock.done().unwrap();
        });
        told.recv().unwrap();
        subject.driver.unmount_at("active").unwrap();
    });
    subject.driver.remove("active").unwrap();
    subject.driver.remove_layer(&base.chain_id).unwrap();
}

fn same_layer_twice(subject: &Subject) {
    let first = subject.layer(None, "same", |root| fs::write(root.join("file"), "x").unwrap());
    subject.driver.prepare("again", None, None).unwrap();
    subject.change("again", |root| fs::write(root.join("file"), "x").unwrap());
    let second = subject.driver.commit("again", &subject.describe(b"same")).unwrap();
    assert_eq!(first, second);
    assert!(subject.store.snapshots.list().unwrap().is_empty());
    assert_eq!(subject.view(&first, |root| read(root, "file")), "x");
}

fn captured(subject: &Subject) {
    let base = subject.layer(None, "base", |root| {
        for name in ["kept", "changed"] {
            fs::write(root.join(name), "base").unwrap();
        }
    });
    subject.driver.prepare("live", Some(&base.chain_id), None).unwrap();
    subject.change("live", |root| {
        fs::write(root.join("changed"), "live").unwrap();
        fs::write(root.join("new"), "live").unwrap();
    });
    let work = subject.work();
    subject.driver.capture("live", "copy", Some(&work)).unwrap();
    let blob = tar(&[("changed", "live"), ("new", "live")]);
    let layer = subject.driver.commit("copy", &subject.describe(&blob)).unwrap();
    subject.change("live", |root| fs::write(root.join("changed"), "later").unwrap());
    subject.view(&layer, |root| {
        assert_eq!(names(root), ["changed", "kept", "new"]);
        assert_eq!(
            [read(root, "changed"), read(root, "kept"), read(root, "new")],
            ["live", "base", "live"]
        );
    });
    assert_eq!(subject.look("live", |root| read(root, "changed")), "later");
    work.done().unwrap();
    subject.driver.remove("live").unwrap();
    assert_eq!(subject.view(&layer, |root| read(root, "new")), "live");
}

fn compared(subject: &Subject) {
    let base = subject.layer(None, "base", |root| fs::write(root.join("file"), "old").unwrap());
    subject.driver.prepare("a", Some(&base.chain_id), None).unwrap();
    subject.change("a", |root| fs::write(root.join("file"), "new").unwrap());
    for differ in [Differ::Auto, Differ::Walk] {
        let comparison = subject.driver.compare("a", differ).unwrap();
        let content = |folder: &dyn Folder| {
            let mut content = String::new();
            folder
                .file("file".as_ref())
                .unwrap()
                .read_to_string(&mut content)
                .unwrap();
            content
        };
        assert_eq!(content(comparison.parent().unwrap()), "old");
        assert_eq!(content(comparison.child()), "new");
        if differ == Differ::Walk {
            let written = fs::write(comparison.child.path().join("file"), "x");
            assert!(written.is_err(), "a comparison changes nothing");
        }
        comparison.close().unwrap();
    }
    subject.driver.prepare("b", None, None).unwrap();
    let alone = subject.driver.compare("b", Differ::Auto).unwrap();
    assert!(alone.parent.is_none());
    alone.close().unwrap();
}

fn leases(subject: &Subject) {
    let base = subject.layer(None, "base", |_| ());
    let live = subject.work();
    let dead = subject.work();
    subject
        .driver
        .prepare("of-live", Some(&base.chain_id), Some(&live))
        .unwrap();
    subject
        .driver
        .prepare("of-dead", Some(&base.chain_id), Some(&dead))
        .unwrap();
    subject
        .driver
        .view("view-of-dead", &base.chain_id, Some(&dead))
        .unwrap();
    subject.driver.prepare("of-none", None, None).unwrap();
    drop(dead);
    let done = subject.driver.recover().unwrap();
    assert!(!done.is_empty(), "recovery says what it did");
    let mut left: Vec<_> = subject
        .store
        .snapshots
        .list()
        .unwrap()
        .into_iter()
        .map(|one| one.key)
        .collect();
    left.sort();
    assert_eq!(left, ["of-live", "of-none"]);
    assert_eq!(subject.store.layers.list().unwrap().len(), 1);
    assert_eq!(
        subject.driver.recover().unwrap(),
        Vec::<String>::new(),
        "once is enough"
    );
    live.done().unwrap();
}

fn usage_and_stack(subject: &Subject) {
    let base = subject.layer(None, "base", |root| {
        fs::write(root.join("file"), vec![1; 1 << 20]).unwrap()
    });
    assert!(!subject.driver.layer_stack(&base.chain_id).unwrap().is_empty());
    subject.driver.prepare("a", Some(&base.chain_id), None).unwrap();
    subject.change("a", |root| fs::write(root.join("more"), vec![2; 2 << 20]).unwrap());
    assert!(!subject.driver.stack("a").unwrap().is_empty());
    let layers = Group {
        layers: vec![base.clone()],
        ..Group::default()
    };
    let snapshots = Group {
        snapshots: subject.store.snapshots.list().unwrap(),
        ..Group::default()
    };
    let space = subject.driver.space(&[layers, snapshots]).unwrap();
    let (base, a) = (space.layers[&base.chain_id], space.snapshots["a"]);
    for (usage, least) in [(base, 1 << 20), (a, 2 << 20)] {
        assert!(
            usage.bytes >= least && usage.own >= least && usage.own <= usage.bytes,
            "{usage:?}"
        );
        assert!(usage.exclusive <= usage.bytes, "{usage:?}");
    }
    assert!(a.exclusive >= 2 << 20, "{a:?}");
    assert_eq!(space.groups.len(), 2);
    assert!(space.groups[0] >= base.exclusive, "{space:?}");
    assert_eq!(space.groups[1], a.exclusive, "{space:?}");
}

fn remounted(subject: &Subject) {
    let base = subject.layer(None, "base", |root| fs::write(root.join("file"), "x").unwrap());
    subject.driver.prepare("a", Some(&base.chain_id), None).unwrap();
    for round in 0..3 {
        subject.change("a", |root| {
            assert_eq!(names(root).len(), 1 + round);
            fs::write(root.join(format!("round-{round}")), "x").unwrap();
        });
    }
    assert_eq!(subject.look("a", names).len(), 4);
}

fn deep_stack(subject: &Subject, layers: usize) {
    let mut top = subject.layer(None, "0", |root| fs::write(root.join("counter"), "0").unwrap());
    for number in 1..layers {
        top = subject.layer(Some(top.chain_id), &number.to_string(), |root| {
            assert_eq!(read(root, "counter"), (number - 1).to_string());
            fs::write(root.join("counter"), number.to_string()).unwrap();
            fs::write(root.join(format!("layer-{number}")), "x").unwrap();
        });
    }
    assert_eq!(subject.view(&top, |root| names(root).len()), layers);
}
