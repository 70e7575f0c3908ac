//! Build arguments: those given, those known without `ARG`, and the global ones before the first `FROM`.

use std::collections::{BTreeMap, BTreeSet};

use super::syntax::{Argument, Dockerfile, Word};
use crate::error::Result;
use crate::image::oci;
use crate::image::words;

/// Given without `ARG`, for commands to see: in both cases of letters.
const PROXIES: [&str; 5] = ["http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy"];
/// Of these too Docker wants no `ARG`.
const QUIET: [&str; 1] = ["SOURCE_DATE_EPOCH"];

/// What `FROM` and each stage's `ARG` can see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Globals {
    /// The escape character of the file.
    pub escape: char,
    /// `--build-arg`.
    given: BTreeMap<String, String>,
    /// The platform's, and those of `ARG` before the first `FROM` that have a value.
    values: BTreeMap<String, String>,
}

impl Globals {
    /// Evaluates the global `ARG`s; `target` is the stage that was asked for.
    ///
    /// # Errors
    /// Invalid where a default value cannot be expanded.
    pub fn new(file: &Dockerfile, given: &BTreeMap<String, String>, target: Option<&str>) -> Result<Self> {
        let last = file.stages.last().and_then(|stage| stage.name.as_deref());
        let mut globals = Self {
            escape: file.escape,
            given: given.clone(),
            values: platform(target.or(last).unwrap_or("default")),
        };
        for (name, value) in &mut globals.values {
            if let Some(given) = given.get(name) {
                value.clone_from(given);
            }
        }
        for (origin, argument) in &file.global_args {
            let value = match (given.get(&argument.name), &argument.value) {
                (Some(given), _) => given.clone(),
                (None, Some(default)) => globals.expand(default).map_err(|cause| {
                    let word = format!("{}={default}", argument.name);
                    super::state::pointed(origin, &word, &cause)
                })?,
                (None, None) => continue,
            };
            globals.values.insert(argument.name.clone(), value);
        }
        Ok(globals)
    }

    /// A word of a `FROM`, its variables put in.
    ///
    /// # Errors
    /// Invalid where it cannot be expanded.
    pub fn expand(&self, word: &str) -> Result<String> {
        words::expand(word, self.escape, &|name| self.values.get(name).cloned())
    }

    /// What a stage's `ARG` comes to; `expand` puts the stage's variables into a default. None where it has
    /// no value.
    pub(super) fn value(&self, argument: &Argument, expand: impl Fn(&str) -> Result<String>) -> Result<Option<String>> {
        if let Some(given) = self.given.get(&argument.name) {
            return Ok(Some(given.clone()));
        }
        match &argument.value {
            Some(default) => expand(default).map(Some),
            None => Ok(self.values.get(&argument.name).cloned()),
        }
    }

    /// Proxies that were given, as `NAME=value`, each in both cases of letters.
    pub(super) fn proxies(&self) -> Vec<String> {
        let mut proxies = Vec::new();
        for proxy in PROXIES {
            let mut given = self.given.iter().filter(|(name, _)| name.eq_ignore_ascii_case(proxy));
            if let Some((_, value)) = given.next() {
                proxies.push(format!("{}={value}", proxy.to_ascii_uppercase()));
                proxies.push(format!("{proxy}={value}"));
            }
        }
        proxies
    }

    /// Given arguments that no `ARG` of the file declares, and that mean nothing without.
    pub fn unused(&self, file: &Dockerfile) -> Vec<String> {
        let mut declared: BTreeSet<&str> = file.global_args.iter().map(|(_, argument)| &*argument.name).collect();
        for instruction in file.stages.iter().flat_map(|stage| &stage.instructions) {
            if let Word::Arg(arguments) = &instruction.word {
                declared.extend(arguments.iter().map(|argument| argument.name.as_str()));
            }
        }
        let means_something = |name: &str| {
            PROXIES.iter().any(|proxy| proxy.eq_ignore_ascii_case(name))
                || QUIET.contains(&name)
                || name.starts_with("BUILDKIT_")
                || platform("").contains_key(name)
        };
        let unused = self
            .given
            .keys()
            .filter(|name| !declared.contains(name.as_str()) && !means_something(name));
        unused.cloned().collect()
    }
}

/// What BuildKit knows of the machine and the build: there is one platform here.
fn platform(stage: &str) -> BTreeMap<String, String> {
    let architecture = oci::architecture();
    let mut values = BTreeMap::from([("TARGETSTAGE".to_owned(), stage.to_owned())]);
    for side in ["BUILD", "TARGET"] {
        for (what, value) in [
            ("PLATFORM", format!("linux/{architecture}").as_str()),
            ("OS", "linux"),
            ("OSVERSION", ""),
            ("ARCH", architecture),
            ("VARIANT", ""),
        ] {
            values.insert(format!("{side}{what}"), value.to_owned());
        }
    }
    values
}
