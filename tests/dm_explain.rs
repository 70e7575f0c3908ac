//! `--explain` is true: typed into a shell, what it prints makes the same tables and the same tree.
//!
//! One store is made by plywood, and each verb's explanation is written down. Then the same is made a
//! second time, on a pool of its own, by nothing but a shell that is given those lines.

mod common;

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::{Plywood, busybox_tar};
use tempfile::TempDir;

/// What the container does; the times are set, so that both trees can be alike.
const EDITS: &str =
    "echo hello > /srv-file; rm /usr/share/doc/b; chmod 700 /home; touch -d @0 /srv-file /usr/share/doc /";

/// Runs a verb and gives the commands that it explains, in their order.
fn explained(plywood: &Plywood, args: &[&str]) -> Vec<String> {
    let output = plywood
        .command([&["--explain"], args].concat())
        .output()
        .expect("plywood starts");
    let told = String::from_utf8(output.stderr).expect("UTF-8");
    assert!(output.status.success(), "{args:?}: {told}");
    // A command may have several lines: only the first is marked.
    let mut commands: Vec<String> = Vec::new();
    for line in told.lines() {
        match (line.strip_prefix("+ "), commands.last_mut()) {
            (Some(command), _) => commands.push(command.to_owned()),
            (None, Some(command)) => *command = format!("{command}\n{line}"),
            (None, None) => {}
        }
    }
    commands
}

/// The second store: the same paths in another folder, the same names with another root's id.
struct Copied {
    folder: TempDir,
    from: PathBuf,
    ids: [(String, String); 2],
}

impl Copied {
    fn of(first: &Plywood, commands: &[String]) -> Self {
        let uuid = commands
            .iter()
            .find_map(|command| command.split_once("--uuid PLYWOOD-")?.1.get(..32))
            .expect("the pool is made");
        let other = "0123456789abcdef0123456789abcdef";
        Self {
            folder: tempfile::tempdir().expect("a folder"),
            from: first.beside(""),
            ids: [
                (uuid.to_owned(), other.to_owned()),
                (uuid[..8].to_owned(), other[..8].to_owned()),
            ],
        }
    }

    /// A command or a name of the first store, as it is called in this one.
    fn here(&self, text: &str) -> String {
        let from = self.from.to_str().expect("UTF-8").trim_end_matches('/');
        let to = self.folder.path().to_str().expect("UTF-8");
        let text = text.replace(from, to);
        self.ids.iter().fold(text, |text, (from, to)| text.replace(from, to))
    }

    /// Types the commands into a shell: a new one in a mount namespace of its own, or the plain one.
    fn type_in(&self, shell: &[&str], commands: &[String]) {
        let commands: Vec<String> = commands.iter().map(|command| self.here(command)).collect();
        let script = script(&commands);
        let mut shell = Command::new(shell[0])
            .args(&shell[1..])
            .current_dir(self.folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("a shell");
        let mut stdin = shell.stdin.take().expect("a pipe");
        stdin.write_all(script.as_bytes()).expect("the shell reads");
        drop(stdin);
        let output = shell.wait_with_output().expect("the shell ends");
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}\n{script}\n{told}", output.status);
    }
}

/// What is typed: a command that opens a shell gets all that follows, up to the one that ends it.
fn script(commands: &[String]) -> String {
    let mut script = String::from("set -e\n");
    let mut inside = false;
    for command in commands {
        script.push_str(command);
        if command.starts_with("unshare --fork") {
            inside = true;
            script.push_str(" <<'INSIDE'\nset -e");
        }
        script.push('\n');
        if inside && command.starts_with("exec ") {
            inside = false;
            script.push_str("INSIDE\n");
        }
    }
    assert!(!inside, "the container's shell never ends:\n{script}");
    script
}

/// The tables of the devices whose names hold `id`, with devices by what they are and not by number.
fn tables(id: &str) -> Vec<String> {
    let output = Command::new("dmsetup").arg("table").output().expect("dmsetup");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    let mut tables: Vec<String> = text
        .lines()
        .filter(|line| line.contains(id))
        .map(|line| {
            let words: Vec<String> = line.split(' ').map(named).collect();
            words.join(" ").replace(id, "ID").trim_end().to_owned()
        })
        .collect();
    tables.sort();
    tables
}

/// The transaction id of the pool, from its status line.
fn transaction(id: &str) -> String {
    let pool = format!("plywood-{id}-pool");
    let output = Command::new("dmsetup")
        .args(["status", &pool])
        .output()
        .expect("dmsetup");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    text.split(' ').nth(3).expect("a status line").to_owned()
}

/// A device number as the name of the device or of the file beneath; any other word as it is.
fn named(word: &str) -> String {
    let device = Path::new("/sys/dev/block").join(word);
    let of = |file: &str| fs::read_to_string(device.join(file)).ok();
    let name = of("dm/name").or_else(|| {
        let file = of("loop/backing_file")?;
        Some(Path::new(file.trim()).file_name()?.to_str()?.to_owned())
    });
    match name {
        Some(name) if word.contains(':') => name.trim().to_owned(),
        _ => word.to_owned(),
    }
}

/// Everything below a folder: kind, mode, owner, links, time, target, content.
fn tree(folder: &Path) -> String {
    let listing =
        "find . -printf '%p %y %m %U:%G %n %T@ %l\\n' | sort; find . -type f -exec sha256sum {} + | sort -k 2";
    let output = Command::new("sh")
        .args(["-c", listing])
        .current_dir(folder)
        .output()
        .expect("find");
    assert!(output.status.success());
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Puts the host's setpriv beside busybox, whose own knows too few options.
fn with_setpriv(tar: &Path) {
    let script = "set -e
        cd \"$(mktemp -d)\"
        for file in $(command -v setpriv) $(ldd \"$(command -v setpriv)\" | grep -o '/[^ ]*'); do
            mkdir -p \".${file%/*}\"; cp -L \"$file\" \".$file\"
        done
        tar -rf \"$0\" *; rm -r \"$PWD\"";
    sh(["sh".as_ref(), "-c".as_ref(), script.as_ref(), tar.as_os_str()]);
}

#[test]
fn dm_what_explain_prints_makes_the_same_in_a_shell() {
    let first = Plywood::new("thin");
    let base = first.beside("base.tar");
    busybox_tar(&base);
    with_setpriv(&base);
    let look = first.beside("look");
    fs::create_dir(&look).expect("a folder");
    let (base, look) = (base.to_str().expect("UTF-8"), look.to_str().expect("UTF-8"));

    let import = explained(&first, &["import", base, "base"]);
    let run = explained(&first, &["run", "--name", "c", "base", "sh", "-c", EDITS]);
    let commit = explained(&first, &["commit", "c", "site"]);
    let mount = explained(&first, &["mount", "site", look]);

    let second = Copied::of(&first, &import);
    let there = PathBuf::from(second.here(look));
    fs::copy(base, second.here(base)).expect("a copy");
    fs::create_dir(&there).expect("a folder");
    let [_, (first_id, second_id)] = &second.ids;
    let own = ["unshare", "--mount", "bash"];
    second.type_in(&own, &import);
    second.type_in(&own, &run);
    second.type_in(&own, &commit);
    second.type_in(&["bash"], &mount);

    let made = (tables(second_id), tree(&there));
    let same_step = transaction(second_id) == transaction(first_id);
    let devices: Vec<&str> = made.0.iter().filter_map(|line| Some(line.split_once(':')?.0)).collect();
    sh(["umount".as_ref(), there.as_os_str()]);
    for device in devices.iter().rev() {
        sh(["dmsetup", "remove", &device.replace("ID", second_id)].map(OsStr::new));
    }

    assert!(same_step, "the pools' transaction ids differ");
    assert!(made.0.len() >= 2, "a pool and a volume: {:?}", made.0);
    assert_eq!(made.0, tables(first_id));
    assert_eq!(made.1, tree(Path::new(look)));
    first.ok(["umount", "site"]);
}

fn sh<const N: usize>(words: [&OsStr; N]) {
    let status = Command::new(words[0]).args(&words[1..]).status().expect("a program");
    assert!(status.success(), "{words:?}: {status}");
}
