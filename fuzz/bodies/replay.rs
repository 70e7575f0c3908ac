//! Replays what the fuzzer is seeded with, and what it has found, without the fuzzer.

use std::path::Path;

/// Each seed of `target`, whole; and with a byte changed and cut off at up to `places` places.
pub(crate) fn replay(target: &str, places: usize, body: fn(&[u8])) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .map(|above| above.join("fuzz/corpus"))
        .find(|folder| folder.is_dir())
        .expect("the corpora")
        .join(target);
    let mut seeds = 0;
    for seed in std::fs::read_dir(&corpus).expect("a corpus") {
        let data = std::fs::read(seed.expect("a seed").path()).expect("its content");
        body(&data);
        let apart = data.len().div_ceil(places).max(1);
        for at in (0..data.len()).step_by(apart) {
            let mut other = data.clone();
            other[at] ^= (at % 255) as u8 + 1;
            body(&other);
            body(&data[..at]);
        }
        seeds += 1;
    }
    assert!(seeds > 0, "{} is empty", corpus.display());
}
