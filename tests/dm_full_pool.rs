//! The binary on a pool that fills up, and how space comes back: what failed is told, and everything can be removed.

mod common;

use std::sync::Arc;

use common::{Plywood, busybox_tar};
use plywood::snapshot::Snapshotter;
use plywood::snapshot::thin::Thin;
use plywood_store::Store;

/// A pool that one run can fill, as nobody watches it, with the image `base` in it.
fn small_pool() -> Plywood {
    let plywood = Plywood::new("thin").unwatched();
    plywood.ok(["pool", "init", "--data-size", "128M", "--volume-size", "256M"]);
    let base = plywood.beside("base.tar");
    busybox_tar(&base);
    plywood.ok(["import", base.to_str().expect("UTF-8"), "base"]);
    plywood
}

const FILL: [&str; 7] = [
    "run",
    "--name",
    "full",
    "base",
    "sh",
    "-c",
    "dd if=/dev/urandom of=/big bs=1M count=200 2>/dev/null; exit 0",
];

#[test]
fn dm_a_container_without_a_snapshot_can_be_removed() {
    let plywood = small_pool();
    plywood.fails(125, FILL);
    let error = plywood.fails(125, ["run", "--name", "g", "base", "true"]);
    assert!(error.contains("is full") && !error.contains("undoing"), "{error}");
    assert_eq!(plywood.json(["ps", "-a"])[0]["name"], "full", "nothing of g is left");
    plywood.ok(["rm", "full"]);
    plywood.ok(["run", "--name", "g", "base", "true"]);

    // As a kill between the container's record and its snapshot leaves it.
    let store = Store::open(&plywood.root()).expect("the store").expect("a store");
    let container = store.find_container("g").expect("g");
    let driver = Thin::open(Arc::new(store)).expect("the driver");
    driver.remove(&container.id).expect("no snapshot");
    assert_eq!(plywood.ok(["rm", "-f", "g"]), "g");
    assert_eq!(plywood.json(["ps", "-a"]), serde_json::json!([]));
    assert_eq!(
        plywood.ok(["rm", "-f", "g"]),
        "",
        "what is not there is not told as removed"
    );
    plywood.sound();
}

#[test]
fn dm_a_run_that_fills_the_pool_says_so_and_check_too() {
    let plywood = small_pool();
    let error = plywood.fails(125, FILL);
    for part in ["container full", "-pool is full", "Hint: ", "plywood rm full"] {
        assert!(error.contains(part), "{part}: {error}");
    }
    let container = &plywood.json(["ps", "-a"])[0];
    assert_eq!(container["exit_code"], 125, "{container}");
    let again = plywood.fails(125, ["start", "full"]);
    assert!(again.contains("is full"), "{again}");
    let found = plywood.run(["check"]);
    assert_eq!(found.status.code(), Some(1));
    let found = String::from_utf8(found.stdout).expect("UTF-8");
    assert!(found.contains("is full") && found.contains("lost writes"), "{found}");
    plywood.ok(["rm", "full"]);
    plywood.sound();
    plywood.ok(["run", "--rm", "base", "true"]);
}

#[test]
fn dm_trim_gives_back_what_containers_have_deleted() {
    let plywood = Plywood::new("thin");
    let base = plywood.beside("base.tar");
    busybox_tar(&base);
    plywood.ok(["import", base.to_str().expect("UTF-8"), "base"]);
    let script = "dd if=/dev/urandom of=/big bs=1M count=40 2>/dev/null; sync; rm /big; sync; echo ready";
    plywood.ok(["run", "--name", "ended", "base", "sh", "-c", script]);
    plywood.ok([
        "run",
        "-d",
        "--name",
        "live",
        "base",
        "sh",
        "-c",
        &format!("{script}; sleep 1000"),
    ]);
    plywood.await_log("live", "ready");
    let freed = plywood.json(["pool", "trim"])["freed"].as_u64().expect("a number");
    assert!(freed >= 70 << 20, "{freed} bytes of two times 40 MiB");
    plywood.ok(["kill", "live"]);
    plywood.ok(["pool", "trim"]);
    assert_eq!(plywood.ok(["run", "--rm", "base", "echo", "works"]), "works");
    plywood.sound();
}
