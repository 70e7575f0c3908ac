//! Replays the corpus of the fuzz target for the writer of base layers. Needs root.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::cast_possible_truncation,
    reason = "helpers of tests panic as tests do"
)]

#[path = "../fuzz/bodies/bases.rs"]
mod bases;
#[path = "../fuzz/bodies/replay.rs"]
mod replay;

use replay::replay;

#[test]
fn root_base_layers_are_declined_or_written_as_they_are_applied() {
    replay("ext4_write", 6, bases::ext4_write);
}

#[test]
fn root_base_layers_are_filesystems_that_e2fsck_finds_nothing_wrong_with() {
    replay("ext4_write", 1, bases::checked);
}
