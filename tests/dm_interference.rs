//! Somebody else at the pool: it heals, or is refused with a message that says what to do. In the guest.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test ends where something is not as it must be"
)]

mod common;
#[path = "common/pool_root.rs"]
mod pool_root;

use common::{Plywood, import_base};
use pool_root::{pool_name, shell};

fn with_base() -> Plywood {
    let plywood = Plywood::new("thin");
    plywood.ok(["pool", "init", "--data-size", "256M", "--volume-size", "256M"]);
    import_base(&plywood);
    plywood.ok(["run", "--name", "one", "base", "sh", "-c", "echo mine > /file"]);
    plywood
}

/// Everything is there and can be used.
fn is_whole(plywood: &Plywood) {
    let at = plywood.ok(["mount", "one"]);
    let seen = std::fs::read_to_string(std::path::Path::new(&at).join("file")).unwrap();
    assert_eq!(seen, "mine\n");
    plywood.ok(["umount", "one"]);
    plywood.ok(["run", "--rm", "base", "true"]);
    plywood.sound();
}

#[test]
fn dm_loop_devices_that_somebody_detached_are_attached_again() {
    let plywood = with_base();
    // Lazy: it returns at once, and they go with the pool.
    shell("for loop in $(losetup -n -O NAME,BACK-FILE | sed -n 's# .*/pool/.*##p'); do losetup -d $loop; done");
    is_whole(&plywood);
    plywood.ok(["pool", "detach"]);
    assert_eq!(shell("losetup -n -O BACK-FILE | grep -c /pool/ || true"), "0");
    is_whole(&plywood);
}

#[test]
fn dm_a_pool_that_somebody_removed_comes_back() {
    let plywood = with_base();
    shell(&format!("dmsetup remove {}", pool_name()));
    is_whole(&plywood);
    // In use it cannot be removed, and no volume either.
    let at = plywood.ok(["mount", "one"]);
    shell("for name in $(dmsetup ls | grep -o '^plywood-[^ \t]*'); do ! dmsetup remove $name 2>/dev/null; done");
    assert!(std::path::Path::new(&at).join("file").exists());
    plywood.ok(["umount", "one"]);
    is_whole(&plywood);
}

#[test]
fn dm_a_pool_whose_table_somebody_wiped_is_told() {
    let plywood = with_base();
    let pool = pool_name();
    shell(&format!("dmsetup wipe_table {pool}"));
    let refused = plywood.fails(125, ["run", "--rm", "base", "true"]);
    assert!(refused.contains(&pool) && refused.contains("Hint: "), "{refused}");
    shell(&format!("dmsetup remove {pool}"));
    is_whole(&plywood);
}

#[test]
fn dm_files_that_somebody_else_has_attached_are_not_used() {
    let plywood = with_base();
    plywood.ok(["pool", "detach"]);
    let metadata = plywood.root().join("pool/metadata");
    let device = shell(&format!("losetup --find --show {}", metadata.display()));
    for verb in [
        &["run", "--rm", "base", "true"][..],
        &["pool", "check"],
        &["pool", "repair"],
        &["pool", "trim"],
    ] {
        let output = plywood.run(verb);
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success(), "{verb:?}");
        assert!(
            error.contains("is attached to") && error.contains(&format!("losetup --detach {device}")),
            "{error}"
        );
    }
    shell(&format!("losetup -d {device}"));
    is_whole(&plywood);
}

#[test]
fn dm_an_index_that_somebody_deleted_is_made_again() {
    let plywood = with_base();
    shell(&format!("rm -rf {0}/index {0}/index.pending", plywood.root().display()));
    is_whole(&plywood);
}

#[test]
fn dm_files_that_are_gone_are_named() {
    let plywood = with_base();
    plywood.ok(["pool", "detach"]);
    for name in ["metadata", "data"] {
        let path = plywood.root().join("pool").join(name);
        let aside = plywood.beside(name);
        shell(&format!("mv {} {}", path.display(), aside.display()));
        for verb in [
            &["pool", "status"][..],
            &["images"],
            &["run", "--rm", "base", "true"],
            &["pool", "repair"],
        ] {
            let output = plywood.run(verb);
            let error = String::from_utf8(output.stderr).unwrap();
            // Facts can be told without the pool.
            let is_told = output.status.success() || error.contains(path.to_str().unwrap());
            assert!(is_told, "{verb:?}: {error}");
        }
        assert!(!path.exists(), "nothing is made in its place");
        shell(&format!("mv {} {}", aside.display(), path.display()));
    }
    is_whole(&plywood);
}

#[test]
fn dm_a_volume_that_somebody_deleted_is_named_and_repaired() {
    let plywood = with_base();
    plywood.ok(["commit", "one", "two"]);
    let id = plywood.json(["inspect", "two"])[0]["layers"][1]["thin_id"].clone();
    shell(&format!("dmsetup message {} 0 'delete {id}'", pool_name()));
    let refused = plywood.fails(125, ["run", "--rm", "two", "true"]);
    assert!(
        refused.contains(&format!("has no volume {id}")) && refused.contains("plywood pool repair"),
        "{refused}"
    );
    let found = plywood.run(["check"]);
    assert_eq!(found.status.code(), Some(1));
    plywood.ok(["pool", "repair"]);
    assert_eq!(plywood.ok(["run", "--rm", "two", "cat", "/file"]), "mine");
    is_whole(&plywood);
}
