//! What a pool gives besides what overlay gives: two containers of one image share no page of memory.

mod common;

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use common::{Plywood, import_base, nodes};

fn with_base() -> Plywood {
    let plywood = Plywood::new("thin");
    import_base(&plywood);
    plywood
}

#[test]
fn dm_only_a_privileged_container_opens_device_nodes_of_its_own() {
    nodes::only_a_privileged_container_opens_its_own(&with_base());
}

#[test]
fn dm_e18_no_container_sees_what_another_one_writes() {
    let plywood = with_base();
    common::siblings_keep_to_themselves(&plywood, "base");
    // A page belongs to a device, and each container has one of its own: what a fault of the kernel's writes into
    // the pages of a file stays in the container that it was read in.
    let mut held = ["three", "four"].map(|name| {
        let run = [
            "run",
            "-i",
            "--rm",
            "--name",
            name,
            "base",
            "sh",
            "-c",
            "stat -c %d /; read line",
        ];
        let mut child = plywood
            .command(run)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("plywood starts");
        let mut device = String::new();
        let said = child.stdout.take().expect("a pipe");
        BufReader::new(said).read_line(&mut device).expect("a line");
        (child, device)
    });
    assert!(!held[0].1.is_empty());
    assert_ne!(held[0].1, held[1].1);
    for (child, _) in &mut held {
        drop(child.stdin.take());
        child.wait().expect("its end");
    }
}
