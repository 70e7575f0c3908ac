//! The same Dockerfiles by plywood and by Debian's buildah: trees, configs and histories, field by field.
//!
//! Each case is a Dockerfile of `tests/dockerfiles`, or one of those below, on the same base and the same context.
//! buildah's image comes into plywood's store as an archive, so one reader looks at both. What differs is either a
//! fault or a line of [`KNOWN`], whose reason is a row of the table in `docs/build.md`. Times are not compared.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test ends where something is not as it must be"
)]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::Plywood;
use common::debian::debian_tar;
use common::explain::output;
use common::site::Site;
use plywood_store::Digest;
use serde_json::Value;

/// Those of `tests/dockerfiles` that need no more than the base and the context, and that buildah 1.28 can read:
/// it has no heredocs, no `--exclude`, no `--parents`.
const SHARED: &[&str] = &[
    "arg-defaults-refer",
    "arg-expose-nothing",
    "arg-order",
    "byte-order-mark",
    "commands",
    "commands-empty",
    "commands-shell",
    "comment-in-run",
    "entrypoint-clears-cmd",
    "env-continued",
    "env-forms",
    "env-from-before-the-line",
    "env-substitutions",
    "escaped-escape",
    "expose",
    "from-image",
    "from-needs-only",
    "from-platform",
    "from-stage-keeps-arguments",
    "healthcheck-none",
    "healthchecks",
    "labels",
    "lower-case",
    "maintainer",
    "onbuild",
    "run-arguments",
    "stage-names-any-case",
    "stage-twice",
    "stopsignal",
    "target",
    "user",
    "volumes",
    "workdir-of-argument",
    "workdirs",
];

/// What instructions do to a tree, and to what comes after them.
const OWN: &[(&str, &str)] = &[
    (
        "copy-tree",
        "FROM base\nCOPY tree /t\nCOPY tree/ /u/v/\nCOPY tree/script /bin/\n",
    ),
    (
        "copy-into-folder",
        "FROM base\nCOPY tree /etc\nCOPY a c /etc/\nCOPY tree/sub /etc/sub\n",
    ),
    (
        "copy-globs",
        "FROM base\nCOPY b/*.txt /t/\nCOPY [ac] /u/\nCOPY d?r /v/\n",
    ),
    (
        "copy-owner",
        "FROM base\nUSER me\nCOPY a /a\nCOPY --chown=me:grp tree /t\nCOPY --chown=7 a /7\nCOPY --chown=7:8 a /new/78\n",
    ),
    (
        "copy-mode",
        "FROM base\nCOPY --chmod=640 a /a\nCOPY --chmod=4711 tree/script /s\n",
    ),
    (
        "copy-through-link",
        "FROM base\nRUN mkdir /real && ln -s real /link\nCOPY a /link/\nCOPY tree/sub /link/sub\n",
    ),
    (
        "copy-over-link",
        "FROM base\nRUN echo old >/old && ln -s old /link\nCOPY a /link\n",
    ),
    (
        "copy-over-file",
        "FROM base\nCOPY a /bin/ls\nCOPY --chown=me a /etc/passwd\n",
    ),
    (
        "copy-from-stage",
        "FROM base AS one\nRUN mkdir -m 700 /o && echo x >/o/x && chown -R me /o && ln -s x /o/l && ln /o/x /o/y\nFROM base\nCOPY --from=one /o /o\nCOPY --from=one /o/x /o/l /p/\nCOPY --from=one --chown=5:6 /o/ /q\n",
    ),
    (
        "copy-to-workdir",
        "FROM base\nWORKDIR /w\nCOPY a new\nCOPY b/1.txt sub/\nCOPY a ./\nCOPY a ../up\n",
    ),
    (
        "add-archive",
        "FROM base\nADD packed.tar.gz /t\nADD packed.tar.gz /etc/\nADD a /t/a\n",
    ),
    (
        "add-many",
        "FROM base\nADD packed.tar.gz a /t/\nADD --chown=me tree /u\n",
    ),
    (
        "run-changes",
        "FROM base\nRUN rm -r /usr/share && mkdir /usr/share && echo x >/usr/share/x\nRUN chmod 700 /home; chown me /etc/hostname; mv /bin/a /bin/aa\nRUN rm /bin/b; mkdir /bin/b\n",
    ),
    (
        "run-kinds",
        "FROM base\nRUN mkfifo /fifo; ln -s nowhere /dangling; echo >/hard; ln /hard /link; chmod 6755 /hard; mkdir -m 1777 /sticky\n",
    ),
    (
        "run-environment",
        "FROM base\nARG A=1\nENV B=2 HOME=/home/me\nRUN env | grep -v -e HOSTNAME -e PWD -e SHLVL -e container | sort >/env; umask >/umask; pwd >/pwd; id >/id\nUSER me\nWORKDIR /home/me\nRUN env | grep -v -e HOSTNAME -e PWD -e SHLVL -e container | sort >/tmp/env; id >/tmp/id; pwd >/tmp/pwd; touch mine\n",
    ),
    ("run-nothing", "FROM base\nRUN true\nRUN [\"/bin/a\"]\n"),
    (
        "run-in-volume",
        "FROM base\nRUN mkdir /data && echo before >/data/before\nVOLUME /data\nRUN echo after >/data/after\nCOPY a /data/copied\n",
    ),
    (
        "run-mounts-leave-nothing",
        "FROM base AS one\nRUN echo x >/x\nFROM base\nRUN --mount=type=cache,target=/cache/deep echo x >/cache/deep/x\nRUN --mount=type=tmpfs,target=/home touch /home/x\nRUN --mount=type=bind,from=one,source=/x,target=/bound cat /bound >/seen\n",
    ),
    (
        "healthcheck",
        "FROM base\nHEALTHCHECK --interval=1m30s --timeout=1.5s --start-period=5s --retries=3 CMD curl -f x || exit 1\n",
    ),
    (
        "shell",
        "FROM base\nSHELL [\"/bin/sh\", \"-e\", \"-c\"]\nRUN echo $- >/flags\nCMD c\nENTRYPOINT d\nHEALTHCHECK CMD e\n",
    ),
    (
        "workdir-owner",
        "FROM base\nUSER me\nWORKDIR /made/deep\nRUN pwd\nUSER root\nWORKDIR /etc\n",
    ),
    (
        "stages",
        "FROM base AS one\nENV A=1\nWORKDIR /one\nRUN echo $A >x\nFROM one AS two\nLABEL l=2\nCOPY a .\nFROM two\nRUN cat x a >y\nCMD [\"y\"]\n",
    ),
    (
        "config-replaced",
        "FROM base\nCMD [\"a\"]\nENTRYPOINT [\"b\"]\nLABEL a=1\nLABEL a=2 b=\nENV A=1\nENV A=2 B=\nEXPOSE 1 2/udp\nEXPOSE 1/tcp\nVOLUME /v\nVOLUME [\"/v\",\"/w\"]\nUSER me\nUSER 0:0\nSTOPSIGNAL 9\nHEALTHCHECK CMD x\nHEALTHCHECK --retries=2 CMD [\"y\"]\nCMD [\"c\"]\n",
    ),
    ("ignored", "FROM base\nCOPY . /t\n"),
];

/// Those of `examples` that have no heredocs, and no mounts that need Debian's programs.
const EXAMPLES: [&str; 2] = ["website-nginx", "compiled"];

/// Those of `examples` without heredocs that install Debian's packages.
const PACKAGED: [&str; 2] = ["caches", "compiled"];
/// What apt, dpkg and ldconfig write of the time of day.
const TIMED: [&str; 4] = [
    "/var/log/apt/history.log",
    "/var/log/apt/term.log",
    "/var/log/dpkg.log",
    "/var/cache/ldconfig/aux-cache",
];

/// A difference that is meant: the case, where it is, and the first words of the reason's row in docs/build.md.
const KNOWN: &[(&str, &str, &str)] = &[
    ("arg-expose-nothing", "build", OLDER),
    ("env-substitutions", "build", OLDER),
    ("healthchecks", "build", OLDER),
    ("stage-names-any-case", "build", OLDER),
    (
        "arg-defaults-refer",
        "Env",
        "an `ARG` that refers to one on its own line",
    ),
    ("arg-order", "Env", "an `ARG` after an `ENV` of its name"),
    ("escaped-escape", "/ran", "a line that ends with two backslashes"),
    ("escaped-escape", "history", "a line that ends with two backslashes"),
    ("expose", "ExposedPorts", "ranges, addresses and capitals in `EXPOSE`"),
    ("from-needs-only", "WorkingDir", "working directory of `FROM scratch`"),
    ("compiled", "WorkingDir", "working directory of `FROM scratch`"),
    ("onbuild", "/app/tree/suid", SET_USER_ID),
    ("copy-tree", "/t/suid", SET_USER_ID),
    ("copy-tree", "/u/v/suid", SET_USER_ID),
    ("copy-into-folder", "/etc/suid", SET_USER_ID),
    ("copy-owner", "/t/suid", SET_USER_ID),
    ("add-many", "/u/suid", SET_USER_ID),
    ("onbuild", "history", "`ONBUILD` in the history"),
    ("volumes", "/a b", "a folder for a `VOLUME`"),
    ("run-in-volume", "/data/after", "what `RUN` writes to a `VOLUME`"),
    ("caches", "/etc/hosts", STUBS),
    ("caches", "/run/secrets", STUBS),
    ("caches", "/var/cache/apt", UNDER),
    ("caches", "/var/cache/apt/archives", UNDER),
    ("caches", "/var/cache/apt/archives/lock", UNDER),
    ("caches", "/var/cache/apt/archives/partial", UNDER),
    ("caches", "/var/lib/apt/lists", UNDER),
    ("caches", "/var/lib/apt/lists/lock", UNDER),
    ("caches", "/var/lib/apt/lists/partial", UNDER),
    ("run-mounts-leave-nothing", "/cache", STUBS),
    ("run-mounts-leave-nothing", "/home", STUBS),
    ("run-mounts-leave-nothing", "/home/me", STUBS),
    ("shell", "Cmd", "`SHELL` for `CMD` and `ENTRYPOINT`"),
    ("shell", "Entrypoint", "`SHELL` for `CMD` and `ENTRYPOINT`"),
];

const OLDER: &str = "newer syntax";
const SET_USER_ID: &str = "set-user-id bits of what is copied";
const UNDER: &str = "what the image has where `--mount=type=cache` is mounted";
const STUBS: &str = "what was made to mount on";

/// What only Docker's own containers have, and buildah writes empty into every config.
const OF_CONTAINERS: [&str; 10] = [
    "ArgsEscaped",
    "AttachStderr",
    "AttachStdin",
    "AttachStdout",
    "Domainname",
    "Hostname",
    "Image",
    "OpenStdin",
    "StdinOnce",
    "Tty",
];

/// buildah with a storage of its own.
struct Buildah {
    folder: PathBuf,
}

impl Buildah {
    fn run(&self, args: &[&str]) -> Result<String, String> {
        let output = Command::new("buildah")
            .arg("--root")
            .arg(self.folder.join("root"))
            .arg("--runroot")
            .arg(self.folder.join("run"))
            .args(["--storage-driver", "overlay"])
            .args(args)
            .output()
            .unwrap();
        match output.status.success() {
            true => Ok(String::from_utf8(output.stdout).unwrap().trim().to_owned()),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    }
}

impl Drop for Buildah {
    fn drop(&mut self) {
        // Its storage stays mounted on itself else.
        let _ = Command::new("umount")
            .arg("-l")
            .arg(self.folder.join("root/overlay"))
            .output();
    }
}

/// The context of all cases.
fn context(site: &Site) {
    for name in [
        "a",
        "b/1.txt",
        "b/2.txt",
        "c",
        "quoted",
        "with space",
        "dir/in",
        "dir/sub/deep",
        "x",
    ] {
        site.file(name, &format!("{name}\n"));
    }
    for (name, mode) in [
        ("tree/script", 0o755),
        ("tree/private", 0o600),
        ("tree/suid", 0o4755),
        ("tree/sub/in", 0o444),
    ] {
        site.file(name, name);
        fs::set_permissions(site.path(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    fs::set_permissions(site.path("tree/sub"), fs::Permissions::from_mode(0o750)).unwrap();
    fs::create_dir(site.path("tree/empty")).unwrap();
    fs::set_permissions(site.path("tree/empty"), fs::Permissions::from_mode(0o1777)).unwrap();
    std::os::unix::fs::chown(site.path("tree/script"), Some(1234), Some(1234)).unwrap();
    fs::hard_link(site.path("tree/private"), site.path("tree/second")).unwrap();
    symlink("script", site.path("tree/link")).unwrap();
    symlink("/nowhere", site.path("tree/dangling")).unwrap();
    output(
        "setfattr",
        &[
            "-n",
            "user.note",
            "-v",
            "kept",
            site.path("tree/private").to_str().unwrap(),
        ],
    );
    let tree = site.path("tree");
    output(
        "tar",
        &[
            "-czf",
            site.path("packed.tar.gz").to_str().unwrap(),
            "-C",
            tree.to_str().unwrap(),
            ".",
        ],
    );
    fs::create_dir(site.path("ignored")).unwrap();
    for name in [
        "ignored/a.log",
        "ignored/keep.log",
        "ignored/b/c.log",
        "ignored/b/d",
        "ignored/e/f",
        "ignored/Dockerfile",
    ] {
        site.file(name, name);
    }
    site.file(
        "ignored/.dockerignore",
        "# comment\n*.log\n!keep.log\nb/*.log\ne\nDockerfile\n",
    );
}

/// What both begin with: the tests' base with users, and commands with the names that the Dockerfiles have.
const BASE: &str = "FROM base
RUN echo me:x:1001:1001::/home/me:/bin/sh >>/etc/passwd; echo grp:x:2002: >>/etc/group; echo x >/x; \\
    mkdir -p /home/me && chown 1001:1001 /home/me; chmod 1777 /tmp; \\
    for name in a b c nginx apt-get gcc; do printf '#!/bin/sh\\necho %s >>/ran\\n' $name >/bin/$name; chmod 755 /bin/$name; done; \\
    echo 'cp hello.c /hello' >>/bin/gcc
";

struct Beside {
    // The first to go: nothing can be removed while its storage is mounted.
    buildah: Buildah,
    site: Site,
    number: AtomicUsize,
}

impl Beside {
    fn new() -> Self {
        let site = Site::new("overlay");
        context(&site);
        let names = ["base", "a", "b", "ops-nginx"];
        site.dockerfile(BASE).build(&names.map(|name| ["-t", name]).concat());
        Self::of(site, &names)
    }

    /// Gives buildah the image that has these names.
    fn of(site: Site, names: &[&str]) -> Self {
        let buildah = Buildah {
            folder: site.plywood.beside("buildah"),
        };
        let archive = site.plywood.beside("exported.tar");
        let archive = archive.to_str().unwrap();
        site.plywood
            .ok(["export", "--format", "docker-archive", "-o", archive, names[0]]);
        let id = buildah
            .run(&["pull", "-q", &format!("docker-archive:{archive}")])
            .unwrap();
        buildah.run(&[&["tag", &id], names].concat()).unwrap();
        Self {
            site,
            buildah,
            number: AtomicUsize::new(0),
        }
    }

    /// Wants a second build of `image` to do nothing, and to come to the same.
    fn is_cached(&self, words: &[&str], image: &str) {
        let plywood = &self.site.plywood;
        let id = plywood.json(["inspect", image])[0]["id"].clone();
        let again = plywood.json([&["build", "-t", image, "--net", "host"], words].concat());
        assert_eq!(again["id"], id, "{again:#}");
        for step in again["steps"].as_array().unwrap() {
            let word = step["text"].as_str().unwrap().split(' ').next().unwrap().to_uppercase();
            let is_work = ["RUN", "COPY", "ADD"].contains(&word.as_str());
            assert!(!is_work || step["cached"] == true, "{again:#}");
        }
    }

    /// The differences of a case, each with its place first.
    fn differences(&self, dockerfile: &str, options: &[String], context: &Path) -> Vec<(String, String)> {
        let number = self.number.fetch_add(1, Ordering::Relaxed);
        let plywood = &self.site.plywood;
        let file = plywood.beside(&format!("Dockerfile.{number}"));
        fs::write(&file, dockerfile).unwrap();
        let [ours, theirs] = ["ours", "theirs"].map(|side| format!("{side}{number}"));
        let file = file.to_str().unwrap();
        let common = ["-f", file, context.to_str().unwrap()];
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        let built = plywood.run([&["build", "-t", &ours, "--net", "host"], &options[..], &common].concat());
        if built.status.success() {
            self.is_cached(&[&options[..], &common].concat(), &ours);
        }
        let fixed = [
            "build",
            "-q",
            "--isolation",
            "chroot",
            "--format",
            "docker",
            "--pull-never",
            "--identity-label=false",
            "--network",
            "host",
            "-t",
            &theirs,
        ];
        let their_end = self.buildah.run(&[&fixed, &options[..], &common].concat());
        match (built.status.success(), &their_end) {
            (true, Ok(_)) => {}
            (false, Err(theirs)) => {
                let text = String::from_utf8_lossy(&built.stderr);
                return vec![("build".to_owned(), format!("neither builds: {text}\n{theirs}"))];
            }
            (true, Err(text)) => return vec![("build".to_owned(), format!("theirs fails: {text}"))],
            (false, Ok(_)) => {
                let text = String::from_utf8_lossy(&built.stderr);
                return vec![("build".to_owned(), format!("ours fails: {text}"))];
            }
        }
        let archive = plywood.beside(&format!("{theirs}.tar"));
        let archive = archive.to_str().unwrap();
        self.buildah
            .run(&[
                "push",
                "-q",
                &theirs,
                &format!("docker-archive:{archive}:theirs:{number}"),
            ])
            .unwrap();
        let imported = format!("docker.io/library/theirs:{number}");
        plywood.ok(["import", archive]);
        fs::remove_file(archive).unwrap();
        let mut found = trees(&tree(plywood, &ours), &tree(plywood, &imported));
        found.extend(configs(
            &plywood.json(["inspect", &ours])[0],
            &plywood.json(["inspect", &imported])[0],
        ));
        found
    }
}

/// Every path with all that is compared of it.
fn tree(plywood: &Plywood, image: &str) -> BTreeMap<String, String> {
    let at = plywood.ok(["mount", image]);
    let mut found = BTreeMap::new();
    walk(Path::new(&at), Path::new(""), &mut found, &mut BTreeMap::new());
    plywood.ok(["umount", &at]);
    found
}

/// `inodes` has the first name of each file with several.
fn walk(root: &Path, below: &Path, found: &mut BTreeMap<String, String>, inodes: &mut BTreeMap<u64, PathBuf>) {
    let path = root.join(below);
    let about = fs::symlink_metadata(&path).unwrap();
    let kind = about.file_type();
    let mut text = format!("{:o} {}:{}", about.mode(), about.uid(), about.gid());
    let first = inodes.get(&about.ino()).filter(|_| kind.is_file());
    if let Some(first) = first {
        text += &format!(" is /{}", first.display());
    } else if kind.is_file() {
        let content = fs::read(&path).unwrap();
        text += &format!(" {} bytes {}", about.size(), &Digest::of(&content).to_string()[7..19]);
        if content.len() < 400 {
            text += &format!(" {:?}", String::from_utf8_lossy(&content));
        }
        if about.nlink() > 1 {
            inodes.insert(about.ino(), below.to_owned());
        }
    } else if kind.is_symlink() {
        text += &format!(" to {}", fs::read_link(&path).unwrap().display());
    } else if kind.is_char_device() || kind.is_block_device() {
        text += &format!(" device {}", about.rdev());
    }
    let mut names = vec![0; 4096];
    let length = rustix::fs::llistxattr(&path, &mut names[..]).unwrap();
    for name in names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let mut value = vec![0; 4096];
        let length = rustix::fs::lgetxattr(&path, name, &mut value[..]).unwrap();
        text += &format!(" {}={:?}", String::from_utf8_lossy(name), &value[..length]);
    }
    found.insert(format!("/{}", below.display()), text);
    if kind.is_dir() {
        let entries = fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().file_name());
        for name in entries.collect::<BTreeSet<_>>() {
            walk(root, &below.join(name), found, inodes);
        }
    }
}

fn trees(ours: &BTreeMap<String, String>, theirs: &BTreeMap<String, String>) -> Vec<(String, String)> {
    let paths: BTreeSet<_> = ours.keys().chain(theirs.keys()).collect();
    let differ = paths.into_iter().filter(|path| ours.get(*path) != theirs.get(*path));
    differ
        .map(|path| {
            (
                path.clone(),
                format!("ours {:?}, theirs {:?}", ours.get(path), theirs.get(path)),
            )
        })
        .collect()
}

/// A config's fields that say something.
fn fields(image: &Value) -> BTreeMap<String, Value> {
    let says = |value: &Value| match value {
        Value::Null => false,
        Value::String(text) => !text.is_empty(),
        Value::Array(list) => !list.is_empty(),
        Value::Object(map) => !map.is_empty(),
        _ => true,
    };
    let config = image["config"].as_object().unwrap();
    let mut fields: BTreeMap<String, Value> = config
        .iter()
        .filter(|(name, value)| !OF_CONTAINERS.contains(&name.as_str()) && says(value))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    // Their order says nothing.
    if let Some(Value::Array(env)) = fields.get_mut("Env") {
        env.sort_by_key(Value::to_string);
    }
    let steps = image["history"].as_array().unwrap();
    let kinds: Vec<String> = steps
        .iter()
        .map(|step| kind_of(step["created_by"].as_str().unwrap_or("")))
        .collect();
    fields.insert("history".to_owned(), kinds.into());
    fields.insert("author".to_owned(), image["author"].clone());
    fields
}

/// The instruction of a history's step, in BuildKit's words or in the older ones.
fn kind_of(created_by: &str) -> String {
    let word = |text: &str| text.split_whitespace().next().unwrap_or_default().to_uppercase();
    match created_by.strip_prefix("/bin/sh -c #(nop) ") {
        Some(text) => word(text),
        // With the arguments in scope before it, counted.
        None if created_by.starts_with("/bin/sh -c ") || created_by.starts_with('|') => "RUN".to_owned(),
        None => word(created_by),
    }
}

fn configs(ours: &Value, theirs: &Value) -> Vec<(String, String)> {
    let (ours, theirs) = (fields(ours), fields(theirs));
    let names: BTreeSet<_> = ours.keys().chain(theirs.keys()).collect();
    let shown = |value: Option<&Value>| value.map_or("nothing".to_owned(), Value::to_string);
    names
        .into_iter()
        .filter(|name| ours.get(*name) != theirs.get(*name))
        .map(|name| {
            (
                name.clone(),
                format!("ours {}, theirs {}", shown(ours.get(name)), shown(theirs.get(name))),
            )
        })
        .collect()
}

/// The text of a folder of `tests/dockerfiles`, and what its `options` are on a command line.
fn shared(name: &str) -> (String, Vec<String>) {
    let folder = Path::new("tests/dockerfiles").join(name);
    let lines = fs::read_to_string(folder.join("options")).unwrap_or_default();
    let options = lines.lines().flat_map(|line| {
        let (option, value) = line.split_once(' ').unwrap();
        [format!("--{option}"), value.to_owned()]
    });
    (
        fs::read_to_string(folder.join("Dockerfile")).unwrap(),
        options.collect(),
    )
}

#[test]
fn dockerfiles_come_to_the_same_as_by_buildah() {
    let beside = Beside::new();
    let context = beside.site.path("");
    let ignored = beside.site.path("ignored");
    let mut cases: Vec<(&str, String, Vec<String>, &Path)> = Vec::new();
    for name in SHARED {
        let (text, options) = shared(name);
        cases.push((name, text, options, &context));
    }
    for (name, text) in OWN {
        let context = if *name == "ignored" { &ignored } else { &context };
        cases.push((name, (*text).to_owned(), Vec::new(), context));
    }
    // On the same base, whose nginx and gcc are as good as any here.
    let examples = EXAMPLES.map(|name| Path::new("examples").join(name));
    for (name, folder) in EXAMPLES.iter().zip(&examples) {
        let options = ["--build-arg", "BASE=base"].map(str::to_owned).to_vec();
        cases.push((
            name,
            fs::read_to_string(folder.join("Dockerfile")).unwrap(),
            options,
            folder,
        ));
    }
    let (next, found) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some((name, text, options, context)) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let differences = beside.differences(text, options, context);
                    let named = differences.into_iter().map(|(place, text)| (*name, place, text));
                    found.lock().unwrap().extend(named);
                }
            });
        }
    });
    let names: Vec<&str> = cases.iter().map(|case| case.0).collect();
    judge(&names, &found.into_inner().unwrap());
}

#[test]
fn examples_with_debians_packages_come_to_the_same_as_by_buildah() {
    let site = Site::new("overlay");
    site.plywood.ok(["import", debian_tar().to_str().unwrap(), "debian"]);
    let beside = Beside::of(site, &["debian"]);
    let token = beside.site.path("token");
    beside.site.file("token", "token");
    for name in PACKAGED {
        let folder = Path::new("examples").join(name);
        let dockerfile = fs::read_to_string(folder.join("Dockerfile")).unwrap();
        // Without a value it crashes buildah 1.28.
        let dockerfile = dockerfile.replace(",required", ",required=true");
        let secret = format!("id=token,src={}", token.display());
        let options = ["--build-arg", "BASE=debian", "--secret", &secret].map(str::to_owned);
        let differences = beside.differences(&dockerfile, &options, &folder).into_iter();
        let differences = differences.filter(|(place, _)| !TIMED.contains(&place.as_str()));
        let found: Vec<_> = differences.map(|(place, text)| (name, place, text)).collect();
        judge(&[name], &found);
    }
}

/// Wants every difference of these cases to be known, and every known one to be there and explained.
fn judge(cases: &[&str], found: &[(&str, String, String)]) {
    let is =
        |known: &(&str, &str, &str), (case, place, _): &(&str, String, String)| known.0 == *case && known.1 == place;
    let new = found.iter().filter(|one| !KNOWN.iter().any(|known| is(known, one)));
    let new: Vec<String> = new
        .map(|(case, place, text)| format!("{case}: {place}: {text}"))
        .collect();
    assert!(
        new.is_empty(),
        "differences that nobody has explained:\n{}",
        new.join("\n")
    );
    let page = fs::read_to_string("docs/build.md").unwrap();
    for known in KNOWN.iter().filter(|known| cases.contains(&known.0)) {
        assert!(
            found.iter().any(|one| is(known, one)),
            "no difference any more: {known:?}"
        );
        assert!(
            page.contains(&format!("| {}", known.2)),
            "docs/build.md has no row {:?}",
            known.2
        );
    }
}
