//! What a container's monitor and those attached to it say to each other.
//!
//! A SEQPACKET socket keeps messages apart; the first byte says what follows.
//! Both ends are the same binary's, or one of the next version: unknown messages
//! are passed over.

use super::log::Stream;

/// Bytes of one message at most.
pub(super) const MESSAGE_MAX: usize = 16 << 10;
/// Bytes of output or input in one message.
pub(super) const CHUNK: usize = MESSAGE_MAX - 1;

/// From somebody attached.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ToMonitor<'a> {
    /// For the command's standard input.
    Input(&'a [u8]),
    /// There is no more of that.
    EndOfInput,
    /// The size of the terminal.
    Size { rows: u16, columns: u16 },
    /// A signal for the command.
    Signal(i32),
}

/// To everybody attached.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum FromMonitor<'a> {
    /// The command runs.
    Started,
    /// What it has written.
    Output(Stream, &'a [u8]),
    /// It has ended, and all is done that was to be done then.
    Ended {
        /// What `run` ends with.
        code: u8,
        /// What there is to tell.
        told: &'a str,
    },
}

impl<'a> ToMonitor<'a> {
    pub(super) fn encode(&self) -> Vec<u8> {
        match self {
            Self::Input(bytes) => [b"i", *bytes].concat(),
            Self::EndOfInput => b"e".to_vec(),
            Self::Size { rows, columns } => [&b"s"[..], &rows.to_le_bytes(), &columns.to_le_bytes()].concat(),
            Self::Signal(number) => [&b"k"[..], &number.to_le_bytes()].concat(),
        }
    }

    pub(super) fn decode(message: &'a [u8]) -> Option<Self> {
        let (kind, rest) = message.split_first()?;
        Some(match (kind, rest) {
            (b'i', bytes) => Self::Input(bytes),
            (b'e', []) => Self::EndOfInput,
            (b's', [a, b, c, d]) => Self::Size {
                rows: u16::from_le_bytes([*a, *b]),
                columns: u16::from_le_bytes([*c, *d]),
            },
            (b'k', bytes) => Self::Signal(i32::from_le_bytes(bytes.try_into().ok()?)),
            _ => return None,
        })
    }
}

impl<'a> FromMonitor<'a> {
    pub(super) fn encode(&self) -> Vec<u8> {
        match self {
            Self::Started => b"r".to_vec(),
            Self::Output(Stream::Stdout, bytes) => [b"1", *bytes].concat(),
            Self::Output(Stream::Stderr, bytes) => [b"2", *bytes].concat(),
            Self::Ended { code, told } => [b"x", &[*code][..], told.as_bytes()].concat(),
        }
    }

    pub(super) fn decode(message: &'a [u8]) -> Option<Self> {
        let (kind, rest) = message.split_first()?;
        Some(match (kind, rest) {
            (b'r', []) => Self::Started,
            (b'1', bytes) => Self::Output(Stream::Stdout, bytes),
            (b'2', bytes) => Self::Output(Stream::Stderr, bytes),
            (b'x', [code, told @ ..]) => Self::Ended {
                code: *code,
                told: std::str::from_utf8(told).unwrap_or_default(),
            },
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_understood() {
        for message in [
            ToMonitor::Input(b"\x00abc"),
            ToMonitor::Input(b""),
            ToMonitor::EndOfInput,
            ToMonitor::Size { rows: 25, columns: 300 },
            ToMonitor::Signal(15),
        ] {
            assert_eq!(ToMonitor::decode(&message.encode()), Some(message));
        }
        for message in [
            FromMonitor::Started,
            FromMonitor::Output(Stream::Stdout, b"x"),
            FromMonitor::Output(Stream::Stderr, b""),
            FromMonitor::Ended {
                code: 137,
                told: "ended",
            },
        ] {
            assert_eq!(FromMonitor::decode(&message.encode()), Some(message));
        }
        for bad in [&b""[..], b"s12", b"k1", b"?", b"e1"] {
            assert_eq!(ToMonitor::decode(bad), None);
        }
        for bad in [&b""[..], b"x", b"r1", b"?"] {
            assert_eq!(FromMonitor::decode(bad), None);
        }
    }
}
