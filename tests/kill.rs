//! SIGKILL of every verb that changes something, on the overlay driver: at random moments, and after each
//! single system call of each of its processes. Then of the command that takes up what it has left. Needs root.
//!
//! `make torture` runs more of it (docs/testing.md).

mod common;
mod torture;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use common::{Plywood, own_network};
use torture::stepper::{Stepped, Victim, step};
use torture::story::{KEEP, Verb};
use torture::{Budget, End, Rig, number, seed};

/// A root in memory: a kill loses nothing that was written, so no disk is needed.
fn root() -> Plywood {
    Plywood::new_in(Path::new("/dev/shm"), "overlay")
}

#[test]
fn a_kill_at_any_moment_loses_nothing() {
    own_network();
    Rig::new(root().with_network(), seed()).kill_at_random(15);
}

/// A verb to be stepped through, and what brings the root to where it has everything to do.
struct Scene {
    name: &'static str,
    prepare: fn(&mut Rig),
    verb: fn(&Rig) -> Verb,
}

const SCENES: [Scene; 15] = [
    Scene {
        name: "import",
        prepare: |rig| forget(rig, "n0:1"),
        verb: |rig| Verb::import(&rig.story.archives()[1], "n0:1"),
    },
    Scene {
        name: "commit",
        prepare: |rig| {
            forget(rig, "n1:1");
            make_container(rig);
        },
        verb: |_| Verb::commit("c0", "n1:1"),
    },
    Scene {
        name: "rmi",
        prepare: |rig| {
            let import = Verb::import(&rig.story.archives()[1], "n0:1");
            play(rig, &import);
        },
        verb: |_| Verb::rmi("n0:1"),
    },
    Scene {
        name: "gc",
        prepare: |rig| {
            let archives = rig.story.archives().to_vec();
            play(rig, &Verb::import(&archives[1], "n0:1"));
            play(rig, &Verb::tag(KEEP, &archives[0].id, "n0:1"));
            // What a killed import leaves in the middle of its work.
            let import = rig.plywood.command(&Verb::import(&archives[3], "n2:1").args);
            step(&import, 700, Victim::All, &rig.plywood.beside("output"));
        },
        verb: |_| Verb::plain(&["gc"]),
    },
    Scene {
        name: "import into a new root",
        prepare: |rig| {
            let root = rig.plywood.root();
            if root.exists() {
                std::fs::remove_dir_all(root).expect("the root goes");
            }
            rig.model.names.clear();
            rig.model.containers.clear();
        },
        verb: |rig| Verb::import(&rig.story.archives()[0], KEEP),
    },
    Scene {
        name: "run",
        prepare: |rig| remove_container(rig),
        verb: |_| Verb::run(KEEP, "c0", 1),
    },
    Scene {
        name: "run --rm",
        prepare: |rig| remove_container(rig),
        verb: |_| Verb::passing(KEEP, "c0", 1),
    },
    Scene {
        name: "run --userns auto",
        prepare: |rig| remove_container(rig),
        verb: |_| Verb::with_users(KEEP, "c0", 1),
    },
    Scene {
        name: "start",
        prepare: |rig| make_container(rig),
        verb: |_| Verb::start("c0"),
    },
    Scene {
        name: "rm",
        prepare: |rig| make_container(rig),
        verb: |_| Verb::rm("c0"),
    },
    Scene {
        name: "tag",
        prepare: |_| {},
        verb: |rig| Verb::tag(KEEP, &rig.story.archives()[0].id, "n3:1"),
    },
    Scene {
        name: "export",
        prepare: |rig| {
            // Another file has its name already.
            let export = export(rig);
            play(rig, &export);
        },
        verb: |rig| export(rig),
    },
    Scene {
        name: "mount",
        prepare: |_| {},
        verb: |_| Verb::plain(&["mount", KEEP]),
    },
    Scene {
        name: "umount",
        prepare: |rig| play(rig, &Verb::plain(&["mount", KEEP])),
        verb: |_| Verb::plain(&["umount", KEEP]),
    },
    Scene {
        name: "check --rebuild",
        prepare: |_| {},
        verb: |_| Verb::plain(&["check", "--rebuild"]),
    },
];

fn make_container(rig: &mut Rig) {
    if !rig.model.containers.contains_key("c0") {
        play(rig, &Verb::run(KEEP, "c0", 1));
    }
}

fn remove_container(rig: &mut Rig) {
    if rig.model.containers.contains_key("c0") {
        play(rig, &Verb::rm("c0"));
    }
}

fn export(rig: &Rig) -> Verb {
    rig.story.export_of("docker-archive", KEEP)
}

/// Runs a verb that must succeed, and takes in what it changed.
fn play(rig: &mut Rig, verb: &Verb) {
    let end = End::run(&mut rig.plywood.command(&verb.args));
    assert!(matches!(end, End::Done(_)), "{verb}: {end:?}");
    rig.settle(verb, &end);
}

/// Removes a name, and what only it needs.
fn forget(rig: &mut Rig, name: &str) {
    if rig.model.names.contains_key(name) {
        play(rig, &Verb::rmi(name));
    }
    rig.plywood.ok(["gc"]);
}

/// Who dies, in turn.
const VICTIMS: [Victim; 3] = [Victim::All, Victim::First, Victim::Caller];

/// Kills a scene's verb after its `first` call, then each `stride`-th, until it has no more; gives the number
/// of kills and the calls, by process and number, after which they came.
fn step_through(
    rig: &mut Rig,
    scene: &Scene,
    first: u64,
    stride: u64,
    budget: &Budget,
) -> (u64, BTreeSet<(usize, u64)>) {
    let (mut kills, mut points) = (0, BTreeSet::new());
    for nth in (first..).step_by(usize::try_from(stride).expect("a stride")) {
        (scene.prepare)(rig);
        let verb = (scene.verb)(rig);
        let victim = VICTIMS[usize::try_from((nth / stride + first) % 3).expect("below 3")];
        let stepped = step(
            &rig.plywood.command(&verb.args),
            nth,
            victim,
            &rig.plywood.beside("output"),
        );
        println!("{} after call {nth}, {victim:?}: {:?}", scene.name, stepped.struck);
        rig.check_any(&verb, &stepped.end);
        let Some(point) = stepped.struck else { break };
        points.insert(point);
        kills += 1;
        if !budget.lasts() {
            break;
        }
    }
    (kills, points)
}

/// `PLYWOOD_TORTURE_STRIDE=1` strikes after every call, and three times: each time another process dies.
/// `PLYWOOD_TORTURE_VERB=commit` steps through that one only.
#[test]
fn a_kill_after_any_system_call_loses_nothing() {
    let seed = seed();
    let budget = Budget::seconds(3600);
    let stride = number("PLYWOOD_TORTURE_STRIDE").unwrap_or(197);
    let passes = match (stride, number::<u64>("PLYWOOD_TORTURE_SECONDS")) {
        (1, _) => 3,
        (_, Some(_)) => u64::MAX,
        (_, None) => 1,
    };
    let mut rig = Rig::new(root(), seed);
    let chosen = std::env::var("PLYWOOD_TORTURE_VERB").ok();
    let mut told = BTreeMap::new();
    for pass in (0..passes).take_while(|_| budget.lasts()) {
        for scene in &SCENES {
            if !budget.lasts() || chosen.as_ref().is_some_and(|chosen| chosen != scene.name) {
                continue;
            }
            let first = 1 + (seed + pass) % stride.max(3);
            let (kills, points) = step_through(&mut rig, scene, first, stride, &budget);
            let (all, seen): &mut (u64, BTreeSet<_>) = told.entry(scene.name).or_default();
            *all += kills;
            seen.extend(points);
        }
    }
    for (scene, (kills, points)) in &told {
        println!(
            "torture: {scene}, {kills} kills after system calls, {} kinds of call",
            points.len()
        );
        assert!(*kills > 0, "{scene}");
    }
}

/// How many system calls each word makes, as far as was seen.
#[derive(Default)]
struct Calls(BTreeMap<String, u64>);

impl Calls {
    /// Kills a verb after one of its calls.
    fn step(&mut self, rig: &mut Rig, verb: &Verb, victim: Victim) -> Stepped {
        let known = self.0.entry(verb.word().to_owned()).or_insert(4000);
        let nth = 1 + rig.dice.below(usize::try_from(*known).expect("a number")) as u64;
        let command = rig.plywood.command(&verb.args);
        let stepped = step(&command, nth, victim, &rig.plywood.beside("output"));
        println!("{verb} after call {nth}, {victim:?}: {:?}", stepped.struck);
        if stepped.struck.is_none() {
            *known = stepped.calls;
        }
        stepped
    }
}

#[test]
fn a_kill_in_the_recovery_from_a_kill_loses_nothing() {
    let mut rig = Rig::new(root(), seed());
    let mut budget = Budget::rounds(40);
    let (mut calls, mut once, mut twice) = (Calls::default(), 0, 0);
    while let Some(round) = budget.next() {
        let scene = &SCENES[usize::try_from(round).expect("a round") % SCENES.len()];
        if !rig.model.names.contains_key(KEEP) {
            // Its import was killed.
            let import = Verb::import(&rig.story.archives()[0], KEEP);
            play(&mut rig, &import);
        }
        (scene.prepare)(&mut rig);
        let mut verb = (scene.verb)(&rig);
        let victim = VICTIMS[rig.dice.below(VICTIMS.len())];
        let first = calls.step(&mut rig, &verb, victim);
        once += u64::from(first.struck.is_some());
        if first.struck.is_some() {
            let mut struck = false;
            let victim = VICTIMS[rig.dice.below(VICTIMS.len())];
            let end = rig.kill_the_recovery(&mut verb, |rig, next| {
                let stepped = calls.step(rig, next, victim);
                struck = stepped.struck.is_some();
                stepped.end
            });
            assert!(
                struck || matches!(end, End::Done(_)),
                "the recovery from {}: {end:?}",
                scene.name
            );
            twice += u64::from(struck);
        }
        rig.check_any(&verb, &first.end);
    }
    rig.check_all();
    println!("torture: overlay, {once} verbs killed after a system call, {twice} recoveries from them killed too");
    assert!(twice > 0);
}
