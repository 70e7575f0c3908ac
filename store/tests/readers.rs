//! The tar reader beside three others: the same entries, or plywood refuses.
//!
//! Where two readers of one archive see two different ones, who scans an image
//! and who runs it can be told two different stories (RUSTSEC-2025-0111). So for
//! generated and damaged tars, GNU tar, Python's tarfile and libarchive (bsdtar)
//! must see what plywood accepts as plywood sees it, but for [`EXCEPTIONS`].
//!
//! `PLYWOOD_TEST_SEED` repeats one archive, `PLYWOOD_TEST_ROUNDS` says how many.

#![allow(clippy::unwrap_used, reason = "a test ends where it does not go on")]

#[path = "../../tests/common/environment.rs"]
mod environment;
#[path = "readers/generate.rs"]
mod generate;
#[path = "readers/others.rs"]
mod others;
#[path = "../../tests/common/tars.rs"]
mod tars;

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use generate::Dice;
use others::{Answer, Entry, Helper};
use plywood_store::layer::Limits;
use plywood_store::layer::read::{EntryKind, Reader};

/// Archives in the ordinary run.
const ROUNDS: u64 = 1500;
/// Archives under way at a time.
const BATCH: u64 = 100;

fn ours(tar: &[u8]) -> Answer {
    let mut answer = Answer::default();
    let mut tar = tar;
    let mut reader = Reader::new(&mut tar, &Limits::default());
    loop {
        match reader.next_entry() {
            Ok(None) => return answer,
            Err(cause) => {
                answer.error = Some(cause.to_string());
                return answer;
            }
            Ok(Some(entry)) => {
                let (kind, target) = match entry.kind {
                    EntryKind::File => ("file", PathBuf::new()),
                    EntryKind::Directory => ("directory", PathBuf::new()),
                    EntryKind::Symlink(target) => ("symlink", target),
                    EntryKind::HardLink(target) => ("hardlink", target),
                    EntryKind::Character(_) => ("character", PathBuf::new()),
                    EntryKind::Block(_) => ("block", PathBuf::new()),
                    EntryKind::Fifo => ("fifo", PathBuf::new()),
                };
                answer.entries.push(Entry {
                    kind: kind.to_owned(),
                    path: entry.path,
                    target: others::target_of(kind, target.as_os_str().as_bytes()),
                    size: entry.size,
                    mode: entry.mode.into(),
                    uid: entry.uid.into(),
                    gid: entry.gid.into(),
                    seconds: entry.mtime.seconds,
                    nanoseconds: Some(entry.mtime.nanoseconds.into()),
                });
            }
        }
    }
}

#[test]
fn u17_other_readers_see_the_same_or_plywood_refuses() {
    let seeds = environment::seeds(ROUNDS);
    let folder = tempfile::tempdir().unwrap();
    let mut helper = Helper::start();
    let (mut accepted, mut refused) = (0, 0);
    let mut wrong = Vec::new();
    let mut next = seeds.start;
    while next < seeds.end {
        let batch: Vec<_> = (next..seeds.end.min(next + BATCH))
            .map(|seed| {
                let tar = generate::archive(&mut Dice::new(seed));
                let path = folder.path().join(format!("{seed}.tar"));
                fs::write(&path, &tar).unwrap();
                helper.ask(&path);
                (seed, tar, path)
            })
            .collect();
        for (seed, tar, path) in batch {
            let ours = ours(&tar);
            let [python, libarchive] = helper.answer();
            if ours.error.is_some() {
                refused += 1;
            } else {
                accepted += 1;
                if seed % 50 == 0 {
                    assert_eq!(
                        others::bsdtar(&path),
                        libarchive.entries.len(),
                        "bsdtar is not libarchive: seed {seed}"
                    );
                }
                let theirs = [
                    ("GNU tar", others::gnu(&path)),
                    ("tarfile", python),
                    ("libarchive", libarchive),
                ];
                wrong.extend(theirs.iter().filter_map(|(name, theirs)| {
                    difference(name, &ours, theirs).map(|what| format!("seed {seed}, {name}: {what}"))
                }));
            }
            fs::remove_file(path).unwrap();
        }
        next += BATCH;
    }
    println!("{accepted} accepted, {refused} refused, seeds {seeds:?}");
    assert!(wrong.is_empty(), "{} differences\n{}", wrong.len(), wrong.join("\n"));
}

/// What a reader sees otherwise, if anything that is not its own fault.
fn difference(name: &str, ours: &Answer, theirs: &Answer) -> Option<String> {
    let mut names_count = true;
    if let Some(error) = &theirs.error {
        if !is_excepted(name, error) {
            return Some(format!("refuses: {error}"));
        }
        names_count = false;
    }
    if ours.entries.len() != theirs.entries.len() {
        let (ours, theirs) = (&ours.entries, &theirs.entries);
        return Some(format!(
            "{} entries, not {}: {theirs:?}, not {ours:?}",
            theirs.len(),
            ours.len()
        ));
    }
    ours.entries.iter().zip(&theirs.entries).find_map(|(ours, theirs)| {
        let mut theirs = theirs.clone();
        theirs.nanoseconds = theirs.nanoseconds.or(ours.nanoseconds);
        if !names_count {
            (theirs.path, theirs.target) = (ours.path.clone(), ours.target.clone());
        }
        // It asks the header's own field whether there is a target, and PAX's what it is.
        let is_link = matches!(ours.kind.as_str(), "hardlink" | "symlink");
        if name == "libarchive" && is_link && theirs.target.as_os_str().is_empty() {
            (theirs.kind, theirs.target) = (ours.kind.clone(), ours.target.clone());
        }
        // It adds the fraction of a time before 1970 instead of taking it away.
        if name == "libarchive" && ours.seconds < 0 && ours.nanoseconds != Some(0) {
            (theirs.seconds, theirs.nanoseconds) = (ours.seconds, ours.nanoseconds);
        }
        (*ours != theirs).then(|| format!("{theirs:?}, not {ours:?}"))
    })
}

/// Complaints of a reader about names that plywood accepts, and why it does.
const EXCEPTIONS: [(&str, &str, &str); 1] = [(
    "libarchive",
    "can't be converted from UTF-8",
    "names are bytes to the kernel, and so to plywood; libarchive wants PAX's to be text",
)];

fn is_excepted(name: &str, complaint: &str) -> bool {
    EXCEPTIONS
        .iter()
        .any(|(reader, part, _why)| *reader == name && complaint.contains(part))
}
