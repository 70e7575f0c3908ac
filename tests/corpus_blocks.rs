//! Replays the corpora of the fuzz targets for formats on blocks.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::cast_possible_truncation,
    reason = "helpers of tests panic as tests do"
)]

#[path = "../fuzz/bodies/blocks.rs"]
mod blocks;
#[path = "../fuzz/bodies/replay.rs"]
mod replay;
#[path = "../fuzz/bodies/volumes.rs"]
mod volumes;

use replay::replay;

#[test]
fn thin_metadata() {
    replay("thin_metadata", 600, blocks::thin_metadata);
}

#[test]
fn exception_stores() {
    replay("exception_store", 300, blocks::exception_store);
}

#[test]
fn ext4() {
    replay("ext4", 60, volumes::ext4);
}
