//! The house rules that a machine can check: who may name whom, who may print, what is too long.
//!
//! `docs/architecture.md` says why; this test is what keeps it true.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

/// Longest file, in lines before its tests. The aim is about 400.
const LONGEST: usize = 600;

/// What everyone may name.
const COMMON: [&str; 2] = ["error", "explain"];

/// Each room, and the rooms that it may name besides itself and [`COMMON`]. Imports go one way.
const ROOMS: [(&str, &[&str]); 16] = [
    ("error", &[]),
    ("explain", &[]),
    ("sys", &[]),
    ("walk", &["sys"]),
    ("blocks", &["sys"]),
    ("ext4", &["blocks", "sys"]),
    ("delta", &["ext4", "blocks", "sys"]),
    ("dm", &["delta", "ext4", "blocks", "sys"]),
    ("exec", &["sys"]),
    ("network", &["sys"]),
    ("snapshot", &["dm", "delta", "ext4", "blocks", "walk", "sys"]),
    ("image", &["snapshot", "dm", "ext4", "sys"]),
    ("build", &["image", "snapshot", "exec", "sys"]),
    ("output", &["image"]),
    ("failure", &["output", "exec"]),
    ("cli", &["exec", "network", "snapshot"]),
];

/// Rooms that connect the others and may name them all.
const ABOVE: [&str; 3] = ["commands", "lib", "main"];

/// A source file without its comments and without its tests.
struct Source {
    /// Relative to the root of the repository.
    path: PathBuf,
    /// The whole text.
    text: String,
    /// Number and text of the lines before the tests that are not comments.
    code: Vec<(usize, String)>,
    /// Lines before the tests.
    length: usize,
}

impl Source {
    fn read(root: &Path, path: &Path) -> Self {
        let text = fs::read_to_string(root.join(path)).expect("a source file");
        let length = text
            .lines()
            .position(|line| line == "#[cfg(test)]")
            .unwrap_or_else(|| text.lines().count());
        let code = (1..)
            .zip(text.lines().take(length))
            .map(|(number, line)| (number, line.split(" // ").next().unwrap_or(line)))
            .filter(|(_, line)| !line.trim_start().starts_with("//"))
            .map(|(number, line)| (number, line.to_owned()))
            .collect();
        Self {
            path: path.to_owned(),
            text,
            code,
            length,
        }
    }

    /// The folder or file below `src` that this belongs to: `dm` for `src/dm/pool.rs`.
    fn room(&self) -> Option<String> {
        let first = self.path.strip_prefix("src").ok()?.components().next()?;
        Some(first.as_os_str().to_str()?.trim_end_matches(".rs").to_owned())
    }

    fn is_in(&self, places: &[&str]) -> bool {
        places.iter().any(|place| self.path.starts_with(place))
    }
}

/// The Rust files of one folder and what lies below it.
fn sources(folder: &str) -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::from(folder)];
    while let Some(folder) = folders.pop() {
        // `store/tests` may not be there.
        if !root.join(&folder).is_dir() {
            continue;
        }
        for entry in fs::read_dir(root.join(&folder)).expect("a folder") {
            let entry = entry.expect("an entry");
            let path = folder.join(entry.file_name());
            if entry.file_type().expect("its type").is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|end| end == "rs") {
                found.push(Source::read(root, &path));
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

fn all() -> Vec<Source> {
    let mut found = sources("src");
    found.extend(sources("store/src"));
    assert!(found.len() > 20, "the sources were not found");
    found
}

/// Whether `word` stands in `line` on its own.
fn names(line: &str, word: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word)
        .any(|(at, _)| !line[..at].ends_with(part) && !line[at + word.len()..].starts_with(part))
}

/// Fails with each line of code that `wrong` objects to.
#[track_caller]
fn object(sources: &[Source], rule: &str, wrong: impl Fn(&Source, &str) -> bool) {
    let mut told = String::new();
    for source in sources {
        for (number, line) in &source.code {
            if wrong(source, line) {
                let _ = writeln!(told, "{}:{number}: {}", source.path.display(), line.trim());
            }
        }
    }
    assert!(told.is_empty(), "{rule}\n{told}");
}

#[test]
fn each_file_opens_with_its_story() {
    let silent: Vec<_> = all()
        .into_iter()
        .filter(|source| !source.text.starts_with("//! "))
        .map(|source| source.path)
        .collect();
    assert!(silent.is_empty(), "no `//!` at the top: {silent:?}");
}

#[test]
fn files_are_read_in_one_sitting() {
    let long: Vec<_> = all()
        .into_iter()
        .filter(|source| source.length > LONGEST)
        .map(|source| (source.path, source.length))
        .collect();
    assert!(long.is_empty(), "more than {LONGEST} lines before the tests: {long:?}");
}

#[test]
fn unsafe_code_stays_in_sys() {
    let openings = ["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern", "unsafe trait"];
    object(&all(), "unsafe code is for src/sys", |source, line| {
        !source.is_in(&["src/sys"]) && openings.iter().any(|opening| line.contains(opening))
    });
}

#[test]
fn each_unsafe_block_says_why_it_is_safe() {
    for source in sources("src/sys") {
        let lines: Vec<&str> = source.text.lines().take(source.length).collect();
        for (at, line) in lines.iter().enumerate() {
            if line.trim_start().starts_with("//") || !line.contains("unsafe {") {
                continue;
            }
            // The reason is the comment above the statement that holds the block.
            let told = lines[..at]
                .iter()
                .rev()
                .take_while(|above| !above.trim().is_empty() && !above.contains("fn "))
                .any(|above| above.trim_start().starts_with("// SAFETY:"));
            assert!(told, "{}:{}: no SAFETY comment", source.path.display(), at + 1);
        }
    }
}

#[test]
fn only_output_prints() {
    object(&all(), "printing is for src/output.rs", |source, line| {
        let printers = ["print!", "println!", "eprint!", "eprintln!", "dbg!"];
        !source.is_in(&["src/output.rs"]) && printers.iter().any(|printer| line.contains(printer))
    });
}

#[test]
fn clap_stops_at_commands() {
    let places = ["src/cli.rs", "src/cli", "src/commands", "src/main.rs"];
    object(&all(), "clap is for cli, commands and main", |source, line| {
        !source.is_in(&places) && (names(line, "clap") || names(line, "clap_complete"))
    });
}

#[test]
fn the_store_names_nothing_of_the_tool() {
    object(&sources("store/src"), "the store stands alone", |_, line| {
        ["plywood", "nix", "libc", "devicemapper", "loopdev"]
            .iter()
            .any(|other| names(line, other) && line.contains(&format!("{other}::")))
    });
}

#[test]
fn imports_go_one_way() {
    let rooms: Vec<&str> = ROOMS.iter().map(|(name, _)| *name).chain(ABOVE).collect();
    object(&sources("src"), "see ROOMS in tests/tidy.rs", |source, line| {
        let room = source.room().unwrap_or_default();
        if ABOVE.contains(&room.as_str()) {
            return false;
        }
        let Some((_, below)) = ROOMS.iter().find(|(name, _)| *name == room) else {
            return true;
        };
        rooms
            .iter()
            .filter(|other| **other != room && !COMMON.contains(other) && !below.contains(other))
            .any(|other| names(line, &format!("crate::{other}")))
    });
}

/// `use crate::{dm, sys}` would slip past the check above.
#[test]
fn rooms_are_imported_one_by_one() {
    object(&sources("src"), "one room a line", |_, line| {
        line.contains("use crate::{")
    });
}

/// `tests/run` goes by these names.
#[test]
fn a_test_that_needs_device_mapper_is_in_a_file_that_says_so() {
    for source in sources("tests").iter().chain(&sources("store/tests")) {
        let file = source.path.file_stem().unwrap_or_default().to_string_lossy();
        let on_top = source.path.parent().is_some_and(|folder| folder.ends_with("tests"));
        for line in source.text.lines().map(str::trim_start) {
            for kind in ["dm_", "root_"] {
                let test = line.starts_with(&format!("fn {kind}")) && line.ends_with("() {");
                assert!(
                    !on_top || !test || file.starts_with(kind),
                    "{}: '{line}' belongs into a file named {kind}*",
                    source.path.display()
                );
            }
            assert!(
                !line.starts_with("#[ignore"),
                "{}: an ignored test",
                source.path.display()
            );
        }
    }
}
