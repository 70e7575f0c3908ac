//! Programs that end with the plywood that started them, also where that is killed:
//! what they would still do, nobody would know of.
#![allow(unsafe_code, reason = "what runs between fork and execve must not allocate")]

use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::process::{Signal, getpid, getppid, set_parent_process_death_signal};

/// Has the kernel kill the program when the thread that starts it ends.
pub fn ends_with_parent(command: &mut Command) -> &mut Command {
    let parent = getpid();
    // SAFETY: the closure makes two system calls and allocates nothing.
    unsafe {
        command.pre_exec(move || {
            set_parent_process_death_signal(Some(Signal::KILL))?;
            // It may have ended before it could be said.
            match getppid() == Some(parent) {
                true => Ok(()),
                false => Err(rustix::io::Errno::SRCH.into()),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_ends_with_the_thread_that_started_it() {
        let mut sleeping = std::thread::spawn(|| ends_with_parent(Command::new("sleep").arg("100")).spawn().unwrap())
            .join()
            .unwrap();
        let ended = sleeping.wait().unwrap();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&ended), Some(9));
    }
}
