//! `run --cow`, and `merge`: classic snapshots over the volumes of images, on a real pool.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test ends where something is not as it must be"
)]

mod common;

use std::process::Command;
use std::time::Duration;

use common::json_page::Page;
use common::{Plywood, import_base, killed, wait};

/// New, changed, removed and linked files, of a time that does not depend on the clock.
const EDITS: &str = "
    echo new > /etc/new && ln /etc/new /srv-link && rm /usr/share/link && mkdir -m 700 /d
    dd if=/dev/zero bs=4096 count=300 2>/dev/null | tr '\\0' x > /d/large
    echo more >> /etc/passwd && chmod 600 /etc/passwd
    touch -d @1000000000 /etc/new /d/large /etc/passwd && touch -d @1000000000 /d /etc /usr/share /";

fn with_base_on_thin(options: &[&str]) -> Plywood {
    with_base_on(Plywood::new("thin"), options)
}

fn with_base_on(plywood: Plywood, options: &[&str]) -> Plywood {
    if !options.is_empty() {
        plywood.ok([&["pool", "init"], options].concat());
    }
    import_base(&plywood);
    plywood
}

/// The digests of the files that a test has made.
fn tree(plywood: &Plywood, image: &str) -> String {
    plywood.ok(["run", "--rm", image, "sh", "-c", "md5sum /f*"])
}

#[test]
fn dm_a_cow_containers_layer_is_that_of_a_thin_one() {
    let plywood = with_base_on_thin(&[]);
    plywood.ok(["run", "--name", "thin", "base", "sh", "-c", EDITS]);
    plywood.ok(["run", "--cow", "--name", "cow", "base", "sh", "-c", EDITS]);
    let writable = |name: &str| plywood.json(["inspect", name])[0]["writable"].clone();
    assert_eq!((writable("thin"), writable("cow")), ("thin".into(), "cow".into()));
    assert_eq!(plywood.ok(["diff", "thin"]), plywood.ok(["diff", "cow"]));
    let layer = |image: &str| plywood.json(["inspect", image])[0]["layers"][1]["diff_id"].clone();
    plywood.ok(["commit", "thin", "from-thin"]);
    plywood.ok(["commit", "cow", "from-cow"]);
    assert_eq!(layer("from-thin"), layer("from-cow"));
    plywood.ok(["rm", "cow", "thin"]);
    plywood.sound();
    // The layer of a store that was folded, its volume removed, comes back from its blob.
    assert_eq!(plywood.ok(["run", "--rm", "from-cow", "cat", "/srv-link"]), "new");
    plywood.ok(["rmi", "from-cow", "from-thin"]);
    plywood.sound();
}

#[test]
fn dm_a_cow_container_outlives_its_devices() {
    let plywood = with_base_on_thin(&[]);
    plywood.ok([
        "run",
        "--cow",
        "--name",
        "one",
        "base",
        "sh",
        "-c",
        "echo $((1 + $(cat /n 2>/dev/null || echo 0))) > /n; cat /n",
    ]);
    plywood.ok(["pool", "detach"]);
    assert_eq!(plywood.ok(["start", "-a", "one"]), "2");
    // Its image can be looked at meanwhile, and another one can be over it.
    let at = plywood.ok(["mount", "base"]);
    assert_eq!(plywood.ok(["start", "-a", "one"]), "3");
    assert!(!std::path::Path::new(&at).join("n").exists());
    plywood.ok(["umount", "base"]);
    let at = plywood.ok(["mount", "one"]);
    assert_eq!(
        std::fs::read_to_string(std::path::Path::new(&at).join("n")).unwrap(),
        "3\n"
    );
    plywood.ok(["umount", "one"]);
    plywood.sound();
    plywood.ok(["rm", "one"]);
    plywood.sound();
}

#[test]
fn dm_a_running_cow_container_tells_how_full_its_store_is() {
    let plywood = with_base_on_thin(&[]);
    let script = "dd if=/dev/urandom of=/big bs=1M count=8 2>/dev/null; sync; echo ready; sleep 1000";
    plywood.ok(["run", "-d", "--cow", "--name", "one", "base", "sh", "-c", script]);
    plywood.await_log("one", "ready");
    let document = plywood.json(["inspect", "one"]);
    let store = &document[0]["store"];
    assert_eq!(store["state"], "working", "{document}");
    let (allocated, metadata) = (
        store["allocated"].as_u64().unwrap(),
        store["metadata"].as_u64().unwrap(),
    );
    assert!(allocated - metadata >= 8 * 2048, "{store}");
    let kinds: Vec<&str> = document[0]["stack"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|item| item["detail"].as_str())
        .collect();
    assert!(
        kinds
            .iter()
            .any(|detail| detail.contains(" snapshot ") && detail.contains(" PO 8")),
        "{kinds:?}"
    );
    // The others tell the same, of a store that grows meanwhile.
    let mut page = Page::of("thin");
    page.holds("inspect of a container", &document);
    let listed = plywood.json(["ps"]);
    page.holds("ps", &listed);
    let space = plywood.json(["df"]);
    page.holds("df", &space);
    for told in [&listed[0]["store"], &space["stores"][0]] {
        assert_eq!(told["state"], "working", "{told}");
        assert_eq!(told["total"], store["total"]);
        assert!(told["allocated"].as_u64().unwrap() >= allocated, "{told}");
    }
    assert_eq!(space["stores"][0]["name"], "one");
    for text in [plywood.ok(["ps"]), plywood.ok(["df"])] {
        assert!(text.contains(" MiB of 10.0"), "{text}");
    }
    plywood.ok(["kill", "one"]);
    assert_eq!(plywood.json(["ps", "-a"])[0]["store"], serde_json::Value::Null);
    assert_eq!(plywood.json(["df"])["stores"], serde_json::json!([]));
    plywood.sound();
}

#[test]
fn dm_a_store_that_the_kernel_gave_up_is_told_as_such() {
    let plywood = with_base_on(
        Plywood::new("thin").unwatched(),
        &["--data-size", "128M", "--volume-size", "256M"],
    );
    let script = "dd if=/dev/urandom of=/big bs=1M count=200 2>/dev/null; sync; sleep 1000";
    plywood.ok(["run", "-d", "--cow", "--name", "one", "base", "sh", "-c", script]);
    wait::until_ok("the kernel gives it up", || {
        match plywood.json(["ps"])[0]["store"]["state"] == "invalid" {
            true => Ok(()),
            false => Err(plywood.ok(["ps"])),
        }
    });
    assert!(plywood.ok(["ps"]).contains(", store Invalid"));
    assert!(plywood.ok(["df"]).lines().any(|line| line == "one        Invalid"));
    assert_eq!(plywood.json(["df"])["stores"][0]["state"], "invalid");
    assert_eq!(plywood.json(["inspect", "one"])[0]["store"]["state"], "invalid");
    let _ = plywood.run(["kill", "one"]);
    plywood.ok(["rm", "-f", "one"]);
    plywood.sound();
}

#[test]
fn dm_a_merge_moves_the_name_and_nothing_else() {
    let plywood = with_base_on_thin(&[]);
    let before = plywood.json(["inspect", "base"])[0]["id"].clone();
    plywood.ok(["run", "--name", "other", "base", "sh", "-c", "echo other > /mine"]);
    plywood.ok([
        "run",
        "--cow",
        "--name",
        "one",
        "base",
        "sh",
        "-c",
        "echo merged > /mine",
    ]);
    assert!(plywood.fails(1, ["merge", "other"]).contains("no exception store"));
    let id = plywood.ok(["merge", "-m", "by merge", "one"]);
    assert_ne!(before, id);
    assert_eq!(plywood.json(["inspect", "base"])[0]["id"], id);
    assert_eq!(plywood.json(["history", "base"])[0]["comment"], "by merge");
    assert_eq!(plywood.ok(["run", "--rm", "base", "cat", "/mine"]), "merged");
    assert_eq!(plywood.ok(["start", "-a", "other"]), "");
    assert_eq!(plywood.ok(["diff", "other"]), "A /mine");
    assert_eq!(plywood.ok(["diff", "one"]), "A /mine");
    let again = plywood.fails(1, ["merge", "one"]);
    assert!(again.contains("not the name of the image"), "{again}");
    plywood.ok(["rm", "one", "other"]);
    plywood.sound();
}

#[test]
fn dm_a_merge_that_is_killed_goes_on_and_is_right() {
    let plywood = with_base_on_thin(&[]);
    let script =
        "i=0; while [ $i -lt 24 ]; do dd if=/dev/urandom of=/f$i bs=1M count=2 2>/dev/null; i=$((i + 1)); done";
    plywood.ok(["run", "--cow", "--name", "one", "base", "sh", "-c", script]);
    plywood.ok(["commit", "one", "expected"]);
    let expected = tree(&plywood, "expected");
    let mut killed = 0;
    let mut done = false;
    for round in 1..40 {
        let mut merge = plywood.command(["merge", "one"]).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(60 * round));
        if let Some(status) = merge.try_wait().unwrap() {
            assert!(status.success());
            done = true;
            break;
        }
        merge.kill().unwrap();
        merge.wait().unwrap();
        killed += 1;
        if plywood.json(["inspect", "base"])[0]["layers"].as_array().unwrap().len() == 2 {
            // It had just moved the name.
            done = true;
            break;
        }
        // Whatever moment it was: nobody sees a half merged tree, and what there is fits together.
        assert_eq!(
            plywood.ok(["run", "--rm", "base", "sh", "-c", "ls / | grep -c ^f || true"]),
            "0"
        );
        plywood.sound();
    }
    assert!(done && killed > 3, "{killed} kills");
    assert_eq!(tree(&plywood, "base"), expected);
    plywood.ok(["rm", "one"]);
    plywood.sound();
}

#[test]
fn dm_what_a_killed_merge_left_goes_with_its_container() {
    let plywood = with_base_on_thin(&[]);
    let write = |name: &str| {
        let script = "dd if=/dev/urandom of=/big bs=1M count=64 2>/dev/null; echo run >> /runs";
        plywood.ok(["run", "--cow", "--name", name, "base", "sh", "-c", script]);
        let mut merge = plywood.command(["merge", name]).spawn().unwrap();
        while !Command::new("dmsetup")
            .arg("ls")
            .output()
            .unwrap()
            .stdout
            .windows(7)
            .any(|name| name == b"-merge-")
        {
            assert!(
                merge.try_wait().unwrap().is_none(),
                "it has ended before it could be killed"
            );
        }
        merge.kill().unwrap();
        merge.wait().unwrap();
    };
    write("one");
    plywood.ok(["rm", "one"]);
    plywood.sound();
    // One that ran once more since is merged as it is now.
    write("two");
    plywood.ok(["start", "-a", "two"]);
    plywood.ok(["merge", "two"]);
    assert_eq!(plywood.ok(["run", "--rm", "base", "cat", "/runs"]), "run\nrun");
    plywood.ok(["rm", "two"]);
    plywood.sound();
}

#[test]
fn dm_a_merge_that_fills_the_pool_finishes_after_it_has_grown() {
    let plywood = with_base_on(
        Plywood::new("thin").unwatched(),
        &["--data-size", "128M", "--volume-size", "256M"],
    );
    plywood.ok([
        "run",
        "--cow",
        "--name",
        "one",
        "base",
        "sh",
        "-c",
        "dd if=/dev/urandom of=/big bs=1M count=60 2>/dev/null; md5sum < /big > /sum",
    ]);
    let error = plywood.fails(1, ["merge", "one"]);
    assert!(error.contains("full") && error.contains("Hint: "), "{error}");
    assert_eq!(
        plywood.json(["history", "base"]).as_array().unwrap().len(),
        1,
        "the image is as it was"
    );
    plywood.ok(["pool", "grow", "--data-size", "1G"]);
    plywood.ok(["merge", "one"]);
    assert_eq!(
        plywood.ok([
            "run",
            "--rm",
            "base",
            "sh",
            "-c",
            "md5sum < /big | cmp - /sum && echo same"
        ]),
        "same"
    );
    plywood.ok(["rm", "one"]);
    plywood.sound();
}

#[test]
fn dm_what_a_killed_run_had_made_to_mount_on_is_in_no_layer() {
    let plywood = with_base_on_thin(&[]);
    killed::what_it_had_made_to_mount_on_is_in_no_layer(&plywood, "thin", &[]);
    killed::what_it_had_made_to_mount_on_is_in_no_layer(&plywood, "cow", &["--cow"]);
    plywood.ok(["start", "cow"]);
    killed::kill_monitor(&plywood, "cow");
    plywood.ok(["merge", "cow"]);
    let seen = plywood.ok([
        "run",
        "--rm",
        "base",
        "sh",
        "-c",
        "ls -d /made /etc/new 2>/dev/null; true",
    ]);
    assert_eq!(seen, "/etc/new");
    plywood.sound();
}
