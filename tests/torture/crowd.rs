//! Many at a time: 2 to 16 stories on one root, each with names and containers of its own.
//!
//! What a story does to its own things nobody else changes, so each verb's result can be foretold, and is
//! looked at after it. Layers, blobs, images and the pool are everybody's: the stories import the same
//! archives, and remove, collect and rebuild under each other's feet.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::checker::{Seen, tree_is_as_ever};
use super::killer::Killer;
use super::story::{KEEP, Model, Story, Verb};
use super::{Budget, End, Rig};
use crate::common::Plywood;
use crate::common::edits::Dice;

/// So many stories at a time, one number after the other.
const CROWDS: [usize; 5] = [2, 3, 5, 8, 16];

/// Plays for so many seconds, then checks all.
pub fn work(plywood: Plywood, seed: u64, seconds: u64) {
    let mut rig = Rig::new(plywood, seed);
    let mut budget = Budget::seconds(seconds);
    let verbs = AtomicU64::new(0);
    let failed = AtomicBool::new(false);
    // Five crowds at least, a minute each at most.
    let slice = (budget.left() / 5)
        .min(Duration::from_secs(60))
        .max(Duration::from_secs(1));
    while let Some(round) = budget.next() {
        let stories = CROWDS[usize::try_from(round - 1).expect("a round") % CROWDS.len()];
        let until = Instant::now() + slice;
        let rig_now = &rig;
        let (verbs, failed) = (&verbs, &failed);
        let models: Vec<Model> = std::thread::scope(|threads| {
            let start = |number| {
                threads.spawn(move || {
                    let worker = Worker::new(rig_now, number, seed.wrapping_mul(1000) + round * 100);
                    let mut worker = FailTogether { worker, failed };
                    while Instant::now() < until && !failed.load(Ordering::SeqCst) {
                        worker.worker.round();
                        verbs.fetch_add(1, Ordering::SeqCst);
                    }
                    worker.worker.leave()
                })
            };
            let workers: Vec<_> = (0..stories).map(start).collect();
            workers
                .into_iter()
                .map(|worker| worker.join().expect("a story"))
                .collect()
        });
        rig.plywood.sound();
        nothing_is_lost(&mut rig, models);
        rig.check_all();
    }
    println!(
        "torture: {}, {} verbs by {CROWDS:?} processes at a time",
        rig.plywood.driver(),
        verbs.load(Ordering::SeqCst)
    );
}

/// Every name of every story still stands for its image, and that for its tree; then they go.
fn nothing_is_lost(rig: &mut Rig, models: Vec<Model>) {
    let seen = Seen::on(&rig.plywood, &rig.story);
    for model in models {
        for (id, tree) in model.trees {
            let first = rig.model.trees.entry(id.clone()).or_insert_with(|| tree.clone());
            assert_eq!(*first, tree, "two stories saw another tree of {id}");
        }
        for (name, id) in model.names {
            assert_eq!(seen.names.get(&name), Some(&id), "{name}, when all had ended");
            tree_is_as_ever(&rig.plywood, &mut rig.model, &id);
            if name != KEEP {
                rig.plywood.ok(["rmi", &name]);
            }
        }
    }
}

/// When one story fails, the others stop too.
struct FailTogether<'a> {
    worker: Worker<'a>,
    failed: &'a AtomicBool,
}

impl Drop for FailTogether<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.failed.store(true, Ordering::SeqCst);
        }
    }
}

/// One story among others.
struct Worker<'a> {
    plywood: &'a Plywood,
    story: Story,
    model: Model,
    killer: Killer,
    dice: Dice,
}

impl<'a> Worker<'a> {
    fn new(rig: &'a Rig, number: usize, seed: u64) -> Self {
        let prefix = format!("w{number}-");
        let seed = seed + number as u64;
        let mut story = Story::new(&rig.plywood, &prefix, rig.story.archives().to_vec(), seed);
        story.alone = false;
        let mut model = Model {
            trees: rig.model.trees.clone(),
            ..Model::default()
        };
        model.names.insert(KEEP.to_owned(), rig.model.names[KEEP].clone());
        Self {
            plywood: &rig.plywood,
            story,
            model,
            killer: Killer::named(&rig.plywood, &prefix),
            dice: Dice::new(seed ^ 0x5eed),
        }
    }

    fn round(&mut self) {
        let verb = self.story.next(&self.model);
        self.play(&verb);
        if self.dice.below(4) == 0 {
            let ids: Vec<String> = self.model.names.values().cloned().collect();
            tree_is_as_ever(self.plywood, &mut self.model, &ids[self.dice.below(ids.len())]);
        }
        if let Some(output) = &verb.output {
            super::checker::remove(output);
        }
    }

    fn play(&mut self, verb: &Verb) {
        let end = self.killer.finish(self.plywood.command(&verb.args));
        if let End::Refused(why) = &end {
            assert!(is_due_to_others(verb, why), "{verb}: {why}");
        }
        let seen = Seen::on(self.plywood, &self.story);
        if let Err(wrong) = self.model.settle(verb, &end, &seen) {
            panic!("after {verb} ({end:?}): {wrong}");
        }
    }

    /// Removes the story's containers; its images may be under others' still.
    fn leave(&mut self) -> Model {
        for container in self.model.containers.clone().into_keys() {
            self.play(&Verb::rm(&container));
        }
        std::mem::take(&mut self.model)
    }
}

/// The image of one's own name may be under somebody else's container.
fn is_due_to_others(verb: &Verb, why: &str) -> bool {
    verb.word() == "rmi" && why.contains("is used by container")
}
