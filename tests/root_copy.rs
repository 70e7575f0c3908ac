//! `cp` into containers and out of them, and volumes.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test ends where something is not as it must be"
)]

mod common;

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;

use common::{Plywood, busybox_tar, rounds, wait, with_base};

/// A store with the image `base` and a container `one`, which runs where `runs` says so.
fn with_one(runs: bool) -> Plywood {
    let plywood = with_base();
    let script = "mkdir -p /srv/site/deep; echo page > /srv/site/page; ln -s page /srv/site/link; \
        echo x > /srv/site/deep/file; chown -R 1000:1000 /srv/site; chmod 750 /srv/site; touch /ready; exec sleep 1000";
    plywood.ok(["run", "-d", "--name", "one", "base", "sh", "-c", script]);
    let is_ready = ["exec", "one", "test", "-e", "/ready"];
    wait::until("the site is there", || plywood.run(is_ready).status.success());
    if !runs {
        plywood.ok(["kill", "one"]);
    }
    plywood
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn root_cp_out_of_a_container_and_into_it() {
    for runs in [true, false] {
        let plywood = with_one(runs);
        let out = plywood.beside("out");
        fs::create_dir(&out).unwrap();
        let path = |name: &str| out.join(name).to_str().unwrap().to_owned();
        // A folder into one that is there, under another name, and what is in it.
        plywood.ok(["cp", "one:/srv/site", &path("")]);
        assert_eq!(read(&out.join("site/page")), "page\n");
        assert_eq!(fs::read_link(out.join("site/link")).unwrap(), Path::new("page"));
        let meta = fs::metadata(out.join("site")).unwrap();
        assert_eq!((meta.uid(), meta.mode() & 0o7777), (1000, 0o750));
        plywood.ok(["cp", "one:srv/site", &path("other")]);
        assert_eq!(read(&out.join("other/deep/file")), "x\n");
        plywood.ok(["cp", "one:/srv/site/.", &path("")]);
        assert_eq!(read(&out.join("page")), "page\n");
        // A file into a folder, under another name, over one that is there.
        plywood.ok(["cp", "one:/etc/hostname", &path("")]);
        plywood.ok(["cp", "one:/srv/site/page", &path("renamed")]);
        plywood.ok(["cp", "one:/srv/site/deep/file", &path("renamed")]);
        assert_eq!(read(&out.join("renamed")), "x\n");
        plywood.ok(["cp", "one:/srv/site/link", &path("link2")]);
        assert_eq!(fs::read_link(out.join("link2")).unwrap(), Path::new("page"));
        // And back.
        plywood.ok(["cp", &path("site"), "one:/back"]);
        plywood.ok(["cp", &path("renamed"), "one:/etc/motd"]);
        plywood.ok(["cp", "one:/back/deep/file", &path("again")]);
        assert_eq!(read(&out.join("again")), "x\n");
        plywood.ok(["cp", "one:/etc/motd", &path("motd")]);
        assert_eq!(read(&out.join("motd")), "x\n");
        // As a tar, both ways.
        let tar = plywood.run(["cp", "one:/srv/site", "-"]);
        assert!(tar.status.success());
        plywood.fed(["cp", "-", "one:/tmp"], &tar.stdout);
        plywood.ok(["cp", "one:/tmp/page", &path("from-tar")]);
        assert_eq!(read(&out.join("from-tar")), "page\n");
        for (code, words) in [
            (1, ["cp", "one:/nowhere", &path("")]),
            (1, ["cp", &path("nowhere"), "one:/tmp"]),
            (1, ["cp", "two:/etc", &path("")]),
            (1, ["cp", "one:/etc/hostname", &path("no/such/folder")]),
            (1, ["cp", &path("page"), "one:/no-such-folder/"]),
            (2, ["cp", &path("page"), &path("x")]),
            (2, ["cp", "one:/etc", "one:/x"]),
        ] {
            plywood.fails(code, words);
        }
        let names: Vec<_> = fs::read_dir(&out)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert!(
            !names
                .iter()
                .any(|name| name.as_encoded_bytes().starts_with(b".plywood")),
            "{names:?}"
        );
        plywood.ok(["rm", "-f", "one"]);
        plywood.sound();
    }
}

#[test]
fn root_e02_cp_follows_no_link_out_of_the_container() {
    for runs in [true, false] {
        let plywood = with_one(runs);
        let out = plywood.beside("out");
        fs::create_dir(&out).unwrap();
        fs::write(out.join("secret"), "the host's").unwrap();
        let secret = out.join("secret");
        let secret = secret.to_str().unwrap();
        // The image leads everywhere: by an absolute link, by .., by a link for a folder.
        let bad = plywood.beside("bad");
        fs::create_dir(&bad).unwrap();
        symlink(secret, bad.join("file")).unwrap();
        symlink(out.to_str().unwrap(), bad.join("folder")).unwrap();
        symlink("../../../../../../../../../../".to_owned() + secret, bad.join("up")).unwrap();
        plywood.ok(["cp", bad.to_str().unwrap(), "one:/bad"]);
        fs::write(out.join("evil"), "evil").unwrap();
        let evil = out.join("evil");
        let evil = evil.to_str().unwrap();
        for target in [
            "one:/bad/folder/planted",
            "one:/bad/folder/",
            "one:/../../..$OUT/planted",
        ] {
            let target = target.replace("$OUT", out.to_str().unwrap());
            let _ = plywood.run(["cp", evil, &target]);
        }
        for target in ["one:/bad/file", "one:/bad/up"] {
            plywood.ok(["cp", evil, target]);
        }
        for source in ["one:/bad/folder/secret", "one:/bad/folder/."] {
            plywood.fails(1, ["cp", source, out.to_str().unwrap()]);
        }
        assert_eq!(read(&out.join("secret")), "the host's");
        let mut names: Vec<_> = fs::read_dir(&out)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        names.sort();
        assert_eq!(names, ["evil", "secret"]);
    }
}

#[test]
fn root_a_volume_outlives_its_containers() {
    let plywood = with_base();
    let write = "ls /etc/hostname && echo kept > /etc/kept";
    plywood.ok(["run", "--rm", "-v", "data:/etc", "base", "sh", "-c", write]);
    // It began with what the image has there.
    let path = plywood.root().join("volumes/data");
    assert_eq!(read(&path.join("kept")), "kept\n");
    assert!(read(&path.join("passwd")).contains("ops"));
    assert_eq!(
        plywood.ok(["run", "--rm", "-v", "data:/mnt:ro", "base", "cat", "/mnt/kept"]),
        "kept"
    );
    let refused = plywood.fails(
        1,
        [
            "run",
            "--rm",
            "-v",
            "data:/mnt:ro",
            "base",
            "sh",
            "-c",
            "echo x > /mnt/kept",
        ],
    );
    assert!(refused.contains("Read-only"), "{refused}");
    plywood.ok(["run", "--name", "user", "-v", "data:/mnt", "base", "true"]);
    assert_eq!(
        plywood.json(["volume", "ls"])[0]["containers"],
        serde_json::json!(["user"])
    );
    assert!(plywood.fails(1, ["volume", "rm", "data"]).contains("container user"));
    plywood.ok(["rm", "user"]);
    plywood.ok(["volume", "rm", "data"]);
    assert!(!path.exists());
    plywood.ok(["volume", "create", "other"]);
    assert!(plywood.fails(1, ["volume", "create", "other"]).contains("already"));
    for bad in ["../x", ".lock", "a b", ""] {
        plywood.fails(1, ["volume", "create", bad]);
        plywood.fails(1, ["volume", "rm", bad]);
    }
    assert!(
        plywood
            .fails(125, ["run", "-v", "a b:/x", "base", "true"])
            .contains("no name for a volume")
    );
    plywood.sound();
}

#[test]
fn root_an_images_volume_is_the_containers_own() {
    let plywood = Plywood::new("overlay");
    let base = plywood.beside("base.tar");
    busybox_tar(&base);
    let base = base.to_str().unwrap();
    plywood.ok(["import", "-c", "VOLUME /usr/share/doc /fresh", base, "base"]);
    let script = "cat /usr/share/doc/a | head -n 1; echo mine > /usr/share/doc/mine; echo new > /fresh/new";
    assert_eq!(
        plywood.ok(["run", "--name", "one", "base", "sh", "-c", script]),
        "document a"
    );
    // No part of a commit, there when it is started again, and gone with it.
    plywood.ok(["commit", "one", "site"]);
    let listed = plywood.ok(["run", "--rm", "site", "ls", "/usr/share/doc"]);
    assert!(!listed.contains("mine"), "{listed}");
    assert_eq!(plywood.json(["volume", "ls"]).as_array().unwrap().len(), 2);
    plywood.ok(["rm", "one"]);
    assert_eq!(plywood.json(["volume", "ls"]), serde_json::json!([]));
    // What is mounted there otherwise stays so.
    let own = plywood.beside("own");
    fs::create_dir(&own).unwrap();
    let mount = format!("{}:/fresh", own.display());
    plywood.ok(["run", "--rm", "-v", &mount, "base", "sh", "-c", "echo x > /fresh/here"]);
    assert_eq!(read(&own.join("here")), "x\n");
    plywood.sound();
}

#[test]
fn root_a_half_made_volume_is_swept() {
    let plywood = with_base();
    plywood.ok(["volume", "create", "one"]);
    fs::create_dir(plywood.root().join("volumes/.new-0123")).unwrap();
    plywood.ok(["volume", "create", "two"]);
    assert!(!plywood.root().join("volumes/.new-0123").exists());
    fs::create_dir(plywood.root().join("volumes/.new-0123")).unwrap();
    plywood.ok(["gc"]);
    assert!(!plywood.root().join("volumes/.new-0123").exists());
    let kinds = plywood.json(["df"])["kinds"].clone();
    let volumes = kinds.as_array().unwrap().iter().find(|row| row["kind"] == "volumes");
    assert_eq!(volumes.unwrap()["count"], 2);
}

#[test]
fn root_stats_tell_what_is_used() {
    let plywood = with_base();
    let busy = "while :; do :; done";
    plywood.ok(["run", "-d", "--name", "busy", "-m", "64m", "base", "sh", "-c", busy]);
    let rows = plywood.json(["stats", "busy"]);
    let row = &rows[0];
    assert_eq!(row["name"], "busy");
    assert!(row["cpu_percent"].as_f64().unwrap() > 1.0, "{row}");
    assert!(
        row["memory"].as_u64().unwrap() > 0 && row["memory_limit"] == 64 << 20,
        "{row}"
    );
    assert_eq!(row["pids"], 1);
    let table = plywood.ok(["stats", "--no-stream"]);
    assert!(table.contains("busy") && table.contains("64.00 MiB"), "{table}");
    plywood.ok(["kill", "busy"]);
    assert!(plywood.fails(1, ["stats", "busy"]).contains("does not run"));
    assert_eq!(plywood.json(["stats"]), serde_json::json!([]));
}

/// A folder of a running container becomes a link to the host's, and a folder again, as fast as it can.
#[test]
fn root_e02_cp_beside_names_that_change() {
    let plywood = with_one(true);
    let out = plywood.beside("out");
    fs::create_dir(&out).unwrap();
    fs::write(out.join("page"), "the host's\n").unwrap();
    let evil = plywood.beside("evil");
    fs::write(&evil, "evil\n").unwrap();
    let (evil, got) = (evil.to_str().unwrap().to_owned(), plywood.beside("got"));
    let pid = plywood.json(["inspect", "one"])[0]["pid"].as_u64().unwrap();
    let inside = fs::File::open(format!("/proc/{pid}/root/srv")).unwrap();
    rustix::fs::symlinkat(&out, &inside, "link").unwrap();
    let is_over = std::sync::atomic::AtomicBool::new(false);
    let (mut in_place, mut refused) = (0, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(std::sync::atomic::Ordering::Relaxed) {
                let exchange = rustix::fs::RenameFlags::EXCHANGE;
                rustix::fs::renameat_with(&inside, "site", &inside, "link", exchange).unwrap();
            }
        });
        for _ in 0..rounds(20) {
            let into = plywood.run(["cp", &evil, "one:/srv/site/planted"]);
            let from = plywood.run(["cp", "one:/srv/site/page", got.to_str().unwrap()]);
            for output in [into, from] {
                match output.status.success() {
                    true => in_place += 1,
                    false => refused += 1,
                }
            }
            assert_ne!(fs::read_to_string(&got).unwrap_or_default(), "the host's\n");
        }
        is_over.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    println!("{in_place} copies in place, {refused} refused");
    let names: Vec<_> = fs::read_dir(&out)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(
        (names, read(&out.join("page"))),
        (vec!["page".into()], "the host's\n".to_owned())
    );
}
