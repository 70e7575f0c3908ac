//! What `--json` prints on thin is what `docs/json.md` says.

mod common;

use common::json_page::Page;
use common::{Plywood, busybox_tar};

#[test]
fn dm_each_document_is_what_the_page_says() {
    let plywood = Plywood::new("thin");
    let mut page = Page::of("thin");
    page.holds(
        "pool",
        &plywood.json(["pool", "init", "--data-size", "1G", "--limit", "2G"]),
    );
    let base = plywood.beside("base.tar");
    busybox_tar(&base);
    page.holds(
        "import",
        &plywood.json(["import", base.to_str().expect("UTF-8"), "base"]),
    );
    plywood.ok(["run", "--name", "c", "base", "touch", "/new"]);
    page.holds("commit", &plywood.json(["commit", "c", "site"]));
    page.holds("inspect of an image", &plywood.json(["inspect", "site"]));
    page.holds("inspect of a container", &plywood.json(["inspect", "c"]));
    page.holds("df", &plywood.json(["df"]));
    page.holds("rm", &plywood.json(["rm", "c"]));
    let foretold = plywood.json(["rmi", "--dry-run", "site"]);
    let done = plywood.json(["rmi", "site"]);
    page.holds("rmi", &done);
    assert_eq!(foretold, done, "what rmi tells beforehand is what it does");
    assert!(done["layer_bytes"].as_u64() > Some(0));
    // As a repair leaves it that was cut short.
    std::fs::write(plywood.root().join("pool/repair"), "changed\n").expect("the mark");
    page.holds("pool", &plywood.json(["pool", "status"]));
    page.holds("pool repair", &plywood.json(["pool", "repair"]));
    assert_eq!(plywood.json(["pool", "detach"])["was_attached"], true);
    assert_eq!(plywood.json(["pool", "check"])["ok"], true);
    assert!(plywood.json(["pool", "trim"])["freed"].is_u64());
    page.was_all_seen(&["pool"]);
}
