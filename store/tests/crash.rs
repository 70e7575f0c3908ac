//! A process that is killed at any moment has done a whole number of steps, and
//! at least those that it had acknowledged.
//!
//! The test runs itself as a child that works through an endless list of
//! operations and acknowledges each one on its stdout; the parent kills it
//! after a random time, looks at what is there, and lets the next child go on.

#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]

mod steps;

use std::path::Path;
use std::time::Duration;

use plywood_store::{Driver, Store};
use steps::{run_and_end, verify};

const ROUNDS: u64 = 60;

#[test]
fn child() {
    steps::work();
}

fn run_and_kill(root: &Path, from: u64, after: Duration) -> u64 {
    run_and_end(root, from, after, |child| child.kill().unwrap())
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
        killed_in_a_step += steps::clean(&store);
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
