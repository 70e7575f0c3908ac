//! A build that is ended at any moment, by SIGKILL or Ctrl-C: nothing half-made is to be seen, and the next one goes on
//! from what was done. `PLYWOOD_TEST_SEED` repeats the moments, `PLYWOOD_TEST_ROUNDS` plays more.

mod common;

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::edits::Dice;
use common::site::Site;
use common::{as_many, rounds, seed, wait};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Two stages that do not need each other, what is copied, and what a package manager does: many files, some again.
const DOCKERFILE: &str = "FROM base AS tool
RUN mkdir -p /opt/a/b && for i in 1 2 3 4 5 6 7 8; do echo $i > /opt/a/b/$i; done; sync
RUN rm -rf /opt/a && mkdir -p /opt/a/b && echo built > /opt/a/b/tool
FROM base AS site
COPY site/ /srv/
RUN echo more >> /srv/index.html; sync; chmod 600 /srv/index.html
FROM base
COPY --from=tool /opt /opt
COPY --from=site /srv /srv
RUN --mount=type=cache,target=/cache echo x >> /cache/x; cat /opt/a/b/tool /srv/index.html > /all
LABEL done=yes
";

/// Sends it the signal after `moment`, if it still runs then; waits for it.
fn end(mut child: Child, moment: Duration, signal: Signal) {
    std::thread::sleep(moment);
    if child.try_wait().expect("a child").is_none() {
        let pid = Pid::from_raw(child.id().try_into().expect("a process id"));
        kill(pid, signal).expect("it is ours");
    }
    child.wait().expect("a child");
}

/// Waits for the end of every process that has the store's root among its words: what a killed one had begun.
fn nothing_runs(site: &Site) {
    let root = site.plywood.root();
    let root = root.to_str().expect("UTF-8");
    wait::until_nothing("what it had begun ends", || {
        let output = Command::new("pgrep")
            .args(["-af", root])
            .output()
            .expect("pgrep starts");
        String::from_utf8_lossy(&output.stdout).into_owned()
    });
}

#[test]
fn root_a_build_ended_at_any_moment_is_gone_on_with() {
    let site = Site::new("overlay");
    site.file("site/index.html", "<h1>plywood</h1>\n")
        .dockerfile(DOCKERFILE);
    let begun = Instant::now();
    // Its times are a fixed date: the same context is the same image, whenever it is built.
    let wanted = site.build(&["-t", "web"]);
    let whole = begun.elapsed();
    let seed = seed();
    let rounds = rounds(as_many(20, 4));
    let mut dice = Dice::new(seed);
    for round in 0..rounds {
        site.plywood.ok(["rmi", "web"]);
        if round % 3 == 0 {
            site.plywood.ok(["gc", "--build-cache"]);
        }
        let told = format!("seed {seed}, round {round}");
        let context = site.path(".");
        let mut child = site
            .plywood
            .command(["build", "-t", "web", context.to_str().expect("UTF-8")]);
        let child = child.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let moment = whole.mul_f64(dice.below(1200) as f64 / 1000.0);
        let signal = [Signal::SIGKILL, Signal::SIGINT][dice.below(2)];
        end(child.expect("plywood starts"), moment, signal);
        nothing_runs(&site);
        assert_eq!(site.plywood.json(["ps", "-a"]), serde_json::json!([]), "{told}");
        let images = site.plywood.json(["images"]);
        for image in images.as_array().expect("a list") {
            let is_whole = image["id"] == wanted.as_str();
            assert!(
                is_whole || image["names"] == serde_json::json!(["base:latest"]),
                "{told}: {images:#}"
            );
        }
        assert_eq!(site.build(&["-t", "web"]), wanted, "{told}");
        let all = site.plywood.ok(["run", "--rm", "web", "cat", "/all"]);
        assert_eq!(all, "built\n<h1>plywood</h1>\nmore", "{told}");
        site.plywood.sound();
    }
}
