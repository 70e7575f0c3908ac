//! Replays the corpora of the fuzz targets that need nothing but the store.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::cast_possible_truncation,
    reason = "helpers of tests panic as tests do"
)]

#[path = "../../fuzz/bodies/facts.rs"]
mod facts;
#[path = "../../fuzz/bodies/pax.rs"]
mod pax;
#[path = "../../fuzz/bodies/replay.rs"]
mod replay;

use replay::replay;

#[test]
fn records() {
    replay("record", 2000, facts::record);
}

#[test]
fn names() {
    replay("names", 2000, facts::names);
}

#[test]
fn pax_records() {
    replay("pax", 2000, pax::records);
}
