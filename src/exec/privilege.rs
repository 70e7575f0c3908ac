//! What the command may do: the chosen capabilities for root, none for anybody
//! else, nothing inherited.
//!
//! `no_new_privs` stays off unless asked for, as in Docker, so that `sudo` works
//! inside; the bounding set is what a set-user-id program can reach at most. A seccomp
//! filter belongs right before execve, after [`become_user`].

use rustix::io::Errno;
use rustix::process::{Gid, Uid};
use rustix::thread::{
    CapabilitySet, CapabilitySets, clear_ambient_capability_set, remove_capability_from_bounding_set, set_capabilities,
    set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};

use super::error::{Attempt, Error, Result, Stage};
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

/// Becomes `user` for good, with no more than the capabilities that `spec` allows.
pub(super) fn become_user(user: &User, spec: &Spec) -> Result<()> {
    let allowed = spec.capabilities.set();
    limit_bounding_set(allowed)?;
    clear_ambient_capability_set().attempt(Stage::User, || "clear the ambient capabilities".to_owned())?;

    let at = || format!("become user {} of group {}", user.uid, user.gid);
    let groups: Vec<Gid> = user.groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
    set_thread_groups(&groups).attempt(Stage::User, || "set the supplementary groups".to_owned())?;
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    set_thread_res_gid(gid, gid, gid).attempt(Stage::User, at)?;
    set_thread_res_uid(uid, uid, uid).attempt(Stage::User, at)?;

    let now = rustix::thread::capabilities(None).attempt(Stage::User, || "read the capabilities".to_owned())?;
    // Becoming another than root has emptied both sets already.
    let sets = CapabilitySets {
        effective: now.effective & allowed,
        permitted: now.permitted & allowed,
        inheritable: CapabilitySet::empty(),
    };
    set_capabilities(None, sets).attempt(Stage::User, || "set the capabilities".to_owned())?;
    if spec.no_new_privileges {
        rustix::thread::set_no_new_privs(true).attempt(Stage::User, || "forbid new privileges".to_owned())?;
    }
    Ok(())
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
    let groups = if groups.is_empty() {
        "--clear-groups".to_owned()
    } else {
        format!("--groups={}", groups.join(","))
    };
    let bounding = spec.capabilities.setpriv();
    let bounding = bounding.map_or_else(String::new, |set| format!(" --bounding-set={set}"));
    let no_new = if spec.no_new_privileges { " --no-new-privs" } else { "" };
    format!(
        "setpriv --reuid={} --regid={} {groups}{bounding} --inh-caps=-all{no_new}",
        user.uid, user.gid
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exec::capability::Capabilities;
    use crate::exec::spec;

    #[test]
    fn the_command_is_one_that_setpriv_takes() {
        let user = User {
            uid: 1000,
            gid: 1001,
            groups: vec![27, 4],
            home: "/".to_owned(),
        };
        let privileged = Spec {
            capabilities: Capabilities::chosen(true, &[], &[]).unwrap(),
            no_new_privileges: true,
            ..spec::plain()
        };
        assert_eq!(
            command(&user, &privileged),
            "setpriv --reuid=1000 --regid=1001 --groups=27,4 --inh-caps=-all --no-new-privs"
        );
        let root = User {
            uid: 0,
            gid: 0,
            groups: vec![],
            home: "/".to_owned(),
        };
        assert!(
            command(&root, &spec::plain())
                .starts_with("setpriv --reuid=0 --regid=0 --clear-groups --bounding-set=-all,+chown,+dac_override,")
        );
    }
}
