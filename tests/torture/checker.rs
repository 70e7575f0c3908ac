//! What must hold after a verb has ended, however it has.
//!
//! The next command, whichever, takes up what was left and succeeds; `check --data` finds nothing; every
//! acknowledged name stands for its image, and that image for its tree, bit for bit; after `gc` nothing is
//! left that no record needs ([`super::leaks`]).

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use plywood_store::Digest;
use rustix::process::{Pid, Signal, kill_process};

use super::story::{KEEP, Model, Story, Verb};
use super::{End, Rig, digest_of, leaks};
use crate::common::{Plywood, wait};

/// A killed command's children have so long to end by themselves.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a root shows of a story.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// The image that each name stands for.
    pub names: BTreeMap<String, String>,
    /// The containers' names.
    pub containers: BTreeSet<String>,
    /// The named volumes.
    pub volumes: BTreeSet<String>,
}

impl Seen {
    /// What `images` and `ps -a` list, as far as it is the story's, and [`KEEP`].
    pub fn on(plywood: &Plywood, story: &Story) -> Self {
        let mut seen = Self::default();
        for image in list(plywood, &["images"]) {
            for name in image["names"].as_array().expect("names") {
                let name = name.as_str().expect("a name");
                if name == KEEP || story.owns(name) {
                    let id = image["id"].as_str().expect("an id");
                    seen.names.insert(name.to_owned(), id.to_owned());
                }
            }
        }
        for container in list(plywood, &["ps", "-a"]) {
            let name = container["name"].as_str().expect("a name");
            if story.owns(name) {
                seen.containers.insert(name.to_owned());
            }
        }
        for volume in list(plywood, &["volume", "ls"]) {
            let name = volume["name"].as_str().expect("a name");
            if story.owns(name) {
                seen.volumes.insert(name.to_owned());
            }
        }
        seen
    }
}

fn list(plywood: &Plywood, args: &[&str]) -> Vec<serde_json::Value> {
    plywood.json(args).as_array().expect("a list").clone()
}

/// The digest of an image's whole tree.
pub fn tree_of(plywood: &Plywood, image: &str) -> String {
    let mut export = plywood.command(["export", "--format", "rootfs", "-o", "-", image]);
    let mut child = export.stdout(Stdio::piped()).spawn().expect("plywood starts");
    let mut tar = plywood_store::digest::Hashing::new(child.stdout.take().expect("a pipe"));
    std::io::copy(&mut tar, &mut std::io::sink()).expect("a tar");
    assert!(child.wait().expect("its end").success(), "the tree of {image}");
    let digest: Digest = tar.finish().1;
    digest.to_string()
}

impl Rig {
    /// Checks everything after `verb`.
    pub fn check(&mut self, verb: &Verb, end: &End) {
        assert!(!matches!(end, End::Refused(_)), "{verb}: {end:?}");
        self.check_any(verb, end);
    }

    /// The same where the verb may have been refused, because one of its children was killed.
    pub fn check_any(&mut self, verb: &Verb, end: &End) {
        self.nobody_is_left(verb);
        if let Some(scratch) = &verb.scratch {
            entries(scratch).iter().for_each(|path| remove(path));
        }
        self.the_next_command_succeeds(verb);
        self.plywood.sound();
        self.settle(verb, end);
        for (name, id) in self.model.names.clone() {
            if name == KEEP || verb.names.contains_key(&name) {
                self.tree_is_as_ever(&id);
            }
        }
        self.a_merge_is_a_commit(verb);
        self.output_is_whole(verb);
        self.unmount(verb);
        // Otherwise the garbage stays for the verbs that come.
        if self.dice.below(3) > 0 {
            self.nothing_leaks();
        }
    }

    /// All that was ever acknowledged, and the kernel's own checkers.
    pub fn check_all(&mut self) {
        for id in self.model.names.clone().into_values() {
            self.tree_is_as_ever(&id);
        }
        self.nothing_leaks();
        if self.plywood.driver() == "thin" {
            leaks::volumes_are_clean(&self.plywood);
        }
    }

    fn nobody_is_left(&mut self, verb: &Verb) {
        let left = wait::what_stays(PATIENCE, || {
            let left = leaks::users(&self.plywood.root());
            if !left.is_empty() {
                self.end_all(verb);
            }
            left
        });
        assert!(left.is_empty(), "{verb} has left processes:\n{}", left.join("\n"));
    }

    /// Ends what runs, or its monitor: a killed `run -d` may leave its container to that.
    fn end_all(&mut self, verb: &Verb) {
        if !self.story.live || !self.plywood.root().join("meta.json").exists() {
            return;
        }
        for container in list(&self.plywood, &["ps"]) {
            let name = container["name"].as_str().expect("a name");
            if self.dice.below(2) == 0 {
                let pid = container["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok());
                kill_monitor(pid.expect("a process"), &self.plywood.root());
                continue;
            }
            let end = self.killer.finish(self.plywood.command(["kill", name]));
            let is_over =
                matches!(&end, End::Refused(why) if why.contains("does not run") || why.contains("no container"));
            assert!(
                is_over || matches!(end, End::Done(_)),
                "kill {name} after {verb}: {end:?}"
            );
        }
    }

    /// Any command that changes nothing which is acknowledged.
    fn ordinary(&mut self) -> Verb {
        // Not every verb takes up what was left, and the root may be younger than its first image.
        if !self.model.names.contains_key(KEEP) {
            return Verb::plain(&["gc"]);
        }
        match self.dice.below(5) {
            0 => Verb::plain(&["gc"]),
            1 => Verb::passing(KEEP, "next", 0),
            2 => Verb::plain(&["tag", KEEP, KEEP]),
            3 => Verb::plain(&["diff", KEEP, KEEP]),
            _ => Verb::plain(&["check", "--rebuild"]),
        }
    }

    /// The next command after a kill is ended too, by `strike`, while it takes up what was left. Gives its end; what
    /// it may have changed is added to `verb`.
    pub fn kill_the_recovery(&mut self, verb: &mut Verb, strike: impl FnOnce(&mut Self, &Verb) -> End) -> End {
        self.nobody_is_left(verb);
        let next = self.ordinary();
        let end = strike(self, &next);
        verb.containers.extend(next.containers);
        end
    }

    /// Any will do; a killed `mount` is undone like one that was not.
    fn the_next_command_succeeds(&mut self, verb: &Verb) {
        let next = self.ordinary();
        let end = self.killer.finish(self.plywood.command(&next.args));
        assert!(matches!(end, End::Done(_)), "{next} after {verb}: {end:?}");
        let end = self.killer.finish(self.plywood.command(["umount", "--all"]));
        assert!(matches!(end, End::Done(_)), "umount after {verb}: {end:?}");
    }

    /// Takes in what a verb changed.
    pub fn settle(&mut self, verb: &Verb, end: &End) {
        let seen = Seen::on(&self.plywood, &self.story);
        if let Err(wrong) = self.model.settle(verb, end, &seen) {
            panic!("after {verb} ({end:?}): {wrong}");
        }
    }

    /// Wants the tree of an image to be what it ever was.
    pub fn tree_is_as_ever(&mut self, id: &str) {
        tree_is_as_ever(&self.plywood, &mut self.model, id);
    }

    /// What was folded, in one piece or several, is what the container holds: a commit of it, folded anew, is the
    /// same image.
    fn a_merge_is_a_commit(&self, verb: &Verb) {
        let container = verb.args.last().expect("arguments");
        let merged = verb.names.keys().next().filter(|_| verb.word() == "merge");
        if let Some(name) = merged.filter(|name| self.model.is_committed(container, name)) {
            let again = self.plywood.ok(&Verb::commit(container, "committed-again:1").args);
            assert_eq!(self.model.names.get(name), Some(&again), "{verb} is another image");
            self.plywood.ok(["rmi", "committed-again:1"]);
        }
    }

    /// An export is whole or not there; whole is what the same command writes again. That takes away what was
    /// left besides: a folder, or a file that was whole and had not its name yet.
    fn output_is_whole(&self, verb: &Verb) {
        let Some(output) = &verb.output else { return };
        let folder = output.parent().expect("a folder");
        let written = entries(folder);
        if written.is_empty() {
            return;
        }
        let digests: Vec<String> = written
            .iter()
            .filter(|path| *path == output || path.is_file())
            .map(|path| digest_of(path))
            .collect();
        if output.exists() {
            remove(output);
        }
        self.plywood.ok(&verb.args);
        let whole = digest_of(output);
        assert!(
            digests.iter().all(|digest| *digest == whole),
            "{verb} has written something else: {written:?}"
        );
        assert_eq!(
            entries(folder),
            [output.as_path()],
            "{verb}, repeated, has left something"
        );
        remove(output);
    }

    /// Undoes `mount`, and wants nothing to be left of it.
    fn unmount(&self, verb: &Verb) {
        if verb.word().ends_with("mount") {
            let mounts = leaks::mounts(&self.plywood.root());
            assert!(mounts.is_empty(), "{verb} has left mounts: {mounts:?}");
            // As if it had never run: the same can be done again.
            for args in [&["mount", KEEP], &["umount", KEEP]] {
                self.plywood.ok(args);
            }
        }
    }

    fn nothing_leaks(&self) {
        if !self.plywood.root().join("meta.json").exists() {
            // Killed before the root was made: the command that makes it to its end clears it too.
            return;
        }
        self.plywood.ok(["gc"]);
        let mut left = leaks::census(&self.plywood);
        if self.plywood.has_network() {
            left.extend(leaks::links());
        }
        assert!(left.is_empty(), "after gc this is left:\n{}", left.join("\n"));
    }
}

/// Wants an image's tree to be what it was when it was first seen.
pub fn tree_is_as_ever(plywood: &Plywood, model: &mut Model, id: &str) {
    let tree = tree_of(plywood, id);
    let first = model.trees.entry(id.to_owned()).or_insert_with(|| tree.clone());
    assert_eq!(*first, tree, "the tree of {id}");
}

/// Kills the plywood of the container whose first process this is.
fn kill_monitor(pid: u32, root: &Path) {
    let Some(monitor) = plywood::exec::state::parent(pid) else {
        return;
    };
    // The parent of one that has just lost its own is somebody else.
    let words = std::fs::read_to_string(format!("/proc/{monitor}/cmdline")).unwrap_or_default();
    let is_ours = words.contains(&format!("{}\0", root.display()));
    if let Some(monitor) = i32::try_from(monitor).ok().and_then(Pid::from_raw).filter(|_| is_ours) {
        let _ = kill_process(monitor, Signal::KILL);
    }
}

fn entries(folder: &Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(folder).expect("a folder");
    entries.map(|entry| entry.expect("an entry").path()).collect()
}

/// Removes a file or folder.
pub fn remove(path: &Path) {
    let removed = if path.is_dir() {
        std::fs::remove_dir_all(path)
    } else {
        std::fs::remove_file(path)
    };
    removed.expect("the export goes");
}
