//! What an image takes in the pool's file, and that it gives it back. In the guest.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test ends where something is not as it must be, and shows its figures"
)]

mod common;

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use common::{Plywood, busybox_tar};

const MIB: u64 = 1 << 20;

/// Bytes that the pool's data file has on its disk.
fn allocated(plywood: &Plywood) -> u64 {
    // ext4 allocates when it writes back.
    rustix::fs::sync();
    plywood.root().join("pool/data").metadata().unwrap().blocks() * 512
}

/// `count` files of 1 MiB each, which nothing shares or compresses.
fn image_tar(path: &Path, count: u32) {
    let mut builder = tar::Builder::new(std::fs::File::create(path).unwrap());
    let mut state = 88_172_645_463_325_252_u64;
    for number in 0..count {
        let mut bytes = Vec::with_capacity(1 << 20);
        while bytes.len() < 1 << 20 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            bytes.extend(state.to_le_bytes());
        }
        let mut header = tar::Header::new_ustar();
        header.set_size(MIB);
        header.set_mode(0o644);
        builder
            .append_data(&mut header, format!("f{number}"), &bytes[..])
            .unwrap();
    }
    builder.finish().unwrap();
}

/// Removes an image, and wants the file to be within a twentieth of what it was before it came.
fn goes_back(plywood: &Plywood, what: &str, before: u64, names: &[&str]) {
    let with = allocated(plywood);
    plywood.ok([&["rmi"], names].concat());
    plywood.ok(["gc"]);
    let after = allocated(plywood);
    println!("{what}: {before} bytes before, {with} with it, {after} after rmi and gc");
    let taken = with - before;
    assert!(taken >= 60 * MIB, "{what}: it took {taken} bytes");
    assert!(
        after.saturating_sub(before) <= taken / 20,
        "{what}: {before} before, {with} with it, {after} after"
    );
    plywood.sound();
}

#[test]
fn dm_an_image_that_is_deleted_gives_its_space_back() {
    let plywood = Plywood::new("thin");
    let base = plywood.beside("base.tar");
    busybox_tar(&base);
    plywood.ok(["import", base.to_str().unwrap(), "base"]);
    let tar = plywood.beside("large.tar");
    image_tar(&tar, 64);

    let before = allocated(&plywood);
    plywood.ok(["import", tar.to_str().unwrap(), "large"]);
    goes_back(&plywood, "imported", before, &["large"]);

    // A layer over another shares its blocks: only its own go.
    let before = allocated(&plywood);
    for (options, name) in [(&[][..], "thin"), (&["--cow"], "cow")] {
        let script = "dd if=/dev/urandom of=/big bs=1M count=64 2>/dev/null";
        let words = [&["run", "--name", name], options, &["base", "sh", "-c", script]].concat();
        plywood.ok(words);
        plywood.ok(["commit", name, name]);
        plywood.ok(["rm", name]);
        goes_back(&plywood, name, before, &[name]);
    }
    assert_eq!(plywood.ok(["run", "--rm", "base", "echo", "works"]), "works");
}
