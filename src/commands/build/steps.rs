//! The steps of a stage: each looked up in the build cache, or done on a snapshot of the layers below and kept.

use std::cell::{Cell, RefCell};
use std::time::Instant;

use plywood_store::intent::Intent;
use plywood_store::record::StepRecord;
use plywood_store::{ChainId, Digest};

use super::built::Built;
use super::contents::Place;
use super::copy::{Copying, make_folder};
use super::layers::{Layered, Layering};
use super::mounts::{self, Mounts, Sources};
use super::progress::Progress;
use super::run::{Ran, Running};
use super::stage::{Stages, at};
use super::{in_lines, microseconds};
use crate::build::context::Tree;
use crate::build::key::Key;
use crate::build::syntax::{Origin, RunNetwork};
use crate::build::work::{CopyWork, FolderWork, RunWork};
use crate::cli::NetworkChoice;
use crate::commands::{Host, now, random_key};
use crate::error::{Error, Kind, Result, both, in_one_line};
use crate::failure::Failure;
use crate::image::compose::{self, ImageDraft};
use crate::image::oci;
use crate::snapshot::Access;

/// The tag of what a failed step left.
const FAILED: &str = "build-failed";

impl Stages<'_> {
    fn layering<'b>(&'b self, name: &'b str, parent: Option<ChainId>) -> Layering<'b> {
        Layering {
            host: self.host,
            bars: &self.bars,
            name,
            parent,
        }
    }

    fn kept<T>(&self, key: Digest, created_by: &str, begun: Instant, layered: &Layered<T>) -> Result<StepRecord> {
        let step = StepRecord {
            done_at: microseconds(),
            took: u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
            key,
            top: layered.top,
            created_by: created_by.to_owned(),
            created: oci::created_now()?,
            used_at: now(),
        };
        self.cache.put(&step)?;
        Ok(step)
    }

    /// `WORKDIR`: the folder, where it is not there.
    pub(super) fn folder(&mut self, work: &FolderWork, built: &Built) -> Result<(StepRecord, bool)> {
        let mut key = Key::new("folder", built.top.as_ref());
        key.text(&work.path).text(&work.user);
        epoch(&mut key)?;
        let key = key.finish();
        if let Some(step) = self.cache.find(&key, &mut self.intent)? {
            return Ok((step, true));
        }
        self.miss()?;
        let (mut step, begun) = (None, Instant::now());
        self.layering("WORKDIR", built.top).mounted(
            |mounted| make_folder(mounted, work),
            |layered| {
                step = Some(self.kept(key, &work.created_by, begun, layered)?);
                Ok(())
            },
        )?;
        Ok((step.ok_or_else(unkept)?, false))
    }

    pub(super) fn copy(
        &mut self,
        work: &CopyWork,
        built: &Built,
        progress: &mut Progress<'_>,
    ) -> Result<(StepRecord, bool)> {
        let Some(from) = &work.from else {
            let copying = Copying::find(&self.host.store, work, self.context, Place::Context, self.contents)?;
            return self.copied(&copying, work, built, None, progress);
        };
        let source = self.stack(from)?;
        // What the source's layers are says what it holds, without looking.
        let mut key = Key::new("copy from", built.top.as_ref());
        key.option(source.map(|chain| chain.to_string()).as_deref());
        key.text(&format!("{:?}", work_without_history(work)));
        epoch(&mut key)?;
        let early = key.finish();
        if let Some(step) = self.cache.find(&early, &mut self.intent)? {
            return Ok((step, true));
        }
        let view = View::open(self.host, source.as_ref(), &self.intent)?;
        let found = view.tree(from).and_then(|tree| {
            let place = Place::Stack(source.as_ref());
            let copying = Copying::find(&self.host.store, work, Some(&tree), place, self.contents)?;
            self.copied(&copying, work, built, Some(early), progress)
        });
        both(found, view.close(self.host))
    }

    /// One `COPY` whose sources are found; `early` is the key that it has without them.
    fn copied(
        &mut self,
        copying: &Copying<'_>,
        work: &CopyWork,
        built: &Built,
        early: Option<Digest>,
        progress: &mut Progress<'_>,
    ) -> Result<(StepRecord, bool)> {
        let parent = built.top;
        let with_epoch = |content: Digest| -> Result<Digest> {
            let mut key = Key::new("copy of", parent.as_ref());
            key.text(&content.to_string());
            epoch(&mut key)?;
            Ok(key.finish())
        };
        let key = with_epoch(copying.key(built.top.as_ref())?)?;
        if let Some(step) = self.cache.find(&key, &mut self.intent)? {
            if let Some(early) = early {
                self.cache.put(&StepRecord {
                    key: early,
                    ..step.clone()
                })?;
            }
            return Ok((step, true));
        }
        self.miss()?;
        let (mut step, begun) = (None, Instant::now());
        let layered = self.layering("COPY", built.top).mounted(
            |mounted| copying.copy_into(mounted, built.top.as_ref()),
            |layered| {
                // Of what was copied, which may be newer than what was looked for.
                let kept = self.kept(with_epoch(layered.done)?, &work.created_by, begun, layered)?;
                if let Some(early) = early {
                    self.cache.put(&StepRecord {
                        key: early,
                        ..kept.clone()
                    })?;
                }
                step = Some(kept);
                Ok(())
            },
        )?;
        for note in &layered.notes {
            progress.note(&format!("left out: {note}"));
        }
        Ok((step.ok_or_else(unkept)?, false))
    }

    pub(super) fn run(
        &mut self,
        work: &RunWork,
        origin: &Origin,
        built: &Built,
        progress: &mut Progress<'_>,
    ) -> Result<(StepRecord, bool), Failure> {
        if work.network == RunNetwork::Host && self.args.net != NetworkChoice::Host {
            let refused = origin.error(
                "--network",
                "a step may use the host's network only where the build may",
            );
            return Err(in_lines(refused.hinted("plywood build --net host allows it")));
        }
        let bound = |source: &str| {
            let mut key = Place::Context.source();
            key.text("bind").text(source);
            key.finish()
        };
        let now = |source: &str| {
            let read = || mounts::content_of(self.context()?, source);
            self.contents.of(bound(source), source, read)
        };
        let key = self.run_key(work, built, &now).map_err(|error| at(origin, &error))?;
        if let Some(step) = self.cache.find(&key, &mut self.intent)? {
            return Ok((step, true));
        }
        self.miss()?;
        let failure = RefCell::new(None);
        let found = Cell::new(key);
        let (mut step, begun, teller) = (None, Instant::now(), progress.teller());
        let ran = self.layering("RUN", built.top).layer(
            |id, intent| {
                let mounts = Mounts::prepare(self.host, work, self, intent)?;
                let copied = |source: &str| {
                    let content = mounts.content(source)?;
                    self.contents.learn(bound(source), content);
                    Ok(content)
                };
                match self.run_key(work, built, &copied) {
                    Ok(key) => found.set(key),
                    Err(error) => return both(Err(error), mounts.close(self.host)),
                }
                let ran = Running {
                    session: self.session,
                    host: self.host,
                    work,
                    net: &self.args.net,
                    base: built.image,
                    shown: &built.image_name,
                    parent: built.top.as_ref(),
                    teller,
                }
                .run(id, intent, &mounts);
                let closed = mounts.close(self.host);
                match ran {
                    Ok(ran) => closed.map(|()| ran),
                    Err(failed) => {
                        failure.replace(Some(not_run(origin, &failed)));
                        Err(Error::invalid("the command failed"))
                    }
                }
            },
            |layered| {
                if layered.done.code == 0 {
                    step = Some(self.kept(found.get(), &work.created_by, begun, layered)?);
                    return Ok(());
                }
                let image = match is_interrupted(layered.done.code) {
                    true => None,
                    false => Some(self.leave(built, layered)?),
                };
                failure.replace(Some(failed(origin, &layered.done, image)));
                Ok(())
            },
        );
        if let Some(failure) = failure.into_inner() {
            return Err(failure);
        }
        let layered = ran.map_err(|error| at(origin, &error))?;
        for note in &layered.notes {
            progress.note(&format!("left out: {note}"));
        }
        Ok((step.ok_or_else(unkept)?, false))
    }

    fn run_key(&self, work: &RunWork, built: &Built, content: &dyn Fn(&str) -> Result<Digest>) -> Result<Digest> {
        let mut key = Key::new("run", built.top.as_ref());
        key.list(&work.args)
            .list(&work.env)
            .text(&work.user)
            .text(&work.working_dir);
        key.text(&format!("{:?} {}", work.network, self.args.net));
        key.option(work.script.as_ref().map(|script| script.content.as_str()));
        mounts::add_to_key(&mut key, work, self, content)?;
        epoch(&mut key)?;
        Ok(key.finish())
    }

    /// Names what a failed command left, so that it can be entered.
    fn leave(&self, built: &Built, layered: &Layered<Ran>) -> Result<String> {
        let mut left = built.clone();
        let created = oci::created_now()?;
        left.step(
            &self.host.store,
            layered.top,
            "what a failed step of a build left",
            &created,
        )?;
        left.state.config.created = Some(created);
        let name = match self.args.tags.first() {
            Some(tag) => format!("{}:{FAILED}", tag.repository()),
            None => FAILED.to_owned(),
        };
        let draft = ImageDraft::new(&left.state.config, left.records(&self.host.store)?)?;
        compose::publish_image(&self.host.store, &draft, Some(&name.parse()?))?;
        Ok(name)
    }
}

/// The layers of a step have the times that `SOURCE_DATE_EPOCH` says.
fn epoch(key: &mut Key) -> Result<()> {
    let epoch = oci::source_date_epoch()?.map(|epoch| epoch.to_string());
    key.option(epoch.as_deref());
    Ok(())
}

/// What the step's layer depends on: not how the history calls it.
fn work_without_history(work: &CopyWork) -> CopyWork {
    CopyWork {
        created_by: String::new(),
        from: None,
        ..work.clone()
    }
}

/// A command that plywood could not run, or had to end.
fn not_run(origin: &Origin, failed: &Failure) -> Failure {
    let failure = in_lines(origin.error("", &in_one_line(failed.error())));
    let is_full = failed
        .error()
        .downcast_ref::<Error>()
        .is_some_and(|error| error.kind() == Kind::NoSpace);
    match (is_full, failed.hint()) {
        // A container's own hint would have it started again.
        (true, _) => failure.hinted(
            "plywood rmi, rm and gc free space, plywood pool grow adds some; the build then goes on from its cache",
        ),
        (false, Some(hint)) => failure.hinted(hint),
        (false, None) => failure,
    }
}

fn unkept() -> Error {
    Error::invalid("a step was done and not kept")
}

/// A command that was asked to end, as by Ctrl-C: nobody wants to look into that.
fn is_interrupted(code: u8) -> bool {
    [libc::SIGHUP, libc::SIGINT, libc::SIGTERM]
        .iter()
        .any(|signal| i32::from(code) == 128 + signal)
}

fn failed(origin: &Origin, ran: &Ran, image: Option<String>) -> Failure {
    let code = ran.code;
    let message = match image {
        Some(_) => format!("the command ended with code {code}"),
        None => format!("the command was ended by a signal ({})", code - 128),
    };
    let error = origin.error("", &message);
    let told = format!("{error}{}", ran.tail.told());
    let failure = Failure::from(Error::invalid(told)).in_lines();
    match image {
        Some(name) => failure.hinted(format!(
            "plywood run --rm -it {name} sh looks into what it left; plywood rmi {name} removes that"
        )),
        None => failure.with_code(code),
    }
}

/// The root of another stage, to read.
struct View {
    key: String,
    mounted: crate::snapshot::Mounted,
}

impl View {
    fn open(host: &Host, stack: Option<&ChainId>, owner: &Intent) -> Result<Self> {
        let key = random_key("from");
        match stack {
            Some(stack) => host.snapshotter.view(&key, stack, Some(owner))?,
            None => host.snapshotter.prepare(&key, None, Some(owner))?,
        }
        match host.snapshotter.mount(&key, Access::ReadOnly) {
            Ok(mounted) => Ok(Self { key, mounted }),
            Err(error) => both(Err(error), host.snapshotter.remove(&key)),
        }
    }

    fn tree(&self, name: &str) -> Result<Tree> {
        Tree::of_stage(self.mounted.dir(), name.to_owned())
    }

    fn close(self, host: &Host) -> Result<()> {
        both(self.mounted.close(), host.snapshotter.remove(&self.key))
    }
}
