//! The monitor of a detached container: the small process that stays with it.
//!
//! It holds the command's outputs, keeps them in a [log], passes them to
//! whoever is attached, and theirs to the command. Walk: [`Monitor::new`] with the
//! socket of the process that started it, which is attached from the beginning;
//! [`Monitor::open`] makes log, socket and pipes; [`super::run`] starts the command
//! with [`Monitor::streams`] and calls [`Monitor::watch`]; [`Monitor::farewell`] tells
//! those attached how it ended.
//!
//! Nobody who is attached can stop the command by not reading: one that lags
//! [`LAG_MAX`] bytes behind is let go.

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType};
use rustix::termios::Winsize;

use super::Streams;
use super::error::{Attempt, Error, Result, Stage};
use super::log::{self, Stream};
use super::supervise::{Child, Signals, milliseconds};
use super::terminal::REOPENED_MILLISECONDS;
use super::wire::{CHUNK, FromMonitor, MESSAGE_MAX, ToMonitor};
use crate::sys::resident;

/// Bytes that one who is attached may lag behind.
const LAG_MAX: usize = 1 << 20;
/// Bytes of input that wait for the command; then no more is taken.
const PENDING_MAX: usize = 64 << 10;
/// Who may be attached at a time.
const CLIENTS_MAX: usize = 32;
/// How long those attached may take to hear the end.
const FAREWELL_MILLISECONDS: u32 = 2000;

/// Somebody attached.
#[derive(Debug)]
struct Client {
    socket: OwnedFd,
    waiting: VecDeque<Vec<u8>>,
    lag: usize,
    is_gone: bool,
}

/// The command's ends of the pipes, until it has them.
#[derive(Debug)]
struct Theirs {
    stdin: OwnedFd,
    stdout: OwnedFd,
    stderr: OwnedFd,
}

/// A detached container's monitor.
#[derive(Debug)]
pub struct Monitor {
    clients: Vec<Client>,
    open: Option<Open>,
    started: bool,
}

/// What it has from [`Monitor::open`] on.
#[derive(Debug)]
struct Open {
    log: log::Writer,
    listener: OwnedFd,
    socket: PathBuf,
    theirs: Option<Theirs>,
    /// Where the command's outputs are read.
    outputs: Vec<(Stream, OwnedFd)>,
    /// Where its input is written; none where it has none, or no more.
    input: Option<OwnedFd>,
    is_terminal: bool,
    /// Nobody has the terminal's other end open just now.
    is_hung_up: bool,
    pending: VecDeque<u8>,
    input_ends: bool,
}

impl Monitor {
    /// The monitor to which the process at the other end of `first` is attached.
    pub fn new(first: OwnedFd) -> Self {
        Self {
            clients: vec![Client::new(first)],
            open: None,
            started: false,
        }
    }

    /// A socket pair for [`Monitor::new`] and [`super::attach::Client::new`].
    ///
    /// # Errors
    /// The kernel's.
    pub fn pair() -> Result<(OwnedFd, OwnedFd)> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
            .attempt(Stage::Supervision, || "make a socket pair".to_owned())
    }

    /// Makes the command's pipes, goes on with the log, and listens at `socket`.
    ///
    /// # Errors
    /// Where one cannot be made.
    pub fn open(&mut self, stdin: bool, log: &Path, socket: &Path) -> Result<()> {
        let (input, output, errors) = (pipe()?, pipe()?, pipe()?);
        self.open = Some(Open {
            log: log::Writer::open(log).attempt(Stage::Supervision, || format!("open the log {}", log.display()))?,
            listener: listen(socket)?,
            socket: socket.to_owned(),
            outputs: vec![(Stream::Stdout, output.0), (Stream::Stderr, errors.0)],
            input: stdin.then_some(input.1),
            theirs: Some(Theirs {
                stdin: input.0,
                stdout: output.1,
                stderr: errors.1,
            }),
            is_terminal: false,
            is_hung_up: false,
            pending: VecDeque::new(),
            input_ends: false,
        });
        Ok(())
    }

    /// The command's streams; none before [`Monitor::open`].
    pub(super) fn streams(&self) -> Option<Streams<'_>> {
        let theirs = self.open.as_ref()?.theirs.as_ref()?;
        Some(Streams {
            stdin: theirs.stdin.as_fd(),
            stdout: theirs.stdout.as_fd(),
            stderr: theirs.stderr.as_fd(),
        })
    }

    /// The command has its streams, or a terminal, whose master this is.
    pub(super) fn take(&mut self, master: Option<OwnedFd>) -> Result<()> {
        let Some(open) = &mut self.open else { return Ok(()) };
        open.theirs = None;
        let at = || "prepare the command's streams".to_owned();
        if let Some(master) = master {
            // The terminal that plywood was started at; without one whoever attaches brings a size.
            if let Ok(size) = rustix::termios::tcgetwinsize(rustix::stdio::stdin()) {
                rustix::termios::tcsetwinsize(&master, size).attempt(Stage::Terminal, at)?;
            }
            let output = master.try_clone().attempt(Stage::Supervision, at)?;
            open.outputs = vec![(Stream::Stdout, output)];
            open.input = Some(master);
            open.is_terminal = true;
        }
        let handles = open.outputs.iter().map(|(_, handle)| handle).chain(&open.input);
        for handle in handles {
            let flags = rustix::fs::fcntl_getfl(handle).attempt(Stage::Supervision, at)?;
            rustix::fs::fcntl_setfl(handle, flags | OFlags::NONBLOCK).attempt(Stage::Supervision, at)?;
        }
        Ok(())
    }

    /// The command runs: says so, and lets go of everything of the caller's.
    pub(super) fn begin(&mut self) -> Result<()> {
        self.started = true;
        self.tell(&FromMonitor::Started.encode());
        let at = || "let go of the caller's terminal".to_owned();
        let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
            .attempt(Stage::Supervision, at)?;
        nix::unistd::dup2_stdin(&null).attempt(Stage::Supervision, at)?;
        nix::unistd::dup2_stdout(&null).attempt(Stage::Supervision, at)?;
        nix::unistd::dup2_stderr(&null).attempt(Stage::Supervision, at)?;
        rustix::process::chdir("/").attempt(Stage::Supervision, at)?;
        // There is one of this process for each container, and it waits most of the time.
        if let Err(error) = resident::let_go_of_files() {
            tracing::debug!("the monitor keeps what is mapped: {error}");
        }
        Ok(())
    }

    /// Whether the command has begun to run.
    pub fn has_started(&self) -> bool {
        self.started
    }

    /// Relays until the command ends; gives its exit code.
    pub(super) fn watch(&mut self, child: &Child, signals: &Signals) -> Result<i32> {
        loop {
            let ended = self.wait(child, signals)?;
            while let Some(signal) = signals.next() {
                if signal != nix::sys::signal::Signal::SIGWINCH {
                    child.signal(signal);
                }
            }
            self.accept();
            self.listen_to_clients(child);
            while self.pass_output()? && ended {}
            self.pass_input();
            self.clients.iter_mut().for_each(Client::flush);
            self.clients.retain(|client| !client.is_gone);
            if ended {
                return child.wait();
            }
        }
    }

    /// Tells those attached how it ended, as far as they listen, and takes no more of them.
    pub fn farewell(mut self, code: u8, told: &str) {
        // What is longer than a message is cut off rather than lost.
        let told: String = told.chars().take(CHUNK / 8).collect();
        self.tell(&FromMonitor::Ended { code, told: &told }.encode());
        let mut patience = FAREWELL_MILLISECONDS;
        while patience > 0 && self.clients.iter().any(|client| client.lag > 0 && !client.is_gone) {
            std::thread::sleep(std::time::Duration::from_millis(10));
            patience -= 10;
            self.clients.iter_mut().for_each(Client::flush);
        }
    }

    /// Waits until there is something to do; whether the command has ended.
    fn wait(&self, child: &Child, signals: &Signals) -> Result<bool> {
        let mut watched = vec![PollFd::new(child, PollFlags::IN), PollFd::new(signals, PollFlags::IN)];
        let mut patience = None;
        if let Some(open) = &self.open {
            watched.push(PollFd::new(&open.listener, PollFlags::IN));
            match open.is_hung_up {
                true => patience = Some(milliseconds(REOPENED_MILLISECONDS)),
                false => watched.extend(
                    open.outputs
                        .iter()
                        .map(|(_, handle)| PollFd::new(handle, PollFlags::IN)),
                ),
            }
            if let Some(input) = open.input.as_ref().filter(|_| !open.pending.is_empty()) {
                watched.push(PollFd::new(input, PollFlags::OUT));
            }
        }
        let takes = self.open.as_ref().is_some_and(|open| open.pending.len() < PENDING_MAX);
        for client in &self.clients {
            let mut flags = PollFlags::empty();
            flags.set(PollFlags::IN, takes);
            flags.set(PollFlags::OUT, !client.waiting.is_empty());
            // Asked for nothing, one that is gone would be told of again and again.
            if !flags.is_empty() {
                watched.push(PollFd::new(&client.socket, flags));
            }
        }
        match poll(&mut watched, patience.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(Error::system(Stage::Supervision, "watch the container", error)),
        }
        Ok(watched.first().is_some_and(|child| !child.revents().is_empty()))
    }

    fn accept(&mut self) {
        let Some(open) = &self.open else { return };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        while let Ok(socket) = rustix::net::accept_with(&open.listener, flags) {
            if self.clients.len() < CLIENTS_MAX {
                let mut client = Client::new(socket);
                client.tell(&FromMonitor::Started.encode());
                self.clients.push(client);
            }
        }
    }

    fn listen_to_clients(&mut self, child: &Child) {
        let Some(open) = &mut self.open else { return };
        for client in &mut self.clients {
            let mut message = [0; MESSAGE_MAX];
            while open.pending.len() < PENDING_MAX {
                match rustix::net::recv(&client.socket, &mut message, RecvFlags::empty()) {
                    Ok((0, _)) => client.is_gone = true,
                    Ok((length, _)) => {
                        let said = message.get(..length).and_then(ToMonitor::decode);
                        said.into_iter().for_each(|said| open.obey(&said, child));
                        continue;
                    }
                    Err(Errno::INTR) => continue,
                    Err(Errno::AGAIN) => {}
                    Err(_) => client.is_gone = true,
                }
                break;
            }
        }
    }

    /// Passes on what the command has written; false where there was nothing.
    fn pass_output(&mut self) -> Result<bool> {
        let Some(open) = &mut self.open else { return Ok(false) };
        let mut passed = false;
        let mut chunk = [0; CHUNK];
        let mut at_end = Vec::new();
        for (stream, handle) in &open.outputs {
            let read = rustix::io::retry_on_intr(|| rustix::io::read(handle, &mut chunk));
            open.is_hung_up = read == Err(Errno::IO);
            match read {
                Err(Errno::AGAIN | Errno::IO) => {}
                Ok(0) => at_end.push(*stream),
                Ok(length) => {
                    passed = true;
                    let bytes = chunk.get(..length).unwrap_or_default();
                    if let Err(error) = open.log.add(*stream, bytes) {
                        // A full disk must not end the command.
                        tracing::warn!("cannot keep what the container writes: {error}");
                    }
                    let message = FromMonitor::Output(*stream, bytes).encode();
                    self.clients.iter_mut().for_each(|client| client.tell(&message));
                }
                Err(error) => return Err(Error::system(Stage::Supervision, "read the command's output", error)),
            }
        }
        open.outputs.retain(|(stream, _)| !at_end.contains(stream));
        Ok(passed)
    }

    fn pass_input(&mut self) {
        let Some(open) = &mut self.open else { return };
        while let Some(input) = &open.input
            && !open.pending.is_empty()
        {
            match rustix::io::write(input, open.pending.as_slices().0) {
                Ok(written) => drop(open.pending.drain(..written)),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return,
                // Nobody reads it any more.
                Err(_) if open.is_terminal => open.pending.clear(),
                Err(_) => open.input = None,
            }
        }
        if open.input.is_none() {
            open.pending.clear();
        }
        if open.input_ends && open.pending.is_empty() {
            open.input = None;
        }
    }

    fn tell(&mut self, message: &[u8]) {
        self.clients.iter_mut().for_each(|client| client.tell(message));
    }
}

impl Open {
    fn obey(&mut self, said: &ToMonitor<'_>, child: &Child) {
        match said {
            ToMonitor::Input(bytes) if self.input.is_some() => self.pending.extend(*bytes),
            ToMonitor::Input(_) => {}
            // A terminal outlives those who sit at it.
            ToMonitor::EndOfInput => self.input_ends = !self.is_terminal,
            ToMonitor::Size { rows, columns } => {
                let size = Winsize {
                    ws_row: *rows,
                    ws_col: *columns,
                    ws_xpixel: 0,
                    ws_ypixel: 0,
                };
                if let Some(input) = self.input.as_ref().filter(|_| self.is_terminal)
                    && let Err(error) = rustix::termios::tcsetwinsize(input, size)
                {
                    tracing::debug!("cannot set the terminal's size: {error}");
                }
            }
            ToMonitor::Signal(number) => {
                if let Ok(signal) = nix::sys::signal::Signal::try_from(*number) {
                    child.signal(signal);
                }
            }
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        // What is left of a killed monitor is swept; here it is only tidier.
        let _ = std::fs::remove_file(&self.socket);
    }
}

impl Client {
    fn new(socket: OwnedFd) -> Self {
        Self {
            socket,
            waiting: VecDeque::new(),
            lag: 0,
            is_gone: false,
        }
    }

    fn tell(&mut self, message: &[u8]) {
        if self.lag + message.len() > LAG_MAX {
            self.is_gone = true;
            return;
        }
        self.lag += message.len();
        self.waiting.push_back(message.to_vec());
        self.flush();
    }

    fn flush(&mut self) {
        while let Some(message) = self.waiting.front() {
            match rustix::net::send(&self.socket, message, SendFlags::NOSIGNAL) {
                Ok(_) => {
                    self.lag -= message.len();
                    self.waiting.pop_front();
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return,
                Err(_) => {
                    self.is_gone = true;
                    return;
                }
            }
        }
    }
}

/// Reading end, writing end.
fn pipe() -> Result<(OwnedFd, OwnedFd)> {
    rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).attempt(Stage::Supervision, || "make a pipe".to_owned())
}

fn listen(path: &Path) -> Result<OwnedFd> {
    let at = || format!("listen at {}", path.display());
    // Of a monitor that was killed: the container's holder is this process.
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(Error::system(Stage::Supervision, at(), error));
        }
        _ => {}
    }
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
        .attempt(Stage::Supervision, at)?;
    let address = SocketAddrUnix::new(path).attempt(Stage::Supervision, at)?;
    rustix::net::bind(&socket, &address).attempt(Stage::Supervision, at)?;
    rustix::net::listen(&socket, 8).attempt(Stage::Supervision, at)?;
    Ok(socket)
}
