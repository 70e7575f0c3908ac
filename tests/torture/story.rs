//! What was acknowledged, and the verbs that come next: the same ones for the same seed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::archives::Archive;
use super::checker::Seen;
use super::{End, number};
use crate::common::Plywood;
use crate::common::edits::Dice;

/// The image that no story touches.
pub const KEEP: &str = "keep:1";

/// Names, and containers, that one story moves around.
const NAMES: usize = 4;
const CONTAINERS: usize = 3;
/// How often a verb of a `--cow` container is drawn on thin, among 24 or 35 others: or `PLYWOOD_TORTURE_CLASSIC`.
const CLASSIC: usize = 12;
/// A container that is removed by its own `run`.
const PASSING: &str = "passing";

/// What was acknowledged.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Model {
    /// The image that each name stands for.
    pub names: BTreeMap<String, String>,
    /// The containers, by name.
    pub containers: BTreeMap<String, Container>,
    /// The named volumes.
    #[serde(default)]
    pub volumes: BTreeSet<String>,
    /// The digest of the tree of every image that was ever seen.
    pub trees: BTreeMap<String, String>,
}

/// A container, as far as it can be told from outside.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Container {
    /// The image that a commit of what it holds now has given.
    committed: Option<String>,
    /// Of a `--cow` container the name that it is over, and the image that it stood for.
    #[serde(default)]
    over: Option<(String, String)>,
}

/// What a name may become.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Fate {
    /// This image's.
    Image(String),
    /// The image's that is made of this container.
    Commit(String),
    /// Nothing's.
    Gone,
}

/// What becomes of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stay {
    /// It is there, and holds something else than before.
    Changed,
    /// It is gone, in the end: a killed `rm`, or `run --rm`, is finished by the next command.
    Gone,
}

/// One command line, and all that it may change.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Verb {
    /// Commands that give it something to do.
    pub before: Vec<Vec<String>>,
    /// Its arguments.
    pub args: Vec<String>,
    /// The names that it moves.
    pub names: BTreeMap<String, Fate>,
    /// The containers that it changes.
    pub containers: BTreeMap<String, Stay>,
    /// The name over which it makes a `--cow` container.
    #[serde(default)]
    pub over: Option<String>,
    /// The named volumes that are there afterwards, or not.
    #[serde(default)]
    pub volumes: BTreeMap<String, bool>,
    /// The file or folder that it writes.
    pub output: Option<PathBuf>,
    /// The folder of the host's in which it writes, whole or not.
    #[serde(default)]
    pub scratch: Option<PathBuf>,
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.args.join(" "))
    }
}

fn words(args: &[&str]) -> Vec<String> {
    args.iter().map(|word| (*word).to_owned()).collect()
}

impl Verb {
    /// A verb that changes nothing that is acknowledged.
    pub fn plain(args: &[&str]) -> Self {
        Self {
            args: words(args),
            ..Self::default()
        }
    }

    fn moving(args: &[&str], name: &str, fate: Fate) -> Self {
        Self {
            args: words(args),
            names: BTreeMap::from([(name.to_owned(), fate)]),
            ..Self::default()
        }
    }

    fn on_container(args: &[&str], name: &str, stay: Stay) -> Self {
        Self {
            args: words(args),
            containers: BTreeMap::from([(name.to_owned(), stay)]),
            ..Self::default()
        }
    }

    /// `import … NAME`.
    pub fn import(archive: &Archive, name: &str) -> Self {
        let args: Vec<&str> = archive.args.iter().map(String::as_str).chain([name]).collect();
        Self::moving(&args, name, Fate::Image(archive.id.clone()))
    }

    /// `tag`: gives `image`'s id another name.
    pub fn tag(image: &str, id: &str, name: &str) -> Self {
        Self::moving(&["tag", image, name], name, Fate::Image(id.to_owned()))
    }

    /// `rmi`.
    pub fn rmi(name: &str) -> Self {
        Self::moving(&["rmi", name], name, Fate::Gone)
    }

    /// `commit`.
    pub fn commit(container: &str, name: &str) -> Self {
        Self::moving(
            &["commit", "-m", "a commit", container, name],
            name,
            Fate::Commit(container.to_owned()),
        )
    }

    /// `run`: edits that no other one makes, with a changed hard link and a removed file among them.
    pub fn run(image: &str, container: &str, number: u64) -> Self {
        let edit = edit(number);
        Self::on_container(
            &["run", "--name", container, image, "sh", "-c", &edit],
            container,
            Stay::Changed,
        )
    }

    /// `run --cow`.
    pub fn run_cow(image: &str, container: &str, number: u64) -> Self {
        Self::run(image, container, number).with_store(image)
    }

    /// This `run`, or the one that comes before it, with `--cow`.
    fn with_store(mut self, image: &str) -> Self {
        let run = self.before.first_mut().unwrap_or(&mut self.args);
        run.insert(1, "--cow".to_owned());
        self.over = Some(image.to_owned());
        self
    }

    /// `merge`, of a `--cow` container of the image with this name: the same image as its commit.
    pub fn merge(container: &str, name: &str) -> Self {
        Self::moving(
            &["merge", "-m", "a commit", container],
            name,
            Fate::Commit(container.to_owned()),
        )
    }

    /// `run --rm`.
    pub fn passing(image: &str, container: &str, number: u64) -> Self {
        let edit = edit(number);
        let args = ["run", "--rm", "--name", container, image, "sh", "-c", &edit];
        Self::on_container(&args, container, Stay::Gone)
    }

    /// `run --rm` with users of its own.
    pub fn with_users(image: &str, container: &str, number: u64) -> Self {
        let mut verb = Self::passing(image, container, number);
        let users = ["--userns", "auto"].map(str::to_owned);
        verb.args.splice(1..1, users);
        verb
    }

    /// `start`.
    pub fn start(container: &str) -> Self {
        Self::on_container(&["start", "-a", container], container, Stay::Changed)
    }

    /// `start`, of one that may go on.
    pub fn start_detached(container: &str) -> Self {
        Self::on_container(&["start", container], container, Stay::Changed)
    }

    /// `rm`.
    pub fn rm(container: &str) -> Self {
        Self::on_container(&["rm", container], container, Stay::Gone)
    }

    /// `run -d`: the edits, then it stays.
    pub fn detached(image: &str, container: &str, number: u64) -> Self {
        let script = format!("{}; mkdir /srv/done-{number}; exec sleep 1000", edit(number));
        let args = ["run", "-d", "--name", container, image, "sh", "-c", &script];
        Self::on_container(&args, container, Stay::Changed)
    }

    /// This one, on a new container that runs and has made its edits.
    fn on_running(mut self, image: &str, container: &str, number: u64) -> Self {
        self.before.push(Self::detached(image, container, number).args);
        let wait = format!("until [ -d /srv/done-{number} ]; do sleep 0; done");
        self.before.push(words(&["exec", container, "sh", "-c", &wait]));
        self.containers.insert(container.to_owned(), Stay::Changed);
        self
    }

    /// `stop`, of one that was started.
    pub fn stop(container: &str) -> Self {
        let mut verb = Self::on_container(&["stop", "-t", "0", container], container, Stay::Changed);
        verb.before.push(words(&["start", container]));
        verb
    }

    /// `exec`: edits.
    pub fn exec(image: &str, container: &str, number: u64) -> Self {
        Self::plain(&["exec", container, "sh", "-c", &edit(number + 1_000_000)]).on_running(image, container, number)
    }

    /// `commit` of a container that runs.
    pub fn commit_running(image: &str, container: &str, number: u64, name: &str) -> Self {
        Self::commit(container, name).on_running(image, container, number)
    }

    /// `cp` of a file into a container.
    pub fn copy_in(file: &Path, container: &str) -> Self {
        let (file, target) = (file.to_str().expect("UTF-8"), format!("{container}:/srv/copied"));
        Self::on_container(&["cp", file, &target], container, Stay::Changed)
    }

    /// `cp` of a folder out of a container.
    pub fn copy_out(container: &str, scratch: &Path) -> Self {
        let target = scratch.join("copied");
        let args = ["cp", &format!("{container}:/etc"), target.to_str().expect("UTF-8")];
        let mut verb = Self::plain(&args);
        verb.scratch = Some(scratch.to_owned());
        verb
    }

    fn on_volume(args: &[&str], volume: &str, stays: bool) -> Self {
        let mut verb = Self::plain(args);
        verb.volumes.insert(volume.to_owned(), stays);
        verb
    }

    /// The verb's own word.
    pub fn word(&self) -> &str {
        &self.args[0]
    }

    /// Its word, and whether it is about a new `--cow` container.
    pub fn kind(&self) -> String {
        let store = if self.over.is_some() { " --cow" } else { "" };
        format!("{}{store}", self.word())
    }
}

fn edit(number: u64) -> String {
    format!("echo {number} >> /etc/twin; mkdir -p /srv/{number}; ln /etc/twin /srv/{number}/l; rm -f /etc/link")
}

/// Verbs drawn from a seed, on names and containers that begin alike.
#[derive(Debug)]
pub struct Story {
    dice: Dice,
    prefix: String,
    archives: Vec<Archive>,
    exports: PathBuf,
    copies: PathBuf,
    is_thin: bool,
    classic: usize,
    count: u64,
    /// Whether verbs may work on what all stories share: the pool, mounts in the host's tree.
    pub alone: bool,
    /// Whether they may leave containers running, which whoever plays must end.
    pub live: bool,
}

impl Story {
    /// A story whose names begin with `prefix`.
    pub fn new(plywood: &Plywood, prefix: &str, archives: Vec<Archive>, seed: u64) -> Self {
        let exports = plywood.beside("exports").join(format!("of-{prefix}"));
        let copies = plywood.beside("exports").join(format!("copies-of-{prefix}"));
        for folder in [&exports, &copies] {
            std::fs::create_dir_all(folder).expect("a folder");
        }
        Self {
            dice: Dice::new(seed),
            prefix: prefix.to_owned(),
            archives,
            exports,
            copies,
            is_thin: plywood.driver() == "thin",
            classic: number("PLYWOOD_TORTURE_CLASSIC").unwrap_or(CLASSIC),
            count: 0,
            alone: true,
            live: false,
        }
    }

    /// What can be imported.
    pub fn archives(&self) -> &[Archive] {
        &self.archives
    }

    /// Whether a name of an image or container is this story's.
    pub fn owns(&self, name: &str) -> bool {
        name != KEEP && !name.starts_with("crowd:") && name.starts_with(&self.prefix)
    }

    fn name(&mut self) -> String {
        format!("{}n{}:1", self.prefix, self.dice.below(NAMES))
    }

    fn container(&mut self) -> String {
        format!("{}c{}", self.prefix, self.dice.below(CONTAINERS))
    }

    /// One of the names that stand for something.
    fn image(&mut self, model: &Model) -> (String, String) {
        let (name, id) = model
            .names
            .iter()
            .nth(self.dice.below(model.names.len()))
            .expect("the image to keep");
        (name.clone(), id.clone())
    }

    /// The next verb. On a root of its own it must succeed.
    pub fn next(&mut self, model: &Model) -> Verb {
        self.count += 1;
        loop {
            if let Some(verb) = self.draw(model) {
                return verb;
            }
        }
    }

    fn draw(&mut self, model: &Model) -> Option<Verb> {
        let (name, container) = (self.name(), self.container());
        let there = model.containers.contains_key(&container);
        let others = if self.live { 35 } else { 24 };
        let classic = if self.is_thin { self.classic } else { 0 };
        match self.dice.below(others + classic) {
            drawn if drawn >= others => self.classic(model, &container, &name),
            0..=4 => {
                let archive = &self.archives[self.dice.below(self.archives.len())];
                Some(Verb::import(archive, &name))
            }
            5..=8 => there.then(|| Verb::commit(&container, &name)),
            9 | 10 => {
                let (image, id) = self.image(model);
                Some(Verb::tag(&image, &id, &name))
            }
            11 | 12 => self.rmi(model, &name),
            13 | 14 => (!there).then(|| Verb::run(&self.image(model).0, &container, self.count)),
            15 if self.live => there.then(|| Verb::start_detached(&container)),
            15 => there.then(|| Verb::start(&container)),
            16 => there.then(|| Verb::rm(&container)),
            17 => Some(self.passing(model)),
            18 | 19 => Some(Verb::plain(&["gc"])),
            20 => Some(Verb::plain(&["check", "--rebuild"])),
            21 => Some(self.export(model)),
            22 => self.alone.then(|| self.mount(model)),
            23 => (self.alone && self.is_thin).then(|| self.pool()),
            // Room for new ones.
            24..=30 if there => (self.dice.below(2) == 0).then(|| Verb::rm(&container)),
            24 | 25 => (!there).then(|| Verb::detached(&self.image(model).0, &container, self.count)),
            26 | 27 => (!there).then(|| Verb::exec(&self.image(model).0, &container, self.count)),
            28..=30 => (!there).then(|| Verb::commit_running(&self.image(model).0, &container, self.count, &name)),
            31 => there.then(|| Verb::stop(&container)),
            32 => there.then(|| Verb::copy_in(Path::new("/bin/busybox"), &container)),
            33 => there.then(|| Verb::copy_out(&container, &self.copies)),
            _ => Some(self.volume(model)),
        }
    }

    /// `merge` where it can be done, otherwise a container for it.
    fn classic(&mut self, model: &Model, container: &str, name: &str) -> Option<Verb> {
        let merging = model.containers.iter().find_map(|(container, is)| {
            let (over, id) = is.over.as_ref()?;
            (model.names.get(over) == Some(id)).then(|| Verb::merge(container, over))
        });
        if merging.is_some() && self.dice.below(3) > 0 {
            return merging;
        }
        // What all stories keep is merged by none.
        let image = model.names.keys().find(|name| *name != KEEP)?;
        if model.containers.contains_key(container) {
            return None;
        }
        let (number, kinds) = (self.count, if self.live { 3 } else { 1 });
        Some(match self.dice.below(kinds) {
            0 => Verb::run_cow(image, container, number),
            1 => Verb::detached(image, container, number).with_store(image),
            _ => Verb::commit_running(image, container, number, name).with_store(image),
        })
    }

    /// A named volume comes, is used or goes.
    fn volume(&mut self, model: &Model) -> Verb {
        let volume = format!("{}v{}", self.prefix, self.dice.below(CONTAINERS));
        let there = model.volumes.contains(&volume);
        match self.dice.below(3) {
            0 if there => Verb::on_volume(&["volume", "rm", &volume], &volume, false),
            1 if !there => Verb::on_volume(&["volume", "create", &volume], &volume, true),
            _ => {
                let mount = format!("{volume}:/etc");
                let (image, container) = (self.image(model).0, format!("{}{PASSING}", self.prefix));
                let args = [
                    "run",
                    "--rm",
                    "--name",
                    &container,
                    "-v",
                    &mount,
                    &image,
                    "sh",
                    "-c",
                    "echo x >> /etc/x",
                ];
                let mut verb = Verb::on_volume(&args, &volume, true);
                verb.containers.insert(container, Stay::Gone);
                verb
            }
        }
    }

    /// Only where nothing stands on it that would refuse.
    fn rmi(&mut self, model: &Model, name: &str) -> Option<Verb> {
        let id = model.names.get(name)?;
        let last = model.names.values().filter(|other| *other == id).count() == 1;
        (!last || model.containers.is_empty()).then(|| Verb::rmi(name))
    }

    /// `run --rm`.
    fn passing(&mut self, model: &Model) -> Verb {
        let container = format!("{}{PASSING}", self.prefix);
        Verb::passing(&self.image(model).0, &container, self.count)
    }

    fn export(&mut self, model: &Model) -> Verb {
        let formats = ["oci-archive", "docker-archive", "rootfs", "layer", "oci-dir"];
        let format = formats[self.dice.below(formats.len())];
        let image = self.image(model).0;
        self.export_of(format, &image)
    }

    /// `export` into the story's own folder.
    pub fn export_of(&self, format: &str, image: &str) -> Verb {
        let output = self.exports.join(format);
        let mut verb = Verb::plain(&["export", "--format", format, "-o"]);
        verb.args.push(output.to_str().expect("UTF-8").to_owned());
        verb.args.push(image.to_owned());
        verb.output = Some(output);
        verb
    }

    fn mount(&mut self, model: &Model) -> Verb {
        let image = self.image(model).0;
        let mut verb = Verb::plain(&["mount", &image]);
        if self.dice.below(2) == 0 {
            verb.before.push(verb.args);
            verb.args = words(&["umount", &image]);
        }
        verb
    }

    fn pool(&mut self) -> Verb {
        match self.dice.below(4) {
            0 => Verb::plain(&["pool", "init"]),
            1 => Verb::plain(&["pool", "detach"]),
            2 => Verb::plain(&["pool", "trim"]),
            _ => Verb::plain(&["pool", "grow", "--data-size", &format!("{}M", 4096 + 64 * self.count)]),
        }
    }
}

impl Model {
    /// Takes in what is there after a verb, or says what is wrong with it.
    ///
    /// A verb that was done has changed all that it was to change; one that was refused, nothing; of a
    /// killed one each change is made or not.
    ///
    /// # Errors
    /// What is neither.
    pub fn settle(&mut self, verb: &Verb, end: &End, seen: &Seen) -> Result<(), String> {
        let names: Vec<String> = self.names.keys().chain(seen.names.keys()).cloned().collect();
        for name in names {
            let (was, is) = (self.names.get(&name), seen.names.get(&name));
            let became = verb.names.get(&name).is_some_and(|fate| self.fits(fate, is, end));
            let right = match (end, verb.names.contains_key(&name)) {
                (End::Done(_), true) => became,
                (End::Killed, true) => became || is == was,
                _ => is == was,
            };
            if !right {
                return Err(format!("{name} was {was:?} and is {is:?}"));
            }
        }
        for volume in self.volumes.union(&seen.volumes) {
            let (was, is) = (self.volumes.contains(volume), seen.volumes.contains(volume));
            let right = match (end, verb.volumes.get(volume)) {
                (End::Done(_), Some(stays)) => is == *stays,
                (End::Killed, Some(stays)) => is == *stays || is == was,
                _ => is == was,
            };
            if !right {
                return Err(format!("volume {volume}: was there {was}, is there {is}"));
            }
        }
        self.volumes.clone_from(&seen.volumes);
        self.settle_containers(verb, end, seen)?;
        self.remember_commit(verb, end, seen);
        self.names.clone_from(&seen.names);
        Ok(())
    }

    fn fits(&self, fate: &Fate, is: Option<&String>, end: &End) -> bool {
        match fate {
            Fate::Gone => is.is_none(),
            Fate::Image(id) => is == Some(id),
            Fate::Commit(container) => {
                let known = self.containers.get(container).and_then(|one| one.committed.as_ref());
                let printed = match end {
                    End::Done(printed) => is == Some(printed),
                    _ => is.is_some(),
                };
                printed && known.is_none_or(|known| is == Some(known))
            }
        }
    }

    /// Whether a verb's name stands for what its container was committed or merged to.
    pub fn is_committed(&self, container: &str, name: &str) -> bool {
        let committed = self.containers.get(container).and_then(|one| one.committed.as_ref());
        committed.is_some() && committed == self.names.get(name)
    }

    /// The same container, committed again, must give the same image.
    fn remember_commit(&mut self, verb: &Verb, end: &End, seen: &Seen) {
        for (name, fate) in &verb.names {
            let is = seen.names.get(name);
            let news = matches!(end, End::Done(_)) || is != self.names.get(name);
            if let (Fate::Commit(container), true) = (fate, news)
                && let Some(container) = self.containers.get_mut(container)
            {
                container.committed = is.cloned();
            }
        }
    }

    fn settle_containers(&mut self, verb: &Verb, end: &End, seen: &Seen) -> Result<(), String> {
        let names: Vec<String> = self.containers.keys().chain(&seen.containers).cloned().collect();
        for name in names {
            let (was, is) = (self.containers.contains_key(&name), seen.containers.contains(&name));
            let right = match (end, verb.containers.get(&name)) {
                (_, None) => is == was,
                (End::Done(_), Some(Stay::Changed)) => is,
                (End::Done(_), Some(Stay::Gone)) => !is,
                // As if it had never run, or done; what is only half made or half removed is gone by now.
                (_, Some(Stay::Changed)) => is || !was,
                (_, Some(Stay::Gone)) => was || !is,
            };
            if !right {
                return Err(format!("container {name}: was there {was}, is there {is}"));
            }
            match verb.containers.get(&name) {
                _ if !is => drop(self.containers.remove(&name)),
                Some(_) => {
                    let known = self.containers.remove(&name).and_then(|container| container.over);
                    let made = || Some((verb.over.clone()?, self.names.get(verb.over.as_ref()?)?.clone()));
                    let container = Container {
                        over: known.or_else(made),
                        committed: None,
                    };
                    self.containers.insert(name, container);
                }
                None => {}
            }
        }
        Ok(())
    }
}
