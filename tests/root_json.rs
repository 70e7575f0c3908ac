//! What `--json` prints is what `docs/json.md` says: each verb's document, field by field.

#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it must be")]

mod common;

use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixListener;
use std::process::Stdio;

use common::json_page::Page;
use common::{Plywood, busybox_tar, own_network};

/// What the container does: a change of each kind; then it waits for the end of its input.
const EDIT: &str = "echo x > /etc/motd; rm /usr/share/doc/b; echo y >> /etc/hosts; echo ready; cat";

#[test]
fn root_each_document_is_what_the_page_says() {
    own_network();
    let plywood = Plywood::new("overlay").with_network();
    let mut page = Page::of("overlay");
    let base = plywood.beside("base.tar");
    busybox_tar(&base);
    let out = plywood.beside("out.tar");
    let (base, out) = (base.to_str().unwrap(), out.to_str().unwrap());
    let empty = plywood.json(["images"]);
    assert_eq!(empty, serde_json::json!([]), "an unused root has documents too");

    page.holds("import", &plywood.json(["import", base, "base"]));
    let mut running = plywood
        .command(["run", "--name", "c", "-i", "base", "sh", "-c", EDIT])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(running.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    let document = plywood.json(["inspect", "c"]);
    page.holds("inspect of a container", &document);
    page.holds("ps", &plywood.json(["ps"]));
    let rootfs = document[0]["rootfs"].as_str().unwrap();
    // What no layer can hold.
    drop(UnixListener::bind(format!("{rootfs}/root/socket")).unwrap());
    assert_eq!(document[0]["stack"][0]["kind"], "mount");
    assert_eq!(document[0]["stack"][0]["name"], rootfs);
    drop(running.stdin.take());
    assert!(running.wait().unwrap().success());
    page.holds("ps", &plywood.json(["ps", "-a"]));

    page.holds("diff", &plywood.json(["diff", "c"]));
    let commit = ["commit", "-a", "somebody", "-m", "an edit", "c", "site"];
    page.holds("commit", &plywood.json(commit));
    page.holds("export", &plywood.json(["export", "-o", out, "site"]));
    let context = plywood.beside("context");
    std::fs::create_dir(&context).unwrap();
    std::fs::write(context.join("Dockerfile"), "FROM base\nRUN echo x > /x\n").unwrap();
    page.holds(
        "build",
        &plywood.json(["build", "-t", "built", context.to_str().unwrap()]),
    );
    page.holds("images", &plywood.json(["images"]));
    page.holds("history", &plywood.json(["history", "site"]));
    page.holds("tree", &plywood.json(["tree"]));
    page.holds("df", &plywood.json(["df"]));
    page.holds("doctor", &plywood.json(["doctor"]));
    page.holds("check", &plywood.json(["check", "--data", "--rebuild"]));
    page.holds("mount", &plywood.json(["mount", "c"]));
    page.holds("inspect of an image", &plywood.json(["inspect", "site"]));
    page.holds("inspect of a container", &plywood.json(["inspect", "c"]));
    plywood.ok(["umount", "c"]);
    plywood.ok([
        "run",
        "-d",
        "--name",
        "d",
        "-m",
        "64m",
        "-v",
        "data:/mnt",
        "base",
        "sleep",
        "1000",
    ]);
    page.holds("stats", &plywood.json(["stats", "d"]));
    page.holds("volume ls", &plywood.json(["volume", "ls"]));
    page.holds("kill", &plywood.json(["kill", "-s", "CONT", "d"]));
    page.holds("stop", &plywood.json(["stop", "-t", "0", "d"]));
    page.holds("wait", &plywood.json(["wait", "d"]));
    plywood.ok(["rm", "d"]);
    page.holds("rm", &plywood.json(["rm", "c"]));

    page.holds("rmi", &plywood.json(["rmi", "--dry-run", "site"]));
    page.holds("rmi", &plywood.json(["rmi", "site"]));
    page.holds("rmi", &plywood.json(["rmi", "built"]));
    plywood.ok(["import", base]);
    page.holds("gc", &plywood.json(["gc", "--build-cache"]));
    page.was_all_seen(&[
        "import",
        "commit",
        "build",
        "export",
        "images",
        "history",
        "inspect of an image",
        "inspect of a container",
        "tree",
        "ps",
        "stats",
        "volume ls",
        "kill",
        "stop",
        "wait",
        "diff",
        "mount",
        "rm",
        "rmi",
    ]);
}
