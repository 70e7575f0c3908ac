//! Many processes with random verbs on one root, all at a time: none hangs, none gives a wrong result, no image
//! is lost. Needs root.
//!
//! `make torture` runs more of it (docs/testing.md).

mod common;
mod torture;

use std::path::Path;

use common::Plywood;
use torture::{crowd, seed};

#[test]
fn many_at_a_time_on_overlay_all_do_right() {
    let plywood = Plywood::new_in(Path::new("/dev/shm"), "overlay");
    crowd::work(plywood, seed(), 5);
}
