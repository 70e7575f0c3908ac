//! A profile of Docker's format, as `--security-opt seccomp=FILE` names one.
//!
//! The format: <https://docs.docker.com/engine/security/seccomp/>, with the
//! fields of moby's `profiles/seccomp` and podman's names of error numbers.
//! What is not understood is refused, not passed over: a filter that is not what
//! its author wrote is worse than none. Two things are passed over because no
//! call comes through for it: rules for other processors, and names that this
//! plywood does not know where the rule would allow more than the default.

use serde::Deserialize;

use super::numbers;
use super::profile::{Action, Condition, Profile, Rule, Test};
use crate::exec::capability::{self, Capabilities};

/// Error numbers end here (`MAX_ERRNO`).
const ERRNO_MAX: u32 = 4095;
/// EPERM, where a file does not say which.
const ERRNO_DEFAULT: u16 = 1;
/// Arguments of a system call.
const ARGUMENTS: u32 = 6;
/// This processor, as libseccomp and as Go call it.
#[cfg(target_arch = "x86_64")]
const PROCESSOR: (&str, &str) = ("SCMP_ARCH_X86_64", "amd64");
#[cfg(target_arch = "aarch64")]
const PROCESSOR: (&str, &str) = ("SCMP_ARCH_AARCH64", "arm64");

/// The whole file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct File {
    default_action: String,
    default_errno_ret: Option<u32>,
    default_errno: Option<String>,
    #[serde(default, deserialize_with = "null_is_empty")]
    architectures: Vec<String>,
    #[serde(default, deserialize_with = "null_is_empty")]
    arch_map: Vec<Architecture>,
    #[serde(default, deserialize_with = "null_is_empty")]
    flags: Vec<String>,
    #[serde(default, deserialize_with = "null_is_empty")]
    syscalls: Vec<Entry>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Architecture {
    architecture: String,
    /// Of no use here: programs of another kind do not run under a filter.
    #[serde(default, rename = "subArchitectures")]
    _sub_architectures: Option<Vec<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Entry {
    name: Option<String>,
    #[serde(default, deserialize_with = "null_is_empty")]
    names: Vec<String>,
    action: String,
    errno_ret: Option<u32>,
    errno: Option<String>,
    #[serde(default, deserialize_with = "null_is_empty")]
    args: Vec<Argument>,
    #[serde(default, rename = "comment")]
    _comment: Option<String>,
    #[serde(default)]
    includes: Option<When>,
    #[serde(default)]
    excludes: Option<When>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Argument {
    index: u32,
    value: u64,
    #[serde(default)]
    value_two: u64,
    op: String,
}

/// When a rule is meant, or not meant.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct When {
    #[serde(default, deserialize_with = "null_is_empty")]
    arches: Vec<String>,
    #[serde(default, deserialize_with = "null_is_empty")]
    caps: Vec<String>,
    min_kernel: Option<String>,
}

/// Go writes an empty list as null.
fn null_is_empty<'de, D, T>(from: D) -> Result<Vec<T>, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de>,
{
    Option::deserialize(from).map(Option::unwrap_or_default)
}

/// The profile in a file, for a container with these capabilities on this kernel.
///
/// # Errors
/// Words that say what in it is wrong.
pub(super) fn parse(bytes: &[u8], capabilities: Capabilities) -> Result<Profile, String> {
    let file: File = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    check_architectures(&file)?;
    let default = action(
        &file.default_action,
        file.default_errno_ret,
        file.default_errno.as_deref(),
    )?;
    let mut log = false;
    for flag in &file.flags {
        match flag.as_str() {
            "SECCOMP_FILTER_FLAG_LOG" => log = true,
            // A container begins with one thread; and since Linux 5.16 this one changes nothing.
            "SECCOMP_FILTER_FLAG_TSYNC" | "SECCOMP_FILTER_FLAG_SPEC_ALLOW" => {}
            other => return Err(format!("there is no flag {other:?}")),
        }
    }
    let mut rules = Vec::new();
    for entry in &file.syscalls {
        let is_meant = entry
            .includes
            .as_ref()
            .map_or(Ok(true), |when| when.all(capabilities))?
            && !entry
                .excludes
                .as_ref()
                .map_or(Ok(false), |when| when.any(capabilities))?;
        let rule = rule(entry, default)?;
        if is_meant && !rule.calls.is_empty() {
            rules.push(rule);
        }
    }
    Ok(Profile { default, rules, log })
}

impl When {
    /// Whether every word of it is true.
    fn all(&self, capabilities: Capabilities) -> Result<bool, String> {
        let arches = self.arches.is_empty() || self.is_this_processor();
        Ok(self.held(capabilities)?.iter().all(|held| *held) && arches && self.is_new_kernel()?.unwrap_or(true))
    }

    /// Whether a word of it is true.
    fn any(&self, capabilities: Capabilities) -> Result<bool, String> {
        let held = self.held(capabilities)?.contains(&true);
        Ok(held || self.is_this_processor() || self.is_new_kernel()?.unwrap_or(false))
    }

    fn is_this_processor(&self) -> bool {
        self.arches.iter().any(|name| name == PROCESSOR.1)
    }

    fn held(&self, capabilities: Capabilities) -> Result<Vec<bool>, String> {
        let held = |name: &String| {
            let one = capability::parse(name).map_err(|_| format!("there is no capability {name:?}"))?;
            Ok(capabilities.set().contains(one))
        };
        self.caps.iter().map(held).collect()
    }

    fn is_new_kernel(&self) -> Result<Option<bool>, String> {
        let Some(wanted) = &self.min_kernel else {
            return Ok(None);
        };
        let wanted = kernel(wanted).ok_or_else(|| format!("{wanted:?} is no version of a kernel, such as 4.8"))?;
        let this = rustix::system::uname().release().to_string_lossy().into_owned();
        Ok(Some(kernel(&this).is_some_and(|this| this >= wanted)))
    }
}

/// Version and patch level of a kernel: the two numbers before anything else.
fn kernel(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|byte: char| !byte.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn check_architectures(file: &File) -> Result<(), String> {
    if !file.architectures.is_empty() && !file.arch_map.is_empty() {
        return Err("it has both architectures and archMap".to_owned());
    }
    let mut named = file
        .arch_map
        .iter()
        .map(|one| &one.architecture)
        .chain(&file.architectures);
    let is_silent = file.architectures.is_empty() && file.arch_map.is_empty();
    if is_silent || named.any(|name| name == PROCESSOR.0) {
        Ok(())
    } else {
        Err(format!("it is not for this processor, {}", PROCESSOR.0))
    }
}

fn rule(entry: &Entry, default: Action) -> Result<Rule, String> {
    let names = match (&entry.name, entry.names.as_slice()) {
        (Some(name), []) => std::slice::from_ref(name),
        (None, names @ [_, ..]) => names,
        (Some(_), _) => return Err("a rule has both name and names".to_owned()),
        (None, []) => return Err("a rule has no names".to_owned()),
    };
    let action = action(&entry.action, entry.errno_ret, entry.errno.as_deref())?;
    let mut conditions: Vec<Condition> = Vec::new();
    for argument in &entry.args {
        let condition = condition(argument)?;
        // libseccomp would take these for two rules, of which one is enough.
        if conditions.iter().any(|other| other.argument == condition.argument) {
            return Err(format!(
                "a rule for {} asks twice for argument {}",
                names.join(", "),
                argument.index
            ));
        }
        conditions.push(condition);
    }
    let unknown = names.iter().find(|name| !numbers::is_known(name));
    if let Some(name) = unknown.filter(|_| action.leniency() < default.leniency()) {
        return Err(format!(
            "there is no system call {name:?}, and what it is to forbid would be allowed"
        ));
    }
    let calls = names.iter().filter(|name| numbers::find(name).is_some());
    Ok(Rule {
        calls: calls.cloned().collect(),
        conditions,
        action,
    })
}

fn condition(argument: &Argument) -> Result<Condition, String> {
    let Argument { value, value_two, .. } = *argument;
    let test = match argument.op.as_str() {
        "SCMP_CMP_EQ" => Test::Equal(value),
        "SCMP_CMP_NE" => Test::NotEqual(value),
        "SCMP_CMP_LT" => Test::Less(value),
        "SCMP_CMP_LE" => Test::LessOrEqual(value),
        "SCMP_CMP_GT" => Test::Greater(value),
        "SCMP_CMP_GE" => Test::GreaterOrEqual(value),
        "SCMP_CMP_MASKED_EQ" => Test::Masked {
            mask: value,
            value: value_two,
        },
        other => return Err(format!("there is no comparison {other:?}")),
    };
    match u8::try_from(argument.index) {
        Ok(number) if argument.index < ARGUMENTS => Ok(Condition { argument: number, test }),
        _ => Err(format!("a call has no argument {}", argument.index)),
    }
}

/// An action with its number; podman writes the number's name besides.
fn action(name: &str, number: Option<u32>, word: Option<&str>) -> Result<Action, String> {
    let number = match (number, word) {
        (Some(number), _) if number > ERRNO_MAX => return Err(format!("{number} is no error number")),
        (Some(number), None) => u16::try_from(number).ok(),
        (number, Some(word)) => {
            let named = errno(word).ok_or_else(|| format!("plywood does not know the error {word:?}"))?;
            if number.is_some_and(|number| number != u32::from(named)) {
                return Err(format!("{word} is not the error number beside it"));
            }
            Some(named)
        }
        (None, None) => None,
    };
    let action = match name {
        "SCMP_ACT_ERRNO" => return Ok(Action::Errno(number.unwrap_or(ERRNO_DEFAULT))),
        "SCMP_ACT_TRACE" => return Ok(Action::Trace(number.unwrap_or(ERRNO_DEFAULT))),
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => Action::KillThread,
        "SCMP_ACT_KILL_PROCESS" => Action::KillProcess,
        "SCMP_ACT_TRAP" => Action::Trap,
        "SCMP_ACT_LOG" => Action::Log,
        "SCMP_ACT_ALLOW" => Action::Allow,
        "SCMP_ACT_NOTIFY" => return Err("plywood has nobody whom SCMP_ACT_NOTIFY could ask".to_owned()),
        other => return Err(format!("there is no action {other:?}")),
    };
    match number {
        None => Ok(action),
        Some(_) => Err(format!("{name} has no error number")),
    }
}

/// The error numbers that profiles use.
fn errno(word: &str) -> Option<u16> {
    use rustix::io::Errno;
    let number = match word {
        "EPERM" => Errno::PERM,
        "ENOENT" => Errno::NOENT,
        "EINTR" => Errno::INTR,
        "EIO" => Errno::IO,
        "EAGAIN" => Errno::AGAIN,
        "ENOMEM" => Errno::NOMEM,
        "EACCES" => Errno::ACCESS,
        "EBUSY" => Errno::BUSY,
        "EINVAL" => Errno::INVAL,
        "ENOSPC" => Errno::NOSPC,
        "ENOSYS" => Errno::NOSYS,
        "EAFNOSUPPORT" => Errno::AFNOSUPPORT,
        "EPROTONOSUPPORT" => Errno::PROTONOSUPPORT,
        "ENOTSUP" | "EOPNOTSUPP" => Errno::OPNOTSUPP,
        _ => return None,
    };
    u16::try_from(number.raw_os_error()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Profile, String> {
        parse(text.as_bytes(), Capabilities::default())
    }

    /// A profile that allows by default and has this one rule.
    fn denying(rule: &str) -> Result<Profile, String> {
        read(&format!(
            r#"{{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{rule}]}}"#
        ))
    }

    #[test]
    fn dockers_words_are_understood() {
        let profile = read(
            r#"{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38, "flags": ["SECCOMP_FILTER_FLAG_LOG"],
            "archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]},
                        {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": null}],
            "syscalls": [
              {"names": ["read", "socketcall", "not_yet"], "action": "SCMP_ACT_ALLOW", "args": null, "comment": "",
               "includes": {}, "excludes": {}},
              {"name": "clone", "action": "SCMP_ACT_ALLOW",
               "args": [{"index": 0, "value": 2114060288, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}]},
              {"names": ["chroot"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_CHROOT"]}},
              {"names": ["mount"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN"]}},
              {"names": ["ptrace"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "4.8"}},
              {"names": ["bpf"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "99.0"}},
              {"names": ["acct"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["s390x"]}},
              {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errno": "EPERM", "errnoRet": 1,
               "excludes": {"caps": ["CAP_SYS_ADMIN"]}},
              {"names": ["kill"], "action": "SCMP_ACT_KILL", "excludes": {"caps": ["CAP_KILL"]}}
            ]}"#,
        )
        .unwrap();
        assert_eq!((profile.default, profile.log), (Action::Errno(38), true));
        let rules: Vec<(String, Action)> = profile
            .rules
            .iter()
            .map(|rule| (rule.calls.join(" "), rule.action))
            .collect();
        let expected = [
            ("read", Action::Allow),
            ("clone", Action::Allow),
            ("chroot", Action::Allow),
            ("ptrace", Action::Allow),
            ("clone3", Action::Errno(1)),
        ];
        assert_eq!(rules, expected.map(|(calls, action)| (calls.to_owned(), action)));
        let masked = Test::Masked {
            mask: 0x7e02_0000,
            value: 0,
        };
        assert_eq!(
            profile.rules[1].conditions,
            [Condition {
                argument: 0,
                test: masked
            }]
        );
        assert!(
            denying(r#"{"names": ["socketcall"], "action": "SCMP_ACT_KILL"}"#)
                .unwrap()
                .rules
                .is_empty()
        );
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for text in [
            "",
            "{}",
            "[]",
            r#"{"defaultAction": "ALLOW"}"#,
            r#"{"defaultAction": "SCMP_ACT_NOTIFY"}"#,
            r#"{"defaultAction": "SCMP_ACT_ALLOW", "defaultAction": "SCMP_ACT_ERRNO"}"#,
            r#"{"defaultaction": "SCMP_ACT_ALLOW"}"#,
            r#"{"defaultAction": "SCMP_ACT_ALLOW", "defaultErrnoRet": 1}"#,
            r#"{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 4096}"#,
            r#"{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrno": "EPERM", "defaultErrnoRet": 38}"#,
            r#"{"defaultAction": "SCMP_ACT_ALLOW", "flags": ["SECCOMP_FILTER_FLAG_NEW"]}"#,
            r#"{"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/run/x"}"#,
            r#"{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_S390X"]}"#,
            r#"{"defaultAction": "SCMP_ACT_ALLOW"} {}"#,
        ] {
            assert!(read(text).is_err(), "{text}");
        }
        for rule in [
            "{}",
            r#"{"names": [], "action": "SCMP_ACT_ERRNO"}"#,
            r#"{"names": ["mount"]}"#,
            r#"{"name": "mount", "names": ["umount2"], "action": "SCMP_ACT_ERRNO"}"#,
            r#"{"names": ["muont"], "action": "SCMP_ACT_ERRNO"}"#,
            r#"{"names": ["mount"], "action": "SCMP_ACT_ALLOW", "errnoRet": 1}"#,
            r#"{"names": ["mount"], "action": "SCMP_ACT_ERRNO", "errno": "ENONSENSE"}"#,
            r#"{"names": ["mount"], "action": "SCMP_ACT_ERRNO", "errnoRet": -1}"#,
            r#"{"names": ["mount"], "action": "SCMP_ACT_ERRNO", "unless": {}}"#,
            r#"{"names": ["mount"], "action": "SCMP_ACT_ERRNO", "includes": {"caps": ["CAP_FLY"]}}"#,
            r#"{"names": ["mount"], "action": "SCMP_ACT_ERRNO", "includes": {"minKernel": "new"}}"#,
            r#"{"names": ["mount"], "action": "SCMP_ACT_ERRNO",
                "args": [{"index": 6, "value": 0, "op": "SCMP_CMP_EQ"}]}"#,
            r#"{"names": ["mount"], "action": "SCMP_ACT_ERRNO",
                "args": [{"index": 0, "value": 0, "op": "EQ"}]}"#,
            r#"{"names": ["mount"], "action": "SCMP_ACT_ERRNO",
                "args": [{"index": 0, "value": 0, "op": "SCMP_CMP_NE"}, {"index": 0, "value": 1, "op": "SCMP_CMP_NE"}]}"#,
        ] {
            assert!(denying(rule).is_err(), "{rule}");
        }
    }
}
