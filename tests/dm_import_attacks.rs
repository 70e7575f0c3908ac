//! The same attacks on `plywood import` on a thin pool: another way to the same tree, so the same end.

mod common;

#[path = "common/breakouts.rs"]
mod breakouts;
#[path = "common/sentinel.rs"]
mod sentinel;

use std::fs;

use common::tars::{archive, file, header};
use common::{Plywood, listing};

#[test]
fn dm_u01_u02_u03_u04_u07_u08_u09_u13_u15_u16_u17_u18_u19_breakouts() {
    breakouts::run("thin");
}

/// What does not fit into a volume ends there, not in the pool's files.
#[test]
fn dm_u14_a_layer_larger_than_its_volume_is_refused_and_leaves_nothing() {
    let plywood = Plywood::new("thin");
    plywood.ok(["pool", "init", "--data-size", "512M", "--volume-size", "128M"]);
    let path = plywood.beside("archive");
    fs::write(&path, archive(&[file("x", "bystander")])).unwrap();
    plywood.ok(["import", path.to_str().unwrap(), "bystander"]);
    let before = listing(&plywood);
    let mut large = header(b"large", b'0', b"", 0o644, 200 << 20).to_vec();
    large.resize(large.len() + (200 << 20), b'A');
    fs::write(&path, zstd::encode_all(archive(&[large]).as_slice(), 1).unwrap()).unwrap();
    let error = plywood.fails(1, ["import", path.to_str().unwrap(), "large"]);
    assert!(error.contains("\"large\"") && error.contains("No space"), "{error}");
    assert_eq!(listing(&plywood), before);
    plywood.sound();
}
