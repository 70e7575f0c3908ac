//! Each block of a small pool's metadata with a bit turned: it works, is repaired, or is refused. In the guest.
//!
//! Never wrong data: the digest of every layer's tree is compared before the repair and after it. Never a
//! hang: a round takes less than a minute. `PLYWOOD_TEST_ROUNDS` says how many blocks, spread over those
//! in use; `PLYWOOD_TEST_SEED` which bits.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test ends where something is not as it must be, and prints as tests do"
)]

mod common;
#[path = "common/pool_root.rs"]
mod pool_root;

use std::collections::BTreeMap;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::edits::Dice;
use common::tars::files_tar;
use common::{rounds, seed};
use plywood::dm::assembly::Options;
use plywood::dm::repair::Means;
use plywood::error::Kind;
use plywood::snapshot::thin::Thin;
use plywood::snapshot::{Access, Snapshotter};
use plywood_store::record::LayerRecord;
use plywood_store::{Digest, Store};
use pool_root::{MIB, Root, shell, tree_of, write};

const BLOCK: usize = 4096;
/// What `make test` has time for.
const SLICE: usize = 64;

struct Damaged {
    root: Root,
    layers: Vec<(LayerRecord, Digest)>,
}

impl Damaged {
    /// The root as it was, with a bit of its metadata turned.
    fn restore(&mut self, block: usize, bit: usize) {
        let root = self.root.store.root().to_owned();
        let pristine = self.root.folder.path().join("pristine");
        shell(&format!(
            "rm -rf {0} && cp -a --sparse=always {1} {0}",
            root.display(),
            pristine.display()
        ));
        self.root.store = Arc::new(Store::open(&root).unwrap().unwrap());
        let file = std::fs::File::options()
            .read(true)
            .write(true)
            .open(self.root.file("metadata"))
            .unwrap();
        let at = (block * BLOCK + bit / 8) as u64;
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ (1 << (bit % 8))], at).unwrap();
        file.sync_all().unwrap();
    }

    /// Every layer is what it was, or cannot be read. Whether all could.
    fn compare(&self, driver: &Thin, when: &str) -> bool {
        let mut all = true;
        for (layer, expected) in &self.layers {
            match tree_of(driver, &layer.chain_id) {
                Ok(digest) => assert_eq!(digest, *expected, "{when}: wrong data in {}", layer.chain_id),
                Err(_) => all = false,
            }
        }
        all
    }

    /// Uses the pool as it is; whether everything went well.
    fn work(&self, when: &str) -> bool {
        let driver = match Thin::open(self.root.store.clone()) {
            Ok(driver) => driver,
            Err(refused) => {
                assert!(refused.hint().is_some(), "{when}: {refused}");
                return false;
            }
        };
        let worked = driver.recover().is_ok() && self.compare(&driver, when);
        let (top, _) = self.layers.last().unwrap();
        let written = driver
            .prepare("new", Some(&top.chain_id), None)
            .and_then(|()| write(&driver, "new", &[3; 100_000]))
            .and_then(|()| driver.remove("new"));
        let whole = driver.verify().is_ok_and(|findings| findings.is_empty());
        worked && written.is_ok() && whole && self.container(&driver).is_some_and(|seen| seen == "written")
    }

    fn container(&self, driver: &Thin) -> Option<String> {
        let mounted = driver.mount("c", Access::ReadOnly).ok()?;
        let seen = std::fs::read_to_string(mounted.path().join("file"));
        mounted.close().ok()?;
        seen.ok()
    }

    /// How it came out.
    fn round(&self, when: &str) -> &'static str {
        if self.work(when) {
            return "works";
        }
        match self.root.repair(Means::default(), true) {
            Ok((_, repaired)) => {
                let driver = self.root.open();
                assert!(self.compare(&driver, when), "{when}: {repaired:?}");
                let told = repaired.left.iter().any(|line| line.contains("snapshot c"));
                let seen = self.container(&driver);
                assert!(
                    told || seen.as_deref() == Some("written"),
                    "{when}: {seen:?} {repaired:?}"
                );
                // What was not removed of the work is told like what was there.
                let is_active = |line: &String| line.contains("snapshot c") || line.contains("snapshot new");
                assert!(repaired.left.iter().all(is_active), "{when}: {repaired:?}");
                driver.remove("c").unwrap();
                driver.remove("new").unwrap();
                driver.prepare("new", Some(&self.layers[0].0.chain_id), None).unwrap();
                write(&driver, "new", b"fits").unwrap();
                assert_eq!(driver.verify().unwrap(), Vec::<String>::new(), "{when}");
                "repaired"
            }
            Err(refused) => {
                assert_eq!(refused.kind(), Kind::Corrupt, "{when}: {refused}");
                assert!(refused.hint().unwrap().contains("--accept-loss"), "{when}: {refused}");
                let means = Means {
                    accept_loss: true,
                    ..Means::default()
                };
                let (_, repaired) = self.root.repair(means, true).unwrap();
                assert!(self.compare(&self.root.open(), when), "{when}: {repaired:?}");
                "refused"
            }
        }
    }
}

fn used_blocks(metadata: &Path) -> Vec<usize> {
    let bytes = std::fs::read(metadata).unwrap();
    let used = |(number, block): (usize, &[u8])| block.iter().any(|byte| *byte != 0).then_some(number);
    bytes.chunks(BLOCK).enumerate().filter_map(used).collect()
}

#[test]
fn dm_no_damaged_block_of_the_metadata_gives_wrong_data() {
    let mut dice = Dice::new(seed());
    let root = Root::with(&Options {
        data_size: Some(96 * MIB),
        metadata_size: Some(2 * MIB),
        volume_size: Some(128 * MIB),
        ..Options::default()
    });
    let driver = root.open();
    let tar = files_tar([("etc/a", &b"base"[..]), ("b", &[7; 700_000][..])]);
    let base = root.unpacked(&driver, None, &tar);
    let top = root.commit(&driver, Some(&base.chain_id), &[("c", b"top"), ("d", &[9; 500_000])]);
    driver.prepare("c", Some(&top.chain_id), None).unwrap();
    write(&driver, "c", b"written").unwrap();
    let layers = [base, top].map(|layer| {
        let digest = tree_of(&driver, &layer.chain_id).unwrap();
        (layer, digest)
    });
    drop(driver);
    root.detach().unwrap();
    let pristine = root.folder.path().join("pristine");
    shell(&format!(
        "cp -a --sparse=always {} {}",
        root.store.root().display(),
        pristine.display()
    ));
    let used = used_blocks(&root.file("metadata"));
    let rounds = rounds(SLICE).min(used.len());
    let mut damaged = Damaged {
        root,
        layers: layers.into(),
    };
    let mut outcomes = BTreeMap::new();
    let mut longest = Duration::ZERO;
    for round in 0..rounds {
        let block = used[round * used.len() / rounds];
        let bit = dice.below(BLOCK * 8);
        damaged.restore(block, bit);
        let begun = Instant::now();
        let outcome = damaged.round(&format!("block {block}, bit {bit}"));
        let took = begun.elapsed();
        assert!(took < Duration::from_secs(60), "block {block}, bit {bit}: {took:?}");
        longest = longest.max(took);
        *outcomes.entry(outcome).or_insert(0) += 1;
        damaged.root.detach().unwrap();
    }
    println!(
        "torture: {rounds} of {} blocks in use: {outcomes:?}, the longest round {longest:?}",
        used.len()
    );
}
