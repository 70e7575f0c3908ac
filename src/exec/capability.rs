//! Which capabilities a command may have: Docker's fourteen, more or fewer.
//!
//! Kept in the container's record by their names (capabilities(7)), so that a
//! newer plywood reads what an older one wrote.

use rustix::thread::CapabilitySet;
use serde::{Deserialize, Serialize};

use super::error::{Error, Result, Stage};

/// What stands for all of them, those of later kernels included.
const ALL: &str = "ALL";

/// Docker's default (moby, oci/defaults.go).
const DEFAULT: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::MKNOD)
    .union(CapabilitySet::NET_RAW)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETFCAP)
    .union(CapabilitySet::SETPCAP)
    .union(CapabilitySet::NET_BIND_SERVICE)
    .union(CapabilitySet::SYS_CHROOT)
    .union(CapabilitySet::KILL)
    .union(CapabilitySet::AUDIT_WRITE);

/// A set of capabilities.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "Vec<String>", try_from = "Vec<String>")]
pub struct Capabilities(CapabilitySet);

impl Default for Capabilities {
    fn default() -> Self {
        Self(DEFAULT)
    }
}

impl Capabilities {
    /// What a command may have: all or the default, with those of `add` and without those of `drop`. `ALL`
    /// among either begins with all or with none, as in Docker.
    ///
    /// # Errors
    /// A name that is no capability's.
    pub fn chosen(privileged: bool, add: &[String], drop: &[String]) -> Result<Self> {
        let is_all = |names: &[String]| names.iter().any(|name| name.eq_ignore_ascii_case(ALL));
        let base = match (is_all(add) || privileged, is_all(drop)) {
            (true, _) => every(),
            (false, true) => CapabilitySet::empty(),
            (false, false) => DEFAULT,
        };
        let named = |names: &[String]| {
            let rest = names.iter().filter(|name| !name.eq_ignore_ascii_case(ALL));
            rest.map(|name| parse(name)).collect::<Result<CapabilitySet>>()
        };
        Ok(Self((base | named(add)?) - named(drop)?))
    }

    /// As the kernel has them.
    pub(super) fn set(self) -> CapabilitySet {
        self.0
    }

    /// Their names as setpriv(1) takes them: none where all are left.
    pub(super) fn setpriv(self) -> Option<String> {
        (self.0 != every()).then(|| {
            let names = self
                .0
                .iter_names()
                .map(|(name, _)| format!(",+{}", name.to_ascii_lowercase()));
            format!("-all{}", names.collect::<String>())
        })
    }
}

/// All, whether they have a name yet or not.
fn every() -> CapabilitySet {
    CapabilitySet::from_bits_retain(u64::MAX)
}

/// `NET_ADMIN` or `CAP_NET_ADMIN`, in any case.
pub(super) fn parse(name: &str) -> Result<CapabilitySet> {
    let upper = name.to_ascii_uppercase();
    let short = upper.strip_prefix("CAP_").unwrap_or(&upper);
    CapabilitySet::from_name(short).ok_or_else(|| {
        Error::new(
            Stage::Request,
            format!("give or take the capability {name:?}: there is none of that name (capabilities(7) has them)"),
        )
    })
}

impl From<Capabilities> for Vec<String> {
    fn from(capabilities: Capabilities) -> Self {
        match capabilities.0 == every() {
            true => vec![ALL.to_owned()],
            false => capabilities
                .0
                .iter_names()
                .map(|(name, _)| format!("CAP_{name}"))
                .collect(),
        }
    }
}

impl TryFrom<Vec<String>> for Capabilities {
    type Error = Error;

    fn try_from(names: Vec<String>) -> Result<Self> {
        Self::chosen(false, &names, &[ALL.to_owned()])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(add: &[&str], drop: &[&str]) -> Capabilities {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        Capabilities::chosen(false, &owned(add), &owned(drop)).unwrap()
    }

    #[test]
    fn the_default_is_dockers_fourteen() {
        assert_eq!(DEFAULT.bits().count_ones(), 14);
        assert!(!DEFAULT.intersects(
            CapabilitySet::SYS_ADMIN
                | CapabilitySet::SYS_PTRACE
                | CapabilitySet::SYS_MODULE
                | CapabilitySet::DAC_READ_SEARCH
                | CapabilitySet::NET_ADMIN
        ));
    }

    #[test]
    fn names_are_added_and_dropped_as_in_docker() {
        assert_eq!(chosen(&[], &[]).0, DEFAULT);
        assert_eq!(
            chosen(&["net_admin"], &["CAP_CHOWN"]).0,
            (DEFAULT - CapabilitySet::CHOWN) | CapabilitySet::NET_ADMIN
        );
        assert_eq!(chosen(&["Cap_Kill"], &["all"]).0, CapabilitySet::KILL);
        assert_eq!(chosen(&["ALL"], &["SYS_ADMIN"]).0, every() - CapabilitySet::SYS_ADMIN);
        assert_eq!(chosen(&["KILL"], &["KILL"]).0, DEFAULT - CapabilitySet::KILL);
        assert_eq!(
            Capabilities::chosen(true, &[], &["kill".to_owned()]).unwrap().0,
            every() - CapabilitySet::KILL
        );
        for bad in ["", "CAP_", "FLY", "net-admin", "CAP_CAP_KILL", "_"] {
            assert!(Capabilities::chosen(false, &[bad.to_owned()], &[]).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_record_keeps_them_by_name() {
        for set in [
            chosen(&[], &[]),
            chosen(&[], &["ALL"]),
            chosen(&["ALL"], &[]),
            chosen(&["BPF"], &["KILL"]),
        ] {
            let text = serde_json::to_string(&set).unwrap();
            assert_eq!(serde_json::from_str::<Capabilities>(&text).unwrap(), set, "{text}");
        }
        assert!(serde_json::from_str::<Capabilities>("[\"FLY\"]").is_err());
    }
}
