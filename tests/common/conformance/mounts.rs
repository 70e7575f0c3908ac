//! Mounts, and what is made of a snapshot while it may be mounted: views, captures, comparisons.

use std::fs;
use std::io::Read as _;

use plywood::error::Kind;
use plywood::snapshot::{Access, Differ};
use plywood_store::layer::folder::Folder;
use plywood_store::record::{Phase, SnapshotRecord};

use super::{Subject, names, read};

pub(super) fn view_is_read_only(subject: &Subject) {
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

pub(super) fn views_share(subject: &Subject) {
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

/// A command can be killed between a container's record and its snapshot: removing it must not stop there.
pub(super) fn never_mounted(subject: &Subject) {
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
pub(super) fn unmounted_by_hand(subject: &Subject) {
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
pub(super) fn unmounted_in_one_step(subject: &Subject) {
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

pub(super) fn remounted(subject: &Subject) {
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

pub(super) fn captured(subject: &Subject) {
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

pub(super) fn compared(subject: &Subject) {
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
