//! Replays the corpora of the layer fuzz targets.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::cast_possible_truncation,
    reason = "helpers of tests panic as tests do"
)]

#[path = "../../fuzz/bodies/layers.rs"]
mod layers;
#[path = "../../fuzz/bodies/replay.rs"]
mod replay;

use replay::replay;

#[test]
fn tars_are_refused_or_read() {
    replay("layer_tar", 1500, layers::tar);
}

#[test]
fn root_plans_are_refused_or_carried_out() {
    replay("layer_plan", 20, layers::plan);
}

#[test]
fn root_programs_are_refused_or_carried_out() {
    replay("layer_build", 10, layers::build);
}

#[test]
fn packed_streams_are_refused_or_unpacked() {
    replay("layer_packed", 250, layers::packed);
}
