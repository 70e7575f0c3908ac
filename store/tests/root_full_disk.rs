//! On a full disk nothing half done stays behind, and what was there is untouched. Needs root, for a tiny tmpfs.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests panic as tests do"
)]

use std::io::Write;
use std::path::{Path, PathBuf};

use plywood_store::blob::Descriptor;
use plywood_store::check::{Depth, check};
use plywood_store::index::Index;
use plywood_store::intent::Plan;
use plywood_store::lock::Exclusive;
use plywood_store::record::{LayerRecord, NameRecord, Phase, Place, Record};
use plywood_store::{ChainId, DiffId, Digest, Driver, ImageId, Kind, Store, gc};
use rustix::mount::{MountFlags, UnmountFlags};

/// A file system of its own with this many bytes, unmounted when dropped.
struct Tiny {
    path: PathBuf,
    _folder: tempfile::TempDir,
}

impl Tiny {
    fn new(bytes: u32) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_owned();
        let options = std::ffi::CString::new(format!("size={bytes},mode=0700")).unwrap();
        rustix::mount::mount("tmpfs", &path, "tmpfs", MountFlags::NOSUID, options.as_c_str())
            .expect("mounting a tmpfs needs root");
        Self { path, _folder: folder }
    }
}

impl Drop for Tiny {
    fn drop(&mut self) {
        rustix::mount::unmount(&self.path, UnmountFlags::DETACH).unwrap();
    }
}

/// Fills the disk to the last byte.
fn fill(at: &Path) {
    let mut file = std::fs::File::create(at).unwrap();
    for size in [4096, 512, 1] {
        while file.write_all(&vec![1; size]).is_ok() {}
    }
}

fn name(number: u32) -> NameRecord {
    NameRecord {
        name: "moving".parse().unwrap(),
        image: ImageId(Digest::of(&number.to_le_bytes())),
    }
}

/// A layer that nothing needs.
fn layer(store: &Store, lock: &Exclusive) -> LayerRecord {
    let blob = store.blobs.put(b"layer").unwrap();
    let diff_id = DiffId(blob.digest);
    let layer = LayerRecord {
        chain_id: ChainId::new(None, diff_id),
        diff_id,
        parent: None,
        blob: Descriptor {
            media_type: "test".into(),
            digest: blob.digest,
            size: blob.size,
        },
        size: blob.size,
        place: Place::Folder("x".into()),
        phase: Phase::Ready,
    };
    store.layers.put(lock, &layer).unwrap();
    layer
}

#[test]
fn root_a_full_disk_refuses_and_keeps_what_was_there() {
    let disk = Tiny::new(2 << 20);
    let root = disk.path.join("root");
    let store = Store::create(&root, Driver::Overlay).unwrap();
    let kept = store.blobs.put(b"kept").unwrap();
    let lock = store.exclusive().unwrap();
    store.names.put(&lock, &name(1)).unwrap();

    let mut writer = store.blobs.writer().unwrap();
    let failed = std::iter::repeat_with(|| writer.write_all(&[7; 1 << 16])).find_map(Result::err);
    assert_eq!(
        failed.unwrap().raw_os_error(),
        Some(rustix::io::Errno::NOSPC.raw_os_error())
    );
    drop(writer);
    assert_eq!(std::fs::read_dir(root.join("tmp")).unwrap().count(), 0);
    let put = store.blobs.put(&[8; 3 << 20]).unwrap_err();
    assert_eq!(put.kind(), Kind::NoSpace);
    assert_eq!(store.blobs.list().unwrap(), [(kept.digest, 4)]);

    let going = layer(&store, &lock);
    Index::rebuild(&store).unwrap();
    fill(&disk.path.join("filler"));
    // A note that finds no room costs the index its mark, whose block may be room enough for a record.
    let _ = store.layers.put(&lock, &going);
    fill(&disk.path.join("another"));
    assert_eq!(store.names.put(&lock, &name(2)).unwrap_err().kind(), Kind::NoSpace);
    assert_eq!(store.names.get(&name(1).key()).unwrap(), Some(name(1)));
    let plan = Plan::Work {
        verb: "test".into(),
        blobs: Vec::new(),
        layers: Vec::new(),
    };
    assert_eq!(store.intents.begin(plan).unwrap_err().kind(), Kind::NoSpace);
    assert!(store.intents.list().unwrap().is_empty());
    assert_eq!(std::fs::read_dir(root.join("tmp")).unwrap().count(), 0);

    // Collecting garbage works on a full disk: it is the way out of one.
    let garbage = gc::mark(&store).unwrap();
    assert_eq!(garbage.blobs.len(), 2);
    assert_eq!(garbage.layers, [going]);
    gc::condemn(&store, &lock, &garbage).unwrap();
    assert!(store.blobs.list().unwrap().is_empty());
    for layer in gc::mark(&store).unwrap().layers {
        store.layers.remove(&lock, &layer.key()).unwrap();
    }

    std::fs::remove_file(disk.path.join("filler")).unwrap();
    std::fs::remove_file(disk.path.join("another")).unwrap();
    store.names.put(&lock, &name(2)).unwrap();
    lock.done().unwrap();
    let report = check(&store, Depth { data: true }, &|_| {}).unwrap();
    assert_eq!(
        report.findings.len(),
        1,
        "only that the name's image is not there: {:?}",
        report.findings
    );
}

#[test]
fn root_a_root_that_found_no_room_is_made_when_there_is_some() {
    let disk = Tiny::new(1 << 16);
    let root = disk.path.join("root");
    fill(&disk.path.join("filler"));
    let error = Store::create(&root, Driver::Overlay).unwrap_err();
    assert_eq!(error.kind(), Kind::NoSpace, "{error:?}");
    assert!(Store::open(&root).unwrap().is_none());
    std::fs::remove_file(disk.path.join("filler")).unwrap();
    Store::create(&root, Driver::Overlay).unwrap();
}
