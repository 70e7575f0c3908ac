//! What of `/proc` and `/sys` a container does not see, or cannot change.
//!
//! All is reached from handles on the two mounts. By name, a root filesystem in
//! which somebody renames meanwhile would have its masks elsewhere, or none.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Dir, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;

use super::cgroup::view::{self, View};
use super::error::{Attempt, Error, Result, Stage};
use super::mounts::{Copy, DATA_ONLY, New, flag_words};
use crate::explain;
use crate::sys::openat2;

/// Kernel facts that are none of a container's business, as Docker has them.
const MASKED: [&str; 12] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];

/// Kernel switches that a container may see.
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Covers a folder with an empty one, always the same: `empty` when there is one.
fn hide_folder(empty: &mut Option<(OwnedFd, String)>, target: OwnedFd, path: &str) -> Result<()> {
    if let Some((there, shown)) = empty {
        explain::step(|| format!("mount --bind {shown} {path}"));
        let at = || format!("hide {path}");
        let copy = Copy::of_handle(there).attempt(Stage::Mounts, at)?;
        return copy.attach(target).attempt(Stage::Mounts, at);
    }
    let new = New {
        kind: "tmpfs",
        options: &[("size", "0")],
        flags: DATA_ONLY | MountAttrFlags::MOUNT_ATTR_RDONLY,
    };
    *empty = Some((new.mount_on(target, path)?, path.to_owned()));
    Ok(())
}

/// `/proc` and `/sys` themselves: whoever changes the image's names meanwhile changes nothing in them.
#[derive(Debug)]
pub(super) struct Kernel {
    proc: OwnedFd,
    sys: OwnedFd,
}

impl Kernel {
    /// Of the roots of both mounts.
    pub(super) fn new(proc: OwnedFd, sys: OwnedFd) -> Self {
        Self { proc, sys }
    }

    /// Hides what the kernel would tell, and forbids what it would let change.
    /// `devices` has the null device, and a person finds it at `stage`.
    pub(super) fn mask(&self, devices: impl AsFd, stage: &str) -> Result<()> {
        let throttles = self
            .cpu_folders()
            .into_iter()
            .map(|cpu| format!("{cpu}/thermal_throttle"));
        let mut empty = None;
        for path in MASKED.into_iter().map(str::to_owned).chain(throttles) {
            let Some(target) = self.open(&path)? else {
                continue;
            };
            if target.1 == FileType::Directory {
                hide_folder(&mut empty, target.0, &path)?;
            } else {
                explain::step(|| format!("mount --bind {stage}/null {path}"));
                let copy = Copy::of(&devices, "null").attempt(Stage::Mounts, || format!("hide {path}"))?;
                copy.attach(target.0)
                    .attempt(Stage::Mounts, || format!("hide {path}"))?;
            }
        }
        for path in READ_ONLY {
            let Some((target, _)) = self.open(path)? else {
                continue;
            };
            let flags = DATA_ONLY | MountAttrFlags::MOUNT_ATTR_RDONLY;
            explain::step(|| {
                let words = flag_words(flags).join(",");
                format!("mount --bind {path} {path} && mount -o remount,bind,{words} {path}")
            });
            let at = || format!("make {path} read-only");
            let copy = Copy::of_handle(&target).attempt(Stage::Mounts, at)?;
            copy.flag(flags).attempt(Stage::Mounts, at)?;
            copy.attach(target).attempt(Stage::Mounts, at)?;
        }
        Ok(())
    }

    /// The place for cgroups; none where this kernel has none.
    pub(super) fn cgroups(&self, privileged: bool) -> Result<Option<View>> {
        match self.open(view::PATH)? {
            Some((folder, _)) => View::new(folder, &self.proc, privileged).map(Some),
            None => Ok(None),
        }
    }

    /// A handle on a path in `/proc` or `/sys`; none where this kernel does not have it.
    fn open(&self, path: &str) -> Result<Option<(OwnedFd, FileType)>> {
        let at = |verb: &str| format!("{verb} {path}");
        let (mount, inside) = match path.strip_prefix("/proc/") {
            Some(inside) => (&self.proc, inside),
            None => (&self.sys, path.strip_prefix("/sys/").unwrap_or(path)),
        };
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
        let handle = match openat2::open(mount, inside, flags, resolve) {
            Ok(handle) => handle,
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
            Err(error) => return Err(Error::system(Stage::Mounts, at("open"), error)),
        };
        let stat = rustix::fs::fstat(&handle).attempt(Stage::Mounts, || at("look at"))?;
        Ok(Some((handle, FileType::from_raw_mode(stat.st_mode))))
    }

    /// `/sys/devices/system/cpu/cpu<n>` of each processor.
    fn cpu_folders(&self) -> Vec<String> {
        const FOLDER: &str = "devices/system/cpu";
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = rustix::fs::openat(&self.sys, FOLDER, flags, Mode::empty());
        let Ok(entries) = opened.and_then(Dir::new) else {
            return Vec::new();
        };
        let is_cpu = |name: &str| {
            name.strip_prefix("cpu")
                .is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
        };
        entries
            .flatten()
            .filter_map(|entry| entry.file_name().to_str().ok().map(str::to_owned))
            .filter(|name| is_cpu(name))
            .map(|name| format!("/sys/{FOLDER}/{name}"))
            .collect()
    }
}
