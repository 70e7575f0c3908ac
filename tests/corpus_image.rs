//! Replays the corpora of the fuzz targets for archives and OCI documents.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::cast_possible_truncation,
    reason = "helpers of tests panic as tests do"
)]

#[path = "../fuzz/bodies/images.rs"]
mod images;
#[path = "../fuzz/bodies/replay.rs"]
mod replay;

use replay::replay;

#[test]
fn configs() {
    replay("config", 1500, images::config);
}

#[test]
fn manifests() {
    replay("manifest", 1500, images::manifest);
}

#[test]
fn changes() {
    replay("change", 1500, images::change);
}

#[test]
fn archives() {
    replay("archive", 1500, images::archive);
}
