//! The Dockerfiles of `examples/`, with Debian's own packages: they build, again from the cache, and what they
//! make runs.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test ends where something is not as it must be"
)]

mod common;

use std::fs;
use std::net::{Ipv4Addr, TcpStream};
use std::path::Path;
use std::process::Command;

use plywood_store::Digest;

use common::debian::debian_tar;
use common::explain::output;
use common::{Plywood, own_network, wait};
use serde_json::Value;

/// Found nowhere by chance.
const SECRET: &str = "plywood's token, which no layer has";

/// Builds the example twice: the second time every step is there, and it is the same image.
#[track_caller]
fn build(plywood: &Plywood, name: &str, options: &[&str]) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(name);
    let words = [&["build", "-t", name], options, &[folder.to_str().unwrap()]].concat();
    let first = plywood.json(&words);
    let second = plywood.json(&words);
    assert_eq!(first["id"], second["id"], "{name}");
    // What changes the config alone is done each time.
    let steps = second["steps"].as_array().unwrap().iter();
    let mut work = steps.filter(|step| ["RUN", "COPY"].contains(&word(step))).peekable();
    assert!(
        work.peek().is_some() && work.all(|step| step["cached"] == true),
        "{second:#}"
    );
}

/// A step's instruction.
fn word(step: &Value) -> &str {
    step["text"].as_str().unwrap().split(' ').next().unwrap()
}

fn config(plywood: &Plywood, name: &str) -> Value {
    plywood.json(["inspect", name])[0]["config"].clone()
}

/// The operators' image and a site on it: built with this machine's network, served in one of its own.
fn nginx(plywood: &Plywood) {
    build(plywood, "ops-nginx", &["--net", "host"]);
    plywood.ok(["run", "--rm", "ops-nginx", "nginx", "-t"]);
    assert_eq!(config(plywood, "ops-nginx")["StopSignal"], "SIGQUIT");
    build(plywood, "website-nginx", &["--build-arg", "TITLE=Layer upon layer"]);
    let config = config(plywood, "website-nginx");
    assert_eq!(config["ExposedPorts"], serde_json::json!({"80/tcp": {}}));
    assert_eq!(
        config["Healthcheck"]["Test"],
        serde_json::json!(["CMD", "nginx", "-t", "-q"])
    );
    assert_eq!(config["WorkingDir"], "/var/www/html");

    own_network();
    plywood.ok(["run", "-d", "--name", "web", "--net", "host", "website-nginx"]);
    wait::until_ok("nginx listens", || {
        TcpStream::connect((Ipv4Addr::LOCALHOST, 80)).map_err(|_| plywood.ok(["logs", "web"]))
    });
    let page = output("curl", &["-sf", "http://127.0.0.1/"]);
    assert!(page.contains("<h1>Layer upon layer</h1>"), "{page}");
    plywood.ok(["stop", "web"]);
    assert_eq!(plywood.ok(["wait", "web"]), "0");
    // What was asked for is in the log: it is the command's own output.
    let log = plywood.ok(["logs", "web"]);
    assert!(log.contains("GET / HTTP/1.1\" 200"), "{log}");
    plywood.ok(["rm", "web"]);
}

fn compiled(plywood: &Plywood) {
    build(plywood, "compiled", &["--net", "host"]);
    assert_eq!(plywood.ok(["run", "--rm", "compiled"]), "hello, world");
    assert_eq!(plywood.ok(["run", "--rm", "compiled", "you"]), "hello, you");
    // The compiler's stage is no part of it.
    let image = plywood.json(["inspect", "compiled"])[0].clone();
    assert_eq!(image["layers"].as_array().unwrap().len(), 1, "{image:#}");
}

fn python(plywood: &Plywood) {
    build(plywood, "python", &["--net", "host"]);
    assert_eq!(plywood.ok(["run", "--rm", "python"]), "hello 900");
    assert_eq!(plywood.ok(["run", "--rm", "python", "you"]), "hello you");
}

fn caches(plywood: &Plywood) {
    let token = plywood.beside("token");
    fs::write(&token, SECRET).unwrap();
    let secret = format!("id=token,src={}", token.display());
    build(plywood, "caches", &["--net", "host", "--secret", &secret]);
    let expected = Digest::of(SECRET.as_bytes()).to_string();
    let seen = plywood.ok(["run", "--rm", "caches"]);
    assert_eq!(format!("sha256:{seen}"), expected);
    // Packages are kept for the next build, and not in the image.
    let lists = [
        "run",
        "--rm",
        "caches",
        "find",
        "/var/cache/apt",
        "/var/lib/apt/lists",
        "-type",
        "f",
        // The base's own.
        "!",
        "-name",
        "lock",
    ];
    assert_eq!(plywood.ok(lists), "");
    let kept = output(
        "find",
        &[
            plywood.root().join("build/caches").to_str().unwrap(),
            "-name",
            "*Packages*",
        ],
    );
    assert!(!kept.is_empty());
}

#[test]
fn every_example_builds_and_runs() {
    let plywood = Plywood::new("overlay");
    plywood.ok(["import", debian_tar().to_str().unwrap(), "debian:12"]);
    // At once: most of the time they wait for packages.
    std::thread::scope(|scope| {
        for example in [nginx, compiled, python, caches] {
            let plywood = &plywood;
            scope.spawn(move || example(plywood));
        }
    });
    let found = Command::new("grep")
        .args(["-rlaF", SECRET])
        .arg(plywood.root())
        .output()
        .unwrap();
    assert_eq!(
        String::from_utf8(found.stdout).unwrap(),
        "",
        "files that hold the secret"
    );
    plywood.sound();
}
