//! A Dockerfile as typed instructions.
//!
//! What is expanded later is kept as it is written: variables, quotes and backslashes are still in it. What a
//! heredoc holds is kept byte for byte. Reference: Docker's `Dockerfile reference`, frontend 1.19.
//!
//! - [`mod@pointer`]: where something stands, and errors that show it;
//! - `lines`: directives, comments, continued lines, heredocs;
//! - `flags`: `--name=value` before the arguments; [`mounts`]: what `--mount` says; `values`: durations,
//!   sizes, modes, near misses;
//! - `read`: the instructions.

mod flags;
mod lines;
pub mod mounts;
pub mod pointer;
mod read;
pub(crate) mod values;

use std::borrow::Cow;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

pub use pointer::Origin;

pub use crate::image::change::{Command, Healthcheck};

use crate::error::{Error, Result};
use lines::Line;
use read::{Said, Wrong};

/// Bytes that a Dockerfile may have.
pub const TEXT_MAX: usize = 1 << 20;
/// Instructions that it may have.
pub const INSTRUCTIONS_MAX: usize = 10_000;

/// A Dockerfile, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dockerfile {
    /// The escape character: `\`, or `` ` `` by a directive.
    pub escape: char,
    /// `ARG`s before the first `FROM`.
    pub global_args: Vec<(Origin, Argument)>,
    /// In order; never empty.
    pub stages: Vec<Stage>,
}

/// `FROM` and what comes after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stage {
    /// An image, `scratch` or an earlier stage: unexpanded.
    pub base: String,
    /// After `AS`, in lower case.
    pub name: Option<String>,
    /// `--platform`: unexpanded.
    pub platform: Option<String>,
    /// The `FROM` itself, for progress and errors.
    pub origin: Origin,
    /// What is done to it.
    pub instructions: Vec<Instruction>,
}

/// One instruction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instruction {
    /// Where.
    pub origin: Origin,
    /// What.
    pub word: Word,
}

/// What an instruction says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Word {
    /// `ADD`: as `COPY`, and archives are unpacked.
    Add(Copy),
    /// `ARG NAME[=DEFAULT] …`.
    Arg(Vec<Argument>),
    /// `CMD`.
    Cmd(Command),
    /// `COPY`.
    Copy(Copy),
    /// `ENTRYPOINT`.
    Entrypoint(Command),
    /// `ENV`: names and values, unexpanded.
    Env(Vec<(String, String)>),
    /// `EXPOSE`: unexpanded.
    Expose(Vec<String>),
    /// `HEALTHCHECK`; none for `NONE`.
    Healthcheck(Option<Healthcheck>),
    /// `LABEL`: unexpanded.
    Label(Vec<(String, String)>),
    /// `MAINTAINER`.
    Maintainer(String),
    /// `ONBUILD`: the instruction as text, checked to be one.
    Onbuild(String),
    /// `RUN`.
    Run(Run),
    /// `SHELL`.
    Shell(Vec<String>),
    /// `STOPSIGNAL`: unexpanded.
    StopSignal(String),
    /// `USER`: unexpanded.
    User(String),
    /// `VOLUME`: unexpanded.
    Volume(Vec<String>),
    /// `WORKDIR`: unexpanded.
    Workdir(String),
}

/// A name, and its default value, unexpanded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Argument {
    /// The name.
    pub name: String,
    /// The default.
    pub value: Option<String>,
}

/// `RUN`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// What to run; with heredocs the shell form has the line that they are for.
    pub command: Command,
    /// Whether the heredoc is the whole command: a script, and not the input of one.
    pub is_script: bool,
    /// Heredocs, in order.
    pub documents: Vec<Document>,
    /// `--mount`, in order.
    pub mounts: Vec<MountText>,
    /// `--network`.
    pub network: RunNetwork,
}

/// `--mount` as it is written: read when its variables have values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountText {
    /// The whole of it, without the flag's name.
    pub text: String,
    /// Its `from`: a stage or an image, which has no variables.
    pub from: Option<String>,
}

/// The network of one `RUN`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RunNetwork {
    /// The build's.
    #[default]
    Default,
    /// None.
    None,
    /// The host's; refused unless the build may.
    Host,
}

/// A heredoc.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// The word that ends it, which names the file of a `COPY`.
    pub name: String,
    /// The lines as they stand there, with their ends.
    pub content: String,
    /// Whether variables are put in: the word is without quotes.
    pub expand: bool,
    /// Whether tabs at the beginning of lines do not count: `<<-`.
    pub strips_tabs: bool,
}

impl Document {
    /// The content, without the tabs that do not count.
    pub fn text(&self) -> Cow<'_, str> {
        if !self.strips_tabs {
            return Cow::Borrowed(&self.content);
        }
        let lines = self.content.split_inclusive('\n');
        Cow::Owned(lines.map(|line| line.trim_start_matches('\t')).collect())
    }
}

/// `RUN --mount`, its variables put in. Options that the type does not know are refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mount {
    /// Of the context, a stage or an image.
    Bind {
        /// Where.
        target: String,
        /// In the context or in `from`; the root of it by default.
        source: String,
        /// A stage or image.
        from: Option<String>,
        /// `rw`: what is written goes nowhere.
        writable: bool,
    },
    /// Kept from build to build.
    Cache(Cache),
    /// Memory.
    Tmpfs {
        /// Where.
        target: String,
        /// Bytes at most.
        size: Option<u64>,
    },
    /// A file, or a variable, with a secret.
    Secret(Secret),
}

/// `--mount=type=cache`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cache {
    /// Where.
    pub target: String,
    /// Which; the target by default.
    pub id: String,
    /// Who may use it beside.
    pub sharing: Sharing,
    /// What it begins with: a stage or image, and the folder in it.
    pub from: Option<String>,
    /// The folder in `from`.
    pub source: String,
    /// Not writable.
    pub read_only: bool,
    /// Of a new one, in octal: 0755.
    pub mode: u32,
    /// Owner of a new one.
    pub uid: u32,
    /// Group of a new one.
    pub gid: u32,
}

/// Who may use a cache at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sharing {
    /// All.
    #[default]
    Shared,
    /// Each one of its own.
    Private,
    /// One after the other.
    Locked,
}

/// `--mount=type=secret`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Secret {
    /// Which; the target's last name by default.
    pub id: String,
    /// The file; `/run/secrets/ID` by default, none where only `env` is asked for.
    pub target: Option<String>,
    /// The variable.
    pub env: Option<String>,
    /// Whether it must be there.
    pub required: bool,
    /// In octal: 0400.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// `COPY` and `ADD`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copy {
    /// What; never empty.
    pub sources: Vec<Source>,
    /// Where to: unexpanded.
    pub target: String,
    /// A stage or an image: unexpanded. None: the context.
    pub from: Option<String>,
    /// `USER[:GROUP]`: unexpanded.
    pub chown: Option<String>,
    /// Octal: unexpanded.
    pub chmod: Option<String>,
    /// `--exclude`: patterns, unexpanded.
    pub exclude: Vec<String>,
    /// `--parents`.
    pub parents: bool,
    /// `--link`: the target's folders are not followed.
    pub link: bool,
    /// `ADD --unpack`: whether archives are unpacked; by default they are by `ADD` alone.
    pub unpack: Option<bool>,
    /// `ADD --keep-git-dir`: for remote sources, which are refused.
    pub keep_git_dir: bool,
    /// `ADD --checksum`: for remote sources, which are refused.
    pub checksum: Option<String>,
}

/// What is copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A path or pattern: unexpanded.
    Path(String),
    /// A heredoc, as a file of that name.
    Document(Document),
}

/// Reads a Dockerfile; `shown` is what errors call it.
///
/// # Errors
/// Invalid, with the line and a pointer below the word, where it is none.
pub fn parse(text: &str, shown: &Path) -> Result<Dockerfile> {
    let reader = FileReader::new(text, shown)?;
    let lines = reader.lines()?;
    let mut global_args = Vec::new();
    let mut stages: Vec<Stage> = Vec::new();
    for line in &lines.lines {
        let origin = reader.origin(line);
        match (reader.said(line, lines.escape)?, stages.last_mut()) {
            (Said::From { base, name, platform }, _) => stages.push(Stage {
                base,
                name,
                platform,
                origin,
                instructions: Vec::new(),
            }),
            (Said::Word(word), Some(stage)) => stage.instructions.push(Instruction { origin, word }),
            (Said::Word(Word::Arg(arguments)), None) => {
                global_args.extend(arguments.into_iter().map(|argument| (origin.clone(), argument)));
            }
            (Said::Word(_), None) => {
                let keyword = origin.text.split(lines::is_space).next().unwrap_or_default();
                let message = format!("{keyword} stands before the first FROM");
                return Err(origin
                    .error(keyword, &message)
                    .hinted("begin with FROM IMAGE, or FROM scratch"));
            }
        }
    }
    if stages.is_empty() {
        let message = if lines.lines.is_empty() {
            "the file has no instructions"
        } else {
            "there is no FROM"
        };
        return Err(reader
            .at(0..0, message)
            .hinted("begin with FROM IMAGE, or FROM scratch"));
    }
    Ok(Dockerfile {
        escape: lines.escape,
        global_args,
        stages,
    })
}

/// Reads an `ONBUILD` instruction of an image; `shown` is what errors call it.
///
/// # Errors
/// Invalid where it is not one instruction, or one that cannot stand there.
pub fn parse_trigger(text: &str, shown: &Path) -> Result<Instruction> {
    let reader = FileReader::new(text, shown)?;
    let lines = reader.lines()?;
    let [line] = &lines.lines[..] else {
        return Err(reader.at(0..0, "an image's ONBUILD is not one instruction"));
    };
    match reader.said(line, lines.escape)? {
        Said::Word(word) => Ok(Instruction {
            origin: reader.origin(line),
            word,
        }),
        Said::From { .. } => Err(reader.at(line.span.clone(), "FROM cannot stand after ONBUILD")),
    }
}

/// A file while it is read.
struct FileReader {
    file: Arc<pointer::Source>,
}

impl FileReader {
    fn new(text: &str, shown: &Path) -> Result<Self> {
        if text.len() > TEXT_MAX {
            return Err(Error::invalid(format!(
                "{} has more than {TEXT_MAX} bytes",
                shown.display()
            )));
        }
        let reader = Self {
            file: Arc::new(pointer::Source {
                shown: shown.to_owned(),
                text: text.strip_prefix('\u{feff}').unwrap_or(text).to_owned(),
            }),
        };
        match reader.file.text.find('\0') {
            Some(at) => Err(reader.at(at..at + 1, "a NUL is no text").hinted("is it a Dockerfile?")),
            None => Ok(reader),
        }
    }

    fn at(&self, span: Range<usize>, message: &str) -> Error {
        pointer::at(&self.file.shown, &self.file.text, span, message)
    }

    fn told(&self, span: Range<usize>, wrong: Wrong) -> Error {
        let error = self.at(span, &wrong.message);
        match wrong.hint {
            Some(hint) => error.hinted(hint),
            None => error,
        }
    }

    fn lines(&self) -> Result<lines::Lines> {
        let lines = lines::read(&self.file.text).map_err(|wrong| self.told(wrong.at.clone(), wrong))?;
        match lines.lines.get(INSTRUCTIONS_MAX) {
            Some(line) => {
                let message = format!("the file has more than {INSTRUCTIONS_MAX} instructions");
                Err(self.at(line.span.clone(), &message))
            }
            None => Ok(lines),
        }
    }

    fn said(&self, line: &Line, escape: char) -> Result<Said> {
        read::instruction(line, escape).map_err(|wrong| self.told(line.place(wrong.at.clone()), wrong))
    }

    fn origin(&self, line: &Line) -> Origin {
        Origin {
            file: self.file.clone(),
            text: line.text.trim().to_owned(),
            line: line.number,
            span: line.span.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dockerfile(text: &str) -> Dockerfile {
        parse(text, Path::new("Dockerfile")).unwrap()
    }

    /// The words of the last stage.
    fn words(text: &str) -> Vec<Word> {
        let last = dockerfile(text).stages.pop().unwrap();
        last.instructions
            .into_iter()
            .map(|instruction| instruction.word)
            .collect()
    }

    fn word(text: &str) -> Word {
        words(&format!("FROM a\n{text}")).remove(0)
    }

    fn shell(line: &str) -> Command {
        Command::Shell(line.to_owned())
    }

    fn run(text: &str) -> Run {
        match word(text) {
            Word::Run(run) => run,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn lines_are_joined_as_docker_joins_them() {
        for (text, line) in [
            ("RUN a \\\n b", "a  b"),
            ("RUN a \\\n# no\n  # no\n\n b", "a  b"),
            ("RUN a \\  \t\nb", "a b"),
            ("RUN a \\\r\n b\r\n", "a  b"),
            ("  run   a  ", "a"),
            ("R\\\nUN a", "a"),
            ("RUN a # b", "a # b"),
            ("RUN a \\\\\nRUN b", "a \\\\"),
            ("RUN a \\", "a"),
            ("RUN\ta", "a"),
            ("RUN a\n\\\n", "a"),
        ] {
            assert_eq!(run(text).command, shell(line), "{text:?}");
        }
        assert_eq!(words("# escape=`\nFROM a\nRUN c:\\ `\n b"), [word("RUN c:\\  b")]);
        assert_eq!(
            words("#Syntax = x\n# ESCAPE = `\n#check=y\nFROM a\nRUN a `\nb"),
            [word("RUN a b")]
        );
        assert_eq!(words("\n# escape=`\nFROM a\nRUN a `\nUSER b").len(), 2);
        assert_eq!(words("# a comment\n# escape=`\nFROM a\nRUN a `\nUSER b").len(), 2);
        assert_eq!(dockerfile("\u{feff}FROM a").stages[0].origin.span, 0..6);
    }

    #[test]
    fn instructions_know_where_they_stand() {
        let file = dockerfile("# c\n\nFROM a\n  RUN b \\\n# d\n c\nUSER e\n");
        let [run, user] = &file.stages[0].instructions[..] else {
            panic!("{file:?}")
        };
        assert_eq!((run.origin.line, run.origin.text.as_str()), (4, "RUN b  c"));
        assert_eq!(&run.origin.file.text[run.origin.span.clone()], "RUN b \\\n# d\n c");
        assert_eq!((user.origin.line, user.origin.text.as_str()), (7, "USER e"));
    }

    #[test]
    fn heredocs_are_taken_whole() {
        let heredocs = |text: &str| {
            let run = run(text);
            let documents = run.documents.iter().map(|document| {
                let kind = (document.expand, document.strips_tabs);
                (document.name.clone(), document.content.clone(), kind)
            });
            (run.is_script, documents.collect::<Vec<_>>())
        };
        let document = |name: &str, content: &str, expand, strips| (name.into(), content.into(), (expand, strips));
        for (text, is_script, documents) in [
            (
                "RUN <<EOF\na\n b # c\nEOF\nUSER x",
                true,
                vec![document("EOF", "a\n b # c\n", true, false)],
            ),
            ("RUN <<-'E'\n\ta\n\tE", true, vec![document("E", "\ta\n", false, true)]),
            ("RUN << EOF\nEOF\n", true, vec![document("EOF", "", true, false)]),
            ("RUN 3<<EOF\nEOF\n", true, vec![document("EOF", "", true, false)]),
            (
                "RUN <<EOF cat\na\nEOF",
                false,
                vec![document("EOF", "a\n", true, false)],
            ),
            (
                "RUN cat <<A <<B > x\n1\nA\n2\nB",
                false,
                vec![document("A", "1\n", true, false), document("B", "2\n", true, false)],
            ),
            (
                "RUN <<\"E F\"\na\\\nE F\r\n",
                true,
                vec![document("E F", "a\\\n", false, false)],
            ),
            (
                "RUN --network=none <<EOF\na\r\nEOF\r\n",
                true,
                vec![document("EOF", "a\r\n", true, false)],
            ),
            ("RUN echo '<<EOF' \"<<EOF\" a<<EOF", false, vec![]),
            ("RUN [\"cat\", \"<<EOF\"]", false, vec![]),
            ("RUN echo $((1<<2)) <<<x", false, vec![]),
        ] {
            assert_eq!(heredocs(text), (is_script, documents), "{text}");
        }
        let Word::Copy(copy) = word("COPY a <<B <<-C d/\n$x\nB\n\ty\nC\n") else {
            panic!()
        };
        let contents = copy.sources.iter().map(|source| match source {
            Source::Path(path) => path.clone(),
            Source::Document(document) => format!("{}:{}", document.name, document.text()),
        });
        assert_eq!(contents.collect::<Vec<_>>(), ["a", "B:$x\n", "C:y\n"]);
        assert_eq!(
            word("ONBUILD RUN cat <<'E'\nx\nE\n"),
            Word::Onbuild("RUN cat <<'E'\nx\nE".into())
        );
        assert_eq!(words("FROM a\nENV A=<<B\nUSER x").len(), 2);
    }

    #[test]
    fn commands_have_two_forms() {
        let exec = |words: &[&str]| Command::Exec(words.iter().map(ToString::to_string).collect());
        for (text, command) in [
            ("CMD [\"a\", \"b c\"]", exec(&["a", "b c"])),
            ("CMD []", exec(&[])),
            ("CMD", shell("")),
            ("CMD a 'b'", shell("a 'b'")),
            ("CMD ['a']", shell("['a']")),
            ("CMD [\"a\"] b", shell("[\"a\"] b")),
            ("CMD [ \"a\" \\\n, \"b\" ]", exec(&["a", "b"])),
        ] {
            assert_eq!(word(text), Word::Cmd(command), "{text}");
        }
    }

    #[test]
    fn stages_and_global_arguments() {
        let file = dockerfile("ARG A=1 B\nARG C\nFROM a:$A AS Base\nFROM --platform=$X base\nfrom b as c.d-e_f\n");
        let stages: Vec<_> = file
            .stages
            .iter()
            .map(|stage| (&*stage.base, stage.name.as_deref()))
            .collect();
        assert_eq!(stages, [("a:$A", Some("base")), ("base", None), ("b", Some("c.d-e_f"))]);
        assert_eq!(file.stages[1].platform.as_deref(), Some("$X"));
        let names: Vec<_> = file
            .global_args
            .iter()
            .map(|(origin, arg)| (origin.line, &*arg.name))
            .collect();
        assert_eq!(names, [(1, "A"), (1, "B"), (2, "C")]);
    }

    #[test]
    fn the_other_words() {
        let texts = |texts: &[&str]| texts.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(
            word("EXPOSE 80 53/udp $P"),
            Word::Expose(texts(&["$P", "53/udp", "80"]))
        );
        assert_eq!(word("VOLUME [\"/a b\"]"), Word::Volume(texts(&["/a b"])));
        assert_eq!(word("VOLUME /a /b"), Word::Volume(texts(&["/a", "/b"])));
        assert_eq!(word("SHELL [\"a\", \"-c\"]"), Word::Shell(texts(&["a", "-c"])));
        assert_eq!(word("MAINTAINER A B <c@d>"), Word::Maintainer("A B <c@d>".into()));
        assert_eq!(word("WORKDIR /a b"), Word::Workdir("/a b".into()));
        assert_eq!(
            word("ENV A=\"b c\" \\\n D=e"),
            Word::Env(vec![("A".into(), "\"b c\"".into()), ("D".into(), "e".into())])
        );
        assert_eq!(word("HEALTHCHECK none"), Word::Healthcheck(None));
        let check = Healthcheck {
            command: shell("x -y"),
            interval: Some(std::time::Duration::from_secs(90)),
            timeout: None,
            start_period: None,
            start_interval: None,
            retries: Some(2),
        };
        assert_eq!(
            word("HEALTHCHECK --interval=1m30s --retries=2 CMD x -y"),
            Word::Healthcheck(Some(check))
        );
        let Word::Copy(copy) =
            word("COPY --chown=\"a b\" --link=false --parents --exclude=x --exclude=y --from=z [\"a b\", \"c\"]")
        else {
            panic!()
        };
        assert_eq!((copy.chown.as_deref(), copy.from.as_deref()), (Some("a b"), Some("z")));
        assert_eq!(
            (copy.parents, copy.link, copy.exclude),
            (true, false, texts(&["x", "y"]))
        );
        assert_eq!(copy.sources, [Source::Path("a b".into())]);
    }

    #[test]
    fn errors_point_at_the_word() {
        for (text, place, message, hint) in [
            ("", "1:1", "no instructions", "FROM"),
            ("# c\n\n", "1:1", "no instructions", "FROM"),
            ("ARG A", "1:1", "no FROM", "FROM"),
            ("RUN a\nFROM b", "1:1", "RUN stands before the first FROM", "FROM"),
            ("FROM a\n  RUNN x", "2:3", "unknown instruction RUNN", "RUN?"),
            ("FROM a\nFORM x", "2:1", "unknown instruction FORM", "FROM?"),
            ("FROM a\n@@ x", "2:1", "unknown instruction @@", "there are ADD"),
            ("FROM", "1:1", "FROM wants an image", "scratch"),
            ("FROM a b", "1:8", "perhaps AS and a name", "FROM IMAGE"),
            ("FROM a AS b c", "1:8", "perhaps AS", "one word"),
            ("FROM a AS 1b", "1:11", "not a stage's name: 1b", "letters"),
            ("FROM --platfrom=x a", "1:6", "unknown flag --platfrom", "--platform?"),
            ("FROM a\nRUN", "2:1", "RUN wants a command", ""),
            ("FROM a\nRUN []", "2:5", "RUN wants a command", ""),
            ("FROM a\nRUN [\"a\", 1]", "2:5", "texts only", "double quotes"),
            (
                "FROM a\nRUN --mount=type=bnd,target=/x y",
                "2:13",
                "unknown type of mount bnd",
                "bind?",
            ),
            (
                "FROM a\nRUN --mount=target=/x,nope=1 y",
                "2:23",
                "unknown option nope",
                "",
            ),
            ("FROM a\nRUN --mount=type=cache y", "2:13", "wants a target", ""),
            ("FROM a\nRUN --mount y", "2:5", "--mount wants a value", ""),
            ("FROM a\nRUN --network=lan y", "2:5", "unknown network lan", "host"),
            ("FROM a\nRUN --security=insecure y", "2:5", "confined", ""),
            ("FROM a\nRUN \\\n --foo y", "3:2", "unknown flag --foo", "--mount"),
            (
                "FROM a\nRUN <<EOF\na\n",
                "2:5",
                "the heredoc EOF has no end",
                "a line that is EOF",
            ),
            ("FROM a\nCOPY x", "2:6", "COPY wants a source and a target", ""),
            ("FROM a\nCOPY", "2:1", "COPY wants a source and a target", ""),
            ("FROM a\nCOPY a <<EOF\nx\nEOF", "2:8", "cannot be a target", ""),
            ("FROM a\nCOPY <<../x /\nx\n../x", "2:6", "which ../x cannot be", ""),
            ("FROM a\nCOPY --chown b c", "2:6", "--chown wants a value", ""),
            ("FROM a\nCOPY --link=maybe b c", "2:6", "true or false", ""),
            ("FROM a\nCOPY --from=a --from=b c d", "2:15", "a second time", ""),
            ("FROM a\nCOPY --from=$a c d", "2:6", "no variables", "FROM ${IMAGE}"),
            ("FROM a\nADD --from=a c d", "2:5", "unknown flag --from", ""),
            ("FROM a\nENV", "2:1", "ENV wants NAME=value", ""),
            ("FROM a\nENV A", "2:5", "A has no value", ""),
            ("FROM a\nENV A=1 \\\n B", "3:2", "B is not NAME=value", "quotes"),
            ("FROM a\nENV A='b", "2:5", "the quote ' is not closed", ""),
            ("FROM a\nENV A=${b", "2:5", "is missing", ""),
            ("FROM a\nLABEL =b", "2:7", "is missing", ""),
            ("FROM a\nARG", "2:1", "ARG wants a name", ""),
            ("FROM a\nARG =b", "2:5", "is missing", ""),
            (
                "FROM a\nSHELL /bin/sh -c",
                "2:7",
                "SHELL wants a JSON list",
                "/bin/bash",
            ),
            ("FROM a\nSHELL []", "2:7", "SHELL wants a JSON list", ""),
            ("FROM a\nEXPOSE", "2:1", "EXPOSE wants a port", ""),
            ("FROM a\nVOLUME [\"\"]", "2:8", "not an empty name", ""),
            ("FROM a\nUSER", "2:1", "USER wants a user", ""),
            ("FROM a\nHEALTHCHECK CMD", "2:13", "wants a command", ""),
            ("FROM a\nHEALTHCHECK nope", "2:13", "does not know nope", "NONE"),
            ("FROM a\nHEALTHCHECK NONE x", "2:18", "takes no more words", ""),
            (
                "FROM a\nHEALTHCHECK --interval=5 CMD x",
                "2:13",
                "not a duration: 5",
                "1m30s",
            ),
            ("FROM a\nHEALTHCHECK --retries=-1 CMD x", "2:13", "not a number: -1", ""),
            ("FROM a\nONBUILD", "2:1", "ONBUILD wants an instruction", ""),
            (
                "FROM a\nONBUILD ONBUILD RUN x",
                "2:9",
                "ONBUILD cannot stand after ONBUILD",
                "",
            ),
            ("FROM a\nONBUILD from x", "2:9", "FROM cannot stand after ONBUILD", ""),
            ("FROM a\nONBUILD MAINTAINER x", "2:9", "MAINTAINER cannot", ""),
            ("FROM a\nONBUILD COPY x", "2:14", "COPY wants a source and a target", ""),
            ("FROM a\nONBUILD RUNN x", "2:9", "unknown instruction RUNN", "RUN?"),
            ("# escape=x\nFROM a", "1:10", "no escape character: x", "`"),
            ("# escape=`\n#escape=`\nFROM a", "2:1", "a second time", ""),
            ("FROM a\nRUN \0", "2:5", "NUL", ""),
        ] {
            let error = parse(text, Path::new("Dockerfile")).unwrap_err();
            let told = error.to_string();
            assert!(told.starts_with(&format!("Dockerfile:{place}: ")), "{text:?}: {told}");
            assert!(
                told.lines().next().unwrap_or_default().contains(message),
                "{text:?}: {told}"
            );
            assert!(
                error.hint().unwrap_or_default().contains(hint),
                "{text:?}: {:?}",
                error.hint()
            );
            assert_eq!(told.lines().count(), 3, "{told}");
        }
        let many = format!("FROM a\n{}", "USER b\n".repeat(INSTRUCTIONS_MAX));
        let told = parse(&many, Path::new("D")).unwrap_err().to_string();
        assert!(told.contains("10000 instructions"));
        let long = "x".repeat(TEXT_MAX + 1);
        assert!(
            parse(&long, Path::new("D"))
                .unwrap_err()
                .to_string()
                .contains("1048576 bytes")
        );
    }
}
