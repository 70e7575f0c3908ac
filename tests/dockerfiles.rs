//! Small Dockerfiles, each with what becomes of it: every folder of `tests/dockerfiles` is one.
//!
//! `Dockerfile` is planned and each of its stages stepped through; what the steps ask for, what the history says
//! of them and the config at the end, or the error, are in `expected`. `options` has lines `build-arg NAME=VALUE`,
//! `target NAME` and, for what the base image holds, `onbuild INSTRUCTION`. Nothing is run. With
//! `PLYWOOD_TEST_BLESS=1` what came is written down as what is expected: for a person to read then.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests panic as tests do"
)]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use plywood::build::arguments::Globals;
use plywood::build::plan::{Plan, Source};
use plywood::build::state::{Base, State};
use plywood::build::syntax;
use plywood::build::work::{CopySource, CopyWork, Effect, RunWork, Work};
use plywood::error::Result;
use plywood::image::oci::ImageConfig;

/// What the folder's `options` say.
#[derive(Default)]
struct Options {
    given: BTreeMap<String, String>,
    target: Option<String>,
    base: ImageConfig,
}

impl Options {
    fn read(folder: &Path) -> Self {
        let mut options = Self::default();
        let run = &mut options.base.config;
        run.env = vec!["PATH=/base".to_owned(), "BASE=yes".to_owned()];
        run.cmd = Some(vec!["base".to_owned()]);
        let mut triggers = Vec::new();
        for line in fs::read_to_string(folder.join("options")).unwrap_or_default().lines() {
            match line.split_once(' ').expect("an option") {
                ("build-arg", pair) => {
                    let (name, value) = pair.split_once('=').expect("NAME=VALUE");
                    options.given.insert(name.to_owned(), value.to_owned());
                }
                ("target", name) => options.target = Some(name.to_owned()),
                ("onbuild", text) => triggers.push(text.replace("\\n", "\n")),
                (other, _) => panic!("unknown option {other}"),
            }
        }
        if !triggers.is_empty() {
            let run = &mut options.base.config;
            run.other.insert("OnBuild".to_owned(), triggers.into());
        }
        options
    }
}

/// All that becomes of a Dockerfile, as text.
fn evaluated(text: &str, options: &Options, out: &mut String) -> Result<()> {
    let file = syntax::parse(text, Path::new("Dockerfile"))?;
    let target = options.target.as_deref();
    let globals = Arc::new(Globals::new(&file, &options.given, target)?);
    let plan = Plan::new(&file, target, &globals)?;
    for name in globals.unused(&file) {
        writeln!(out, "unused: {name}").unwrap();
    }
    let mut done: BTreeMap<usize, State> = BTreeMap::new();
    for planned in &plan.stages {
        writeln!(out, "stage {}: {:?} {:?}", planned.index, planned.base, planned.needs).unwrap();
        let base = match &planned.base {
            Source::Scratch => Base::Scratch,
            Source::Image(_) => Base::Image(&options.base),
            Source::Stage(index) => Base::Stage(&done[index]),
        };
        let mut state = State::begin(base, &globals);
        let mut instructions = state.triggers("the base")?;
        instructions.extend(file.stages[planned.index].instructions.iter().cloned());
        for instruction in &instructions {
            let effect = state.step(instruction)?;
            show(&effect, out);
        }
        let config = serde_json::to_value(&state.config.config).unwrap();
        writeln!(out, "  config {config}").unwrap();
        if let Some(author) = &state.config.author {
            writeln!(out, "  author {author}").unwrap();
        }
        done.insert(planned.index, state);
    }
    Ok(())
}

fn show(effect: &Effect, out: &mut String) {
    match effect {
        Effect::Config { created_by: None } => writeln!(out, "  -"),
        Effect::Config { created_by: Some(text) } => writeln!(out, "  {text}"),
        Effect::Work(work) => writeln!(out, "  {}", work.created_by()),
    }
    .unwrap();
    let mut detail = |name: &str, value: String| writeln!(out, "    {name} {value}").unwrap();
    match effect {
        Effect::Config { .. } => {}
        Effect::Work(Work::Folder(work)) => detail("folder", format!("{} {:?}", work.path, work.user)),
        Effect::Work(Work::Copy(work)) => show_copy(work, &mut detail),
        Effect::Work(Work::Run(work)) => show_run(work, &mut detail),
    }
}

fn show_copy(work: &CopyWork, detail: &mut impl FnMut(&str, String)) {
    for source in &work.sources {
        match source {
            CopySource::Path(path) => detail("path", format!("{path:?}")),
            CopySource::File { name, content } => detail("file", format!("{name:?} {content:?}")),
        }
    }
    detail("to", format!("{:?}", work.target));
    let marks = [("unpack", work.unpack), ("parents", work.parents), ("link", work.link)];
    for (name, _) in marks.into_iter().filter(|(_, is_set)| *is_set) {
        detail(name, String::new());
    }
    for (name, value) in [("from", &work.from), ("chown", &work.chown)] {
        if let Some(value) = value {
            detail(name, format!("{value:?}"));
        }
    }
    if let Some(mode) = work.chmod {
        detail("chmod", format!("{mode:o}"));
    }
    for pattern in &work.exclude {
        detail("exclude", format!("{pattern:?}"));
    }
}

fn show_run(work: &RunWork, detail: &mut impl FnMut(&str, String)) {
    detail("args", format!("{:?}", work.args));
    detail("env", work.env.join(" "));
    if !work.proxies.is_empty() {
        detail("proxies", work.proxies.join(" "));
    }
    if let Some(script) = &work.script {
        detail("script", format!("{} {:?}", script.path, script.content));
    }
    for mount in &work.mounts {
        detail("mount", format!("{mount:?}"));
    }
    detail(
        "in",
        format!("{} as {:?}, network {:?}", work.working_dir, work.user, work.network),
    );
}

#[test]
fn each_dockerfile_comes_to_what_is_expected() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/dockerfiles");
    let mut folders: Vec<_> = fs::read_dir(&root)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    folders.sort();
    assert!(folders.len() >= 60, "only {} Dockerfiles", folders.len());
    let mut wrong = Vec::new();
    for folder in folders {
        let text = fs::read_to_string(folder.join("Dockerfile")).unwrap();
        let mut told = String::new();
        if let Err(error) = evaluated(&text, &Options::read(&folder), &mut told) {
            writeln!(told, "error: {error}").unwrap();
            if let Some(hint) = error.hint() {
                writeln!(told, "hint: {hint}").unwrap();
            }
        }
        // The machine's own architecture is not what the Dockerfiles are about.
        let told = told.replace(plywood::image::oci::architecture(), "ARCH");
        let expected = folder.join("expected");
        if std::env::var_os("PLYWOOD_TEST_BLESS").is_some() {
            fs::write(&expected, &told).unwrap();
        } else if fs::read_to_string(&expected).unwrap_or_default() != told {
            wrong.push(format!("{}:\n{told}", folder.display()));
        }
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
}
