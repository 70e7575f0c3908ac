//! A merge that is cut short at every twentieth of its way goes on from there and is right. In the guest.
//!
//! The command is killed where the kernel has folded so much, and the kernel's own work ended at once, as a machine that
//! goes down ends it. What is half merged nobody can see; the same command goes on where it was; and what comes out
//! holds what the container had written, by sums that it wrote too.
//!
//! Two points of 32 MiB in `make test`; `PLYWOOD_TORTURE_ROUNDS=19 tests/run dm_merge` all of 512 MiB.

mod common;
mod torture;

use std::collections::BTreeSet;
use std::process::Stdio;
use std::time::{Duration, Instant};

use common::{Plywood, busybox_tar};
use plywood::dm::classic::Status;
use plywood::dm::control::Control;
use torture::{Budget, number, seed};

/// Points between the beginning and the end, and how far the next one is from the last: it comes to all of them.
const POINTS: u64 = 19;
const STEP: u64 = 8;

/// The kernel's merge, if there is one: its device's name, and the chunks that are to be folded yet.
fn merge_in(kernel: &Control) -> Option<(String, u64)> {
    let name = kernel.list().ok()?.into_iter().find(|name| name.contains("-merge-"))?;
    let status: Status = kernel.status(&name).ok()?.parse().ok()?;
    Some((name.clone(), status.require(&name).ok()?))
}

struct Merging {
    plywood: Plywood,
    /// The image before the merge.
    old: String,
    /// Chunks that a merge has to fold at least.
    all: u64,
    kernel: Control,
}

impl Merging {
    fn new(mib: u64) -> Self {
        let plywood = Plywood::new("thin");
        let base = plywood.beside("base.tar");
        busybox_tar(&base);
        let old = plywood.ok(["import", base.to_str().expect("UTF-8"), "base"]);
        let script = format!(
            "set -e; for i in 1 2 3 4 5 6 7 8; do dd if=/dev/urandom of=/f$i bs=1M count={} 2>/dev/null; done
             md5sum /f* > /sums",
            mib / 8
        );
        plywood.ok(["run", "--cow", "--name", "one", "base", "sh", "-c", &script]);
        Self {
            plywood,
            old,
            all: mib * 256,
            kernel: Control::open().expect("device-mapper"),
        }
    }

    /// Merges until so many twentieths are done, then ends it. Gives the chunks that were left, unless it was faster.
    fn cut(&self, point: u64) -> Option<u64> {
        let mut merge = self.plywood.command(["merge", "one"]);
        let mut merge = merge.stdout(Stdio::null()).spawn().expect("plywood");
        let enough = self.all * (20 - point) / 20;
        let (name, left) = loop {
            if let Some(status) = merge.try_wait().expect("its end") {
                assert!(status.success(), "{status}");
                self.again();
                return None;
            }
            match merge_in(&self.kernel) {
                Some((name, left)) if left <= enough && left > 0 => break (name, left),
                _ => std::thread::sleep(Duration::from_millis(1)),
            }
        };
        merge.kill().expect("its death");
        merge.wait().expect("its end");
        // It may have removed the device by itself.
        if self.kernel.info(&name).expect("the kernel's word").is_some() {
            self.kernel.remove(&name).expect("the end of the kernel's work");
        }
        Some(left)
    }

    /// Nobody sees what is half merged: not by the image, not by the container, and what there is fits together.
    fn nothing_is_half(&self) {
        let plywood = &self.plywood;
        assert_eq!(plywood.json(["inspect", "base"])[0]["id"], self.old.as_str());
        let seen = plywood.ok([
            "run",
            "--rm",
            "base",
            "sh",
            "-c",
            "ls / | grep -c -e '^f' -e sums || true",
        ]);
        assert_eq!(seen, "0");
        let own = plywood.ok(["diff", "one"]);
        assert_eq!(own.lines().filter(|line| line.starts_with("A /f")).count(), 8, "{own}");
        plywood.sound();
    }

    /// Merges to the end; gives the chunks that were left to it.
    fn finish(&self) -> u64 {
        let mut merge = self.plywood.command(["merge", "one"]);
        let mut merge = merge.stdout(Stdio::null()).spawn().expect("plywood");
        let mut first = None;
        loop {
            if let Some(status) = merge.try_wait().expect("its end") {
                assert!(status.success(), "{status}");
                return first.unwrap_or(0);
            }
            if first.is_none() {
                first = merge_in(&self.kernel).map(|(_, left)| left);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn is_right(&self) {
        let plywood = &self.plywood;
        assert_ne!(plywood.json(["inspect", "base"])[0]["id"], self.old.as_str());
        let sums = plywood.ok(["run", "--rm", "base", "sh", "-c", "md5sum -c /sums | grep -c ': OK'"]);
        assert_eq!(sums, "8");
    }

    /// As if it had not been merged.
    fn again(&self) {
        self.plywood.ok(["tag", &self.old, "base"]);
        self.plywood.ok(["gc"]);
    }
}

#[test]
fn dm_a_merge_cut_short_at_any_twentieth_goes_on_and_is_right() {
    let is_long = ["PLYWOOD_TORTURE_ROUNDS", "PLYWOOD_TORTURE_SECONDS"];
    let is_long = is_long.into_iter().any(|variable| number::<u64>(variable).is_some());
    let mib = if is_long { 512 } else { 32 };
    let (seed, mut budget, began) = (seed(), Budget::rounds(2), Instant::now());
    let merging = Merging::new(mib);
    let (mut cuts, mut missed) = (BTreeSet::new(), 0);
    while let Some(round) = budget.next() {
        let point = 1 + (seed + round * STEP) % POINTS;
        let Some(left) = (0..5).find_map(|_| merging.cut(point)) else {
            missed += 1;
            continue;
        };
        merging.nothing_is_half();
        let then = merging.finish();
        println!(
            "cut at {point}/20: {left} of {} chunks left, {then} when it went on",
            merging.all
        );
        // What was in flight when it ended is folded once more at most.
        assert!(then <= left, "it began anew");
        merging.is_right();
        merging.again();
        cuts.insert(point);
    }
    merging.plywood.ok(["rm", "one"]);
    merging.plywood.sound();
    let (kinds, seconds) = (cuts.len(), began.elapsed().as_secs());
    println!("torture: thin, a merge of {mib} MiB cut short at {kinds} of 19 twentieths, {missed} missed, {seconds} s");
    assert!(kinds > 0);
}
