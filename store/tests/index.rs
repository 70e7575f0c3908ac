//! The index is never the truth: whatever becomes of it, the answers stay those of the records.

#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]

use std::fs;
use std::path::PathBuf;

use plywood_store::check::{Depth, check};
use plywood_store::index::{Index, WORTH_IT};
use plywood_store::record::{ContainerRecord, ContainerState, NameRecord, Record, Relation};
use plywood_store::{Digest, Driver, ImageId, Kind, Store};

/// Spoils a file's content.
type Damage = fn(Vec<u8>) -> Vec<u8>;

struct Fixture {
    store: Store,
    folder: tempfile::TempDir,
}

fn image(number: usize) -> ImageId {
    ImageId(Digest::of(number.to_string().as_bytes()))
}

fn name(number: usize, image: ImageId) -> NameRecord {
    NameRecord {
        name: format!("name-{number}").parse().unwrap(),
        image,
    }
}

/// A root with more names than it is worth to read.
fn fixture() -> Fixture {
    let folder = tempfile::tempdir_in("/dev/shm").unwrap();
    let store = Store::create(folder.path(), Driver::Overlay).unwrap();
    let lock = store.exclusive().unwrap();
    for number in 0..WORTH_IT + 10 {
        store.names.put(&lock, &name(number, image(number % 7))).unwrap();
    }
    lock.done().unwrap();
    Fixture { store, folder }
}

impl Fixture {
    fn index(&self) -> PathBuf {
        self.folder.path().join("index")
    }

    /// The names of an image, by the index where it helps, are those of the records.
    fn answers_are_right(&self, why: &str) {
        for number in 0..8 {
            let mut expected: Vec<_> = self
                .store
                .names
                .list()
                .unwrap()
                .into_iter()
                .filter(|name| name.image == image(number))
                .map(|name| name.name)
                .collect();
            expected.sort();
            let found = self.store.names_of(&image(number)).unwrap();
            assert_eq!(found, expected, "{why}");
        }
    }

    fn move_a_name(&self, number: usize, to: usize) {
        let lock = self.store.exclusive().unwrap();
        self.store.names.put(&lock, &name(number, image(to))).unwrap();
        lock.done().unwrap();
    }
}

#[test]
fn the_index_follows_the_records() {
    let it = fixture();
    assert!(!it.index().exists());
    it.answers_are_right("first");
    assert!(it.index().exists());
    it.move_a_name(1, 2);
    it.answers_are_right("moved");
    let lock = it.store.exclusive().unwrap();
    for number in 0..5 {
        let key = name(number, image(0)).key();
        assert!(it.store.names.remove(&lock, &key).unwrap());
    }
    // Also for one that holds the lock, before it lets go.
    it.answers_are_right("removed");
    drop(lock);
    it.answers_are_right("let go");
    assert!(!it.folder.path().join("index.pending").exists());
}

#[test]
fn notes_that_a_power_cut_ate_are_missed_though_others_follow() {
    for left in [None, Some("")] {
        let it = fixture();
        it.answers_are_right("first");
        it.move_a_name(1, 2);
        // The next boot: of the notes nothing is left, or a file without content.
        let notes = it.folder.path().join("index.pending");
        match left {
            None => fs::remove_file(notes).unwrap(),
            Some(content) => fs::write(notes, content).unwrap(),
        }
        fs::write(it.index().join("whole"), "another boot").unwrap();
        it.move_a_name(3, 4);
        it.answers_are_right("after a power cut");
        it.move_a_name(1, 3);
        it.answers_are_right("and later");
    }
}

#[test]
fn losing_the_index_loses_nothing() {
    let it = fixture();
    it.answers_are_right("first");
    fs::remove_dir_all(it.index()).unwrap();
    it.move_a_name(3, 4);
    it.answers_are_right("removed");
}

#[test]
fn a_damaged_index_is_made_again() {
    let it = fixture();
    it.answers_are_right("first");
    let files = || -> Vec<PathBuf> {
        let entries = fs::read_dir(it.index()).unwrap();
        let paths = entries.map(|entry| entry.unwrap().path());
        paths.filter(|path| path.is_file()).collect()
    };
    let names: Vec<_> = files()
        .iter()
        .map(|path| path.file_name().unwrap().to_owned())
        .collect();
    assert!(names.iter().any(|name| name == "db"), "{names:?}");
    let damages: [(&str, Damage); 5] = [
        ("empty", |_| Vec::new()),
        ("half", |old| old[..old.len() / 2].to_vec()),
        ("garbage", |old| old.iter().map(|_| 0xa5).collect()),
        ("a flipped byte in the middle", |mut old| {
            let middle = old.len() / 2;
            old[middle] ^= 0x55;
            old
        }),
        ("a flipped first byte", |mut old| {
            if let Some(first) = old.first_mut() {
                *first ^= 0xff;
            }
            old
        }),
    ];
    for (why, damage) in damages {
        for which in ["db", "conf", "snap"] {
            for path in files() {
                let name = path.file_name().unwrap().to_str().unwrap();
                if name.starts_with(which) {
                    let old = fs::read(&path).unwrap();
                    fs::write(&path, damage(old)).unwrap();
                    it.answers_are_right(&format!("{name}: {why}"));
                }
            }
        }
    }
}

#[test]
fn an_unfinished_snapshot_of_sled_is_swept() {
    let it = fixture();
    it.answers_are_right("first");
    let left = it.index().join("snap.FFFFFFFFFFFFFFF0.generating");
    fs::write(&left, "").unwrap();
    it.answers_are_right("an empty leftover");
    assert!(!left.exists());
}

#[test]
fn records_that_change_without_a_note_are_noticed() {
    let it = fixture();
    it.answers_are_right("first");
    // As a restored backup does it, or notes that a power cut ate.
    let there = it.store.names.path(&name(0, image(0)).key()).unwrap();
    fs::remove_file(there).unwrap();
    it.answers_are_right("removed behind its back");
    it.move_a_name(1, 5);
    fs::remove_file(it.folder.path().join("index.pending")).unwrap();
    it.answers_are_right("the notes are lost");
    it.move_a_name(1, 6);
    fs::write(it.folder.path().join("index.pending"), "another-boot\n").unwrap();
    it.answers_are_right("the notes are of another boot");
    it.move_a_name(1, 3);
    fs::write(it.folder.path().join("index.pending"), [0xff; 100]).unwrap();
    it.answers_are_right("the notes are garbage");
}

#[test]
fn check_finds_an_index_that_errs_and_rebuild_mends_it() {
    let it = fixture();
    it.answers_are_right("first");
    let errs = || {
        let report = check(&it.store, Depth::default(), &|_| {}).unwrap();
        let about = report.findings.iter().map(ToString::to_string);
        about.filter(|finding| finding.contains("index")).count()
    };
    assert_eq!(errs(), 0, "the names' images are not there, but the index is right");
    let db = sled::open(it.index()).unwrap();
    let (link, _) = db.scan_prefix("link/").next().unwrap().unwrap();
    db.remove(link).unwrap();
    db.insert("link/image/x\0names/y", &[]).unwrap();
    drop(db);
    assert_eq!(errs(), 1);
    Index::rebuild(&it.store).unwrap();
    assert_eq!(errs(), 0);
}

#[test]
fn a_busy_index_is_done_without() {
    let it = fixture();
    it.answers_are_right("first");
    let holder = Index::open(&it.store).unwrap();
    let error = Index::open(&it.store).unwrap_err();
    assert_eq!(error.kind(), Kind::InUse);
    it.store.names_of(&image(0)).unwrap();
    drop(holder);
    it.answers_are_right("free again");
}

#[test]
fn containers_are_found_by_name_through_the_index() {
    let folder = tempfile::tempdir_in("/dev/shm").unwrap();
    let store = Store::create(folder.path(), Driver::Overlay).unwrap();
    let lock = store.exclusive().unwrap();
    for number in 0..WORTH_IT {
        let container = ContainerRecord {
            id: Digest::of(format!("container {number}").as_bytes()).hex(),
            name: format!("web-{number}"),
            image: image(0),
            image_name: "base".into(),
            created_at: 0,
            state: ContainerState::Created,
            spec: serde_json::Value::Null,
            network: None,
        };
        store.containers.put(&lock, &container).unwrap();
    }
    lock.done().unwrap();
    assert_eq!(store.find_container("web-17").unwrap().name, "web-17");
    assert_eq!(store.containers_of(&image(0)).unwrap().len(), WORTH_IT);
    let users = Index::open(&store).unwrap().users(Relation::Named, "web-17").unwrap();
    assert_eq!(users.len(), 1);
    let id = store.find_container("web-17").unwrap().id;
    assert_eq!(store.find_container(&id[..20]).unwrap().name, "web-17");
    let error = store.find_container("web-l7").unwrap_err();
    assert!(error.hint().unwrap().contains("web-"), "{error:?}");
}
