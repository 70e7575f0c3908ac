//! `plywood doctor`: what this kernel offers, what is missing, what to do about it.

use std::path::Path;

use serde::Serialize;

use crate::commands::Session;
use crate::dm::program::Program;
use crate::failure::{OK, Outcome};
use crate::network::firewall;
use crate::snapshot::overlay;
use crate::sys::mount::enter_private_namespace;

/// One thing looked at, as `--json` shows it.
#[derive(Debug, Clone, Serialize)]
pub struct Finding {
    /// What was looked at.
    pub what: String,
    /// Whether it is there.
    pub ok: bool,
    /// What was seen.
    pub detail: String,
    /// What to do about it, where it is missing.
    pub remedy: Option<String>,
}

impl Finding {
    /// Something that was looked at.
    pub fn new(what: &str, ok: bool, detail: impl Into<String>, remedy: &str) -> Self {
        Self {
            what: what.to_owned(),
            ok,
            detail: detail.into(),
            remedy: (!ok).then(|| remedy.to_owned()),
        }
    }
}

/// What `--json` shows.
#[derive(Debug, Serialize)]
struct Diagnosis {
    driver: String,
    why: String,
    findings: Vec<Finding>,
}

/// Looks around and tells; what it tries out, it undoes.
///
/// # Errors
/// Only where standard output cannot be written.
pub fn run(session: &Session) -> Outcome {
    let (driver, why) = driver(session)?;
    let mut findings = look();
    findings.extend(overlay(&session.global.root));
    if session.output.is_json() {
        session.output.json(&Diagnosis { driver, why, findings })?;
        return Ok(OK);
    }
    session.output.line(format!("driver: {driver} ({why})"))?;
    for finding in &findings {
        session.output.line(format!(
            "{:4} {}: {}",
            if finding.ok { "ok" } else { "MISS" },
            finding.what,
            finding.detail
        ))?;
        if let Some(remedy) = &finding.remedy {
            session.output.line(format!("     -> {remedy}"))?;
        }
    }
    Ok(OK)
}

/// The driver that this root has or would get, and why.
fn driver(session: &Session) -> crate::error::Result<(String, String)> {
    let root = session.global.root.display();
    Ok(match plywood_store::Store::open(&session.global.root)? {
        Some(store) => (store.meta().driver.to_string(), format!("{root} was made with it")),
        None if crate::dm::is_available() => ("thin".to_owned(), "this kernel has device-mapper thin pools".to_owned()),
        None => (
            "overlay".to_owned(),
            "this kernel has no device-mapper thin pools".to_owned(),
        ),
    })
}

/// Tries overlayfs where the root is or would be: its mounts need rights, and stay in this process.
fn overlay(root: &Path) -> Vec<Finding> {
    let place = root.ancestors().find(|folder| folder.is_dir());
    let (Some(place), true) = (place, rustix::process::geteuid().is_root()) else {
        return Vec::new();
    };
    if let Err(error) = enter_private_namespace() {
        return vec![Finding::new(
            "a mount namespace",
            false,
            error.to_string(),
            "see the error",
        )];
    }
    overlay::probe(place)
        .into_iter()
        .map(|(what, ok, remedy)| Finding::new(&what, ok, "the overlay driver", &remedy))
        .collect()
}

fn look() -> Vec<Finding> {
    let filesystems = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    let has_filesystem = |name: &str| {
        filesystems
            .lines()
            .any(|line| line.split_whitespace().last() == Some(name))
    };
    let controllers = std::fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").ok();
    let mut findings = vec![
        Finding::new(
            "root rights",
            rustix::process::geteuid().is_root(),
            "needed for devices, mounts and namespaces",
            "run plywood with sudo",
        ),
        Finding::new(
            "device-mapper thin pools",
            crate::dm::is_available(),
            "the thin driver",
            "load the modules dm-mod and dm-thin-pool, or use a kernel that has them; the overlay driver works without",
        ),
        Finding::new(
            "loop devices",
            std::path::Path::new("/dev/loop-control").exists(),
            "the default pool's files",
            "load the module loop",
        ),
        Finding::new(
            "ext4",
            has_filesystem("ext4"),
            "the volumes' filesystem",
            "load the module ext4",
        ),
        Finding::new(
            "cgroups",
            controllers.is_some() || std::path::Path::new("/sys/fs/cgroup/memory").exists(),
            controllers.map_or_else(|| "version 1".to_owned(), |list| format!("version 2: {}", list.trim())),
            "mount cgroup2 at /sys/fs/cgroup",
        ),
        Finding::new(
            "system call filters",
            std::path::Path::new("/proc/sys/kernel/seccomp/actions_avail").exists(),
            "what a container may ask the kernel for",
            "use a kernel that has seccomp filters; run --security-opt seccomp=unconfined does without",
        ),
    ];
    for namespace in ["mnt", "pid", "uts", "ipc", "net", "user", "cgroup"] {
        findings.push(Finding::new(
            &format!("{namespace} namespaces"),
            std::path::Path::new("/proc/self/ns").join(namespace).exists(),
            "isolation of containers",
            "use a kernel that has them",
        ));
    }
    for needed in [Program::MkfsExt4, Program::ThinCheck] {
        findings.push(program(needed.name(), needed.find().as_deref(), needed.package()));
    }
    findings.extend(network());
    findings
}

/// A program of a Debian package's.
fn program(name: &str, found: Option<&Path>, package: &str) -> Finding {
    let detail = found.map_or_else(|| "not found".to_owned(), |path| path.display().to_string());
    Finding::new(name, found.is_some(), detail, &format!("apt-get install {package}"))
}

/// What containers need to reach more than each other and the host.
fn network() -> [Finding; 2] {
    [
        Finding::new(
            "nftables for IPv4",
            firewall::is_known(),
            "containers' way out, and published ports",
            "use a kernel that has them; containers and the host reach each other without",
        ),
        program(firewall::PROGRAM, firewall::find().as_deref(), firewall::PACKAGE),
    ]
}
