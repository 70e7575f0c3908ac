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
use serde_json::Value;

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

/// Bytes of a kind in what `df` tells.
fn kind(df: &Value, kind: &str) -> u64 {
    let mut rows = df["kinds"].as_array().unwrap().iter();
    rows.find(|row| row["kind"] == kind).unwrap()["bytes"].as_u64().unwrap()
}

/// What the kernel says that the pool's data have in use.
fn used(plywood: &Plywood) -> u64 {
    plywood.json(["pool", "status"])["data"]["used"].as_u64().unwrap()
}

/// `df` beside the kernel's own figure, and each of its rows in itself.
fn adds_up(plywood: &Plywood) -> Value {
    let df = plywood.json(["df"]);
    let parts = ["layers", "containers", "empty volume"];
    let sum: u64 = parts.iter().map(|part| kind(&df, part)).sum();
    assert_eq!((sum, kind(&df, "pool data")), (used(plywood), used(plywood)), "{df:#}");
    for rows in ["layers", "containers"] {
        for row in df[rows].as_array().unwrap() {
            let [bytes, shared, exclusive, own] =
                ["bytes", "shared", "exclusive", "own"].map(|field| row[field].as_u64().unwrap());
            assert!(bytes == shared + exclusive && own <= bytes && own > 0, "{row}");
        }
    }
    df
}

#[test]
fn dm_rmi_frees_to_the_block_what_it_foretells() {
    let plywood = Plywood::new("thin");
    let base = plywood.beside("base.tar");
    busybox_tar(&base);
    plywood.ok(["import", base.to_str().unwrap(), "base"]);
    let write = |name: &str, options: &[&str], from: &str, script: &str| {
        plywood.ok([&["run", "--name", name], options, &[from, "sh", "-c", script]].concat());
    };
    let random =
        |path: &str, count: u32| format!("dd if=/dev/urandom of={path} bs=64k count={count} conv=notrunc 2>/dev/null");

    // Layers over layers: the second overwrites half of what the first has, the third stands beside it.
    write("one", &[], "base", &random("/big", 256));
    plywood.ok(["commit", "one", "one"]);
    write("two", &[], "one", &random("/big", 128));
    plywood.ok(["commit", "two", "two"]);
    write("three", &["--cow"], "one", &random("/more", 64));
    plywood.ok(["commit", "three", "three"]);
    // Containers that share with a layer what they wrote before it was committed, and then overwrite some of it.
    let again = format!(
        "[ ! -e /kept ] || {{ {}; exit; }}; {}",
        random("/kept", 32),
        random("/kept", 96)
    );
    write("kept", &[], "two", &again);
    plywood.ok(["commit", "kept", "four"]);
    plywood.ok(["start", "-a", "kept"]);
    for name in ["one", "two"] {
        plywood.ok(["rm", name]);
    }
    adds_up(&plywood);

    for (names, frees) in [
        // What the container has too stays, and so does what two stands on.
        (&["four"][..], 30 * 65_536),
        (&["three"], 60 * 65_536),
    ] {
        let foretold = plywood.json([&["rmi", "--dry-run"], names].concat());
        let before = used(&plywood);
        plywood.ok([&["rmi"], names].concat());
        plywood.ok(["gc"]);
        let freed = before - used(&plywood);
        println!("{names:?}: foretold {foretold}, freed {freed} bytes of the pool");
        assert_eq!(foretold["layer_bytes"].as_u64(), Some(freed), "{names:?}");
        assert!(freed >= frees, "{names:?}");
        adds_up(&plywood);
    }

    // The container goes, and with it what of it nothing else has.
    let df = adds_up(&plywood);
    let mut rows = df["containers"].as_array().unwrap().iter();
    let exclusive = rows.find(|row| row["name"] == "kept").unwrap()["exclusive"]
        .as_u64()
        .unwrap();
    let before = used(&plywood);
    plywood.ok(["rm", "kept"]);
    assert_eq!(before - used(&plywood), exclusive);
    plywood.ok(["rm", "three"]);

    // Two layers that share with each other: together they have more than each has alone.
    let foretell = |names: &[&str]| {
        let foretold = plywood.json([&["rmi", "--dry-run"], names].concat());
        foretold["layer_bytes"].as_u64().unwrap()
    };
    let (alone, together) = (foretell(&["one"]) + foretell(&["two"]), foretell(&["one", "two"]));
    let before = used(&plywood);
    plywood.ok(["rmi", "one", "two"]);
    plywood.ok(["gc"]);
    let freed = before - used(&plywood);
    println!("one and two: {alone} bytes by themselves, freed {freed} together");
    assert_eq!(together, freed);
    assert!(freed >= 380 * 65_536 && alone < freed, "{freed} {alone}");
    adds_up(&plywood);
    plywood.sound();
}
