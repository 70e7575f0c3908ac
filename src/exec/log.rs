//! What a detached container has written, kept as Kubernetes' runtimes keep it.
//!
//! A line of the file is `TIME STREAM TAG CONTENT` (the log format of the container
//! runtime interface, kubernetes/design-proposals, kubelet-cri-logging): RFC 3339
//! to the nanosecond, `stdout` or `stderr`, `F` where the line is whole and `P`
//! where it goes on, and the bytes as they came. A file that has reached
//! [`SIZE_MAX`] becomes `FILE.1`, which replaces the one before.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::Serialize;

/// Bytes of one log file. Two are kept.
const SIZE_MAX: u64 = 64 << 20;

/// Which of the command's outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Stream {
    /// Standard output, and all of a terminal's.
    Stdout,
    /// Standard error.
    Stderr,
}

impl Stream {
    fn word(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// The file that was full before this one.
pub fn older(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".1");
    name.into()
}

/// A log that is being written.
#[derive(Debug)]
pub(super) struct Writer {
    path: PathBuf,
    file: File,
    size: u64,
}

impl Writer {
    /// Goes on with the log at `path`, or begins it.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
        Ok(Self {
            path: path.to_owned(),
            size: file.metadata()?.size(),
            file,
        })
    }

    /// Adds what was written at one time.
    pub(super) fn add(&mut self, stream: Stream, bytes: &[u8]) -> io::Result<()> {
        if self.size > SIZE_MAX {
            std::fs::rename(&self.path, older(&self.path))?;
            *self = Self::open(&self.path)?;
        }
        let lines = lines(&jiff::Timestamp::now().to_string(), stream, bytes);
        self.file.write_all(&lines)?;
        self.size += lines.len() as u64;
        Ok(())
    }
}

fn lines(time: &str, stream: Stream, bytes: &[u8]) -> Vec<u8> {
    let mut lines = Vec::with_capacity(bytes.len() + 64);
    for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
        let (tag, content) = match piece.strip_suffix(b"\n") {
            Some(content) => ('F', content),
            None => ('P', piece),
        };
        lines.extend_from_slice(format!("{time} {} {tag} ", stream.word()).as_bytes());
        lines.extend_from_slice(content);
        lines.push(b'\n');
    }
    lines
}

/// A line of a log, taken apart.
#[derive(Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// RFC 3339.
    pub time: &'a str,
    /// Where it was written.
    pub stream: Stream,
    /// Whether the next entry of the stream goes on with the line.
    pub is_partial: bool,
    /// The bytes, without the newline.
    pub content: &'a [u8],
}

/// Takes a line (without its newline) apart; none where a crash or somebody else has damaged it.
pub fn parse(line: &[u8]) -> Option<Entry<'_>> {
    let mut parts = line.splitn(4, |byte| *byte == b' ');
    let (time, stream, tag) = (parts.next()?, parts.next()?, parts.next()?);
    Some(Entry {
        time: std::str::from_utf8(time).ok()?,
        stream: match stream {
            b"stdout" => Stream::Stdout,
            b"stderr" => Stream::Stderr,
            _ => return None,
        },
        is_partial: match tag {
            b"F" => false,
            b"P" => true,
            _ => return None,
        },
        content: parts.next()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let bytes = b"one\n\n\xff two";
        let text = lines("2020-01-01T00:00:00.000000001Z", Stream::Stderr, bytes);
        let mut again = Vec::new();
        for line in text.strip_suffix(b"\n").unwrap().split(|byte| *byte == b'\n') {
            let entry = parse(line).unwrap();
            assert_eq!((entry.stream, entry.time.len()), (Stream::Stderr, 30));
            again.extend_from_slice(entry.content);
            again.extend_from_slice(if entry.is_partial { b"" } else { b"\n" });
        }
        assert_eq!(again, bytes);
        for bad in ["", "x", "t stdout", "t stdout F", "t out F x", "t stdout Q x"] {
            assert_eq!(parse(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn a_full_log_is_kept_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        std::fs::File::create(&path).unwrap().set_len(SIZE_MAX + 1).unwrap();
        Writer::open(&path).unwrap().add(Stream::Stdout, b"new\n").unwrap();
        assert_eq!(older(&path).metadata().unwrap().len(), SIZE_MAX + 1);
        assert!(path.metadata().unwrap().len() < 100);
    }
}
