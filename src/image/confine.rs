//! The confined child: everything that it does not need is taken from it before it reads one byte of the tar.
//!
//! In order: no descriptor but the three pipes; limits on memory, file size and
//! cores; mount, network, IPC and UTS namespaces of its own; `pivot_root` into
//! the snapshot, the host's tree detached, `nosuid,nodev,noexec`; seven
//! capabilities, none inheritable, no new ones ever; an allow-list of system
//! calls. There is no `/proc` and no device in there. What a hostile tar could
//! still reach is the snapshot that it was meant for.
//!
//! The child that writes onto a device has that open instead, an empty root, no
//! capability, and no system call that takes a path.
//!
//! `CAP_SYS_ADMIN` is among the seven because the kernel asks for it to set
//! `trusted.*` and `security.*` attributes, which a layer must carry unchanged;
//! the allow-list has no other call for which it is good.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::sched::{CloneFlags, unshare};
use plywood_store::layer::Limits;
use plywood_store::layer::apply::{Applied, apply};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags};
use rustix::process::{Resource, Rlimit};
use rustix::thread::{CapabilitySet, CapabilitySets};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};

use super::unpack::{ANY_FOLDER, Wire};
use crate::error::{Context, Error, Kind, Result};
use crate::ext4::write::{Filled, fill};

/// Bytes of address space: enough for the names of a very large layer, not enough to hurt the machine.
const ADDRESS_SPACE: u64 = 4 << 30;
/// Descriptors: apply holds a few directories and one file.
const DESCRIPTORS: u64 = 256;

const CAPABILITIES: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::MKNOD)
    .union(CapabilitySet::SETFCAP)
    .union(CapabilitySet::SYS_ADMIN);

/// Confines this process to its working directory and applies standard input there.
pub(super) fn child(limits: Option<&str>) -> Result<Applied> {
    let limits = parse(limits)?;
    let root = confine(&limits)?;
    let mut tar = std::io::stdin().lock();
    let applied = apply(root.as_fd(), &mut tar, &limits);
    // Closed before the report: a parent that still writes must not wait for a reader that is busy writing.
    drop(tar);
    rustix::stdio::dup2_stdin(&root).context("close", "the pipe")?;
    applied
}

/// Confines this process to an empty root and one device, and writes the base layer of standard input onto that.
pub(super) fn device_child(limits: Option<&str>, device: &Path) -> Result<Filled> {
    let limits = parse(limits)?;
    crate::sys::close_range::close(3, u32::MAX).context("close the descriptors of", "the confined child")?;
    let volume = open_device(device)?;
    // Where a device ends its writes do.
    set_limits(u64::MAX)?;
    private_namespaces()?;
    rustix::mount::mount(
        "tmpfs",
        ANY_FOLDER,
        "tmpfs",
        MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC,
        c"size=4k,mode=0555",
    )
    .context("mount", "an empty folder")?;
    rustix::process::chdir(ANY_FOLDER).context("enter", "an empty folder")?;
    become_root()?;
    drop_privileges(CapabilitySet::empty())?;
    filter_system_calls(for_a_device())?;
    let mut tar = std::io::stdin().lock();
    let filled = fill(&volume, &mut tar, &limits);
    drop(tar);
    rustix::stdio::dup2_stdin(&volume).context("close", "the pipe")?;
    filled
}

/// Opens it past the page cache, if it can be: what is written once in long runs arrives sooner so, and leaves others'
/// pages where they are.
fn open_device(device: &Path) -> Result<File> {
    let mut options = File::options();
    options.read(true).write(true);
    let direct = options.custom_flags(nix::libc::O_DIRECT).open(device);
    match direct {
        Err(error) if error.kind() == std::io::ErrorKind::InvalidInput => options.custom_flags(0).open(device),
        opened => opened,
    }
    .context("open", device)
}

fn parse(limits: Option<&str>) -> Result<Limits> {
    let limits = limits
        .and_then(|text| serde_json::from_str::<Wire>(text).ok())
        .map(Limits::from);
    limits.ok_or_else(|| {
        Error::invalid("the confined child was started without limits")
            .hinted("this is plywood's own helper, not a verb")
    })
}

/// Takes away everything, in the order of this file's story. Gives the new root.
fn confine(limits: &Limits) -> Result<OwnedFd> {
    crate::sys::close_range::close(3, u32::MAX).context("close the descriptors of", "the confined child")?;
    set_limits(limits.file_bytes)?;
    enter_root()?;
    let root = rustix::fs::open("/", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .context("open", "/")?;
    drop_privileges(CAPABILITIES)?;
    filter_system_calls(allowed())?;
    Ok(root)
}

fn set_limits(file_bytes: u64) -> Result<()> {
    for (resource, limit) in [
        (Resource::As, ADDRESS_SPACE),
        (Resource::Core, 0),
        (Resource::Fsize, file_bytes),
        (Resource::Nofile, DESCRIPTORS),
    ] {
        let both = Rlimit {
            current: Some(limit),
            maximum: Some(limit),
        };
        rustix::process::setrlimit(resource, both).context("limit", format!("{resource:?} of the confined child"))?;
    }
    rustix::process::umask(Mode::empty());
    Ok(())
}

fn private_namespaces() -> Result<()> {
    let namespaces =
        CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWIPC | CloneFlags::CLONE_NEWUTS;
    unshare(namespaces).context("make namespaces for", "the confined child")?;
    rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .context("make private", "/")
}

/// The working directory becomes the root of a mount namespace in which nothing else is.
fn enter_root() -> Result<()> {
    private_namespaces()?;
    // pivot_root wants a mount of its own: a copy of this one, put over itself.
    let tree = rustix::mount::open_tree(
        CWD,
        ".",
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC,
    )
    .context("copy the mount of", "the snapshot")?;
    rustix::mount::move_mount(&tree, "", CWD, ".", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .context("mount", "the snapshot")?;
    rustix::process::fchdir(&tree).context("enter", "the snapshot")?;
    become_root()?;
    let flags = MountFlags::BIND | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC | MountFlags::NOATIME;
    rustix::mount::mount_remount("/", flags, "").context("remount", "/")
}

/// The mount that is the working directory becomes the root.
fn become_root() -> Result<()> {
    rustix::process::pivot_root(".", ".").context("make a root of", "the snapshot")?;
    // The old root lies on top of the new one now.
    rustix::mount::unmount(".", UnmountFlags::DETACH).context("detach", "the host's tree")?;
    rustix::process::chdir("/").context("enter", "/")
}

fn drop_privileges(kept: CapabilitySet) -> Result<()> {
    let what = "the confined child";
    for bit in 0..64 {
        let one = CapabilitySet::from_bits_retain(1 << bit);
        if kept.contains(one) {
            continue;
        }
        match rustix::thread::remove_capability_from_bounding_set(one) {
            // The kernel's last capability is behind us.
            Err(rustix::io::Errno::INVAL) => break,
            result => result.context("take capabilities from", what)?,
        }
    }
    rustix::thread::clear_ambient_capability_set().context("take ambient capabilities from", what)?;
    let sets = CapabilitySets {
        effective: kept,
        permitted: kept,
        inheritable: CapabilitySet::empty(),
    };
    rustix::thread::set_capabilities(None, sets).context("take capabilities from", what)?;
    rustix::thread::set_no_new_privs(true).context("forbid new privileges to", what)
}

/// Everything else fails with EPERM.
fn filter_system_calls(allowed: Vec<i64>) -> Result<()> {
    let bad = |cause: Box<dyn std::error::Error + Send + Sync>| {
        Error::new(Kind::Io, "cannot filter the confined child's system calls").caused_by(cause)
    };
    let arch = std::env::consts::ARCH
        .try_into()
        .map_err(|cause: seccompiler::BackendError| {
            Error::new(
                Kind::Incompatible,
                format!("no system call filter for {}", std::env::consts::ARCH),
            )
            .caused_by(cause)
        })?;
    let rules = allowed.into_iter().map(|call| (call, Vec::new())).collect();
    let refused = SeccompAction::Errno(nix::libc::EPERM.unsigned_abs());
    let program: BpfProgram = SeccompFilter::new(rules, refused, SeccompAction::Allow, arch)
        .and_then(TryInto::try_into)
        .map_err(|cause| bad(cause.into()))?;
    seccompiler::apply_filter(&program).map_err(|cause| bad(cause.into()))
}

/// What unpacking needs: files by handle, and what everything needs.
fn allowed() -> Vec<i64> {
    use nix::libc as sys;
    let mut calls = for_a_device();
    calls.extend([
        // the files
        sys::SYS_ftruncate,
        sys::SYS_fallocate,
        // names, from handles
        sys::SYS_openat,
        sys::SYS_openat2,
        sys::SYS_mkdirat,
        sys::SYS_mknodat,
        sys::SYS_symlinkat,
        sys::SYS_linkat,
        sys::SYS_unlinkat,
        sys::SYS_renameat,
        sys::SYS_renameat2,
        sys::SYS_readlinkat,
        sys::SYS_getdents64,
        sys::SYS_chdir,
        sys::SYS_fchdir,
        // attributes
        sys::SYS_newfstatat,
        sys::SYS_statx,
        sys::SYS_fchown,
        sys::SYS_fchownat,
        sys::SYS_fchmod,
        sys::SYS_fchmodat,
        FCHMODAT2,
        sys::SYS_utimensat,
        sys::SYS_fsetxattr,
        sys::SYS_fgetxattr,
        sys::SYS_flistxattr,
        sys::SYS_fremovexattr,
        sys::SYS_lsetxattr,
        sys::SYS_lgetxattr,
        sys::SYS_llistxattr,
        sys::SYS_lremovexattr,
        SETXATTRAT,
        GETXATTRAT,
        LISTXATTRAT,
        REMOVEXATTRAT,
    ]);
    // The C library of this processor still makes some calls the old way.
    #[cfg(target_arch = "x86_64")]
    calls.extend([sys::SYS_stat, sys::SYS_lstat]);
    calls
}

/// What writing onto a device needs, and everything else too: open descriptors, memory, a clock, an end.
fn for_a_device() -> Vec<i64> {
    use nix::libc as sys;
    let mut calls = vec![
        // the pipes and the device
        sys::SYS_read,
        sys::SYS_readv,
        sys::SYS_write,
        sys::SYS_writev,
        sys::SYS_pread64,
        sys::SYS_pwrite64,
        sys::SYS_lseek,
        sys::SYS_close,
        sys::SYS_dup,
        sys::SYS_dup3,
        sys::SYS_fcntl,
        sys::SYS_fstat,
        // memory, time, signals, the end
        sys::SYS_brk,
        sys::SYS_mmap,
        sys::SYS_munmap,
        sys::SYS_mremap,
        sys::SYS_mprotect,
        sys::SYS_madvise,
        sys::SYS_futex,
        sys::SYS_getrandom,
        sys::SYS_clock_gettime,
        sys::SYS_gettid,
        sys::SYS_getpid,
        sys::SYS_tgkill,
        sys::SYS_rt_sigaction,
        sys::SYS_rt_sigprocmask,
        sys::SYS_rt_sigreturn,
        sys::SYS_sigaltstack,
        sys::SYS_restart_syscall,
        sys::SYS_sched_yield,
        sys::SYS_exit,
        sys::SYS_exit_group,
    ];
    #[cfg(target_arch = "x86_64")]
    calls.push(sys::SYS_dup2);
    calls
}

// Newer than the libc crate's tables; the same number on every processor.
const FCHMODAT2: i64 = 452;
const SETXATTRAT: i64 = 463;
const GETXATTRAT: i64 = 464;
const LISTXATTRAT: i64 = 465;
const REMOVEXATTRAT: i64 = 466;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filter_leaves_no_way_to_mount_connect_or_execute() {
        use nix::libc as sys;
        let (allowed, device) = (allowed(), for_a_device());
        assert!(!device.contains(&sys::SYS_openat), "no way to a file");
        for call in [
            sys::SYS_execve,
            sys::SYS_execveat,
            sys::SYS_mount,
            sys::SYS_umount2,
            sys::SYS_socket,
            sys::SYS_clone,
            sys::SYS_clone3,
            sys::SYS_ptrace,
            sys::SYS_bpf,
            sys::SYS_unshare,
            sys::SYS_setns,
            sys::SYS_pivot_root,
            sys::SYS_ioctl,
            sys::SYS_open_by_handle_at,
            sys::SYS_kill,
            sys::SYS_chroot,
            sys::SYS_io_uring_setup,
        ] {
            assert!(!allowed.contains(&call), "{call}");
        }
    }
}
