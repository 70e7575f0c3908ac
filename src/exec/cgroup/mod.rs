//! Limits: a container's control group, its bounds and what it uses.
//!
//! A container has one cgroup, called after it, at the top of every hierarchy
//! that has a controller for it ([`hierarchy`]): one folder on cgroup v2, one for
//! each controller's mount on v1. Walk of a run: [`Cgroup::create`] makes the
//! folders and writes the limits, the container's first process moves in before its
//! command runs ([`Entrances::enter`], [`Cgroup::add`]), [`Cgroup::out_of_memory`]
//! says afterwards whether the kernel killed something of it, [`Cgroup::remove`]
//! takes the folders away.
//! Others look at it with [`Cgroup::of`], or hold it still with its [`Freezer`]; the container sees it through a
//! [view::View].
//!
//! What was asked for and cannot be limited here is an error; what nobody asked
//! for (processes, figures) is done as far as the kernel can.

pub mod devices;
mod freezer;
mod hierarchy;
pub mod io;
pub mod limits;
mod usage;
pub(super) mod view;

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::io::Errno;

use devices::Rule;
pub use freezer::Freezer;
use hierarchy::{DEVICES, Hierarchy, Version};
use limits::{DEFAULT_PIDS, Limits};
pub use usage::Usage;

use crate::exec::error::{Attempt, Error, Result, Stage};
use crate::explain;
use crate::sys::bpf;

/// All of plywood's cgroups begin like this.
const PREFIX: &str = "plywood-";
/// Microseconds in which a group may use its share of the processors: the kernel's default.
const PERIOD: u64 = 100_000;
/// How long, and how often, a group is asked for again whose last process is just dying.
const TRIES: u32 = 200;
const PAUSE: Duration = Duration::from_millis(5);

/// One folder of a cgroup.
#[derive(Debug)]
struct Group {
    version: Version,
    controllers: Vec<&'static str>,
    path: PathBuf,
}

/// A container's cgroup.
#[derive(Debug)]
pub struct Cgroup {
    groups: Vec<Group>,
}

/// Open files by which a process goes into a cgroup of v1's trees.
#[derive(Debug)]
pub(super) struct Entrances(Vec<(File, PathBuf)>);

impl Entrances {
    /// Moves this process in, which has one thread; its children will be in it too.
    ///
    /// A thread that moves itself waits for nobody. For a process that another one moves, the kernel stops all
    /// forks, and waits until each processor has noticed: 10 ms and more.
    ///
    /// # Errors
    /// The kernel's.
    pub(super) fn enter(self) -> Result<()> {
        self.0.into_iter().try_for_each(|(mut file, path)| {
            file.write_all(b"0")
                .attempt(Stage::Limits, || format!("go into {}", path.display()))
        })
    }
}

/// The name of the cgroup of container `id` of the root with this `uuid`.
pub fn name(uuid: &str, id: &str) -> String {
    let short = |text: &str| text.get(..12).unwrap_or(text).replace('-', "");
    format!("{PREFIX}{}-{}", short(uuid), short(id))
}

impl Cgroup {
    /// Makes the cgroup `name` with these limits, and no process in it. Without rules for devices all are allowed.
    ///
    /// # Errors
    /// Where a limit cannot be set here, naming it; nothing is left then.
    pub fn create(name: &str, limits: &Limits, devices: Option<&[Rule]>) -> Result<Self> {
        let mut hierarchies = hierarchy::all()?;
        if devices.is_none() {
            hierarchies.retain(|hierarchy| hierarchy.controllers != [DEVICES]);
        }
        require(&hierarchies, limits)?;
        let mut cgroup = Self { groups: Vec::new() };
        let made = hierarchies
            .iter()
            .try_for_each(|hierarchy| cgroup.make(hierarchy, name));
        let limited = made.and_then(|()| cgroup.limit(limits));
        match limited.and_then(|()| devices.map_or(Ok(()), |rules| cgroup.allow(rules))) {
            Ok(()) => {
                // A person goes in with the shell that starts the container.
                cgroup.groups.iter().for_each(|group| explain_entering(&group.path));
                Ok(cgroup)
            }
            Err(error) => {
                if let Err(left) = cgroup.remove() {
                    tracing::warn!("{left}");
                }
                Err(error)
            }
        }
    }

    /// The cgroup `name`, as far as it is there.
    ///
    /// # Errors
    /// Where the hierarchies cannot be read.
    pub fn of(name: &str) -> Result<Self> {
        let groups = hierarchy::all()?.into_iter().map(|hierarchy| Group {
            version: hierarchy.version,
            path: hierarchy.at.join(name),
            controllers: hierarchy.controllers,
        });
        Ok(Self {
            groups: groups.filter(|group| group.path.is_dir()).collect(),
        })
    }

    /// The names of the cgroups that belong to the root with this `uuid`.
    ///
    /// # Errors
    /// As for [`Cgroup::of`].
    pub fn names(uuid: &str) -> Result<Vec<String>> {
        let prefix = name(uuid, "");
        // A cgroup is made in the first of them first, and removed from it last.
        let Some(first) = hierarchy::all()?.into_iter().next() else {
            return Ok(Vec::new());
        };
        let entries = std::fs::read_dir(&first.at).attempt(Stage::Limits, || format!("list {}", first.at.display()))?;
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        Ok(names.filter(|name| name.starts_with(&prefix)).collect())
    }

    /// Its folders.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.groups.iter().map(|group| group.path.as_path())
    }

    /// The ways in for a process that moves itself, as far as the trees are v1's. To be opened while the host's tree
    /// is there.
    ///
    /// # Errors
    /// The kernel's.
    pub(super) fn entrances(&self) -> Result<Entrances> {
        let open = |group: &Group| {
            let path = group.path.join("tasks");
            let file = File::options().write(true).open(&path);
            Ok((
                file.attempt(Stage::Limits, || format!("open {}", path.display()))?,
                path,
            ))
        };
        self.of_version(Version::V1)
            .map(open)
            .collect::<Result<_>>()
            .map(Entrances)
    }

    /// Moves a process in, as far as the tree is v2's, where no thread can move alone.
    ///
    /// # Errors
    /// The kernel's: the process is gone.
    pub(super) fn add(&self, pid: u32) -> Result<()> {
        self.of_version(Version::V2).try_for_each(|group| {
            let path = group.path.join("cgroup.procs");
            std::fs::write(&path, pid.to_string())
                .attempt(Stage::Limits, || format!("put process {pid} into {}", path.display()))
        })
    }

    /// How many of its processes the kernel has killed for want of memory.
    pub fn out_of_memory(&self) -> u64 {
        let count = |(group, file): (&Group, &str)| usage::field(&group.read(file)?, "oom_kill");
        self.with("memory")
            .map(|group| match group.version {
                Version::V1 => (group, "memory.oom_control"),
                Version::V2 => (group, "memory.events"),
            })
            .and_then(count)
            .unwrap_or(0)
    }

    /// Removes it, whose processes are dead or about to be.
    ///
    /// # Errors
    /// Where a process lives on in it.
    pub fn remove(self) -> Result<()> {
        // Backwards, for [`Cgroup::names`]. All folders are tried: what is left of one must not keep the others.
        self.groups.iter().rev().map(Group::remove).fold(Ok(()), Result::and)
    }

    fn make(&mut self, hierarchy: &Hierarchy, name: &str) -> Result<()> {
        if hierarchy.version == Version::V2 {
            hand_down(hierarchy)?;
        }
        let path = hierarchy.at.join(name);
        explain::step(|| format!("mkdir {}", path.display()));
        std::fs::create_dir(&path).attempt(Stage::Limits, || format!("make the cgroup {}", path.display()))?;
        self.groups.push(Group {
            version: hierarchy.version,
            controllers: hierarchy.controllers.clone(),
            path,
        });
        Ok(())
    }

    fn limit(&self, limits: &Limits) -> Result<()> {
        if let (Some(group), Some(memory)) = (self.with("memory"), limits.memory) {
            group.limit_memory(memory, limits)?;
        }
        if let (Some(group), Some(cpus)) = (self.with("cpu"), limits.cpus) {
            let quota = u64::from(cpus) * PERIOD / 1000;
            match group.version {
                Version::V1 => {
                    group.write("cpu.cfs_period_us", &PERIOD.to_string())?;
                    group.write("cpu.cfs_quota_us", &quota.to_string())?;
                }
                Version::V2 => group.write("cpu.max", &format!("{quota} {PERIOD}"))?,
            }
        }
        self.with("blkio").map_or(Ok(()), |group| group.limit_io(limits))?;
        match (self.with("pids"), limits.pids.unwrap_or(DEFAULT_PIDS)) {
            (Some(_), 0) | (None, _) => Ok(()),
            (Some(group), pids) => group.write("pids.max", &pids.to_string()),
        }
    }

    /// Lets its processes open these devices and no others, as far as the kernel can.
    fn allow(&self, rules: &[Rule]) -> Result<()> {
        if let Some(group) = self.with(DEVICES) {
            group.write("devices.deny", "a")?;
            let mut lines = rules
                .iter()
                .flat_map(|rule| devices::lines(rule).into_iter().map(move |line| (rule, line)));
            return lines.try_for_each(|(rule, line)| match group.write("devices.allow", &line) {
                // The group above forbids it to plywood too.
                Err(error) if !rule.is_asked && error.errno() == Some(Errno::PERM) => Ok(()),
                written => written,
            });
        }
        let unified = self.groups.iter().find(|group| group.version == Version::V2);
        unified.map_or(Ok(()), |group| group.attach(&devices::program(rules)))
    }

    fn of_version(&self, version: Version) -> impl Iterator<Item = &Group> {
        self.groups.iter().filter(move |group| group.version == version)
    }

    fn with(&self, controller: &str) -> Option<&Group> {
        self.groups.iter().find(|group| group.controllers.contains(&controller))
    }
}

impl Group {
    fn limit_memory(&self, memory: u64, limits: &Limits) -> Result<()> {
        let both = limits.memory_and_swap();
        let (limit, swap, value) = match self.version {
            Version::V1 => ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes", both),
            Version::V2 => (
                "memory.max",
                "memory.swap.max",
                both.map(|both| both.saturating_sub(memory)),
            ),
        };
        self.write(limit, &memory.to_string())?;
        match value {
            // Kernels may count no swap; then it is an error only where somebody asked for it.
            Some(value) if limits.memory_swap.is_some() || self.path.join(swap).exists() => {
                self.write(swap, &value.to_string())
            }
            _ => Ok(()),
        }
    }

    /// Has the kernel ask a program at every opening of a device.
    fn attach(&self, program: &[u64]) -> Result<()> {
        let at = || format!("limit the devices of {}", self.path.display());
        explain::step(|| {
            let (path, length) = (self.path.display(), program.len());
            format!("# plywood limits the devices of {path}: {length} instructions of BPF (bpftool cgroup show {path})")
        });
        let program = match bpf::load_for_devices(program) {
            Ok(program) => program,
            // A kernel may be built without; every mount forbids devices all the same.
            Err(error) if matches!(Errno::from_io_error(&error), Some(Errno::INVAL | Errno::NOSYS)) => {
                tracing::debug!("no programs for the devices of a cgroup: {error}");
                return Ok(());
            }
            Err(error) => return Err(error).attempt(Stage::Limits, at),
        };
        let folder = std::fs::File::open(&self.path).attempt(Stage::Limits, at)?;
        bpf::attach_to_devices(program, folder).attempt(Stage::Limits, at)
    }

    fn write(&self, file: &str, value: &str) -> Result<()> {
        let path = self.path.join(file);
        explain::step(|| {
            // A star is a pattern to a shell.
            let value = if value.contains('*') {
                format!("'{value}'")
            } else {
                value.to_owned()
            };
            format!("echo {value} > {}", path.display())
        });
        std::fs::write(&path, value).attempt(Stage::Limits, || format!("write {value} to {}", path.display()))
    }

    fn read(&self, file: &str) -> Option<String> {
        std::fs::read_to_string(self.path.join(file)).ok()
    }

    fn remove(&self) -> Result<()> {
        // The shell of a person who typed it is still inside.
        self.path.parent().into_iter().for_each(explain_entering);
        explain::step(|| format!("rmdir {}", self.path.display()));
        remove_folder(&self.path)
    }
}

/// Removes a cgroup's folder, when its last process is buried; one that is not there is gone.
fn remove_folder(path: &Path) -> Result<()> {
    let mut tries = 0..TRIES;
    loop {
        match std::fs::remove_dir(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            // A killed process counts until the kernel has buried it.
            Err(error) if error.kind() == std::io::ErrorKind::ResourceBusy && tries.next().is_some() => {
                std::thread::sleep(PAUSE);
            }
            removed => return removed.attempt(Stage::Limits, || format!("remove the cgroup {}", path.display())),
        }
    }
}

fn explain_entering(path: &Path) {
    explain::step(|| format!("echo $$ > {}/cgroup.procs", path.display()));
}

/// Lets the groups below the top of a v2 tree have the controllers that plywood uses.
fn hand_down(hierarchy: &Hierarchy) -> Result<()> {
    let path = hierarchy.at.join("cgroup.subtree_control");
    let now = std::fs::read_to_string(&path).attempt(Stage::Limits, || format!("read {}", path.display()))?;
    let names = hierarchy.controllers.iter().map(|name| name.replace("blkio", "io"));
    let missing: Vec<String> = names
        .filter(|name| !now.split_whitespace().any(|has| has == name))
        .map(|name| format!("+{name}"))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let missing = missing.join(" ");
    explain::step(|| format!("echo {missing} > {}", path.display()));
    std::fs::write(&path, &missing).attempt(Stage::Limits, || format!("write {missing} to {}", path.display()))
}

/// Whether each limit that was asked for has a controller.
fn require(hierarchies: &[Hierarchy], limits: &Limits) -> Result<()> {
    let wanted = [
        ("memory", "memory", limits.memory.is_some()),
        ("cpu", "processors", limits.cpus.is_some()),
        ("pids", "processes", limits.pids.is_some_and(|pids| pids > 0)),
        ("blkio", "disks", !limits.io.is_empty() || limits.io_weight.is_some()),
    ];
    for (controller, what, is_wanted) in wanted {
        let is_there = hierarchies
            .iter()
            .any(|hierarchy| hierarchy.controllers.contains(&controller));
        if is_wanted && !is_there {
            return Err(Error::new(
                Stage::Limits,
                format!(
                    "limit the {what}: no cgroup with the {controller} controller is mounted (plywood doctor says more)"
                ),
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_without_a_controller_is_an_error() {
        let limits = Limits {
            memory: Some(64 << 20),
            ..Limits::default()
        };
        assert!(
            require(&[], &limits)
                .unwrap_err()
                .to_string()
                .contains("memory controller")
        );
        require(&[], &Limits::default()).unwrap();
    }

    #[test]
    fn names_of_two_roots_do_not_meet() {
        let one = name("0f6fc2e4-9b1a-4f33", "0123456789abcdef");
        assert_eq!(one, "plywood-0f6fc2e49b1-0123456789ab");
        assert!(!one.starts_with(&name("1f6fc2e4-9b1a-4f33", "")));
    }
}
