//! `plywood build`: a Dockerfile becomes an image.
//!
//! ```text
//! parse, plan                    the Dockerfile, its stages, those that the target needs
//! for each stage:
//!   its base                     an image of the store, an earlier stage, or nothing
//!   for each instruction         the state changes; a step of the build cache is found, or done and kept
//! publish                        the last stage's config over its layers, under its names
//! ```
//!
//! A step that is done is a layer, and a record in the build cache that keeps it: whatever happens to the build
//! afterwards, the next one goes on from there. Until an image is published nothing else of a build can be seen.

mod board;
mod built;
mod contents;
mod copy;
mod event;
mod layers;
mod mounts;
mod progress;
mod run;
mod stage;
mod steps;
mod tail;
mod threads;
mod workers;

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use plywood_store::Store;
use plywood_store::intent::Plan as Intended;
use plywood_store::record::ImageRecord;
use serde::Serialize;

use self::board::Board;
use self::contents::Contents;
use self::event::{Event, Teller};
use self::layers::{Cache, Squashing};
use self::progress::{Done, Progress};
use self::stage::Stages;
use self::workers::Given;
use crate::build::arguments::Globals;
use crate::build::context::Tree;
use crate::build::ignore::{self, Patterns};
use crate::build::plan::Plan;
use crate::build::state::{Base, State};
use crate::build::syntax::{self, Instruction};
use crate::cli::{BuildArgs, NetworkChoice, ProgressChoice};
use crate::commands::{Session, tag};
use crate::error::{Context, Error, Result};
use crate::failure::{Failure, OK, Outcome, USAGE};
use crate::image::compose::{self, ImageDraft};
use crate::image::{oci, whole};
use crate::output::Bars;

/// Bytes that a Dockerfile may have.
const DOCKERFILE_MAX: u64 = 1 << 20;
/// Standard input, or no context.
const STREAM: &str = "-";

/// Builds, and prints the new image's id.
///
/// # Errors
/// A Dockerfile that is none; what is not there; a command that fails; a full disk or pool.
pub fn run(args: &BuildArgs, session: &Session) -> Outcome {
    for name in &args.tags {
        tag::refuse_digest(name)?;
    }
    if matches!(args.net, NetworkChoice::Container(_)) {
        return Err(Failure::usage(
            "a build has no container's network: use --net bridge, none or host",
        ));
    }
    let (known_text, known) = match args.worker_stage.map(|_| Given::read()).transpose()? {
        Some(given) => (Some(given.dockerfile.into_owned()), given.contents),
        None => (None, Vec::new()),
    };
    let source = Source::read(args, known_text)?;
    let dockerfile = syntax::parse(&source.text, &source.shown).map_err(in_lines)?;
    let given = given(args)?;
    let globals = Globals::new(&dockerfile, &given, args.target.as_deref()).map_err(in_lines)?;
    let globals = Arc::new(globals);
    // What is wrong with the Dockerfile is told before anything is looked at.
    Plan::new(&dockerfile, args.target.as_deref(), &globals).map_err(in_lines)?;
    let secrets = secrets(&args.secret).map_err(|error| Failure::from(error).with_code(USAGE))?;
    let context = source.context()?;
    let host = session.host()?;
    let triggers = |name: &str| triggers(&host.store, name, &globals);
    let plan = Plan::with_triggers(&dockerfile, args.target.as_deref(), &globals, &triggers).map_err(in_lines)?;
    let board = board(args, session)?;
    let progress = Progress::new(match &board {
        _ if args.worker_stage.is_some() => Teller::build(&session.output),
        Some(board) => Teller::board(board),
        None => Teller::lines(&session.output),
    });
    let contents = Contents::new(known, progress.teller().clone());
    let since = match args.worker_stage {
        Some(_) => args.worker_since,
        None => microseconds(),
    };
    let intent = host.store.intents.begin(Intended::Work {
        verb: "build".to_owned(),
        blobs: Vec::new(),
        layers: Vec::new(),
    })?;
    let stages = Stages {
        session,
        host: &host,
        args,
        source: &source,
        dockerfile: &dockerfile,
        plan: &plan,
        globals: &globals,
        context: context.as_ref(),
        secrets: &secrets,
        cache: Cache::new(&host.store, if args.no_cache { since } else { i64::MIN }),
        contents: &contents,
        since,
        only_cached: false,
        missed: false,
        intent,
        bars: Bars::hidden(),
        number: 0,
        built: BTreeMap::new(),
    };
    match args.worker_stage {
        Some(stage) => do_one(stage, stages, progress),
        None => do_all(stages, progress, board.as_ref()),
    }
}

/// As a worker.
fn do_one(stage: usize, mut stages: Stages<'_>, mut progress: Progress<'_>) -> Outcome {
    let built = stages.build_one(stage, &mut progress);
    stages.intent.done()?;
    built.map(|()| OK).map_err(|failure| reported(&failure, &progress))
}

/// The target's image, which is told.
fn do_all(mut stages: Stages<'_>, mut progress: Progress<'_>, board: Option<&Board>) -> Outcome {
    let built = stages.build(&mut progress);
    let steps = progress.into_steps();
    board.into_iter().for_each(Board::end);
    let image = built.and_then(|()| publish(&mut stages).map_err(Failure::from));
    let done = stages.intent.done();
    let image = image?;
    done?;
    for name in stages.globals.unused(stages.dockerfile) {
        let output = &stages.session.output;
        output.note(format!("no ARG of the Dockerfile takes --build-arg {name}"));
    }
    tell(stages.session, &stages.host.store, stages.args, &image, &steps)?;
    Ok(OK)
}

/// The `ONBUILD` instructions of an image. That one is not there or damaged is told where the stage begins.
fn triggers(store: &Store, name: &str, globals: &Arc<Globals>) -> Result<Vec<Instruction>> {
    let config = store.find_image(name).and_then(|image| oci::read_config(store, &image));
    config.map_or(Ok(Vec::new()), |config| {
        State::begin(Base::Image(&config), globals).triggers(name)
    })
}

/// The drawing, for a person at a terminal.
fn board(args: &BuildArgs, session: &Session) -> Result<Option<Board>, Failure> {
    let (is_worker, has_terminal) = (args.worker_stage.is_some(), session.output.has_terminal());
    match args.progress {
        _ if is_worker || session.global.quiet => Ok(None),
        ProgressChoice::Plain => Ok(None),
        ProgressChoice::Tty if !has_terminal => Err(Failure::usage(
            "--progress tty draws on a terminal, and standard error is none",
        )),
        ProgressChoice::Auto | ProgressChoice::Tty => Ok(has_terminal.then(Board::new)),
    }
}

/// A worker's failure: the build tells it.
fn reported(failure: &Failure, progress: &Progress<'_>) -> Failure {
    if let Some(report) = failure.report() {
        progress.teller().tell(&Event::Report(report));
    }
    Failure::told(failure.code())
}

/// The clock, in microseconds since 1970.
fn microseconds() -> i64 {
    jiff::Timestamp::now().as_microsecond()
}

/// Errors that show a line of the Dockerfile have several lines.
fn in_lines(error: Error) -> Failure {
    Failure::from(error).in_lines()
}

/// A Dockerfile, and where it came from.
#[derive(Debug)]
pub(super) struct Source {
    /// Its text.
    text: String,
    /// For messages.
    shown: PathBuf,
    /// None without a context.
    context: Option<PathBuf>,
    /// The Dockerfile's own path; none from standard input.
    path: Option<PathBuf>,
}

impl Source {
    /// The text is read, unless it is `known`.
    fn read(args: &BuildArgs, known: Option<String>) -> Result<Self> {
        let context = (args.context != Path::new(STREAM)).then(|| args.context.clone());
        let path = match (&args.file, &context) {
            (Some(file), _) if file == Path::new(STREAM) => None,
            (Some(file), _) => Some(file.clone()),
            (None, Some(context)) => Some(found_in(context)?),
            (None, None) => None,
        };
        let mut bytes = Vec::new();
        let shown = match &path {
            path if known.is_some() => path.clone().unwrap_or_else(|| PathBuf::from("Dockerfile")),
            Some(path) => {
                let file = std::fs::File::open(path).map_err(|error| match error.kind() {
                    std::io::ErrorKind::NotFound => Error::not_found(format!("there is no {}", path.display()))
                        .hinted("-f names the Dockerfile, relative to where plywood is called"),
                    _ => Error::io("open", path, error),
                })?;
                file.take(DOCKERFILE_MAX + 1)
                    .read_to_end(&mut bytes)
                    .context("read", path)?;
                path.clone()
            }
            None => {
                let read = std::io::stdin().lock().take(DOCKERFILE_MAX + 1).read_to_end(&mut bytes);
                read.context("read", "standard input")?;
                PathBuf::from("Dockerfile")
            }
        };
        if bytes.len() as u64 > DOCKERFILE_MAX {
            return Err(Error::invalid(format!(
                "{} is longer than a Dockerfile may be (1 MiB)",
                shown.display()
            )));
        }
        let text = match known {
            Some(text) => text,
            None => {
                String::from_utf8(bytes).map_err(|_| Error::invalid(format!("{} is not UTF-8", shown.display())))?
            }
        };
        Ok(Self {
            text,
            shown,
            context,
            path,
        })
    }

    /// The context, without what its `.dockerignore` hides.
    fn context(&self) -> Result<Option<Tree>> {
        let Some(folder) = &self.context else { return Ok(None) };
        let dockerfile = self.path.as_deref().unwrap_or(&self.shown);
        let [own, common] = ignore::file_names(dockerfile, folder);
        // From standard input it has no name of its own.
        let own = self.path.is_some().then_some(own);
        for path in own.into_iter().chain([folder.join(".containerignore"), common]) {
            match std::fs::read(&path) {
                Ok(text) => return Tree::context(folder, Patterns::parse(&text, &path)?).map(Some),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(Error::io("read", path, error)),
            }
        }
        Tree::context(folder, Patterns::default()).map(Some)
    }
}

fn found_in(context: &Path) -> Result<PathBuf> {
    let named = ["Dockerfile", "Containerfile"].map(|name| context.join(name));
    if let Some(path) = named.iter().find(|path| path.exists()) {
        return Ok(path.clone());
    }
    match context.is_dir() {
        true => Err(
            Error::not_found(format!("there is no Dockerfile in {}", context.display()))
                .hinted("-f names one elsewhere"),
        ),
        false => Err(Error::not_found(format!("there is no context {}", context.display()))),
    }
}

/// What the caller gives beside the Dockerfile.
fn given(args: &BuildArgs) -> Result<BTreeMap<String, String>, Failure> {
    let mut arguments = BTreeMap::new();
    for text in &args.build_arg {
        match text.split_once('=') {
            Some(("", _)) => return Err(Failure::usage(format!("--build-arg {text:?} has no name"))),
            Some((name, value)) => drop(arguments.insert(name.to_owned(), value.to_owned())),
            // As with -e: one that is not set here is not given.
            None => arguments.extend(std::env::var(text).ok().map(|value| (text.clone(), value))),
        }
    }
    Ok(arguments)
}

/// Where each secret is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum SecretSource {
    File(PathBuf),
    Variable(String),
}

/// `id=NAME[,src=FILE|,env=VARIABLE]`, as BuildKit and podman read it.
fn secrets(texts: &[String]) -> Result<BTreeMap<String, SecretSource>> {
    let mut secrets = BTreeMap::new();
    for text in texts {
        let bad = || {
            Error::invalid(format!("cannot understand the secret {text:?}"))
                .hinted("write id=NAME,src=FILE or id=NAME,env=VARIABLE")
        };
        let (mut id, mut file, mut variable, mut kind) = (None, None, None, None);
        for part in text.split(',') {
            match part.split_once('=').ok_or_else(bad)? {
                ("id", value) => id = Some(value),
                ("src" | "source", value) => file = Some(value),
                ("env", value) => variable = Some(value),
                ("type", value @ ("file" | "env")) => kind = Some(value),
                _ => return Err(bad()),
            }
        }
        let id = id.filter(|id| !id.is_empty()).ok_or_else(bad)?;
        let source = match (file, variable, kind) {
            (Some(_), Some(_), _) => return Err(bad()),
            (Some(name), None, Some("env")) | (None, Some(name), _) => SecretSource::Variable(name.to_owned()),
            (Some(file), None, _) => SecretSource::File(file.into()),
            (None, None, Some("file")) => SecretSource::File(id.into()),
            (None, None, _) if std::env::var_os(id).is_some() => SecretSource::Variable(id.to_owned()),
            (None, None, _) => SecretSource::File(id.into()),
        };
        if secrets.insert(id.to_owned(), source).is_some() {
            return Err(Error::invalid(format!("the secret {id:?} is given twice")));
        }
    }
    Ok(secrets)
}

/// Makes the target's stage an image, under its names.
fn publish(stages: &mut Stages<'_>) -> Result<ImageRecord> {
    let args = stages.args;
    let Some(mut built) = stages.built.remove(&stages.plan.target) else {
        return Err(Error::invalid("the target was not built"));
    };
    if args.squash {
        Squashing {
            host: stages.host,
            bars: match args.progress {
                ProgressChoice::Plain => &stages.bars,
                ProgressChoice::Auto | ProgressChoice::Tty => stages.session.output.bars(),
            },
        }
        .squash(&mut built, &mut stages.intent)?;
    }
    for label in &args.label {
        let (name, value) = label.split_once('=').unwrap_or((label, ""));
        built
            .state
            .config
            .config
            .labels
            .insert(name.to_owned(), value.to_owned());
    }
    built.state.config.created = Some(match &built.clock {
        Some(clock) => clock.clone(),
        None => oci::created_now()?,
    });
    let host = stages.host;
    let draft = ImageDraft::new(&built.state.config, built.records(&host.store)?)?;
    let mut image = compose::publish_image(&host.store, &draft, args.tags.first())?;
    for name in args.tags.iter().skip(1) {
        image = compose::publish_image(&host.store, &draft, Some(name))?;
    }
    Ok(image)
}

/// The new image, as `--json` shows it.
#[derive(Debug, Serialize)]
struct Told<'a> {
    id: String,
    names: Vec<String>,
    manifest: String,
    steps: &'a [Done],
}

fn tell(session: &Session, store: &Store, args: &BuildArgs, image: &ImageRecord, steps: &[Done]) -> Result<()> {
    if let Some(path) = &args.iidfile {
        let id = image.id.to_string();
        whole::to_regular_file(path, |file| file.write_all(id.as_bytes()).context("write", path))?;
    }
    if !session.output.is_json() {
        return session.output.line(image.id.to_string());
    }
    session.output.json(&Told {
        id: image.id.to_string(),
        names: store.names_of(&image.id)?.iter().map(ToString::to_string).collect(),
        manifest: image.manifest.digest.to_string(),
        steps,
    })
}

/// How many caches of `RUN --mount=type=cache` there are, and the bytes that they take.
///
/// # Errors
/// I/O.
pub fn cache_mounts(store: &Store) -> Result<(usize, u64)> {
    mounts::taken(store)
}

/// Removes the caches of `RUN --mount=type=cache` that no build has used since `before`; none for nothing.
///
/// # Errors
/// I/O.
pub fn sweep_caches(store: &Store, before: Option<i64>) -> Result<()> {
    before.map_or(Ok(()), |before| mounts::sweep(store, before))
}
