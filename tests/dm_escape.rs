//! What a pool gives besides what overlay gives: two containers of one image share no page of memory.

mod common;

use common::{Plywood, busybox_tar};

#[test]
fn dm_e18_no_container_sees_what_another_one_writes() {
    let plywood = Plywood::new("thin");
    let base = plywood.beside("base.tar");
    busybox_tar(&base);
    plywood.ok(["import", base.to_str().expect("UTF-8"), "base"]);
    common::siblings_keep_to_themselves(&plywood, "base");
    // A page belongs to a device, and each container has one of its own: what a fault of the kernel's writes into
    // the pages of a file stays in the container that it was read in.
    let device = |name: &str| plywood.ok(["run", "--name", name, "base", "stat", "-c", "%d", "/bin/busybox"]);
    assert_ne!(device("three"), device("four"));
}
