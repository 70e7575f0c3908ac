//! Whether overlayfs can live on a filesystem: by trying it, for `doctor`.

use std::path::Path;

use nix::mount::MsFlags;
use nix::sys::statfs::{self, FsType};

use super::folders::{self, Folders};
use super::stack::{self, Lasts, Stack};
use crate::error::{Context, Error, Kind, Result};
use crate::explain::{quote, step};
use crate::snapshot::shown::mounted_at;

/// Hostfs of User Mode Linux: `HOSTFS_SUPER_MAGIC` in fs/hostfs/hostfs_kern.c; nix does not know it.
const HOSTFS: FsType = FsType(0x00c0_ffee);
/// `CIFS_SUPER_MAGIC` in include/uapi/linux/magic.h.
const CIFS: FsType = FsType(0xff53_4d42);
/// 9p: `V9FS_MAGIC` in include/uapi/linux/magic.h.
const V9FS: FsType = FsType(0x0102_1997);

/// Filesystems that overlayfs refuses as upper folders, or that give it no file handles.
fn unfit(kind: FsType) -> Option<&'static str> {
    let table = [
        (statfs::OVERLAYFS_SUPER_MAGIC, "overlayfs"),
        (statfs::NFS_SUPER_MAGIC, "NFS"),
        (statfs::FUSE_SUPER_MAGIC, "FUSE"),
        (CIFS, "CIFS"),
        (HOSTFS, "hostfs"),
        (V9FS, "9p"),
    ];
    table.iter().find(|(unfit, _)| *unfit == kind).map(|(_, name)| *name)
}

/// Refuses a root folder that no overlay could be mounted on.
pub(super) fn refuse_unfit(base: &Path) -> Result<()> {
    let kind = statfs::statfs(base)
        .context("look at the filesystem of", base)?
        .filesystem_type();
    match unfit(kind) {
        None => Ok(()),
        Some(name) => Err(Error::new(
            Kind::Invalid,
            format!(
                "{} is on {name}: overlayfs cannot keep its folders there",
                base.display()
            ),
        )
        .hinted("keep the root folder on ext4 or XFS (plywood --root DIR)")),
    }
}

/// Refuses a filesystem that a root folder of this driver cannot be made on. The folder need not be there yet.
///
/// # Errors
/// Invalid, with the way out; I/O.
pub fn require_fit(root: &Path) -> Result<()> {
    let absolute = std::path::absolute(root).context("find", root)?;
    absolute
        .ancestors()
        .find(|path| path.exists())
        .map_or(Ok(()), refuse_unfit)
}

/// What overlayfs can do on the filesystem of `root`: a question, whether it can,
/// and what to do if not. Mounts in a scratch folder under `root`; call it in a
/// mount namespace of your own.
#[must_use]
pub fn probe(root: &Path) -> Vec<(String, bool, String)> {
    let place = "keep the root folder on ext4 or XFS (plywood --root DIR)";
    let known = std::fs::read_to_string("/proc/filesystems")
        .is_ok_and(|list| list.split_whitespace().any(|word| word == "overlay"));
    let mut answers = vec![(
        "the kernel has overlayfs".to_owned(),
        known,
        "modprobe overlay, or a kernel with CONFIG_OVERLAY_FS".to_owned(),
    )];
    let fit = refuse_unfit(root);
    let hint = fit.as_ref().err().map(|error| format!("{error}: {place}"));
    answers.push((
        format!("{} can hold upper folders", root.display()),
        fit.is_ok(),
        hint.unwrap_or_else(|| place.to_owned()),
    ));
    if known && fit.is_ok() {
        let mounted = try_mount(root);
        let hint = mounted.as_ref().err().map(|error| format!("{error}: {place}"));
        answers.push((
            "overlayfs keeps hard links together there (index=on)".to_owned(),
            mounted.is_ok(),
            hint.unwrap_or_default(),
        ));
    }
    answers
}

fn try_mount(root: &Path) -> Result<()> {
    let scratch = root.join(format!(".probe-{}", folders::random_name()?));
    step(|| format!("mkdir {}", quote(&scratch)));
    std::fs::create_dir(&scratch).context("make", &scratch)?;
    let tried = (|| {
        let folders = Folders::open(scratch.clone())?;
        for folder in [folders.tree("upper"), folders.work("upper"), folders.base().join("mnt")] {
            step(|| format!("mkdir {}", quote(&folder)));
            std::fs::create_dir(&folder).context("make", &folder)?;
        }
        let target = scratch.join("mnt");
        let stack = Stack {
            lowers: Vec::new(),
            upper: Some("upper".to_owned()),
            lasts: Lasts::AtOnce,
        };
        stack.mount(&folders, &target, MsFlags::MS_NOATIME)?;
        stack::unmount(&target)
    })();
    step(|| format!("rm -r {}", quote(&scratch)));
    let removed = std::fs::remove_dir_all(&scratch).context("remove", &scratch);
    tried.and(removed)
}

/// The device and type of the filesystem that holds `path`, from mountinfo.
pub(super) fn device_of(path: &Path) -> Result<Option<(String, String)>> {
    for parent in path.ancestors() {
        if let Some(line) = mounted_at(parent)? {
            return Ok(Some((line.source, line.kind)));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlayfs_itself_holds_no_upper_folder() {
        assert_eq!(unfit(statfs::OVERLAYFS_SUPER_MAGIC), Some("overlayfs"));
        assert_eq!(unfit(statfs::EXT4_SUPER_MAGIC), None);
        assert_eq!(unfit(statfs::XFS_SUPER_MAGIC), None);
    }
}
