//! The container's root filesystem: pivot_root first, then everything else
//! happens inside, where no path can lead out.
//!
//! Devices: the root, `/dev` and every other mount are `nodev` unless the run
//! is `--privileged`, so a device node that an image brings or a container
//! makes opens nothing. The few that a container may have are made in a small
//! tmpfs that no name reaches, and each is bind-mounted to its place; they are
//! the container's own inodes, so a `chmod /dev/null` stays in it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, FileType, FsWord, Gid, Mode, OFlags, PROC_SUPER_MAGIC, Uid};
use rustix::io::Errno;
use rustix::mount::{MountAttrFlags, MountPropagationFlags, UnmountFlags, mount_change, unmount};

use super::cgroup::view::View;
use super::device::{Device, Kind};
use super::error::{Attempt, Error, Result, Stage};
use super::ids::{IdRange, Users};
use super::masks::Kernel;
use super::mounts::{Copy, DATA_ONLY, New, flag_words};
use super::spec::Spec;
use super::tree::{Target, Tree};
use crate::explain;

/// Where the devices and generated files are made, until each is in its place.
const STAGE_NAME: &str = ".plywood";
const STAGE: &str = "/dev/.plywood";

/// Devices of a container: name, major, minor. All are harmless, and for everybody.
const DEVICES: [(&str, u32, u32); 6] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];
const DEVICE_MODE: u32 = 0o666;
/// The group of terminals, in every distribution.
const TTY_GROUP: u32 = 5;

/// Links that programs expect in `/dev`.
const LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];

/// Makes `root` this process's root directory and lets go of the old one. To
/// be called in a mount namespace of this process's own.
pub(super) fn enter(root: &Path, privileged: bool, users: Option<Users<'_>>) -> Result<()> {
    let at = |verb: &str| format!("{verb} the root filesystem {}", root.display());
    explain::step(|| "mount --make-rprivate /".to_owned());
    mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE)
        .attempt(Stage::Root, || "make the mounts private".to_owned())?;

    let quoted = explain::quote(root);
    // Recursive for the mounts that the user asked for, which a person makes before.
    explain::step(|| format!("mount --rbind {quoted} {quoted}"));
    let folder = super::leftover::open_host_folder(root).attempt(Stage::Root, || at("open"))?;
    let copy = Copy::of_handle(&folder).attempt(Stage::Root, || at("bind-mount"))?;
    if privileged {
        // A thin volume is mounted without them.
        explain::step(|| format!("mount -o remount,bind,dev {quoted}"));
        copy.allow_devices().attempt(Stage::Root, || at("allow devices in"))?;
    } else {
        explain::step(|| format!("mount -o remount,bind,nodev {quoted}"));
        copy.flag(MountAttrFlags::MOUNT_ATTR_NODEV)
            .attempt(Stage::Root, || at("forbid devices in"))?;
    }
    if let Some(users) = users.filter(|users| !users.root_is_mapped) {
        explain_mapping(&quoted);
        copy.map_ids(users.namespace.user())
            .attempt(Stage::Root, || at("show other owners (--userns auto) in"))?;
    }
    copy.attach(&folder).attempt(Stage::Root, || at("bind-mount"))?;

    // The old root lies over the new one, and ".." of the root leads up to it. Only there does umount(8)
    // find the /proc that it wants.
    explain::step(|| format!("cd {quoted} && pivot_root . . && chroot /.. umount -l / && cd /"));
    rustix::process::fchdir(&copy).attempt(Stage::Root, || at("change into"))?;
    rustix::process::pivot_root(".", ".").attempt(Stage::Root, || at("pivot into"))?;
    // The old root lies over the new one now; "." is what is beneath, and lookup takes the topmost mount.
    unmount(".", UnmountFlags::DETACH).attempt(Stage::Root, || "let go of the host's root".to_owned())?;
    rustix::process::chdir("/").attempt(Stage::Root, || at("change into"))
}

/// Told as a remark: mount(8) can do it to a new mount only.
fn explain_mapping(quoted: &str) {
    explain::step(|| {
        format!("# plywood shows the owners in {quoted} as the container's users: X-mount.idmap=/proc/$users/ns/user")
    });
}

/// `/proc`, `/sys` and `/dev`, with the stage for [`bind_generated`] still in it.
pub(super) fn mount_kernel(tree: &mut Tree, spec: &Spec) -> Result<Devices> {
    let privileged = spec.privileged;
    let target = tree.mount_point("proc")?;
    let proc = New {
        kind: "proc",
        options: &[],
        flags: DATA_ONLY,
    }
    .mount_on(target, "/proc")?;

    let target = tree.mount_point("sys")?;
    let read_only = if privileged {
        MountAttrFlags::empty()
    } else {
        MountAttrFlags::MOUNT_ATTR_RDONLY
    };
    let sys = New {
        kind: "sysfs",
        options: &[],
        flags: DATA_ONLY | read_only,
    }
    .mount_on(target, "/sys")?;

    let target = tree.mount_point("dev")?;
    let flags = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_STRICTATIME;
    let no_devices = if privileged {
        MountAttrFlags::empty()
    } else {
        MountAttrFlags::MOUNT_ATTR_NODEV
    };
    let dev = New {
        kind: "tmpfs",
        options: &[("mode", "0755"), ("size", "65536k")],
        flags: flags | no_devices,
    }
    .mount_on(target, "/dev")?;
    Devices::make(Kernel::new(proc, sys), dev, spec.ids)
}

/// The container's `/dev`, while it is being furnished.
#[derive(Debug)]
pub(super) struct Devices {
    kernel: Kernel,
    dev: OwnedFd,
    stage: OwnedFd,
    pts: OwnedFd,
}

impl Devices {
    fn make(kernel: Kernel, dev: OwnedFd, ids: Option<IdRange>) -> Result<Self> {
        for (name, to) in LINKS {
            explain::step(|| format!("ln -s {to} /dev/{name}"));
            rustix::fs::symlinkat(to, &dev, name).attempt(Stage::Mounts, || format!("make the link /dev/{name}"))?;
        }
        let tty = ids.and_then(|ids| ids.host(TTY_GROUP)).unwrap_or(TTY_GROUP).to_string();
        let pts = New {
            kind: "devpts",
            options: &[
                ("newinstance", ""),
                ("ptmxmode", "0666"),
                ("mode", "0620"),
                ("gid", &tty),
            ],
            flags: MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC,
        };
        let pts = pts.mount_on(make_folder(&dev, "pts")?, "/dev/pts")?;
        ids.map_or(Ok(()), |ids| own_terminals(&pts, ids))?;
        New {
            kind: "tmpfs",
            options: &[("mode", "1777"), ("size", "65536k")],
            flags: DATA_ONLY,
        }
        .mount_on(make_folder(&dev, "shm")?, "/dev/shm")?;
        let mqueue = New {
            kind: "mqueue",
            options: &[],
            flags: DATA_ONLY,
        };
        match mqueue.try_mount_on(make_folder(&dev, "mqueue")?, "/dev/mqueue") {
            // A kernel may be built without POSIX message queues.
            Ok(_) | Err(Errno::NODEV) => {}
            Err(error) => return Err(Error::system(Stage::Mounts, "mount mqueue on /dev/mqueue", error)),
        }
        let flags = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        let stage = New {
            kind: "tmpfs",
            options: &[("mode", "0700"), ("size", "4096k")],
            flags,
        }
        .mount_on(make_folder(&dev, STAGE_NAME)?, STAGE)?;
        let devices = Self {
            kernel,
            dev,
            stage,
            pts,
        };
        for (name, major, minor) in DEVICES {
            devices.make_device(name, major, minor)?;
        }
        Ok(devices)
    }

    fn make_device(&self, name: &str, major: u32, minor: u32) -> Result<()> {
        let at = |verb: &str| format!("{verb} the device /dev/{name}");
        explain::step(|| format!("mknod -m {DEVICE_MODE:o} {STAGE}/{name} c {major} {minor}"));
        let device = rustix::fs::makedev(major, minor);
        rustix::fs::mknodat(
            &self.stage,
            name,
            FileType::CharacterDevice,
            Mode::from_raw_mode(DEVICE_MODE),
            device,
        )
        .attempt(Stage::Mounts, || at("make"))?;
        // mknod minds the umask.
        rustix::fs::chmodat(&self.stage, name, Mode::from_raw_mode(DEVICE_MODE), AtFlags::empty())
            .attempt(Stage::Mounts, || at("open up"))?;
        let copy = Copy::of(&self.stage, name).attempt(Stage::Mounts, || at("bind-mount"))?;
        self.bind(&copy, name)
    }

    /// A device of the host's at its place.
    pub(super) fn give(&self, tree: &mut Tree, device: &Device, ids: Option<IdRange>) -> Result<()> {
        let shown = device.target.display();
        let at = |verb: &str| format!("{verb} the device {shown}");
        if DEVICES.iter().any(|(name, ..)| {
            device
                .target
                .strip_prefix("/dev")
                .is_ok_and(|inside| inside == Path::new(name))
        }) {
            return Ok(());
        }
        const NAME: &str = "given";
        let (major, minor, mode) = (device.major, device.minor, Mode::from_raw_mode(device.mode));
        explain::step(|| {
            let (letter, mode) = (device.kind.letter(), device.mode);
            format!(
                "mknod -m {mode:o} {STAGE}/{NAME} {letter} {major} {minor} && chgrp {} {STAGE}/{NAME}",
                device.group
            )
        });
        let kind = match device.kind {
            Kind::Character => FileType::CharacterDevice,
            Kind::Block => FileType::BlockDevice,
        };
        let group = ids.map_or(Some(device.group), |ids| ids.host(device.group));
        rustix::fs::mknodat(&self.stage, NAME, kind, mode, rustix::fs::makedev(major, minor))
            .and_then(|()| rustix::fs::chownat(&self.stage, NAME, None, group.map(Gid::from_raw), AtFlags::empty()))
            .and_then(|()| rustix::fs::chmodat(&self.stage, NAME, mode, AtFlags::empty()))
            .attempt(Stage::Mounts, || at("make"))?;
        let copy = Copy::of(&self.stage, NAME).attempt(Stage::Mounts, || at("bind-mount"))?;
        let target = tree.target(&device.target, Target::File)?;
        refuse_kernel_target(&target, &device.target)?;
        explain::step(|| {
            format!(
                "mount --bind {STAGE}/{NAME} {}; rm {STAGE}/{NAME}",
                explain::quote(&device.target)
            )
        });
        copy.attach(target).attempt(Stage::Mounts, || at("bind-mount"))?;
        // The mount has it; the next one's has the same name here.
        rustix::fs::unlinkat(&self.stage, NAME, AtFlags::empty()).attempt(Stage::Mounts, || at("make"))
    }

    /// Bind-mounts `copy` on a new file `/dev/<name>`.
    fn bind(&self, copy: &Copy, name: &str) -> Result<()> {
        explain::step(|| format!("touch /dev/{name} && mount --bind {STAGE}/{name} /dev/{name}"));
        let target = make_file(&self.dev, name, &[])?;
        copy.attach(target)
            .attempt(Stage::Mounts, || format!("bind-mount on /dev/{name}"))
    }

    /// Shows `content` as the image's `path`, without touching the image's own file.
    pub(super) fn bind_generated(&self, tree: &mut Tree, path: &str, content: &[u8]) -> Result<()> {
        let name = path.rsplit('/').next().unwrap_or(path);
        explain::step(|| format!("{} > {STAGE}/{name}", explain::printf(content)));
        make_file(&self.stage, name, content)?;
        let target = tree.target(Path::new(path), Target::File)?;
        explain::step(|| {
            let words = flag_words(DATA_ONLY).join(",");
            format!("mount --bind {STAGE}/{name} {path} && mount -o remount,bind,{words} {path}")
        });
        let at = || format!("bind-mount on {path}");
        let copy = Copy::of(&self.stage, name).attempt(Stage::Mounts, at)?;
        copy.flag(DATA_ONLY).attempt(Stage::Mounts, at)?;
        copy.attach(target).attempt(Stage::Mounts, at)
    }

    /// Hides what the kernel would tell, and forbids what it would let change.
    pub(super) fn mask(&self) -> Result<()> {
        self.kernel.mask(&self.stage, STAGE)
    }

    /// The place for cgroups; none where this kernel has none.
    pub(super) fn cgroups(&self, privileged: bool) -> Result<Option<View>> {
        self.kernel.cgroups(privileged)
    }

    /// Takes the stage away: what was bind-mounted from it stays, the rest is out of reach.
    pub(super) fn finish(self) -> Result<()> {
        explain::step(|| format!("umount -l {STAGE} && rmdir {STAGE}"));
        let at = || format!("unmount {STAGE}");
        // The system call wants a name: the one in our own tmpfs.
        rustix::process::fchdir(&self.dev).attempt(Stage::Mounts, at)?;
        unmount(STAGE_NAME, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW).attempt(Stage::Mounts, at)?;
        rustix::process::chdir("/").attempt(Stage::Mounts, at)?;
        rustix::fs::unlinkat(&self.dev, STAGE_NAME, AtFlags::REMOVEDIR)
            .attempt(Stage::Mounts, || format!("remove {STAGE}"))
    }
}

/// The kernel gives a devpts to the host's root, whoever mounts it.
fn own_terminals(pts: &OwnedFd, ids: IdRange) -> Result<()> {
    let (owner, group) = (Uid::from_raw(ids.first), Gid::from_raw(ids.first));
    [".", "ptmx"].into_iter().try_for_each(|name| {
        rustix::fs::chownat(pts, name, Some(owner), Some(group), AtFlags::empty())
            .attempt(Stage::Mounts, || "give /dev/pts to the container's root".to_owned())
    })
}

impl super::streams::Devices for Devices {
    /// Of the container's own devpts; it is `/dev/console` too.
    fn open_terminal(&self, owner: Uid) -> Result<(OwnedFd, OwnedFd)> {
        let at = || "open a terminal".to_owned();
        let flags =
            rustix::pty::OpenptFlags::RDWR | rustix::pty::OpenptFlags::NOCTTY | rustix::pty::OpenptFlags::CLOEXEC;
        let master = rustix::fs::openat(
            &self.pts,
            "ptmx",
            OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .attempt(Stage::Terminal, at)?;
        rustix::pty::unlockpt(&master).attempt(Stage::Terminal, at)?;
        let slave = rustix::pty::ioctl_tiocgptpeer(&master, flags).attempt(Stage::Terminal, at)?;
        rustix::fs::fchown(&slave, Some(owner), None::<Gid>)
            .attempt(Stage::Terminal, || "give the terminal to the user".to_owned())?;
        explain::step(|| "touch /dev/console && mount --bind /dev/pts/0 /dev/console".to_owned());
        let copy = Copy::of_handle(&slave)
            .attempt(Stage::Terminal, || "bind-mount the terminal on /dev/console".to_owned())?;
        copy.attach(make_file(&self.dev, "console", &[])?)
            .attempt(Stage::Terminal, || "bind-mount the terminal on /dev/console".to_owned())?;
        Ok((master, slave))
    }

    fn open_null(&self) -> Result<OwnedFd> {
        rustix::fs::openat(&self.dev, "null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
            .attempt(Stage::Mounts, || "open /dev/null".to_owned())
    }
}

/// A bind mount of the host's, opened while the host's tree was still there.
#[derive(Debug)]
pub(super) struct HostMount {
    copy: Copy,
    kind: Target,
}

impl HostMount {
    /// Opens `bind`'s source once; nobody can change afterwards what it is.
    pub(super) fn open(
        root: &Path,
        bind: &super::spec::Bind,
        privileged: bool,
        users: Option<BorrowedFd<'_>>,
    ) -> Result<Self> {
        let at = |verb: &str| format!("{verb} {} for mounting", bind.source.display());
        let mut flags = if privileged {
            MountAttrFlags::empty()
        } else {
            MountAttrFlags::MOUNT_ATTR_NODEV
        };
        if bind.read_only {
            flags |= MountAttrFlags::MOUNT_ATTR_RDONLY;
        }
        let copy = Copy::of_host(&bind.source).attempt(Stage::Mounts, || at("open"))?;
        copy.flag(flags).attempt(Stage::Mounts, || at("flag"))?;
        if let Some(users) = users.filter(|_| bind.map_ids) {
            explain_mapping(&explain::quote(&bind.source));
            copy.map_ids(users).attempt(Stage::Mounts, || {
                let shown = bind.source.display();
                format!("show other owners in {shown} (:idmap): not every filesystem can")
            })?;
        }
        let stat = rustix::fs::fstat(&copy).attempt(Stage::Mounts, || at("look at"))?;
        let kind = if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            Target::Folder
        } else {
            Target::File
        };
        explain::step(|| {
            let target = root.join(bind.target.strip_prefix("/").unwrap_or(&bind.target));
            host_mount_command(&bind.source, &target, kind, flags)
        });
        Ok(Self { copy, kind })
    }

    /// Mounts it on `path` of the container.
    pub(super) fn mount_on(&self, tree: &mut Tree, path: &Path) -> Result<()> {
        let target = tree.target(path, self.kind)?;
        refuse_kernel_target(&target, path)?;
        self.copy
            .attach(target)
            .attempt(Stage::Mounts, || format!("mount on {}", path.display()))
    }
}

/// What a person would type before changing the root; plywood takes a handle then and
/// attaches it afterwards, so that no link of the image's leads it astray.
fn host_mount_command(source: &Path, target: &Path, kind: Target, flags: MountAttrFlags) -> String {
    let (source, quoted) = (explain::quote(source), explain::quote(target));
    let make = match (kind, target.parent()) {
        (Target::File, Some(folder)) => format!("mkdir -p {} && touch {quoted}", explain::quote(folder)),
        _ => format!("mkdir -p {quoted}"),
    };
    let words = flag_words(flags);
    let options = if words.is_empty() {
        String::new()
    } else {
        format!(" && mount -o remount,bind,{} {quoted}", words.join(","))
    };
    format!("{make} && mount --rbind {source} {quoted}{options}")
}

/// An empty tmpfs on `path` of the container, of `size` bytes at most.
pub(super) fn mount_tmpfs(tree: &mut Tree, path: &Path, size: Option<u64>) -> Result<()> {
    let target = tree.target(path, Target::Folder)?;
    refuse_kernel_target(&target, path)?;
    let size = size.map(|size| size.to_string());
    let mut options = vec![("mode", "1777")];
    options.extend(size.as_deref().map(|size| ("size", size)));
    New {
        kind: "tmpfs",
        options: &options,
        flags: DATA_ONLY,
    }
    .mount_on(target, &path.to_string_lossy())?;
    Ok(())
}

/// Makes the root itself unwritable; what is mounted in it stays as it is.
pub(super) fn make_read_only(tree: &Tree) -> Result<()> {
    explain::step(|| "mount -o remount,bind,ro /".to_owned());
    crate::sys::mount_setattr::add_flags(tree.root(), MountAttrFlags::MOUNT_ATTR_RDONLY, false)
        .attempt(Stage::Mounts, || "make the root read-only".to_owned())
}

/// What is mounted over `/proc` or `/sys` could stand in for the kernel's word.
fn refuse_kernel_target(target: &OwnedFd, path: &Path) -> Result<()> {
    const SYSFS_MAGIC: FsWord = 0x6265_6572;
    let found = rustix::fs::fstatfs(target).attempt(Stage::Mounts, || format!("look at {}", path.display()))?;
    match found.f_type {
        PROC_SUPER_MAGIC | SYSFS_MAGIC => Err(Error::new(
            Stage::Mounts,
            format!("mount on {}: it is the kernel's", path.display()),
        )),
        _ => Ok(()),
    }
}

/// A new folder in a tmpfs of our own.
fn make_folder(folder: impl AsFd, name: &str) -> Result<OwnedFd> {
    let at = || format!("make the folder /dev/{name}");
    explain::step(|| format!("mkdir /dev/{name}"));
    rustix::fs::mkdirat(&folder, name, Mode::from_raw_mode(0o755)).attempt(Stage::Mounts, at)?;
    rustix::fs::openat(
        &folder,
        name,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .attempt(Stage::Mounts, at)
}

/// A new file in a tmpfs of our own.
fn make_file(folder: impl AsFd, name: &str, content: &[u8]) -> Result<OwnedFd> {
    let at = || format!("make the file {name}");
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(&folder, name, flags, Mode::from_raw_mode(0o644)).attempt(Stage::Mounts, at)?;
    let mut file = std::fs::File::from(file);
    std::io::Write::write_all(&mut file, content).attempt(Stage::Mounts, at)?;
    drop(file);
    rustix::fs::openat(
        &folder,
        name,
        OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .attempt(Stage::Mounts, at)
}
