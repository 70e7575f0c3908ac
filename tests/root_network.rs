//! Containers on the bridge: with each other, with the host, and what is left when they have ended.
//!
//! Each test has a network namespace of its own, so that nothing reaches this machine's network.
//! The guest's kernel has no IPv4 nftables: there the same tests want the note that says what still
//! works, and the refusal of `-p`.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test ends where something is not as it must be"
)]

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use common::{Plywood, heard, import_base, own_network, translates, wait};

/// A store with the image `base`, in a network namespace of this test's own.
fn with_base() -> Plywood {
    own_network();
    let plywood = Plywood::new("overlay").with_network();
    import_base(&plywood);
    plywood
}

/// A container that runs, and ends with this.
struct Running {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Running {
    /// `run` with these arguments, whose command has said `ready`.
    #[track_caller]
    fn start(plywood: &Plywood, args: &[&str]) -> Self {
        // What it notes about this kernel is another test's.
        let mut command = plywood.command(["--quiet", "run"].iter().chain(args));
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap());
        assert_eq!(line(&mut lines), "ready", "{args:?}");
        Self { child, lines }
    }

    fn line(&mut self) -> String {
        line(&mut self.lines)
    }

    fn ends(mut self) {
        drop(self.child.stdin.take());
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn line(from: &mut impl BufRead) -> String {
    let mut line = String::new();
    from.read_line(&mut line).unwrap();
    line.trim_end().to_owned()
}

/// Waits for the end of its input.
const WAITS: [&str; 4] = ["base", "sh", "-c", "echo ready; exec cat"];

fn inspect(plywood: &Plywood, name: &str) -> serde_json::Value {
    plywood.json(["inspect", name])[0].clone()
}

fn address(plywood: &Plywood, name: &str) -> Ipv4Addr {
    inspect(plywood, name)["ip"].as_str().unwrap().parse().unwrap()
}

/// What of plywood's this namespace has, but for the bridge and the table, which stay.
fn left(plywood: &Plywood) -> Vec<String> {
    let pairs = || -> Vec<String> { links().into_iter().filter(|name| name.starts_with("ply0")).collect() };
    // The kernel takes those of removed containers away in its own time.
    let mut left = wait::what_stays(Duration::from_secs(5), pairs);
    if translates() {
        let table = Command::new("nft")
            .args(["list", "table", "ip", "plywood"])
            .output()
            .unwrap();
        let table = String::from_utf8(table.stdout).unwrap();
        left.extend(
            table
                .lines()
                .filter(|line| line.contains("tcp . ") || line.contains("udp . "))
                .map(str::to_owned),
        );
    }
    let files = fs::read_dir(plywood.root().join("network")).into_iter().flatten();
    left.extend(
        files
            .map(|file| file.unwrap().file_name().into_string().unwrap())
            .filter(|name| name != ".lock"),
    );
    left
}

fn links() -> Vec<String> {
    let output = Command::new("ip").args(["-o", "link"]).output().unwrap();
    let output = String::from_utf8(output.stdout).unwrap();
    output
        .lines()
        .map(|line| line.split([':', '@']).nth(1).unwrap().trim().to_owned())
        .collect()
}

#[test]
fn root_experiment_only_lo_without_a_network() {
    let plywood = with_base();
    let shown = plywood.ok(["run", "--rm", "--net", "none", "base", "ip", "-o", "link"]);
    assert!(shown.lines().count() == 1 && shown.contains("lo:"), "{shown}");
    assert_eq!(links(), ["lo"], "and nothing was made for it");
}

#[test]
fn root_experiment_two_containers_exchange_a_line_by_netcat() {
    let plywood = with_base();
    let script = "echo ready; nc -l -p 7000; cat";
    let mut server = Running::start(&plywood, &["-i", "--name", "server", "base", "sh", "-c", script]);
    let client = [
        "run",
        "--rm",
        "--name",
        "client",
        "base",
        "sh",
        "-c",
        "echo hello | nc server 7000; cat /etc/hosts",
    ];
    let hosts = plywood.ok(client);
    assert_eq!(server.line(), "hello");
    let own = hosts.lines().find(|line| line.contains("\tclient ")).unwrap();
    let ip = address(&plywood, "server");
    assert!(
        hosts.contains(&format!("{ip}\tserver ")) && !own.starts_with(&ip.to_string()),
        "{hosts}"
    );
    // Names come and go while the server runs.
    let pid = inspect(&plywood, "server")["pid"].as_u64().unwrap();
    let seen = || fs::read_to_string(format!("/proc/{pid}/root/etc/hosts")).unwrap();
    let other = Running::start(&plywood, &[&["-i", "--name", "other"], &WAITS[..]].concat());
    assert!(
        seen().contains(&format!("{}\tother ", address(&plywood, "other"))),
        "{}",
        seen()
    );
    assert!(!seen().contains("client"), "{}", seen());
    other.ends();
    assert!(!seen().contains("other"), "{}", seen());
    server.ends();
    plywood.ok(["rm", "server", "other"]);
    assert_eq!(left(&plywood), [""; 0]);
}

#[test]
fn root_experiment_host_to_container_and_back() {
    let plywood = with_base();
    let listener = TcpListener::bind("0.0.0.0:7001").unwrap();
    let script = "echo ready; nc -l -p 7000 -e echo from inside; nc 10.214.0.1 7001";
    let running = Running::start(&plywood, &["--name", "one", "base", "sh", "-c", script]);
    let ip = address(&plywood, "one");
    assert_eq!(heard((ip, 7000)), "from inside\n");
    let (mut stream, from) = listener.accept().unwrap();
    assert_eq!(from.ip(), ip, "the container comes with its own address");
    stream.write_all(b"bye").unwrap();
    drop(stream);
    running.ends();
}

#[test]
fn root_experiment_the_network_namespace_is_entered_with_tools() {
    let plywood = with_base();
    let running = Running::start(&plywood, &[&["-i", "--name", "one"], &WAITS[..]].concat());
    let facts = inspect(&plywood, "one");
    let (netns, veth) = (facts["netns"].as_str().unwrap(), facts["host_veth"].as_str().unwrap());
    let inside = |args: &[&str]| {
        let output = Command::new("nsenter")
            .arg(format!("--net={netns}"))
            .args(args)
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let ip = address(&plywood, "one");
    assert!(inside(&["ip", "-4", "-o", "addr", "show", "eth0"]).contains(&format!("{ip}/16")));
    assert!(inside(&["ip", "route"]).contains("default via 10.214.0.1 dev eth0"));
    assert!(links().contains(&veth.to_owned()) && links().contains(&"plywood0".to_owned()));
    let shown = plywood.json(["ps"]);
    assert_eq!(shown[0]["ip"], facts["ip"]);
    running.ends();
    let ended = inspect(&plywood, "one");
    assert_eq!(
        (&ended["ip"], &ended["netns"]),
        (&serde_json::Value::Null, &serde_json::Value::Null)
    );
    // Started again it has an address again, and the same one, as it is free.
    let mut start = plywood.command(["start", "-ai", "one"]);
    let mut child = start.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    assert_eq!(line(&mut lines), "ready");
    assert_eq!(address(&plywood, "one"), ip);
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
    assert_eq!(left(&plywood), [""; 0]);
}

/// Says one line to each who connects.
const SERVES: &str = "nc -ll -p 80 -e echo tcp & echo ready; exec cat";

/// Sends one datagram back, from a container's network.
fn serve_datagram(netns: &str, port: u16) -> std::thread::JoinHandle<()> {
    let netns = fs::File::open(netns).unwrap();
    let (bound, waits) = std::sync::mpsc::channel();
    let server = std::thread::spawn(move || {
        nix::sched::setns(netns, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        let socket = UdpSocket::bind(("0.0.0.0", port)).unwrap();
        socket.set_read_timeout(Some(wait::PATIENCE)).unwrap();
        bound.send(()).unwrap();
        let mut buffer = [0; 64];
        let (length, from) = socket.recv_from(&mut buffer).unwrap();
        socket.send_to(&buffer[..length], from).unwrap();
    });
    waits.recv().unwrap();
    server
}

#[test]
fn root_published_ports_are_reached_by_every_address_of_the_host() {
    let plywood = with_base();
    let publish = ["-p", "8080:80", "-p", "127.0.0.1:5353:53/udp", "-p", "9000-9001:80-81"];
    let args = [&["-i", "--name", "one"], &publish[..], &["base", "sh", "-c", SERVES]].concat();
    if !translates() {
        let error = plywood.fails(125, [&["run"], &args[..]].concat());
        assert!(
            error.contains("cannot publish ports: there is no address translation"),
            "{error}"
        );
        assert!(error.contains("without -p the container runs"), "{error}");
        assert_eq!(left(&plywood), [""; 0]);
        assert_eq!(plywood.json(["ps", "-a"]), serde_json::json!([]));
        let said = String::from_utf8(plywood.run(["run", "--rm", "base", "true"]).stderr).unwrap();
        assert!(
            said.contains("containers and the host reach each other, nothing else"),
            "{said}"
        );
        return;
    }
    let running = Running::start(&plywood, &args);
    let gateway = Ipv4Addr::new(10, 214, 0, 1);
    for address in [Ipv4Addr::LOCALHOST, gateway, Ipv4Addr::new(127, 9, 9, 9)] {
        for port in [8080, 9000] {
            assert_eq!(heard((address, port)), "tcp\n", "{address}:{port}");
        }
    }
    // Another container reaches it by the host's address, and so does it itself.
    let from = |name: &str| {
        let line = format!("nc -w 5 {gateway} 8080 </dev/null");
        plywood.ok(["run", "--rm", "--net", name, "base", "sh", "-c", &line])
    };
    assert_eq!(from("bridge"), "tcp");
    assert_eq!(from("container:one"), "tcp");
    let server = serve_datagram(inspect(&plywood, "one")["netns"].as_str().unwrap(), 53);
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(wait::PATIENCE)).unwrap();
    socket.send_to(b"datagram", "127.0.0.1:5353").unwrap();
    let mut buffer = [0; 64];
    let (length, from) = socket.recv_from(&mut buffer).unwrap();
    assert_eq!((&buffer[..length], from.port()), (&b"datagram"[..], 5353));
    server.join().unwrap();

    let shown = plywood.ok(["ps"]);
    assert!(
        shown.contains("0.0.0.0:8080->80/tcp, 127.0.0.1:5353->53/udp"),
        "{shown}"
    );
    let error = plywood.fails(125, ["run", "--rm", "-p", "8080:81", "base", "true"]);
    assert!(
        error.contains("cannot publish port 0.0.0.0:8080/tcp: it is taken"),
        "{error}"
    );
    running.ends();
    assert_eq!(left(&plywood), [""; 0]);
    assert!(TcpStream::connect("127.0.0.1:8080").is_err());

    let _mine = TcpListener::bind("127.0.0.1:8080").unwrap();
    let error = plywood.fails(125, ["run", "--rm", "-p", "8080:80", "base", "true"]);
    assert!(error.contains("it is taken") && error.contains("ss -lntup"), "{error}");
    assert_eq!(left(&plywood), [""; 0]);
}

/// `route_localnet` opens 127.0.0.1 to the bridge; the guard in the table must close it again.
#[test]
fn root_a_container_does_not_reach_the_hosts_loopback() {
    let plywood = with_base();
    let _secret = UdpSocket::bind("127.0.0.1:7003").unwrap();
    let listener = TcpListener::bind("127.0.0.1:7003").unwrap();
    listener.set_nonblocking(true).unwrap();
    let route = "ip route add 127.9.9.0/24 via 10.214.0.1 2>/dev/null; ip addr del 127.0.0.1/8 dev lo; \
        ip route add 127.0.0.1/32 via 10.214.0.1; echo 1 > /proc/sys/net/ipv4/conf/eth0/route_localnet; \
        nc -w 2 127.0.0.1 7003 </dev/null; echo ended";
    let said = plywood.ok(["run", "--rm", "--privileged", "base", "sh", "-c", route]);
    assert!(said.ends_with("ended"), "{said}");
    assert!(listener.accept().is_err(), "a container reached 127.0.0.1 of the host");
}

#[test]
fn root_bad_requests_are_named_and_leave_nothing() {
    let plywood = with_base();
    for (args, word) in [
        (vec!["-p", "80"], "cannot publish \"80\": it names one port only"),
        (vec!["-p", "99999:80"], "cannot publish \"99999:80\""),
        (vec!["-p", "192.0.2.1:8080:80"], "192.0.2.1 is not this host's"),
        (vec!["-p", "80:80", "--net", "none"], "-p does not go with --net none"),
        (vec!["--link", "nothing:x"], "nothing"),
        (vec!["--link", ":x"], "cannot understand the link"),
        (vec!["--dns", "resolver"], "no address of a resolver"),
        (vec!["--net", "container:nothing"], "nothing"),
        (
            vec!["--dns", "192.0.2.1", "--net", "container:x"],
            "--dns does not go with --net container:x",
        ),
    ] {
        let error = plywood.fails(125, [&["run"], &args[..], &["base", "true"]].concat());
        assert!(error.contains(word) && error.contains("Hint: "), "{args:?}: {error}");
    }
    plywood.fails(2, ["run", "--net", "bridged", "base", "true"]);
    plywood.ok(["run", "--name", "ended", "--net", "none", "base", "true"]);
    for args in [["--net", "container:ended"], ["--link", "ended"]] {
        let error = plywood.fails(125, [&["run"], &args[..], &["base", "true"]].concat());
        assert!(
            error.contains("ended") && error.contains("plywood start ended first"),
            "{error}"
        );
    }
    plywood.ok(["rm", "ended"]);
    assert_eq!(links(), ["lo"], "none came as far as the bridge");
    assert_eq!(plywood.json(["ps", "-a"]), serde_json::json!([]));
    plywood.sound();
}

#[test]
fn root_an_empty_pool_and_a_network_of_the_hosts_are_named() {
    let plywood = with_base();
    let run = |pool: &str| {
        plywood
            .command(["run", "--rm", "base", "true"])
            .env("PLYWOOD_POOL", pool)
            .output()
            .unwrap()
    };
    let refused = |pool: &str, word: &str| {
        let output = run(pool);
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(125), "{pool}: {error}");
        assert!(error.contains(word) && error.contains("Hint: "), "{pool}: {error}");
    };
    refused("10.9.0.0", "\"10.9.0.0\" is no network for containers");
    refused("127.0.0.0/16", "the host has routes into 127.0.0.0/16");
    assert_eq!(links(), ["lo"]);

    // One address besides the bridge's.
    let mut command = plywood.command([&["run", "-i", "--name", "one"], &WAITS[..]].concat());
    command
        .env("PLYWOOD_POOL", "10.9.0.0/30")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    assert_eq!(line(&mut BufReader::new(child.stdout.take().unwrap())), "ready");
    assert_eq!(address(&plywood, "one"), Ipv4Addr::new(10, 9, 0, 2));
    refused("10.9.0.0/30", "the address pool 10.9.0.0/30 is empty: 1 containers");
    refused("10.8.0.0/16", "plywood0 has the network 10.9.0.0/30, not 10.8.0.0/16");
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
    assert!(run("").status.success(), "the address is free again");
}

#[test]
fn root_links_resolvers_and_joined_networks() {
    let plywood = with_base();
    let database = ["-i", "--name", "database", "--hostname", "vault", "--dns", "192.0.2.7"];
    let database = Running::start(&plywood, &[&database[..], &WAITS[..]].concat());
    let ip = address(&plywood, "database");
    let show = "cat /etc/hosts; cat /etc/resolv.conf; hostname; echo $HOSTNAME; ip -4 -o addr show dev eth0";
    let linked = plywood.ok(["run", "--rm", "--link", "database:db", "base", "sh", "-c", show]);
    assert!(linked.contains(&format!("{ip}\tdatabase db vault\n")), "{linked}");
    assert!(
        !linked.contains("192.0.2.7") && !linked.contains("nameserver 127."),
        "{linked}"
    );

    // Neither the host's end nor the namespace's handle is open in a container.
    let open = plywood.ok(["run", "--rm", "base", "sh", "-c", "ls /proc/$$/fd; ls /sys/class/net"]);
    assert_eq!(
        open.split_whitespace().collect::<Vec<_>>(),
        ["0", "1", "2", "eth0", "lo"]
    );

    let joined = plywood.ok([
        "run",
        "--rm",
        "--name",
        "guest",
        "--net",
        "container:database",
        "base",
        "sh",
        "-c",
        show,
    ]);
    assert!(joined.contains(&format!("{ip}\tdatabase vault\n")), "{joined}");
    assert!(
        joined.contains("nameserver 192.0.2.7\n") && joined.contains("\nvault\nvault\n"),
        "{joined}"
    );
    assert!(joined.contains(&format!("{ip}/16")), "{joined}");
    // It ended, and took nothing of the other's along.
    assert_eq!(address(&plywood, "database"), ip);
    assert!(left(&plywood).len() >= 2);
    database.ends();
    assert_eq!(left(&plywood), [""; 0]);
}

#[test]
fn root_nothing_is_left_when_plywood_is_killed() {
    let plywood = with_base();
    let ports: &[&str] = if translates() {
        &["-p", "8080:80", "-p", "53:53/udp"]
    } else {
        &[]
    };
    for keep in [&["--name", "one"][..], &["--rm"]] {
        let args = [&["-i"], keep, ports, &WAITS[..]].concat();
        let mut running = Running::start(&plywood, &args);
        assert!(left(&plywood).len() >= 2 + ports.len() / 2);
        running.child.kill().unwrap();
        running.child.wait().unwrap();
        // The kernel ends the container, and then its namespace, in its own time.
        wait::until_nothing("the next command clears up", || {
            plywood.ok(["gc"]);
            left(&plywood)
        });
    }
    assert_eq!(inspect(&plywood, "one")["ip"], serde_json::Value::Null);
    let args = [&["run", "--rm"], ports, &["base", "true"]].concat();
    plywood.ok(args);
    plywood.ok(["rm", "one"]);
    assert_eq!(left(&plywood), [""; 0]);
    plywood.sound();
}

#[test]
fn root_many_that_start_at_once_have_addresses_of_their_own() {
    let plywood = with_base();
    // Two stores, one bridge.
    let other = Plywood::new("overlay").with_network();
    let base = plywood.beside("base.tar");
    other.ok(["import", base.to_str().unwrap(), "base"]);
    let starts = (0..8).map(|number| {
        let store = if number % 2 == 0 { &plywood } else { &other };
        let mut command = store.command(
            [
                &["run", "--rm", "-i"],
                &["base", "sh", "-c", "hostname -i; exec cat"][..],
            ]
            .concat(),
        );
        command
            .env("PLYWOOD_POOL", "10.9.0.0/28")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        command.spawn().unwrap()
    });
    let mut children: Vec<Child> = starts.collect();
    let addresses: BTreeSet<String> = children
        .iter_mut()
        .map(|child| line(&mut BufReader::new(child.stdout.take().unwrap())))
        .collect();
    assert_eq!(addresses.len(), 8, "{addresses:?}");
    assert!(
        addresses.iter().all(|address| address.starts_with("10.9.0.")),
        "{addresses:?}"
    );
    for child in &mut children {
        drop(child.stdin.take());
        assert!(child.wait().unwrap().success());
    }
    assert_eq!((left(&plywood), left(&other)), (Vec::new(), Vec::new()));
}

#[test]
fn root_explained_steps_of_the_network_are_commands() {
    let plywood = with_base();
    let publish: &[&str] = if translates() { &["-p", "8080:80"] } else { &[] };
    let output = plywood.run([&["--explain", "run"], publish, &["base", "true"]].concat());
    let text = String::from_utf8_lossy(&output.stderr);
    let mut wanted = vec![
        "ip link add plywood0 address 02:50:0a:d6:00:01 type bridge",
        "ip addr add 10.214.0.1/16 dev plywood0",
        "ip netns add ply0ad6",
        " master plywood0 type veth peer name eth0 address 02:50:0a:d6:",
        " route add default via 10.214.0.1",
        "nsenter --net=/run/netns/ply0ad6",
        "ip link del ply0ad6",
    ];
    if translates() {
        wanted.extend([
            "sysctl -w net.ipv4.conf.plywood0.route_localnet=1",
            "sysctl -w net.ipv4.ip_forward=1",
            "add table ip plywood",
            "{ tcp . 8080 : 10.214.",
        ]);
    }
    for command in wanted {
        let told = text
            .lines()
            .any(|line| line.starts_with("+ ") && line.contains(command));
        assert!(told, "no {command:?} in\n{text}");
    }
}
