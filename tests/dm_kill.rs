//! SIGKILL of every verb that changes something, at random moments, on a real thin pool.
//!
//! `make torture` runs more of it (docs/testing.md).

mod common;
mod torture;

use common::Plywood;
use torture::{Budget, End, Rig, seed};

#[test]
fn dm_a_verb_killed_at_any_moment_loses_nothing() {
    let mut rig = Rig::new(Plywood::new("thin"), seed());
    let mut budget = Budget::rounds(5);
    let (mut killed, mut rounds) = (0, 0);
    while let Some(round) = budget.next() {
        rounds = round;
        killed += u64::from(rig.round() == End::Killed);
    }
    rig.check_all();
    println!("torture: thin, {killed} of {rounds} random verbs killed");
    assert!(
        killed * 3 > rounds,
        "only {killed} kills in {rounds} rounds: they come too late"
    );
}
