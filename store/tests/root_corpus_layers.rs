//! Replays the seed corpora of the layer fuzz targets, whole, cut off and with bytes flipped.

#![allow(clippy::unwrap_used, reason = "a test ends where it does not go on")]

use std::fs;
use std::path::Path;

#[path = "../../fuzz/bodies/layers.rs"]
#[allow(clippy::expect_used, reason = "a fuzzer's body says what must hold")]
mod layers;

/// Each seed, then `variants` of it.
fn replay(target: &str, variants: usize, body: fn(&[u8])) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../fuzz/corpus")
        .join(target);
    let mut seeds = 0;
    for seed in fs::read_dir(&corpus).unwrap() {
        let data = fs::read(seed.unwrap().path()).unwrap();
        body(&data);
        for variant in 0..variants {
            let mut other = data.clone();
            // A fixed, wide stride: the same variants in every run.
            let at = (variant * 7919) % other.len();
            if variant % 3 == 0 {
                other.truncate(at);
            } else {
                other[at] ^= u8::try_from(variant % 255).unwrap() + 1;
            }
            body(&other);
        }
        seeds += 1;
    }
    assert!(seeds > 0, "{} is empty", corpus.display());
}

#[test]
fn tars_are_refused_or_read() {
    replay("layer_tar", 3000, layers::tar);
}

#[test]
fn root_plans_are_refused_or_carried_out() {
    replay("layer_plan", 100, layers::plan);
}

#[test]
fn packed_streams_are_refused_or_unpacked() {
    replay("layer_packed", 500, layers::packed);
}
