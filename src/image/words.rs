//! Words as Dockerfiles have them: split, quoted, with variables in them.
//!
//! `$a`, `${a}`, `${a:-w}`, `${a-w}`, `${a:+w}`, `${a+w}`, `${a:?w}`, `${a?w}`, `${a#p}`, `${a##p}`, `${a%p}`,
//! `${a%%p}`, `${a/p/r}`, `${a//p/r}`: the words `w`, `p` and `r` may have variables in them. What is in single
//! quotes is left alone; in double quotes variables are put in, and the escape character protects `"`, `$` and
//! itself. There is nothing else of a shell: no commands, no arithmetic, no splitting of a value unless
//! [`expand_words`] is asked for it.
//!
//! A text from outside can neither grow without end nor recurse without end: see [`VALUE_MAX`], `DEPTH_MAX`
//! and [`pattern`].

use std::iter::Peekable;
use std::ops::Range;
use std::str::Chars;

use super::pattern;
use crate::error::{Error, Result};

/// Bytes that a value may have once its variables are put in. The kernel passes no more than 128 KiB in one.
pub const VALUE_MAX: usize = 1 << 20;
/// How deep `${a:-${b:-…}}` may be.
const DEPTH_MAX: usize = 40;

/// Finds a variable's value; none where it is unset.
pub type Lookup<'a> = dyn Fn(&str) -> Option<String> + 'a;

/// One word: variables put in, quotes and escapes taken away, white space kept.
///
/// # Errors
/// Invalid where a quote or brace is not closed, the substitution is none, the result is too long, or the
/// text asks for an error (`:?`).
pub fn expand(text: &str, escape: char, lookup: &Lookup) -> Result<String> {
    let (whole, _) = Lexer::new(text, escape, lookup)
        .run(None)
        .map_err(|why| told(&why, text))?;
    Ok(whole)
}

/// As [`expand`], and split at white space outside quotes, also where it came with a variable.
///
/// # Errors
/// As [`expand`].
pub fn expand_words(text: &str, escape: char, lookup: &Lookup) -> Result<Vec<String>> {
    let (_, words) = Lexer::new(text, escape, lookup)
        .run(None)
        .map_err(|why| told(&why, text))?;
    Ok(words)
}

/// A heredoc's text: variables put in, `\` taken away before any character, quotes left alone.
///
/// # Errors
/// As [`expand`].
pub fn expand_document(text: &str, lookup: &Lookup) -> Result<String> {
    let mut lexer = Lexer::new(text, '\\', lookup);
    lexer.quotes = Quotes::Text;
    let (whole, _) = lexer.run(None).map_err(|why| told(&why, "a heredoc"))?;
    Ok(whole)
}

/// Words with quotes, escapes and variables left in, where `<<` and the word after it are one; none where a
/// quote or brace is not closed. This is how heredocs are found.
pub fn raw_words(text: &str, quotes: bool) -> Option<Vec<String>> {
    let mut lexer = Lexer::new(text, '\\', &|_| None);
    lexer.quotes = if quotes { Quotes::Kept } else { Quotes::Taken };
    lexer.raw_escapes = quotes;
    lexer.keep_unset = true;
    lexer.run(None).ok().map(|(_, words)| words)
}

/// Whether the text can be expanded, whatever values its variables have; why not.
///
/// # Errors
/// What [`expand`] would tell.
pub fn check(text: &str, escape: char) -> Result<(), String> {
    Lexer::new(text, escape, &|_| Some("x".to_owned())).run(None).map(drop)
}

/// Splits at white space outside quotes; quotes and escapes stay. A quote that is not closed reaches to the end.
pub fn split(text: &str, escape: char) -> Vec<Range<usize>> {
    let mut words = Vec::new();
    let mut start = None;
    let mut quote = None;
    let mut chars = text.char_indices();
    while let Some((at, char)) = chars.next() {
        if quote.is_none() && char.is_whitespace() {
            words.extend(start.take().map(|start| start..at));
            continue;
        }
        start.get_or_insert(at);
        match quote {
            _ if char == escape && quote != Some('\'') => drop(chars.next()),
            Some(open) if open == char => quote = None,
            None if char == '\'' || char == '"' => quote = Some(char),
            _ => {}
        }
    }
    words.extend(start.map(|start| start..text.len()));
    words
}

/// What is wrong, and where in the text.
pub type Misfit = (Range<usize>, String);

/// `NAME=value NAME=value`, or the old `NAME value` where the first word has no `=`; unexpanded.
/// The text has no white space around it.
///
/// # Errors
/// What is wrong, and the part of the text that it is about.
pub fn pairs(text: &str, escape: char) -> Result<Vec<(String, String)>, Misfit> {
    let parts = split(text, escape);
    let Some(first) = parts.first() else {
        return Err((0..text.len(), "it wants NAME=value".to_owned()));
    };
    let checked = |part: &str, at: Range<usize>| match check(part, escape) {
        Ok(()) => Ok(part.to_owned()),
        Err(why) => Err((at, why)),
    };
    if !text[first.clone()].contains('=') {
        // Here the name ends at the first white space, quoted or not.
        let Some((name, value)) = text.split_once(char::is_whitespace) else {
            return Err((
                first.clone(),
                format!("{} has no value: it wants NAME=value", &text[first.clone()]),
            ));
        };
        let at = text.len() - value.len()..text.len();
        return Ok(vec![(checked(name, first.clone())?, checked(value.trim_start(), at)?)]);
    }
    parts
        .into_iter()
        .map(|at| match text[at.clone()].split_once('=') {
            Some(("", _)) => Err((at, "the name before = is missing".to_owned())),
            Some((name, value)) => Ok((checked(name, at.clone())?, checked(value, at)?)),
            None => Err((at.clone(), format!("{} is not NAME=value", &text[at]))),
        })
        .collect()
}

fn told(why: &str, text: &str) -> Error {
    let shown: String = text.chars().take(200).collect();
    Error::invalid(format!("{why}, in {shown:?}"))
}

/// What becomes of quotes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Quotes {
    /// They protect, and are taken away.
    Taken,
    /// They protect, and stay.
    Kept,
    /// They are characters like others.
    Text,
}

struct Lexer<'a> {
    rest: Peekable<Chars<'a>>,
    lookup: &'a Lookup<'a>,
    escape: char,
    quotes: Quotes,
    raw_escapes: bool,
    keep_unset: bool,
    depth: usize,
    /// Bytes that may still be put out, by this and what is within it.
    room: usize,
}

/// What has been read: as one text, and as words.
#[derive(Default)]
struct Out {
    whole: String,
    words: Vec<String>,
    word: String,
}

impl Out {
    /// A character that splits words where it is white space.
    fn split(&mut self, char: char) {
        self.whole.push(char);
        if !char.is_whitespace() {
            self.word.push(char);
        } else if !self.word.is_empty() {
            self.words.push(std::mem::take(&mut self.word));
        }
    }

    fn keep(&mut self, text: &str) {
        self.whole.push_str(text);
        self.word.push_str(text);
    }

    fn end(mut self) -> (String, Vec<String>) {
        if !self.word.is_empty() {
            self.words.push(self.word);
        }
        (self.whole, self.words)
    }
}

impl<'a> Lexer<'a> {
    fn new(text: &'a str, escape: char, lookup: &'a Lookup<'a>) -> Self {
        Self {
            rest: text.chars().peekable(),
            lookup,
            escape,
            quotes: Quotes::Taken,
            raw_escapes: false,
            keep_unset: false,
            depth: 0,
            room: VALUE_MAX,
        }
    }

    fn spend(&mut self, bytes: usize) -> Result<(), String> {
        self.room = self
            .room
            .checked_sub(bytes)
            .ok_or_else(|| format!("the value has more than {VALUE_MAX} bytes"))?;
        Ok(())
    }

    /// Reads to `stop`, which is taken as well, or to the end.
    fn run(&mut self, stop: Option<char>) -> Result<(String, Vec<String>), String> {
        let mut out = Out::default();
        while let Some(&char) = self.rest.peek() {
            if Some(char) == stop {
                self.rest.next();
                return Ok(out.end());
            }
            match char {
                '\'' if self.quotes != Quotes::Text => out.keep(&self.single_quoted()?),
                '"' if self.quotes != Quotes::Text => out.keep(&self.double_quoted()?),
                '$' => self.dollar()?.chars().for_each(|char| out.split(char)),
                '<' => out.keep(&self.angle()),
                _ => {
                    self.rest.next();
                    self.spend(char.len_utf8())?;
                    if char != self.escape {
                        out.split(char);
                        continue;
                    }
                    if self.raw_escapes {
                        out.keep(char.encode_utf8(&mut [0; 4]));
                    }
                    if let Some(next) = self.rest.next() {
                        self.spend(next.len_utf8())?;
                        out.keep(next.encode_utf8(&mut [0; 4]));
                    }
                }
            }
        }
        match stop {
            Some(stop) => Err(format!("a {stop} is missing after ${{")),
            None => Ok(out.end()),
        }
    }

    fn single_quoted(&mut self) -> Result<String, String> {
        let mut out = String::new();
        self.quote(&mut out);
        loop {
            match self.rest.peek() {
                None => return Err("the quote ' is not closed".to_owned()),
                Some('\'') => {
                    self.quote(&mut out);
                    return Ok(out);
                }
                Some(&char) => {
                    self.rest.next();
                    self.spend(char.len_utf8())?;
                    out.push(char);
                }
            }
        }
    }

    fn double_quoted(&mut self) -> Result<String, String> {
        let mut out = String::new();
        self.quote(&mut out);
        loop {
            match self.rest.peek().copied() {
                None => return Err("the quote \" is not closed".to_owned()),
                Some('"') => {
                    self.quote(&mut out);
                    return Ok(out);
                }
                Some('$') => out.push_str(&self.dollar()?),
                Some(mut char) => {
                    self.rest.next();
                    self.spend(char.len_utf8())?;
                    if char == self.escape {
                        if self.raw_escapes {
                            out.push(char);
                        }
                        // Only what would mean something here is protected; before all else it is a character.
                        let escape = self.escape;
                        let protected = |next: &char| *next == '"' || *next == '$' || *next == escape;
                        match self.rest.next_if(protected) {
                            Some(next) => char = next,
                            None if self.rest.peek().is_none() || self.raw_escapes => continue,
                            None => {}
                        }
                    }
                    out.push(char);
                }
            }
        }
    }

    /// Takes a quote, and keeps it where quotes are kept.
    fn quote(&mut self, out: &mut String) {
        if let Some(quote) = self.rest.next()
            && self.quotes == Quotes::Kept
        {
            out.push(quote);
        }
    }

    /// `<<` and the white space after it belong to the word that follows.
    fn angle(&mut self) -> String {
        let mut out = String::new();
        out.extend(self.rest.next());
        if self.rest.next_if_eq(&'<').is_some() {
            out.push('<');
            while let Some(space) = self.rest.next_if(|char| matches!(char, ' ' | '\t' | '\r')) {
                out.push(space);
            }
        }
        out
    }

    /// What a `$` stands for.
    fn dollar(&mut self) -> Result<String, String> {
        self.rest.next();
        let value = if self.rest.next_if_eq(&'{').is_some() {
            self.depth += 1;
            if self.depth > DEPTH_MAX {
                return Err(format!("more than {DEPTH_MAX} substitutions in one another"));
            }
            let value = self.braced()?;
            self.depth -= 1;
            value
        } else {
            let name = self.name();
            match (self.lookup)(&name) {
                _ if name.is_empty() => "$".to_owned(),
                Some(value) => value,
                None if self.keep_unset => format!("${name}"),
                None => String::new(),
            }
        };
        self.spend(value.len())?;
        Ok(value)
    }

    /// Letters, digits and `_`; or digits; or one of the shell's own, which are never set.
    fn name(&mut self) -> String {
        let mut name = String::new();
        if let Some(own) = self.rest.next_if(|char| "@*#?-$!0".contains(*char)) {
            return own.to_string();
        }
        let digits = self.rest.peek().is_some_and(char::is_ascii_digit);
        let is_part = |char: &char| match digits {
            true => char.is_ascii_digit(),
            false => char.is_alphanumeric() || *char == '_',
        };
        while let Some(char) = self.rest.next_if(is_part) {
            name.push(char);
        }
        name
    }

    /// What follows `${`.
    fn braced(&mut self) -> Result<String, String> {
        let name = self.name();
        if name.is_empty() {
            return Err("bad substitution: a name belongs after ${".to_owned());
        }
        let value = (self.lookup)(&name);
        let unset = self.keep_unset && value.is_none();
        let kind = self
            .rest
            .next()
            .ok_or_else(|| format!("the }} of ${{{name} is missing"))?;
        match kind {
            '}' if unset => return Ok(format!("${{{name}}}")),
            '}' => return Ok(value.unwrap_or_default()),
            '/' => return self.replaced(&name, value),
            '#' | '%' => return self.trimmed(&name, kind, value),
            ':' | '-' | '+' | '?' => {}
            other => return Err(no_substitution(&name, &other.to_string())),
        }
        let empty_is_unset = kind == ':';
        let kind = if empty_is_unset { self.rest.next() } else { Some(kind) };
        let Some(kind @ ('-' | '+' | '?')) = kind else {
            return Err(no_substitution(
                &name,
                &format!(":{}", kind.map(String::from).unwrap_or_default()),
            ));
        };
        let (word, _) = self.run(Some('}'))?;
        if unset {
            let colon = if empty_is_unset { ":" } else { "" };
            return Ok(format!("${{{name}{colon}{kind}{word}}}"));
        }
        let set = value.filter(|value| !(empty_is_unset && value.is_empty()));
        match (kind, set) {
            ('-', None) | ('+', Some(_)) => Ok(word),
            ('+', None) => Ok(String::new()),
            (_, Some(value)) => Ok(value),
            (_, None) if word.is_empty() && empty_is_unset => Err(format!("{name} may not be unset or empty")),
            (_, None) if word.is_empty() => Err(format!("{name} may not be unset")),
            (_, None) => Err(format!("{name}: {word}")),
        }
    }

    /// A pattern keeps its escapes, which mean something in it.
    fn pattern(&mut self, stop: char) -> Result<String, String> {
        let before = std::mem::replace(&mut self.raw_escapes, true);
        let (word, _) = self.run(Some(stop))?;
        self.raw_escapes = before;
        Ok(word)
    }

    /// `${name#p}`, `${name##p}`, `${name%p}`, `${name%%p}`.
    fn trimmed(&mut self, name: &str, kind: char, value: Option<String>) -> Result<String, String> {
        let word = self.pattern('}')?;
        let Some(value) = value else {
            let kept = format!("${{{name}{kind}{word}}}");
            return Ok(if self.keep_unset { kept } else { String::new() });
        };
        let (longest, pattern) = match word.strip_prefix(kind) {
            Some(pattern) => (true, pattern),
            None => (false, word.as_str()),
        };
        if kind == '#' {
            pattern::without_prefix(&value, pattern, longest)
        } else {
            pattern::without_suffix(&value, pattern, longest)
        }
    }

    /// `${name/p/r}`, `${name//p/r}`.
    fn replaced(&mut self, name: &str, value: Option<String>) -> Result<String, String> {
        let all = self.rest.next_if_eq(&'/').is_some();
        let pattern = self.pattern('/')?;
        let by = self.pattern('}')?;
        match value {
            Some(value) => pattern::replaced(&value, &pattern, &by, all, self.room),
            None if self.keep_unset => Ok(format!("${{{name}/{pattern}/{by}}}")),
            None => Ok(String::new()),
        }
    }
}

fn no_substitution(name: &str, kind: &str) -> String {
    format!("bad substitution of ${{{name}{kind}…}}: there are :- - :+ + :? ? # ## % %% / //")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(name: &str) -> Option<String> {
        match name {
            "A" => Some("one".to_owned()),
            "PATH" => Some("/a/b:/c".to_owned()),
            "EMPTY" => Some(String::new()),
            "TWO" => Some("a b".to_owned()),
            "FILE" => Some("x.tar.gz".to_owned()),
            _ => None,
        }
    }

    #[test]
    fn variables_quotes_and_escapes() {
        for (text, wanted) in [
            ("$A", "one"),
            ("${A}x", "onex"),
            ("$NONE.", "."),
            ("a$", "a$"),
            ("$$", ""),
            ("$1x", "x"),
            ("'$A'", "$A"),
            ("\"$A\"", "one"),
            ("\"'$A'\"", "'one'"),
            (r"\$A", "$A"),
            (r#""\$A \"q\" \n""#, r#"$A "q" \n"#),
            (r"a\ b\", "a b"),
            ("${NONE:-x}", "x"),
            ("${NONE-x}", "x"),
            ("${EMPTY:-x}", "x"),
            ("${EMPTY-x}", ""),
            ("${A:+x}", "x"),
            ("${A+x}", "x"),
            ("${EMPTY:+x}", ""),
            ("${EMPTY+x}", "x"),
            ("${NONE+x}", ""),
            ("${A:?no}", "one"),
            ("${EMPTY?no}", ""),
            ("${NONE:-${NONE:-$A}}", "one"),
            ("${NONE:-\"a } b\"}", "a } b"),
            ("${NONE:-'$A'}", "$A"),
            (r"${NONE:-a\}b}", "a}b"),
            ("${FILE#*.}", "tar.gz"),
            ("${FILE##*.}", "gz"),
            ("${FILE%.*}", "x.tar"),
            ("${FILE%%.*}", "x"),
            ("${FILE/.*/}", "x"),
            ("${FILE/./-}", "x-tar.gz"),
            ("${FILE//./-}", "x-tar-gz"),
            (r"${PATH//\//-}", "-a-b:-c"),
            ("${PATH#${NONE:-/a}}", "/b:/c"),
            ("${NONE#x}", ""),
            ("<< a", "<< a"),
        ] {
            assert_eq!(expand(text, '\\', &value).unwrap(), wanted, "{text}");
        }
        assert_eq!(expand(r"a\b`$A `` ", '`', &value).unwrap(), r"a\b$A ` ");
    }

    #[test]
    fn what_is_no_word_is_told() {
        for (text, why) in [
            ("'a", "the quote ' is not closed"),
            ("\"a", "the quote \" is not closed"),
            ("${A", "is missing"),
            ("${", "bad substitution"),
            ("${}", "bad substitution"),
            ("${:-x}", "bad substitution"),
            ("${{A}}", "bad substitution"),
            ("${A:x}", "bad substitution of ${A:x"),
            ("${A:#x}", "bad substitution"),
            ("${A=x}", "bad substitution"),
            ("${A:-x", "is missing"),
            ("${A/x}", "is missing"),
            (r"${A#\x}", "protects nothing"),
            ("${NONE?}", "NONE may not be unset"),
            ("${EMPTY:?}", "EMPTY may not be unset or empty"),
            ("${NONE:?give it}", "NONE: give it"),
        ] {
            let told = expand(text, '\\', &value).unwrap_err().to_string();
            assert!(told.contains(why), "{text}: {told}");
        }
        for good in ["${NONE?}", "${NONE:?x}", "a$b", "${A%x}"] {
            assert_eq!(check(good, '\\'), Ok(()), "{good}");
        }
        assert!(check("${A", '\\').is_err() && check("'", '\\').is_err());
    }

    #[test]
    fn nothing_grows_or_nests_without_end() {
        let deep = format!("{}x{}", "${N:-".repeat(100_000), "}".repeat(100_000));
        assert!(
            expand(&deep, '\\', &value)
                .unwrap_err()
                .to_string()
                .contains("in one another")
        );
        let long = "y".repeat(1000);
        let told = expand(&"$L".repeat(2000), '\\', &|_| Some(long.clone())).unwrap_err();
        assert!(told.to_string().contains("1048576 bytes"));
    }

    #[test]
    fn values_are_split_where_words_are_asked_for() {
        let words = |text| expand_words(text, '\\', &value).unwrap();
        assert_eq!(words("$TWO c"), ["a", "b", "c"]);
        assert_eq!(words("\"$TWO\" c\\ d"), ["a b", "c d"]);
        assert_eq!(words("x$A ${NONE}"), ["xone"]);
        assert_eq!(words(" 80${NONE:-90} "), ["8090"]);
    }

    #[test]
    fn documents_have_no_quotes() {
        assert_eq!(expand_document("'$A' \"\\$A\"\n", &value).unwrap(), "'one' \"$A\"\n");
    }

    #[test]
    fn raw_words_keep_all() {
        assert_eq!(
            raw_words(r#"cat << "E F" <<-B '<<C' $x ${y:-1} \z"#, true).unwrap(),
            ["cat", "<< \"E F\"", "<<-B", "'<<C'", "$x", "${y:-1}", "\\z"]
        );
        assert_eq!(raw_words("\"E F\"", false).unwrap(), ["E F"]);
        assert_eq!(raw_words("a 'b", true), None);
    }

    #[test]
    fn pairs_have_two_forms() {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(
            pairs("a=b  c='d e' f=", '\\').unwrap(),
            [pair("a", "b"), pair("c", "'d e'"), pair("f", "")]
        );
        assert_eq!(pairs("a  b c=d", '\\').unwrap(), [pair("a", "b c=d")]);
        for (text, at, why) in [
            ("", 0..0, "wants NAME=value"),
            ("a", 0..1, "a has no value"),
            ("a=b c", 4..5, "c is not NAME=value"),
            ("=b", 0..2, "is missing"),
            ("a=b c='x", 4..8, "not closed"),
            ("a 'x", 2..4, "not closed"),
        ] {
            let (place, told) = pairs(text, '\\').unwrap_err();
            assert!(place == at && told.contains(why), "{text}: {place:?} {told}");
        }
    }
}
