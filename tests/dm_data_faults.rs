//! The pool's data device fails at a random moment of random verbs. In the guest.
//!
//! Writes fail, or all, or writes for a second in two (dm-flakey, dm-error), or reads of some blocks (dm-dust), from a
//! drawn moment of the verb until it has ended. Then the device is well again, the pool leaves the kernel, so that
//! nothing is remembered but what reached the device, and the checker of the torture rig has its turn: a verb that
//! returned 0 is done, one that was refused says why and has moved no name, the next command succeeds, and each
//! layer is what its digest says.
//!
//! `make torture` runs more of it (docs/testing.md).

mod common;
#[path = "common/failing.rs"]
mod failing;
#[path = "common/pool_root.rs"]
mod pool_root;
mod torture;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use common::Plywood;
use failing::{DEVICE, Failing, RESUME};
use pool_root::shell;
use torture::story::{KEEP, Verb};
use torture::{Budget, End, Rig, seed};

/// The data device's size, and how much of its beginning dm-dust has bad blocks in.
const DATA_MIB: u64 = 512;
const IN_USE_MIB: usize = 64;
const BAD_MIB: usize = 16;

/// A verb that was not seen to its end yet.
const UNKNOWN: Duration = Duration::from_millis(800);

/// What fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    Writes,
    SomeWrites,
    Reads,
    All,
}

const FAULTS: [Fault; 4] = [Fault::Writes, Fault::SomeWrites, Fault::Reads, Fault::All];

/// What came of the verbs during which something failed.
#[derive(Debug, Default)]
struct Told {
    done: u64,
    refused: u64,
    /// How often `pool repair` had to be asked: a container had lost writes, or the pool wanted a check.
    repaired: u64,
}

struct Machine {
    // Before the pool it works on.
    rig: Rig,
    failing: Failing,
    usual: BTreeMap<String, Duration>,
    told: BTreeMap<Fault, Told>,
}

impl Machine {
    fn new(seed: u64) -> Self {
        let failing = Failing::data(DATA_MIB);
        let root = failing.plywood.root();
        // Where the rig looks for it.
        shell(&format!("ln -s {} {}/pool/metadata", failing.metadata, root.display()));
        let plywood = Plywood::at(root.parent().expect("a folder"), "thin");
        let mut rig = Rig::new(plywood, seed);
        rig.story.alone = false;
        Self {
            rig,
            failing,
            usual: BTreeMap::new(),
            told: BTreeMap::new(),
        }
    }

    /// Gets a fault ready; gives the command that makes it happen.
    fn prepare(&mut self, fault: Fault) -> String {
        match fault {
            Fault::Writes => self.failing.load("flakey {} 0 0 1 1 error_writes"),
            Fault::SomeWrites => self.failing.load("flakey {} 0 1 1 1 error_writes"),
            Fault::All => self.failing.load("error"),
            Fault::Reads => {
                self.failing.switch("dust {} 0 1048576");
                let blocks: Vec<String> = (0..BAD_MIB)
                    .map(|_| self.rig.dice.below(IN_USE_MIB).to_string())
                    .collect();
                let add = format!("dmsetup message {DEVICE} 0 addbadblock $block || true");
                shell(&format!("for block in {}; do {add}; done", blocks.join(" ")));
                return format!("dmsetup message {DEVICE} 0 enable");
            }
        }
        RESUME.to_owned()
    }

    /// A verb, in which something fails from a drawn moment on. Whether that came before its end.
    fn strike(&mut self, verb: &Verb, fault: Fault) -> (End, bool) {
        let moment = self.prepare(fault);
        let usual = self.usual.get(verb.word()).copied().unwrap_or(UNKNOWN);
        let after = usual.mul_f64(self.rig.dice.below(800) as f64 / 1000.0);
        let began = Instant::now();
        let striking = std::thread::spawn(move || {
            std::thread::sleep(after);
            shell(&moment);
            Instant::now()
        });
        let end = self.rig.killer.finish(self.rig.plywood.command(&verb.args));
        let ended = Instant::now();
        let struck = striking.join().expect("the fault") < ended;
        if matches!(end, End::Done(_)) {
            self.usual.insert(verb.word().to_owned(), ended - began);
        }
        println!("{verb}: {fault:?} after {after:?}, in time: {struck}: {end:?}");
        (end, struck)
    }

    fn round(&mut self, fault: Fault) {
        let verb = self.rig.story.next(&self.rig.model);
        let (end, struck) = self.strike(&verb, fault);
        self.failing.heal();
        self.rig.plywood.ok(["pool", "detach"]);
        let repaired = self.what_was_lost_is_told();
        if let End::Refused(why) = &end {
            names_the_fault(&verb, why);
            let names = self.rig.model.names.clone();
            let unmoved = Verb {
                names: BTreeMap::new(),
                ..verb.clone()
            };
            // A container that could not be made to its end may be there, or not.
            self.rig.check_any(&unmoved, &End::Killed);
            assert_eq!(self.rig.model.names, names, "{verb} was refused");
        } else {
            self.rig.check_any(&verb, &end);
            self.an_acknowledged_run_is_whole(&verb);
        }
        self.layers_are_whole();
        if struck {
            let told = self.told.entry(fault).or_default();
            told.repaired += repaired;
            match end {
                End::Done(_) => told.done += 1,
                _ => told.refused += 1,
            }
        }
    }

    /// A container that lost writes, and a pool that could not flush its data before its metadata, are named by
    /// `check`, and `pool repair` takes them up.
    fn what_was_lost_is_told(&self) -> u64 {
        let output = self.rig.plywood.run(["check"]);
        if output.status.success() {
            return 0;
        }
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        assert!(said.contains("lost writes") || said.contains("needs a check"), "{said}");
        let repaired = self.rig.plywood.json(["pool", "repair"]);
        println!("{said}{repaired}");
        1
    }

    /// Every layer's volume is what its digest says, and every filesystem clean.
    fn layers_are_whole(&self) {
        let repaired = self.rig.plywood.json(["pool", "repair"]);
        let nothing = serde_json::json!([]);
        assert_eq!(
            (&repaired["repaired"], &repaired["left"]),
            (&nothing, &nothing),
            "{repaired}"
        );
    }

    /// What a `run` that returned 0 wrote is what it writes where nothing fails.
    fn an_acknowledged_run_is_whole(&self, verb: &Verb) {
        let Some(name) = verb.containers.keys().next().filter(|_| verb.word() == "run") else {
            return;
        };
        if !self.rig.model.containers.contains_key(name) {
            return;
        }
        let plywood = &self.rig.plywood;
        let again = |word: &String| if word == name { "again".to_owned() } else { word.clone() };
        plywood.ok(verb.args.iter().map(again));
        let commit = |container: &str| plywood.ok(&Verb::commit(container, "compared:1").args);
        assert_eq!(commit(name), commit("again"), "{verb}");
        plywood.ok(["rm", "again"]);
        plywood.ok(["rmi", "compared:1"]);
    }
}

/// Whether a refusal says that data could not be read or written.
fn names_the_fault(verb: &Verb, why: &str) {
    // The kernel flushes the data before it commits metadata: where that fails, the pool wants a check.
    let words = [
        "Input/output error",
        "Read-only file system",
        "lost writes",
        "needs a check",
    ];
    assert!(words.iter().any(|word| why.contains(word)), "{verb}: {why}");
}

#[test]
fn dm_data_that_cannot_be_read_or_written_lose_nothing() {
    let seed = seed();
    let mut machine = Machine::new(seed);
    machine.rig.tree_is_as_ever(&machine.rig.model.names[KEEP].clone());
    let mut budget = Budget::rounds(4);
    while let Some(round) = budget.next() {
        let fault = FAULTS[usize::try_from(round).expect("a round") % FAULTS.len()];
        machine.round(fault);
    }
    machine.rig.check_all();
    for (fault, told) in &machine.told {
        let Told {
            done,
            refused,
            repaired,
        } = told;
        println!(
            "torture: thin, {fault:?} of the data device failing in {} verbs, {done} of them done, {refused} refused; {repaired} repairs",
            done + refused
        );
    }
}
