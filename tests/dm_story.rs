//! The main job on a real thin pool, and that both drivers make the same of it.

mod common;

use common::{Plywood, busybox_tar, story};

#[test]
fn dm_the_same_edits_give_the_same_ids_on_thin_and_on_overlay() {
    let (thin, overlay) = (Plywood::new("thin"), Plywood::new("overlay"));
    assert_eq!(story(&thin), story(&overlay));
    thin.sound();
    overlay.sound();
}

#[test]
fn dm_layers_are_removed_and_come_back_the_same() {
    let plywood = Plywood::new("thin");
    let base = plywood.beside("base.tar");
    busybox_tar(&base);
    let base_id = plywood.ok(["import", base.to_str().expect("UTF-8"), "base"]);
    plywood.ok(["run", "--name", "c", "base", "sh", "-c", "echo hello > /srv-file"]);
    let id = plywood.ok(["commit", "c", "site"]);
    let archive = plywood.beside("site.tar");
    let archive = archive.to_str().expect("UTF-8");
    let since = plywood.beside("since.tar");
    let since = since.to_str().expect("UTF-8");
    plywood.ok(["export", "-o", archive, "site"]);
    plywood.ok(["export", "--since", "base", "-o", since, "site"]);
    plywood.ok(["rm", "c"]);
    plywood.ok(["rmi", "site"]);
    assert_eq!(plywood.ok(["import", since]), id);
    plywood.ok(["rmi", "site", "base"]);
    let error = plywood.fails(1, ["import", since]);
    assert!(error.contains("sha256:"), "the missing layer is named: {error}");
    assert_eq!(plywood.ok(["import", archive]), id);
    assert_eq!(plywood.ok(["import", base.to_str().expect("UTF-8"), "base"]), base_id);
    assert_eq!(plywood.ok(["run", "--rm", "site", "cat", "/srv-file"]), "hello");
    plywood.sound();
}

#[test]
fn dm_the_pool_is_there_again_after_it_was_taken_out_of_the_kernel() {
    let plywood = Plywood::new("thin");
    let base = plywood.beside("base.tar");
    busybox_tar(&base);
    plywood.ok(["import", base.to_str().expect("UTF-8"), "base"]);
    plywood.ok(["pool", "detach"]);
    assert_eq!(
        plywood.ok(["run", "--rm", "base", "readlink", "/usr/share/link"]),
        "doc/b"
    );
    plywood.sound();
}

#[test]
fn dm_the_stack_of_an_image_reaches_down_to_its_file() {
    let plywood = Plywood::new("thin");
    let base = plywood.beside("base.tar");
    busybox_tar(&base);
    plywood.ok(["import", base.to_str().expect("UTF-8"), "base"]);
    let document = plywood.json(["inspect", "base"]);
    let layer = &document[0]["layers"][0];
    assert!(layer["thin_id"].is_u64(), "{document}");
    let kinds: Vec<&str> = layer["stack"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|item| item["kind"].as_str())
        .collect();
    assert!(kinds.contains(&"pool") && kinds.contains(&"file"), "{kinds:?}");
}

/// The layers of a bad archive that came before the bad one have volumes by then: they go again.
#[test]
fn dm_bad_archives_are_refused_and_leave_the_pool_as_it_was() {
    let plywood = Plywood::new("thin");
    let base = plywood.beside("base.tar");
    busybox_tar(&base);
    let base = base.to_str().expect("UTF-8");
    plywood.ok(["import", base, "base"]);
    plywood.ok(["run", "--name", "c", "base", "sh", "-c", "echo marked > /new"]);
    plywood.ok(["commit", "c", "site"]);
    let good = plywood.beside("good.tar");
    plywood.ok(["export", "-o", good.to_str().expect("UTF-8"), "site"]);
    let good = std::fs::read(good).expect("an archive");
    plywood.ok(["rm", "c"]);
    plywood.ok(["rmi", "site", "base"]);
    plywood.ok(["gc"]);
    let before = plywood.json(["df"]);

    let at = good
        .windows(7)
        .position(|bytes| bytes == b"marked\n")
        .expect("the content");
    let mut flipped = good.clone();
    flipped[at] ^= 1;
    let truncated = good[..good.len() / 2].to_vec();
    let base = std::fs::read(base).expect("a tar");
    for (what, archive) in [
        ("flipped", flipped),
        ("truncated", truncated),
        ("half a tar", base[..base.len() / 2].to_vec()),
    ] {
        let path = plywood.beside("bad.tar");
        std::fs::write(&path, archive).expect("a file");
        let error = plywood.fails(1, ["import", path.to_str().expect("UTF-8"), "bad"]);
        assert!(error.starts_with("Error: "), "{what}: {error}");
        plywood.ok(["gc"]);
        assert_eq!(plywood.json(["images"]), serde_json::json!([]), "{what}");
        assert_eq!(plywood.json(["df"])["layers"], before["layers"], "{what}");
        plywood.sound();
    }
}

/// By the blocks in which they differ; and by a walk, in a store that has no blocks.
#[test]
fn dm_two_images_differ_by_blocks_as_by_a_walk() {
    let (thin, overlay) = (Plywood::new("thin"), Plywood::new("overlay"));
    let mut ids = story(&thin);
    let aside = "echo aside >/srv/aside; rm -r /srv/site/img; mv /usr/share/doc /usr/share/aside";
    thin.ok(["run", "--name", "aside", "step1", "sh", "-c", aside]);
    ids.push(thin.ok(["commit", "aside", "aside"]));
    let archive = thin.beside("all.tar");
    let archive = archive.to_str().expect("UTF-8");
    thin.ok(["export", "-o", archive]
        .into_iter()
        .chain(ids.iter().map(String::as_str)));
    overlay.ok(["import", archive]);
    for from in &ids {
        for to in &ids {
            let output = thin.run(["-v", "diff", from, to]);
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(
                output.status.success() && !said.contains("by a walk"),
                "{from} {to}: {said}"
            );
            let lines = String::from_utf8_lossy(&output.stdout).into_owned();
            assert_eq!(lines.trim(), overlay.ok(["diff", from, to]), "{from} {to}");
        }
    }
    // What stands on something else is walked through.
    let tar = common::tars::archive(&[common::tars::file("alone", "x")]);
    thin.fed(["import", "-", "alone"], &tar);
    assert!(thin.ok(["diff", "step0", "alone"]).contains("A /alone"));
    thin.sound();
}
