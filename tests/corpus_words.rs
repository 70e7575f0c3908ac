//! Replays the corpora of the fuzz targets for device-mapper's lines and the command line's words.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::cast_possible_truncation,
    reason = "helpers of tests panic as tests do"
)]

#[path = "../fuzz/bodies/replay.rs"]
mod replay;
#[path = "../fuzz/bodies/words.rs"]
mod words;

use replay::replay;

#[test]
fn device_mapper_lines() {
    replay("dm_line", 200, words::dm_line);
}

#[test]
fn pool_mappings() {
    replay("thin_dump", 1000, words::thin_dump);
}

#[test]
fn seccomp_profiles() {
    replay("seccomp", 400, words::seccomp);
}

#[test]
fn command_lines() {
    replay("command_line", 50, words::command_line);
}
