//! `pool repair`, by the library and by the binary: what is damaged, missing or foreign is healed or told. In the guest.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test ends where something is not as it must be"
)]

mod common;
#[path = "common/pool_root.rs"]
mod pool_root;

use std::os::unix::fs::FileExt;
use std::time::Duration;

use common::tars::files_tar;
use common::{Plywood, busybox_tar};
use plywood::dm::assembly::{self, Options};
use plywood::dm::repair::{Means, Metadata};
use plywood::error::Kind;
use plywood::snapshot::thin::Thin;
use plywood::snapshot::{Access, Snapshotter};
use plywood_store::Digest;
use plywood_store::record::LayerRecord;
use pool_root::{MIB, Root, pool_name, shell, tree_of, volume, write};

const ACCEPT_LOSS: Means<'_> = Means {
    spare: None,
    accept_loss: true,
};

/// A pool with a foreign layer, one of ours on it, and the container's snapshot "c" on that.
struct Story {
    root: Root,
    layers: Vec<(LayerRecord, Digest)>,
}

impl Story {
    fn new() -> Self {
        let root = Root::new(256 * MIB);
        let driver = root.open();
        let base = root.unpacked(
            &driver,
            None,
            &files_tar([("etc/a", &b"base"[..]), ("b", &[7; 300_000][..])]),
        );
        let top = root.commit(&driver, Some(&base.chain_id), &[("c", b"top"), ("d", &[9; 200_000])]);
        driver.prepare("c", Some(&top.chain_id), None).unwrap();
        write(&driver, "c", b"written").unwrap();
        let layers = [base, top].map(|layer| {
            let digest = tree_of(&driver, &layer.chain_id).unwrap();
            (layer, digest)
        });
        drop(driver);
        Self {
            root,
            layers: layers.into(),
        }
    }

    /// All layers are what they were, and the pool can be used.
    fn is_whole(&self) {
        let driver = self.root.open();
        driver.recover().unwrap();
        for (layer, digest) in &self.layers {
            assert_eq!(tree_of(&driver, &layer.chain_id).unwrap(), *digest);
        }
        let (top, _) = &self.layers[1];
        driver.prepare("new", Some(&top.chain_id), None).unwrap();
        write(&driver, "new", b"fits").unwrap();
        driver.remove("new").unwrap();
        assert_eq!(driver.verify().unwrap(), Vec::<String>::new());
    }

    fn written(&self) -> String {
        let driver = self.root.open();
        let mounted = driver.mount("c", Access::ReadOnly).unwrap();
        let seen = std::fs::read_to_string(mounted.path().join("file")).unwrap();
        mounted.close().unwrap();
        seen
    }

    /// Turns a bit of the metadata's block.
    fn damage(&self, block: u64) {
        self.root.detach().unwrap();
        let file = std::fs::File::options()
            .read(true)
            .write(true)
            .open(self.root.file("metadata"))
            .unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, block * 4096 + 100).unwrap();
        file.write_all_at(&[byte[0] ^ 4], block * 4096 + 100).unwrap();
        file.sync_all().unwrap();
    }

    /// The block of the mapping tree's root: the superblock's word at 320.
    fn mapping_root(&self) -> u64 {
        self.root.detach().unwrap();
        let file = std::fs::File::open(self.root.file("metadata")).unwrap();
        let mut word = [0; 8];
        file.read_exact_at(&mut word, 320).unwrap();
        u64::from_le_bytes(word)
    }
}

#[test]
fn dm_a_whole_pool_is_found_whole_and_nothing_is_changed() {
    let story = Story::new();
    // The lock of who reads the metadata is made by the first who does.
    let before = shell(&format!(
        "cd {} && find records pool -type f ! -path pool/volumes/metadata | sort",
        story.root.store.root().display()
    ));
    let (metadata, repaired) = story.root.repair(Means::default(), false).unwrap();
    assert_eq!(metadata, Metadata::Whole);
    assert_eq!(
        (repaired.layers, &repaired.repaired, &repaired.left),
        (2, &vec![], &vec![])
    );
    let after = shell(&format!(
        "cd {} && find records pool -type f ! -path pool/volumes/metadata | sort",
        story.root.store.root().display()
    ));
    assert_eq!(before, after);
    story.is_whole();
    assert_eq!(story.written(), "written");
}

#[test]
fn dm_damaged_metadata_are_repaired_into_a_spare_and_kept() {
    for block in [0, 1] {
        let story = Story::new();
        let block = if block == 0 { 0 } else { story.mapping_root() };
        story.damage(block);
        let lock = story.root.store.exclusive().unwrap();
        let told = assembly::check(&story.root.store, &lock).unwrap_err();
        assert!(told.hint().unwrap().contains("pool repair"), "{told}");
        lock.done().unwrap();
        if block == 0 {
            let refused = Thin::open(story.root.store.clone()).unwrap_err();
            assert!(refused.hint().unwrap().contains("pool repair"), "{refused}");
        }
        let (metadata, repaired) = match story.root.repair(Means::default(), true) {
            Ok(done) => done,
            Err(refused) => {
                assert!(refused.hint().unwrap().contains("--accept-loss"), "{refused}");
                story.root.repair(ACCEPT_LOSS, true).unwrap()
            }
        };
        let (Metadata::Repaired { kept, .. } | Metadata::Renewed { kept, .. }) = metadata else {
            panic!("{metadata:?}")
        };
        assert_eq!(kept, story.root.file("metadata.damaged"));
        assert!(kept.exists() && !story.root.file("metadata.spare").exists());
        // What a container wrote nothing can prove.
        assert_eq!(repaired.left.len(), 1, "{repaired:?}");
        assert!(repaired.left[0].contains("snapshot c"), "{repaired:?}");
        story.root.open().remove("c").unwrap();
        story.is_whole();
    }
}

#[test]
fn dm_where_images_are_all_there_is_no_damage_is_beyond_repair() {
    let story = Story::new();
    story.root.open().remove("c").unwrap();
    story.root.detach().unwrap();
    let metadata = story.root.file("metadata");
    shell(&format!(
        "dd if=/dev/urandom of={} bs=4096 count=200 conv=notrunc 2>&1",
        metadata.display()
    ));
    let (_, repaired) = story.root.repair(Means::default(), false).unwrap();
    assert_eq!(repaired.left, Vec::<String>::new());
    story.is_whole();
}

#[test]
fn dm_metadata_beyond_repair_are_refused_until_they_are_given_up() {
    let story = Story::new();
    story.root.detach().unwrap();
    let metadata = story.root.file("metadata");
    shell(&format!(
        "dd if=/dev/urandom of={} bs=4096 count=200 conv=notrunc 2>&1",
        metadata.display()
    ));
    let refused = story.root.repair(Means::default(), false).unwrap_err();
    assert_eq!(refused.kind(), Kind::Corrupt);
    assert!(refused.hint().unwrap().contains("--accept-loss"), "{refused}");
    let (_, repaired) = story.root.repair(ACCEPT_LOSS, false).unwrap();
    assert!(
        repaired.left.iter().any(|line| line.contains("snapshot c is lost")),
        "{repaired:?}"
    );
    let driver = story.root.open();
    for (layer, digest) in &story.layers {
        assert_eq!(tree_of(&driver, &layer.chain_id).unwrap(), *digest);
    }
    let gone = driver.mount("c", Access::ReadWrite).unwrap_err();
    assert!(gone.to_string().contains("has no volume"), "{gone}");
    driver.remove("c").unwrap();
    drop(driver);
    story.is_whole();
}

#[test]
fn dm_a_layer_that_is_gone_or_changed_comes_back_from_its_blob() {
    let story = Story::new();
    let (base, top) = (&story.layers[0].0, &story.layers[1].0);
    let driver = story.root.open();
    // Behind our back: the base is deleted, in the top's volume a byte of a file's content is turned.
    let pool = pool_name();
    shell(&format!("dmsetup message {pool} 0 'delete {}'", volume(&base.place)));
    shell(&format!(
        "dmsetup create look --table \"0 524288 thin /dev/mapper/{pool} {}\"
         mkdir -p /tmp/look && mount /dev/mapper/look /tmp/look
         printf x | dd of=/tmp/look/d bs=1 seek=1000 conv=notrunc 2>/dev/null; touch -r /tmp/look/c /tmp/look/d
         umount /tmp/look; dmsetup remove look",
        volume(&top.place)
    ));
    assert_ne!(tree_of(&driver, &top.chain_id).unwrap(), story.layers[1].1);
    let missed = driver.verify().unwrap();
    assert!(missed[0].contains("which the pool does not have"), "{missed:?}");
    drop(driver);
    let (metadata, repaired) = story.root.repair(Means::default(), false).unwrap();
    assert_eq!(metadata, Metadata::Whole);
    assert_eq!(repaired.repaired.len(), 2, "{repaired:?}");
    assert_eq!(repaired.left, Vec::<String>::new());
    story.is_whole();
    assert_eq!(story.written(), "written");
}

#[test]
fn dm_a_layer_that_cannot_be_rebuilt_is_never_used() {
    let story = Story::new();
    let base = &story.layers[0].0;
    let driver = story.root.open();
    shell(&format!(
        "dmsetup message {} 0 'delete {}'",
        pool_name(),
        volume(&base.place)
    ));
    let blob = story.root.store.blobs.path(&base.blob.digest);
    let content = std::fs::read(&blob).unwrap();
    std::fs::write(&blob, b"damaged").unwrap();
    drop(driver);
    let (_, repaired) = story.root.repair(Means::default(), false).unwrap();
    assert_eq!(repaired.left.len(), 2, "base and top: {repaired:?}");
    let driver = story.root.open();
    let refused = driver
        .prepare("x", Some(&story.layers[1].0.chain_id), None)
        .unwrap_err();
    assert!(refused.hint().unwrap().contains("pool repair"), "{refused}");
    drop(driver);
    // The image was imported again.
    std::fs::write(&blob, content).unwrap();
    let (_, repaired) = story.root.repair(Means::default(), false).unwrap();
    assert_eq!(repaired.left, Vec::<String>::new());
    story.is_whole();
}

#[test]
fn dm_a_pool_that_moved_by_itself_is_taken_up_by_a_repair_only() {
    let story = Story::new();
    let driver = story.root.open();
    let id = driver.pool().status().unwrap().transaction_id;
    shell(&format!(
        "dmsetup message {0} 0 'create_thin 4711'; dmsetup message {0} 0 'set_transaction_id {id} {1}'",
        pool_name(),
        id + 5
    ));
    let refused = driver.prepare("x", None, None).unwrap_err();
    assert!(
        refused.to_string().contains(&format!("transaction id is {}", id + 5)),
        "{refused}"
    );
    drop(driver);
    let (_, repaired) = story.root.repair(Means::default(), false).unwrap();
    assert!(repaired.repaired[0].contains("transaction id"), "{repaired:?}");
    assert!(
        repaired.left[0].contains("volume 4711 that belongs to nothing"),
        "{repaired:?}"
    );
    let (_, repaired) = story.root.repair(Means::default(), true).unwrap();
    assert!(repaired.repaired[0].contains("deleted the volume 4711"), "{repaired:?}");
    assert_eq!(repaired.left, Vec::<String>::new());
    story.is_whole();
}

#[test]
fn dm_a_repair_in_use_or_cut_short_is_told() {
    let story = Story::new();
    let driver = story.root.open();
    let mounted = driver.mount("c", Access::ReadWrite).unwrap();
    let refused = story.root.repair(Means::default(), false).unwrap_err();
    assert_eq!(refused.kind(), Kind::InUse);
    mounted.close().unwrap();
    drop(driver);
    std::fs::write(story.root.file("repair"), "changed\n").unwrap();
    let refused = Thin::open(story.root.store.clone()).unwrap_err();
    assert!(refused.to_string().contains("cut short"), "{refused}");
    story.root.detach().unwrap();
    story.root.repair(Means::default(), false).unwrap();
    story.is_whole();
}

#[test]
fn dm_an_error_in_the_metadata_is_acknowledged_after_a_check() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().display();
    let device = |name: &str, size: &str| {
        shell(&format!(
            "truncate -s {size} {path}/{name}; losetup --find --show {path}/{name}"
        ))
    };
    let (data, below, spare) = (device("data", "256M"), device("meta", "16M"), device("spare", "16M"));
    let sectors = 16 * MIB / 512;
    shell(&format!("dmsetup create flaky --table '0 {sectors} linear {below} 0'"));
    let root = Root::with(&Options {
        devices: Some((data.clone().into(), "/dev/mapper/flaky".into())),
        volume_size: Some(256 * MIB),
        ..Options::default()
    });
    let driver = root.open();
    let base = root.commit(&driver, None, &[("file", b"precious")]);
    let before = tree_of(&driver, &base.chain_id).unwrap();
    let switch = |table: &str| {
        shell(&format!(
            "dmsetup suspend --nolockfs flaky; dmsetup load flaky --table '0 {sectors} {table}'; dmsetup resume flaky"
        ));
    };
    switch(&format!("flakey {below} 0 0 1 1 error_writes"));
    driver.prepare("lost", Some(&base.chain_id), None).unwrap_err();
    let state = driver.pool().status().unwrap();
    assert_eq!(state.state(), "needs_check", "{state}");
    switch(&format!("linear {below} 0"));
    drop(driver);
    let (_, repaired) = root.repair(Means::default(), false).unwrap();
    assert_eq!(repaired.left, Vec::<String>::new(), "{repaired:?}");
    let driver = root.open();
    assert_eq!(driver.pool().status().unwrap().state(), "rw");
    assert_eq!(tree_of(&driver, &base.chain_id).unwrap(), before);
    drop(driver);
    // Damaged: on block devices a spare has to be given, and becomes the pool's.
    root.detach().unwrap();
    shell(&format!(
        "printf x | dd of={below} bs=1 seek=200 conv=notrunc 2>/dev/null; sync"
    ));
    let refused = root.repair(Means::default(), false).unwrap_err();
    assert!(refused.hint().unwrap().contains("--spare"), "{refused}");
    let means = Means {
        spare: Some(std::path::Path::new(&spare)),
        ..Means::default()
    };
    let (metadata, _) = root.repair(means, false).unwrap();
    assert!(matches!(metadata, Metadata::Repaired { .. }), "{metadata:?}");
    let driver = root.open();
    assert_eq!(tree_of(&driver, &base.chain_id).unwrap(), before);
    drop(driver);
    root.detach().unwrap();
    drop(root);
    shell(&format!("dmsetup remove flaky; losetup -d {data} {below} {spare}"));
}

/// A pool that one run can fill, with the image `base` in it.
fn small_pool() -> Plywood {
    let plywood = Plywood::new("thin").unwatched();
    plywood.ok(["pool", "init", "--data-size", "160M", "--volume-size", "256M"]);
    let base = plywood.beside("base.tar");
    busybox_tar(&base);
    plywood.ok(["import", base.to_str().unwrap(), "base"]);
    plywood
}

#[test]
fn dm_a_store_that_the_kernel_gave_up_is_taken_back() {
    let plywood = small_pool();
    let script = "echo synced > /precious; sync; dd if=/dev/urandom of=/big bs=1M count=300 2>/dev/null; exit 0";
    let error = plywood.fails(125, ["run", "--cow", "--name", "one", "base", "sh", "-c", script]);
    assert!(error.contains("full"), "{error}");
    plywood.ok(["pool", "grow", "--data-size", "1G"]);
    for verb in [&["start", "-a", "one"][..], &["commit", "one", "x"], &["merge", "one"]] {
        let output = plywood.run(verb);
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(
            !output.status.success() && error.contains("plywood pool repair"),
            "{verb:?}: {error}"
        );
    }
    let told = plywood.json(["pool", "repair"]);
    assert_eq!(told["ok"], true, "{told}");
    let lines = told["repaired"].to_string();
    assert!(
        lines.contains("container one") && lines.contains("took back"),
        "{lines}"
    );
    plywood.ok(["start", "-a", "one"]);
    assert_eq!(plywood.ok(["run", "--rm", "base", "true"]), "");
    plywood.ok(["commit", "one", "saved"]);
    assert_eq!(plywood.ok(["run", "--rm", "saved", "cat", "/precious"]), "synced");
    plywood.ok(["rm", "one"]);
    plywood.sound();
}

#[test]
fn dm_a_repair_that_is_killed_goes_on() {
    let plywood = small_pool();
    let script = "dd if=/dev/urandom of=/big bs=1M count=8 2>/dev/null; md5sum < /big > /sum";
    plywood.ok(["run", "--name", "one", "base", "sh", "-c", script]);
    plywood.ok(["commit", "one", "two"]);
    plywood.ok(["rm", "one"]);
    plywood.ok(["pool", "detach"]);
    let metadata = plywood.root().join("pool/metadata");
    shell(&format!(
        "printf x | dd of={} bs=1 seek=300 conv=notrunc 2>/dev/null",
        metadata.display()
    ));
    let (mut killed, mut refused) = (0, 0);
    for round in 1..40 {
        let mut repair = plywood.command(["pool", "repair"]).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(40 * round));
        if let Some(status) = repair.try_wait().unwrap() {
            assert!(status.success(), "{status}");
            break;
        }
        repair.kill().unwrap();
        repair.wait().unwrap();
        killed += 1;
        let output = plywood.run(["run", "--rm", "two", "sh", "-c", "md5sum < /big | cmp - /sum"]);
        let error = String::from_utf8(output.stderr).unwrap();
        if !output.status.success() {
            assert!(
                error.contains("plywood pool repair") || error.contains("transaction"),
                "{error}"
            );
            refused += 1;
        }
    }
    assert!(killed > 2 && refused > 1, "{killed} kills, {refused} refused");
    plywood.ok(["pool", "repair"]);
    assert_eq!(
        plywood.ok([
            "run",
            "--rm",
            "two",
            "sh",
            "-c",
            "md5sum < /big | cmp - /sum && echo same"
        ]),
        "same"
    );
    assert!(!plywood.root().join("pool/repair").exists());
    plywood.sound();
}

#[test]
fn dm_changes_over_a_layer_that_had_to_be_rebuilt_are_told_as_lost() {
    let plywood = small_pool();
    plywood.ok(["run", "--cow", "--name", "one", "base", "sh", "-c", "echo mine > /file"]);
    plywood.ok(["run", "--name", "two", "base", "sh", "-c", "echo mine > /file"]);
    let id = plywood.json(["inspect", "base"])[0]["layers"][0]["thin_id"].clone();
    shell(&format!("dmsetup message {} 0 'delete {id}'", pool_name()));
    let output = plywood.run(["pool", "repair"]);
    let told = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(
        told.contains("rebuilt the layer") && told.contains("NOT WHOLE: the container one"),
        "{told}"
    );
    // Its exceptions are of another base: over the new one they would be garbage.
    let refused = plywood.fails(125, ["start", "one"]);
    assert!(
        refused.contains("had to be rebuilt") && refused.contains("plywood rm"),
        "{refused}"
    );
    plywood.ok(["df"]);
    plywood.ok(["rm", "one"]);
    // A thin container has all its blocks itself.
    plywood.ok(["start", "-a", "two"]);
    assert_eq!(plywood.ok(["diff", "two"]), "A /file");
    plywood.ok(["run", "--rm", "base", "true"]);
    plywood.sound();
}
