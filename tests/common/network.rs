//! Network namespaces of the tests' own: this machine's network is no test's to change.

use std::fs;
use std::io::Read;
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

use super::{in_guest, wait};

/// Moves this thread, and what it starts, into an empty network namespace with loopback.
pub fn own_network() {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("root");
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").expect("a socket");
    plywood::sys::netdevice::loopback_up(&socket).expect("a loopback interface");
    // A new namespace has the host's settings.
    fs::write("/proc/sys/net/ipv4/ip_forward", "0").expect("this thread's own switch");
}

/// What a connection says until its end; who is to answer may not listen yet.
#[track_caller]
pub fn heard(address: (Ipv4Addr, u16)) -> String {
    let what = format!("{address:?} listens");
    let mut stream = wait::until_ok(&what, || {
        TcpStream::connect_timeout(&address.into(), Duration::from_secs(3))
    });
    stream.set_read_timeout(Some(wait::PATIENCE)).expect("a socket");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("an answer");
    text
}

/// Whether this kernel translates IPv4 addresses: the guest's has no nftables for it.
pub fn translates() -> bool {
    !in_guest()
}
