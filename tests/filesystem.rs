//! `export --format ext4`: an image as a filesystem in a file.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test ends where something is not as it must be"
)]

mod common;

use std::path::Path;
use std::process::Command;

use common::{Plywood, with_base};

/// Runs a shell's script, which must end well; what it prints.
fn shell(script: &str) -> String {
    let output = Command::new("sh").args(["-ec", script]).output().unwrap();
    assert!(
        output.status.success(),
        "{script}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// Every entry below `/`, with what it is.
const LISTING: &str = "cd \"$1\" && find . -xdev | LC_ALL=C sort | while read -r f; do
    stat -c '%n %A %u %g %Y %h' \"$f\"; [ ! -f \"$f\" ] || [ -L \"$f\" ] || md5sum < \"$f\"; done";

fn listing(folder: &Path) -> String {
    let output = Command::new("sh")
        .args(["-ec", LISTING, "sh"])
        .arg(folder)
        .output()
        .unwrap();
    assert!(output.status.success());
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn exported(plywood: &Plywood, name: &str) -> std::path::PathBuf {
    let file = plywood.beside(name);
    plywood.ok(["export", "--format", "ext4", "-o", file.to_str().unwrap(), "base"]);
    file
}

#[test]
fn an_image_becomes_a_filesystem_that_can_be_mounted() {
    let plywood = with_base();
    let file = exported(&plywood, "base.ext4");
    shell(&format!("e2fsck -fn {} 2>&1", file.display()));
    let point = plywood.beside("point");
    std::fs::create_dir(&point).unwrap();
    shell(&format!("mount -o loop,ro {} {}", file.display(), point.display()));
    let seen = listing(&point);
    shell(&format!("umount {}", point.display()));
    let at = plywood.ok(["mount", "base"]);
    let expected = listing(Path::new(&at));
    plywood.ok(["umount", "base"]);
    let common: Vec<&str> = expected.lines().filter(|line| !line.starts_with(". ")).collect();
    let seen: Vec<&str> = seen.lines().filter(|line| !line.starts_with(". ")).collect();
    assert_eq!(seen, common);
    // It is as sparse as a filesystem can be, and again the same file takes its place.
    assert!(
        shell(&format!("du -m {} | cut -f1", file.display()))
            .parse::<u64>()
            .unwrap()
            < 64
    );
    exported(&plywood, "base.ext4");
    plywood.sound();
}

#[test]
fn a_filesystem_that_is_too_small_is_none() {
    let plywood = with_base();
    let file = plywood.beside("small.ext4");
    let script = "dd if=/dev/urandom of=/big bs=1M count=60 2>/dev/null";
    plywood.ok(["run", "--name", "one", "base", "sh", "-c", script]);
    plywood.ok(["commit", "one", "big"]);
    let file = file.to_str().unwrap();
    for size in ["1M", "64M"] {
        let error = plywood.fails(1, ["export", "--format", "ext4", "--size", size, "-o", file, "big"]);
        assert!(error.contains("--size"), "{error}");
    }
    assert!(!Path::new(file).exists());
    let beside = std::fs::read_dir(Path::new(file).parent().unwrap()).unwrap();
    let left: Vec<_> = beside.map(|entry| entry.unwrap().file_name()).collect();
    assert!(
        !left.iter().any(|name| name.to_string_lossy().starts_with(".plywood")),
        "{left:?}"
    );
    for args in [
        &["export", "--format", "ext4", "-o", "-", "big"][..],
        &["export", "--size", "1G", "-o", file, "big"],
    ] {
        plywood.fails(2, args);
    }
    plywood.sound();
}
