//! The census: what a quiet root may have of everything, and who may have anything of it.

use std::collections::BTreeSet;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use plywood_store::record::Place;
use serde_json::Value;

use crate::common::{Plywood, wait};

/// Processes, other than this one, that have something of the root open, mounted, as their own root, or on their
/// command line.
pub fn users(root: &Path) -> Vec<String> {
    let marks = marks(root);
    let mut seen = BTreeSet::new();
    let mut found = Vec::new();
    for pid in numbers(Path::new("/proc")) {
        if pid == std::process::id() {
            continue;
        }
        let process = PathBuf::from(format!("/proc/{pid}"));
        let open = numbers(&process.join("fd")).into_iter().map(|fd| format!("fd/{fd}"));
        let open = open.chain(["cwd", "root", "exe"].map(str::to_owned));
        let links = open.filter_map(|name| std::fs::read_link(process.join(name)).ok());
        let mut why: Vec<String> = links
            .filter(|link| link.starts_with(root))
            .map(|link| link.display().to_string())
            .collect();
        let namespace = std::fs::read_link(process.join("ns/mnt")).unwrap_or_default();
        if seen.insert(namespace.clone()) && !is_ours(&namespace) {
            let table = std::fs::read_to_string(process.join("mountinfo")).unwrap_or_default();
            why.extend(mentions(&table, &marks));
        }
        let words = std::fs::read_to_string(process.join("cmdline")).unwrap_or_default();
        // One that has only begun has nothing open yet.
        if words.contains(&format!("{}\0", root.display())) {
            why.push("its command line".to_owned());
        }
        if !why.is_empty() {
            found.push(format!("{pid} ({}): {}", words.replace('\0', " "), why.join(", ")));
        }
    }
    found
}

/// The root's cgroups that are frozen, or being frozen.
pub fn frozen(root: &Path) -> Vec<String> {
    let is_frozen = |path: &PathBuf| {
        let read = |file| std::fs::read_to_string(path.join(file)).unwrap_or_default();
        read("cgroup.freeze").trim() == "1" || path.join("freezer.state").exists()
    };
    let frozen = cgroups(root).into_iter().filter(is_frozen);
    frozen.map(|path| path.display().to_string()).collect()
}

/// The root's cgroups, on all hierarchies.
pub fn cgroups(root: &Path) -> Vec<PathBuf> {
    let Some(prefix) = cgroup_prefix(root) else {
        return Vec::new();
    };
    let top = Path::new("/sys/fs/cgroup");
    let trees = names(top).into_iter().map(|name| top.join(name));
    let groups = std::iter::once(top.to_owned()).chain(trees).flat_map(|tree| {
        let groups = names(&tree).into_iter().filter(|name| name.starts_with(&prefix));
        groups.map(|name| tree.join(name)).collect::<Vec<_>>()
    });
    groups.collect()
}

/// Mounts of the root's things in this thread's namespace.
pub fn mounts(root: &Path) -> Vec<String> {
    let table = std::fs::read_to_string("/proc/thread-self/mountinfo").expect("mountinfo");
    mentions(&table, &marks(root))
}

fn is_ours(namespace: &Path) -> bool {
    std::fs::read_link("/proc/thread-self/ns/mnt").is_ok_and(|own| own == namespace)
}

fn mentions(table: &str, marks: &[String]) -> Vec<String> {
    let of_root = |line: &&str| marks.iter().any(|mark| line.contains(mark));
    table.lines().filter(of_root).map(str::to_owned).collect()
}

/// What a mount of this root has in its line: its path, its folders as sources, its devices.
fn marks(root: &Path) -> Vec<String> {
    let mut marks = vec![format!("{}/", root.display())];
    let folders = names(&root.join("overlay"));
    marks.extend(folders.into_iter().map(|name| format!("overlay plywood-{name} ")));
    if let Some(uuid) = uuid(root) {
        marks.push(format!("plywood-{uuid}-"));
    }
    marks
}

/// The beginning of the root's uuid, as in the names of its devices.
fn uuid(root: &Path) -> Option<String> {
    let uuid: String = whole_uuid(root)?.chars().filter(char::is_ascii_alphanumeric).collect();
    uuid.get(..8).map(str::to_owned)
}

fn whole_uuid(root: &Path) -> Option<String> {
    let meta = std::fs::read(root.join("meta.json")).ok()?;
    let meta: Value = serde_json::from_slice(&meta).ok()?;
    meta["body"]["uuid"].as_str().map(str::to_owned)
}

/// How the names of the root's cgroups begin.
fn cgroup_prefix(root: &Path) -> Option<String> {
    Some(plywood::exec::cgroup::name(&whole_uuid(root)?, ""))
}

/// What a root has that nothing needs, after a `gc`; a line for each thing.
pub fn census(plywood: &Plywood) -> Vec<String> {
    let root = plywood.root();
    let mut left = garbage(plywood);
    let mounts_at = if plywood.driver() == "thin" {
        "mnt"
    } else {
        "mnt/overlay"
    };
    for folder in ["tmp", "intents", "overlay/pending", mounts_at, "mounted"] {
        let names = names(&root.join(folder));
        left.extend(names.into_iter().map(|name| format!("{folder}/{name}")));
    }
    let containers: BTreeSet<String> = keys(&root, "containers");
    let snapshots = keys(&root, "snapshots");
    // A merge that was cut short goes on when it is given again.
    let has_owner = |key: &&String| containers.contains(key.trim_end_matches(".merge"));
    let strange = snapshots.iter().filter(|key| !has_owner(key));
    left.extend(strange.map(|key| format!("snapshot {key}")));
    let locks = names(&root.join("locks")).into_iter();
    left.extend(locks.filter(|lock| !containers.contains(lock.trim_start_matches("container-"))));
    left.extend(mounts(&root));
    left.extend(of_runs(plywood, &containers));
    match plywood.driver() {
        "thin" => left.extend(devices(plywood)),
        _ => left.extend(folders(&root)),
    }
    left
}

/// What runs have beside records and snapshots, where no container has it.
fn of_runs(plywood: &Plywood, containers: &BTreeSet<String>) -> Vec<String> {
    let root = plywood.root();
    let prefix = cgroup_prefix(&root).unwrap_or_default();
    let running: BTreeSet<String> = plywood
        .json(["ps"])
        .as_array()
        .expect("a list")
        .iter()
        .map(|container| {
            plywood::exec::cgroup::name(
                &whole_uuid(&root).unwrap_or_default(),
                container["id"].as_str().expect("an id"),
            )
        })
        .collect();
    let mut left = Vec::new();
    for (folder, suffix) in [("logs", ".log"), ("network", "")] {
        let files = names(&root.join(folder)).into_iter().filter(|name| name != ".lock");
        let strange = files.filter(|name| !containers.contains(name.trim_end_matches(".1").trim_end_matches(suffix)));
        left.extend(strange.map(|name| format!("{folder}/{name}")));
    }
    // An image's own volumes are called after the container.
    let volumes = names(&root.join("volumes")).into_iter();
    let own = volumes.filter(|name| name.starts_with('.') && name != ".lock" || name.len() > 64);
    left.extend(
        own.filter(|name| !name.split('-').next().is_some_and(|id| containers.contains(id)))
            .map(|name| format!("volumes/{name}")),
    );
    let sockets = names(Path::new("/run/plywood")).into_iter();
    let sockets = sockets.filter(|name| name.starts_with(&prefix) && !running.contains(name));
    left.extend(sockets.map(|name| format!("/run/plywood/{name}")));
    let groups = cgroups(&root).into_iter();
    let strange = groups.filter(|path| {
        path.file_name()
            .is_none_or(|name| !running.contains(&*name.to_string_lossy()))
    });
    left.extend(strange.map(|path| path.display().to_string()));
    left.extend(frozen(&root).into_iter().map(|path| format!("{path} is frozen")));
    left
}

/// Links of containers in this thread's network namespace; the kernel takes those of a dead one in its own time.
pub fn links() -> Vec<String> {
    wait::what_stays(Duration::from_secs(10), || {
        let text = output("ip", &["-brief", "link"]);
        let names = text.lines().filter_map(|line| line.split_whitespace().next());
        let strange = names.filter(|name| !["lo", "plywood0"].contains(name));
        strange.map(|name| format!("the link {name}")).collect()
    })
}

/// What a second `gc` would remove.
fn garbage(plywood: &Plywood) -> Vec<String> {
    let document = plywood.json(["gc", "--dry-run"]);
    let mut left = Vec::new();
    for kind in ["recovered", "images", "layers", "snapshots", "blobs", "temporary"] {
        let names = document[kind].as_array().expect("a list").iter();
        left.extend(names.map(|name| format!("{kind} {name}")));
    }
    left
}

/// Folders of the overlay driver that no record names.
fn folders(root: &Path) -> Vec<String> {
    let place = |record: &Value| record["place"]["folder"].as_str().map(str::to_owned);
    let uppers: BTreeSet<String> = records(root, "snapshots").iter().filter_map(place).collect();
    let mut trees: BTreeSet<String> = records(root, "layers").iter().filter_map(place).collect();
    trees.extend(uppers.iter().cloned());
    trees.extend(["work", "pending", "empty"].map(str::to_owned));
    let strange = |folder: &str, known: &BTreeSet<String>| {
        let names = names(&root.join(folder)).into_iter();
        let strange = names.filter(|name| !known.contains(name));
        strange.map(|name| format!("{folder}/{name}")).collect::<Vec<_>>()
    };
    [strange("overlay", &trees), strange("overlay/work", &uppers)].concat()
}

/// Thin ids, devices and loops that no record names. Takes the pool out of the kernel for that.
fn devices(plywood: &Plywood) -> Vec<String> {
    let root = plywood.root();
    let uuid = uuid(&root).expect("a uuid");
    let mut left: Vec<String> = output("dmsetup", &["ls"])
        .lines()
        .filter(|line| line.contains(&format!("plywood-{uuid}-thin")))
        .map(str::to_owned)
        .collect();
    let needed = thin_ids(&root);
    // A killed container's volume keeps the mark of its writer until it is mounted again.
    let is_needed = |name: &str| {
        let id = name.strip_suffix(".writer").unwrap_or(name).parse();
        ["gate", "metadata"].contains(&name) || id.is_ok_and(|id| needed.contains(&id))
    };
    let locks = names(&root.join("pool/volumes")).into_iter();
    left.extend(
        locks
            .filter(|name| !is_needed(name))
            .map(|name| format!("pool/volumes/{name}")),
    );
    if !left.is_empty() {
        // The pool could not be taken out: who has them says more.
        let every = "/proc/[0-9]*";
        let script = format!("dmsetup info -c; grep -l plywood-{uuid} {every}/mountinfo; ps -ef; dmesg | tail");
        let said = Command::new("sh").args(["-c", &script]).output().expect("sh").stdout;
        left.extend(users(&root));
        left.push(String::from_utf8_lossy(&said).into_owned());
        return left;
    }
    plywood.ok(["pool", "detach"]);
    for (tool, args) in [("dmsetup", vec!["ls"]), ("losetup", vec!["-a"])] {
        let lines = output(tool, &args);
        let ours = lines
            .lines()
            .filter(|line| line.contains(&uuid) || line.contains(&root.display().to_string()));
        left.extend(ours.map(|line| format!("{tool}: {line}")));
    }
    let metadata = root.join("pool/metadata");
    let dump = output("thin_dump", &["--skip-mappings", metadata.to_str().expect("UTF-8")]);
    let there: BTreeSet<u64> = dump
        .split("dev_id=\"")
        .skip(1)
        .map(|rest| rest.split('"').next().and_then(|id| id.parse().ok()).expect("an id"))
        .collect();
    if there != needed {
        left.push(format!(
            "the pool has the volumes {there:?}, the records say {needed:?}"
        ));
    }
    plywood.ok(["pool", "check"]);
    left
}

/// The volumes that the records name.
fn thin_ids(root: &Path) -> BTreeSet<u64> {
    let kinds = ["layers", "snapshots"];
    let places = kinds.into_iter().flat_map(|kind| records(root, kind));
    let places = places.map(|record| serde_json::from_value::<Place>(record["place"].clone()).expect("a place"));
    let mut ids: BTreeSet<u64> = places.flat_map(|place| place.volumes()).map(u64::from).collect();
    ids.extend(
        records(root, "pool")
            .iter()
            .filter_map(|record| record["golden"].as_u64()),
    );
    ids
}

/// Wants e2fsck to find nothing on any layer's volume.
pub fn volumes_are_clean(plywood: &Plywood) {
    let root = plywood.root();
    // A command that puts the pool together again.
    plywood.ok(["gc"]);
    let uuid = uuid(&root).expect("a uuid");
    let size = records(&root, "pool")[0]["volume_size"].as_u64().expect("a size") / 512;
    for layer in records(&root, "layers") {
        let id = layer["place"]["thin"].as_u64().expect("a volume");
        let name = format!("torture-{uuid}");
        let table = format!("0 {size} thin /dev/mapper/plywood-{uuid}-pool {id}");
        output("dmsetup", &["create", "--readonly", &name, "--table", &table]);
        let device = format!("/dev/mapper/{name}");
        let check = Command::new("e2fsck").args(["-fn", &device]).output().expect("e2fsck");
        output("dmsetup", &["remove", "--retry", &name]);
        let text = String::from_utf8_lossy(&check.stdout);
        assert_eq!(check.status.into_raw(), 0, "the volume {id} of a layer: {text}");
    }
}

fn output(tool: &str, args: &[&str]) -> String {
    let output = Command::new(tool).args(args).output().expect(tool);
    assert!(
        output.status.success(),
        "{tool} {args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn names(folder: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return Vec::new();
    };
    let names = entries.filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()));
    names.collect()
}

fn numbers(folder: &Path) -> Vec<u32> {
    names(folder).iter().filter_map(|name| name.parse().ok()).collect()
}

fn keys(root: &Path, kind: &str) -> BTreeSet<String> {
    let names = names(&root.join("records").join(kind)).into_iter();
    names.map(|name| name.trim_end_matches(".json").to_owned()).collect()
}

/// The bodies of all records of a kind.
fn records(root: &Path, kind: &str) -> Vec<Value> {
    let folder = root.join("records").join(kind);
    let read = |name: String| std::fs::read(folder.join(name)).expect("a record");
    let contents = names(&folder).into_iter().map(read);
    contents
        .map(|content| serde_json::from_slice::<Value>(&content).expect("JSON")["body"].clone())
        .collect()
}
