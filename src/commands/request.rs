//! What `run` was asked for, over what the image says: Docker's rules, as a pure
//! function into a [`Spec`].

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::cli::RunArgs;
use crate::commands::{connection, hardening, volume};
use crate::error::{Context, Error, Result};
use crate::exec::capability::Capabilities;
use crate::exec::cgroup::io::{IoLimit, Limited};
use crate::exec::cgroup::limits::Limits;
use crate::exec::device::Asked;
use crate::exec::signals;
use crate::exec::spec::{Bind, Network, Spec, VolumeMount};
use crate::exec::{self, DEFAULT_PATH};
use crate::image::oci::RunConfig;

/// Digits of a container's id that are its host name.
const SHORT_ID: usize = 12;
/// What a terminal of plywood's understands.
const TERMINAL: &str = "xterm";

/// The spec of a run of an image with `config`; `id` is the container's.
///
/// # Errors
/// Invalid for what cannot be understood; a file of variables that cannot be read.
pub fn spec(args: &RunArgs, config: &RunConfig, id: &str) -> Result<Spec> {
    let network = connection::of_choice(&args.net);
    let hostname = args.hostname.clone().unwrap_or_else(|| default_hostname(&network, id));
    let mut asked = Vec::new();
    for file in &args.env_file {
        let text = std::fs::read_to_string(file).context("read", file)?;
        asked.extend(env_lines(&text).map(str::to_owned));
    }
    asked.extend(args.env.iter().cloned());
    let env = environment(&config.env, &asked, &hostname, args.tty, |key| std::env::var(key).ok())?;
    let capabilities = Capabilities::chosen(args.privileged, &args.cap_add, &args.cap_drop)
        .map_err(|error| Error::invalid(error.to_string()))?;
    let security = hardening::security(&args.security_opt, args.privileged, capabilities)?;
    let (mut binds, mut volumes) = (Vec::new(), Vec::new());
    for text in &args.volume {
        match mount(text)? {
            Mount::Bind(bind) => binds.push(bind),
            Mount::Volume(volume) => volumes.push(volume),
        }
    }
    let mut spec = Spec {
        args: command(config, args.entrypoint.as_deref(), &args.command),
        env,
        working_dir: working_dir(args.workdir.as_deref(), &config.working_dir)?,
        user: args.user.clone().unwrap_or_else(|| config.user.clone()),
        hostname,
        network,
        terminal: args.tty,
        stdin: args.interactive,
        read_only: args.read_only,
        privileged: args.privileged,
        // Taken when the container is recorded: only then is it known which is free.
        ids: None,
        devices: devices(&args.device)?,
        capabilities,
        no_new_privileges: security.no_new_privileges,
        seccomp: security.seccomp,
        ulimits: hardening::limits(&args.ulimit)?,
        oom_score: args.oom_score_adj,
        stop_signal: stop_signal(args.stop_signal, &config.stop_signal)?,
        limits: Limits {
            memory: args.memory,
            memory_swap: args.memory_swap,
            cpus: args.cpus,
            pids: args.pids_limit,
            io: io_limits(args)?,
            io_weight: args.blkio_weight,
        },
        init: args.init,
        volumes,
        binds,
        tmpfs: args.tmpfs.clone(),
        tmpfs_sizes: BTreeMap::new(),
    };
    spec.volumes.extend(volume::of_image(config, id, &spec));
    Ok(spec)
}

/// The devices that were asked for.
fn devices(asked: &[String]) -> Result<Vec<Asked>> {
    let device = |text: &String| {
        text.parse()
            .map_err(|error: exec::Error| Error::invalid(error.to_string()))
    };
    asked.iter().map(device).collect()
}

/// The limits of disks that were asked for.
fn io_limits(args: &RunArgs) -> Result<Vec<IoLimit>> {
    let asked = [
        (&args.device_read_bps, Limited::ReadBytes),
        (&args.device_write_bps, Limited::WriteBytes),
        (&args.device_read_iops, Limited::Reads),
        (&args.device_write_iops, Limited::Writes),
    ];
    let mut limits = Vec::new();
    for (rates, limited) in asked {
        for (device, rate) in rates {
            limits.push(IoLimit {
                device: std::path::absolute(device).context("resolve", device)?,
                limited,
                rate: *rate,
            });
        }
    }
    Ok(limits)
}

/// The variables of an env file: a line each, but for empty ones and comments.
pub fn env_lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines()
        .map(str::trim_start)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
}

/// Entrypoint and command. A command replaces the image's; an entrypoint replaces
/// the image's and makes its command meaningless; an empty one is none.
fn command(config: &RunConfig, entrypoint: Option<&str>, command: &[String]) -> Vec<String> {
    let (first, default) = match entrypoint {
        Some("") => (Vec::new(), Vec::new()),
        Some(entrypoint) => (vec![entrypoint.to_owned()], Vec::new()),
        None => (
            config.entrypoint.clone().unwrap_or_default(),
            config.cmd.clone().unwrap_or_default(),
        ),
    };
    let rest = if command.is_empty() { default } else { command.to_vec() };
    [first, rest].concat()
}

/// The variables of a step of a build, which has no host name of its own.
///
/// # Errors
/// A variable without a name.
pub fn environment_of_step(env: &[String]) -> Result<Vec<String>> {
    let mut all = environment(&[], env, "", false, |_| None)?;
    all.retain(|entry| entry != "HOSTNAME=" || env.contains(entry));
    Ok(all)
}

/// The variables of a container, for one command more in it.
///
/// # Errors
/// As for a run's.
pub fn more_environment(own: &[String], asked: &[String], terminal: bool) -> Result<Vec<String>> {
    let terminal = terminal.then(|| format!("TERM={TERMINAL}"));
    let own: Vec<String> = terminal.into_iter().chain(own.iter().cloned()).collect();
    let hostname = own
        .iter()
        .find_map(|entry| entry.strip_prefix("HOSTNAME="))
        .unwrap_or_default()
        .to_owned();
    environment(&own, asked, &hostname, false, |key| std::env::var(key).ok())
}

/// The defaults, the image's variables, what was asked for; a later one of a key replaces an earlier one.
/// A key alone takes plywood's own value, or removes it where there is none.
fn environment(
    image: &[String],
    asked: &[String],
    hostname: &str,
    terminal: bool,
    own: impl Fn(&str) -> Option<String>,
) -> Result<Vec<String>> {
    let mut env: Vec<(String, String)> = Vec::new();
    let mut set = |key: &str, value: Option<String>| {
        let place = env.iter().position(|(known, _)| known == key);
        match (place, value) {
            (Some(place), Some(value)) => env[place].1 = value,
            (None, Some(value)) => env.push((key.to_owned(), value)),
            (Some(place), None) => drop(env.remove(place)),
            (None, None) => {}
        }
    };
    set("PATH", Some(DEFAULT_PATH.to_owned()));
    set("HOSTNAME", Some(hostname.to_owned()));
    if terminal {
        set("TERM", Some(TERMINAL.to_owned()));
    }
    for entry in image {
        // An image's entry without value means nothing; it must not reach into plywood's own variables.
        if let Some((key, value)) = entry.split_once('=').filter(|(key, _)| !key.is_empty()) {
            set(key, Some(value.to_owned()));
        }
    }
    for entry in asked {
        match entry.split_once('=') {
            Some(("", _)) => {
                return Err(Error::invalid(format!("{entry:?} sets no variable"))
                    .hinted("write KEY=VALUE, or KEY to take plywood's own value"));
            }
            Some((key, value)) => set(key, Some(value.to_owned())),
            None => set(entry, own(entry)),
        }
    }
    Ok(env.into_iter().map(|(key, value)| format!("{key}={value}")).collect())
}

/// What was asked for, else what the image says.
fn stop_signal(asked: Option<i32>, image: &str) -> Result<Option<i32>> {
    if asked.is_some() || image.is_empty() {
        return Ok(asked);
    }
    let known = signals::parse(image).map(Some);
    known.ok_or_else(|| {
        Error::invalid(format!("the image's stop signal {image:?} is none"))
            .hinted("--stop-signal TERM sets another one")
    })
}

/// What was asked for, or the image's.
///
/// # Errors
/// Invalid where it is not absolute.
pub fn working_dir(asked: Option<&str>, image: &str) -> Result<String> {
    match asked {
        Some(path) if path.starts_with('/') => Ok(path.to_owned()),
        Some(path) => Err(Error::invalid(format!(
            "the working directory {path:?} is not an absolute path"
        ))),
        None if image.starts_with('/') => Ok(image.to_owned()),
        // An image's is relative to its root.
        None => Ok(format!("/{image}")),
    }
}

/// With the host's network goes the host's name, unless it is one that plywood would not set.
fn default_hostname(network: &Network, id: &str) -> String {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let is_usable = host
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_'))
        && !host.is_empty();
    match network {
        Network::Host if is_usable => host,
        _ => id.get(..SHORT_ID).unwrap_or(id).to_owned(),
    }
}

/// What `-v` mounts.
#[derive(Debug, PartialEq, Eq)]
enum Mount {
    Bind(Bind),
    Volume(VolumeMount),
}

/// `SRC:DST[:OPTIONS]`, where a source without a slash is a volume's name.
fn mount(text: &str) -> Result<Mount> {
    let bad = || {
        Error::invalid(format!("cannot understand the mount {text:?}")).hinted(
            "write SRC:DST or SRC:DST:OPTIONS with ro and idmap, as in /srv/site:/var/www:ro or data:/var/lib/data",
        )
    };
    let mut parts = text.split(':');
    let (Some(source), Some(target)) = (parts.next(), parts.next()) else {
        return Err(bad());
    };
    let (options, None) = (parts.next(), parts.next()) else {
        return Err(bad());
    };
    let (mut read_only, mut map_ids) = (false, false);
    for option in options.into_iter().flat_map(|options| options.split(',')) {
        match option {
            "rw" => read_only = false,
            "ro" => read_only = true,
            "idmap" => map_ids = true,
            _ => return Err(bad()),
        }
    }
    if source.is_empty() || !target.starts_with('/') {
        return Err(bad());
    }
    let target = PathBuf::from(target);
    if !source.contains('/') && !matches!(source, "." | "..") {
        volume::check_name(source)?;
        return Ok(Mount::Volume(VolumeMount {
            name: source.to_owned(),
            target,
            read_only,
        }));
    }
    let source = std::path::absolute(Path::new(source)).context("resolve", source)?;
    Ok(Mount::Bind(Bind {
        source,
        target,
        read_only,
        map_ids,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn entrypoint_and_command_follow_docker() {
        let config = |entrypoint: Option<&str>, cmd: Option<&str>| RunConfig {
            entrypoint: entrypoint.map(words),
            cmd: cmd.map(words),
            ..RunConfig::default()
        };
        for (entrypoint, cmd, asked_entrypoint, asked, expected) in [
            (None, Some("/bin/bash"), None, "", "/bin/bash"),
            (None, Some("/bin/bash"), None, "ls -l", "ls -l"),
            (Some("nginx -g x"), Some("-t"), None, "", "nginx -g x -t"),
            (Some("nginx"), Some("-t"), None, "-v", "nginx -v"),
            (Some("nginx"), Some("-t"), Some("sh"), "", "sh"),
            (Some("nginx"), Some("-t"), Some("sh"), "-c x", "sh -c x"),
            (Some("nginx"), Some("-t"), Some(""), "ls", "ls"),
            (Some("nginx"), Some("-t"), Some(""), "", ""),
            (None, None, None, "", ""),
        ] {
            assert_eq!(
                command(&config(entrypoint, cmd), asked_entrypoint, &words(asked)),
                words(expected),
                "{entrypoint:?} {cmd:?} {asked_entrypoint:?} {asked:?}"
            );
        }
    }

    #[test]
    fn variables_are_set_once_and_the_last_word_counts() {
        let own = |key: &str| (key == "LANG").then(|| "C.UTF-8".to_owned());
        let env = |image: &str, asked: &str| {
            environment(&words(image), &words(asked), "box", false, own).map(|env| env.join(" "))
        };
        let defaults = format!("PATH={DEFAULT_PATH} HOSTNAME=box");
        assert_eq!(env("", "").unwrap(), defaults);
        assert_eq!(env("A=1 LANG", "B=2 A=3").unwrap(), format!("{defaults} A=3 B=2"));
        assert_eq!(env("PATH=/bin A=1", "A").unwrap(), "PATH=/bin HOSTNAME=box");
        assert_eq!(env("", "LANG E=a=b").unwrap(), format!("{defaults} LANG=C.UTF-8 E=a=b"));
        assert!(env("", "=x").is_err());
        assert!(
            environment(&[], &[], "box", true, own)
                .unwrap()
                .contains(&"TERM=xterm".to_owned())
        );
    }

    #[test]
    fn a_working_directory_is_absolute() {
        for (asked, image, expected) in [
            (None, "", "/"),
            (None, "srv", "/srv"),
            (None, "/srv", "/srv"),
            (Some("/x"), "/srv", "/x"),
        ] {
            assert_eq!(working_dir(asked, image).unwrap(), expected);
        }
        assert!(working_dir(Some("x"), "/").is_err());
    }

    #[test]
    fn mounts_are_taken_apart() {
        let bind = |text| match mount(text) {
            Ok(Mount::Bind(bind)) => Ok(bind),
            other => Err(other),
        };
        let expected = |read_only| Bind {
            source: "/srv/a".into(),
            target: "/b".into(),
            read_only,
            map_ids: false,
        };
        assert_eq!(bind("/srv/a:/b").unwrap(), expected(false));
        assert_eq!(bind("/srv/a:/b:rw").unwrap(), expected(false));
        assert_eq!(bind("/srv/a:/b:ro").unwrap(), expected(true));
        let mapped = bind("/srv/a:/b:ro,idmap").unwrap();
        assert!(mapped.read_only && mapped.map_ids);
        assert!(bind("./a:/b").unwrap().source.is_absolute());
        for bad in [
            "",
            "/a",
            ":/b",
            "/a:",
            "/a:b",
            "/a:/b:rx",
            "/a:/b:ro:z",
            "/a:/b:",
            "/a:/b:ro,",
            "na me:/b",
        ] {
            assert!(mount(bad).is_err(), "{bad:?}");
        }
        let volume = VolumeMount {
            name: "name".to_owned(),
            target: "/b".into(),
            read_only: true,
        };
        assert_eq!(mount("name:/b:ro").unwrap(), Mount::Volume(volume));
    }
}
