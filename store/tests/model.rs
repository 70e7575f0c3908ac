//! The store against a map in memory: random operations, the same answers.

#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]

use std::collections::BTreeMap;

use plywood_store::blob::Descriptor;
use plywood_store::index::Index;
use plywood_store::record::{ImageRecord, NameRecord, name_key};
use plywood_store::{Digest, Driver, ImageId, Kind, Reference, Store};
use proptest::prelude::*;

#[derive(Debug, Clone)]
enum Operation {
    Image(u8),
    Name(u8, u8),
    Unname(u8),
    Unimage(u8),
    Blob(Vec<u8>),
    Reopen,
    OpenIndex,
    LoseIndex,
}

fn operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        3 => (0..12_u8).prop_map(Operation::Image),
        4 => (0..9_u8, 0..12_u8).prop_map(|(name, image)| Operation::Name(name, image)),
        2 => (0..9_u8).prop_map(Operation::Unname),
        1 => (0..12_u8).prop_map(Operation::Unimage),
        2 => proptest::collection::vec(any::<u8>(), 0..2000).prop_map(Operation::Blob),
        1 => Just(Operation::Reopen),
        1 => Just(Operation::OpenIndex),
        1 => Just(Operation::LoseIndex),
    ]
}

fn image(number: u8) -> ImageRecord {
    let digest = Digest::of(&[number]);
    let blob = Descriptor {
        media_type: "test".into(),
        digest,
        size: 1,
    };
    ImageRecord {
        id: ImageId(digest),
        config: blob.clone(),
        manifest: blob,
        layers: Vec::new(),
        created: None,
        stored_at: i64::from(number),
    }
}

fn name(number: u8) -> Reference {
    format!("registry.example.org/a/name-{number}:v{}", number % 2)
        .parse()
        .unwrap()
}

#[derive(Debug, Default)]
struct Model {
    images: BTreeMap<ImageId, ImageRecord>,
    names: BTreeMap<Reference, ImageId>,
    blobs: BTreeMap<Digest, Vec<u8>>,
}

fn run(operations: Vec<Operation>) {
    let folder = tempfile::tempdir_in("/dev/shm").unwrap();
    let mut store = Store::create(folder.path(), Driver::Thin).unwrap();
    let mut model = Model::default();
    for operation in operations {
        apply(&mut store, &mut model, operation, folder.path());
    }
    compare(&store, &model);
    // Nothing of it was in memory only.
    compare(&Store::open(folder.path()).unwrap().unwrap(), &model);
}

fn apply(store: &mut Store, model: &mut Model, operation: Operation, root: &std::path::Path) {
    let lock = store.exclusive().unwrap();
    match operation {
        Operation::Image(number) => {
            store.images.put(&lock, &image(number)).unwrap();
            model.images.insert(image(number).id, image(number));
        }
        Operation::Name(number, of) => {
            let record = NameRecord {
                name: name(number),
                image: image(of).id,
            };
            store.names.put(&lock, &record).unwrap();
            model.names.insert(name(number), image(of).id);
        }
        Operation::Unname(number) => {
            let removed = store.names.remove(&lock, &name_key(&name(number))).unwrap();
            assert_eq!(removed, model.names.remove(&name(number)).is_some());
        }
        Operation::Unimage(number) => {
            let id = image(number).id;
            let removed = store.images.remove(&lock, &id.0.hex()).unwrap();
            assert_eq!(removed, model.images.remove(&id).is_some());
        }
        Operation::Blob(content) => {
            let stored = store.blobs.put(&content).unwrap();
            let new = model.blobs.insert(stored.digest, content).is_none();
            assert_eq!(stored.created, new);
        }
        Operation::Reopen => {
            drop(lock);
            *store = Store::open(root).unwrap().unwrap();
        }
        Operation::OpenIndex => drop(Index::open(store).unwrap()),
        Operation::LoseIndex => drop(std::fs::remove_dir_all(root.join("index"))),
    }
}

fn compare(store: &Store, model: &Model) {
    let images: Vec<_> = store.images.list().unwrap();
    assert_eq!(images.len(), model.images.len());
    assert!(images.iter().all(|image| model.images.get(&image.id) == Some(image)));
    let blobs = store.blobs.list().unwrap();
    assert_eq!(blobs.len(), model.blobs.len());
    for (digest, size) in blobs {
        assert_eq!(store.blobs.read(&digest, size).unwrap(), model.blobs[&digest]);
    }
    for number in 0..9 {
        let found = store.find_image(&name(number).to_string());
        match model.names.get(&name(number)) {
            Some(id) if model.images.contains_key(id) => assert_eq!(found.unwrap().id, *id),
            Some(_) => assert_eq!(found.unwrap_err().kind(), Kind::Corrupt),
            None => assert_eq!(found.unwrap_err().kind(), Kind::NotFound),
        }
    }
    for number in 0..12 {
        let id = image(number).id;
        let there = model.images.contains_key(&id);
        for text in [id.to_string(), id.0.hex(), id.0.hex()[..8].to_owned()] {
            assert_eq!(store.find_image(&text).is_ok(), there, "{text}");
        }
        let names: Vec<_> = model
            .names
            .iter()
            .filter(|(_, of)| **of == id)
            .map(|(name, _)| name.clone())
            .collect();
        assert_eq!(store.names_of(&id).unwrap(), names);
        let indexed = Index::open(store).unwrap();
        let users = indexed
            .users(plywood_store::record::Relation::Image, &id.0.hex())
            .unwrap();
        assert_eq!(users.len(), names.len());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_store_is_a_map(operations in proptest::collection::vec(operation(), 1..60)) {
        run(operations);
    }
}
