//! The filter of system calls: what a command may ask the kernel for.
//!
//! ```text
//! default.rs   what every container may call, and what goes with a capability
//! docker.rs    --security-opt seccomp=FILE
//! profile.rs   what a file says, as a container's record keeps it
//! compile.rs   rules to a BPF program
//! numbers.rs   names and numbers of system calls
//! ```
//!
//! The program is made before the fork and loaded as the last but execve
//! (`child.rs`). Making the default one takes 0.01 ms and loading it 0.05 ms of a
//! start: a program that was kept would take as long to read, so none is kept.

mod compile;
mod default;
mod docker;
mod numbers;
mod profile;

use seccompiler::BpfProgram;
use serde::{Deserialize, Serialize};

pub use profile::{Action, Condition, Profile, Rule, Test};

use super::capability::Capabilities;
use super::error::{Attempt, Error, Result, Stage};
use crate::sys::seccomp;
use compile::{Fault, compile};

/// Which filter a container has.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Seccomp {
    /// The default one, for its capabilities.
    #[default]
    Default,
    /// None.
    Unconfined,
    /// That of a file.
    Profile(Profile),
}

impl Seccomp {
    /// The profile in `bytes`, for a container with these capabilities. `name` is the file's, for the error.
    ///
    /// # Errors
    /// Where it is no profile, or one that no filter can be made of.
    pub fn from_docker(name: &str, bytes: &[u8], capabilities: Capabilities) -> Result<Self> {
        let bad = |why: String| Error::new(Stage::Request, format!("use the seccomp profile {name}: {why}"));
        let profile = Self::Profile(docker::parse(bytes, capabilities).map_err(bad)?);
        profile.filter(capabilities)?;
        Ok(profile)
    }

    /// The filter, ready to be loaded; none where the container has none.
    ///
    /// # Errors
    /// For a profile whose rules are too many.
    pub(super) fn filter(&self, capabilities: Capabilities) -> Result<Option<Filter>> {
        let (program, log) = match self {
            Self::Unconfined => return Ok(None),
            Self::Default => (compile(default::REFUSED, &default::rules(capabilities.set())), false),
            Self::Profile(profile) => (compile_profile(profile), profile.log),
        };
        let program = program.map_err(|fault| Error::new(Stage::Request, format!("filter system calls: {fault}")))?;
        Ok(Some(Filter { program, log }))
    }
}

fn compile_profile(profile: &Profile) -> Result<BpfProgram, Fault> {
    let numbers = |rule: &Rule| rule.calls.iter().filter_map(|name| numbers::find(name)).collect();
    let numbers: Vec<Vec<u32>> = profile.rules.iter().map(numbers).collect();
    let rules = profile.rules.iter().zip(&numbers).map(|(rule, calls)| compile::Rule {
        calls,
        conditions: &rule.conditions,
        action: rule.action,
    });
    compile(profile.default, &rules.collect::<Vec<_>>())
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Condition(cause) => write!(f, "{cause}"),
            Self::Length(length) => write!(f, "{length} instructions are more than the kernel takes"),
        }
    }
}

/// A program for the kernel.
#[derive(Debug)]
pub(super) struct Filter {
    program: BpfProgram,
    log: bool,
}

impl Filter {
    /// Puts this process under the filter, for good. Wants `no_new_privs` or `CAP_SYS_ADMIN`.
    pub(super) fn load(&self) -> Result<()> {
        seccomp::load(&self.program, self.log).attempt(Stage::User, || "load the filter of system calls".to_owned())
    }

    /// How long it is, for who watches.
    pub(super) fn instructions(&self) -> usize {
        self.program.len()
    }
}

#[cfg(test)]
mod tests {
    use rustix::thread::CapabilitySet;

    use super::compile::tests::ask;
    use super::*;

    const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
    const EPERM: u32 = libc::SECCOMP_RET_ERRNO | 1;
    const ENOSYS: u32 = libc::SECCOMP_RET_ERRNO | 38;

    /// What the default filter says to a call with this first argument.
    fn says(add: &[&str], name: &str, first: u64) -> u32 {
        let add: Vec<String> = add.iter().map(|name| (*name).to_owned()).collect();
        let capabilities = Capabilities::chosen(false, &add, &[]).unwrap();
        let filter = Seccomp::Default.filter(capabilities).unwrap().unwrap();
        let number = numbers::find(name).unwrap();
        ask(&filter.program, number, compile::ARCHITECTURE, [first, 0, 0, 0, 0, 0])
    }

    #[test]
    fn the_default_is_dockers() {
        for name in [
            "read",
            "execve",
            "openat2",
            "statx",
            "ptrace",
            "chroot",
            "capset",
            "seccomp",
            "removexattrat",
        ] {
            assert_eq!(says(&[], name, 0), ALLOW, "{name}");
        }
        for name in [
            "mount",
            "umount2",
            "unshare",
            "setns",
            "move_mount",
            "open_tree",
            "mount_setattr",
            "pivot_root",
            "keyctl",
            "add_key",
            "request_key",
            "bpf",
            "perf_event_open",
            "userfaultfd",
            "io_uring_setup",
            "io_uring_enter",
            "open_by_handle_at",
            "init_module",
            "kexec_load",
            "reboot",
            "swapon",
            "quotactl",
            "acct",
            "settimeofday",
            "clock_settime",
            "process_madvise",
            "kcmp",
            "pidfd_getfd",
            "syslog",
            "sethostname",
            "fsopen",
        ] {
            assert_eq!(says(&[], name, 0), EPERM, "{name}");
        }
        assert_eq!(says(&[], "clone3", 0), ENOSYS);
        assert_eq!(says(&[], "open_tree_attr", 0), ENOSYS, "newer than all that is named");
    }

    #[test]
    fn calls_come_with_their_capabilities() {
        for (capability, name) in [
            ("SYS_ADMIN", "mount"),
            ("SYS_ADMIN", "clone3"),
            ("SYS_ADMIN", "setns"),
            ("DAC_READ_SEARCH", "open_by_handle_at"),
            ("SYS_MODULE", "finit_module"),
            ("SYS_PTRACE", "kcmp"),
            ("SYS_TIME", "clock_settime"),
            ("SYSLOG", "syslog"),
            ("BPF", "bpf"),
            ("PERFMON", "perf_event_open"),
        ] {
            assert_eq!(says(&[capability], name, 0), ALLOW, "{capability}: {name}");
            assert_ne!(says(&[], name, 0), ALLOW, "{name}");
        }
        assert_eq!(says(&["ALL"], "keyctl", 0), EPERM, "that is nobody's");
    }

    #[test]
    fn arguments_decide_about_sockets_clones_and_personalities() {
        for (name, first, expected) in [
            ("socket", 1, ALLOW),
            ("socket", 2, ALLOW),
            ("socket", 16, ALLOW),
            ("socket", 38, EPERM),
            ("socket", 39, ALLOW),
            ("socket", 40, EPERM),
            ("socket", 41, ALLOW),
            // To the kernel it is an int.
            ("socket", (1 << 32) + 38, EPERM),
            ("socket", (7 << 32) + 40, EPERM),
            ("clone", 0x11, ALLOW),
            ("clone", 0x003d_0f00, ALLOW),
            ("clone", 0x1000_0000, EPERM),
            ("clone", 0x0002_0011, EPERM),
            ("clone", 0x4000_0000, EPERM),
            ("personality", 0, ALLOW),
            ("personality", 8, ALLOW),
            ("personality", 0xffff_ffff, ALLOW),
            ("personality", u64::MAX, ALLOW),
            ("personality", 0x0004_0000, EPERM),
        ] {
            assert_eq!(says(&[], name, first), expected, "{name} {first:#x}");
        }
        assert_eq!(says(&["SYS_ADMIN"], "clone", 0x1000_0000), ALLOW);
        assert_eq!(says(&["ALL"], "socket", 38), EPERM, "AF_ALG is nobody's");
    }

    #[test]
    fn other_kinds_of_programs_have_no_calls() {
        let filter = Seccomp::Default.filter(Capabilities::default()).unwrap().unwrap();
        let ask = |number, architecture| ask(&filter.program, number, architecture, [0; 6]);
        for architecture in [0x4000_0003, 0x4000_0028, 0, u32::MAX] {
            assert_eq!(
                ask(102, architecture),
                libc::SECCOMP_RET_KILL_PROCESS,
                "{architecture:#x}"
            );
        }
        // x32 has this bit in its numbers.
        for number in [0x4000_0000, 0x4000_0029, 0x4000_0208, 512, u32::MAX] {
            assert_eq!(ask(number, compile::ARCHITECTURE), ENOSYS, "{number:#x}");
        }
    }

    #[test]
    fn in_a_file_that_contradicts_itself_the_stricter_rule_counts() {
        for actions in [
            ["SCMP_ACT_ERRNO", "SCMP_ACT_ALLOW"],
            ["SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO"],
        ] {
            let rules = actions
                .map(|action| format!(r#"{{"names": ["mount"], "action": "{action}"}}"#))
                .join(",");
            let file = format!(r#"{{"defaultAction": "SCMP_ACT_LOG", "syscalls": [{rules}]}}"#);
            let profile = Seccomp::from_docker("x", file.as_bytes(), Capabilities::default()).unwrap();
            let filter = profile.filter(Capabilities::default()).unwrap().unwrap();
            let mount = numbers::find("mount").unwrap();
            assert_eq!(ask(&filter.program, mount, compile::ARCHITECTURE, [0; 6]), EPERM);
        }
    }

    #[test]
    fn all_capabilities_give_all_that_any_gives() {
        let all = Seccomp::Default
            .filter(Capabilities::chosen(true, &[], &[]).unwrap())
            .unwrap()
            .unwrap();
        for bit in 0..64 {
            let one = CapabilitySet::from_bits_retain(1 << bit);
            for rule in default::rules(one) {
                let calls = rule
                    .calls
                    .iter()
                    .filter(|_| rule.conditions.is_empty() && rule.action == Action::Allow);
                for number in calls {
                    assert_eq!(
                        ask(&all.program, *number, compile::ARCHITECTURE, [0; 6]),
                        ALLOW,
                        "{number}"
                    );
                }
            }
        }
    }
}
