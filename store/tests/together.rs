//! Many at once: two processes of 16 threads each publish images, while others
//! collect garbage and look things up. Nobody fails, nothing acknowledged is lost.

#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]

use std::io::Write;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::atomic::{AtomicBool, Ordering};

use plywood_store::blob::Descriptor;
use plywood_store::check::{Depth, check};
use plywood_store::intent::Plan;
use plywood_store::record::{ImageRecord, LayerRecord, NameRecord, Phase, Place, Record};
use plywood_store::{ChainId, DiffId, Driver, ImageId, Store, gc};

const CHILD: &str = "PLYWOOD_TEST_TOGETHER_ROOT";
const THREADS: u32 = 16;
const ROUNDS: u32 = 12;

/// Publishes an image as an import does: long work without the lock, pins
/// before names, one short exclusive step. A third of the layers is everybody's.
fn publish(store: &Store, name: &str, round: u32) {
    let plan = Plan::Work {
        verb: "import".into(),
        blobs: Vec::new(),
        layers: Vec::new(),
    };
    let mut intent = store.intents.begin(plan).unwrap();
    let mut blob = |content: &str| {
        let mut writer = store.blobs.writer().unwrap();
        writer.write_all(content.as_bytes()).unwrap();
        let stored = writer.finish_pinned(&mut intent, None).unwrap();
        Descriptor {
            media_type: "test".into(),
            digest: stored.digest,
            size: stored.size,
        }
    };
    let who = if round.is_multiple_of(3) { "everybody" } else { name };
    let tar = blob(&format!("layer of {who}, {}", round % 5));
    let config = blob(&format!("config of {who}, {round}"));
    let manifest = blob(&format!(
        r#"{{"layers":[{{"digest":"{}"}}],"of":"{name} {round}"}}"#,
        tar.digest
    ));
    let diff_id = DiffId(tar.digest);
    let chain_id = ChainId::new(None, diff_id);
    intent.pin_layer(chain_id).unwrap();

    let lock = store.exclusive().unwrap();
    let layer = LayerRecord {
        chain_id,
        diff_id,
        parent: None,
        size: tar.size,
        blob: tar,
        place: Place::Folder("x".into()),
        phase: Phase::Ready,
    };
    store.layers.put(&lock, &layer).unwrap();
    let image = ImageRecord {
        id: ImageId(config.digest),
        config,
        manifest,
        layers: vec![chain_id],
        created: None,
        stored_at: 0,
    };
    // As an import does: what is there already stays, for who reads it just now.
    if store.images.get(&image.key()).unwrap().is_none() {
        store.images.put(&lock, &image).unwrap();
    }
    let name = NameRecord {
        name: name.parse().unwrap(),
        image: image.id,
    };
    store.names.put(&lock, &name).unwrap();
    lock.done().unwrap();
    intent.done().unwrap();
}

fn collect(store: &Store) {
    let lock = store.exclusive().unwrap();
    let garbage = gc::mark(store).unwrap();
    gc::condemn(store, &lock, &garbage).unwrap();
    // What a driver does with the condemned.
    for layer in gc::mark(store).unwrap().layers {
        store.layers.remove(&lock, &layer.key()).unwrap();
    }
    for dead in store.intents.dead().unwrap() {
        dead.done().unwrap();
    }
    lock.done().unwrap();
}

fn work(root: &Path, process: u32) {
    let done = AtomicBool::new(false);
    std::thread::scope(|threads| {
        let workers: Vec<_> = (0..THREADS)
            .map(|thread| {
                threads.spawn(move || {
                    let store = Store::create(root, Driver::Overlay).unwrap();
                    let name = format!("image-{process}-{thread}");
                    for round in 0..ROUNDS {
                        publish(&store, &name, round);
                        let image = store.find_image(&name).unwrap();
                        assert!(
                            store
                                .names_of(&image.id)
                                .unwrap()
                                .contains(&format!("{name}:latest").parse().unwrap())
                        );
                        gc::blobs_of_image(&store, &image).unwrap();
                    }
                })
            })
            .collect();
        threads.spawn(|| {
            let store = Store::create(root, Driver::Overlay).unwrap();
            while !done.load(Ordering::SeqCst) {
                collect(&store);
                plywood_store::index::Index::open(&store).unwrap();
            }
        });
        let failed: Vec<_> = workers.into_iter().filter_map(|worker| worker.join().err()).collect();
        done.store(true, Ordering::SeqCst);
        assert!(failed.is_empty(), "{} threads failed", failed.len());
    });
}

/// One process. Without its variable this is no test, and passes.
#[test]
fn child() {
    if let Some(root) = std::env::var_os(CHILD) {
        work(Path::new(&root), std::process::id());
    }
}

fn start(root: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["child", "--exact", "--nocapture"])
        .env(CHILD, root)
        .spawn()
        .unwrap()
}

#[test]
fn a_root_that_is_just_being_made_is_not_taken_for_a_damaged_one() {
    let folder = tempfile::tempdir_in("/dev/shm").unwrap();
    for round in 0..300 {
        let root = folder.path().join(round.to_string());
        std::thread::scope(|threads| {
            threads.spawn(|| while Store::open(&root).unwrap().is_none() {});
            publish(&Store::create(&root, Driver::Overlay).unwrap(), "first", 1);
        });
    }
}

#[test]
fn two_processes_of_many_threads_all_succeed() {
    let folder = tempfile::tempdir_in("/dev/shm").unwrap();
    let root = folder.path().join("root");
    let mut processes = [start(&root), start(&root)];
    for process in &mut processes {
        assert!(process.wait().unwrap().success());
    }
    let store = Store::open(&root).unwrap().unwrap();
    collect(&store);
    let report = check(&store, Depth::default(), &|_| {}).unwrap();
    assert!(report.findings.is_empty(), "{:?}", report.findings);
    assert_eq!(store.names.keys().unwrap().len(), 2 * 16);
    assert!(store.intents.list().unwrap().is_empty());
    assert_eq!(std::fs::read_dir(root.join("tmp")).unwrap().count(), 0);
}
