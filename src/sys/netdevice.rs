//! netdevice(7): the flags of a network interface.
#![allow(unsafe_code, reason = "the ioctl has no safe wrapper")]

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// Brings the loopback interface of this network namespace up; `socket` is any IP socket of it.
///
/// # Errors
/// The kernel's.
pub fn loopback_up(socket: impl AsFd) -> io::Result<()> {
    let mut name = [0; libc::IFNAMSIZ];
    for (to, from) in name.iter_mut().zip(c"lo".to_bytes()) {
        *to = libc::c_char::from_ne_bytes([*from]);
    }
    let up = libc::c_short::try_from(libc::IFF_UP | libc::IFF_RUNNING).map_err(io::Error::other)?;
    let request = libc::ifreq {
        ifr_name: name,
        ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_flags: up },
    };
    // SAFETY: SIOCSIFFLAGS reads one ifreq, which lives through the call, and its name ends in a zero byte.
    let outcome = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) };
    if outcome == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
