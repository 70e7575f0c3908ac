//! The power goes at any flush of a disk that keeps nothing else. In the guest.
//!
//! Everything lies on one ext4 over dm-log-writes: records, index, the pool's metadata and its data. So one log has
//! one order of all writes. Verbs run, and each that has returned 0 leaves a mark in the log. Then the log is
//! written again, entry by entry, over the disk as it was; at drawn flushes, and with any of the writes after them,
//! a classic snapshot of that is mounted as the root of a machine that has just started, and the checker of the
//! torture rig has its turn: all that was acknowledged before is there.
//!
//! `make torture` runs more of it (docs/testing.md).

mod common;
mod torture;

use std::collections::BTreeSet;
use std::fs::File;

use common::{Plywood, rounds};
use torture::logged_disk::Disk;
use torture::story::{KEEP, Model, Verb};
use torture::write_log::Log;
use torture::{Budget, End, Rig, enter_private_namespace, seed};

/// Verbs in one log, and how many moments of it are looked at.
const VERBS: usize = 4;
const POINTS: usize = 4;

/// What was acknowledged by a mark, and what came after it.
struct Moment {
    model: Model,
    next: Verb,
}

/// What the story's container is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Writable {
    None,
    Plain,
    Cow,
    Merged,
}

struct Machine {
    // Before the disk it lies on.
    rig: Rig,
    disk: Disk,
    writable: Writable,
    /// The name that a `--cow` container is over, and the image that it stood for.
    over: (String, String),
    count: u64,
}

impl Machine {
    fn new(driver: &'static str, seed: u64) -> Self {
        enter_private_namespace();
        let disk = Disk::new();
        let plywood = Plywood::at(disk.folder.path(), driver);
        if driver == "thin" {
            plywood.ok(["pool", "init", "--data-size", "128M", "--volume-size", "128M"]);
        }
        let mut rig = Rig::new(plywood, seed);
        rig.tree_is_as_ever(&rig.model.names[KEEP].clone());
        let machine = Self {
            rig,
            disk,
            writable: Writable::None,
            over: Default::default(),
            count: 0,
        };
        machine.detach();
        machine.disk.unmount();
        machine.disk.shell(
            "cp --sparse=always disk replayed
             for file in replayed cow; do losetup -f --show $file > $file.loop; done",
        );
        machine
    }

    fn detach(&self) {
        if self.rig.plywood.driver() == "thin" {
            self.rig.plywood.ok(["pool", "detach"]);
        }
    }

    fn next(&mut self) -> Verb {
        self.count += 1;
        if self.rig.plywood.driver() != "thin" {
            return self.draw();
        }
        // The dice seldom come to a merge: the slice of `make test` has one.
        match self.count {
            1 => Verb::import(&self.rig.story.archives()[1], "n0:1"),
            2 => self.run_cow("n0:1"),
            3 => self.merge(),
            _ => self.draw(),
        }
    }

    fn run_cow(&mut self, image: &str) -> Verb {
        self.writable = Writable::Cow;
        self.over = (image.to_owned(), self.rig.model.names[image].clone());
        Verb::run_cow(image, "c0", self.count)
    }

    fn merge(&mut self) -> Verb {
        self.writable = Writable::Merged;
        Verb::merge("c0", &self.over.0)
    }

    fn draw(&mut self) -> Verb {
        let (rig, count) = (&mut self.rig, self.count);
        let name = format!("n{}:1", rig.dice.below(3));
        let cow_of = rig.model.names.keys().find(|name| *name != KEEP).cloned();
        let can_cow = rig.plywood.driver() == "thin";
        loop {
            return match (rig.dice.below(9), self.writable, &cow_of) {
                (0 | 1, ..) => Verb::import(&rig.story.archives()[rig.dice.below(7)], &name),
                (2, ..) => Verb::tag(KEEP, &rig.model.names[KEEP], &name),
                (3, Writable::None, _) if rig.model.names.contains_key(&name) => Verb::rmi(&name),
                (4, ..) => Verb::plain(&["gc"]),
                (5, Writable::None, _) => {
                    self.writable = Writable::Plain;
                    Verb::run(KEEP, "c0", count)
                }
                (6 | 7, Writable::None, Some(image)) if can_cow => self.run_cow(image),
                (5 | 6, Writable::Plain | Writable::Cow, _) => Verb::commit("c0", "committed:1"),
                (7.., Writable::Cow, _) if rig.model.names.get(&self.over.0) == Some(&self.over.1) => self.merge(),
                (8, Writable::Plain, _) | (7 | 8, Writable::Merged, _) => {
                    self.writable = Writable::None;
                    Verb::rm("c0")
                }
                _ => continue,
            };
        }
    }

    /// Plays verbs; gives the moments of their marks, and the log.
    fn play(&mut self) -> (Vec<Moment>, Log) {
        self.disk.begin();
        let mut moments = Vec::new();
        for number in 0..VERBS {
            let verb = self.next();
            println!("{number}: {verb}");
            moments.push(Moment {
                model: self.rig.model.clone(),
                next: verb.clone(),
            });
            let end = End::run(&mut self.rig.plywood.command(&verb.args));
            assert!(matches!(end, End::Done(_)), "{verb}: {end:?}");
            self.disk.mark(number + 1);
            self.rig.settle(&verb, &end);
            for id in self.rig.model.names.clone().into_values() {
                if !self.rig.model.trees.contains_key(&id) {
                    self.rig.tree_is_as_ever(&id);
                }
            }
        }
        moments.push(Moment {
            model: self.rig.model.clone(),
            next: Verb::plain(&["gc"]),
        });
        self.detach();
        (moments, self.disk.end())
    }

    /// Plays, then cuts the power at drawn flushes.
    fn session(&mut self, budget: &mut Budget, told: &mut Told) {
        let (moments, log) = self.play();
        let flushes: Vec<usize> = (0..log.entries.len())
            .filter(|at| log.entries[*at].is_barrier())
            .collect();
        let points: BTreeSet<usize> = (0..POINTS)
            .map(|_| flushes[self.rig.dice.below(flushes.len())])
            .collect();
        let replayed = File::options()
            .write(true)
            .open(self.disk.path("replayed"))
            .expect("the copy");
        let mut marks = 0;
        for (at, entry) in log.entries.iter().enumerate() {
            log.apply(entry, &replayed);
            marks += usize::from(entry.mark.as_ref().is_some_and(|mark| mark.parse::<usize>().is_ok()));
            if points.contains(&at) && budget.next().is_some() {
                println!("cut after entry {at} of {}, after {marks} verbs", log.entries.len());
                self.disk.start(&log, at + 1, &mut self.rig.dice);
                self.check(&moments[marks], moments.get(marks + 1));
                self.disk.stop();
                told.points += 1;
            }
        }
        assert_eq!(marks, VERBS, "a mark for each verb");
        drop(replayed);
        self.disk.shell("cmp disk replayed");
        self.rig.model = Model {
            trees: std::mem::take(&mut self.rig.model.trees),
            ..moments[VERBS].model.clone()
        };
        told.verbs += VERBS;
        told.entries += log.entries.len();
        told.flushes += flushes.len();
    }

    /// All that was acknowledged before is there, and what was under way is done or not.
    fn check(&mut self, moment: &Moment, after: Option<&Moment>) {
        let trees = std::mem::take(&mut self.rig.model.trees);
        self.rig.model = Model {
            trees,
            ..moment.model.clone()
        };
        self.rig.check_any(&moment.next, &End::Killed);
        if let Some(after) = after.filter(|_| moment.next.word() == "merge") {
            self.merge_again(moment, after);
        }
        self.rig.check_all();
        self.detach();
    }
}

impl Machine {
    /// A merge that was cut short goes on when it is given again, and makes the same image.
    fn merge_again(&mut self, before: &Moment, after: &Moment) {
        let verb = &before.next;
        if self.rig.model.names == before.model.names {
            let end = End::run(&mut self.rig.plywood.command(&verb.args));
            assert!(matches!(end, End::Done(_)), "{verb} again: {end:?}");
            self.rig.settle(verb, &end);
        }
        assert_eq!(self.rig.model.names, after.model.names, "{verb}, cut short");
    }
}

#[derive(Default)]
struct Told {
    verbs: usize,
    entries: usize,
    flushes: usize,
    points: u64,
}

fn cut(driver: &'static str) {
    let seed = seed();
    let mut machine = Machine::new(driver, seed);
    let mut budget = Budget::rounds(rounds(POINTS as u64));
    let mut told = Told::default();
    while budget.more() {
        machine.session(&mut budget, &mut told);
    }
    let Told {
        verbs,
        entries,
        flushes,
        points,
    } = told;
    println!(
        "torture: {driver}, power cut at {points} of {flushes} flushes in a log of {entries} writes of {verbs} verbs"
    );
}

#[test]
fn dm_what_was_acknowledged_survives_a_cut_at_any_flush_on_thin() {
    cut("thin");
}

#[test]
fn dm_what_was_acknowledged_survives_a_cut_at_any_flush_on_overlay() {
    cut("overlay");
}
