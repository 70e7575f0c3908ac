//! What other tools say is in a tar: GNU tar by its listing, Python's tarfile and libarchive by a helper.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::Value;

/// What a reader says of one entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub kind: String,
    /// Without what leads to the root or nowhere, as plywood has it.
    pub path: PathBuf,
    pub target: PathBuf,
    pub size: u64,
    pub mode: u64,
    pub uid: i64,
    pub gid: i64,
    pub seconds: i64,
    /// None where the reader does not say.
    pub nanoseconds: Option<i64>,
}

/// A reader's answer: entries up to its end, or up to what it objects to.
#[derive(Debug, Clone, Default)]
pub struct Answer {
    pub entries: Vec<Entry>,
    pub error: Option<String>,
}

/// A name without leading slashes, `.` and doubled slashes.
pub fn plain(name: &[u8]) -> PathBuf {
    Path::new(OsStr::from_bytes(name))
        .components()
        .filter(|part| !matches!(part, Component::RootDir | Component::CurDir))
        .collect()
}

/// The helper process.
pub struct Helper {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl Helper {
    pub fn start() -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/readers/others.py");
        // Debian's own: it is the one that scripts/deps brings.
        let mut child = Command::new("/usr/bin/python3")
            .arg(script)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("Debian's python3");
        let (to, from) = (
            child.stdin.take().unwrap(),
            BufReader::new(child.stdout.take().unwrap()),
        );
        Self { child, to, from }
    }

    /// Asks for one file; [`Helper::answer`] gives it.
    pub fn ask(&mut self, path: &Path) {
        writeln!(self.to, "{}", path.display()).unwrap();
    }

    /// Python's and libarchive's answers.
    pub fn answer(&mut self) -> [Answer; 2] {
        let mut line = String::new();
        self.from.read_line(&mut line).unwrap();
        let value: Value = serde_json::from_str(&line).expect("the helper's answer (Debian's libarchive13)");
        ["python", "libarchive"].map(|reader| answer(&value[reader]))
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn answer(value: &Value) -> Answer {
    let bytes = |value: &Value| {
        let text = value.as_str().unwrap();
        let byte = |at| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
        (0..text.len()).step_by(2).map(byte).collect::<Vec<u8>>()
    };
    let number = |value: &Value| value.as_i64().unwrap_or(i64::MIN);
    let entries = value["entries"].as_array().unwrap().iter().map(|entry| {
        let kind = entry[0].as_str().unwrap().to_owned();
        let target = bytes(&entry[2]);
        Entry {
            target: target_of(&kind, &target),
            kind,
            path: plain(&bytes(&entry[1])),
            size: entry[3].as_u64().unwrap_or(u64::MAX),
            mode: entry[4].as_u64().unwrap_or(u64::MAX),
            uid: number(&entry[5]),
            gid: number(&entry[6]),
            seconds: number(&entry[7]),
            nanoseconds: entry[8].as_i64(),
        }
    });
    Answer {
        entries: entries.collect(),
        error: value["error"].as_str().map(str::to_owned),
    }
}

/// A hard link's target is a name of the archive; a symbolic link's is a text.
pub fn target_of(kind: &str, target: &[u8]) -> PathBuf {
    if kind == "hardlink" {
        plain(target)
    } else {
        PathBuf::from(OsStr::from_bytes(target))
    }
}

/// How many entries bsdtar lists, up to what it objects to.
pub fn bsdtar(path: &Path) -> usize {
    let output = Command::new("bsdtar")
        .arg("-tf")
        .arg(path)
        .env("LC_ALL", "C.UTF-8")
        .stdin(Stdio::null())
        .output()
        .expect("bsdtar (Debian's libarchive-tools)");
    output.stdout.iter().filter(|byte| **byte == b'\n').count()
}

/// GNU tar's listing.
pub fn gnu(path: &Path) -> Answer {
    let output = Command::new("/usr/bin/tar")
        .args([
            "--list",
            "-vv",
            "--numeric-owner",
            "--full-time",
            "--quoting-style=c",
            "--file",
        ])
        .arg(path)
        .env_clear()
        .env("LC_ALL", "C")
        .env("TZ", "UTC0")
        .stdin(Stdio::null())
        .output()
        .expect("GNU tar");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut answer = Answer::default();
    for line in text.lines() {
        match gnu_line(line) {
            Some(entry) => answer.entries.push(entry),
            None => answer.error = Some(format!("a line that cannot be read: {line}")),
        }
    }
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    let remarks = [
        "Removing leading",
        "Ignoring unknown extended header keyword",
        "A lone zero block",
    ];
    let complaint: Vec<_> = complaint
        .lines()
        .filter(|line| remarks.iter().all(|remark| !line.contains(remark)))
        .collect();
    if !output.status.success() || !complaint.is_empty() {
        answer.error.get_or_insert(complaint.join("; "));
    }
    answer
}

/// `-rw-r--r-- 0/5   12 2017-07-14 02:40:00.25 "name" link to "target"`.
fn gnu_line(line: &str) -> Option<Entry> {
    let (kind, rest) = line.split_at_checked(1)?;
    let (mode, rest) = rest.split_once(' ')?;
    let (owner, rest) = rest.trim_start().split_once(' ')?;
    let (size, rest) = rest.trim_start().split_once(' ')?;
    let (date, rest) = rest.trim_start().split_once(' ')?;
    let (time, rest) = rest.split_once(' ')?;
    let (name, rest) = quoted(rest.trim_start())?;
    let target = rest.strip_prefix(" -> ").or_else(|| rest.strip_prefix(" link to "));
    let (target, rest) = target.map_or(Some((Vec::new(), rest)), quoted)?;
    // What it says of types that it does not know.
    if !rest.is_empty() {
        return None;
    }
    let kind = match kind {
        "-" | "C" => "file",
        "d" => "directory",
        "l" => "symlink",
        "h" => "hardlink",
        "c" => "character",
        "b" => "block",
        "p" => "fifo",
        _ => return None,
    };
    let (uid, gid) = owner.split_once('/')?;
    let (seconds, nanoseconds) = moment(date, time)?;
    Some(Entry {
        kind: kind.to_owned(),
        path: plain(&name),
        target: target_of(kind, &target),
        size: if kind == "file" { size.parse().ok()? } else { 0 },
        mode: permissions(mode)?,
        uid: uid.parse().ok()?,
        gid: gid.parse().ok()?,
        seconds,
        nanoseconds: Some(nanoseconds),
    })
}

/// A name in C's quotes, and what follows it.
fn quoted(text: &str) -> Option<(Vec<u8>, &str)> {
    let mut name = Vec::new();
    let mut rest = text.strip_prefix('"')?.as_bytes();
    loop {
        let (byte, after) = rest.split_first()?;
        rest = after;
        match byte {
            b'"' => return Some((name, std::str::from_utf8(rest).ok()?)),
            b'\\' => {
                let (escape, after) = rest.split_first()?;
                rest = after;
                name.push(match escape {
                    b'a' => 7,
                    b'b' => 8,
                    b't' => b'\t',
                    b'n' => b'\n',
                    b'v' => 11,
                    b'f' => 12,
                    b'r' => b'\r',
                    b'0'..=b'7' => {
                        let (more, after) = rest.split_at_checked(2)?;
                        rest = after;
                        let digits = [*escape, more[0], more[1]];
                        u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 8).ok()?
                    }
                    other => *other,
                });
            }
            byte => name.push(*byte),
        }
    }
}

/// `rwsr-xr-x` as a number.
fn permissions(text: &str) -> Option<u64> {
    let mut mode = 0;
    for (group, special) in [(0, 0o4000), (3, 0o2000), (6, 0o1000)] {
        let letters = text.as_bytes().get(group..group + 3)?;
        let shift = 6 - group;
        mode |= u64::from(letters[0] == b'r') << (shift + 2);
        mode |= u64::from(letters[1] == b'w') << (shift + 1);
        mode |= u64::from(b"xst".contains(&letters[2])) << shift;
        if b"sStT".contains(&letters[2]) {
            mode |= special;
        }
    }
    Some(mode)
}

/// Seconds since 1970 and nanoseconds of a date in UTC.
fn moment(date: &str, time: &str) -> Option<(i64, i64)> {
    let mut parts = date.rsplitn(3, '-');
    let (day, month, year) = (parts.next()?, parts.next()?, parts.next()?);
    let (day, month, year): (i64, i64, i64) = (day.parse().ok()?, month.parse().ok()?, year.parse().ok()?);
    let (clock, fraction) = time.split_once('.').unwrap_or((time, ""));
    let clock: Vec<i64> = clock.split(':').map(|part| part.parse().ok()).collect::<Option<_>>()?;
    let [hours, minutes, seconds] = clock[..] else {
        return None;
    };
    // Days of the proleptic Gregorian calendar, years that begin in March.
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468;
    let nanoseconds: i64 = format!("{fraction:0<9}").get(..9)?.parse().ok()?;
    let seconds = days * 86_400 + hours * 3600 + minutes * 60 + seconds;
    // Before 1970 the fraction that is shown counts backwards.
    if seconds < 0 && nanoseconds > 0 {
        return Some((seconds - 1, 1_000_000_000 - nanoseconds));
    }
    Some((seconds, nanoseconds))
}
