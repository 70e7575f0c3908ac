//! A stack of folders as one overlayfs mount.
//!
//! All options stand in one page that mount(2) reads, so the folders are named
//! relative to `ROOT/overlay`: the mount is made by a thread of its own whose
//! working directory is that folder (`CLONE_FS` undone, the process's own stays
//! where it is). The new mount API is no help: it takes 256 bytes an option
//! where `lowerdir+` is unknown, as in Linux 6.1.
//!
//! What is pinned, and why:
//! - `index=on` for anything with an upper folder, so that a hard link stays one
//!   when it is copied up. The kernel falls back silently where the filesystem
//!   has no file handles; so it is read back from mountinfo, and refused.
//! - `redirect_dir=off`, `metacopy=off`: a layer folder must mean the same
//!   without the layers that it was made over; `nfs_export=off` and `xino=off`:
//!   not needed on one filesystem.
//! - `noatime`: reading must not copy up.
//! - always two lower folders at least, the last one empty: without an upper
//!   folder overlayfs wants two, and a base layer behaves like all others.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags};
use nix::sched::CloneFlags;
use rustix::fs::OFlags;

use super::folders::{self, Folders};
use super::mapped;
use crate::error::{Context, Error, Kind, Result, undone};
use crate::explain::{quote, step};
use crate::snapshot::shown::mounted_at;
use crate::snapshot::{Mounted, Users};
use crate::sys::file_user;

/// Lower folders that overlayfs takes: `OVL_MAX_STACK` in fs/overlayfs/params.c.
pub(super) const MAX_LAYERS: usize = 500;
/// Bytes of options that mount(2) reads: a page, less its final NUL.
const MAX_OPTIONS: usize = 4095;
/// How often, and after which pause, what is busy is tried again: a second in all.
const BUSY_TRIES: u32 = 50;
const BUSY_PAUSE: std::time::Duration = std::time::Duration::from_millis(20);
/// No fsync of the container's, and not its unmounting, waits for the disk (Linux 5.10).
const VOLATILE: &str = ",volatile";
const PINNED: &str = "index=on,redirect_dir=off,metacopy=off,xino=off,nfs_export=off";

/// What is stacked: folder names under `ROOT/overlay`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stack {
    /// The layers, top first.
    pub(super) lowers: Vec<String>,
    /// The upper folder of an active snapshot.
    pub(super) upper: Option<String>,
    /// When what is written through it must be on the disk.
    pub(super) lasts: Lasts,
}

/// When what is written through a mount must be on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lasts {
    /// When a command's own fsync says so, and all of it once the mount is closed.
    AtOnce,
    /// Once the mount is closed: nobody knows of the snapshot before. A package manager's fsyncs cost nothing.
    Closed,
    /// Never: it goes with its container.
    Never,
}

/// Why overlayfs cannot stack this many layers, and what can be done.
pub(super) fn too_many(count: usize) -> Error {
    Error::invalid(format!("a stack of {count} layers: overlayfs ends at {MAX_LAYERS}")).hinted(
        "flatten the image: plywood export --format rootfs -o image.tar IMAGE, then plywood import image.tar NAME; the thin driver has no such end",
    )
}

impl Stack {
    /// The mount's source, as `mount` and mountinfo show it.
    pub(super) fn source(&self) -> String {
        let top = self.upper.as_ref().or(self.lowers.first());
        format!("plywood-{}", top.map_or(folders::EMPTY, String::as_str))
    }

    /// The mount's options, relative to `ROOT/overlay`.
    pub(super) fn options(&self) -> Result<String> {
        if self.lowers.len() > MAX_LAYERS {
            return Err(too_many(self.lowers.len()));
        }
        let mut lowers: Vec<&str> = self.lowers.iter().map(String::as_str).collect();
        if lowers.len() < 2 {
            lowers.push(folders::EMPTY);
        }
        if lowers.len() < 2 && self.upper.is_none() {
            return Err(Error::invalid("a view of nothing"));
        }
        let mut options = format!("{PINNED},lowerdir={}", lowers.join(":"));
        match &self.upper {
            Some(upper) => {
                options.push_str(&format!(",upperdir={upper},workdir=work/{upper}"));
                if self.is_volatile() {
                    options.push_str(VOLATILE);
                }
            }
            // Without an upper folder there is nothing to index, and some kernels say so in their log.
            None => options = options.replacen("index=on", "index=off", 1),
        }
        if options.len() > MAX_OPTIONS {
            return Err(too_many(self.lowers.len()));
        }
        Ok(options)
    }

    fn is_volatile(&self) -> bool {
        self.lasts != Lasts::AtOnce
    }

    /// Mounts at `target`, in the calling thread's mount namespace.
    pub(super) fn mount(&self, folders: &Folders, target: &Path, flags: MsFlags) -> Result<()> {
        self.mount_seen_from(folders, folders.base(), None, target, flags)
    }

    /// The same with the folders as they are seen from `base`, by a thread that makes files as user `root`.
    pub(super) fn mount_seen_from(
        &self,
        folders: &Folders,
        base: &Path,
        root: Option<u32>,
        target: &Path,
        flags: MsFlags,
    ) -> Result<()> {
        let (options, source) = (self.options()?, self.source());
        let mounted = match self.try_mount(base, root, target, flags, &options)? {
            // An older kernel; where it is another option that is refused, it is refused again.
            Err(Errno::EINVAL) if self.is_volatile() => {
                self.try_mount(base, root, target, flags, &options.replace(VOLATILE, ""))?
            }
            mounted => mounted,
        };
        mounted.map_err(|errno| self.refused(folders, errno))?;
        tracing::debug!(source, target = %target.display(), "overlay mounted");
        if self.upper.is_some()
            && let Err(error) = index_is_on(folders, target)
        {
            return Err(undone(error, unmount(target)));
        }
        Ok(())
    }

    fn try_mount(
        &self,
        base: &Path,
        root: Option<u32>,
        target: &Path,
        flags: MsFlags,
        options: &str,
    ) -> Result<nix::Result<()>> {
        let source = self.source();
        if let Some(root) = root {
            step(|| format!("# the next as host user {root} with root's rights: the host's root is nobody there"));
        }
        step(|| {
            let shown = shown_flags(flags);
            format!(
                "(cd {} && mount -t overlay {source} -o {shown}{options} {})",
                quote(base),
                quote(target)
            )
        });
        patiently(is_busy, || {
            from_folder(base, || {
                if let Some(root) = root {
                    file_user::make_files_as(root).map_err(|_| Errno::EPERM)?;
                }
                nix::mount::mount(Some(source.as_str()), target, Some("overlay"), flags, Some(options))
            })
        })
    }

    fn refused(&self, folders: &Folders, errno: Errno) -> Error {
        let source = std::io::Error::from(errno);
        let name = self
            .upper
            .as_ref()
            .or(self.lowers.first())
            .map_or(folders::EMPTY, String::as_str);
        let path = folders.tree(name);
        match errno {
            Errno::EBUSY => Error::new(Kind::InUse, format!("{} is mounted already", path.display()))
                .hinted("it is running, being committed, or shown by plywood mount: stop or umount it first"),
            Errno::ESTALE => Error::new(
                Kind::Incompatible,
                format!("{} was written on another disk: its hard links cannot be told apart here", path.display()),
            )
            .hinted("a copied root folder keeps images and other containers; this one changed hard links: commit it where it was"),
            Errno::ENOENT => match std::iter::once(name).chain(self.lowers.iter().map(String::as_str)).find(|name| !folders.tree(name).is_dir()) {
                Some(lost) => folders::missing(&folders.tree(lost), "a layer"),
                None => Error::io("mount", path, source),
            },
            _ => Error::io("mount", path, source).hinted("the kernel's log (dmesg) says why overlayfs refused"),
        }
    }
}

fn shown_flags(flags: MsFlags) -> String {
    let known = [
        (MsFlags::MS_RDONLY, "ro,"),
        (MsFlags::MS_NOSUID, "nosuid,"),
        (MsFlags::MS_NODEV, "nodev,"),
        (MsFlags::MS_NOATIME, "noatime,"),
    ];
    known
        .iter()
        .filter(|(flag, _)| flags.contains(*flag))
        .map(|(_, text)| *text)
        .collect()
}

/// Runs `act` with `folder` as the working directory, which the process's other threads do not see.
fn from_folder<T: Send>(folder: &Path, act: impl FnOnce() -> T + Send) -> Result<T> {
    std::thread::scope(|scope| {
        let worker = scope.spawn(|| {
            nix::sched::unshare(CloneFlags::CLONE_FS).context("leave the process's working directory for", folder)?;
            std::env::set_current_dir(folder).context("enter", folder)?;
            Ok(act())
        });
        match worker.join() {
            Ok(done) => done,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// Tries again for a while what a process that is just ending, or just starting, keeps busy: the kernel
/// takes a dead process's mounts apart in its own time, and a child has our handles and locks until it executes.
pub(super) fn patiently<T>(is_busy: impl Fn(&T) -> bool, mut act: impl FnMut() -> Result<T>) -> Result<T> {
    let mut done = act()?;
    for _ in 0..BUSY_TRIES {
        if !is_busy(&done) {
            break;
        }
        std::thread::sleep(BUSY_PAUSE);
        done = act()?;
    }
    Ok(done)
}

/// What a mount that is in use says.
fn is_busy(done: &nix::Result<()>) -> bool {
    *done == Err(Errno::EBUSY)
}

/// Unmounts what lies at `target`.
pub(super) fn unmount(target: &Path) -> Result<()> {
    step(|| format!("umount {}", quote(target)));
    match patiently(is_busy, || Ok(nix::mount::umount2(target, MntFlags::UMOUNT_NOFOLLOW)))? {
        Ok(()) => Ok(()),
        Err(Errno::EBUSY) => Err(Error::new(Kind::InUse, format!("{} is in use", target.display()))
            .hinted(format!("fuser -vm {} names the processes", quote(target)))),
        Err(errno) => Err(Error::io("unmount", target, std::io::Error::from(errno))),
    }
}

/// The kernel shows the option only where it differs from the module's default.
fn index_is_on(folders: &Folders, target: &Path) -> Result<()> {
    let line =
        mounted_at(target)?.ok_or_else(|| Error::invalid(format!("{} is not in mountinfo", target.display())))?;
    let parameter = std::fs::read_to_string("/sys/module/overlay/parameters/index").unwrap_or_default();
    if shows_index(&line.options, parameter.trim() == "Y") {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "overlayfs does not keep hard links together on the filesystem under {}",
        folders.base().display()
    ))
    .hinted("it has no file handles: keep the root folder on ext4 or XFS (plywood --root DIR)"))
}

fn shows_index(options: &str, default: bool) -> bool {
    let says = |option| options.split(',').any(|word| word == option);
    says("index=on") || (default && !says("index=off"))
}

/// A folder under `ROOT/mnt/overlay` for one mount. Its owner holds an flock on it, so that
/// [`sweep_points`] can tell a dead process's from a live one's.
#[derive(Debug)]
pub(super) struct Point {
    path: PathBuf,
    _owned: OwnedFd,
}

impl Point {
    /// Makes a new one.
    pub(super) fn make(parent: &Path) -> Result<Self> {
        loop {
            let path = parent.join(folders::random_name()?);
            match std::fs::create_dir(&path) {
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => continue,
                made => made.context("make", &path)?,
            }
            let Ok(owned) = folders::open(&path) else { continue };
            // A sweeper may have come between the two steps.
            if folders::try_own(&owned, &path)? && path.is_dir() {
                return Ok(Self { path, _owned: owned });
            }
        }
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Removes it, unmounted.
    pub(super) fn close(self) -> Result<()> {
        step(|| format!("rmdir {}", quote(&self.path)));
        std::fs::remove_dir(&self.path).context("remove", &self.path)
    }
}

/// Removes the mount points of dead processes: their mounts went with their namespaces.
pub(super) fn sweep_points(parent: &Path) -> Result<()> {
    for entry in std::fs::read_dir(parent).context("list", parent)? {
        let path = entry.context("list", parent)?.path();
        let Ok(dir) = folders::open(&path) else { continue };
        if folders::try_own(&dir, &path)? && mounted_at(&path)?.is_none() {
            step(|| format!("rmdir {}", quote(&path)));
            let _ = std::fs::remove_dir(&path);
        }
    }
    Ok(())
}

/// Mounts a stack on a point of its own. `held` lives as long as the mount.
pub(super) fn mount_stack(
    stack: &Stack,
    folders: &Folders,
    points: &Path,
    writable: bool,
    held: Option<OwnedFd>,
    users: Option<Users<'_>>,
) -> Result<Mounted> {
    // Open before the first write: only then does it learn of every failed write-back.
    let flusher = folders::open(folders.base())?;
    let point = Point::make(points)?;
    let mut flags = MsFlags::MS_NOATIME;
    if !writable {
        flags |= MsFlags::MS_RDONLY | MsFlags::MS_NODEV | MsFlags::MS_NOSUID;
    }
    step(|| format!("mkdir -p {}", quote(point.path())));
    let mounted = match users {
        None => stack.mount(folders, point.path(), flags),
        Some(users) => mapped::mount(stack, folders, points, point.path(), flags, users),
    };
    if let Err(error) = mounted {
        return Err(undone(error, point.close()));
    }
    let path = point.path().to_owned();
    let dir = match rustix::fs::open(
        &path,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    ) {
        Ok(dir) => dir,
        Err(errno) => {
            let error = Error::io("open", &path, errno);
            return Err(undone(error, unmount(&path).and_then(|()| point.close())));
        }
    };
    let base = folders.base().to_owned();
    let must_last = writable && stack.lasts != Lasts::Never;
    // Such a mark is left by a volatile mount, and has the next one refused.
    let marked = stack.upper.as_ref().filter(|_| stack.lasts == Lasts::Closed);
    let mark = marked.map(|upper| folders.work(upper).join("work/incompat/volatile"));
    let mounted = Mounted::new(path, dir, move || {
        let unmounted = unmount(point.path());
        let flushed = if must_last {
            step(|| format!("sync -f {}", quote(&base)));
            folders::sync_filesystem(std::os::fd::AsFd::as_fd(&flusher), &base)
        } else {
            Ok(())
        };
        unmounted?;
        point.close()?;
        flushed?;
        mark.map_or(Ok(()), |mark| settle(&mark))?;
        drop(held);
        Ok(())
    });
    Ok(if users.is_some() { mounted.mapped() } else { mounted })
}

/// Takes away the mark of a volatile mount, once what was written through it is on the disk: "Volatile mount" in the
/// kernel's Documentation/filesystems/overlayfs.rst. A kernel that knows no such mount has left none.
fn settle(mark: &Path) -> Result<()> {
    step(|| format!("rm -r {}", quote(mark)));
    match std::fs::remove_dir_all(mark) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        removed => removed.context("remove", mark),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stack(layers: usize, upper: bool) -> Stack {
        Stack {
            lowers: (0..layers).map(|number| format!("l{number:04}")).collect(),
            upper: upper.then(|| "upper".to_owned()),
            lasts: Lasts::AtOnce,
        }
    }

    #[test]
    fn five_hundred_layers_fit_one_page_of_options_and_no_more_are_tried() {
        assert!(stack(MAX_LAYERS, true).options().unwrap().len() <= MAX_OPTIONS);
        let refused = stack(MAX_LAYERS + 1, true).options().unwrap_err();
        assert_eq!(refused.kind(), Kind::Invalid);
        assert!(refused.hint().unwrap().contains("--format rootfs"));
    }

    #[test]
    fn a_single_folder_gets_the_empty_one_below() {
        for (layers, upper, wanted) in [
            (1, false, "lowerdir=l0000:empty"),
            (0, true, "lowerdir=empty,upperdir=upper,workdir=work/upper"),
            (2, false, "lowerdir=l0000:l0001"),
        ] {
            let options = stack(layers, upper).options().unwrap();
            assert!(options.ends_with(wanted), "{options}");
            assert_eq!(options.contains("index=on"), upper);
        }
        assert!(stack(0, false).options().is_err());
    }

    #[test]
    fn the_index_option_is_shown_only_where_it_differs_from_the_default() {
        let table = [
            ("rw,lowerdir=a,index=on", false, true),
            ("rw,lowerdir=a", false, false),
            ("rw,lowerdir=a", true, true),
            ("rw,lowerdir=a,index=off", true, false),
        ];
        for (options, default, on) in table {
            assert_eq!(shows_index(options, default), on, "{options} {default}");
        }
    }
}
