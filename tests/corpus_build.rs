//! Replays the corpus of the fuzz target for Dockerfiles, and the Dockerfiles of the tests with it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::cast_possible_truncation,
    reason = "helpers of tests panic as tests do"
)]

#[path = "../fuzz/bodies/builds.rs"]
mod builds;
#[path = "../fuzz/bodies/replay.rs"]
mod replay;

use replay::replay;

#[test]
fn dockerfiles() {
    replay("dockerfile", 400, builds::dockerfile);
}

#[test]
fn dockerfiles_of_the_tests() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/dockerfiles");
    for folder in std::fs::read_dir(root).unwrap() {
        builds::dockerfile(&std::fs::read(folder.unwrap().path().join("Dockerfile")).unwrap());
    }
}
