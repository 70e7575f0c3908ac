//! The networks of a run, as they are typed.

/// The networks of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NetworkChoice {
    /// A namespace on the bridge
    Bridge,
    /// A namespace with nothing but a loopback device
    None,
    /// The host's own: no isolation
    Host,
    /// That of the container with this name
    Container(String),
}

impl std::str::FromStr for NetworkChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match (text, text.strip_prefix("container:")) {
            ("bridge", _) => Ok(Self::Bridge),
            ("none", _) => Ok(Self::None),
            ("host", _) => Ok(Self::Host),
            (_, Some(name)) if !name.is_empty() => Ok(Self::Container(name.to_owned())),
            _ => Err("write bridge, none, host or container:NAME".to_owned()),
        }
    }
}

impl std::fmt::Display for NetworkChoice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Bridge => f.write_str("bridge"),
            Self::None => f.write_str("none"),
            Self::Host => f.write_str("host"),
            Self::Container(name) => write!(f, "container:{name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::NetworkChoice;

    #[test]
    fn a_network_is_written_as_it_is_read() {
        for text in ["bridge", "none", "host", "container:web"] {
            assert_eq!(text.parse::<NetworkChoice>().unwrap().to_string(), text);
        }
        for bad in ["", "container:", "Bridge", "container", "web"] {
            assert!(bad.parse::<NetworkChoice>().is_err(), "{bad:?}");
        }
    }
}
