//! Replays what the image fuzzers are seeded with, and what they have found, without the fuzzer.

#[path = "../fuzz/bodies/images.rs"]
mod images;

fn replay(target: &str, body: fn(&[u8])) {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/corpus")
        .join(target);
    let mut seeds = 0;
    for entry in std::fs::read_dir(&folder).unwrap() {
        let content = std::fs::read(entry.unwrap().path()).unwrap();
        body(&content);
        // Damage that the fuzzer would try first.
        for at in 0..content.len().min(1500) {
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
fn configs() {
    replay("config", images::config);
}

#[test]
fn manifests() {
    replay("manifest", images::manifest);
}

#[test]
fn changes() {
    replay("change", images::change);
}

#[test]
fn archives() {
    replay("archive", images::archive);
}
