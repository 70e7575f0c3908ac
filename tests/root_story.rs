//! The main job on the overlay driver, and bad input to the verbs.

mod common;

use common::{Plywood, busybox_tar, story};

#[test]
fn root_layers_are_built_exported_removed_and_come_back_the_same() {
    let plywood = Plywood::new("overlay");
    whole_story(&plywood);
}

/// Import, run, commit, list, export, remove everything, import again: the same ids.
fn whole_story(plywood: &Plywood) {
    let ids = story(plywood);
    plywood.sound();
    let before = plywood.json(["inspect", "step3"]);
    let archive = plywood.beside("step3.tar");
    let archive = archive.to_str().expect("UTF-8");
    plywood.ok(["export", "-o", archive, "step0", "step1", "step2", "step3"]);
    plywood.ok(["rm", "c0", "c1", "c2"]);
    plywood.ok(["rmi", "step0", "step1", "step2", "step3"]);
    plywood.ok(["gc"]);
    assert_eq!(plywood.json(["images"]).as_array().map(Vec::len), Some(0));
    let again = plywood.ok(["import", archive]);
    assert_eq!(again.lines().collect::<Vec<_>>(), ids);
    let after = plywood.json(["inspect", "step3"]);
    let diff_ids = |document: &serde_json::Value| {
        document[0]["layers"]
            .as_array()
            .map(|layers| layers.iter().map(|layer| layer["diff_id"].clone()).collect::<Vec<_>>())
    };
    assert_eq!(diff_ids(&before), diff_ids(&after));
    assert_eq!(
        plywood.ok([
            "run",
            "--rm",
            "step3",
            "cat",
            "/usr/share/doc/a",
            "/srv/site/index.html"
        ]),
        "again\n<h1>plywood</h1>"
    );
    plywood.sound();
}

#[test]
fn root_the_same_edits_twice_give_the_same_ids() {
    let (one, two) = (Plywood::new("overlay"), Plywood::new("overlay"));
    assert_eq!(story(&one), story(&two));
}

#[test]
fn root_bad_input_names_its_object_and_changes_nothing() {
    let plywood = Plywood::new("overlay");
    let base = plywood.beside("base.tar");
    busybox_tar(&base);
    let base = base.to_str().expect("UTF-8");
    plywood.ok(["import", base, "base"]);
    plywood.ok(["run", "--name", "one", "base", "true"]);
    let images = plywood.json(["images"]);
    let missing = plywood.beside("missing.tar");
    let missing = missing.to_str().expect("UTF-8");
    for (code, args, names) in [
        (125, vec!["run", "nothing", "true"], "nothing"),
        (125, vec!["run", "--name", "one", "base", "true"], "one"),
        (127, vec!["run", "--rm", "base", "no-such-command"], "no-such-command"),
        (126, vec!["run", "--rm", "base", "/etc/passwd"], "/etc/passwd"),
        (1, vec!["commit", "nothing", "x"], "nothing"),
        (2, vec!["commit", "one", "UPPER"], "UPPER"),
        (2, vec!["commit", "-c", "FROM x", "one", "x"], "FROM"),
        (1, vec!["rmi", "nothing"], "nothing"),
        (1, vec!["rmi", "base"], "one"),
        (1, vec!["rm", "nothing"], "nothing"),
        (1, vec!["history", "nothing"], "nothing"),
        (1, vec!["inspect", "nothing"], "nothing"),
        (1, vec!["tag", "nothing", "x"], "nothing"),
        (1, vec!["diff", "nothing"], "nothing"),
        (1, vec!["export", "-o", "/dev/null", "nothing"], "nothing"),
        (1, vec!["import", missing, "x"], "missing.tar"),
        (
            1,
            vec!["import", "--layer", "--parent", "nothing", base, "x"],
            "nothing",
        ),
        (1, vec!["umount", "base"], "base"),
        (2, vec!["pool", "init", "--data-size", "much"], "much"),
        (2, vec!["frobnicate"], "frobnicate"),
    ] {
        let error = plywood.fails(code, &args);
        assert!(error.contains(names), "{args:?} does not name {names}: {error}");
    }
    assert_eq!(plywood.json(["images"]), images);
    plywood.sound();
}

#[test]
fn root_another_drivers_root_is_refused() {
    let plywood = Plywood::new("overlay");
    let base = plywood.beside("base.tar");
    busybox_tar(&base);
    plywood.ok(["import", base.to_str().expect("UTF-8"), "base"]);
    let output = plywood
        .command(["images"])
        .env("PLYWOOD_DRIVER", "thin")
        .args(["--driver", "thin"])
        .output()
        .expect("plywood starts");
    // The same option twice is clap's error; the environment alone is ours.
    assert!(!output.status.success());
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_plywood"))
        .args(["--driver", "thin", "images", "--root"])
        .arg(plywood.root())
        .output()
        .expect("plywood starts");
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("overlay driver, not thin"));
}

#[test]
fn root_an_image_is_mounted_looked_at_and_unmounted() {
    let plywood = Plywood::new("overlay");
    let base = plywood.beside("base.tar");
    busybox_tar(&base);
    plywood.ok(["import", base.to_str().expect("UTF-8"), "base"]);
    let shown = plywood.ok(["mount", "base"]);
    let hosts = std::fs::read_to_string(format!("{shown}/etc/hosts")).expect("the image's file");
    assert_eq!(hosts, "127.0.0.1 localhost\n");
    assert!(
        std::fs::write(format!("{shown}/etc/hosts"), "x").is_err(),
        "a mount of an image is read-only"
    );
    plywood.fails(1, ["mount", "base"]);
    plywood.ok(["umount", "base"]);
    assert!(!std::path::Path::new(&shown).exists());
    plywood.ok(["rmi", "base"]);
    plywood.sound();
}
