//! SIGKILL of every verb that changes something, at random moments, on a real thin pool.
//!
//! `make torture` runs more of it (docs/testing.md).

mod common;
mod torture;

use common::{Plywood, own_network};
use torture::{Rig, seed};

#[test]
fn dm_a_verb_killed_at_any_moment_loses_nothing() {
    own_network();
    Rig::new(Plywood::new("thin").with_network(), seed()).kill_at_random(5);
}
