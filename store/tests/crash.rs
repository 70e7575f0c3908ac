//! A process that is killed at any moment has done a whole number of steps, and
//! at least those that it had acknowledged.
//!
//! The test runs itself as a child that works through an endless list of
//! operations and acknowledges each one on its stdout; the parent kills it
//! after a random time, looks at what is there, and lets the next child go on.

#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use plywood_store::check::{Depth, check};
use plywood_store::index::Index;
use plywood_store::intent::Plan;
use plywood_store::record::{NameRecord, Record, Relation};
use plywood_store::{Digest, Driver, ImageId, Store, gc};

const CHILD: &str = "PLYWOOD_TEST_CRASH_ROOT";
const FROM: &str = "PLYWOOD_TEST_CRASH_FROM";
const ROUNDS: u64 = 60;
/// Names that the operations move around.
const NAMES: u64 = 7;

fn content(step: u64) -> Vec<u8> {
    format!("content {step} ")
        .repeat(usize::try_from(step % 500).unwrap() + 1)
        .into_bytes()
}

fn name(step: u64) -> NameRecord {
    NameRecord {
        name: format!("name-{}", step % NAMES).parse().unwrap(),
        image: ImageId(Digest::of(&content(step))),
    }
}

/// One operation: a blob under an intent, then a name that stands for it; every third name goes again.
fn operate(store: &Store, step: u64) {
    let plan = Plan::Work {
        verb: "test".into(),
        blobs: Vec::new(),
        layers: Vec::new(),
    };
    let mut intent = store.intents.begin(plan).unwrap();
    let mut writer = store.blobs.writer().unwrap();
    writer.write_all(&content(step)).unwrap();
    let stored = writer.finish_pinned(&mut intent, None).unwrap();
    assert_eq!(stored.digest, Digest::of(&content(step)));
    let lock = store.exclusive().unwrap();
    store.names.put(&lock, &name(step)).unwrap();
    if step.is_multiple_of(3) {
        store.names.remove(&lock, &name(step).key()).unwrap();
    }
    lock.done().unwrap();
    intent.done().unwrap();
    // A kill inside sled's own opening is the one that it takes worst.
    if step.is_multiple_of(16) {
        let users = Index::open(store)
            .unwrap()
            .users(Relation::Image, &name(step).image.0.hex());
        assert_eq!(users.unwrap().len(), usize::from(!step.is_multiple_of(3)));
    }
}

/// The child's whole life. Without its variable this is no test, and passes.
#[test]
fn child() {
    let Some(root) = std::env::var_os(CHILD) else {
        return;
    };
    let from: u64 = std::env::var(FROM).unwrap().parse().unwrap();
    let store = Store::create(Path::new(&root), Driver::Overlay).unwrap();
    let mut out = std::io::stdout();
    for step in from.. {
        operate(&store, step);
        if writeln!(out, "\nacknowledged {step}")
            .and_then(|()| out.flush())
            .is_err()
        {
            return;
        }
    }
}

/// Runs a child for a while; the first step that it did not acknowledge.
fn run_and_kill(root: &Path, from: u64, after: Duration) -> u64 {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["child", "--exact", "--nocapture", "--test-threads=1"])
        .env(CHILD, root)
        .env(FROM, from.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    std::thread::sleep(after);
    child.kill().unwrap();
    let out = BufReader::new(child.stdout.take().unwrap());
    let acknowledged = out
        .lines()
        .map_while(Result::ok)
        .filter_map(|line| line.strip_prefix("acknowledged ")?.parse::<u64>().ok())
        .last();
    child.wait().unwrap();
    acknowledged.map_or(from, |step| step + 1)
}

/// The steps that can have touched name `slot` last, when `next` was not acknowledged.
fn verify(store: &Store, next: u64) {
    for step in next.saturating_sub(300)..next {
        let digest = Digest::of(&content(step));
        assert_eq!(
            store.blobs.read(&digest, 1 << 20).unwrap(),
            content(step),
            "step {step}"
        );
    }
    for slot in 0..NAMES {
        let found = store.names.get(&name(slot).key()).unwrap().map(|name| name.image);
        let after = |step: Option<u64>| step.filter(|step| !step.is_multiple_of(3)).map(|step| name(step).image);
        let last = (0..next).rev().find(|step| step % NAMES == slot);
        let mut allowed = vec![after(last)];
        if next % NAMES == slot {
            allowed.extend([Some(name(next).image), after(Some(next))]);
        }
        assert!(allowed.contains(&found), "name-{slot} before step {next}: {found:?}");
    }
    let report = check(store, Depth::default(), &|_| {}).unwrap();
    let strange = report.findings.iter().map(ToString::to_string);
    // The images are not there on purpose: names point at blobs here.
    let strange: Vec<_> = strange
        .filter(|finding| !finding.contains("stands for image"))
        .collect();
    assert!(strange.is_empty(), "{strange:?}");
}

fn store_at(root: &Path) -> Store {
    Store::open(root).unwrap().unwrap()
}

#[test]
fn what_was_acknowledged_survives_a_kill() {
    let folder = tempfile::tempdir_in("/dev/shm").unwrap();
    let root = folder.path().join("root");
    let mut next = 0;
    let mut killed_in_a_step = 0;
    for round in 0..ROUNDS {
        let after = Duration::from_micros(2_000 + (round * 7_919) % 40_000);
        next = run_and_kill(&root, next, after);
        let Some(store) = Store::open(&root).unwrap() else {
            assert_eq!(next, 0);
            continue;
        };
        verify(&store, next);
        let lock = store.exclusive().unwrap();
        for dead in store.intents.dead().unwrap() {
            killed_in_a_step += 1;
            dead.done().unwrap();
        }
        let garbage = gc::mark(&store).unwrap();
        let only_temporary = gc::Garbage {
            temporary: garbage.temporary,
            ..gc::Garbage::default()
        };
        gc::condemn(&store, &lock, &only_temporary).unwrap();
        lock.done().unwrap();
        assert_eq!(std::fs::read_dir(root.join("tmp")).unwrap().count(), 0);
    }
    for (digest, size) in store_at(&root).blobs.list().unwrap() {
        store_at(&root).blobs.read(&digest, size).unwrap();
    }
    println!("{next} steps, {killed_in_a_step} kills in the middle of one");
    assert!(
        next > ROUNDS,
        "only {next} steps: the kills come too early to show anything"
    );
}

#[test]
fn a_root_that_was_half_made_is_taken_up() {
    for micros in (0..40).map(|round| 1_000 + round * 150) {
        let folder = tempfile::tempdir_in("/dev/shm").unwrap();
        let root = folder.path().join("root");
        let next = run_and_kill(&root, 0, Duration::from_micros(micros));
        let store = Store::create(&root, Driver::Overlay).unwrap();
        verify(&store, next);
    }
}
