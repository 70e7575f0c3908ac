//! `--security-opt` and `--ulimit`, in Docker's words.

use std::io::Read;

use crate::error::{Context, Error, Result};
use crate::exec::capability::Capabilities;
use crate::exec::rlimit::Limit;
use crate::exec::seccomp::Seccomp;

/// Bytes that a seccomp profile may have; Docker's own has 18 KiB.
const PROFILE_MAX: u64 = 1 << 20;

/// What `--security-opt` came to.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Security {
    /// No set-user-id program can give more.
    pub(super) no_new_privileges: bool,
    /// The filter of system calls.
    pub(super) seccomp: Seccomp,
}

/// What the options say, the last of a kind, over what a container, or a privileged one, has without them.
///
/// # Errors
/// Invalid for an option that is not known, and for a profile that is none; one that cannot be read.
pub(super) fn security(options: &[String], privileged: bool, capabilities: Capabilities) -> Result<Security> {
    let mut security = Security {
        no_new_privileges: !privileged,
        seccomp: if privileged {
            Seccomp::Unconfined
        } else {
            Seccomp::Default
        },
    };
    for option in options {
        // Docker's older form has a colon.
        let (name, value) = match option.split_once(['=', ':']) {
            Some((name, value)) => (name, Some(value)),
            None => (option.as_str(), None),
        };
        match (name, value) {
            ("no-new-privileges", None | Some("true")) => security.no_new_privileges = true,
            ("no-new-privileges", Some("false")) => security.no_new_privileges = false,
            ("seccomp", Some("unconfined")) => security.seccomp = Seccomp::Unconfined,
            ("seccomp", Some("builtin")) => security.seccomp = Seccomp::Default,
            ("seccomp", Some(file)) if !file.is_empty() => security.seccomp = profile(file, capabilities)?,
            _ => {
                return Err(Error::invalid(format!("there is no security option {option:?}")).hinted(
                    "there are no-new-privileges, alone or with =true or =false, and seccomp=FILE, builtin or unconfined",
                ));
            }
        }
    }
    Ok(security)
}

fn profile(file: &str, capabilities: Capabilities) -> Result<Seccomp> {
    let mut bytes = Vec::new();
    let source = std::fs::File::open(file).context("open the seccomp profile", file)?;
    let read = source.take(PROFILE_MAX + 1).read_to_end(&mut bytes);
    if read.context("read the seccomp profile", file)? as u64 > PROFILE_MAX {
        return Err(Error::invalid(format!(
            "the seccomp profile {file} has more than {PROFILE_MAX} bytes"
        )));
    }
    Seccomp::from_docker(file, &bytes, capabilities).map_err(|error| {
        Error::invalid(error.to_string())
            .hinted("Docker's documentation of seccomp profiles describes the format; seccomp=builtin is plywood's own")
    })
}

/// The limits that were asked for.
///
/// # Errors
/// Invalid for one that is none.
pub(super) fn limits(asked: &[String]) -> Result<Vec<Limit>> {
    let limit = |text: &String| text.parse::<Limit>().map_err(|error| Error::invalid(error.to_string()));
    asked.iter().map(limit).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(options: &[&str], privileged: bool) -> Result<(bool, Seccomp)> {
        let options: Vec<String> = options.iter().map(|option| (*option).to_owned()).collect();
        let security = security(&options, privileged, Capabilities::default())?;
        Ok((security.no_new_privileges, security.seccomp))
    }

    #[test]
    fn a_container_is_hardened_unless_told_otherwise() {
        use Seccomp::{Default, Unconfined};
        for (options, privileged, expected) in [
            (&[][..], false, (true, Default)),
            (&[], true, (false, Unconfined)),
            (&["no-new-privileges"], true, (true, Unconfined)),
            (&["no-new-privileges=false"], false, (false, Default)),
            (
                &["no-new-privileges:true", "seccomp:unconfined"],
                false,
                (true, Unconfined),
            ),
            (&["seccomp=unconfined", "seccomp=builtin"], true, (false, Default)),
        ] {
            assert_eq!(said(options, privileged).unwrap(), expected, "{options:?}");
        }
    }

    #[test]
    fn what_is_no_option_is_refused() {
        for bad in [
            "",
            "seccomp",
            "seccomp=",
            "seccomp=/no/such/file",
            "no-new-privileges=no",
            "no-new-privileges=",
            "apparmor=x",
            "label=disable",
            "=",
            "seccomp=/dev/null",
        ] {
            assert!(said(&[bad], false).is_err(), "{bad:?}");
        }
    }
}
