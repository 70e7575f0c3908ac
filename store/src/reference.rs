//! Names of images: `[host[:port]/]name[:tag][@digest]`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{Digest, Error, Result};

/// Bytes that a repository name may have, the distribution specification's limit.
const REPOSITORY_MAX: usize = 255;
/// Bytes that a tag may have, the distribution specification's limit.
const TAG_MAX: usize = 128;

/// The tag of a name that has none.
pub const LATEST: &str = "latest";

/// A checked image name. The tag is always there; the digest pins a manifest.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    repository: String,
    tag: String,
    digest: Option<Digest>,
}

impl Reference {
    /// Host and path, without tag.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag, `latest` where none was given.
    pub fn tag(&self) -> &str {
        &self.tag
    }

    /// The digest of the manifest that the name is pinned to.
    pub fn digest(&self) -> Option<Digest> {
        self.digest
    }

    /// The name without a digest, as records keep it.
    #[must_use]
    pub fn without_digest(mut self) -> Self {
        self.digest = None;
        self
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.repository, self.tag)?;
        match self.digest {
            Some(digest) => write!(f, "@{digest}"),
            None => Ok(()),
        }
    }
}

impl FromStr for Reference {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad = |why: &str| {
            Error::invalid(format!(
                "not an image name: {:?}: {why}",
                text.chars().take(300).collect::<String>()
            ))
            .hinted(
                "names look like [host[:port]/]name[:tag], in lower case, as in ops-nginx or localhost:5000/web:1.2",
            )
        };
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest.parse::<Digest>()?)),
            None => (text, None),
        };
        // A colon before the last slash belongs to the host's port.
        let path_from = rest.rfind('/').map_or(0, |slash| slash + 1);
        let (repository, tag) = match rest[path_from..].split_once(':') {
            Some((name, tag)) => (&rest[..path_from + name.len()], tag),
            None => (rest, LATEST),
        };
        if repository.is_empty() || repository.len() > REPOSITORY_MAX {
            return Err(bad("the name has 1 to 255 characters"));
        }
        let mut components = repository.split('/');
        let first = components.next().unwrap_or_default();
        let has_path = repository.len() > first.len();
        let is_host = has_path && (first.contains(['.', ':']) || first == "localhost");
        if !(if is_host {
            host_is_valid(first)
        } else {
            component_is_valid(first)
        }) || !components.all(component_is_valid)
        {
            return Err(bad(
                "its parts are lower-case letters and digits, joined by single . _ __ or -",
            ));
        }
        if !tag_is_valid(tag) {
            return Err(bad(
                "a tag is up to 128 letters, digits, . _ and -, and does not start with . or -",
            ));
        }
        Ok(Self {
            repository: repository.to_owned(),
            tag: tag.to_owned(),
            digest,
        })
    }
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`, as the distribution specification has it.
fn component_is_valid(component: &str) -> bool {
    let alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = component.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else {
        return false;
    };
    if !alphanumeric(*first) || !alphanumeric(*last) {
        return false;
    }
    bytes
        .split(|byte| alphanumeric(*byte))
        .all(|separator| matches!(separator, b"" | b"." | b"_" | b"__") || separator.iter().all(|byte| *byte == b'-'))
}

fn host_is_valid(host: &str) -> bool {
    let (name, port) = host
        .split_once(':')
        .map_or((host, None), |(name, port)| (name, Some(port)));
    let label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    name.split('.').all(label) && port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0))
}

fn tag_is_valid(tag: &str) -> bool {
    (1..=TAG_MAX).contains(&tag.len())
        && !tag.starts_with(['.', '-'])
        && tag
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
}

impl Serialize for Reference {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Reference {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_split_as_written() {
        for (text, repository, tag) in [
            ("base", "base", "latest"),
            ("base:12", "base", "12"),
            ("localhost:5000/a/b", "localhost:5000/a/b", "latest"),
            (
                "registry.example.org/a__b-c.d:v1_X",
                "registry.example.org/a__b-c.d",
                "v1_X",
            ),
        ] {
            let name: Reference = text.parse().unwrap();
            assert_eq!((name.repository(), name.tag()), (repository, tag));
            assert_eq!(name.to_string().parse::<Reference>().unwrap(), name);
        }
    }

    #[test]
    fn bad_names_are_refused() {
        for bad in [
            "",
            ":tag",
            "UPPER",
            "a//b",
            "../x",
            "a/..",
            "a:",
            "a:-x",
            "a@sha256:1",
            "-a",
            "a___b",
            "a.",
            "x:1/y:2:3",
            "a b",
            "a\0",
            "é",
        ] {
            assert!(bad.parse::<Reference>().is_err(), "{bad:?}");
        }
    }
}
