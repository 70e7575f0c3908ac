//! Steps that a child process works through and acknowledges, until its parent ends it.

#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use plywood_store::check::{Depth, check};
use plywood_store::index::Index;
use plywood_store::intent::Plan;
use plywood_store::record::{NameRecord, Record, Relation};
use plywood_store::{Digest, Driver, ImageId, Store, gc};

const CHILD: &str = "PLYWOOD_TEST_CRASH_ROOT";
const FROM: &str = "PLYWOOD_TEST_CRASH_FROM";
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

/// The child's whole life, as the test `child`. Without its variable that is no test, and passes.
pub(crate) fn work() {
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

/// Runs a child for a while, then `end`s it; the first step that it did not acknowledge.
pub(crate) fn run_and_end(root: &Path, from: u64, after: Duration, end: impl FnOnce(&mut Child)) -> u64 {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["child", "--exact", "--nocapture", "--test-threads=1"])
        .env(CHILD, root)
        .env(FROM, from.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    std::thread::sleep(after);
    end(&mut child);
    let out = BufReader::new(child.stdout.take().unwrap());
    let acknowledged = out
        .lines()
        .map_while(Result::ok)
        .filter_map(|line| line.strip_prefix("acknowledged ")?.parse::<u64>().ok())
        .last();
    child.wait().unwrap();
    acknowledged.map_or(from, |step| step + 1)
}

/// All that was acknowledged before step `next` is there, and of `next` a whole number of its parts.
pub(crate) fn verify(store: &Store, next: u64) {
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

/// What recovery and `gc` do with the leavings of the dead; how many dead there were.
pub(crate) fn clean(store: &Store) -> usize {
    let lock = store.exclusive().unwrap();
    let dead = store.intents.dead().unwrap();
    let count = dead.len();
    for intent in dead {
        intent.done().unwrap();
    }
    let only_temporary = gc::Garbage {
        temporary: gc::mark(store).unwrap().temporary,
        ..gc::Garbage::default()
    };
    gc::condemn(store, &lock, &only_temporary).unwrap();
    lock.done().unwrap();
    assert_eq!(std::fs::read_dir(store.root().join("tmp")).unwrap().count(), 0);
    count
}
