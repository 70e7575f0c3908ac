//! Patterns: those of `.dockerignore` and `--exclude`, and the ones that `COPY` has for its sources.
//!
//! `*` and `?` stop at `/`, `**` does not, `[a-z]` and `[^a-z]` are classes, `\` protects what follows. In a
//! list the last pattern that matches a path or a folder above it decides; one with `!` before it takes back
//! in what others left out. As in Docker `**/x` also matches `x`, `**x` any name that ends so, `x/**` all
//! below `x` and not `x` itself. Names are bytes: what is no UTF-8 is a character of its own for each byte.
//!
//! A pattern is matched as an automaton, a state for each part of it: the time is a product at worst, and
//! after the bytes of a folder its states say whether something below could still match.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// Bytes that a file of patterns may have.
pub const TEXT_MAX: usize = 1 << 20;
/// Characters that a pattern may have, which is more than the kernel takes for a path.
const PATTERN_MAX: usize = 4096;

/// Where the patterns of a context are: the first of these that is there counts.
pub fn file_names(dockerfile: &Path, context: &Path) -> [PathBuf; 2] {
    let mut own = dockerfile.as_os_str().to_owned();
    own.push(".dockerignore");
    [PathBuf::from(own), context.join(".dockerignore")]
}

/// What becomes of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is taken.
    Kept,
    /// It is left out; a folder has to be walked all the same, because something below may be taken.
    Ignored,
    /// It is left out, with all that is below.
    Skipped,
}

/// A list of patterns.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Patterns {
    rules: Vec<Rule>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule {
    takes_back: bool,
    glob: Glob,
}

impl Patterns {
    /// Reads a `.dockerignore`: a pattern on each line; `#` at the very beginning of one makes it a comment.
    ///
    /// # Errors
    /// Invalid, with the line's number, where a pattern is none or the file is too long.
    pub fn parse(text: &[u8], shown: &Path) -> Result<Self> {
        if text.len() > TEXT_MAX {
            return Err(Error::invalid(format!(
                "{} has more than {TEXT_MAX} bytes",
                shown.display()
            )));
        }
        let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
        let mut patterns = Self::default();
        for (number, line) in (1..).zip(text.split(|byte| *byte == b'\n')) {
            if line.starts_with(b"#") {
                continue;
            }
            let told = |why| Error::invalid(format!("{}:{number}: {why}", shown.display()));
            patterns.add(line).map_err(told)?;
        }
        Ok(patterns)
    }

    /// The patterns of `--exclude`.
    ///
    /// # Errors
    /// Invalid where one is none.
    pub fn of(texts: &[String]) -> Result<Self> {
        let mut patterns = Self::default();
        for text in texts {
            let told = |why| Error::invalid(format!("--exclude={text}: {why}"));
            patterns.add(text.as_bytes()).map_err(told)?;
        }
        Ok(patterns)
    }

    fn add(&mut self, text: &[u8]) -> Result<(), String> {
        let text = text.trim_ascii();
        let (takes_back, pattern) = match text.strip_prefix(b"!") {
            Some(rest) => (true, rest.trim_ascii()),
            None => (false, text),
        };
        if pattern.is_empty() {
            return if takes_back {
                Err("! stands alone".to_owned())
            } else {
                Ok(())
            };
        }
        let glob = Glob::compile(&characters(&cleaned(pattern)), true)?;
        self.rules.push(Rule { takes_back, glob });
        Ok(())
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// What becomes of a path: relative, `/` between its names, none of them `.` or `..`.
    pub fn matches(&self, path: &[u8], is_dir: bool) -> Verdict {
        match self.hides(path) {
            false => Verdict::Kept,
            true if is_dir && self.may_show_below(path) => Verdict::Ignored,
            true => Verdict::Skipped,
        }
    }

    /// Whether a path is left out.
    pub fn hides(&self, path: &[u8]) -> bool {
        let path = characters(path);
        let mut hidden = false;
        for rule in &self.rules {
            // A rule that would change nothing is not asked.
            if rule.takes_back == hidden && rule.glob.covers(&path) {
                hidden = !rule.takes_back;
            }
        }
        hidden
    }

    /// Whether something below a folder that is left out could be taken back in.
    pub fn may_show_below(&self, folder: &[u8]) -> bool {
        let folder = characters(folder);
        let mut back = self.rules.iter().filter(|rule| rule.takes_back);
        back.any(|rule| folder.is_empty() || rule.glob.reaches(&folder))
    }
}

/// One pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Glob {
    parts: Vec<Part>,
}

/// One part of a pattern: a state of the automaton, before that part.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    /// This character.
    This(u32),
    /// `?`: one that is not `/`.
    One,
    /// `*`: any number of those.
    Many,
    /// `[…]`.
    Class { others: bool, ranges: Vec<(u32, u32)> },
    /// `**/`: nothing, or folders with a `/` after them.
    Folders,
    /// Within the folders of the part before.
    InFolders,
    /// `**` at the end: anything.
    Rest,
}

const SLASH: u32 = b'/' as u32;

/// The states that an automaton is in.
struct States {
    list: Vec<usize>,
    /// Of each, whether it is in the list; always one more than there are parts.
    there: Vec<bool>,
}

impl States {
    fn has(&self, state: usize) -> bool {
        self.there.get(state).copied().unwrap_or(false)
    }
}

impl Glob {
    /// A source of `COPY`: `*` and even `**` stop at `/`.
    ///
    /// # Errors
    /// Invalid where it is no pattern.
    pub fn new(pattern: &str) -> Result<Self> {
        Self::compile(&characters(pattern.as_bytes()), false).map_err(Error::invalid)
    }

    /// A source of `COPY --parents`: `**` goes on beyond `/`.
    ///
    /// # Errors
    /// Invalid where it is no pattern.
    pub fn deep(pattern: &str) -> Result<Self> {
        Self::compile(&characters(pattern.as_bytes()), true).map_err(Error::invalid)
    }

    /// Whether a text stands for more than itself.
    pub fn is_pattern(text: &str) -> bool {
        text.contains(['*', '?', '[', '\\'])
    }

    /// Whether the whole path matches.
    pub fn matches(&self, path: &[u8]) -> bool {
        self.run(&characters(path), false)
            .is_some_and(|states| states.has(self.parts.len()))
    }

    /// Whether something below a folder could match.
    pub fn may_match_below(&self, folder: &[u8]) -> bool {
        folder.is_empty() || self.reaches(&characters(folder))
    }

    /// Whether the path or a folder above it matches.
    fn covers(&self, path: &[u32]) -> bool {
        match self.run(path, true) {
            None => true,
            Some(states) => states.has(self.parts.len()),
        }
    }

    fn reaches(&self, folder: &[u32]) -> bool {
        self.run(folder, false)
            .is_some_and(|mut states| self.step(&mut states, SLASH))
    }

    /// The states after a path; none where one above it matches and that is enough.
    fn run(&self, path: &[u32], above_is_enough: bool) -> Option<States> {
        let mut states = States {
            list: Vec::new(),
            there: vec![false; self.parts.len() + 1],
        };
        self.enter(&mut states, 0);
        for char in path {
            if above_is_enough && *char == SLASH && states.has(self.parts.len()) {
                return None;
            }
            if !self.step(&mut states, *char) {
                break;
            }
        }
        Some(states)
    }

    /// Adds a state, and those that are reached from it without a character.
    fn enter(&self, states: &mut States, state: usize) {
        let mut next = Some(state);
        while let Some(state) = next {
            if states.has(state) {
                return;
            }
            states.list.push(state);
            states.there[state] = true;
            next = match self.parts.get(state) {
                Some(Part::Many | Part::Rest) => Some(state + 1),
                Some(Part::Folders) => Some(state + 2),
                _ => None,
            };
        }
    }

    /// Takes a character; whether any state is left.
    fn step(&self, states: &mut States, char: u32) -> bool {
        let before = std::mem::take(&mut states.list);
        before.iter().for_each(|state| states.there[*state] = false);
        for state in before {
            match &self.parts.get(state) {
                Some(Part::This(this)) if *this == char => self.enter(states, state + 1),
                Some(Part::One) if char != SLASH => self.enter(states, state + 1),
                Some(Part::Many) if char != SLASH => self.enter(states, state),
                Some(Part::Rest) => self.enter(states, state),
                Some(Part::Class { others, ranges }) => {
                    let is_in = ranges.iter().any(|(low, high)| (*low..=*high).contains(&char));
                    if is_in != *others {
                        self.enter(states, state + 1);
                    }
                }
                Some(Part::Folders) => {
                    self.enter(states, state + 1);
                    if char == SLASH {
                        self.enter(states, state + 2);
                    }
                }
                Some(Part::InFolders) => {
                    self.enter(states, state);
                    if char == SLASH {
                        self.enter(states, state + 1);
                    }
                }
                _ => {}
            }
        }
        !states.list.is_empty()
    }

    fn compile(pattern: &[u32], deep: bool) -> Result<Self, String> {
        let bad = || format!("not a pattern: {}", shown(pattern));
        if pattern.len() > PATTERN_MAX {
            return Err(format!("a pattern has more than {PATTERN_MAX} characters"));
        }
        let mut parts = Vec::new();
        let mut rest = pattern;
        while let Some((&char, mut after)) = rest.split_first() {
            let begins = rest.len() == pattern.len();
            let part = match char_of(char) {
                Some('*') if deep && after.first() == Some(&char) => {
                    after = &after[1..];
                    let slash = after.first() == Some(&SLASH);
                    after = if slash { &after[1..] } else { after };
                    match after {
                        [] => Part::Rest,
                        // Docker takes `**name` for all that ends so, as long as that is plain.
                        _ if begins && !slash && is_plain(after) => Part::Rest,
                        _ => {
                            parts.push(Part::Folders);
                            Part::InFolders
                        }
                    }
                }
                Some('*') => Part::Many,
                Some('?') => Part::One,
                Some('[') => {
                    let (class, end) = class(after).ok_or_else(bad)?;
                    after = end;
                    class
                }
                Some('\\') => {
                    let (&protected, end) = after.split_first().ok_or_else(bad)?;
                    after = end;
                    Part::This(protected)
                }
                _ => Part::This(char),
            };
            parts.push(part);
            rest = after;
        }
        Ok(Self { parts })
    }
}

fn is_plain(pattern: &[u32]) -> bool {
    !pattern
        .iter()
        .any(|char| char_of(*char).is_some_and(|char| "*?[]\\".contains(char)))
}

/// A class after its `[`, and what comes after it.
fn class(mut rest: &[u32]) -> Option<(Part, &[u32])> {
    let others = rest.first().copied().and_then(char_of) == Some('^');
    if others {
        rest = &rest[1..];
    }
    let mut ranges = Vec::new();
    loop {
        if rest.first().copied().and_then(char_of) == Some(']') && !ranges.is_empty() {
            return Some((Part::Class { others, ranges }, &rest[1..]));
        }
        let (low, mut after) = class_char(rest)?;
        let mut high = low;
        if after.first().copied().and_then(char_of) == Some('-') {
            (high, after) = class_char(&after[1..])?;
        }
        ranges.push((low, high));
        rest = after;
    }
}

fn class_char(rest: &[u32]) -> Option<(u32, &[u32])> {
    let (&char, after) = rest.split_first()?;
    match char_of(char) {
        Some('-' | ']') => None,
        Some('\\') => after.split_first().map(|(&char, after)| (char, after)),
        _ => Some((char, after)),
    }
}

/// Characters of a name; a byte that is in none of UTF-8 is a number above all of them.
fn characters(bytes: &[u8]) -> Vec<u32> {
    let mut all = Vec::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        all.extend(chunk.valid().chars().map(u32::from));
        all.extend(chunk.invalid().iter().map(|byte| 0x11_0000 + u32::from(*byte)));
    }
    all
}

fn char_of(char: u32) -> Option<char> {
    char::from_u32(char)
}

fn shown(pattern: &[u32]) -> String {
    pattern
        .iter()
        .take(200)
        .map(|char| char_of(*char).unwrap_or('\u{fffd}'))
        .collect()
}

/// A pattern without `.`, doubled `/`, what `..` takes away, and the `/` at both ends.
fn cleaned(pattern: &[u8]) -> Vec<u8> {
    let rooted = pattern.starts_with(b"/");
    let mut names: Vec<&[u8]> = Vec::new();
    for name in pattern.split(|byte| *byte == b'/') {
        match name {
            b"" | b"." => {}
            b".." if names.last().is_some_and(|last| *last != b"..") => drop(names.pop()),
            b".." if rooted => {}
            name => names.push(name),
        }
    }
    match names.is_empty() {
        true => b".".to_vec(),
        false => names.join(&b'/'),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(patterns: &str, path: &[u8], is_dir: bool) -> Verdict {
        Patterns::parse(patterns.as_bytes(), Path::new(".dockerignore"))
            .unwrap()
            .matches(path, is_dir)
    }

    fn ignores(patterns: &str, path: &str) -> bool {
        verdict(patterns, path.as_bytes(), false) != Verdict::Kept
    }

    #[test]
    fn single_patterns() {
        for (pattern, yes, no) in [
            ("a", "a a/b a/b/c", "ab b/a"),
            ("/a", "a a/b", "b/a"),
            ("a/", "a a/b", "ab"),
            ("./a/../b//c", "b/c", "a b"),
            ("*", "a a/b .a", ""),
            ("*.go", "x.go .go", "x.c a/x.go"),
            ("a*", "a ab ab/c", "b"),
            ("a/*", "a/b a/b/c", "a"),
            ("*/b", "a/b a/b/c", "b a/c/b"),
            ("a?c", "abc aéc", "ac a/c abbc"),
            ("**", "a a/b", ""),
            ("**/", "a a/b", ""),
            ("**/a", "a b/a b/c/a a/b b/a/c", "ba b/ab"),
            ("**/a/b", "a/b c/a/b c/d/a/b/e", "a/c/b"),
            ("**/*.txt", "a.txt b/a.txt b/c/a.txt", "a.c"),
            ("**/**/*.txt", "a.txt b/a.txt", "a.c"),
            ("a/**", "a/b a/b/c", "a ab"),
            ("a/**/b", "a/b a/c/b a/c/d/b", "a/cb b"),
            ("a**/*.txt", "a/x.txt a/b/x.txt", "b/x.txt"),
            ("a**", "a ab a/b", "b"),
            ("**file", "file dir/file xfile dir/xfile", "filex"),
            ("**file*", "file dir/filex", "xfile"),
            ("a[b-d]e", "abe ade", "ae aee"),
            ("a[^b-d]e", "aae axe", "abe"),
            ("[a-ζ]*", "α a", "ω"),
            ("[x\\-]", "x -", "z"),
            ("a\\*b", "a*b", "ab axb"),
            ("\\#a", "#a", "a"),
            (" a ", "a", "b"),
            (".", "", "a"),
            ("/", "", "a"),
            ("../a", "", "a"),
            ("# a", "", "a"),
            ("abc.def", "abc.def", "abcXdef"),
            ("a(b)c|{d}+$", "a(b)c|{d}+$", "abc"),
        ] {
            let paths = |text: &'static str| text.split(' ').filter(|path| !path.is_empty());
            for path in paths(yes) {
                assert!(ignores(pattern, path), "{pattern} ignores {path}");
            }
            for path in paths(no) {
                assert!(!ignores(pattern, path), "{pattern} keeps {path}");
            }
        }
    }

    #[test]
    fn the_last_pattern_decides() {
        for (patterns, yes, no) in [
            ("docs\n!docs/README.md", "docs docs/x", "docs/README.md"),
            (
                "*.md\n!README*.md\nREADME-secret.md",
                "x.md README-secret.md",
                "README.md README-x.md",
            ),
            (
                "*.md\nREADME-secret.md\n!README*.md",
                "x.md",
                "README.md README-secret.md",
            ),
            ("!a\na", "a", "b"),
            (
                "**\n!util/web\nutil/web/foo",
                "a util util/web/foo",
                "util/web util/web/bar",
            ),
            ("*\n!src/**/*.c", "a src src/x.h", "src/x.c src/a/b/x.c"),
            ("a\n! a/b ", "a a/c", "a/b a/b/c"),
            ("\u{feff}a\r\n\r\n!b\r\n", "a", "b"),
        ] {
            for path in yes.split(' ') {
                assert!(ignores(patterns, path), "{patterns:?} ignores {path}");
            }
            for path in no.split(' ') {
                assert!(!ignores(patterns, path), "{patterns:?} keeps {path}");
            }
        }
    }

    #[test]
    fn a_folder_is_skipped_where_nothing_below_can_be_taken() {
        for (patterns, folder, wanted) in [
            ("a", "a", Verdict::Skipped),
            ("a\n!b", "a", Verdict::Skipped),
            ("a\n!a/b/c", "a", Verdict::Ignored),
            ("a\n!a/b/c", "a/b", Verdict::Ignored),
            ("a\n!a/b/c", "a/x", Verdict::Skipped),
            ("a\n!a/b/c", "a/b/d", Verdict::Skipped),
            ("*\n!**/*.c", "a/b", Verdict::Ignored),
            ("*\n!src/*.c", "src", Verdict::Ignored),
            ("*\n!src/*.c", "src/a", Verdict::Skipped),
            ("*\n!s*/x", "src", Verdict::Ignored),
            ("*\n!s*/x", "lib", Verdict::Skipped),
            ("x", "a", Verdict::Kept),
        ] {
            assert_eq!(
                verdict(patterns, folder.as_bytes(), true),
                wanted,
                "{patterns:?} {folder}"
            );
        }
    }

    #[test]
    fn names_are_bytes() {
        assert_eq!(verdict("a?c", b"a\xffc", false), Verdict::Skipped);
        assert_eq!(verdict("a??c", b"a\xffc", false), Verdict::Kept);
        let patterns = Patterns::parse(b"\xff*", Path::new("x")).unwrap();
        assert_eq!(patterns.matches(b"\xffz", false), Verdict::Skipped);
        assert_eq!(patterns.matches(b"\xfez", false), Verdict::Kept);
    }

    #[test]
    fn what_is_no_pattern_is_told() {
        for bad in [
            "!", "[", "a[", "[]a]", "[-]", "[x-]", "[-x]", "[^", "[^bc", "\\", "[a-b-c]",
        ] {
            let error = Patterns::parse(format!("ok\n{bad}").as_bytes(), Path::new(".dockerignore"));
            assert!(error.unwrap_err().to_string().starts_with(".dockerignore:2: "), "{bad}");
            assert!(Patterns::of(&[bad.to_owned()]).is_err());
        }
    }

    #[test]
    fn sources_of_copy() {
        let matches = |pattern: &str, path: &str| Glob::new(pattern).unwrap().matches(path.as_bytes());
        assert!(matches("*.txt", "a.txt") && !matches("*.txt", "b/a.txt"));
        assert!(matches("**/a", "b/a") && !matches("**/a", "b/c/a") && !matches("**/a", "a"));
        assert!(!matches("a", "a/b") && matches("a/b?", "a/bc"));
        let deep = Glob::deep("a/**/c").unwrap();
        assert!(deep.matches(b"a/c") && deep.matches(b"a/b/b/c") && !deep.matches(b"a/b"));
        assert!(deep.may_match_below(b"a/x") && !deep.may_match_below(b"b") && deep.may_match_below(b""));
        assert!(Glob::is_pattern("a[b]") && !Glob::is_pattern("a.b"));
    }

    #[test]
    fn many_stars_take_no_power_of_time() {
        let pattern = "*a".repeat(500);
        assert!(!ignores(&pattern, &"a".repeat(499)));
        assert!(!ignores(&format!("{}b", "**/a/".repeat(200)), &"a/".repeat(500)));
    }

    #[test]
    fn the_dockerfile_has_a_list_of_its_own() {
        let names = file_names(Path::new("sub/Dockerfile"), Path::new("ctx"));
        assert_eq!(
            names,
            [
                PathBuf::from("sub/Dockerfile.dockerignore"),
                PathBuf::from("ctx/.dockerignore")
            ]
        );
    }
}
