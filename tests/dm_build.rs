//! `plywood build` on a thin pool: the same context is the same image as on overlay, and a kill or a full pool
//! at any moment leaves nothing half made.

mod common;

use std::process::Stdio;
use std::time::Duration;

use common::site::{Site, cached};

const DOCKERFILE: &str = "FROM base AS tools
RUN mkdir /tools && echo tool > /tools/a && chmod 755 /tools/a
FROM base
WORKDIR /srv/app
COPY files/ ./
RUN --mount=type=bind,from=tools,source=/tools,target=/t --mount=type=cache,target=/cache cp /t/a . && touch /cache/x
COPY --from=tools --chown=ops /tools/a /bin/tool
ENV A=b
RUN rm /usr/share/doc/b && echo $A >> /usr/share/doc/a
CMD [\"sh\"]
";

fn site(driver: &'static str) -> Site {
    let site = Site::new(driver);
    site.dockerfile(DOCKERFILE)
        .file("files/one", "1\n")
        .file("files/two/three", "3\n");
    site
}

#[test]
fn dm_the_same_context_is_the_same_image_on_both_drivers() {
    let ids = ["thin", "overlay"].map(|driver| {
        let site = site(driver);
        let first = site.build(&["-t", "image"]);
        let (told, second) = site.told(&["-t", "image"]);
        assert_eq!((cached(&told), &second), (6, &first), "{told}");
        let seen = site.plywood.ok([
            "run",
            "--rm",
            "image",
            "sh",
            "-c",
            "cat one two/three a /bin/tool; stat -c %u /bin/tool",
        ]);
        assert_eq!(seen, "1\n3\ntool\ntool\n1000");
        site.plywood.sound();
        first
    });
    assert_eq!(ids[0], ids[1]);
}

/// The example itself, on an image that stands for its base: the guest has no way to Debian's packages.
#[test]
fn dm_an_example_is_the_same_image_on_both_drivers() {
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/website-nginx");
    let ids = ["thin", "overlay"].map(|driver| {
        let site = Site::new(driver);
        site.dockerfile(
            "FROM base\nRUN mkdir -p /usr/sbin && echo '#!/bin/sh' > /usr/sbin/nginx && chmod 755 /usr/sbin/nginx\nEXPOSE 80\n",
        );
        site.build(&["-t", "ops-nginx"]);
        let build = ["build", "-t", "website-nginx", "--build-arg", "TITLE=Thin", example];
        let id = site.plywood.ok(build);
        assert_eq!(site.plywood.ok(build), id);
        let page = site.plywood.ok(["run", "--rm", "website-nginx", "cat", "index.html"]);
        assert!(page.contains("<h1>Thin</h1>"), "{page}");
        site.plywood.sound();
        id
    });
    assert_eq!(ids[0], ids[1]);
}

#[test]
fn dm_a_build_killed_at_any_moment_goes_on_from_its_cache() {
    let site = site("thin");
    let context = site.path(".");
    let words = ["build", "-t", "image", context.to_str().expect("UTF-8")];
    for round in 0..8 {
        let mut child = site
            .plywood
            .command(words)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("plywood starts");
        std::thread::sleep(Duration::from_millis(150 * (round + 1)));
        child.kill().expect("the kill");
        child.wait().expect("its end");
        site.plywood.ok(["gc"]);
        assert_eq!(
            site.plywood.json(["ps", "-a"]),
            serde_json::json!([]),
            "after round {round}"
        );
    }
    let id = site.build(&["-t", "image"]);
    site.plywood.ok(["gc"]);
    site.plywood.sound();
    assert_eq!(site.build(&["-t", "image", "--no-cache"]), id);
    site.plywood.ok(["rmi", "image"]);
    site.plywood.ok(["gc", "--build-cache"]);
    assert_eq!(site.plywood.json(["df"])["layers"].as_array().map(Vec::len), Some(1));
    site.plywood.sound();
}

#[test]
fn dm_a_build_into_a_full_pool_says_so_and_goes_on_when_it_has_grown() {
    let site = Site::new("thin");
    let plywood = &site.plywood;
    plywood.ok(["rmi", "base"]);
    plywood.ok(["pool", "detach"]);
    let small = common::Plywood::new("thin");
    small.ok([
        "pool",
        "init",
        "--data-size",
        "96M",
        "--limit",
        "96M",
        "--volume-size",
        "1G",
    ]);
    small.ok(["import", plywood.beside("base.tar").to_str().expect("UTF-8"), "base"]);
    let context = site.path(".");
    site.dockerfile("FROM base\nRUN echo kept > /kept\nRUN dd if=/dev/urandom of=/large bs=1M count=200 && sync\n");
    let words = ["build", "-t", "image", context.to_str().expect("UTF-8")];
    let told = small.fails(1, words);
    assert!(told.contains("pool"), "{told}");
    small.sound();
    small.ok(["pool", "grow", "--data-size", "1G"]);
    let output = small.run(words);
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}");
    assert_eq!(cached(&told), 1, "{told}");
    small.sound();
}
