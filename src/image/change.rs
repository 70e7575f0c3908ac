//! The Dockerfile words that `-c` takes: parsed, checked, put onto a config.
//!
//! `CMD`, `ENTRYPOINT`, `ENV`, `EXPOSE`, `LABEL`, `STOPSIGNAL`, `USER`, `VOLUME`
//! and `WORKDIR`, as Docker reads them: JSON or shell form, quotes and
//! backslashes, `$NAME`, `${NAME}`, `${NAME:-else}` and `${NAME:+then}` from the
//! config's own environment. An `ENTRYPOINT` without a `CMD` before it clears
//! the inherited `CMD`, which was meant for another program.
//!
//! Pure: text and config in, config out.

use serde_json::{Map, Value};

use super::oci::RunConfig;
use crate::error::{Error, Result};

/// One parsed change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// `CMD ["program", "word"]` or `CMD program word`.
    Cmd(Vec<String>),
    /// `ENTRYPOINT`, likewise.
    Entrypoint(Vec<String>),
    /// `ENV NAME=value …` or `ENV NAME value`: names and unexpanded values.
    Env(Vec<(String, String)>),
    /// `EXPOSE 80 53/udp 8000-8010`: unexpanded.
    Expose(Vec<String>),
    /// `LABEL name=value …`: unexpanded.
    Label(Vec<(String, String)>),
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
    /// Reads one change.
    ///
    /// # Errors
    /// Invalid for an unknown word, a missing or malformed argument.
    pub fn parse(text: &str) -> Result<Self> {
        let text = text.trim();
        let (word, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
        let rest = rest.trim();
        let bad = |why: &str| Error::invalid(format!("bad change {:?}: {why}", shown(text)));
        let change = match word.to_ascii_uppercase().as_str() {
            "CMD" => Self::Cmd(command(rest)),
            "ENTRYPOINT" => Self::Entrypoint(command(rest)),
            _ if rest.is_empty() && is_known(word) => return Err(bad("it wants an argument")),
            "ENV" => Self::Env(pairs(rest).map_err(|why| bad(&why))?),
            "LABEL" => Self::Label(pairs(rest).map_err(|why| bad(&why))?),
            "EXPOSE" => Self::Expose(words(rest).map_err(|why| bad(&why))?),
            "VOLUME" => Self::Volume(match json_words(rest) {
                Some(words) => words,
                None => words(rest).map_err(|why| bad(&why))?,
            }),
            "STOPSIGNAL" => Self::StopSignal(rest.to_owned()),
            "USER" => Self::User(rest.to_owned()),
            "WORKDIR" => Self::WorkDir(rest.to_owned()),
            _ => {
                return Err(bad("not a word that changes a config")
                    .hinted("use CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, STOPSIGNAL, USER, VOLUME or WORKDIR"));
            }
        };
        // Whatever can be wrong without the image's own values is told now.
        apply(std::slice::from_ref(&change), &mut RunConfig::default()).map_err(|cause| bad(&cause.to_string()))?;
        Ok(change)
    }

    fn apply_one(&self, config: &mut RunConfig) -> Result<()> {
        let env = config.env.clone();
        let expand = |text: &String| expand(text, &env);
        match self {
            Self::Cmd(words) => config.cmd = Some(words.clone()),
            Self::Entrypoint(words) => config.entrypoint = Some(words.clone()),
            Self::Env(pairs) => {
                for (name, value) in pairs {
                    set_env(config, &expand(name)?, &expand(value)?);
                }
            }
            Self::Label(pairs) => {
                for (name, value) in pairs {
                    config.labels.insert(expand(name)?, expand(value)?);
                }
            }
            Self::Expose(ports) => {
                for port in ports {
                    for port in exposed(&expand(port)?)? {
                        config.exposed_ports.insert(port, Value::Object(Map::new()));
                    }
                }
            }
            Self::Volume(paths) => {
                for path in paths {
                    let path = expand(path)?;
                    if path.is_empty() {
                        return Err(Error::invalid("a volume's path is empty"));
                    }
                    config.volumes.insert(path, Value::Object(Map::new()));
                }
            }
            Self::StopSignal(signal) => config.stop_signal = checked_signal(expand(signal)?)?,
            Self::User(user) => config.user = expand(user)?,
            Self::WorkDir(path) => config.working_dir = joined(&config.working_dir, &expand(path)?),
        }
        Ok(())
    }
}

/// Puts changes onto a config, in order.
///
/// # Errors
/// Invalid where an expanded value is none: the config is half changed then.
pub fn apply(changes: &[Change], config: &mut RunConfig) -> Result<()> {
    let mut cmd_is_new = false;
    for change in changes {
        change.apply_one(config)?;
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

/// JSON form as it stands; anything else goes to a shell.
fn command(rest: &str) -> Vec<String> {
    match json_words(rest) {
        Some(words) => words,
        None if rest.is_empty() => Vec::new(),
        None => vec!["/bin/sh".to_owned(), "-c".to_owned(), rest.to_owned()],
    }
}

fn json_words(rest: &str) -> Option<Vec<String>> {
    rest.starts_with('[').then(|| serde_json::from_str(rest).ok()).flatten()
}

/// Splits at white space outside quotes; quotes and backslashes stay.
fn words(text: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut quote = None;
    let mut chars = text.chars();
    while let Some(char) = chars.next() {
        match (char, quote) {
            ('\\', None | Some('"')) => {
                word.push(char);
                word.extend(chars.next());
                continue;
            }
            ('\'' | '"', None) => quote = Some(char),
            (_, Some(open)) if open == char => quote = None,
            (_, None) if char.is_whitespace() => {
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
                continue;
            }
            _ => {}
        }
        word.push(char);
    }
    if let Some(open) = quote {
        return Err(format!("the quote {open} is not closed"));
    }
    if !word.is_empty() {
        words.push(word);
    }
    Ok(words)
}

/// `NAME=value NAME=value`, or the old `NAME value` where the first word has no `=`.
fn pairs(text: &str) -> Result<Vec<(String, String)>, String> {
    let all = words(text)?;
    let first = all.first().map_or("", String::as_str);
    if !first.contains('=') {
        let value = text.get(first.len()..).unwrap_or_default().trim();
        if value.is_empty() {
            return Err("it wants NAME=value".to_owned());
        }
        return Ok(vec![(first.to_owned(), value.to_owned())]);
    }
    all.iter()
        .map(|word| match word.split_once('=') {
            Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
            _ => Err(format!("{word:?} is not NAME=value")),
        })
        .collect()
}

/// Takes quotes and backslashes away and puts variables in, as Docker does.
fn expand(text: &str, env: &[String]) -> Result<String> {
    let mut out = String::new();
    let mut quote = None;
    let mut rest = text.chars().peekable();
    while let Some(char) = rest.next() {
        match (char, quote) {
            ('\'', None) => quote = Some('\''),
            ('"', None) => quote = Some('"'),
            (_, Some(open)) if open == char => quote = None,
            ('\\', None) => out.extend(rest.next()),
            // Inside double quotes a backslash only protects what would mean something there.
            ('\\', Some('"')) => match rest.next_if(|next| matches!(next, '"' | '$' | '\\')) {
                Some(next) => out.push(next),
                None => out.push('\\'),
            },
            ('$', None | Some('"')) => out.push_str(&variable(&mut rest, env)?),
            _ => out.push(char),
        }
    }
    match quote {
        Some(open) => Err(Error::invalid(format!(
            "the quote {open} is not closed in {:?}",
            shown(text)
        ))),
        None => Ok(out),
    }
}

type Chars<'a> = std::iter::Peekable<std::str::Chars<'a>>;

/// What follows a `$`.
fn variable(rest: &mut Chars<'_>, env: &[String]) -> Result<String> {
    let braced = rest.next_if_eq(&'{').is_some();
    let mut name = String::new();
    while let Some(char) = rest.next_if(|char| char.is_ascii_alphanumeric() || *char == '_') {
        name.push(char);
    }
    let value = env.iter().find_map(|pair| pair.strip_prefix(&name)?.strip_prefix('='));
    if !braced {
        return Ok(if name.is_empty() {
            "$".to_owned()
        } else {
            value.unwrap_or_default().to_owned()
        });
    }
    let bad = || {
        Error::invalid(format!(
            "bad substitution of ${{{name}…}}: use ${{NAME}}, ${{NAME:-else}} or ${{NAME:+then}}"
        ))
    };
    if name.is_empty() {
        return Err(bad());
    }
    let set = value.filter(|value| !value.is_empty());
    match (rest.next(), rest.peek()) {
        (Some('}'), _) => Ok(value.unwrap_or_default().to_owned()),
        (Some(':'), Some(&kind @ ('-' | '+'))) => {
            rest.next();
            let mut word = String::new();
            loop {
                match rest.next().ok_or_else(bad)? {
                    '}' => break,
                    char => word.push(char),
                }
            }
            let word = expand(&word, env)?;
            Ok(match (kind, set) {
                ('-', Some(value)) => value.to_owned(),
                ('-', None) | ('+', Some(_)) => word,
                _ => String::new(),
            })
        }
        _ => Err(bad()),
    }
}

fn set_env(config: &mut RunConfig, name: &str, value: &str) {
    let pair = format!("{name}={value}");
    match config
        .env
        .iter_mut()
        .find(|old| old.split_once('=').map_or(old.as_str(), |(name, _)| name) == name)
    {
        Some(old) => *old = pair,
        None => config.env.push(pair),
    }
}

/// `80`, `80/udp`, `8000-8010/tcp` into `port/protocol`, one each.
fn exposed(text: &str) -> Result<Vec<String>> {
    let bad = || {
        Error::invalid(format!(
            "not a port: {:?} (wanted PORT[-PORT][/tcp|/udp|/sctp])",
            shown(text)
        ))
    };
    let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
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

/// A working directory, relative to the one before, without `.` and `..`.
fn joined(before: &str, path: &str) -> String {
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
            "EXPOSE 80 53/UDP 8000-8002",
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
            "ENV A=${x?y}",
            "USER",
            "WORKDIR ",
            "VOLUME",
            r#"VOLUME [""]"#,
        ] {
            assert!(Change::parse(bad).is_err(), "{bad}");
        }
    }
}
