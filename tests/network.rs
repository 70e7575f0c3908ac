//! Networks on a kernel with IPv4 nftables, in network namespaces of the tests' own: this kernel's, not the guest's.

#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it must be")]

mod common;

use std::fs;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use common::explain::{Shell, base_tar, explained, output, path};
use common::{Plywood, heard, own_network};

/// Longer than anything here takes, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

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
    let begun = Instant::now();
    let address = loop {
        let shown = plywood.json(["ps"]);
        if let Some(ip) = shown[0]["ip"].as_str() {
            break ip.parse::<Ipv4Addr>().unwrap();
        }
        assert!(begun.elapsed() < PATIENCE, "{}", fs::read_to_string(&said).unwrap());
        std::thread::sleep(Duration::from_millis(20));
    };
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
