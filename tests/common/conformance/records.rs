//! Keys, names and parents: what is taken, what is in use, what is removed and what it costs.

use std::fs;

use plywood::error::Kind;
use plywood::snapshot::{Access, Group};
use plywood_store::record::{ImageRecord, Record};
use plywood_store::{ChainId, Digest, ImageId};

use super::{Subject, names, read};

pub(super) fn layer_record(subject: &Subject) {
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

pub(super) fn keys(subject: &Subject) {
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

pub(super) fn missing_parents(subject: &Subject) {
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

pub(super) fn layer_in_use(subject: &Subject) {
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
pub(super) fn layer_promised(subject: &Subject) {
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

pub(super) fn removing(subject: &Subject) {
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

pub(super) fn same_layer_twice(subject: &Subject) {
    let first = subject.layer(None, "same", |root| fs::write(root.join("file"), "x").unwrap());
    subject.driver.prepare("again", None, None).unwrap();
    subject.change("again", |root| fs::write(root.join("file"), "x").unwrap());
    let second = subject.driver.commit("again", &subject.describe(b"same")).unwrap();
    assert_eq!(first, second);
    assert!(subject.store.snapshots.list().unwrap().is_empty());
    assert_eq!(subject.view(&first, |root| read(root, "file")), "x");
}

pub(super) fn leases(subject: &Subject) {
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

pub(super) fn usage_and_stack(subject: &Subject) {
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
