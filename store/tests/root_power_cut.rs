//! What was acknowledged survives a power cut at any moment. Needs root and a loop device.
//!
//! The cut is ext4's own shutdown without a flush of its journal: from one moment
//! to the next nothing reaches the disk any more, and all that was only in memory
//! is gone. The file system is then mounted again, as after a reboot.

#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]

mod steps;

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use plywood_store::Store;

const ROUNDS: u64 = 25;

#[test]
fn child() {
    steps::work();
}

/// `EXT4_IOC_SHUTDOWN` with `EXT4_GOING_FLAGS_NOLOGFLUSH`: Linux, fs/ext4/ext4.h.
const SHUTDOWN: &str = r#"open(F, "<", $ARGV[0]) or die $!; $f = pack("L", 2); ioctl(F, 0x8004587d, $f) or die $!;"#;

/// An ext4 file system on a loop device, unmounted when dropped.
struct Disk {
    image: PathBuf,
    at: PathBuf,
    mounted: bool,
    _folder: tempfile::TempDir,
}

impl Disk {
    fn new() -> Self {
        let folder = tempfile::tempdir_in("/dev/shm").unwrap();
        let (image, at) = (folder.path().join("disk"), folder.path().join("at"));
        std::fs::create_dir(&at).unwrap();
        let file = std::fs::File::create(&image).unwrap();
        file.set_len(128 << 20).unwrap();
        run(Command::new("mkfs.ext4").arg("-q").arg(&image));
        let mut disk = Self {
            image,
            at,
            mounted: false,
            _folder: folder,
        };
        disk.mount();
        disk
    }

    fn mount(&mut self) {
        run(Command::new("mount")
            .args(["-o", "loop"])
            .arg(&self.image)
            .arg(&self.at));
        self.mounted = true;
    }

    /// The power goes, and comes again.
    fn cut(&self) {
        run(Command::new("perl").args(["-e", SHUTDOWN]).arg(&self.at));
    }

    fn unmount(&mut self) {
        run(Command::new("umount").arg(&self.at));
        self.mounted = false;
        // A mount namespace that another program has just made keeps what was mounted, and its loop device, until the
        // change comes through to it; mounted again before that, the file system is the dead one still.
        let begun = Instant::now();
        while self.has_loop_device() {
            assert!(
                begun.elapsed() < Duration::from_secs(60),
                "{} stays mounted",
                self.at.display()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn has_loop_device(&self) -> bool {
        let listed = Command::new("losetup").arg("-j").arg(&self.image).output().unwrap();
        assert!(listed.status.success(), "{listed:?}");
        !listed.stdout.is_empty()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.mounted {
            run(Command::new("umount").arg("-l").arg(&self.at));
        }
    }
}

fn run(command: &mut Command) {
    let done = command.status().unwrap();
    assert!(done.success(), "{command:?} (it needs root): {done}");
}

#[test]
fn root_what_was_acknowledged_survives_a_power_cut() {
    let mut disk = Disk::new();
    let root = disk.at.join("root");
    let (mut next, mut cut_in_a_step) = (0, 0);
    for round in 0..ROUNDS {
        let after = Duration::from_micros(10_000 + (round * 77_919) % 200_000);
        next = steps::run_and_end(&root, next, after, |child| {
            disk.cut();
            child.kill().unwrap();
        });
        disk.unmount();
        disk.mount();
        // A reboot has another boot id.
        let notes = root.join("index.pending");
        if notes.exists() {
            std::fs::write(&notes, "another boot\n").unwrap();
        }
        let Some(store) = Store::open(&root).unwrap() else {
            assert_eq!(next, 0);
            continue;
        };
        steps::verify(&store, next);
        cut_in_a_step += steps::clean(&store);
    }
    println!("{next} steps, {cut_in_a_step} cuts in the middle of one");
    assert!(
        next > ROUNDS,
        "only {next} steps: the cuts come too early to show anything"
    );
}
