//! The thin driver on the simulated pool: the conformance suite, and a fault at every single step.
//!
//! Needs root, because simulated volumes are bind mounts.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "helpers of tests panic and print as tests do"
)]

#[path = "common/conformance.rs"]
mod conformance;

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, Once};

use conformance::Subject;
use plywood::dm::sim::{Crash, Fault, Faults, SimPool};
use plywood::dm::volume::Volumes;
use plywood::error::Result;
use plywood::snapshot::thin::Thin;
use plywood::snapshot::{Access, NewLayer, Snapshotter};
use plywood_store::blob::Descriptor;
use plywood_store::record::{LayerRecord, Place};
use plywood_store::{ChainId, DiffId, Driver, Store};

/// A root whose pool is simulated; opened again as often as wanted.
struct Root {
    folder: tempfile::TempDir,
}

impl Root {
    fn new() -> Self {
        quiet_crashes();
        Self {
            folder: tempfile::tempdir().expect("a folder"),
        }
    }

    fn open(&self, faults: &Arc<Faults>) -> (Arc<Store>, Thin, SimPool) {
        let store = Arc::new(Store::create(&self.folder.path().join("root"), Driver::Thin).expect("a store"));
        let pool = SimPool::open(&self.folder.path().join("sim"), faults.clone()).expect("a pool");
        let driver = Thin::with_pool(store.clone(), Box::new(pool.clone())).expect("a driver");
        (store, driver, pool)
    }
}

/// A simulated crash is no failure to print.
fn quiet_crashes() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        std::panic::set_hook(Box::new(|info| {
            if !info.payload().is::<Crash>() {
                eprintln!("{info}");
            }
        }));
    });
}

#[test]
fn root_the_thin_driver_conforms_on_a_simulated_pool() {
    let make = || {
        let root = Root::new();
        let (store, driver, _) = root.open(&Arc::default());
        Subject {
            store,
            driver: Box::new(driver),
            keep: Box::new(root),
        }
    };
    conformance::run(&make, 40);
}

fn describe(store: &Store, content: &str) -> NewLayer {
    let stored = store.blobs.put(content.as_bytes()).expect("a blob");
    let blob = Descriptor {
        media_type: "tar".into(),
        digest: stored.digest,
        size: stored.size,
    };
    NewLayer {
        diff_id: DiffId(stored.digest),
        blob,
        size: stored.size,
    }
}

/// A base layer, a layer over it, a removed snapshot, a removed layer, a live container: every kind of step.
/// Gives what was acknowledged.
fn story(store: &Store, driver: &dyn Snapshotter, acknowledged: &mut Vec<(LayerRecord, &'static str)>) -> Result<()> {
    let write = |key: &str, content: &str| -> Result<()> {
        let mounted = driver.mount(key, Access::ReadWrite)?;
        std::fs::write(mounted.path().join("file"), content).expect("writing into a volume");
        mounted.close()
    };
    driver.prepare("base", None, None)?;
    write("base", "base")?;
    let base = driver.commit("base", &describe(store, "base"))?;
    acknowledged.push((base.clone(), "base"));
    driver.prepare("live", Some(&base.chain_id), None)?;
    write("live", "top")?;
    let work = store.intents.begin(plywood_store::intent::Plan::Work {
        verb: "commit".into(),
        blobs: vec![],
        layers: vec![],
    })?;
    driver.capture("live", "copy", Some(&work))?;
    let top = driver.commit("copy", &describe(store, "top"))?;
    acknowledged.push((top.clone(), "top"));
    driver.prepare_cow("store", &base.chain_id, None)?;
    write("store", "stored")?;
    driver.capture("store", "folded", Some(&work))?;
    driver.fold("folded", &mut |_, _| ())?;
    let folded = driver.commit("folded", &describe(store, "stored"))?;
    acknowledged.push((folded, "stored"));
    work.done()?;
    driver.remove("store")?;
    driver.prepare("spare", Some(&top.chain_id), None)?;
    driver.remove("spare")?;
    driver.prepare("gone", Some(&base.chain_id), None)?;
    write("gone", "gone")?;
    let gone = driver.commit("gone", &describe(store, "gone"))?;
    driver.remove_layer(&gone.chain_id)?;
    driver.prepare("last", Some(&top.chain_id), None)
}

/// What must hold after any fault, once the root is opened again.
fn check_after(root: &Root, acknowledged: &[(LayerRecord, &'static str)], is_crash: bool, what: &str) {
    let (store, driver, pool) = root.open(&Arc::default());
    if is_crash {
        assert_eq!(
            driver.verify().expect("verify"),
            Vec::<String>::new(),
            "{what}: what is half done is no damage"
        );
    }
    driver.recover().unwrap_or_else(|error| panic!("{what}: {error}"));
    assert_eq!(
        driver.recover().expect("a second time"),
        Vec::<String>::new(),
        "{what}: once is enough"
    );
    assert_eq!(driver.verify().expect("verify"), Vec::<String>::new(), "{what}");
    assert_eq!(
        store.intents.list().expect("intents").len(),
        0,
        "{what}: no intent is left"
    );

    let mut owned: Vec<Place> = store
        .layers
        .list()
        .expect("layers")
        .into_iter()
        .map(|layer| layer.place)
        .collect();
    owned.extend(
        store
            .snapshots
            .list()
            .expect("snapshots")
            .into_iter()
            .map(|one| one.place),
    );
    let golden = store
        .pool
        .get("pool")
        .expect("a record")
        .and_then(|record| record.golden);
    let owned: BTreeSet<u32> = owned
        .into_iter()
        .flat_map(|place| place.volumes())
        .chain(golden)
        .collect();
    let there: BTreeSet<u32> = pool.ids().expect("ids").into_iter().map(|id| id.get()).collect();
    assert_eq!(owned, there, "{what}: the pool has what the records say");
    let locks = std::fs::read_dir(root.folder.path().join("sim/locks")).expect("the locks");
    let locks = locks.map(|lock| lock.expect("a lock").file_name().to_string_lossy().into_owned());
    let locked: BTreeSet<u32> = locks.filter_map(|name| name.parse().ok()).collect();
    assert!(
        locked.is_subset(&owned),
        "{what}: no lock outlives its volume: {locked:?}, {owned:?}"
    );

    for (layer, content) in acknowledged {
        let seen = look(&driver, &layer.chain_id);
        assert_eq!(seen, *content, "{what}: an acknowledged layer");
    }
    // And work goes on.
    driver
        .prepare("after", None, None)
        .unwrap_or_else(|error| panic!("{what}: {error}"));
    driver.remove("after").unwrap_or_else(|error| panic!("{what}: {error}"));
}

fn look(driver: &Thin, chain: &ChainId) -> String {
    driver.view("look", chain, None).expect("a view");
    let mounted = driver.mount("look", Access::ReadOnly).expect("a mount");
    let seen = std::fs::read_to_string(mounted.path().join("file")).expect("the file");
    mounted.close().expect("unmounting");
    driver.remove("look").expect("removing a view");
    seen
}

/// Plays the story again and again, `fault` striking one call later each time, until it strikes no more.
fn at_every_call(fault: Fault) {
    for nth in 1.. {
        let what = format!("{fault:?} at call {nth}");
        let root = Root::new();
        let faults = Arc::new(Faults::at(nth, fault));
        let mut acknowledged = Vec::new();
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            let (store, driver, _) = root.open(&faults);
            story(&store, &driver, &mut acknowledged)
        }));
        if !faults.has_struck() {
            outcome.expect("no crash").expect("no fault, no failure");
            assert!(nth > 20, "the story has more calls than {nth}");
            return;
        }
        let is_crash = matches!(fault, Fault::Crash | Fault::CrashAfter);
        match (is_crash, &outcome) {
            (true, outcome) => {
                assert!(outcome.as_ref().is_err_and(|payload| payload.is::<Crash>()), "{what}");
            }
            (_, outcome) => assert!(outcome.is_ok(), "{what}: no panic"),
        }
        check_after(&root, &acknowledged, is_crash, &what);
    }
}

#[test]
fn root_nothing_is_lost_whatever_call_is_refused() {
    at_every_call(Fault::Fail);
}

#[test]
fn root_nothing_is_lost_whatever_call_fails_after_its_work() {
    at_every_call(Fault::FailAfter);
}

#[test]
fn root_nothing_is_lost_whatever_call_is_not_reached() {
    at_every_call(Fault::Crash);
}

#[test]
fn root_nothing_is_lost_whatever_call_is_the_last() {
    at_every_call(Fault::CrashAfter);
}

#[test]
fn root_nothing_is_lost_whatever_call_returns_a_success_that_is_none() {
    at_every_call(Fault::Lost);
}

#[test]
fn root_a_pool_that_moved_by_itself_is_not_written() {
    let root = Root::new();
    let (_, driver, _) = root.open(&Arc::default());
    driver.prepare("a", None, None).expect("a snapshot");
    let transaction = root.folder.path().join("sim/transaction");
    std::fs::write(&transaction, "77").expect("moving the pool");
    let error = driver.prepare("b", None, None).expect_err("refused");
    let text = error.to_string();
    assert!(text.contains("77") && text.contains("records say 2"), "{text}");
    assert!(error.hint().is_some_and(|hint| hint.contains("plywood check")));
    assert_eq!(driver.verify().expect("findings").len(), 1);
    std::fs::write(&transaction, "2").expect("moving it back");
    driver.prepare("b", None, None).expect("allowed again");
}

#[test]
fn root_two_at_a_time_both_succeed() {
    let root = Root::new();
    drop(root.open(&Arc::default()));
    std::thread::scope(|threads| {
        for worker in 0..4 {
            let root = &root;
            threads.spawn(move || {
                let (store, driver, _) = root.open(&Arc::default());
                for round in 0..5 {
                    let key = format!("w{worker}-{round}");
                    driver.prepare(&key, None, None).expect("prepare");
                    let layer = driver.commit(&key, &describe(&store, &key)).expect("commit");
                    driver.recover().expect("recover");
                    driver.prepare(&key, Some(&layer.chain_id), None).expect("prepare");
                    driver.remove(&key).expect("remove");
                }
            });
        }
    });
    let (store, driver, _) = root.open(&Arc::default());
    assert_eq!(store.layers.list().expect("layers").len(), 20);
    assert_eq!(driver.verify().expect("findings"), Vec::<String>::new());
}

#[test]
fn root_a_volume_that_no_record_knows_is_passed_over() {
    let root = Root::new();
    let (_, driver, _) = root.open(&Arc::default());
    let stranger = root.folder.path().join("sim/volumes/2");
    std::fs::create_dir_all(&stranger).expect("a stranger");
    std::fs::write(stranger.join("precious"), "x").expect("content");
    driver.prepare("a", None, None).expect("a snapshot");
    assert!(
        Path::new(&stranger).join("precious").exists(),
        "it is not ours to delete"
    );
    assert_eq!(
        driver.verify().expect("findings"),
        ["the pool has a volume 2 that belongs to nothing"]
    );
}
