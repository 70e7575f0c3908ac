//! The power goes at a random moment of random verbs on a thin pool: whatever had returned 0 is there afterwards,
//! bit for bit, and the index is made again, loudly.
//!
//! Boots a guest on one disk again and again (`tests/guest/boot`) and kills the whole of it. This very test
//! runs inside as well, as the test `child`: it checks what the last cut has left, then works on until the
//! next. What it was about to do and what was acknowledged it keeps in a journal on the same disk, synced; and
//! it says so on its output, so that a journal that was rolled back would be noticed.
//!
//! `make torture` runs more of it (docs/testing.md).

mod common;
mod torture;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use common::Plywood;
use common::edits::Dice;
use rustix::process::{Pid, Signal, kill_process};
use torture::killer::Killer;
use torture::story::{KEEP, Model, Story, Verb};
use torture::{Budget, End, Rig, archives, enter_private_namespace, seed};

const CHILD: &str = "PLYWOOD_TORTURE_DISK";

/// What outlives the cuts.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
struct Journal {
    model: Model,
    archives: Vec<archives::Archive>,
    /// The verb that has begun and is not acknowledged.
    in_flight: Option<Verb>,
    /// How many were.
    acknowledged: u64,
}

impl Journal {
    fn path(disk: &Path) -> PathBuf {
        disk.join("journal")
    }

    fn read(disk: &Path) -> Option<Self> {
        let content = std::fs::read(Self::path(disk)).ok()?;
        Some(serde_json::from_slice(&content).expect("a whole journal"))
    }

    fn write(&self, disk: &Path) {
        let new = disk.join("journal.new");
        std::fs::write(&new, serde_json::to_vec(self).expect("JSON")).expect("the journal");
        let sync = |path: &Path| {
            std::fs::File::open(path)
                .and_then(|file| file.sync_all())
                .expect("a sync")
        };
        sync(&new);
        std::fs::rename(&new, Self::path(disk)).expect("the journal");
        sync(disk);
    }
}

/// The guest's part. Without its variable this is no test, and passes.
#[test]
fn child() {
    if let Some(disk) = std::env::var_os(CHILD) {
        work(Path::new(&disk));
    }
}

fn work(disk: &Path) {
    let seed = seed();
    let mut rig = match Journal::read(disk) {
        Some(journal) => after_a_cut(disk, journal, seed),
        None => first_boot(disk, seed),
    };
    let mut journal = Journal {
        model: rig.model.clone(),
        archives: rig.story.archives().to_vec(),
        in_flight: None,
        acknowledged: 0,
    };
    journal.write(disk);
    println!("working");
    loop {
        let verb = rig.story.next(&rig.model);
        rig.before(&verb);
        journal.in_flight = Some(verb.clone());
        journal.write(disk);
        println!("{verb}");
        let end = rig.killer.finish(rig.plywood.command(&verb.args));
        assert!(matches!(end, End::Done(_)), "{verb}: {end:?}");
        rig.settle(&verb, &end);
        if let Some(output) = &verb.output {
            torture::checker::remove(output);
        }
        journal.model.clone_from(&rig.model);
        journal.in_flight = None;
        journal.acknowledged += 1;
        journal.write(disk);
        println!("acknowledged {}", journal.acknowledged);
    }
}

fn first_boot(disk: &Path, seed: u64) -> Rig {
    std::fs::create_dir_all(disk).expect("a folder on the disk");
    let mut rig = Rig::new(Plywood::at(disk, "thin"), seed);
    // So many names that look-ups go through the index.
    archives::crowd(&rig.plywood);
    rig.tree_is_as_ever(&rig.model.names[KEEP].clone());
    // The archives are the test's own, and must outlive the cuts too.
    rustix::fs::sync();
    rig
}

fn after_a_cut(disk: &Path, journal: Journal, seed: u64) -> Rig {
    enter_private_namespace();
    println!("found {}", journal.acknowledged);
    let plywood = Plywood::at(disk, "thin");
    let mut rig = Rig {
        story: Story::new(&plywood, "", journal.archives, seed),
        killer: Killer::new(&plywood),
        dice: Dice::new(seed ^ 0x5eed),
        model: journal.model,
        plywood,
    };
    rig.story.alone = false;
    the_index_is_made_again(&rig);
    let (verb, end) = match journal.in_flight {
        Some(verb) => (verb, End::Killed),
        None => (Verb::plain(&["gc"]), End::Done(String::new())),
    };
    rig.check(&verb, &end);
    rig.check_all();
    println!("sound");
    rig
}

/// The first look-up finds notes of another boot, of which some may be lost, and says what it does about it.
fn the_index_is_made_again(rig: &Rig) {
    let root = rig.plywood.root();
    let is_whole = root.join("index/whole").exists();
    let notes = root.join("index.pending").exists();
    let output = rig.plywood.run(["inspect", KEEP]);
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}");
    let is_told = told.contains("the index is made again");
    assert!(is_told || !notes, "a silent index (whole: {is_whole}): {told}");
    if is_told {
        println!("rebuilt the index");
    }
    let document: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let names = document[0]["names"].as_array().expect("names").len();
    assert!(names > archives::CROWD, "only {names} of its names are found");
}

/// What a guest said until its power went.
#[derive(Debug, Default)]
struct Said {
    found: Option<u64>,
    acknowledged: u64,
    sound: bool,
    rebuilt: bool,
    working: bool,
}

/// Boots, waits until the guest works, cuts its power `after` that.
fn boot(disk: &Path, seed: u64, after: Duration) -> Said {
    let mut boot = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/guest/boot"));
    boot.arg("--disk")
        .arg(disk)
        .args(["--disk-size", "12G", "--timeout", "300", "--", "env"]);
    boot.arg(format!("{CHILD}=/srv/plywood-test/torture"));
    boot.arg(format!("PLYWOOD_TEST_SEED={seed}"));
    boot.arg(std::env::current_exe().expect("this program"));
    boot.args(["child", "--exact", "--nocapture", "--test-threads=1"]);
    let mut guest = boot
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("a guest");
    let pid = Pid::from_child(&guest);
    let mut said = Said::default();
    let mut text = String::new();
    for line in BufReader::new(guest.stdout.take().expect("a pipe")).lines() {
        let Ok(line) = line else { break };
        let number = |prefix| {
            line.strip_prefix(prefix)
                .and_then(|number: &str| number.trim().parse().ok())
        };
        match line.trim() {
            "sound" => said.sound = true,
            "rebuilt the index" => said.rebuilt = true,
            "working" => {
                said.working = true;
                std::thread::spawn(move || {
                    std::thread::sleep(after);
                    // The guest's runner kills every process of it.
                    let _ = kill_process(pid, Signal::TERM);
                });
            }
            _ => {}
        }
        said.found = number("found ").or(said.found);
        said.acknowledged = number("acknowledged ").unwrap_or(said.acknowledged);
        text.push_str(&line);
        text.push('\n');
    }
    let status = guest.wait().expect("its end");
    // 143: the runner was told to end it. Otherwise the guest has ended by itself.
    assert!(
        said.working && status.code() == Some(143),
        "the guest, seed {seed}, {status}:\n{text}"
    );
    println!("{text}");
    said
}

#[test]
fn what_was_acknowledged_survives_a_power_cut_at_any_moment() {
    let (seed, folder) = (seed(), tempfile::tempdir().expect("a folder"));
    let mut dice = Dice::new(seed ^ 0xc07);
    let disk = folder.path().join("disk");
    let mut last = boot(&disk, seed, Duration::from_millis(2500));
    let mut budget = Budget::rounds(1);
    let (mut cuts, mut verbs, mut rebuilt) = (0, last.acknowledged, 0);
    while let Some(round) = budget.next() {
        let after = Duration::from_millis(u64::try_from(200 + dice.below(4000)).expect("a time"));
        let said = boot(&disk, seed + round, after);
        assert!(said.sound, "the check has ended");
        assert!(
            said.found >= Some(last.acknowledged),
            "{said:?} after {last:?}: the journal was rolled back"
        );
        cuts += 1;
        verbs += said.acknowledged;
        rebuilt += u64::from(said.rebuilt);
        last = said;
    }
    println!("torture: thin, {cuts} power cuts in {verbs} verbs; the index was made again {rebuilt} times");
}
