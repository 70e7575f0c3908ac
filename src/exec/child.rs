//! The child: one straight line from fork to execve ([`super::last`] is its end).
//!
//! The order is the safety: foreign descriptors first, then namespaces, then
//! sources of the host by handle, then pivot_root, and only then anything that
//! the image has a say in. The command starts when the parent says so.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::path::Path;

use nix::sched::CloneFlags;
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use super::cgroup::view::View;
use super::cgroup::{Cgroup, Entrances};
use super::channel::{Channel, Message};
use super::error::{Attempt, Result, Stage};
use super::files::Generated;
use super::ids::{self, Users};
use super::last::{self, Last};
use super::rootfs::{self, HostMount};
use super::seccomp::Filter;
use super::spec::{Bind, Network, Spec};
use super::streams::OwnStreams;
use super::tree::Tree;
use super::{leave, privilege, user};
use crate::explain;
use crate::sys::{netdevice, openat2};

/// Everything that the child needs to know.
#[derive(Debug)]
pub(super) struct Plan<'a> {
    pub(super) root: &'a Path,
    pub(super) spec: &'a Spec,
    pub(super) files: &'a [Generated],
    pub(super) filter: Option<&'a Filter>,
    pub(super) surroundings: super::Surroundings<'a>,
    pub(super) streams: super::Streams<'a>,
}

/// The whole life of the child. Gives its exit code where it did not become the command.
pub(super) fn live(plan: &Plan<'_>, channel: &Channel) -> i32 {
    match set_up(plan, channel) {
        Ok(last) => last.take(channel),
        Err(error) => channel.fail(error),
    }
}

/// As far as the command's last steps.
fn set_up<'a>(plan: &'a Plan<'_>, channel: &Channel) -> Result<Last<'a>> {
    let spec = plan.spec;
    let given = plan.streams;
    let network = plan.surroundings.network.map(|network| network.handle);
    let users = plan.surroundings.users;
    let kept = [channel.as_fd(), given.stdin, given.stdout, given.stderr];
    let handles = users.into_iter().flat_map(|users| users.namespace.handles());
    leave::the_host(
        &kept.into_iter().chain(network).chain(handles).collect::<Vec<_>>(),
        spec,
    )?;
    let entrances = plan.surroundings.cgroup.map(Cgroup::entrances).transpose()?;
    if let Some(network) = network {
        nix::sched::setns(network, CloneFlags::CLONE_NEWNET)
            .attempt(Stage::Namespaces, || "join the network namespace".to_owned())?;
    }
    if let Some(users) = users {
        users.namespace.join_others(spec.network == Network::None)?;
    }
    nix::sched::unshare(namespaces(&spec.network, users))
        .attempt(Stage::Namespaces, || "make namespaces".to_owned())?;
    privilege::own_keyring()?;
    let streams = OwnStreams::copy(given)?;

    let mounts = HostMounts::open(plan)?;
    rootfs::enter(plan.root, spec.privileged, users)?;
    spec.ids.map_or(Ok(()), ids::act_as)?;
    let mut tree = Tree::inside()?;
    let devices = rootfs::mount_kernel(&mut tree, spec)?;
    if !spec.privileged {
        devices.mask()?;
    }
    set_names(spec)?;
    for file in plan.files {
        if has_folder(&tree, file.path) {
            devices.bind_generated(&mut tree, file.path, &file.content)?;
        }
    }
    for device in plan.surroundings.devices {
        devices.give(&mut tree, device, spec.ids)?;
    }
    mounts.mount_hosts(&mut tree)?;
    mounts.mount(&mut tree)?;

    let user = user::look_up(&tree, &spec.user)?;
    user.check(spec.ids)?;
    let working_dir = tree.folder(Path::new(&spec.working_dir))?;
    let streams = streams.arrange(spec, &devices, &user)?;
    let cgroups = devices.cgroups(spec.privileged)?;
    devices.finish()?;
    if spec.read_only {
        rootfs::make_read_only(&tree)?;
    }

    channel.send(
        &Message::Ready { made: tree.into_made() },
        streams.master.as_ref().map(AsFd::as_fd),
    )?;
    last::wait_for_go(channel)?;
    // Only now: it may not make devices any more.
    entrances.map_or(Ok(()), Entrances::enter)?;
    cgroups.map_or(Ok(()), View::enter)?;
    Ok(Last {
        spec,
        filter: plan.filter,
        user,
        working_dir,
        streams,
        users: users.map(|users| users.namespace.user()),
        own_mounts: true,
    })
}

/// The namespaces that the child makes by itself; the pid namespace is the parent's doing.
fn namespaces(network: &Network, users: Option<Users<'_>>) -> CloneFlags {
    if users.is_some() {
        return CloneFlags::CLONE_NEWNS;
    }
    let net = match network {
        Network::Host | Network::Bridge | Network::Container(_) => CloneFlags::empty(),
        Network::None => CloneFlags::CLONE_NEWNET,
    };
    CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWUTS | CloneFlags::CLONE_NEWIPC | net
}

fn set_names(spec: &Spec) -> Result<()> {
    explain::step(|| format!("hostname {}", explain::quote(&spec.hostname)));
    rustix::system::sethostname(spec.hostname.as_bytes())
        .attempt(Stage::Namespaces, || format!("set the host name {:?}", spec.hostname))?;
    if spec.network == Network::None {
        explain::step(|| "ip link set lo up".to_owned());
        let at = || "bring the loopback interface up".to_owned();
        let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)
            .attempt(Stage::Namespaces, at)?;
        netdevice::loopback_up(&socket).attempt(Stage::Namespaces, at)?;
    }
    Ok(())
}

/// Whether the image has the folder that `path` lies in: an image without `/etc` is not given one.
fn has_folder(tree: &Tree, path: &str) -> bool {
    let folder = Path::new(path)
        .parent()
        .and_then(|folder| folder.strip_prefix("/").ok());
    folder.is_some_and(|folder| {
        let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC;
        openat2::open(tree.root(), folder, flags, rustix::fs::ResolveFlags::IN_ROOT).is_ok()
    })
}

/// Mounts that the user asked for, their sources opened while the host's tree is there.
struct HostMounts<'a> {
    binds: Vec<(&'a Path, Option<HostMount>)>,
    hosts: Option<HostMount>,
    /// Of tmpfs mounts, by path.
    sizes: &'a BTreeMap<String, u64>,
}

/// Where names are looked up.
const HOSTS: &str = "/etc/hosts";

impl<'a> HostMounts<'a> {
    fn open(plan: &'a Plan<'_>) -> Result<Self> {
        let spec = plan.spec;
        let hosts = plan.surroundings.hosts.map(|source| Bind {
            source: source.to_owned(),
            target: HOSTS.into(),
            read_only: false,
            map_ids: spec.ids.is_some(),
        });
        let users = plan.surroundings.users.map(|users| users.namespace.user());
        let open = |bind: &Bind| HostMount::open(plan.root, bind, false, users);
        let hosts = hosts.map(|bind| {
            // Where the filesystem of plywood's own files cannot show other owners, this one can still be read.
            open(&bind).or_else(|_| open(&Bind { map_ids: false, ..bind }))
        });
        let hosts = hosts.transpose()?;
        let mut binds = Vec::new();
        for bind in &spec.binds {
            binds.push((
                bind.target.as_path(),
                Some(HostMount::open(plan.root, bind, spec.privileged, users)?),
            ));
        }
        binds.extend(spec.tmpfs.iter().map(|path| (Path::new(path), None)));
        // /a before /a/b, or it would hide it.
        binds.sort_by_key(|(path, _)| path.components().count());
        Ok(Self {
            binds,
            hosts,
            sizes: &spec.tmpfs_sizes,
        })
    }

    /// Before the others: what the user mounts there is what the container sees.
    fn mount_hosts(&self, tree: &mut Tree) -> Result<()> {
        match &self.hosts {
            Some(hosts) if has_folder(tree, HOSTS) => hosts.mount_on(tree, Path::new(HOSTS)),
            _ => Ok(()),
        }
    }

    fn size_of(&self, path: &Path) -> Option<u64> {
        self.sizes.get(path.to_str()?).copied()
    }

    fn mount(&self, tree: &mut Tree) -> Result<()> {
        for (path, bind) in &self.binds {
            match bind {
                Some(bind) => bind.mount_on(tree, path)?,
                None => rootfs::mount_tmpfs(tree, path, self.size_of(path))?,
            }
        }
        Ok(())
    }
}
