//! What the command may do: the chosen capabilities for root, none for anybody
//! else, nothing inherited; and which system calls.
//!
//! The bounding set is what a set-user-id program can reach at most, and with
//! `no_new_privs` it reaches nothing. A filter is loaded as the last before
//! execve, so that it need not allow what plywood does until then. The kernel
//! takes one from a process that has `no_new_privs`, or `CAP_SYS_ADMIN`: without
//! the former, that capability stays until the filter is there, in another
//! user's process too, and only giving it up comes between filter and execve.

use rustix::io::Errno;
use rustix::process::{Gid, Uid};
use rustix::thread::{
    CapabilitySet, CapabilitySets, clear_ambient_capability_set, remove_capability_from_bounding_set, set_capabilities,
    set_keep_capabilities, set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};

use super::error::{Attempt, Error, Result, Stage};
use super::seccomp::Filter;
use super::spec::Spec;
use super::user::User;
use crate::explain;
use crate::sys::keyring;

/// Leaves plywood's own session keyring, and what is in it.
pub(super) fn own_keyring() -> Result<()> {
    explain::step(|| "keyctl new_session".to_owned());
    match keyring::join_new_session() {
        // A kernel may be built without keyrings.
        Err(error) if Errno::from_io_error(&error) == Some(Errno::NOSYS) => Ok(()),
        outcome => outcome.attempt(Stage::Namespaces, || "join a session keyring".to_owned()),
    }
}

/// What [`become_user`] leaves for the moment before execve.
#[derive(Debug)]
#[must_use]
pub(super) struct LastStep<'a> {
    filter: Option<&'a Filter>,
    no_new_privileges: bool,
    /// What the command has, before execve gives it what its file and user make of that.
    capabilities: CapabilitySet,
}

/// Becomes `user` for good, with no more than the capabilities that `spec` allows, and the one that the filter needs.
pub(super) fn become_user<'a>(user: &User, spec: &Spec, filter: Option<&'a Filter>) -> Result<LastStep<'a>> {
    let allowed = spec.capabilities.set();
    limit_bounding_set(allowed)?;
    clear_ambient_capability_set().attempt(Stage::User, || "clear the ambient capabilities".to_owned())?;

    let at = || format!("become user {} of group {}", user.uid, user.gid);
    let groups: Vec<Gid> = user.groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
    set_thread_groups(&groups).attempt(Stage::User, || "set the supplementary groups".to_owned())?;
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    set_thread_res_gid(gid, gid, gid).attempt(Stage::User, at)?;
    set_keep_capabilities(true).attempt(Stage::User, || "keep capabilities for a moment".to_owned())?;
    set_thread_res_uid(uid, uid, uid).attempt(Stage::User, at)?;

    let held = rustix::thread::capabilities(None).attempt(Stage::User, || "read the capabilities".to_owned())?;
    let last = LastStep {
        filter,
        no_new_privileges: spec.no_new_privileges,
        capabilities: match user.uid {
            0 => held.permitted & allowed,
            _ => CapabilitySet::empty(),
        },
    };
    let needs_admin = filter.is_some() && !spec.no_new_privileges;
    let until_then = if needs_admin {
        held.permitted & CapabilitySet::SYS_ADMIN
    } else {
        CapabilitySet::empty()
    };
    set_all_capabilities(last.capabilities | until_then)?;
    Ok(last)
}

impl LastStep<'_> {
    /// Takes it: nothing but execve may follow, for the filter may allow no more.
    pub(super) fn take(self) -> Result<()> {
        if self.no_new_privileges {
            rustix::thread::set_no_new_privs(true).attempt(Stage::User, || "forbid new privileges".to_owned())?;
        }
        let Some(filter) = self.filter else { return Ok(()) };
        filter.load()?;
        if self.no_new_privileges {
            Ok(())
        } else {
            set_all_capabilities(self.capabilities)
        }
    }
}

/// Effective and permitted; nothing is inherited.
fn set_all_capabilities(capabilities: CapabilitySet) -> Result<()> {
    let sets = CapabilitySets {
        effective: capabilities,
        permitted: capabilities,
        inheritable: CapabilitySet::empty(),
    };
    set_capabilities(None, sets).attempt(Stage::User, || "set the capabilities".to_owned())
}

/// Drops every capability that is not in `keep` from what execve can ever give.
fn limit_bounding_set(keep: CapabilitySet) -> Result<()> {
    for bit in 0..u64::BITS {
        let capability = CapabilitySet::from_bits_retain(1 << bit);
        if keep.contains(capability) {
            continue;
        }
        match remove_capability_from_bounding_set(capability) {
            Ok(()) => {}
            // One past the kernel's last.
            Err(Errno::INVAL) => return Ok(()),
            Err(error) => return Err(Error::system(Stage::User, "drop capabilities", error)),
        }
    }
    Ok(())
}

/// [`become_user`] with setpriv(1), to be put before the command.
pub(super) fn command(user: &User, spec: &Spec) -> String {
    let groups: Vec<String> = user.groups.iter().map(u32::to_string).collect();
    let groups = groups.join(",");
    let bounding = spec.capabilities.setpriv();
    let bounding = bounding.map_or_else(String::new, |set| format!(" --bounding-set={set}"));
    let no_new = if spec.no_new_privileges { " --no-new-privs" } else { "" };
    format!(
        "setpriv --reuid={} --regid={} --groups={groups}{bounding} --inh-caps=-all{no_new}",
        user.uid, user.gid
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exec::capability::Capabilities;

    #[test]
    fn the_command_is_one_that_setpriv_takes() {
        let user = User {
            uid: 1000,
            gid: 1001,
            groups: vec![1001, 27, 4],
            home: "/".to_owned(),
        };
        let privileged = Spec {
            capabilities: Capabilities::chosen(true, &[], &[]).unwrap(),
            no_new_privileges: true,
            ..Spec::new(vec!["sh".to_owned()], "box")
        };
        assert_eq!(
            command(&user, &privileged),
            "setpriv --reuid=1000 --regid=1001 --groups=1001,27,4 --inh-caps=-all --no-new-privs"
        );
        let root = User {
            uid: 0,
            gid: 0,
            groups: vec![0],
            home: "/".to_owned(),
        };
        assert!(
            command(&root, &Spec::new(vec!["sh".to_owned()], "box"))
                .starts_with("setpriv --reuid=0 --regid=0 --groups=0 --bounding-set=-all,+chown,+dac_override,")
        );
    }
}
