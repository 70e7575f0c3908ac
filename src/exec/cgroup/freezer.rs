//! Holding a container still: no process of it runs until it is thawed.
//!
//! On cgroup v2 its own cgroup has the switch. On v1 freezing is a controller in a
//! tree of its own, which a container enters only for as long as it is frozen:
//! entering it costs every start some milliseconds. Thawing takes up whatever a
//! killed freezer left, from the first folder on, and may be done twice.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::hierarchy::{self, Version};
use super::{Cgroup, remove_folder};
use crate::exec::error::{Attempt, Error, Result, Stage};
use crate::explain;

/// How long processes may take to stop: one that waits for a disk stops when that has answered.
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_micros(500);

/// The switch of one container's cgroup.
#[derive(Debug)]
pub struct Freezer {
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    /// `cgroup.freeze` of its own folder (Documentation/admin-guide/cgroup-v2.rst).
    Switch(PathBuf),
    /// A folder of v1's freezer (Documentation/admin-guide/cgroup-v1/freezer-subsystem.rst), and the cgroup whose
    /// processes go in; none where that is gone.
    Folder { folder: PathBuf, cgroup: Option<PathBuf> },
}

impl Freezer {
    /// That of the cgroup `name`, or none where this machine has no means to freeze it.
    ///
    /// # Errors
    /// Where the hierarchies cannot be read.
    pub fn of(name: &str) -> Result<Option<Self>> {
        let cgroup = Cgroup::of(name)?;
        let unified = cgroup.groups.iter().find(|group| group.version == Version::V2);
        if let Some(group) = unified {
            let kind = Kind::Switch(group.path.clone());
            return Ok(group.path.join("cgroup.freeze").exists().then_some(Self { kind }));
        }
        let kind = hierarchy::freezer()?.map(|tree| Kind::Folder {
            folder: tree.join(name),
            cgroup: cgroup.groups.first().map(|group| group.path.clone()),
        });
        Ok(kind.map(|kind| Self { kind }))
    }

    /// Stops all its processes, and waits until they stand still.
    ///
    /// # Errors
    /// Where one does not stop, or the kernel refuses; some may be frozen then.
    pub fn freeze(&self) -> Result<()> {
        match &self.kind {
            Kind::Switch(path) => {
                write(path, "cgroup.freeze", "1")?;
                explain::step(|| format!("until grep -q 'frozen 1' {}/cgroup.events; do :; done", path.display()));
                wait(|| Ok(read(path, "cgroup.events")?.lines().any(|line| line == "frozen 1")))
            }
            Kind::Folder { folder, cgroup } => freeze_in(folder, cgroup.as_deref()),
        }
    }

    /// Lets them go on, and leaves nothing behind. One that was not frozen, or is gone, is as it is to be.
    ///
    /// # Errors
    /// The kernel's.
    pub fn thaw(&self) -> Result<()> {
        match &self.kind {
            Kind::Switch(path) if path.is_dir() => match write(path, "cgroup.freeze", "0") {
                // It has ended meanwhile.
                Err(_) if !path.is_dir() => Ok(()),
                thawed => thawed,
            },
            Kind::Folder { folder, .. } if folder.is_dir() => thaw_in(folder),
            _ => Ok(()),
        }
    }
}

fn freeze_in(folder: &Path, cgroup: Option<&Path>) -> Result<()> {
    let cgroup = cgroup.ok_or_else(|| Error::new(Stage::Limits, "find the container's cgroup"))?;
    explain::step(|| format!("mkdir {}", folder.display()));
    match std::fs::create_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
        made => made.attempt(Stage::Limits, || format!("make the cgroup {}", folder.display()))?,
    }
    explain_moving(cgroup, folder);
    // What is born while others go in has the folder of its parent: nothing new in a look means that all are in.
    wait(|| gather(cgroup, folder))?;
    explain::step(|| format!("echo FROZEN > {}/freezer.state", folder.display()));
    wait(|| {
        // Again each time: that is how the kernel looks again.
        put(folder, "freezer.state", "FROZEN")?;
        Ok(gather(cgroup, folder)? && read(folder, "freezer.state")?.trim() == "FROZEN")
    })
}

fn thaw_in(folder: &Path) -> Result<()> {
    write(folder, "freezer.state", "THAWED")?;
    let Some(above) = folder.parent() else { return Ok(()) };
    explain_moving(folder, above);
    wait(|| gather(folder, above))?;
    explain::step(|| format!("rmdir {}", folder.display()));
    remove_folder(folder)
}

/// Moves the processes of one cgroup, and of those below it, into another; whether all were there already, or
/// there is none.
fn gather(from: &Path, to: &Path) -> Result<bool> {
    let there = processes(to)?;
    let mut missing = Vec::new();
    let mut folders = vec![from.to_owned()];
    while let Some(folder) = folders.pop() {
        missing.extend(processes(&folder)?.difference(&there).copied());
        let below = std::fs::read_dir(&folder).into_iter().flatten().flatten();
        folders.extend(
            below
                .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
                .map(|entry| entry.path()),
        );
    }
    for pid in &missing {
        match std::fs::write(to.join("cgroup.procs"), pid.to_string()) {
            // It has ended meanwhile.
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
            moved => moved.attempt(Stage::Limits, || format!("put process {pid} into {}", to.display()))?,
        }
    }
    Ok(missing.is_empty())
}

/// The processes of one cgroup; none where it is gone.
fn processes(folder: &Path) -> Result<BTreeSet<u32>> {
    let path = folder.join("cgroup.procs");
    let text = match std::fs::read_to_string(&path) {
        Err(_) if !folder.is_dir() => return Ok(BTreeSet::new()),
        text => text.attempt(Stage::Limits, || format!("read {}", path.display()))?,
    };
    // Zero is a process that cannot be seen from here: none of ours.
    Ok(text
        .lines()
        .filter_map(|line| line.parse().ok())
        .filter(|pid| *pid > 0)
        .collect())
}

/// Waits until it is done.
fn wait(mut is_done: impl FnMut() -> Result<bool>) -> Result<()> {
    let begun = Instant::now();
    while !is_done()? {
        if begun.elapsed() > PATIENCE {
            return Err(Error::new(
                Stage::Limits,
                format!(
                    "make all its processes stop or go on within {} seconds",
                    PATIENCE.as_secs()
                ),
            ));
        }
        std::thread::sleep(PAUSE);
    }
    Ok(())
}

fn write(folder: &Path, file: &str, value: &str) -> Result<()> {
    explain::step(|| format!("echo {value} > {}/{file}", folder.display()));
    put(folder, file, value)
}

fn put(folder: &Path, file: &str, value: &str) -> Result<()> {
    let path = folder.join(file);
    std::fs::write(&path, value).attempt(Stage::Limits, || format!("write {value} to {}", path.display()))
}

fn read(folder: &Path, file: &str) -> Result<String> {
    let path = folder.join(file);
    std::fs::read_to_string(&path).attempt(Stage::Limits, || format!("read {}", path.display()))
}

fn explain_moving(from: &Path, to: &Path) {
    explain::step(|| {
        let (from, to) = (from.display(), to.display());
        format!("for pid in $(cat {from}/cgroup.procs); do echo $pid > {to}/cgroup.procs; done")
    });
}
