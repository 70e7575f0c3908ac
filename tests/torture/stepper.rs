//! SIGKILL after the n-th system call, counted over all processes that a command has made: by ptrace.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Command, ExitStatus};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::ptrace::{self, Event, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::End;

/// Who dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Victim {
    /// Every process.
    All,
    /// The one that was started: the others must end by themselves.
    First,
    /// The one that made the call: the others must cope.
    Caller,
}

/// What came of it.
#[derive(Debug)]
pub struct Stepped {
    /// How the command ended.
    pub end: End,
    /// The call after which it struck: which process or thread made it, counted from the first, and its number.
    /// None where everything had ended before.
    pub struck: Option<(usize, u64)>,
    /// The calls that had returned until then, or until the end.
    pub calls: u64,
}

/// What outlives its kill for so long would stay.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs a command until its `nth` system call has returned, then kills.
#[expect(clippy::zombie_processes, reason = "its tracer waits for it")]
pub fn step(command: &Command, nth: u64, victim: Victim, output: &Path) -> Stepped {
    let (out, err) = (output.with_extension("out"), output.with_extension("err"));
    let mut stopped = stopped(command);
    stopped.stdout(File::create(&out).expect("a file"));
    stopped.stderr(File::create(&err).expect("a file"));
    let child = stopped.spawn().expect("a shell");
    let first = Pid::from_raw(i32::try_from(child.id()).expect("a process id"));
    let (ended, watch) = channel::<()>();
    let watchdog = std::thread::spawn(move || {
        let late = watch.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout);
        if late {
            // The tracer waits for all of them: this lets it go on.
            let _ = kill(Pid::from_raw(-first.as_raw()), Signal::SIGKILL);
        }
        late
    });
    let mut steps = Steps::begin(first, nth, victim);
    let status = steps.follow();
    drop(ended);
    assert!(
        !watchdog.join().expect("the watchdog"),
        "{command:?} hangs after call {nth}"
    );
    let read = |path| std::fs::read(path).unwrap_or_default();
    Stepped {
        end: End::of(status, &read(&out), &read(&err)),
        struck: steps.struck,
        calls: steps.count,
    }
}

/// The command, begun by a shell that stops itself so that it can be seized.
fn stopped(command: &Command) -> Command {
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", "kill -STOP $$; exec \"$@\"", "sh"]);
    shell.arg(command.get_program()).args(command.get_args());
    for (key, value) in command.get_envs() {
        match value {
            Some(value) => shell.env(key, value),
            None => shell.env_remove(key),
        };
    }
    shell.stdin(std::process::Stdio::null()).process_group(0);
    shell
}

/// One command's processes under trace.
struct Steps {
    first: Pid,
    nth: u64,
    victim: Victim,
    /// Processes and threads in the order in which they came.
    tasks: Vec<Pid>,
    gone: BTreeSet<Pid>,
    /// Calls that have returned since the shell became the command.
    count: u64,
    counting: bool,
    struck: Option<(usize, u64)>,
}

impl Steps {
    fn begin(first: Pid, nth: u64, victim: Victim) -> Self {
        let flags = WaitPidFlag::WUNTRACED;
        assert!(
            matches!(waitpid(first, Some(flags)), Ok(WaitStatus::Stopped(..))),
            "the shell stops"
        );
        let options = Options::PTRACE_O_TRACESYSGOOD
            | Options::PTRACE_O_TRACEFORK
            | Options::PTRACE_O_TRACEVFORK
            | Options::PTRACE_O_TRACECLONE
            | Options::PTRACE_O_TRACEEXEC
            | Options::PTRACE_O_EXITKILL;
        ptrace::seize(first, options).expect("ptrace");
        kill(first, Signal::SIGCONT).expect("the shell goes on");
        Self {
            first,
            nth,
            victim,
            tasks: vec![first],
            gone: BTreeSet::new(),
            count: 0,
            counting: false,
            struck: None,
        }
    }

    /// Until the last process is gone; gives the status of the first.
    fn follow(&mut self) -> ExitStatus {
        let mut status = None;
        loop {
            // Only this thread's: other tests have children too.
            let flags = WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD;
            match waitpid(None, Some(flags)) {
                Ok(WaitStatus::Exited(pid, code)) => {
                    self.gone.insert(pid);
                    if pid == self.first {
                        status = Some(ExitStatus::from_raw(code << 8));
                    }
                }
                Ok(WaitStatus::Signaled(pid, signal, _)) => {
                    self.gone.insert(pid);
                    if pid == self.first {
                        status = Some(ExitStatus::from_raw(signal as i32));
                    }
                }
                Ok(WaitStatus::PtraceSyscall(pid)) => self.call(pid),
                Ok(WaitStatus::PtraceEvent(pid, _, event)) => self.event(pid, event),
                Ok(WaitStatus::Stopped(pid, signal)) => self.go_on(pid, Some(signal)),
                Ok(_) | Err(Errno::EINTR) => {}
                Err(Errno::ECHILD) => return status.expect("the first process has ended"),
                Err(errno) => panic!("waitpid: {errno}"),
            }
        }
    }

    fn event(&mut self, pid: Pid, event: i32) {
        if event == Event::PTRACE_EVENT_EXEC as i32 {
            self.counting = true;
        }
        if !self.tasks.contains(&pid) {
            self.tasks.push(pid);
            if self.struck.is_some() && self.victim == Victim::All {
                // It was being made while the others were killed.
                let _ = kill(pid, Signal::SIGKILL);
            }
        }
        self.go_on(pid, None);
    }

    fn call(&mut self, pid: Pid) {
        const EXIT: u8 = 2;
        if self.counting && self.struck.is_none() {
            match ptrace::syscall_info(pid) {
                Ok(info) if info.op == EXIT => self.count += 1,
                Ok(_) | Err(Errno::ESRCH) => return self.go_on(pid, None),
                Err(errno) => panic!("PTRACE_GET_SYSCALL_INFO: {errno}"),
            }
            if self.count == self.nth {
                self.strike(pid);
            }
        }
        self.go_on(pid, None);
    }

    fn strike(&mut self, caller: Pid) {
        let index = self.tasks.iter().position(|pid| *pid == caller).unwrap_or(usize::MAX);
        self.struck = Some((index, number_of_call(caller)));
        let victims = match self.victim {
            Victim::All => self.tasks.clone(),
            Victim::First => vec![self.first],
            Victim::Caller => vec![caller],
        };
        for pid in victims.into_iter().filter(|pid| !self.gone.contains(pid)) {
            let _ = kill(pid, Signal::SIGKILL);
        }
    }

    /// To the next stop: after the strike only signals and the end are one.
    fn go_on(&self, pid: Pid, signal: Option<Signal>) {
        let gone_on = match self.struck {
            None => ptrace::syscall(pid, signal),
            Some(_) => ptrace::cont(pid, signal),
        };
        assert!(matches!(gone_on, Ok(()) | Err(Errno::ESRCH)), "ptrace: {gone_on:?}");
    }
}

/// The number of the system call that a stopped task is in: proc_pid_syscall(5).
fn number_of_call(task: Pid) -> u64 {
    let line = std::fs::read_to_string(format!("/proc/{task}/syscall")).unwrap_or_default();
    let number = line.split_whitespace().next().and_then(|word| word.parse().ok());
    number.unwrap_or(u64::MAX)
}
