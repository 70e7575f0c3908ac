//! A disk under everything whose writes are logged by dm-log-writes, and machines that start with what it had.

use std::fs::File;
use std::path::PathBuf;
use std::process::Command;

use nix::mount::{MsFlags, mount, umount};

use super::write_log::Log;
use crate::common::edits::Dice;
use crate::common::wait;

/// Bytes of the disk.
const DISK: u64 = 768 << 20;
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// One disk with its log, and what comes out of that.
#[derive(Debug)]
pub struct Disk {
    /// Its mount point is `root` in here.
    pub folder: tempfile::TempDir,
}

impl Disk {
    /// A new one, mounted.
    pub fn new() -> Self {
        let disk = Self {
            folder: tempfile::tempdir().expect("a folder"),
        };
        std::fs::create_dir(disk.root()).expect("a folder");
        disk.shell(
            "truncate -s $size disk cow; mkfs.ext4 -q -F -E nodiscard disk; mount -o loop disk root; rmdir root/*",
        );
        disk
    }

    fn root(&self) -> PathBuf {
        self.path("root")
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Runs a script in the disk's folder.
    pub fn shell(&self, script: &str) -> String {
        let mut sh = Command::new("sh");
        sh.args(["-ec", script]).current_dir(self.folder.path());
        let sectors = DISK / 512;
        sh.env("size", DISK.to_string()).env("sectors", sectors.to_string());
        let output = sh.output().expect("a shell");
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{script}: {told}");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// From here on every write is logged.
    pub fn begin(&self) {
        self.shell(
            "rm -f log; truncate -s 6G log
             dmsetup create torture-logged --table \
                 \"0 $sectors log-writes $(losetup -f --show disk) $(losetup -f --show log)\"",
        );
        self.mount("/dev/mapper/torture-logged");
    }

    /// Notes in the log that this many verbs are done.
    pub fn mark(&self, number: usize) {
        self.shell(&format!("dmsetup message torture-logged 0 mark {number}"));
    }

    /// Unmounts it, and gives what was written.
    pub fn end(&self) -> Log {
        self.unmount();
        self.shell("dmsetup remove --retry torture-logged; losetup -j disk -O NAME -n | xargs losetup -d; losetup -j log -O NAME -n | xargs losetup -d");
        Log::read(&self.path("log"))
    }

    fn mount(&self, device: &str) {
        mount(Some(device), &self.root(), Some("ext4"), MsFlags::empty(), None::<&str>).expect("the disk mounts");
    }

    /// A container's tree of mounts goes a moment after its last process.
    pub fn unmount(&self) {
        wait::until_ok("unmounting the disk", || umount(&self.root()));
    }

    /// The machine starts with the disk as it was written again, and what else the cut has kept; what it writes is
    /// thrown away.
    pub fn start(&self, log: &Log, done: usize, dice: &mut Dice) {
        self.shell(
            "dmsetup create torture-view --table \"0 $sectors snapshot $(cat replayed.loop) $(cat cow.loop) N 8\"",
        );
        let view = File::options().write(true).open("/dev/mapper/torture-view");
        let view = view.expect("the snapshot");
        let keeps = dice.below(3);
        for entry in log.unsettled(done) {
            if dice.below(4) < keeps {
                log.apply(entry, &view);
            }
        }
        view.sync_all().expect("a sync");
        drop(view);
        let boot = self.path("boot_id");
        let id = format!("{:08x}-0000-4000-8000-{:012x}\n", dice.below(1 << 30), done);
        std::fs::write(&boot, id).expect("a file");
        mount(Some(&boot), BOOT_ID, None::<&str>, MsFlags::MS_BIND, None::<&str>).expect("another boot");
        self.mount("/dev/mapper/torture-view");
    }

    /// Stops that machine; the disk is as it was written again.
    pub fn stop(&self) {
        self.unmount();
        umount(BOOT_ID).expect("this boot");
        self.shell("dmsetup remove --retry torture-view");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // After a failure anything may be left.
        self.shell(
            "umount root 2>/dev/null || umount -l root 2>/dev/null || true
             for name in torture-view torture-logged; do dmsetup remove --retry $name 2>/dev/null || true; done
             for file in disk log replayed cow; do losetup -j $file -O NAME -n | xargs -r losetup -d; done",
        );
    }
}
