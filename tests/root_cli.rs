//! What a person at the command line sees: the terminal, the figures, the words of refusals.

#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it must be")]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

use common::terminal::{Shown, on_a_terminal};
use common::{Plywood, busybox_tar, import_base};

/// A store with the image `base`.
fn with_base() -> Plywood {
    let plywood = Plywood::new("overlay");
    import_base(&plywood);
    plywood
}

#[test]
fn root_a_progress_bar_takes_no_explained_line_away() {
    let plywood = Plywood::new("overlay");
    let tar = plywood.beside("base.tar");
    busybox_tar(&tar);
    let tar = tar.to_str().unwrap();
    plywood.ok(["import", tar, "base"]);
    let words = ["--explain", "-v", "import", "--layer", "--parent", "base", tar, "top"];
    let Shown { code, screen, .. } = on_a_terminal(&plywood.command(words), 50, 1000);
    assert_eq!(code, 0, "{screen:#?}");
    for wanted in ["+ tar ", "+ mkdir -p ", "+ umount ", "+ sync -f ", "+ rmdir "] {
        let seen = screen.iter().any(|line| line.starts_with(wanted));
        assert!(seen, "no line begins with {wanted:?}: {screen:#?}");
    }
}

/// Bytes that `df` adds up for a kind, and how many there are.
fn space(plywood: &Plywood, kind: &str) -> (u64, u64) {
    let document = plywood.json(["df"]);
    let mut rows = document["kinds"].as_array().unwrap().iter();
    let row = rows.find(|row| row["kind"] == kind).unwrap();
    (row["bytes"].as_u64().unwrap(), row["count"].as_u64().unwrap())
}

#[test]
fn root_rmi_frees_what_it_foretells_and_df_shows_it() {
    let plywood = with_base();
    plywood.ok(["run", "--name", "c", "base", "cp", "/bin/busybox", "/copy"]);
    plywood.ok(["commit", "c", "site"]);
    plywood.ok(["rm", "c"]);
    let taken = || space(&plywood, "blobs").0 + space(&plywood, "layers").0;
    let before = taken();
    let foretold = plywood.json(["rmi", "--dry-run", "site"]);
    assert_eq!(taken(), before, "nothing is removed");
    let done = plywood.json(["rmi", "site"]);
    assert_eq!(done, foretold);
    assert_eq!(Some(before - taken()), done["freed_bytes"].as_u64());
}

#[test]
fn root_df_counts_containers_and_lists_layers_base_first() {
    let plywood = with_base();
    for (from, to) in [("base", "one"), ("one", "two"), ("base", "three")] {
        let name = format!("c-{to}");
        plywood.ok(["run", "--name", &name, from, "touch", &format!("/{to}")]);
        plywood.ok(["commit", &name, to]);
    }
    plywood.ok(["mount", "base"]);
    assert_eq!(space(&plywood, "containers").1, 3, "what mount shows is no container");
    let layers = plywood.json(["df"])["layers"].clone();
    let chains: Vec<&str> = layers
        .as_array()
        .unwrap()
        .iter()
        .map(|layer| layer["chain_id"].as_str().unwrap())
        .collect();
    for image in ["base", "one", "two", "three"] {
        let document = plywood.json(["inspect", image]);
        let stack = document[0]["layers"].as_array().unwrap().iter();
        let places: Vec<usize> = stack
            .map(|layer| chains.iter().position(|chain| layer["chain_id"] == *chain).unwrap())
            .collect();
        assert!(places.is_sorted(), "{image}: {places:?}");
    }
}

#[test]
fn root_refusals_name_what_the_user_knows() {
    let plywood = with_base();
    plywood.ok(["run", "--name", "c", "base", "touch", "/new"]);
    let shown = plywood.ok(["mount", "c"]);
    for (code, args) in [
        (1, vec!["commit", "c", "x"]),
        (1, vec!["diff", "c"]),
        (125, vec!["start", "c"]),
    ] {
        let error = plywood.fails(code, &args);
        assert!(
            error.contains(&format!("container c is mounted at {shown}")),
            "{args:?}: {error}"
        );
    }
    plywood.ok(["umount", "c"]);
    let digest = format!("x@sha256:{}", "0".repeat(64));
    for args in [
        vec!["commit", "c", &digest],
        vec!["tag", "base", &digest],
        vec!["import", "/dev/null", &digest],
    ] {
        let error = plywood.fails(2, &args);
        assert!(error.contains("digest"), "{args:?}: {error}");
    }
    let folder = ["export", "--format", "oci-dir", "-o", "-", "base"];
    assert!(plywood.fails(2, folder).contains("standard output"));
    let same = [
        "pool",
        "init",
        "--data-device",
        "/dev/null",
        "--metadata-device",
        "/dev/null",
    ];
    assert!(plywood.fails(2, same).contains("one device"));
}

#[test]
fn root_missing_layers_are_told_in_good_grammar() {
    let plywood = with_base();
    let update = plywood.beside("update.tar");
    let update = update.to_str().unwrap();
    for (from, to) in [("base", "one"), ("one", "two")] {
        let name = format!("c-{to}");
        plywood.ok(["run", "--name", &name, from, "touch", &format!("/{to}")]);
        plywood.ok(["commit", &name, to]);
    }
    plywood.ok(["export", "--since", "one", "-o", update, "two"]);
    let elsewhere = Plywood::new("overlay");
    let error = elsewhere.fails(1, ["import", update]);
    assert!(error.contains(") are neither in"), "{error}");
}

#[test]
fn root_another_users_root_says_sudo() {
    let plywood = with_base();
    // As nobody sees it: a folder that may be entered, and in it root's own.
    fs::set_permissions(plywood.beside(""), fs::Permissions::from_mode(0o755)).unwrap();
    let binary = plywood.beside("plywood");
    fs::copy(env!("CARGO_BIN_EXE_plywood"), &binary).unwrap();
    let output = Command::new(binary)
        .arg("--root")
        .arg(plywood.root())
        .arg("images")
        .uid(65534)
        .gid(65534)
        .output()
        .unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("Hint: run it with sudo"), "{error}");
}

#[test]
fn root_events_in_a_pipe_have_no_colours() {
    let plywood = with_base();
    let output = plywood.run(["-vv", "run", "--rm", "base", "true"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("DEBUG") && !said.contains('\u{1b}'), "{said:?}");
}

#[test]
fn help_is_a_verb_too() {
    let plywood = Plywood::new("overlay");
    assert!(plywood.ok(["help", "run"]).contains("Example"));
    assert!(plywood.ok(["help", "pool", "init"]).contains("Example"));
}
