//! Dockerfiles and bases that mean harm: one test for each known way out of a build, with what it would have got.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test ends where something is not as it must be"
)]

mod common;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use common::as_many;
use common::site::Site;

/// A folder of the host's, which no build may see or change.
struct Outside {
    path: PathBuf,
    before: Vec<(String, String)>,
}

impl Outside {
    fn new(site: &Site) -> Self {
        let path = site.plywood.beside("outside");
        for name in ["er", "run"] {
            fs::create_dir_all(path.join(name)).unwrap();
        }
        for name in ["shadow", "er/stub", "er/empty", "run/token", "token"] {
            fs::write(path.join(name), "").unwrap();
        }
        fs::write(path.join("shadow"), "the host's").unwrap();
        fs::create_dir_all(path.join("er/folder")).unwrap();
        let mut outside = Self {
            path,
            before: Vec::new(),
        };
        outside.before = outside.now();
        outside
    }

    fn shown(&self) -> String {
        self.path.display().to_string()
    }

    fn now(&self) -> Vec<(String, String)> {
        let mut found = Vec::new();
        let mut folders = vec![self.path.clone()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                let content = match path.is_dir() {
                    true => "a folder".to_owned(),
                    false => fs::read_to_string(&path).unwrap(),
                };
                found.push((path.display().to_string(), content));
                if path.is_dir() {
                    folders.push(path);
                }
            }
        }
        found.sort();
        found
    }

    #[track_caller]
    fn is_as_it_was(&self) {
        assert_eq!(self.now(), self.before);
    }
}

/// Builds, whatever comes of it.
fn tried(site: &Site, dockerfile: &str, options: &[&str]) -> String {
    site.dockerfile(dockerfile);
    let context = site.path(".");
    let output = site
        .plywood
        .run([&["build", "-t", "image"], options, &[context.to_str().unwrap()]].concat());
    String::from_utf8(output.stderr).unwrap()
}

/// CVE-2024-23651: two steps share a cache; one swaps a folder in it for a link while the other mounts on it.
#[test]
fn root_e10_a_cache_that_changes_while_it_is_mounted_on_leads_nowhere() {
    let site = Site::new("overlay");
    let outside = Outside::new(&site);
    // The host's path, and one that leads up out of wherever it is resolved.
    let up = format!("{}{}", "../".repeat(30), outside.shown().trim_start_matches('/'));
    let swap = format!(
        "end=$(( $(date +%s) + {} )); while [ $(date +%s) -lt $end ]; do rm -rf /c/sub; mkdir /c/sub; rm -rf /c/sub; ln -s {} /c/sub; rm -rf /c/sub; ln -s {up} /c/sub; done; true",
        as_many(3, 10),
        outside.shown(),
    );
    let mut text = format!("FROM base AS swap\nRUN --mount=type=cache,id=race,target=/c {swap}\n");
    let mut last = String::from("FROM base\nCOPY --from=swap /etc/hostname /etc/\n");
    for number in 0..as_many(12, 4) {
        for (kind, does) in [
            ("tmpfs", "touch /c/sub/pwned"),
            ("cache,id=two", "ls /c/sub; touch /c/sub/pwned"),
        ] {
            let name = format!("s{number}{}", &kind[..1]);
            text += &format!(
                "FROM base AS {name}\nRUN --mount=type=cache,id=race,target=/c --mount=type={kind},target=/c/sub {does}; cat /c/sub/shadow >/stolen; true\n"
            );
            last += &format!("RUN --mount=from={name},target=/s test ! -s /s/stolen\n");
        }
    }
    // A step may fail, where its target was a file's name for a moment: it must not reach out.
    for _ in 0..as_many(3, 1) {
        let told = tried(&site, &format!("{text}{last}"), &["--no-cache"]);
        assert!(!told.contains("ended with code"), "{told}");
        outside.is_as_it_was();
    }
    site.plywood.sound();
}

/// CVE-2024-23652: what was made to mount on is removed afterwards, by a path that the command has bent.
#[test]
fn root_e10_a_bent_path_to_a_stub_removes_nothing_of_the_hosts() {
    let site = Site::new("overlay");
    let outside = Outside::new(&site);
    site.file("token", "secret");
    let secret = format!("id=token,src={}", site.path("token").display());
    for (mount, name) in [
        ("type=tmpfs,target=/deep/er/folder", "folder"),
        ("type=cache,target=/deep/er/folder", "folder"),
        ("type=secret,id=token,target=/deep/er/stub", "stub"),
        ("type=bind,source=token,target=/deep/er/empty", "empty"),
    ] {
        for bend in [
            format!("mv /deep /away && ln -s {} /deep", outside.shown()),
            format!("mv /deep/er /away && ln -s {}/er /deep/er", outside.shown()),
        ] {
            tried(
                &site,
                &format!("FROM base\nRUN --mount={mount} {bend}; true\nRUN ls -d /deep\n"),
                &["--secret", &secret],
            );
            outside.is_as_it_was();
            assert!(outside.path.join("er").join(name).exists());
        }
    }
    site.plywood.sound();
}

/// CVE-2024-23653: rights that the caller of the build did not give, asked for by a Dockerfile or by a base.
#[test]
fn root_e10_no_instruction_gives_itself_rights() {
    let site = Site::new("overlay");
    for line in [
        "RUN --security=insecure true",
        "RUN --network=host true",
        "RUN --device=/dev/kmsg true",
        "RUN --privileged true",
        "RUN --cap-add=ALL true",
        "RUN --isolation=none true",
    ] {
        let told = site.dockerfile(&format!("FROM base\n{line}\n")).fails(&[]);
        assert!(told.contains("Dockerfile:2:"), "{line}\n{told}");
    }
    // From a base's triggers too, where nobody has read them.
    for line in ["RUN --network=host true", "RUN --security=insecure true"] {
        let made = tried(&site, &format!("FROM base\nONBUILD {line}\n"), &[]);
        let told = match site.plywood.run(["inspect", "image"]).status.success() {
            true => site.dockerfile("FROM image\nRUN true\n").fails(&[]),
            false => made,
        };
        assert!(told.contains("--net") || told.contains("--security"), "{line}\n{told}");
        let _ = site.plywood.run(["rmi", "image"]);
    }
    // A file that claims to be read by another program is not given to it.
    let told = tried(&site, "# syntax=example.org/evil:1\nFROM base\nRUN true\n", &[]);
    assert!(site.plywood.run(["inspect", "image"]).status.success(), "{told}");
    let rights = "for kind in Eff Bnd Inh; do grep Cap$kind /proc/self/status; done; mount -t tmpfs x /tmp 2>/dev/null && echo mounted; mknod /tmp/x b 7 0 2>/dev/null && cat /tmp/x >/dev/null 2>&1 && echo device; true";
    let in_build = site.prints(&format!("FROM base\nRUN ({rights}) >/seen\n"), "cat /seen");
    let in_run = site.plywood.ok(["run", "--rm", "base", "sh", "-c", rights]);
    assert_eq!(in_build, in_run);
    assert!(
        !in_build.contains("mounted") && !in_build.contains("device"),
        "{in_build}"
    );
}

/// CVE-2024-9407: options of mounts that a Dockerfile smuggles in.
#[test]
fn root_e10_no_option_of_a_mount_is_passed_through() {
    let site = Site::new("overlay");
    site.file("a:shared", "a").file("b", "b");
    for mount in [
        "type=bind,target=/m,bind-propagation=shared",
        "type=bind,target=/m,shared",
        "type=bind,target=/m,rshared",
        "type=bind,target=/m,z",
        "type=bind,target=/m,relabel=shared",
        "type=bind,target=/m,U=true",
        "type=bind,target=/m,dev,suid,exec",
        "type=bind,target=/m,idmap",
        "type=tmpfs,target=/m,size=1m;suid",
        "type=tmpfs,target=/m,tmpcopyup",
        "type=tmpfs,target=/m,size=1m\\,mode=777",
        "type=cache,target=/m,sharing=shared:rshared",
        "type=cache,target=/m,mode=0755\\,suid",
        "type=devpts,target=/m",
        "type=proc,target=/m",
    ] {
        let told = site
            .dockerfile(&format!("FROM base\nRUN --mount={mount} touch /ran\n"))
            .fails(&[]);
        assert!(told.contains("Dockerfile:2:"), "{mount}\n{told}");
    }
    // In a name such words are a name.
    let text = "FROM base\nRUN --mount=type=bind,source=a:shared,target=/m:rshared,ro --mount=type=tmpfs,target=/t:suid,size=64k grep -e ' /m:rshared ' -e ' /t:suid ' /proc/self/mountinfo >/seen\n";
    let seen = site.prints(text, "cat /seen");
    assert_eq!(seen.lines().count(), 2, "{seen}");
    assert!(!seen.contains("shared:") && !seen.contains("master:"), "{seen}");
}

/// CVE-2024-1753 and CVE-2024-11218: sources that are links, of the context, an image or a stage.
#[test]
fn root_e10_no_source_of_a_mount_leads_out() {
    let site = Site::new("overlay");
    let outside = Outside::new(&site);
    symlink(&outside.path, site.path("link")).unwrap();
    symlink("../outside", site.path("up")).unwrap();
    symlink("/", site.path("root")).unwrap();
    let stage = format!(
        "FROM base AS evil\nRUN ln -s {0} /link; ln -s ../../../../..{0} /up; ln -s / /root; ln -s /proc/self/root /magic\n",
        outside.shown()
    );
    for from in ["", "from=evil,"] {
        for source in [
            "link",
            "up",
            "root",
            "magic",
            "link/shadow",
            "../outside",
            "..",
            "/proc/1/root",
            "/proc/self/fd",
        ] {
            for options in ["", ",rw"] {
                let text = format!(
                    "{stage}FROM base\nRUN --mount=type=bind,{from}source={source},target=/m{options} (cat /m/shadow /m/{0}/shadow; cat /m) >/stolen 2>/dev/null; touch /m/pwned; true\nRUN ! grep -q \"the host's\" /stolen\n",
                    outside.shown()
                );
                let told = tried(&site, &text, &[]);
                assert!(!told.contains("ended with code"), "{from}{source}{options}\n{told}");
                outside.is_as_it_was();
            }
        }
    }
    site.plywood.sound();
}

/// CVE-2024-9341: a base whose own folders are links, where a builder mounts its own things.
#[test]
fn root_e10_a_base_of_links_gets_nothing_of_the_hosts() {
    let site = Site::new("overlay");
    let outside = Outside::new(&site);
    site.file("token", "secret");
    let secret = format!("id=token,src={}", site.path("token").display());
    let host = outside.shown();
    let bend = format!(
        "for path in /run /etc/crypto-policies /etc/system-fips /usr/share/containers /var/run; do rm -rf $path; ln -s {host} $path; done; for path in /etc/resolv.conf /etc/hosts /etc/hostname /etc/mtab /.dockerenv; do rm -f $path; ln -s {host}/shadow $path; done; rm -rf /tmp; ln -s ../../../../../..{host} /tmp"
    );
    for (mount, sees) in [
        ("type=secret,id=token", "/run/secrets/token"),
        ("type=secret,id=token,target=/run/token", "/run/token"),
        ("type=secret,id=token,target=/tmp/token", "/tmp/token"),
        ("type=tmpfs,target=/run/run", "/run/run/x"),
        ("type=cache,target=/tmp/run", "/tmp/run/x"),
    ] {
        let text = format!(
            "FROM base\nRUN {bend}\nRUN --mount={mount} touch {sees} /run/pwned /tmp/pwned; cat /run/shadow /tmp/shadow /etc/hosts >/stolen; cat {sees} >/seen; true\nRUN ! grep -q \"the host's\" /stolen\n"
        );
        let told = tried(&site, &text, &["--secret", &secret]);
        assert!(!told.contains("ended with code"), "{mount}\n{told}");
        outside.is_as_it_was();
    }
    site.plywood.sound();
}

/// GHSA-5vpc-35f4-r8w6: builds at a time that share a cache, a base and a name.
#[test]
fn root_e10_builds_at_once_share_a_cache_and_nothing_else() {
    let site = Site::new("overlay");
    let count = as_many(200, 40);
    // Read, then written anew: two at a time would lose lines.
    let line = |name: &str| {
        format!(
            "FROM base\nRUN --mount=type=cache,id=counter,sharing=locked,target=/c for n in $(seq {count}); do (cat /c/log 2>/dev/null; echo {name} $n) >/c/new; mv /c/new /c/log; done; grep -c {name} /c/log >/own\n"
        )
    };
    let names = ["one", "two", "three"];
    let contexts = names.map(|name| {
        site.file(&format!("{name}/Dockerfile"), &line(name));
        site.path(name).display().to_string()
    });
    let builds: Vec<Vec<&str>> = names
        .iter()
        .zip(&contexts)
        .flat_map(|(name, context)| {
            [
                vec!["build", "-t", *name, context],
                vec!["build", "-t", "same", context],
            ]
        })
        .collect();
    let mut together: Vec<&[&str]> = builds.iter().map(Vec::as_slice).collect();
    together.push(&["gc"]);
    site.plywood.together(&together);
    for name in names {
        // Whichever of the two came first did it; the other took its step, or did it once more.
        let own = site.plywood.ok(["run", "--rm", name, "cat", "/own"]);
        assert!(
            [count, 2 * count].map(|count| count.to_string()).contains(&own),
            "{name}: {own}"
        );
    }
    let seen = site.prints(
        "FROM base\nRUN --mount=type=cache,id=counter,target=/c sort -u /c/log | wc -l >/lines\n",
        "cat /lines",
    );
    assert_eq!(seen, (count * names.len()).to_string());
    assert_eq!(site.plywood.json(["ps", "-a"]), serde_json::json!([]));
    site.plywood.sound();
}
