//! Real programs in containers: nginx under load through a published port, bash with job control.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test ends where something is not as it must be"
)]

mod common;

use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use common::debian::debian_tar;
use common::explain::{append_programs, output};
use common::{Plywood, busybox_tar, own_network, wait, with_base, words};

const NGINX: &str = "\
daemon off; user root root; error_log stderr; pid /tmp/nginx.pid; worker_processes 2;
events { worker_connections 256; }
http {
  access_log off;
  client_body_temp_path /tmp/1; proxy_temp_path /tmp/2; fastcgi_temp_path /tmp/3; uwsgi_temp_path /tmp/4; scgi_temp_path /tmp/5;
  server { listen 80; root /site; }
}
";

/// The store, with an image of busybox and these programs.
fn with_programs(plywood: Plywood, programs: &[&Path]) -> Plywood {
    let base = plywood.beside("base.tar");
    busybox_tar(&base);
    append_programs(&base, programs);
    plywood.ok(["import", base.to_str().unwrap(), "base"]);
    plywood
}

/// Debian's nginx, unpacked and not installed: as a service it would be started on this machine.
fn nginx(folder: &Path) {
    let status =
        |command: &mut Command| assert!(command.current_dir(folder).status().unwrap().success(), "{command:?}");
    status(Command::new("apt-get").args(["download", "-qq", "nginx"]));
    let package = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let package = package
        .into_iter()
        .find(|path| path.extension().is_some_and(|end| end == "deb"))
        .unwrap();
    status(Command::new("dpkg-deb").arg("-x").arg(package).arg("."));
}

#[test]
fn nginx_serves_through_a_published_port_under_load() {
    let folder = tempfile::tempdir().unwrap();
    nginx(folder.path());
    own_network();
    let program = folder.path().join("usr/sbin/nginx");
    let plywood = with_programs(Plywood::new("overlay").with_network(), &[&program]);
    let site = plywood.beside("site");
    fs::create_dir(&site).unwrap();
    fs::write(site.join("index.html"), "<h1>Layer upon layer</h1>\n").unwrap();
    fs::write(plywood.beside("nginx.conf"), NGINX).unwrap();
    let mounts = [
        format!("{}:/site:ro", site.display()),
        format!("{}:/nginx.conf:ro", plywood.beside("nginx.conf").display()),
    ];
    let inside = format!("/{}", program.strip_prefix("/").unwrap().display());
    plywood.ok([
        "run",
        "-d",
        "--name",
        "web",
        "-p",
        "8080:80",
        "-v",
        &mounts[0],
        "-v",
        &mounts[1],
        "base",
        &inside,
        "-c",
        "/nginx.conf",
    ]);
    let get = || {
        Command::new("curl")
            .args(["-sf", "http://127.0.0.1:8080/"])
            .output()
            .unwrap()
    };
    wait::until_ok("nginx answers", || match get().stdout.as_slice() {
        b"<h1>Layer upon layer</h1>\n" => Ok(()),
        _ => Err(plywood.ok(["logs", "web"])),
    });
    let load = output("wrk", &["-t", "2", "-c", "32", "-d", "10s", "http://127.0.0.1:8080/"]);
    assert!(!load.contains("Socket errors") && !load.contains("Non-2xx"), "{load}");
    let requests = load
        .lines()
        .find_map(|line| line.split_once(" requests in "))
        .unwrap()
        .0
        .trim();
    assert!(requests.parse::<u64>().unwrap() > 100, "{load}");
    plywood.ok(["stop", "web"]);
    assert_eq!(plywood.ok(["wait", "web"]), "0");
    assert!(!get().status.success());
}

/// A person at tmux(1).
struct Person {
    socket: String,
}

impl Person {
    fn at(command: &str, socket: &str) -> Self {
        let person = Self {
            socket: socket.to_owned(),
        };
        person.tmux(&["-f", "/dev/null", "new-session", "-d", "-x", "100", "-y", "30", command]);
        person
    }

    fn tmux(&self, args: &[&str]) -> String {
        output("tmux", &[&["-L", &self.socket], args].concat())
    }

    /// Types a line, or keys by their names.
    fn types(&self, keys: &[&str]) {
        self.tmux(&[&["send-keys"], keys].concat());
    }

    #[track_caller]
    fn sees(&self, text: &str) {
        wait::until_ok(&format!("{text:?} on the screen"), || {
            let screen = self.tmux(&["capture-pane", "-p"]);
            match screen.lines().any(|line| line.trim_end() == text) {
                true => Ok(()),
                false => Err(format!("\n{screen}")),
            }
        });
    }
}

impl Drop for Person {
    fn drop(&mut self) {
        let _ = Command::new("tmux").args(["-L", &self.socket, "kill-server"]).output();
    }
}

#[test]
fn bash_has_job_control() {
    let plywood = with_programs(Plywood::new("overlay"), &[Path::new("/bin/bash")]);
    let run = [
        "run", "--rm", "-it", "--net", "none", "-e", "PS1=> ", "base", "bash", "--norc",
    ];
    let command = words(&plywood.command(run));
    let person = Person::at(&command, &format!("plywood-{}", std::process::id()));
    person.sees(">");
    person.types(&["echo size $(stty size)", "Enter"]);
    person.sees("size 30 100");
    // Stopped by a key, gone on with in the background, brought back, ended by a key.
    person.types(&["sleep 1000", "Enter"]);
    person.sees("> sleep 1000");
    person.types(&["C-z"]);
    person.sees("[1]+  Stopped                 sleep 1000");
    person.types(&["bg", "Enter"]);
    person.sees("[1]+ sleep 1000 &");
    person.types(&["jobs", "Enter"]);
    person.sees("[1]+  Running                 sleep 1000 &");
    person.types(&["fg", "Enter"]);
    person.sees("sleep 1000");
    person.types(&["C-c"]);
    person.types(&["echo code $?", "Enter"]);
    person.sees("code 130");
    person.tmux(&["resize-window", "-x", "90", "-y", "20"]);
    person.types(&["clear; echo size $(stty size)", "Enter"]);
    person.sees("size 20 90");
    person.types(&["exit", "Enter"]);
    wait::until("it goes", || plywood.json(["ps", "-a"]) == serde_json::json!([]));
}

#[test]
fn an_init_buries_orphans_and_passes_signals_on() {
    let plywood = with_base();
    // The shell leaves an orphan, and is not the first process.
    let script = "(sleep 0.1 &); sleep 0.5; ps -o pid,stat,comm; echo $$";
    let seen = plywood.ok(["run", "--rm", "--init", "base", "sh", "-c", script]);
    assert!(!seen.contains('Z') && seen.ends_with("\n2"), "{seen}");
    plywood.fails(7, ["run", "--rm", "--init", "base", "sh", "-c", "exit 7"]);
    plywood.fails(143, ["run", "--rm", "--init", "base", "sh", "-c", "kill -TERM $$"]);
    plywood.fails(127, ["run", "--rm", "--init", "base", "no-such-command"]);
    plywood.fails(126, ["run", "--rm", "--init", "base", "/etc"]);
    // A command without handlers ends at TERM: it is no first process.
    plywood.ok(["run", "-d", "--init", "--name", "one", "base", "sleep", "1000"]);
    plywood.ok(["stop", "-t", "60", "one"]);
    assert_eq!(plywood.ok(["wait", "one"]), "143");
    let run = plywood.command(["run", "--rm", "-it", "--init", "base", "sh", "-c", "stty size; exit 4"]);
    let words = words(&run);
    let script = format!("stty rows 33 cols 77; {}; echo code $?", words);
    let mut script = Command::new("script")
        .args(["-qec", &script, "/dev/null"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let person = script.stdin.take();
    let output = script.wait_with_output().unwrap();
    drop(person);
    let text = String::from_utf8_lossy(&output.stdout).replace('\r', "");
    assert!(text.ends_with("33 77\ncode 4\n"), "{text}");
}

/// What a forward proxy needs to be for apt: it passes a connection on to the host that its first request names.
fn pass_on(mut client: std::net::TcpStream) -> std::io::Result<()> {
    let mut head = [0; 4096];
    let length = client.read(&mut head)?;
    let text = String::from_utf8_lossy(&head[..length]);
    let host = text.split(' ').nth(1).and_then(|url| url.strip_prefix("http://"));
    let host = host
        .and_then(|rest| rest.split('/').next())
        .unwrap_or_default()
        .to_owned();
    let mut server = std::net::TcpStream::connect((host.as_str(), 80))?;
    server.write_all(&head[..length])?;
    let (mut back, mut to_client) = (server.try_clone()?, client.try_clone()?);
    let answers = std::thread::spawn(move || std::io::copy(&mut back, &mut to_client));
    std::io::copy(&mut client, &mut server)?;
    server.shutdown(std::net::Shutdown::Write)?;
    answers.join().unwrap().map(drop)
}

/// The container's own network is the bridge of a namespace that the test made. What leads from there to Debian's
/// packages is a proxy: its socket listens in that namespace, its thread connects from this machine's own.
#[test]
fn apt_get_installs_a_package_in_a_bridged_container() {
    let plywood = Plywood::new("overlay").with_network();
    plywood.ok(["import", debian_tar().to_str().unwrap(), "debian"]);

    let (give, take) = std::sync::mpsc::channel::<std::net::TcpListener>();
    std::thread::spawn(move || {
        let listener = take.recv().unwrap();
        while let Ok((client, _)) = listener.accept() {
            std::thread::spawn(move || pass_on(client));
        }
    });
    own_network();
    give.send(std::net::TcpListener::bind("0.0.0.0:3128").unwrap()).unwrap();
    // The third field of the default route is the gateway, its bytes the other way round.
    let script = "
        set -e
        hex=$(awk '$2 == \"00000000\" { print $3 }' /proc/net/route)
        gateway=$(printf '%d.%d.%d.%d' 0x${hex#??????} 0x$(echo $hex | cut -c5-6) 0x$(echo $hex | cut -c3-4) 0x$(echo $hex | cut -c1-2))
        echo \"Acquire::http::Proxy \\\"http://$gateway:3128\\\";\" > /etc/apt/apt.conf.d/proxy
        apt-get update -qq && apt-get install -qq --no-install-recommends tree > /dev/null
        tree --version";
    let seen = plywood.ok(["run", "--name", "one", "debian", "sh", "-c", script]);
    assert!(seen.contains("tree v"), "{seen}");
    plywood.ok(["commit", "one", "with-tree"]);
    assert!(
        plywood
            .ok(["run", "--rm", "--net", "none", "with-tree", "tree", "--version"])
            .contains("tree v")
    );
}
