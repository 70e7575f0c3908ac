//! A detached container whose plywood is killed, and what that leaves in it.

use rustix::process::{Pid, Signal, kill_process};

use super::{Plywood, wait};

/// The process that stays with a container: the parent of its first.
pub fn monitor_of(plywood: &Plywood, name: &str) -> Pid {
    let document = plywood.json(["inspect", name]);
    let pid = document[0]["pid"].as_u64().expect("a process");
    let parent = plywood::exec::state::parent(u32::try_from(pid).expect("a number")).expect("its parent");
    Pid::from_raw(i32::try_from(parent).expect("a number")).expect("not 0")
}

/// Kills a container's plywood, and waits until it does not run any more.
pub fn kill_monitor(plywood: &Plywood, name: &str) {
    kill_process(monitor_of(plywood, name), Signal::KILL).expect("it is there");
    wait::until(&format!("{name} ends"), || {
        plywood.json(["inspect", name])[0]["state"] != "running"
    });
}

/// A run's folder for a mount is not in the image `base`, and is to be in no image of the container, whether it is
/// committed when its plywood was killed, or after another run. `options` are the run's, besides the mount.
pub fn what_it_had_made_to_mount_on_is_in_no_layer(plywood: &Plywood, name: &str, options: &[&str]) {
    let run = ["run", "-d", "--name", name, "--tmpfs", "/made/for/it"];
    let command = "echo x >> /etc/new; echo ready; exec sleep 600";
    plywood.ok([&run[..], options, &["base", "sh", "-c", command]].concat());
    for round in 1..=2 {
        wait::until(&format!("{name} begins"), || {
            plywood.ok(["logs", name]).matches("ready").count() >= round
        });
        kill_monitor(plywood, name);
        if round == 1 {
            let image = format!("{name}-killed");
            plywood.ok(["commit", name, &image]);
            expect(plywood, &image, round);
        }
        plywood.ok(["start", name]);
    }
    plywood.ok(["stop", "-t", "0", name]);
    let image = format!("{name}-stopped");
    plywood.ok(["commit", name, &image]);
    expect(plywood, &image, 3);
}

/// Wants `image` to have what `runs` runs wrote, and nothing that was made for them.
fn expect(plywood: &Plywood, image: &str, runs: usize) {
    let seen = plywood.ok([
        "run",
        "--rm",
        image,
        "sh",
        "-c",
        "ls -d /made 2>/dev/null; cat /etc/new",
    ]);
    assert_eq!(seen, vec!["x"; runs].join("\n"), "{image}");
}
