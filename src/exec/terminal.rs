//! The command's terminal, seen from outside: raw mode and the relay.
//!
//! The pty is one of the container's own devpts; plywood holds its master.
//! Where plywood's standard input is a terminal, it is in raw mode meanwhile,
//! and the size follows it. Where it is a pipe or file, it is passed on all the
//! same; its end becomes the end of the line and the end-of-file character.

use std::collections::VecDeque;
use std::io::IsTerminal;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::termios::{OptionalActions, Termios};

use super::error::{Attempt, Error, Result, Stage};

/// Bytes that are read at once, and kept for a command that does not read.
const CHUNK: usize = 16 << 10;
/// The end-of-file character, ^D.
const END_OF_FILE: u8 = 4;
/// How often a terminal is looked at again that nobody has open inside: polling it would return at once.
pub(super) const REOPENED_MILLISECONDS: u32 = 100;
/// A pipe's end is for ever, a terminal's is one character, and one that comes
/// while the command changes modes is lost: it is said again this often.
const REPEAT_END_MILLISECONDS: u32 = 250;

/// A terminal in raw mode, until dropped.
#[derive(Debug)]
pub(super) struct Raw<'a> {
    terminal: BorrowedFd<'a>,
    before: Termios,
}

impl<'a> Raw<'a> {
    /// Saves what it is and makes it raw.
    pub(super) fn new(terminal: BorrowedFd<'a>) -> Result<Self, Errno> {
        let before = rustix::termios::tcgetattr(terminal)?;
        let mut raw = before.clone();
        raw.make_raw();
        rustix::termios::tcsetattr(terminal, OptionalActions::Now, &raw)?;
        Ok(Self { terminal, before })
    }
}

impl Drop for Raw<'_> {
    fn drop(&mut self) {
        if let Err(error) = rustix::termios::tcsetattr(self.terminal, OptionalActions::Drain, &self.before) {
            tracing::warn!("cannot restore the terminal: {error}");
        }
    }
}

/// Between plywood's streams and the command's terminal.
#[derive(Debug)]
pub(super) struct Relay<'a> {
    master: OwnedFd,
    /// None where nothing is to be passed on, or it has ended.
    stdin: Option<BorrowedFd<'a>>,
    stdout: BorrowedFd<'a>,
    /// The terminal whose size counts.
    sized_by: Option<BorrowedFd<'a>>,
    /// Read from standard input, not yet taken by the command.
    pending: VecDeque<u8>,
    /// Standard input was no terminal, and is at its end.
    has_ended: bool,
    /// The last byte that was read from it ended no line.
    is_within_line: bool,
    /// Nobody has the other end open just now.
    is_hung_up: bool,
    _raw: Option<Raw<'a>>,
}

impl<'a> Relay<'a> {
    /// Sets the terminal's size, and raw mode where `stdin` is a terminal.
    pub(super) fn new(master: OwnedFd, stdin: Option<BorrowedFd<'a>>, stdout: BorrowedFd<'a>) -> Result<Self> {
        let flags = rustix::fs::fcntl_getfl(&master).attempt(Stage::Terminal, || "prepare the terminal".to_owned())?;
        rustix::fs::fcntl_setfl(&master, flags | OFlags::NONBLOCK)
            .attempt(Stage::Terminal, || "prepare the terminal".to_owned())?;
        let raw = match stdin {
            Some(stdin) if stdin.is_terminal() => {
                Some(Raw::new(stdin).attempt(Stage::Terminal, || "put the terminal into raw mode".to_owned())?)
            }
            Some(_) | None => None,
        };
        let sized_by = stdin
            .filter(IsTerminal::is_terminal)
            .or(Some(stdout).filter(IsTerminal::is_terminal));
        let relay = Self {
            master,
            stdin,
            stdout,
            sized_by,
            pending: VecDeque::new(),
            has_ended: false,
            is_within_line: false,
            is_hung_up: false,
            _raw: raw,
        };
        relay.resize();
        Ok(relay)
    }

    /// Gives the command's terminal the size of plywood's.
    pub(super) fn resize(&self) {
        let Some(terminal) = self.sized_by else { return };
        if let Err(error) =
            rustix::termios::tcgetwinsize(terminal).and_then(|size| rustix::termios::tcsetwinsize(&self.master, size))
        {
            tracing::debug!("cannot pass on the terminal's size: {error}");
        }
    }

    /// Adds what to wait for.
    pub(super) fn watch<'b>(&'b self, watched: &mut Vec<PollFd<'b>>) {
        let mut flags = PollFlags::IN;
        if !self.pending.is_empty() {
            flags |= PollFlags::OUT;
        }
        if !self.is_hung_up {
            watched.push(PollFd::new(&self.master, flags));
        }
        if let Some(stdin) = &self.stdin
            && self.pending.len() < CHUNK
        {
            watched.push(PollFd::new(stdin, PollFlags::IN));
        }
    }

    /// How long to wait at most.
    pub(super) fn patience(&self) -> Option<Timespec> {
        let reopened = self.is_hung_up.then_some(REOPENED_MILLISECONDS);
        let longest = reopened.or(self.has_ended.then_some(REPEAT_END_MILLISECONDS))?;
        Some(super::supervise::milliseconds(longest))
    }

    /// Passes on what there is, without waiting for more.
    pub(super) fn pass_on(&mut self) -> Result<()> {
        self.take_input()?;
        self.give_input()?;
        self.give_output().map(drop)
    }

    /// Passes on all that the command has written, which is dead.
    pub(super) fn drain(&mut self) -> Result<()> {
        while self.give_output()? {}
        Ok(())
    }

    fn take_input(&mut self) -> Result<()> {
        if self.has_ended && self.pending.is_empty() {
            self.pending.push_back(END_OF_FILE);
        }
        let Some(stdin) = self.stdin else { return Ok(()) };
        if self.pending.len() >= CHUNK || !is_ready(stdin, PollFlags::IN)? {
            return Ok(());
        }
        let mut chunk = [0; CHUNK];
        match rustix::io::retry_on_intr(|| rustix::io::read(stdin, &mut chunk)) {
            Ok(0) => {
                self.stdin = None;
                self.has_ended = self._raw.is_none();
                // In the middle of a line the end-of-file character would not be one.
                if self.has_ended && self.is_within_line {
                    self.pending.push_back(b'\n');
                }
                Ok(())
            }
            Ok(length) => {
                self.pending.extend(chunk.iter().take(length));
                self.is_within_line = self.pending.back().is_some_and(|byte| *byte != b'\n');
                Ok(())
            }
            Err(Errno::AGAIN) => Ok(()),
            // The terminal that plywood was started from is gone.
            Err(Errno::IO) => {
                self.stdin = None;
                Ok(())
            }
            Err(error) => Err(Error::system(Stage::Terminal, "read standard input", error)),
        }
    }

    fn give_input(&mut self) -> Result<()> {
        while !self.pending.is_empty() {
            let (first, _) = self.pending.as_slices();
            match rustix::io::write(&self.master, first) {
                Ok(written) => drop(self.pending.drain(..written)),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(()),
                // Nobody has the other end open.
                Err(Errno::IO) => self.pending.clear(),
                Err(error) => {
                    return Err(Error::system(
                        Stage::Terminal,
                        "write to the container's terminal",
                        error,
                    ));
                }
            }
        }
        Ok(())
    }

    /// Passes a chunk on; false where there is nothing now.
    fn give_output(&mut self) -> Result<bool> {
        let mut chunk = [0; CHUNK];
        let read = rustix::io::retry_on_intr(|| rustix::io::read(&self.master, &mut chunk));
        self.is_hung_up = read == Err(Errno::IO);
        match read {
            Ok(0) | Err(Errno::AGAIN | Errno::IO) => Ok(false),
            Ok(length) => {
                write_all(self.stdout, chunk.get(..length).unwrap_or_default())?;
                Ok(true)
            }
            Err(error) => Err(Error::system(Stage::Terminal, "read the container's terminal", error)),
        }
    }
}

/// Writes all of it, waiting where that has to be.
pub(super) fn write_all(to: BorrowedFd<'_>, mut bytes: &[u8]) -> Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(to, bytes) {
            Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                let mut watched = [PollFd::from_borrowed_fd(to, PollFlags::OUT)];
                let _ = rustix::event::poll(&mut watched, None);
            }
            Err(error) => return Err(Error::system(Stage::Terminal, "write standard output", error)),
        }
    }
    Ok(())
}

/// Whether something can be done with it at once.
pub(super) fn is_ready(handle: BorrowedFd<'_>, flags: PollFlags) -> Result<bool> {
    let mut watched = [PollFd::from_borrowed_fd(handle, flags)];
    match rustix::event::poll(&mut watched, Some(&super::supervise::milliseconds(0))) {
        Ok(ready) => Ok(ready > 0),
        Err(Errno::INTR) => Ok(false),
        Err(error) => Err(Error::system(Stage::Terminal, "watch standard input", error)),
    }
}
