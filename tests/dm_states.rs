//! Each state of a pool has a name, a message and a way out, in `pool status` and in every refusal. In the guest.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test ends where something is not as it must be, and shows what was said"
)]

mod common;
#[path = "common/failing.rs"]
mod failing;
#[path = "common/pool_root.rs"]
mod pool_root;

use common::{Plywood, busybox_tar};
use failing::Failing;
use pool_root::{pool_name, shell};

/// A pool whose metadata can be made to fail, and an image on it.
fn failing_metadata() -> Failing {
    let failing = Failing::metadata();
    let base = failing.plywood.beside("base.tar");
    busybox_tar(&base);
    failing.plywood.ok(["import", base.to_str().unwrap(), "base"]);
    failing.plywood.ok(["run", "--name", "kept", "base", "true"]);
    failing
}

fn is(plywood: &Plywood, state: &str, problem: &str, remedy: &str) {
    let told = plywood.json(["pool", "status"]);
    assert_eq!(told["state"], state, "{told}");
    for (field, part) in [("problem", problem), ("remedy", remedy)] {
        assert!(told[field].as_str().unwrap().contains(part), "{part}: {told}");
    }
    let text = plywood.ok(["pool", "status"]);
    assert!(
        text.contains(state) && text.contains(problem) && text.contains(remedy),
        "{text}"
    );
    let refused = plywood.fails(125, ["run", "--rm", "base", "true"]);
    assert!(refused.contains(problem) && refused.contains(remedy), "{refused}");
}

/// Whatever meets the error, in a mount, a folder or a table: who reads of it learns what the pool's state is and what
/// helps. Reading may work still.
fn every_refusal_says_so(plywood: &Plywood, problem: &str) {
    let (tar, copy) = (plywood.beside("again.tar"), plywood.beside("copy"));
    let verbs: [&[&str]; 9] = [
        &["mount", "base"],
        &["diff", "base", "base"],
        &["export", "--format", "rootfs", "-o", tar.to_str().unwrap(), "base"],
        &["run", "base", "true"],
        &["run", "--cow", "base", "true"],
        &["start", "-a", "kept"],
        &["commit", "kept", "committed"],
        &["cp", "kept:/bin", copy.to_str().unwrap()],
        &["check", "--data"],
    ];
    for words in verbs {
        let output = plywood.run(words);
        let error = String::from_utf8_lossy(&output.stderr);
        println!("{words:?}: {}\n{error}", output.status);
        if output.status.success() || words[0] == "check" {
            continue;
        }
        let told = error.split("Error: ").nth(1).unwrap();
        assert!(
            told.contains(problem) && told.contains("plywood pool repair"),
            "{words:?}: {error}"
        );
    }
    let _ = plywood.run(["umount", "--all"]);
}

fn is_well(plywood: &Plywood) {
    let told = plywood.json(["pool", "status"]);
    assert_eq!(
        (&told["state"], &told["problem"]),
        (&"rw".into(), &serde_json::Value::Null),
        "{told}"
    );
    plywood.ok(["run", "--rm", "base", "true"]);
    plywood.sound();
}

#[test]
fn dm_a_full_pool_is_named_and_growing_is_the_way_out() {
    let plywood = Plywood::new("thin").unwatched();
    plywood.ok(["pool", "init", "--data-size", "128M", "--volume-size", "256M"]);
    let base = plywood.beside("base.tar");
    busybox_tar(&base);
    plywood.ok(["import", base.to_str().unwrap(), "base"]);
    is_well(&plywood);
    let fill = "dd if=/dev/urandom of=/big bs=1M count=200 2>/dev/null; exit 0";
    plywood.fails(125, ["run", "--name", "full", "base", "sh", "-c", fill]);
    is(&plywood, "out_of_data_space", "is full: ", "plywood pool grow");
    plywood.ok(["pool", "grow", "--data-size", "512M"]);
    let told = plywood.json(["pool", "status"]);
    assert_eq!(told["state"], "rw", "{told}");
    // What it lost is not forgotten before it was looked at.
    let refused = plywood.fails(1, ["commit", "full", "x"]);
    assert!(refused.contains("plywood pool repair"), "{refused}");
    let repaired = plywood.json(["pool", "repair"]);
    assert!(
        repaired["repaired"]
            .to_string()
            .contains("container full lost what it wrote"),
        "{repaired}"
    );
    plywood.ok(["start", "-a", "full"]);
    plywood.ok(["commit", "full", "x"]);
    plywood.ok(["rm", "full"]);
    is_well(&plywood);
}

#[test]
fn dm_failing_metadata_are_named_and_repair_is_the_way_out() {
    let failing = failing_metadata();
    failing.switch("flakey {} 0 0 1 1 error_writes");
    let refused = failing.plywood.fails(125, ["run", "--rm", "base", "true"]);
    assert!(
        refused.contains("needs a check") && refused.contains("plywood pool repair"),
        "{refused}"
    );
    is(&failing.plywood, "needs_check", "needs a check", "plywood pool repair");
    every_refusal_says_so(&failing.plywood, "needs a check");
    failing.heal();
    failing.plywood.ok(["pool", "repair"]);
    is_well(&failing.plywood);
}

#[test]
fn dm_a_failed_pool_is_named_and_repair_is_the_way_out() {
    let failing = failing_metadata();
    failing.switch("error");
    let refused = failing.plywood.fails(125, ["run", "--rm", "base", "true"]);
    assert!(
        refused.contains("Hint: ") && refused.contains("plywood pool repair"),
        "{refused}"
    );
    is(&failing.plywood, "failed", "has failed", "plywood pool repair");
    every_refusal_says_so(&failing.plywood, "has failed");
    failing.heal();
    failing.plywood.ok(["pool", "repair"]);
    is_well(&failing.plywood);
}

#[test]
fn dm_a_pool_that_somebody_made_read_only_is_named() {
    let failing = failing_metadata();
    let pool = pool_name();
    shell(&format!(
        "table=$(dmsetup table {pool} | sed 's/ [0-9]* error_if_no_space/ 2 error_if_no_space read_only/')
         dmsetup suspend {pool}; dmsetup load {pool} --table \"$table\"; dmsetup resume {pool}"
    ));
    is(&failing.plywood, "ro", "is read-only", "plywood pool repair");
    failing.plywood.ok(["pool", "repair"]);
    is_well(&failing.plywood);
}

#[test]
fn dm_a_pool_without_room_for_metadata_is_named_and_growing_is_the_way_out() {
    let plywood = Plywood::new("thin").unwatched();
    plywood.ok([
        "pool",
        "init",
        "--data-size",
        "256M",
        "--volume-size",
        "256M",
        "--metadata-size",
        "2M",
    ]);
    let base = plywood.beside("base.tar");
    busybox_tar(&base);
    plywood.ok(["import", base.to_str().unwrap(), "base"]);
    let pool = pool_name();
    // Until the kernel refuses.
    shell(&format!(
        "id=1000; while dmsetup message {pool} 0 \"create_thin $id\" 2>/dev/null && [ $id -lt 2000 ]; do id=$((id + 1)); done"
    ));
    let told = plywood.json(["pool", "status"]);
    let state = told["state"].as_str().unwrap();
    assert!(["out_of_metadata_space", "needs_check"].contains(&state), "{told}");
    assert!(told["remedy"].as_str().unwrap().contains("plywood pool"), "{told}");
    let refused = plywood.fails(125, ["run", "--rm", "base", "true"]);
    assert!(refused.contains("Hint: plywood pool"), "{refused}");
    if state == "needs_check" {
        plywood.fails(1, ["pool", "repair"]);
    }
    plywood.ok(["pool", "grow", "--metadata-size", "16M"]);
    plywood.ok(["pool", "repair", "--remove-strangers"]);
    is_well(&plywood);
}
