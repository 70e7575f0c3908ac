//! The other end of a [monitor](super::monitor): somebody at a terminal, or a pipe,
//! who sees what a detached container writes and writes to it.

use std::io::IsTerminal;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType};

use super::Streams;
use super::error::{Attempt, Error, Result, Stage};
use super::log::Stream;
use super::supervise::Signals;
use super::terminal::{Raw, write_all};
use super::wire::{CHUNK, FromMonitor, MESSAGE_MAX, ToMonitor};

/// A connection to a monitor.
#[derive(Debug)]
pub struct Client {
    socket: OwnedFd,
}

/// How it ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Attended {
    /// The container has ended.
    Ended {
        /// What `run` ends with.
        code: u8,
        /// What there is to tell beside.
        told: String,
    },
    /// The keys for it were typed: the container goes on.
    Detached,
    /// The monitor is gone, without a word.
    Lost,
}

/// What is wanted of it.
#[derive(Debug, Clone, Copy)]
pub struct Wishes<'a> {
    /// Pass standard input on.
    pub stdin: bool,
    /// The command has a terminal: ours is to be like it.
    pub terminal: bool,
    /// Pass signals on.
    pub signals: bool,
    /// Bytes that end it; empty for none.
    pub detach_keys: &'a [u8],
}

impl<'a> Wishes<'a> {
    /// Those of a person at a terminal, who leaves with these keys.
    pub fn of_person(detach_keys: &'a [u8]) -> Self {
        Self {
            stdin: true,
            terminal: true,
            signals: true,
            detach_keys,
        }
    }
}

impl Client {
    /// The other end of [`super::monitor::Monitor::pair`].
    pub fn new(socket: OwnedFd) -> Self {
        Self { socket }
    }

    /// Connects to the monitor that listens at `path`.
    ///
    /// # Errors
    /// Where nobody listens there.
    pub fn connect(path: &Path) -> Result<Self> {
        let at = || format!("connect to the container's monitor at {}", path.display());
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .attempt(Stage::Supervision, at)?;
        let address = SocketAddrUnix::new(path).attempt(Stage::Supervision, at)?;
        rustix::net::connect(&socket, &address).attempt(Stage::Supervision, at)?;
        let flags = rustix::fs::fcntl_getfl(&socket).attempt(Stage::Supervision, at)?;
        rustix::fs::fcntl_setfl(&socket, flags | rustix::fs::OFlags::NONBLOCK).attempt(Stage::Supervision, at)?;
        Ok(Self { socket })
    }

    /// Waits until the command runs; false where the monitor ended before.
    ///
    /// # Errors
    /// The kernel's.
    pub fn wait_for_start(&self) -> Result<bool> {
        let mut message = [0; MESSAGE_MAX];
        loop {
            let mut watched = [PollFd::new(&self.socket, PollFlags::IN)];
            match poll(&mut watched, None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(Error::system(Stage::Supervision, "hear from the monitor", error)),
            }
            match self.receive(&mut message)? {
                Heard::Nothing => {}
                Heard::End => return Ok(false),
                Heard::Said(FromMonitor::Started) => return Ok(true),
                Heard::Said(_) => {}
            }
        }
    }

    /// Relays until the container ends or the person leaves.
    ///
    /// # Errors
    /// Where a stream or terminal fails.
    pub fn attend(self, streams: Streams<'_>, wishes: Wishes<'_>) -> Result<Attended> {
        let signals = Signals::take()?;
        let is_terminal = wishes.terminal && wishes.stdin && streams.stdin.is_terminal();
        let raw = is_terminal.then(|| Raw::new(streams.stdin));
        let _raw = raw
            .transpose()
            .attempt(Stage::Terminal, || "put the terminal into raw mode".to_owned())?;
        let mut relay = Relay {
            socket: &self.socket,
            stdin: wishes.stdin.then_some(streams.stdin),
            waiting: None,
            keys: Keys::new(wishes.detach_keys),
            is_terminal,
        };
        relay.tell_size();
        loop {
            relay.wait(&signals)?;
            while let Some(signal) = signals.next() {
                match signal {
                    nix::sys::signal::Signal::SIGWINCH => relay.tell_size(),
                    signal if wishes.signals => relay.send(ToMonitor::Signal(signal as i32).encode()),
                    // Ends this, not the command.
                    _ => return Ok(Attended::Detached),
                }
            }
            let mut message = [0; MESSAGE_MAX];
            match self.receive(&mut message)? {
                Heard::Said(FromMonitor::Output(Stream::Stdout, bytes)) => write_all(streams.stdout, bytes)?,
                Heard::Said(FromMonitor::Output(Stream::Stderr, bytes)) => write_all(streams.stderr, bytes)?,
                Heard::Said(FromMonitor::Ended { code, told }) => {
                    let told = told.to_owned();
                    return Ok(Attended::Ended { code, told });
                }
                Heard::Said(FromMonitor::Started) | Heard::Nothing => {}
                Heard::End => return Ok(Attended::Lost),
            }
            if relay.pass_input()? {
                return Ok(Attended::Detached);
            }
        }
    }

    fn receive<'b>(&self, message: &'b mut [u8]) -> Result<Heard<'b>> {
        match rustix::io::retry_on_intr(|| rustix::net::recv(&self.socket, &mut *message, RecvFlags::empty())) {
            Ok((0, _)) => Ok(Heard::End),
            Ok((length, _)) => {
                let said = message.get(..length).and_then(FromMonitor::decode);
                Ok(said.map_or(Heard::Nothing, Heard::Said))
            }
            // Told once where the monitor ended before it had read all of ours: its last words may wait behind it.
            Err(Errno::AGAIN | Errno::CONNRESET) => Ok(Heard::Nothing),
            Err(error) => Err(Error::system(Stage::Supervision, "hear from the monitor", error)),
        }
    }
}

enum Heard<'a> {
    Nothing,
    Said(FromMonitor<'a>),
    End,
}

/// Our streams' side.
struct Relay<'a> {
    socket: &'a OwnedFd,
    /// None where it is not to be passed on, or has ended.
    stdin: Option<BorrowedFd<'a>>,
    /// What the monitor could not take yet.
    waiting: Option<Vec<u8>>,
    keys: Keys<'a>,
    is_terminal: bool,
}

impl Relay<'_> {
    fn wait(&self, signals: &Signals) -> Result<()> {
        let mut flags = PollFlags::IN;
        flags.set(PollFlags::OUT, self.waiting.is_some());
        let mut watched = vec![PollFd::new(self.socket, flags), PollFd::new(signals, PollFlags::IN)];
        if let Some(stdin) = &self.stdin
            && self.waiting.is_none()
        {
            watched.push(PollFd::new(stdin, PollFlags::IN));
        }
        match poll(&mut watched, None) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(Error::system(Stage::Supervision, "watch the container", error)),
        }
    }

    fn tell_size(&mut self) {
        if let Some(stdin) = self.stdin.filter(|_| self.is_terminal)
            && let Ok(size) = rustix::termios::tcgetwinsize(stdin)
        {
            let size = ToMonitor::Size {
                rows: size.ws_row,
                columns: size.ws_col,
            };
            self.send(size.encode());
        }
    }

    /// Sends at once, or keeps it; one message at a time waits.
    fn send(&mut self, message: Vec<u8>) {
        match rustix::net::send(self.socket, &message, SendFlags::NOSIGNAL) {
            Err(Errno::AGAIN | Errno::INTR) => self.waiting = Some(message),
            // A monitor that is gone is heard of by receiving.
            Ok(_) | Err(_) => self.waiting = None,
        }
    }

    /// Passes on what was typed; whether the keys for leaving were among it.
    fn pass_input(&mut self) -> Result<bool> {
        if let Some(message) = self.waiting.take() {
            self.send(message);
        }
        let Some(stdin) = self.stdin.filter(|_| self.waiting.is_none()) else {
            return Ok(false);
        };
        if !super::terminal::is_ready(stdin, PollFlags::IN)? {
            return Ok(false);
        }
        let mut chunk = [0; CHUNK / 2];
        match rustix::io::retry_on_intr(|| rustix::io::read(stdin, &mut chunk)) {
            Ok(0) | Err(Errno::IO) => {
                self.stdin = None;
                self.send(ToMonitor::EndOfInput.encode());
                Ok(false)
            }
            Ok(length) => {
                let typed = chunk.get(..length).unwrap_or_default();
                let keys_count = self.is_terminal;
                let (passed, leaves) = if keys_count {
                    self.keys.filter(typed)
                } else {
                    (typed.to_vec(), false)
                };
                if !passed.is_empty() {
                    self.send(ToMonitor::Input(&passed).encode());
                }
                Ok(leaves)
            }
            Err(Errno::AGAIN) => Ok(false),
            Err(error) => Err(Error::system(Stage::Terminal, "read standard input", error)),
        }
    }
}

/// Looks for the keys that mean "leave".
#[derive(Debug)]
struct Keys<'a> {
    keys: &'a [u8],
    typed: usize,
}

impl<'a> Keys<'a> {
    fn new(keys: &'a [u8]) -> Self {
        Self { keys, typed: 0 }
    }

    /// What is to be passed on of `bytes`, and whether all keys were typed. The first keys are held back until
    /// the next one says whether they were meant.
    fn filter(&mut self, bytes: &[u8]) -> (Vec<u8>, bool) {
        let mut passed = Vec::with_capacity(bytes.len() + self.typed);
        for byte in bytes {
            if self.keys.get(self.typed) != Some(byte) {
                passed.extend_from_slice(self.keys.get(..self.typed).unwrap_or_default());
                self.typed = 0;
            }
            if self.keys.get(self.typed) == Some(byte) {
                self.typed += 1;
                if self.typed == self.keys.len() {
                    return (passed, true);
                }
            } else {
                passed.push(*byte);
            }
        }
        (passed, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_monitors_last_words_are_heard_where_it_did_not_hear_ours() {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (ours, theirs) = rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
        rustix::net::send(&ours, &ToMonitor::EndOfInput.encode(), SendFlags::empty()).unwrap();
        let last = FromMonitor::Ended { code: 6, told: "" };
        rustix::net::send(&theirs, &last.encode(), SendFlags::empty()).unwrap();
        drop(theirs);
        let client = Client::new(ours);
        let mut message = [0; MESSAGE_MAX];
        let heard = std::iter::repeat_with(|| match client.receive(&mut message).unwrap() {
            Heard::Nothing => None,
            Heard::Said(FromMonitor::Ended { code, .. }) => Some(Some(code)),
            Heard::Said(_) | Heard::End => Some(None),
        });
        assert_eq!(heard.take(3).flatten().next(), Some(Some(6)));
    }

    #[test]
    fn the_keys_for_leaving_are_seen_and_others_pass() {
        let keys = [16, 17];
        let mut one = Keys::new(&keys);
        assert_eq!(one.filter(b"ab"), (b"ab".to_vec(), false));
        assert_eq!(one.filter(b"c\x10"), (b"c".to_vec(), false));
        assert_eq!(one.filter(b"\x10x"), (b"\x10\x10x".to_vec(), false));
        assert_eq!(one.filter(b"\x10"), (Vec::new(), false));
        assert_eq!(one.filter(b"\x11rest"), (Vec::new(), true));
        let mut none = Keys::new(&[]);
        assert_eq!(none.filter(b"\x10\x11"), (b"\x10\x11".to_vec(), false));
    }
}
