//! `plywood build`: what instructions do to a filesystem and a config, what is cached, what a failure leaves.

mod common;

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::as_many;
use common::site::{Site, cached};

const WEBSITE: &str = "FROM base AS ops
LABEL owner=ops
RUN mkdir -p /var/www && echo conf > /etc/httpd.conf
ENV DOCROOT=/var/www
FROM ops
ARG TITLE=plywood
WORKDIR /var/www
COPY site/ ./
COPY --chown=ops:adm --chmod=640 secret.txt /etc/secret.txt
RUN echo \"$TITLE in $DOCROOT\" > title; pwd > where
EXPOSE 80
USER ops
CMD [\"httpd\", \"-f\"]
";

fn website() -> Site {
    let site = Site::new("overlay");
    site.dockerfile(WEBSITE)
        .file("site/index.html", "<h1>plywood</h1>\n")
        .file("site/img/logo.svg", "<svg/>\n")
        .file("secret.txt", "s\n");
    symlink("../index.html", site.path("site/img/up")).unwrap();
    site
}

#[test]
fn root_a_dockerfile_becomes_an_image() {
    let site = website();
    let (told, id) = site.told(&["-t", "website", "-t", "website:1", "--build-arg", "TITLE=Hello"]);
    assert!(told.contains("[ops 3/4] RUN mkdir -p /var/www"), "{told}");
    let sh = |script: &str| {
        site.plywood
            .ok(["run", "--rm", "--user", "root", "website", "sh", "-c", script])
    };
    assert_eq!(sh("cat title where"), "Hello in /var/www\n/var/www");
    assert_eq!(sh("stat -c '%u:%g %a' /etc/secret.txt"), "1000:4 640");
    assert_eq!(sh("stat -c '%u:%g' index.html; readlink img/up"), "0:0\n../index.html");
    assert_eq!(sh("cat /etc/httpd.conf"), "conf");
    let image = site.image("website:1");
    let config = &image["config"];
    assert_eq!(config["WorkingDir"], "/var/www");
    assert_eq!(config["User"], "ops");
    assert_eq!(config["Cmd"], serde_json::json!(["httpd", "-f"]));
    assert_eq!(config["Labels"]["owner"], "ops");
    assert_eq!(config["ExposedPorts"], serde_json::json!({"80/tcp": {}}));
    // base, RUN, COPY, COPY, RUN; the folder of WORKDIR was there.
    assert_eq!(image["layers"].as_array().unwrap().len(), 5);
    let history = image["history"].as_array().unwrap();
    let layers = history.iter().filter(|step| step["empty_layer"] != true).count();
    assert_eq!(layers, 5, "{history:#?}");
    assert_eq!(site.image("website")["id"], id.as_str());
    site.plywood.sound();
}

#[test]
fn root_a_build_does_again_only_what_changed() {
    let site = website();
    let (told, first) = site.told(&["-t", "website"]);
    assert_eq!(cached(&told), 0, "{told}");
    let (told, second) = site.told(&["-t", "website"]);
    assert_eq!((cached(&told), &second), (5, &first), "{told}");
    // Another time is no change, another content is one.
    let touched = Command::new("touch")
        .arg("-d")
        .arg("2001-01-01")
        .arg(site.path("site/index.html"))
        .status();
    assert!(touched.unwrap().success());
    let (told, third) = site.told(&["-t", "website"]);
    assert_eq!((cached(&told), &third), (5, &first), "{told}");
    site.file("site/index.html", "<h1>changed</h1>\n");
    let (told, fourth) = site.told(&["-t", "website"]);
    assert_eq!(cached(&told), 2, "{told}");
    assert_ne!(fourth, first);
    // What a RUN sees is part of its key.
    let (told, _) = site.told(&["-t", "website", "--build-arg", "TITLE=other"]);
    assert_eq!(cached(&told), 4, "{told}");
    let (told, again) = site.told(&["-t", "website", "--no-cache"]);
    assert_eq!((cached(&told), again), (0, fourth), "{told}");
    site.plywood.sound();
}

/// What a package manager syncs after each file is on the disk once the step has ended, and no sooner.
#[test]
fn root_no_fsync_of_a_step_waits_for_the_disk() {
    let site = website();
    let look = "grep ' / overlay ' /proc/mounts";
    site.dockerfile(&format!("FROM base\nRUN {look} > /seen\n"));
    site.build(&["-t", "quick"]);
    // A container that stays has its fsyncs.
    let seen = site
        .plywood
        .ok(["run", "quick", "sh", "-c", &format!("cat /seen; {look}")]);
    let volatile: Vec<_> = seen.lines().map(|mount| mount.contains("volatile")).collect();
    assert_eq!(volatile, [true, false], "{seen}");
    site.plywood.sound();
}

#[test]
fn root_gc_keeps_the_build_cache_until_it_is_asked() {
    let site = website();
    site.build(&["-t", "website"]);
    site.plywood.ok(["rmi", "website"]);
    site.plywood.ok(["gc"]);
    let (told, _) = site.told(&["-t", "website"]);
    assert_eq!(cached(&told), 5, "{told}");
    site.plywood.ok(["rmi", "website"]);
    site.plywood.ok(["gc", "--build-cache", "--unused-for", "1d"]);
    let listed = site.plywood.ok(["gc", "--build-cache", "--dry-run"]);
    assert_eq!(
        listed.lines().filter(|line| line.starts_with("step ")).count(),
        5,
        "{listed}"
    );
    site.plywood.ok(["gc", "--build-cache"]);
    assert_eq!(site.plywood.json(["df"])["layers"].as_array().map(Vec::len), Some(1));
    let (told, _) = site.told(&["-t", "website"]);
    assert_eq!(cached(&told), 0, "{told}");
    site.plywood.sound();
}

#[test]
fn root_rmi_and_df_tell_what_the_build_cache_keeps() {
    let site = website();
    site.build(&["-t", "website"]);
    let df = || site.plywood.json(["df"]);
    let bytes = |df: &serde_json::Value, name: &str| df["build_cache"][name].as_u64().unwrap();
    let kind = |df: &serde_json::Value, kind: &str| {
        let rows = df["kinds"].as_array().unwrap();
        let row = rows.iter().find(|row| row["kind"] == kind).unwrap();
        ["count", "bytes", "reclaimable"].map(|name| row[name].as_u64().unwrap())
    };
    // The image has all of them.
    let before = df();
    assert_eq!(
        (bytes(&before, "steps"), bytes(&before, "layers")),
        (5, 0),
        "{before:#}"
    );
    assert_eq!(kind(&before, "build cache"), [5, 0, 0]);
    let foretold = site.plywood.json(["rmi", "--dry-run", "website"]);
    assert_eq!(foretold["kept_by_build_cache"].as_array().unwrap().len(), 4);
    assert_eq!(site.plywood.json(["rmi", "website"]), foretold);
    let after = df();
    assert_eq!((bytes(&after, "steps"), bytes(&after, "layers")), (5, 4), "{after:#}");
    let [count, taken, reclaimable] = kind(&after, "build cache");
    assert_eq!((count, taken, taken), (5, reclaimable, bytes(&after, "layer_bytes")));
    assert!(site.plywood.ok(["df"]).contains("plywood gc --build-cache would free"));
    site.plywood.ok(["gc", "--build-cache"]);
    let end = df();
    let taken = |df: &serde_json::Value| kind(df, "layers")[1] + kind(df, "blobs")[1];
    let freed = taken(&after) + reclaimable - taken(&end);
    assert_eq!(freed, bytes(&after, "freed_bytes"), "{after:#} {end:#}");
    assert_eq!(bytes(&end, "steps"), 0);
    // In words.
    site.build(&["-t", "website"]);
    for words in [&["rmi", "--dry-run", "website"][..], &["rmi", "website"]] {
        let told = String::from_utf8(site.plywood.run(words).stderr).unwrap();
        assert!(
            told.contains("4 layers stay") && told.contains("plywood gc --build-cache"),
            "{told}"
        );
    }
    site.plywood.sound();
}

#[test]
fn root_a_failed_step_can_be_entered() {
    let site = Site::new("overlay");
    site.dockerfile("FROM base\nRUN echo kept > /kept\nRUN echo half > /half; \\\n    echo cannot >&2; exit 7\n");
    let told = site.fails(&["-t", "web"]);
    assert!(told.contains("Dockerfile:3:1: the command ended with code 7"), "{told}");
    assert!(told.contains("   3 | RUN echo half"), "{told}");
    assert!(told.contains("    cannot"), "{told}");
    assert!(told.contains("plywood run --rm -it web:build-failed sh"), "{told}");
    let seen = site
        .plywood
        .ok(["run", "--rm", "web:build-failed", "cat", "/kept", "/half"]);
    assert_eq!(seen, "kept\nhalf");
    assert!(site.plywood.run(["inspect", "web"]).status.code() != Some(0));
    assert_eq!(site.plywood.json(["ps", "-a"]), serde_json::json!([]));
    site.dockerfile("FROM base\nRUN echo kept > /kept\nRUN echo whole > /half\n");
    let (told, _) = site.told(&["-t", "web"]);
    assert_eq!(cached(&told), 1, "{told}");
    site.plywood.sound();
}

#[test]
fn root_stages_that_nothing_needs_are_left_out() {
    let site = Site::new("overlay");
    site.dockerfile(
        "FROM base AS build\nRUN echo tool > /tool\nFROM base AS unused\nRUN false\nFROM scratch AS small\nCOPY --from=build /tool /bin/tool\nFROM small\n",
    );
    let (told, _) = site.told(&["-t", "small", "--target", "small"]);
    assert!(!told.contains("unused"), "{told}");
    let tree = site
        .plywood
        .run(["export", "--format", "rootfs", "-o", "-", "small"])
        .stdout;
    let mut tar = tar::Archive::new(&tree[..]);
    let paths: Vec<_> = tar
        .entries()
        .unwrap()
        .map(|entry| entry.unwrap().path().unwrap().display().to_string())
        .collect();
    assert!(
        paths.iter().any(|path| path.trim_start_matches("./") == "bin/tool"),
        "{paths:?}"
    );
    assert!(paths.len() <= 3, "{paths:?}");
    site.plywood.sound();
}

#[test]
fn root_what_dockerignore_names_is_not_there() {
    let site = Site::new("overlay");
    site.file(".dockerignore", "# all but\n*.log\n!kept.log\nnode_modules\n.git\n")
        .file("a.txt", "a")
        .file("b.log", "b")
        .file("kept.log", "k")
        .file("node_modules/x/y.js", "y")
        .file("src/deep.log", "d");
    let listed = site.prints("FROM base\nCOPY . /srv/\n", "cd /srv; find . -type f | sort");
    assert_eq!(
        listed,
        "./.dockerignore\n./Dockerfile\n./a.txt\n./kept.log\n./src/deep.log"
    );
    let told = site.dockerfile("FROM base\nCOPY b.log /\n").fails(&[]);
    assert!(
        told.contains("Dockerfile:2:1: there is no \"b.log\"") && told.contains(".dockerignore"),
        "{told}"
    );
}

#[test]
fn root_copies_go_where_docker_puts_them() {
    let site = Site::new("overlay");
    site.file("one.txt", "1")
        .file("two.txt", "2")
        .file("dir/in.txt", "in")
        .file("dir/sub/deep.txt", "deep");
    let find = "find /t | sort";
    for (copies, expected) in [
        ("COPY one.txt /t", "/t"),
        ("COPY one.txt /t/", "/t\n/t/one.txt"),
        ("COPY one.txt two.txt /t/", "/t\n/t/one.txt\n/t/two.txt"),
        ("COPY *.txt /t/", "/t\n/t/one.txt\n/t/two.txt"),
        ("COPY o?e.txt /t/", "/t\n/t/one.txt"),
        ("COPY dir /t", "/t\n/t/in.txt\n/t/sub\n/t/sub/deep.txt"),
        ("COPY dir/ /t/", "/t\n/t/in.txt\n/t/sub\n/t/sub/deep.txt"),
        ("COPY dir/sub/deep.txt /t/x", "/t\n/t/x"),
        ("COPY [\"one.txt\", \"/t/with space\"]", "/t\n/t/with space"),
        (
            "COPY --parents dir/sub/deep.txt /t/",
            "/t\n/t/dir\n/t/dir/sub\n/t/dir/sub/deep.txt",
        ),
        ("COPY --exclude=*.txt dir /t", "/t\n/t/sub\n/t/sub/deep.txt"),
        (
            "WORKDIR /t\nCOPY one.txt .\nCOPY two.txt sub/",
            "/t\n/t/one.txt\n/t/sub\n/t/sub/two.txt",
        ),
        ("COPY <<EOF /t/note\nhello\nEOF", "/t\n/t/note"),
    ] {
        let seen = site.prints(&format!("FROM base\n{copies}\n"), find);
        assert_eq!(seen, expected, "{copies}");
    }
    let told = site.dockerfile("FROM base\nCOPY one.txt two.txt /t\n").fails(&[]);
    assert!(told.contains("end the target with a slash"), "{told}");
}

#[test]
fn root_archives_are_unpacked_by_add_alone() {
    let site = Site::new("overlay");
    let tree = site.path("tree");
    fs::create_dir(&tree).unwrap();
    fs::write(tree.join("inside"), "packed").unwrap();
    for (name, option) in [
        ("a.tar", ""),
        ("a.tar.gz", "-z"),
        ("a.tar.bz2", "-j"),
        ("a.tar.xz", "-J"),
    ] {
        let mut tar = Command::new("tar");
        tar.arg("-c").args(Some(option).filter(|option| !option.is_empty()));
        let made = tar
            .arg("-f")
            .arg(site.path(name))
            .arg("-C")
            .arg(&tree)
            .arg("inside")
            .status()
            .unwrap();
        assert!(made.success(), "{name}");
        let seen = site.prints(&format!("FROM base\nADD {name} /t/\n"), "cat /t/inside");
        assert_eq!(seen, "packed", "{name}");
    }
    let owned = site.prints("FROM base\nADD --chown=ops a.tar.gz /t\n", "stat -c %U /t/inside");
    assert_eq!(owned, "ops");
    assert_eq!(site.prints("FROM base\nCOPY a.tar.gz /t/\n", "ls /t"), "a.tar.gz");
    site.file("b.tar.gz", "\u{1f}no archive");
    assert_eq!(site.prints("FROM base\nADD b.tar.gz /t/\n", "ls /t"), "b.tar.gz");
}

#[test]
fn root_a_copy_replaces_no_folder_and_no_link_to_one() {
    let site = Site::new("overlay");
    site.file("tree/lib/x", "x").file("file", "f");
    let start = "FROM base\nRUN mkdir -p /usr/lib /taken/file && ln -s usr/lib /lib\n";
    let told = site.dockerfile(&format!("{start}COPY tree /\n")).fails(&[]);
    assert!(told.contains("/lib is a symbolic link"), "{told}");
    let told = site.dockerfile(&format!("{start}COPY file /taken/\n")).fails(&[]);
    assert!(told.contains("/taken/file is a folder"), "{told}");
    // A link is followed where the target itself goes through it.
    let seen = site.prints(&format!("{start}COPY tree/lib /lib/\n"), "ls /usr/lib; readlink /lib");
    assert_eq!(seen, "x\nusr/lib");
}

#[test]
fn root_mounts_are_there_for_one_command() {
    let site = Site::new("overlay");
    site.file("data/in.txt", "from the context")
        .file("token", "very secret")
        .file(".dockerignore", "hidden\n")
        .file("hidden", "h");
    let run = |mount: &str, command: &str| format!("FROM base\nRUN --mount={mount} {command}\n");
    let seen = site.prints(
        &run(
            "type=bind,target=/m",
            "cat /m/data/in.txt > /seen; ls /m > /listed; touch /m/x || echo read-only >> /seen",
        ),
        "cat /seen; grep -c hidden /listed; ls /m 2>&1 || true",
    );
    assert!(seen.starts_with("from the contextread-only\n0\n"), "{seen}");
    let seen = site.prints(
        &run(
            "type=bind,source=data/in.txt,target=/in,rw",
            "echo changed > /in; cp /in /seen",
        ),
        "cat /seen",
    );
    assert_eq!(seen, "changed");
    assert_eq!(
        fs::read_to_string(site.path("data/in.txt")).unwrap(),
        "from the context"
    );
    let from = "FROM base AS tools\nRUN echo tool > /tool\nFROM base\nRUN --mount=type=bind,from=tools,source=/tool,target=/t cat /t > /seen\n";
    assert_eq!(site.prints(from, "cat /seen; test ! -s /t && echo gone"), "tool\ngone");
    let cache = |number: u32| {
        run(
            "type=cache,target=/cache,id=one",
            &format!("echo {number} >> /cache/log; cp /cache/log /seen"),
        )
    };
    assert_eq!(site.prints(&cache(1), "cat /seen"), "1");
    assert_eq!(site.prints(&cache(2), "cat /seen; ls /cache 2>/dev/null; true"), "1\n2");
    let mounts = || {
        let df = site.plywood.json(["df"]);
        let row = df["kinds"]
            .as_array()
            .unwrap()
            .iter()
            .find(|row| row["kind"] == "cache mounts");
        let row = row.map(|row| ["count", "bytes", "reclaimable"].map(|name| row[name].as_u64().unwrap()));
        (row, df["build_cache"]["mount_bytes"].as_u64().unwrap())
    };
    let (row, bytes) = mounts();
    assert!(bytes > 0);
    assert_eq!(row, Some([1, bytes, bytes]));
    site.plywood.ok(["gc", "--build-cache"]);
    assert_eq!(mounts(), (None, 0));
    assert_eq!(site.prints(&cache(3), "cat /seen"), "3");
    let secret = run(
        "type=secret,id=token,env=TOKEN,target=/run/token",
        "stat -c '%a %u' /run/token > /seen; wc -c < /run/token >> /seen; echo ${#TOKEN} >> /seen",
    );
    site.dockerfile(&secret);
    let argument = format!("id=token,src={}", site.path("token").display());
    site.build(&["-t", "image", "--secret", &argument]);
    assert_eq!(
        site.plywood.ok(["run", "--rm", "image", "cat", "/seen"]),
        "400 0\n11\n11"
    );
    let secret = site.plywood.run(["export", "-o", "-", "image"]).stdout;
    assert!(!secret.windows(11).any(|part| part == b"very secret"));
    let needed = run("type=secret,id=other,required", "true");
    assert!(site.dockerfile(&needed).fails(&[]).contains("--secret id=other"));
    let tmpfs = run(
        "type=tmpfs,target=/scratch,size=1m",
        "dd if=/dev/zero of=/scratch/x bs=1M count=2 2>/dev/null || echo full > /seen",
    );
    assert_eq!(
        site.prints(&tmpfs, "cat /seen; ls -A /scratch 2>/dev/null; true"),
        "full"
    );
    site.plywood.sound();
}

#[test]
fn root_heredocs_are_scripts_and_files() {
    let site = Site::new("overlay");
    let seen = site.prints(
        "FROM base\nRUN <<EOF\nset -e\necho one > /out\necho two >> /out\nEOF\nRUN <<EOF cat >> /out\nthree\nEOF\nRUN <<EOF\n#!/bin/sh\necho four >> /out\nEOF\n",
        "cat /out",
    );
    assert_eq!(seen, "one\ntwo\nthree\nfour");
    let seen = site.prints(
        "FROM base\nENV A=1\nCOPY <<x <<'y' /t/\n$A\nx\n$A\ny\n",
        "cat /t/x /t/y",
    );
    assert_eq!(seen, "1\n$A");
}

#[test]
fn root_squash_makes_one_layer_of_a_builds_own() {
    let site = website();
    site.build(&["-t", "many"]);
    site.build(&["-t", "one", "--squash"]);
    let layers = |name: &str| site.image(name)["layers"].as_array().map(Vec::len);
    assert_eq!((layers("many"), layers("one")), (Some(5), Some(3)));
    let tree = |name: &str| {
        site.plywood
            .run(["export", "--format", "rootfs", "-o", "-", name])
            .stdout
    };
    assert!(tree("many") == tree("one"), "squashed, the tree is another one");
    site.plywood.sound();
}

#[test]
fn root_triggers_of_the_base_come_first() {
    let site = Site::new("overlay");
    site.file("app.txt", "app\n");
    site.dockerfile("FROM base\nONBUILD COPY app.txt /app/\nONBUILD RUN cp /app/app.txt /triggered\n");
    site.build(&["-t", "trigger"]);
    let seen = site.prints("FROM trigger\nRUN cat /triggered > /seen\n", "cat /seen");
    assert_eq!(seen, "app");
    assert_eq!(site.image("image")["config"]["OnBuild"], serde_json::Value::Null);
}

#[test]
fn root_a_stage_that_only_a_trigger_of_the_base_needs_is_built() {
    let site = Site::new("overlay");
    site.dockerfile("FROM base\nONBUILD COPY --from=tool /tool /tool\nONBUILD RUN cat /tool > /triggered\n");
    site.build(&["-t", "trigger"]);
    let text = "FROM base AS tool\nRUN echo tool > /tool\nFROM base AS unused\nRUN false\nFROM trigger\n";
    assert_eq!(site.prints(text, "cat /triggered"), "tool");
    // Where there is none of that name it is an image.
    let told = site.dockerfile("FROM trigger\n").fails(&[]);
    assert!(
        told.contains("ONBUILD of trigger:1:1: ") && told.contains("tool"),
        "{told}"
    );
    site.plywood.sound();
}

#[test]
fn root_bad_dockerfiles_are_pointed_at_and_leave_nothing() {
    let site = Site::new("overlay");
    let before = common::listing(&site.plywood);
    for (text, place, what) in [
        ("FROM base\nRUNN true\n", "Dockerfile:2:1:", "RUNN"),
        ("RUN true\n", "Dockerfile:1:1:", "FROM"),
        ("FROM base\nCOPY a\n", "Dockerfile:2:", ""),
        (
            "FROM base\nCOPY missing /\n",
            "Dockerfile:2:1:",
            "there is no \"missing\"",
        ),
        ("FROM base\nCOPY ../up /\n", "Dockerfile:2:", "out of the context"),
        ("FROM base AS a\nCOPY --from=b / /\nFROM a AS b\n", "Dockerfile:2:", "b"),
        ("FROM nowhere\n", "Dockerfile:1:1:", "nowhere"),
        (
            "FROM base\nADD https://example.org/x /\n",
            "Dockerfile:2:5:",
            "is remote",
        ),
        ("FROM base\nRUN --mount=type=bogus true\n", "Dockerfile:2:", "bogus"),
        ("FROM base\nRUN --network=host true\n", "Dockerfile:2:", "--net host"),
        ("FROM --platform=linux/nonsense base\n", "Dockerfile:1:", "platform"),
    ] {
        let told = site.dockerfile(text).fails(&[]);
        assert!(told.contains(place) && told.contains(what), "{text}\n{told}");
    }
    assert_eq!(common::listing(&site.plywood), before);
}

#[test]
fn root_e10_no_source_leads_out_of_the_context() {
    let site = Site::new("overlay");
    let outside = site.plywood.beside("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("shadow"), "the host's").unwrap();
    symlink(&outside, site.path("link")).unwrap();
    symlink("../outside/shadow", site.path("up")).unwrap();
    for copy in ["COPY link/shadow /", "COPY up /", "COPY link /", "COPY l*k /"] {
        let told = site.dockerfile(&format!("FROM base\n{copy}\n")).fails(&[]);
        assert!(told.contains("there is no"), "{copy}\n{told}");
    }
    // CVE-2024-1753: the image's own links as a mount's source.
    let evil = format!(
        "FROM base AS evil\nRUN rm -rf /bind && ln -s {} /bind\nFROM base\nRUN --mount=type=bind,from=evil,source=/bind,target=/m,rw cat /m/shadow > /stolen; touch /m/pwned; true\n",
        outside.display()
    );
    let told = site.dockerfile(&evil).fails(&[]);
    assert!(told.contains("there is no \"/bind\" to mount"), "{told}");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
    // CVE-2024-9675: an id is no path.
    let cache = "FROM base\nRUN --mount=type=cache,id=../../../../../../etc,target=/c ls /c > /seen; touch /c/x\n";
    assert_eq!(site.prints(cache, "cat /seen"), "");
    assert!(!std::path::Path::new("/etc/x").exists());
}

#[test]
fn root_e10_what_was_made_to_mount_on_goes_and_nothing_else() {
    let site = Site::new("overlay");
    let sentinel = site.plywood.beside("sentinel");
    fs::write(&sentinel, "").unwrap();
    fs::set_permissions(&sentinel, fs::Permissions::from_mode(0o644)).unwrap();
    // CVE-2024-23652: the mount's empty stub is replaced by a link while the command runs.
    let text = format!(
        "FROM base\nRUN --mount=type=tmpfs,target=/deep/er/stub mkdir -p /x && umount /deep/er/stub 2>/dev/null; rm -rf /deep 2>/dev/null; ln -s {} /link; true\n",
        sentinel.parent().unwrap().display()
    );
    site.dockerfile(&text).build(&["-t", "image"]);
    assert!(sentinel.exists());
    site.plywood.sound();
}

#[test]
fn root_stages_that_do_not_need_each_other_are_built_at_once() {
    let site = Site::new("overlay");
    // Each waits for what the other leaves in a cache.
    let stage = |own: &str, other: &str| {
        format!(
            "FROM base AS {own}\nRUN --mount=type=cache,target=/meet,id=meet touch /meet/{own}; for i in $(seq 300); do test -e /meet/{other} && break; sleep 0.1; done; test -e /meet/{other} && echo {own} > /{own}\n"
        )
    };
    let text = format!(
        "{}{}FROM base\nCOPY --from=one /one /\nCOPY --from=two /two /\n",
        stage("one", "two"),
        stage("two", "one")
    );
    let (told, id) = site.dockerfile(&text).told(&["-t", "image"]);
    assert!(told.contains("[one] ") && told.contains("[two] "), "{told}");
    assert_eq!(
        site.plywood.ok(["run", "--rm", "image", "cat", "/one", "/two"]),
        "one\ntwo"
    );
    let (told, again) = site.told(&["-t", "image"]);
    assert_eq!((cached(&told), again), (4, id), "{told}");
    // The others end with one that fails.
    let text = "FROM base AS one\nRUN sleep 600\nFROM base AS two\nRUN exit 9\nFROM base\nCOPY --from=one / /one\nCOPY --from=two / /two\n";
    let told = site.dockerfile(text).fails(&[]);
    assert!(told.contains("Dockerfile:4:1: the command ended with code 9"), "{told}");
    assert_eq!(site.plywood.json(["ps", "-a"]), serde_json::json!([]));
    site.plywood.sound();
}

#[test]
fn root_what_is_looked_up_is_read_once() {
    let site = Site::new("overlay");
    site.file("a.txt", "a")
        .file("b.txt", "b")
        .file("c/c.txt", "c")
        .file("d.txt", "d");
    // Two workers, and what the second stage reads after a step that must be done first.
    site.dockerfile(
        "FROM base AS one\nCOPY a.txt /a\nRUN --mount=target=/d,source=d.txt cat /d > /seen\nCOPY b.txt /b\nFROM base AS two\nCOPY c /c\nCOPY a.txt /a\nFROM one\nCOPY --from=two /c/c.txt /c.txt\n",
    );
    let context = site.path(".");
    let build = ["-vv", "build", "-t", "image", context.to_str().unwrap()];
    for _ in 0..2 {
        let told = String::from_utf8(site.plywood.run(build).stderr).unwrap();
        let hashed = |name: &str| {
            let name = format!("source={name:?}");
            let is_it = |line: &&str| line.contains("hashed for the build cache") && line.contains(&name);
            told.lines().filter(is_it).count()
        };
        assert_eq!(["a.txt", "b.txt", "c", "/d.txt"].map(hashed), [1; 4], "{told}");
    }
    site.file("b.txt", "other");
    let (told, _) = site.told(&["-t", "image"]);
    assert_eq!(cached(&told), 4, "{told}");
    assert_eq!(
        site.plywood
            .ok(["run", "--rm", "image", "cat", "/b", "/c.txt", "/seen"]),
        "othercd"
    );
    site.plywood.sound();
}

#[test]
fn root_ctrl_c_ends_a_build_at_once() {
    let site = Site::new("overlay");
    site.dockerfile("FROM base\nRUN echo kept > /kept\nRUN sleep 600; true\n");
    let context = site.path(".");
    let mut child = site
        .plywood
        .command(["build", "-t", "web", context.to_str().unwrap()])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut told = BufReader::new(child.stderr.take().unwrap()).lines();
    told.by_ref()
        .find(|line| line.as_ref().unwrap().contains("[3/3]"))
        .unwrap()
        .unwrap();
    std::thread::sleep(Duration::from_millis(as_many(500, 3000)));
    // It is seen as what it runs on.
    assert_eq!(site.plywood.json(["ps"])[0]["image_name"], "base");
    let begun = Instant::now();
    let pid = nix::unistd::Pid::from_raw(child.id().try_into().unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
    let rest: Vec<_> = told.map(Result::unwrap).collect();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{rest:?}");
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    assert_eq!(site.plywood.json(["ps", "-a"]), serde_json::json!([]));
    assert_eq!(site.plywood.json(["images"]).as_array().map(Vec::len), Some(1));
    site.dockerfile("FROM base\nRUN echo kept > /kept\nRUN true\n");
    assert_eq!(cached(&site.told(&["-t", "web"]).0), 1);
    site.plywood.sound();
}

#[test]
fn root_a_source_that_changes_while_it_is_read_is_never_taken_for_another() {
    let site = Site::new("overlay");
    let content = |letter: &str| letter.repeat(3 << 20);
    site.file("large", &content("a"))
        .dockerfile("FROM base\nCOPY large /large\n");
    let is_over = AtomicBool::new(false);
    let path = site.path("large");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for letter in ["b", "a"].iter().cycle() {
                if is_over.load(Ordering::Relaxed) {
                    return;
                }
                // In place: a reader sees a part of each.
                fs::write(&path, content(letter)).unwrap();
            }
        });
        let context = site.path(".");
        for _ in 0..as_many(12, 3) {
            // It may be refused, as shorter than it was; it is never a lie.
            site.plywood.run(["build", "-t", "image", context.to_str().unwrap()]);
        }
        is_over.store(true, Ordering::Relaxed);
    });
    for letter in ["a", "b"] {
        site.file("large", &content(letter)).build(&["-t", "image"]);
        let seen = site.plywood.ok([
            "run",
            "--rm",
            "image",
            "sh",
            "-c",
            "tr -d '\\n' < /large | md5sum; wc -c < /large",
        ]);
        let expected = Command::new("sh")
            .arg("-c")
            .arg(format!(
                "head -c {} /dev/zero | tr '\\0' {letter} | md5sum; echo {}",
                3 << 20,
                3 << 20
            ))
            .output()
            .unwrap();
        assert_eq!(seen, String::from_utf8(expected.stdout).unwrap().trim_end());
    }
    site.plywood.sound();
}
