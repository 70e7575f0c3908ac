//! Dockerfile words that change a config: what `-c` takes, and what a build comes to.
//!
//! A change is parsed ([`Change::parse`]), gets its variables and the config's shell ([`Change::resolved`]), and
//! is then put onto the config ([`Change::put`]), all as Docker does it: JSON or shell form, quotes, escapes
//! and variables as [`words`] has them. An `ENTRYPOINT` without a `CMD` before it clears the inherited `CMD`,
//! which was meant for another program.
//!
//! Pure: text and config in, config out.

use std::cell::Cell;
use std::time::Duration;

use serde_json::{Map, Value};

use super::oci::RunConfig;
use super::words::{self, Lookup};
use crate::error::{Error, Result};

/// Bytes that all expanded values of one change may have together.
const TOTAL_MAX: usize = 4 << 20;
/// All ports of all protocols.
const PORTS_MAX: usize = 3 * 65_536;

/// The shell where the config names none.
pub const SHELL: [&str; 2] = ["/bin/sh", "-c"];

/// The two forms of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// For the shell of the config.
    Shell(String),
    /// Words, as they are.
    Exec(Vec<String>),
}

impl Command {
    /// JSON form as it stands; anything else goes to a shell.
    fn parse(text: &str) -> Self {
        match json_words(text) {
            Some(words) => Self::Exec(words),
            None if text.is_empty() => Self::Exec(Vec::new()),
            None => Self::Shell(text.to_owned()),
        }
    }

    /// The program and its words.
    pub fn words(&self, config: &RunConfig) -> Vec<String> {
        match self {
            Self::Exec(words) => words.clone(),
            Self::Shell(line) => {
                let mut words = shell(config);
                words.push(line.clone());
                words
            }
        }
    }
}

/// A health check, as `HEALTHCHECK` has it; what is none is the runtime's to choose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Healthcheck {
    /// Tells by its exit code.
    pub command: Command,
    /// Time from one to the next.
    pub interval: Option<Duration>,
    /// Time that one may take.
    pub timeout: Option<Duration>,
    /// Time after the start in which failures do not count.
    pub start_period: Option<Duration>,
    /// Time from one to the next in the start period.
    pub start_interval: Option<Duration>,
    /// Failures in a row that count.
    pub retries: Option<u32>,
}

/// One parsed change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// `CMD ["program", "word"]` or `CMD program word`.
    Cmd(Command),
    /// `ENTRYPOINT`, likewise.
    Entrypoint(Command),
    /// `ENV NAME=value …` or `ENV NAME value`: names and unexpanded values.
    Env(Vec<(String, String)>),
    /// `EXPOSE 80 53/udp 8000-8010`: unexpanded.
    Expose(Vec<String>),
    /// `HEALTHCHECK`; none for `NONE`, which also turns an inherited one off.
    Healthcheck(Option<Healthcheck>),
    /// `LABEL name=value …`: unexpanded.
    Label(Vec<(String, String)>),
    /// `ONBUILD`: an instruction for those who build on the image.
    Onbuild(String),
    /// `SHELL ["program", "word"]`.
    Shell(Vec<String>),
    /// `STOPSIGNAL SIGQUIT`: unexpanded.
    StopSignal(String),
    /// `USER name[:group]`: unexpanded.
    User(String),
    /// `VOLUME ["/data"]` or `VOLUME /data /log`: unexpanded.
    Volume(Vec<String>),
    /// `WORKDIR /path`: unexpanded.
    WorkDir(String),
}

impl Change {
    /// Reads one change, as `-c` has it.
    ///
    /// # Errors
    /// Invalid for an unknown word, a missing or malformed argument.
    pub fn parse(text: &str) -> Result<Self> {
        let text = text.trim();
        let (word, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
        let rest = rest.trim();
        let bad = |why: &str| Error::invalid(format!("bad change {:?}: {why}", shown(text)));
        let split = || {
            words::split(rest, '\\')
                .into_iter()
                .map(|at| rest[at].to_owned())
                .collect()
        };
        let change = match word.to_ascii_uppercase().as_str() {
            "CMD" => Self::Cmd(Command::parse(rest)),
            "ENTRYPOINT" => Self::Entrypoint(Command::parse(rest)),
            _ if rest.is_empty() && is_known(word) => return Err(bad("it wants an argument")),
            "ENV" => Self::Env(words::pairs(rest, '\\').map_err(|(_, why)| bad(&why))?),
            "LABEL" => Self::Label(words::pairs(rest, '\\').map_err(|(_, why)| bad(&why))?),
            "EXPOSE" => Self::Expose(split()),
            "VOLUME" => Self::Volume(json_words(rest).unwrap_or_else(split)),
            "STOPSIGNAL" => Self::StopSignal(rest.to_owned()),
            "USER" => Self::User(rest.to_owned()),
            "WORKDIR" => Self::WorkDir(rest.to_owned()),
            _ => {
                return Err(bad("not a word that changes a config")
                    .hinted("use CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, STOPSIGNAL, USER, VOLUME or WORKDIR"));
            }
        };
        change.check().map_err(|cause| bad(&cause.to_string()))?;
        Ok(change)
    }

    /// Whatever can be wrong without the image's own values is told now.
    fn check(&self) -> Result<()> {
        let mut has_variables = false;
        for text in self.texts() {
            has_variables |= text.contains('$');
            words::check(text, '\\').map_err(Error::invalid)?;
        }
        if !has_variables {
            self.resolved(&RunConfig::default(), '\\', &|_| None)?;
        }
        Ok(())
    }

    /// What variables are put into.
    pub fn texts(&self) -> Vec<&str> {
        match self {
            Self::Env(pairs) | Self::Label(pairs) => {
                pairs.iter().flat_map(|(name, value)| [name.as_str(), value]).collect()
            }
            Self::Expose(texts) | Self::Volume(texts) => texts.iter().map(String::as_str).collect(),
            Self::StopSignal(text) | Self::User(text) | Self::WorkDir(text) => vec![text],
            Self::Cmd(_) | Self::Entrypoint(_) | Self::Healthcheck(_) | Self::Onbuild(_) | Self::Shell(_) => Vec::new(),
        }
    }

    /// The same with variables, shell and working directory put in; all of it sees the values from before it.
    ///
    /// # Errors
    /// Invalid where an expanded value is none.
    pub fn resolved(&self, config: &RunConfig, escape: char, lookup: &Lookup) -> Result<Self> {
        let room = Cell::new(TOTAL_MAX);
        let spend = |text: String| {
            let left = room.get().checked_sub(text.len());
            room.set(left.ok_or_else(|| Error::invalid(format!("all values are more than {TOTAL_MAX} bytes")))?);
            Ok(text)
        };
        let expand = |text: &String| spend(words::expand(text, escape, lookup)?);
        let pairs = |pairs: &[(String, String)]| -> Result<Vec<_>> {
            let named = |(name, value): &(String, String)| Ok((named(expand(name)?)?, expand(value)?));
            pairs.iter().map(named).collect()
        };
        Ok(match self {
            Self::Cmd(command) => Self::Cmd(Command::Exec(command.words(config))),
            Self::Entrypoint(command) => Self::Entrypoint(Command::Exec(command.words(config))),
            Self::Env(env) => Self::Env(pairs(env)?),
            Self::Label(labels) => Self::Label(pairs(labels)?),
            Self::Expose(ports) => {
                let mut all = Vec::new();
                for port in ports {
                    for port in words::expand_words(port, escape, lookup)? {
                        all.extend(exposed(&spend(port)?)?);
                        if all.len() > PORTS_MAX {
                            return Err(Error::invalid("more ports than there are"));
                        }
                    }
                }
                Self::Expose(all)
            }
            Self::Volume(paths) => {
                let paths: Vec<String> = paths.iter().map(expand).collect::<Result<_>>()?;
                if paths.iter().any(String::is_empty) {
                    return Err(Error::invalid("a volume's path is empty"));
                }
                Self::Volume(paths)
            }
            Self::StopSignal(signal) => Self::StopSignal(checked_signal(expand(signal)?)?),
            Self::User(user) => Self::User(expand(user)?),
            Self::WorkDir(path) => Self::WorkDir(joined(&config.working_dir, &expand(path)?)),
            Self::Healthcheck(_) | Self::Onbuild(_) | Self::Shell(_) => self.clone(),
        })
    }

    /// Puts a resolved change onto a config.
    pub fn put(&self, config: &mut RunConfig) {
        let marks = |names: &[String]| -> Vec<(String, Value)> {
            names
                .iter()
                .map(|name| (name.clone(), Value::Object(Map::new())))
                .collect()
        };
        match self {
            Self::Cmd(command) => config.cmd = Some(command.words(config)),
            Self::Entrypoint(command) => config.entrypoint = Some(command.words(config)),
            Self::Env(pairs) => pairs
                .iter()
                .for_each(|(name, value)| set_env(&mut config.env, name, value)),
            Self::Label(pairs) => config.labels.extend(pairs.iter().cloned()),
            Self::Expose(ports) => config.exposed_ports.extend(marks(ports)),
            Self::Volume(paths) => config.volumes.extend(marks(paths)),
            Self::StopSignal(signal) => config.stop_signal.clone_from(signal),
            Self::User(user) => config.user.clone_from(user),
            Self::WorkDir(path) => config.working_dir.clone_from(path),
            Self::Healthcheck(check) => {
                config
                    .other
                    .insert("Healthcheck".to_owned(), healthcheck_value(check.as_ref()));
            }
            Self::Shell(words) => {
                config.other.insert("Shell".to_owned(), Value::from(words.clone()));
            }
            Self::Onbuild(text) => match config.other.get_mut("OnBuild") {
                Some(Value::Array(triggers)) => triggers.push(Value::from(text.clone())),
                _ => drop(
                    config
                        .other
                        .insert("OnBuild".to_owned(), Value::from(vec![text.clone()])),
                ),
            },
        }
    }
}

/// Puts changes onto a config, in order, with its own environment for the variables.
///
/// # Errors
/// Invalid where an expanded value is none: the config is half changed then.
pub fn apply(changes: &[Change], config: &mut RunConfig) -> Result<()> {
    apply_with(changes, config, '\\', &|_| None)
}

/// As [`apply`], with another escape character, and variables beside the config's, which has the last word.
///
/// # Errors
/// As [`apply`].
pub fn apply_with(changes: &[Change], config: &mut RunConfig, escape: char, beside: &Lookup) -> Result<()> {
    let mut cmd_is_new = false;
    for change in changes {
        let lookup = |name: &str| get_env(&config.env, name).map(str::to_owned).or_else(|| beside(name));
        let resolved = change.resolved(config, escape, &lookup)?;
        resolved.put(config);
        match change {
            Change::Cmd(_) => cmd_is_new = true,
            Change::Entrypoint(_) if !cmd_is_new => config.cmd = None,
            _ => {}
        }
    }
    Ok(())
}

fn is_known(word: &str) -> bool {
    ["ENV", "LABEL", "EXPOSE", "VOLUME", "STOPSIGNAL", "USER", "WORKDIR"].contains(&word.to_ascii_uppercase().as_str())
}

fn shown(text: &str) -> String {
    text.chars().take(200).collect()
}

fn json_words(rest: &str) -> Option<Vec<String>> {
    rest.starts_with('[').then(|| serde_json::from_str(rest).ok()).flatten()
}

/// The shell of a config: `Shell`, where it is a list of words and not an empty one.
pub fn shell(config: &RunConfig) -> Vec<String> {
    let own = config.other.get("Shell").and_then(Value::as_array);
    let own = own.and_then(|words| words.iter().map(|word| Some(word.as_str()?.to_owned())).collect());
    match own {
        Some(words) if !Vec::is_empty(&words) => words,
        _ => SHELL.map(str::to_owned).to_vec(),
    }
}

/// A health check in Docker's JSON, times in nanoseconds: what is not given is left out.
fn healthcheck_value(check: Option<&Healthcheck>) -> Value {
    let mut fields = Map::new();
    let Some(check) = check else {
        fields.insert("Test".to_owned(), Value::from(vec!["NONE"]));
        return Value::Object(fields);
    };
    fields.insert("Test".to_owned(), Value::from(check.test()));
    for (name, time) in [
        ("Interval", check.interval),
        ("Timeout", check.timeout),
        ("StartPeriod", check.start_period),
        ("StartInterval", check.start_interval),
    ] {
        // 292 years are the most that Docker can say.
        let nanoseconds = time.map(|time| i64::try_from(time.as_nanos()).unwrap_or(i64::MAX));
        if let Some(nanoseconds) = nanoseconds.filter(|time| *time != 0) {
            fields.insert(name.to_owned(), Value::from(nanoseconds));
        }
    }
    if let Some(retries) = check.retries.filter(|retries| *retries != 0) {
        fields.insert("Retries".to_owned(), Value::from(retries));
    }
    Value::Object(fields)
}

impl Healthcheck {
    /// The command in Docker's words: `CMD-SHELL` is for the config's shell, which the runtime puts before it.
    pub fn test(&self) -> Vec<String> {
        match &self.command {
            Command::Shell(line) => vec!["CMD-SHELL".to_owned(), line.clone()],
            Command::Exec(words) => std::iter::once("CMD".to_owned()).chain(words.iter().cloned()).collect(),
        }
    }
}

/// A variable's or label's name, which has to be one.
fn named(name: String) -> Result<String> {
    if name.is_empty() || name.contains('\0') {
        return Err(Error::invalid(format!("not a name: {name:?}")));
    }
    Ok(name)
}

/// The value of a variable in `NAME=value` pairs.
pub fn get_env<'a>(env: &'a [String], name: &str) -> Option<&'a str> {
    env.iter().find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
}

/// Sets a variable in `NAME=value` pairs, where it stands or at the end.
pub fn set_env(env: &mut Vec<String>, name: &str, value: &str) {
    let pair = format!("{name}={value}");
    let is_it = |old: &&mut String| {
        let rest = old.strip_prefix(name);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('='))
    };
    match env.iter_mut().find(is_it) {
        Some(old) => *old = pair,
        None => env.push(pair),
    }
}

/// `80`, `80/udp`, `8000-8010/tcp` into `port/protocol`, one each. What is published where, before a `:`, is
/// passed over, as Docker does.
fn exposed(text: &str) -> Result<Vec<String>> {
    let bad = || {
        Error::invalid(format!(
            "not a port: {:?} (wanted PORT[-PORT][/tcp|/udp|/sctp])",
            shown(text)
        ))
    };
    let inner = text.rsplit_once(':').map_or(text, |(_, inner)| inner);
    let (ports, protocol) = inner.split_once('/').unwrap_or((inner, "tcp"));
    let protocol = protocol.to_ascii_lowercase();
    if !["tcp", "udp", "sctp"].contains(&protocol.as_str()) {
        return Err(bad());
    }
    let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
    let port = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0).ok_or_else(bad);
    let (first, last) = (port(first)?, port(last)?);
    if first > last {
        return Err(bad());
    }
    Ok((first..=last).map(|port| format!("{port}/{protocol}")).collect())
}

fn checked_signal(text: String) -> Result<String> {
    let upper = text.to_ascii_uppercase();
    let is_number = text.parse::<u8>().is_ok_and(|number| (1..=64).contains(&number));
    let full = if upper.starts_with("SIG") {
        upper.clone()
    } else {
        format!("SIG{upper}")
    };
    // The real-time signals have names that nix does not know.
    let is_real_time = ["SIGRTMIN", "SIGRTMAX"].iter().any(|base| {
        full.strip_prefix(base).is_some_and(|offset| {
            offset.is_empty() || offset.parse::<i8>().is_ok_and(|offset| (-30..=30).contains(&offset))
        })
    });
    if is_number || is_real_time || full.parse::<nix::sys::signal::Signal>().is_ok() {
        return Ok(text);
    }
    Err(Error::invalid(format!("not a signal: {:?}", shown(&text))))
}

/// A path in the root, relative to the one before, without `.` and `..`.
pub fn joined(before: &str, path: &str) -> String {
    let whole = if path.starts_with('/') {
        path.to_owned()
    } else {
        format!("{before}/{path}")
    };
    let mut parts: Vec<&str> = Vec::new();
    for part in whole.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(changes: &[&str]) -> RunConfig {
        let changes: Vec<Change> = changes.iter().map(|text| Change::parse(text).unwrap()).collect();
        let mut config = RunConfig {
            env: vec!["PATH=/bin".into(), "EMPTY=".into()],
            cmd: Some(vec!["old".into()]),
            ..RunConfig::default()
        };
        apply(&changes, &mut config).unwrap();
        config
    }

    #[test]
    fn commands_have_two_forms() {
        let text = |words: &[&str]| Some(words.iter().map(ToString::to_string).collect::<Vec<_>>());
        for (change, cmd) in [
            (r#"CMD ["/bin/bash"]"#, text(&["/bin/bash"])),
            (r#"cmd   [ "a", "b c" ]  "#, text(&["a", "b c"])),
            ("CMD echo $PATH 'x y'", text(&["/bin/sh", "-c", "echo $PATH 'x y'"])),
            ("CMD []", text(&[])),
            ("CMD", text(&[])),
            ("CMD [unquoted]", text(&["/bin/sh", "-c", "[unquoted]"])),
        ] {
            assert_eq!(changed(&[change]).cmd, cmd, "{change}");
        }
    }

    #[test]
    fn an_entrypoint_clears_only_an_inherited_cmd() {
        assert_eq!(changed(&[r#"ENTRYPOINT ["x"]"#]).cmd, None);
        assert_eq!(
            changed(&[r#"CMD ["y"]"#, r#"ENTRYPOINT ["x"]"#]).cmd,
            Some(vec!["y".into()])
        );
        assert_eq!(
            changed(&[r#"ENTRYPOINT ["x"]"#, r#"CMD ["y"]"#]).cmd,
            Some(vec!["y".into()])
        );
    }

    #[test]
    fn env_is_split_quoted_and_expanded() {
        for (change, pair) in [
            ("ENV A=b", "A=b"),
            ("ENV A=\"b c\"", "A=b c"),
            ("ENV A='b $PATH'", "A=b $PATH"),
            (r"ENV A=b\ c", "A=b c"),
            ("ENV A b c", "A=b c"),
            ("ENV A=$PATH:/x", "A=/bin:/x"),
            ("ENV A=${PATH}x", "A=/binx"),
            ("ENV A=${NONE:-else}", "A=else"),
            ("ENV A=${EMPTY:-else}", "A=else"),
            ("ENV A=${PATH:+then}", "A=then"),
            ("ENV A=${NONE:+then}", "A="),
            (r"ENV A=\$PATH", "A=$PATH"),
            (r#"ENV A="\$x \"q\" \n""#, r#"A=$x "q" \n"#),
            ("ENV A=", "A="),
            ("ENV A=b=c", "A=b=c"),
            ("ENV A=5$", "A=5$"),
        ] {
            assert_eq!(changed(&[change]).env.last().unwrap(), pair, "{change}");
        }
        assert_eq!(
            changed(&["ENV X=1 PATH=/usr/bin Y=2"]).env,
            ["PATH=/usr/bin", "EMPTY=", "X=1", "Y=2"]
        );
    }

    #[test]
    fn the_other_words_reach_their_fields() {
        let config = changed(&[
            "EXPOSE 80 53/UDP 127.0.0.1:9:8000-8002",
            "LABEL a=b \"c d\"='e f'",
            "USER ops:adm",
            "WORKDIR /srv",
            "WORKDIR www/../web",
            "VOLUME /a /b",
            r#"VOLUME ["/c d"]"#,
            "STOPSIGNAL SIGQUIT",
        ]);
        assert_eq!(
            config.exposed_ports.keys().collect::<Vec<_>>(),
            ["53/udp", "80/tcp", "8000/tcp", "8001/tcp", "8002/tcp"]
        );
        assert_eq!(
            config
                .labels
                .iter()
                .map(|(name, value)| format!("{name}|{value}"))
                .collect::<Vec<_>>(),
            ["a|b", "c d|e f"]
        );
        assert_eq!(
            (
                config.user.as_str(),
                config.working_dir.as_str(),
                config.stop_signal.as_str()
            ),
            ("ops:adm", "/srv/web", "SIGQUIT")
        );
        assert_eq!(config.volumes.keys().collect::<Vec<_>>(), ["/a", "/b", "/c d"]);
        for signal in ["9", "TERM", "SIGRTMIN+3", "sigint"] {
            assert_eq!(changed(&[&format!("STOPSIGNAL {signal}")]).stop_signal, signal);
        }
    }

    #[test]
    fn the_words_of_builds_have_dockers_json() {
        let mut config = RunConfig::default();
        let check = |retries| Healthcheck {
            command: Command::Shell("x".into()),
            interval: Some(Duration::from_secs(90)),
            timeout: Some(Duration::ZERO),
            start_period: None,
            start_interval: Some(Duration::MAX),
            retries,
        };
        let changes = [
            Change::Shell(vec!["bash".into(), "-c".into()]),
            Change::Cmd(Command::Shell("a b".into())),
            Change::Healthcheck(Some(check(Some(3)))),
            Change::Onbuild("RUN a".into()),
            Change::Onbuild("RUN b".into()),
        ];
        apply(&changes, &mut config).unwrap();
        assert_eq!(config.cmd, Some(vec!["bash".into(), "-c".into(), "a b".into()]));
        assert_eq!(
            serde_json::to_string(&config.other).unwrap(),
            format!(
                r#"{{"Healthcheck":{{"Interval":90000000000,"Retries":3,"StartInterval":{},"Test":["CMD-SHELL","x"]}},"OnBuild":["RUN a","RUN b"],"Shell":["bash","-c"]}}"#,
                i64::MAX
            )
        );
        apply(&[Change::Healthcheck(None)], &mut config).unwrap();
        assert_eq!(config.other["Healthcheck"].to_string(), r#"{"Test":["NONE"]}"#);
    }

    #[test]
    fn variables_come_from_the_config_before_the_arguments() {
        let mut config = RunConfig {
            env: vec!["A=own".into()],
            ..RunConfig::default()
        };
        let beside = |name: &str| ["A", "B"].contains(&name).then(|| "beside".to_owned());
        let env = Change::Env(vec![("C".into(), "$A-$B-$C`$A".into()), ("B".into(), "$C.".into())]);
        apply_with(&[env], &mut config, '`', &beside).unwrap();
        assert_eq!(config.env, ["A=own", "C=own-beside-$A", "B=."]);
    }

    #[test]
    fn bad_changes_name_what_is_wrong() {
        for bad in [
            "",
            "RUN x",
            "FROM x",
            "ENV",
            "ENV A",
            "ENV A=1 B",
            "ENV =x",
            "ENV A=\"x",
            "LABEL",
            "EXPOSE x",
            "EXPOSE 0",
            "EXPOSE 70000",
            "EXPOSE 9-8",
            "EXPOSE 80/icmp",
            "STOPSIGNAL NOPE",
            "STOPSIGNAL 65",
            "ENV A=${",
            "ENV A=${x",
            "ENV A=${x:-",
            "ENV A=${x=y}",
            "USER",
            "WORKDIR ",
            "VOLUME",
            r#"VOLUME [""]"#,
        ] {
            assert!(Change::parse(bad).is_err(), "{bad}");
        }
    }
}
