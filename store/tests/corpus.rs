//! Replays what the fuzzer is seeded with, and what it has found, without the fuzzer.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests panic as tests do"
)]

#[path = "../../fuzz/bodies/facts.rs"]
mod facts;

fn replay(target: &str, body: fn(&[u8])) {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../fuzz/corpus")
        .join(target);
    let mut seeds = 0;
    for entry in std::fs::read_dir(&folder).unwrap() {
        let content = std::fs::read(entry.unwrap().path()).unwrap();
        body(&content);
        // Damage that the fuzzer would try first.
        for at in 0..content.len().min(2000) {
            let mut bad = content.clone();
            bad[at] ^= 1 << (at % 8);
            body(&bad);
            body(&content[..at]);
        }
        seeds += 1;
    }
    assert!(seeds > 0, "{} is empty", folder.display());
}

#[test]
fn records() {
    replay("record", facts::record);
}

#[test]
fn references() {
    replay("reference", facts::reference);
}

#[test]
fn digests() {
    replay("digest", facts::digest);
}

#[test]
fn index_values() {
    replay("index", facts::index);
}
