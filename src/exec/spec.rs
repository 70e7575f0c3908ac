//! What to run, checked: pure data, kept in the container's record.

use std::collections::BTreeMap;
use std::path::{Component, Path};

use serde::{Deserialize, Serialize};

use super::capability::Capabilities;
use super::cgroup::limits::Limits;
use super::command::DEFAULT_PATH;
use super::device::Asked;
use super::error::{Error, Result, Stage};
use super::ids::IdRange;
use super::rlimit::{Limit, OOM_SCORES};
use super::seccomp::Seccomp;

/// Bytes of a host name, the kernel's `__NEW_UTS_LEN`.
const HOSTNAME_MAX: usize = 64;

/// The network of a container. By default the safe choice.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Network {
    /// The host's.
    Host,
    /// A namespace with nothing but a loopback device.
    #[default]
    None,
    /// A namespace on the bridge, given with the run's [`super::Surroundings`].
    Bridge,
    /// The namespace of the container with this id, given likewise.
    Container(String),
}

/// A bind mount of the host's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bind {
    /// On the host, absolute.
    pub source: std::path::PathBuf,
    /// In the container, absolute.
    pub target: std::path::PathBuf,
    /// Not writable.
    pub read_only: bool,
    /// Its owners are shown as the container's users, where those are not the host's.
    #[serde(default)]
    pub map_ids: bool,
}

/// A volume of the store's, which whoever runs the spec makes a [`Bind`] of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeMount {
    /// Its name.
    pub name: String,
    /// In the container, absolute.
    pub target: std::path::PathBuf,
    /// Not writable.
    pub read_only: bool,
}

/// What to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spec {
    /// Command and arguments; never empty.
    pub args: Vec<String>,
    /// `KEY=value`, in order, no key twice.
    pub env: Vec<String>,
    /// Absolute; made if it is not there.
    pub working_dir: String,
    /// `USER[:GROUP]`, names or numbers, looked up in the image; empty for root.
    pub user: String,
    /// In the UTS namespace.
    pub hostname: String,
    /// The network.
    pub network: Network,
    /// Give the command a terminal of its own.
    pub terminal: bool,
    /// Pass standard input on.
    pub stdin: bool,
    /// The root filesystem cannot be written.
    pub read_only: bool,
    /// No masked paths, and devices open.
    pub privileged: bool,
    /// The host's numbers of the container's users; none: its users are the host's.
    #[serde(default)]
    pub ids: Option<IdRange>,
    /// Devices of the host's.
    #[serde(default)]
    pub devices: Vec<Asked>,
    /// What the command may have at most; nothing of it unless it is root.
    #[serde(default)]
    pub capabilities: Capabilities,
    /// No set-user-id program can give more.
    #[serde(default)]
    pub no_new_privileges: bool,
    /// A first process before it, which buries orphans and passes signals on.
    #[serde(default)]
    pub init: bool,
    /// Volumes, by name.
    #[serde(default)]
    pub volumes: Vec<VolumeMount>,
    /// Asks it to end; none: SIGTERM.
    #[serde(default)]
    pub stop_signal: Option<i32>,
    /// What it may use at most.
    #[serde(default)]
    pub limits: Limits,
    /// Which system calls it may make.
    #[serde(default)]
    pub seccomp: Seccomp,
    /// Resource limits besides the defaults.
    #[serde(default)]
    pub ulimits: Vec<Limit>,
    /// How soon it is killed where memory runs out: -1000 never, 1000 first; none for no later than others.
    #[serde(default)]
    pub oom_score: Option<i16>,
    /// Mounts from the host.
    pub binds: Vec<Bind>,
    /// Empty tmpfs mounts, absolute paths.
    pub tmpfs: Vec<String>,
    /// Bytes that some of them may hold at most, by path; the others as the kernel sees fit.
    #[serde(default)]
    pub tmpfs_sizes: BTreeMap<String, u64>,
}

impl Spec {
    /// A command as root in `/`, on no network, with the rights that commands have and nothing of the host's.
    pub fn new(args: Vec<String>, hostname: &str) -> Self {
        Self {
            args,
            env: vec![format!("PATH={DEFAULT_PATH}")],
            working_dir: "/".to_owned(),
            user: String::new(),
            hostname: hostname.to_owned(),
            network: Network::None,
            terminal: false,
            stdin: false,
            read_only: false,
            privileged: false,
            ids: None,
            devices: Vec::new(),
            capabilities: Capabilities::default(),
            no_new_privileges: true,
            init: false,
            volumes: Vec::new(),
            stop_signal: None,
            limits: Limits::default(),
            seccomp: Seccomp::default(),
            ulimits: Vec::new(),
            oom_score: None,
            binds: Vec::new(),
            tmpfs: Vec::new(),
            tmpfs_sizes: BTreeMap::new(),
        }
    }

    /// Whether this can be run at all; records are read by others than who wrote them.
    ///
    /// # Errors
    /// At stage [`Stage::Request`], naming the value.
    pub fn check(&self) -> Result<()> {
        let bad = |what: String| Err(Error::new(Stage::Request, what));
        if self.args.first().is_none_or(String::is_empty) {
            return bad("run nothing: no command was given, and the image has none".to_owned());
        }
        let texts = self.args.iter().chain(&self.env).chain([&self.working_dir, &self.user]);
        if let Some(text) = texts.into_iter().find(|text| text.contains('\0')) {
            return bad(format!("pass {text:?} on: it holds a zero byte"));
        }
        if let Some(entry) = self.env.iter().find(|entry| entry.find('=').is_none_or(|at| at == 0)) {
            return bad(format!("set {entry:?}: a variable is KEY=value"));
        }
        if !self.working_dir.starts_with('/') {
            return bad(format!("work in {:?}: it must be an absolute path", self.working_dir));
        }
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
        if self.hostname.is_empty() || self.hostname.len() > HOSTNAME_MAX || !self.hostname.bytes().all(fits) {
            return bad(format!(
                "use the host name {:?}: it has 1 to {HOSTNAME_MAX} letters, digits, - . and _",
                self.hostname
            ));
        }
        if let Some(score) = self.oom_score.filter(|score| !OOM_SCORES.contains(&i64::from(*score))) {
            return bad(format!(
                "set the score {score} for when memory runs out: it is -1000 to 1000"
            ));
        }
        if let Some(device) = self.devices.iter().find(|device| !device.check()) {
            return bad(format!(
                "give the device {}: it must be an absolute path",
                device.source.display()
            ));
        }
        if let Some(bind) = self.binds.iter().find(|bind| !bind.source.is_absolute()) {
            return bad(format!("mount {}: it must be an absolute path", bind.source.display()));
        }
        if let Some(ids) = self.ids {
            ids.check()?;
            if self.privileged {
                return bad(
                    "give a container the host's rights (--privileged) and users of its own (--userns auto)".to_owned(),
                );
            }
        }
        if self.ids.is_none() && self.binds.iter().any(|bind| bind.map_ids) {
            return bad(
                "map the owners of a mount (:idmap) to the host's own users: that wants --userns auto".to_owned(),
            );
        }
        self.limits.check()?;
        let targets = self
            .binds
            .iter()
            .map(|bind| bind.target.as_path())
            .chain(self.volumes.iter().map(|volume| volume.target.as_path()))
            .chain(self.devices.iter().map(|device| device.target.as_path()))
            .chain(self.tmpfs.iter().map(Path::new));
        for target in targets {
            let has_name = target.components().any(|part| matches!(part, Component::Normal(_)));
            if !target.is_absolute() || !has_name {
                return bad(format!(
                    "mount on {}: it must be an absolute path below /",
                    target.display()
                ));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain() -> Spec {
        Spec::new(vec!["sh".to_owned()], "box")
    }

    #[test]
    fn what_cannot_be_run_is_refused_before_anything_happens() {
        plain().check().unwrap();
        let bind = |source: &str, target: &str| Bind {
            source: source.into(),
            target: target.into(),
            read_only: false,
            map_ids: false,
        };
        let cases: [fn(&mut Spec); 11] = [
            |spec| spec.args.clear(),
            |spec| spec.args = vec![String::new()],
            |spec| spec.args.push("a\0b".to_owned()),
            |spec| spec.env.push("=x".to_owned()),
            |spec| spec.env.push("x".to_owned()),
            |spec| spec.working_dir = "tmp".to_owned(),
            |spec| spec.hostname = "a b".to_owned(),
            |spec| spec.hostname = "h".repeat(65),
            |spec| spec.oom_score = Some(1001),
            |spec| spec.tmpfs.push("/".to_owned()),
            |spec| spec.tmpfs.push("tmp".to_owned()),
        ];
        for (number, change) in cases.into_iter().enumerate() {
            let mut spec = plain();
            change(&mut spec);
            assert_eq!(spec.check().unwrap_err().exit_code(), 125, "case {number}");
        }
        for bind in [
            bind("srv", "/srv"),
            bind("/srv", "srv"),
            bind("/srv", "/.."),
            bind("/srv", "/"),
        ] {
            let spec = Spec {
                binds: vec![bind],
                ..plain()
            };
            assert!(spec.check().is_err(), "{:?}", spec.binds);
        }
    }
}
