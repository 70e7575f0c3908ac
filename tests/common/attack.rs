//! What the attacks on the binary share: an import that must be refused, and stores to refuse it.

use std::fs;
use std::io::Write;
use std::process::{Child, Stdio};
use std::time::Duration;

use crate::common::tars::{archive, file};
use crate::common::{Plywood, busybox_tar, listing};

/// Wants an import to fail by name within bounded memory, and the store to be as it was.
#[track_caller]
pub fn refused(plywood: &Plywood, what: &str, archive: &[u8], names: &str) -> String {
    let path = plywood.beside("attack");
    fs::write(&path, archive).unwrap();
    refused_as(plywood, what, &["import", path.to_str().unwrap(), "attack"], names)
}

#[track_caller]
pub fn refused_as(plywood: &Plywood, what: &str, args: &[&str], names: &str) -> String {
    let before = listing(plywood);
    let mut child = plywood
        .command(args)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let memory = peak_memory(&mut child);
    let output = child.wait_with_output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{what}: {error}");
    assert!(error.contains(names), "{what}: wanted {names:?} in {error}");
    assert!(
        !error.contains("panicked") && !error.contains("without a report"),
        "{what}: {error}"
    );
    assert!(memory < 256 << 20, "{what}: {memory} bytes of memory");
    assert_eq!(listing(plywood), before, "{what}");
    error
}

/// Waits until the process and its children have ended; the most memory that one of them was seen with.
pub fn peak_memory(child: &mut Child) -> u64 {
    let peak = |pid: u32| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kilobytes = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
        kilobytes.unwrap_or(0) << 10
    };
    let pid = child.id();
    let mut most = 0;
    while child.try_wait().unwrap().is_none() {
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        let children = children.split_whitespace().filter_map(|pid| pid.parse().ok());
        most = children.map(peak).chain([peak(pid)]).fold(most, u64::max);
        std::thread::sleep(Duration::from_millis(5));
    }
    most
}

pub fn gzip(plain: &[u8]) -> Vec<u8> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(plain).unwrap();
    gzip.finish().unwrap()
}

/// A store with an image in it, so that a refused one has something to leave alone.
pub fn with_bystander() -> Plywood {
    let plywood = Plywood::new("overlay");
    let path = plywood.beside("bystander.tar");
    fs::write(&path, archive(&[file("x", "bystander")])).unwrap();
    plywood.ok(["import", path.to_str().unwrap(), "bystander"]);
    plywood
}

/// A store with the image `base`, which has a shell.
pub fn with_base() -> Plywood {
    let plywood = Plywood::new("overlay");
    let base = plywood.beside("base.tar");
    busybox_tar(&base);
    plywood.ok(["import", base.to_str().unwrap(), "base"]);
    plywood
}
