//! The pool under a writer: it is never full, and nothing is lost where it would have been.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test ends where something is not as it must be"
)]

mod common;

use common::{Plywood, busybox_tar};

fn small_pool() -> Plywood {
    let plywood = Plywood::new("thin");
    plywood.ok(["pool", "init", "--data-size", "192M", "--volume-size", "1G"]);
    let base = plywood.beside("base.tar");
    busybox_tar(&base);
    plywood.ok(["import", base.to_str().unwrap(), "base"]);
    plywood
}

/// Something that is synced, and then more than there is room for.
const FILL: &str = "echo precious > /precious; sync; dd if=/dev/urandom of=/big bs=1M count=400 2>/dev/null; echo full";

fn ends_before_the_pool_is_full(options: &[&str]) {
    let plywood = small_pool();
    let words = [&["run", "--name", "one"], options, &["base", "sh", "-c", FILL]].concat();
    let error = plywood.fails(125, words);
    for part in [
        "container one was ended",
        "nearly full",
        "are left",
        "pool grow",
        "plywood start one",
    ] {
        assert!(error.contains(part), "{part}: {error}");
    }
    let status = plywood.json(["pool", "status"]);
    assert_eq!(status["state"], "rw", "{status}");
    // Nothing is lost, not even what had not been synced: the filesystem is whole.
    plywood.sound();
    assert_eq!(
        plywood.fails(125, ["start", "-a", "one"]).lines().count(),
        2,
        "no room to begin"
    );
    plywood.ok(["pool", "grow", "--data-size", "2G"]);
    assert_eq!(plywood.ok(["start", "-a", "one"]), "full");
    plywood.ok(["commit", "one", "committed"]);
    let seen = plywood.ok(["run", "--rm", "committed", "sh", "-c", "cat /precious; stat -c %s /big"]);
    assert_eq!(seen, "precious\n419430400");
    plywood.ok(["rm", "one"]);
    plywood.sound();
}

#[test]
fn dm_a_container_is_ended_before_its_pool_is_full() {
    ends_before_the_pool_is_full(&[]);
}

#[test]
fn dm_a_cow_container_is_ended_before_its_pool_is_full() {
    ends_before_the_pool_is_full(&["--cow"]);
}

#[test]
fn dm_an_import_ends_before_the_pool_is_full() {
    let plywood = small_pool();
    let tar = plywood.beside("large.tar");
    let mut builder = tar::Builder::new(std::fs::File::create(&tar).unwrap());
    let bytes: Vec<u8> = (0..1_u64 << 20)
        .map(|at| (at.wrapping_mul(2_654_435_761) >> 13).to_le_bytes()[0])
        .collect();
    for number in 0..400 {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        builder
            .append_data(&mut header, format!("f{number}"), &bytes[..])
            .unwrap();
    }
    builder.finish().unwrap();
    let error = plywood.fails(1, ["import", tar.to_str().unwrap(), "large"]);
    assert!(error.contains("nearly full") && error.contains("pool grow"), "{error}");
    assert_eq!(plywood.json(["pool", "status"])["state"], "rw");
    plywood.sound();
    assert_eq!(plywood.ok(["run", "--rm", "base", "echo", "works"]), "works");
    plywood.ok(["pool", "grow", "--data-size", "2G"]);
    plywood.ok(["import", tar.to_str().unwrap(), "large"]);
    plywood.sound();
}

#[test]
fn dm_a_merge_stops_before_the_pool_is_full_and_goes_on() {
    let plywood = small_pool();
    let script = "dd if=/dev/urandom of=/big bs=1M count=90 2>/dev/null; md5sum < /big > /sum";
    plywood.ok(["run", "--cow", "--name", "one", "base", "sh", "-c", script]);
    let error = plywood.fails(1, ["merge", "one"]);
    assert!(error.contains("nearly full") && error.contains("pool grow"), "{error}");
    assert_eq!(plywood.json(["pool", "status"])["state"], "rw");
    plywood.ok(["pool", "grow", "--data-size", "1G"]);
    plywood.ok(["merge", "one"]);
    let check = "md5sum < /big | cmp - /sum && echo same";
    assert_eq!(plywood.ok(["run", "--rm", "base", "sh", "-c", check]), "same");
    plywood.sound();
}
