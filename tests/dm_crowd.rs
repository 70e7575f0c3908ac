//! Many processes with random verbs on one thin pool, all at a time.
//!
//! `make torture` runs more of it (docs/testing.md).

mod common;
mod torture;

use common::Plywood;
use torture::{crowd, seed};

#[test]
fn dm_many_at_a_time_on_thin_all_do_right() {
    crowd::work(Plywood::new("thin"), seed(), 5);
}
