//! Networks on a kernel with IPv4 nftables, in network namespaces of the tests' own: this kernel's, not the guest's.

#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it must be")]

mod common;

use std::fs;
use std::net::Ipv4Addr;
use std::time::Instant;

use common::explain::{Shell, base_tar, explained, output, path};
use common::{Plywood, busybox_tar, heard, own_network, wait};

/// A store's sweep must not take what another store's container has got since: the address, and the port.
#[test]
fn a_sweep_leaves_what_is_another_containers_by_now() {
    own_network();
    let stores = [(); 2].map(|()| Plywood::new("overlay").with_network());
    let base = stores[0].beside("base.tar");
    busybox_tar(&base);
    let start = |store: &Plywood| {
        store.ok(["import", base.to_str().unwrap(), "base"]);
        let script = "nc -ll -p 80 -e echo here";
        let run = ["run", "--name", "one", "-p", "8080:80", "base", "sh", "-c", script];
        // The only address there is.
        store.command(run).env("PLYWOOD_POOL", "10.9.0.0/30").spawn().unwrap()
    };
    let answers = || [(Ipv4Addr::new(10, 9, 0, 2), 80), (Ipv4Addr::LOCALHOST, 8080)].map(heard);
    let mut first = start(&stores[0]);
    assert_eq!(answers(), ["here\n", "here\n"]);
    first.kill().unwrap();
    first.wait().unwrap();
    wait::until("the kernel takes the link away", || {
        !output("ip", &["-o", "link"]).contains("ply0a090002")
    });
    let rule = || output("nft", &["list", "map", "ip", "plywood", "by_port"]).contains("tcp . 8080 : 10.9.0.2 . 80");
    assert!(rule(), "what a killed plywood leaves");

    let mut second = start(&stores[1]);
    assert_eq!(answers(), ["here\n", "here\n"]);
    stores[0].ok(["gc"]);
    assert_eq!(answers(), ["here\n", "here\n"]);
    assert_eq!(stores[0].json(["inspect", "one"])[0]["ip"], serde_json::Value::Null);
    second.kill().unwrap();
    second.wait().unwrap();
    stores[0].ok(["gc"]);
    assert!(rule(), "it is not the first store's");
    wait::until("the second store sweeps its own", || {
        stores[1].ok(["gc"]);
        !rule()
    });
}

/// Links, rules and files of containers.
fn left(plywood: &Plywood) -> String {
    let mut left = output("ip", &["-o", "link"]);
    left.push_str(&output("nft", &["list", "ruleset"]));
    let files = fs::read_dir(plywood.root().join("network")).into_iter().flatten();
    left.extend(files.map(|file| format!("file {}\n", file.unwrap().file_name().display())));
    let ours = |line: &&str| line.contains("ply0") || line.contains("tcp . 8080") || line.starts_with("file ");
    left.lines().filter(ours).filter(|line| *line != "file .lock").collect()
}

/// Whenever plywood is killed, one command later there is no link, no rule and no file of the container's.
#[test]
fn a_plywood_killed_at_any_moment_leaves_nothing() {
    own_network();
    let plywood = Plywood::new("overlay").with_network();
    let base = plywood.beside("base.tar");
    busybox_tar(&base);
    plywood.ok(["import", base.to_str().unwrap(), "base"]);
    let run = ["run", "--rm", "-p", "8080:80", "base", "true"];
    let begun = Instant::now();
    plywood.ok(run);
    let whole = begun.elapsed();
    for step in 0..30 {
        let mut child = plywood.command(run).spawn().unwrap();
        std::thread::sleep(whole * step / 30);
        child.kill().unwrap();
        child.wait().unwrap();
        // The kernel ends the first process, and then its namespace, in its own time.
        wait::until_nothing(&format!("step {step}: a command clears up"), || {
            plywood.ok(["gc"]);
            left(&plywood)
        });
    }
    plywood.ok(run);
    // The link goes with its namespace, in the kernel's own time.
    wait::until_nothing("the link goes", || left(&plywood));
    assert_eq!(plywood.json(["ps", "-a"]), serde_json::json!([]));
    plywood.sound();
}

/// `--explain` of a run on the bridge, typed into a shell line by line in a network namespace that has nothing of
/// plywood's, gives a container that answers on the same address and the same published port.
#[test]
fn what_explain_prints_makes_a_container_that_answers_on_the_same_address() {
    own_network();
    // ip-netns(8) keeps its names in /run.
    plywood::sys::mount::enter_private_namespace().unwrap();
    nix::mount::mount(
        None::<&str>,
        "/run",
        Some("tmpfs"),
        nix::mount::MsFlags::empty(),
        None::<&str>,
    )
    .unwrap();
    let plywood = Plywood::new("overlay").with_network();
    let base = plywood.beside("base.tar");
    base_tar(&base);
    let import = explained(&plywood, &["import", base.to_str().unwrap(), "base"]);

    let said = plywood.beside("said");
    let script = "nc -l -p 7 -e echo direct; nc -l -p 7 -e echo published";
    let mut run = plywood
        .command([
            "--explain",
            "run",
            "--name",
            "c",
            "-p",
            "8080:7",
            "base",
            "sh",
            "-c",
            script,
        ])
        .stderr(fs::File::create(&said).unwrap())
        .spawn()
        .unwrap();
    let address = wait::until_ok("it has an address", || match plywood.json(["ps"])[0]["ip"].as_str() {
        Some(ip) => Ok(ip.parse::<Ipv4Addr>().unwrap()),
        None => Err(fs::read_to_string(&said).unwrap()),
    });
    let answers = move || [heard((address, 7)), heard((Ipv4Addr::LOCALHOST, 8080))];
    assert_eq!(answers(), ["direct\n", "published\n"]);
    assert!(run.wait().unwrap().success());

    own_network();
    let second = plywood.beside("second");
    let mut shell = Shell::start();
    let mut types = |line: &str| shell.types(&line.replace(&path(&plywood.root()), &path(&second)));
    import.iter().for_each(|line| types(line));
    types("exit");
    let said = fs::read_to_string(&said).unwrap();
    let asked = std::thread::spawn(answers);
    said.lines().filter_map(|line| line.strip_prefix("+ ")).for_each(types);
    assert_eq!(asked.join().unwrap(), ["direct\n", "published\n"]);
    let links = output("ip", &["-o", "link"]);
    assert!(links.contains("plywood0") && !links.contains("ply0ad6"), "{links}");
}
