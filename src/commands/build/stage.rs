//! The stages of a build, one step after the other.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use plywood_store::intent::Intent;
use plywood_store::{ChainId, Digest, ImageId};

use super::built::Built;
use super::contents::Contents;
use super::layers::Cache;
use super::mounts::Sources;
use super::progress::{How, Progress};
use super::workers::Workers;
use super::{SecretSource, Source, in_lines};
use crate::build::arguments::Globals;
use crate::build::context::Tree;
use crate::build::plan::{self, Plan, Planned};
use crate::build::state::{Base, State};
use crate::build::syntax::{Dockerfile, Instruction, Origin};
use crate::build::work::{Effect, Work};
use crate::cli::BuildArgs;
use crate::commands::{Host, Session};
use crate::error::{Context, Error, Result, in_one_line};
use crate::failure::Failure;
use crate::image::oci::{self, History};
use crate::output::Bars;

/// Bytes that a secret may have.
const SECRET_MAX: u64 = 500 << 10;

/// The stages of one build.
pub(super) struct Stages<'a> {
    pub(super) session: &'a Session,
    pub(super) host: &'a Host,
    pub(super) args: &'a BuildArgs,
    pub(super) source: &'a Source,
    pub(super) dockerfile: &'a Dockerfile,
    pub(super) plan: &'a Plan,
    pub(super) globals: &'a Arc<Globals>,
    pub(super) context: Option<&'a Tree>,
    pub(super) secrets: &'a BTreeMap<String, SecretSource>,
    pub(super) cache: Cache<'a>,
    pub(super) contents: &'a Contents<'a>,
    /// Keeps what the build has come to from being garbage.
    pub(super) intent: Intent,
    /// When the build began, microseconds since 1970: steps that were done later are its own.
    pub(super) since: i64,
    /// Steps are only looked for, not done: what is missing ends the stage.
    pub(super) only_cached: bool,
    /// One was missing.
    pub(super) missed: bool,
    /// Of a step's layer: the step itself is told.
    pub(super) bars: Bars,
    /// The stage at hand.
    pub(super) number: usize,
    /// By their numbers.
    pub(super) built: BTreeMap<usize, Built>,
}

impl Stages<'_> {
    /// Builds the stages that the plan says.
    ///
    /// # Errors
    /// As for a step.
    pub(super) fn build(&mut self, progress: &mut Progress<'_>) -> Result<(), Failure> {
        let (teller, output) = (progress.teller().clone(), &self.session.output);
        let (source, contents) = (self.source, self.contents);
        // The workers end before those who read what they tell.
        std::thread::scope(|scope| {
            let workers = Workers::new(&source.text, contents, self.since, output, &teller, scope);
            self.build_with(workers, progress)
        })
    }

    fn build_with(&mut self, mut workers: Workers<'_, '_>, progress: &mut Progress<'_>) -> Result<(), Failure> {
        let mut left: Vec<&Planned> = self.plan.stages.iter().collect();
        while !left.is_empty() {
            if let ([planned], 0) = (left.as_slice(), workers.count()) {
                return self.do_stage(planned, progress);
            }
            // In the order of the file; what one of these needs may be found along with it.
            let mut ready = Vec::new();
            for planned in std::mem::take(&mut left) {
                let is_ready = planned.waits_for().iter().all(|stage| self.built.contains_key(stage));
                if !is_ready || workers.has(planned.index) {
                    left.push(planned);
                } else if !self.is_found(planned, progress)? {
                    ready.push(planned);
                }
            }
            if workers.count() == 0 && ready.len() == 1 {
                for planned in ready {
                    self.do_stage(planned, progress)?;
                }
                continue;
            }
            for planned in ready {
                if workers.count() < Workers::most() {
                    workers.start(planned.index, &self.name(planned.index))?;
                }
                left.push(planned);
            }
            left.sort_by_key(|planned| planned.index);
            let Some(stage) = workers.wait()? else { continue };
            // By its steps, which are in the cache now. Where they are not, it is done here.
            let Some(place) = left.iter().position(|planned| planned.index == stage) else {
                continue;
            };
            let planned = left.remove(place);
            progress.hold_back();
            self.do_stage(planned, progress)?;
            progress.keep_quiet();
        }
        Ok(())
    }

    /// As a worker: the one stage, and silently what it needs, whose steps are in the cache.
    ///
    /// # Errors
    /// As for a step.
    pub(super) fn build_one(&mut self, stage: usize, progress: &mut Progress<'_>) -> Result<(), Failure> {
        let mut needed = BTreeSet::from([stage]);
        // Needs point upwards.
        for planned in self.plan.stages.iter().rev() {
            if needed.contains(&planned.index) {
                needed.extend(planned.waits_for());
            }
        }
        for planned in self
            .plan
            .stages
            .iter()
            .filter(|planned| needed.contains(&planned.index))
        {
            match planned.index == stage {
                true => self.do_stage(planned, progress)?,
                false => self.do_stage(planned, &mut Progress::silent())?,
            }
        }
        Ok(())
    }

    fn do_stage(&mut self, planned: &Planned, progress: &mut Progress<'_>) -> Result<(), Failure> {
        self.number = planned.index;
        let built = self.stage(planned, progress)?;
        self.built.insert(planned.index, built);
        Ok(())
    }

    /// Whether all of a stage is in the cache. It is built then, and told.
    fn is_found(&mut self, planned: &Planned, progress: &mut Progress<'_>) -> Result<bool, Failure> {
        progress.hold_back();
        self.only_cached = true;
        self.missed = false;
        let done = self.do_stage(planned, progress);
        self.only_cached = false;
        if self.missed {
            progress.forget();
            return Ok(false);
        }
        progress.release();
        done.map(|()| true)
    }

    /// A step is not in the cache: whether it may be done.
    pub(super) fn miss(&mut self) -> Result<()> {
        match self.only_cached {
            false => Ok(()),
            true => {
                self.missed = true;
                Err(Error::not_found("the step is not in the build cache"))
            }
        }
    }

    fn name(&self, number: usize) -> String {
        let name = self.dockerfile.stages.get(number).and_then(|stage| stage.name.clone());
        name.unwrap_or_else(|| format!("stage-{number}"))
    }

    fn stage(&mut self, planned: &Planned, progress: &mut Progress<'_>) -> Result<Built, Failure> {
        let number = planned.index;
        let stage = self
            .dockerfile
            .stages
            .get(number)
            .ok_or_else(|| Error::invalid("no such stage"))?;
        let mut built = self.base(&planned.base).map_err(|error| at(&stage.origin, &error))?;
        let triggers = built.state.triggers(&stage.base).map_err(in_lines)?;
        let name = self.name(number);
        let steps = 1 + triggers.len() + stage.instructions.len();
        progress.stage(&name, self.plan.stages.len() == 1, steps);
        progress.step(&stage.origin.text);
        progress.done(How::Config);
        for instruction in triggers.iter().chain(&stage.instructions) {
            progress.step(&instruction.origin.text);
            let done = self.step(instruction, &mut built, progress);
            done.inspect_err(|_| progress.failed())?;
        }
        Ok(built)
    }

    /// What a stage stands on.
    fn base(&mut self, base: &plan::Source) -> Result<Built> {
        match base {
            plan::Source::Scratch => Ok(Built {
                state: State::begin(Base::Scratch, self.globals),
                top: None,
                base_layers: 0,
                base_history: 0,
                base_created: None,
                clock: None,
                image: ImageId(Digest::of(b"scratch")),
                image_name: "scratch".to_owned(),
            }),
            plan::Source::Stage(other) => {
                let below = self.built.get(other);
                let below = below.ok_or_else(|| Error::invalid("a stage is needed that was not built"))?;
                let state = State::begin(Base::Stage(&below.state), self.globals);
                Ok(Built {
                    base_layers: state.config.rootfs.diff_ids.len(),
                    base_history: state.config.history.len(),
                    state,
                    ..below.clone()
                })
            }
            plan::Source::Image(name) => self.image(name),
        }
    }

    fn image(&mut self, name: &str) -> Result<Built> {
        let image = self.host.store.find_image(name)?;
        if let Some(top) = image.layers.last() {
            self.intent.pin_layer(*top)?;
        }
        if self.host.store.images.get(&image.id.0.hex())?.is_none() {
            return Err(Error::not_found(format!("image {name} has just been removed")));
        }
        let mut config = oci::read_config(&self.host.store, &image)?;
        // Readers count its entries.
        if config.layers_in_history() != config.rootfs.diff_ids.len() {
            config.history = config.rootfs.diff_ids.iter().map(|_| History::default()).collect();
        }
        Ok(Built {
            base_layers: config.rootfs.diff_ids.len(),
            base_history: config.history.len(),
            base_created: config.created.clone(),
            state: State::begin(Base::Image(&config), self.globals),
            top: image.layers.last().copied(),
            clock: None,
            image: image.id,
            image_name: name.to_owned(),
        })
    }

    fn step(
        &mut self,
        instruction: &Instruction,
        built: &mut Built,
        progress: &mut Progress<'_>,
    ) -> Result<(), Failure> {
        let origin = &instruction.origin;
        match built.state.step(instruction).map_err(in_lines)? {
            Effect::Config { created_by } => {
                if let Some(created_by) = created_by {
                    built.note(created_by)?;
                }
                progress.done(How::Config);
                Ok(())
            }
            Effect::Work(work) => {
                let done = match &work {
                    Work::Run(work) => self.run(work, origin, built, progress),
                    Work::Copy(work) => self.copy(work, built, progress).map_err(|error| at(origin, &error)),
                    Work::Folder(work) => self.folder(work, built).map_err(|error| at(origin, &error)),
                };
                let (step, cached) = done?;
                if let Some(top) = step.top {
                    self.intent.pin_layer(top)?;
                }
                built
                    .step(&self.host.store, step.top, work.created_by(), &step.created)
                    .map_err(|error| at(origin, &error))?;
                progress.done(match (cached, step.done_at >= self.since) {
                    (false, _) => How::Done,
                    (true, true) => How::Worker(Duration::from_millis(step.took)),
                    (true, false) => How::Cached,
                });
                Ok(())
            }
        }
    }
}

/// A failure of an instruction, which is shown.
pub(super) fn at(origin: &Origin, error: &Error) -> Failure {
    let shown = Error::new(error.kind(), origin.error("", &in_one_line(error)).to_string());
    let failure = Failure::from(match error.hint() {
        Some(hint) => shown.hinted(hint),
        None => shown,
    });
    failure.in_lines()
}

impl Sources for Stages<'_> {
    fn stack(&self, name: &str) -> Result<Option<ChainId>> {
        match self.plan.source(self.number, name)? {
            plan::Source::Scratch => Ok(None),
            plan::Source::Stage(number) => {
                let built = self.built.get(&number);
                Ok(built
                    .ok_or_else(|| Error::invalid(format!("stage {name} was not built")))?
                    .top)
            }
            plan::Source::Image(name) => Ok(self.host.store.find_image(&name)?.layers.last().copied()),
        }
    }

    fn context(&self) -> Result<&Tree> {
        self.context.ok_or_else(|| {
            Error::invalid("this build has no context").hinted(format!(
                "plywood build -f {} FOLDER gives it one",
                self.source.shown.display()
            ))
        })
    }

    fn secret(&self, id: &str) -> Result<Option<Vec<u8>>> {
        let content = match self.secrets.get(id) {
            None => return Ok(None),
            Some(SecretSource::Variable(name)) => {
                let value = std::env::var_os(name);
                value.map(std::os::unix::ffi::OsStringExt::into_vec)
            }
            Some(SecretSource::File(path)) => Some(std::fs::read(path).context("read the secret", path)?),
        };
        match content {
            Some(content) if content.len() as u64 > SECRET_MAX => {
                Err(Error::invalid(format!("the secret {id:?} is longer than 500 KiB")))
            }
            content => Ok(content),
        }
    }
}
