//! How an image tries to get at plywood itself: at its binary, by its tools'
//! names, by what its config says. `root_escape` has what is tried from inside.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test ends where something is not as it must be"
)]

mod common;
#[path = "common/oracle.rs"]
mod oracle;
#[path = "common/probe.rs"]
mod probe;
#[path = "common/sentinel.rs"]
mod sentinel;

use std::fs;

use common::{Plywood, busybox_tar};
use oracle::Oracle;
use plywood_store::Digest;
use probe::{DATA, Gate};
use sentinel::Sentinel;

/// A store with the image `evil`: the base system after `script`, with the config's `changes`.
fn with_evil(script: &str, changes: &[&str]) -> Plywood {
    let plywood = Plywood::new("overlay");
    let base = plywood.beside("base.tar");
    busybox_tar(&base);
    plywood.ok(["import", base.to_str().unwrap(), "base"]);
    plywood.ok(["run", "--name", "maker", "base", "sh", "-ec", script]);
    let changes = changes.iter().flat_map(|change| ["-c", change]);
    let commit: Vec<&str> = ["commit"].into_iter().chain(changes).chain(["maker", "evil"]).collect();
    plywood.ok(commit);
    plywood.ok(["rm", "maker"]);
    plywood
}

#[test]
#[cfg(target_arch = "x86_64")]
fn root_e01_the_hosts_binary_is_out_of_reach() {
    let binary = env!("CARGO_BIN_EXE_plywood");
    let before = Digest::of(&fs::read(binary).unwrap());
    // The kernel runs what /proc/self/exe is, which is plywood until then, with the loader that the image brings. That
    // one tries to open its own executable for writing, and to cut it off.
    const OPEN: (u32, u64) = (2, 1);
    const TRUNCATE: (u32, u64) = (76, 0);
    const CHMOD: (u32, u64) = (90, 0o777);
    const ETXTBSY: i32 = 26;
    const EROFS: i32 = 30;
    // What the kernel looks at first: that the file is executed, or that its mount is read-only.
    for ((number, second), refused) in [(OPEN, ETXTBSY), (TRUNCATE, EROFS), (CHMOD, EROFS)] {
        let plywood = with_evil(
            "mkdir -p /lib64; ln -s /proc/self/exe /bin/myself; printf '#!/proc/self/exe\n' > /bin/script; chmod 755 /bin/script",
            &[],
        );
        let loader = plywood.beside("loader");
        probe::write(&loader, Gate::Syscall, number, [DATA, second, 0], b"/proc/self/exe\0");
        let volume = format!("{}:/loader:ro", loader.display());
        let copy = ["cp", "/loader", "/lib64/ld-linux-x86-64.so.2"];
        plywood.ok([&["run", "--name", "maker", "-v", &volume, "evil"], &copy[..]].concat());
        plywood.ok(["commit", "maker", "evil"]);
        for command in ["myself", "script", "/proc/self/exe"] {
            plywood.fails(refused, ["run", "--rm", "evil", command, "gc"]);
        }
    }
    assert_eq!(Digest::of(&fs::read(binary).unwrap()), before);
}

#[test]
fn root_e09_no_program_of_an_image_runs_but_the_command() {
    let outside = tempfile::tempdir().unwrap();
    let sentinel = Sentinel::new(&outside.path().join("sentinel"));
    let oracle = Oracle::new();
    let tools = "nsenter ps ip mount umount setpriv env tar unshare dmsetup ldconfig newuidmap keyctl prlimit nft";
    let script = format!(
        "for tool in {tools}; do for folder in /bin /usr/bin /sbin /usr/sbin; do
            mkdir -p $folder; rm -f $folder/$tool
            printf '#!/bin/busybox sh\necho ran >> /ran; echo ran >> {0}/ran\n' > $folder/$tool
            chmod 755 $folder/$tool
        done; done",
        sentinel.path().display()
    );
    let plywood = with_evil(&script, &[]);
    plywood.ok(["run", "--name", "one", "--tmpfs", "/x", "evil", "/bin/busybox", "true"]);
    for verb in [
        &["ps", "-a"][..],
        &["inspect", "one"],
        &["diff", "one"],
        &["commit", "one", "again"],
        &["history", "again"],
        &["diff", "evil", "again"],
        &["df"],
        &["check", "--data"],
    ] {
        plywood.ok(verb);
    }
    assert!(!plywood.ok(["diff", "one"]).contains("/ran"));
    sentinel.check("an image's tools");
    oracle.check("an image's tools");
}

#[test]
fn root_e10_options_are_words_not_strings_for_the_kernel() {
    let plywood = with_evil("mkdir /volume", &[]);
    let source = plywood.beside("source");
    fs::create_dir(&source).unwrap();
    let source = source.to_str().unwrap();
    for options in [
        "rshared",
        "ro,shared",
        "ro,rbind,suid",
        "ro:rw",
        "ro=1",
        "dev",
        "Ro",
        "",
    ] {
        let volume = format!("{source}:/volume:{options}");
        let error = plywood.fails(125, ["run", "--rm", "-v", &volume, "evil", "true"]);
        assert!(error.contains(&volume), "{error}");
    }
    assert_eq!(plywood.json(["ps", "-a"]), serde_json::json!([]));
}

#[test]
fn root_e15_labels_are_words() {
    let outside = tempfile::tempdir().unwrap();
    let sentinel = Sentinel::new(&outside.path().join("sentinel"));
    let oracle = Oracle::new();
    let path = sentinel.path().display();
    let labels = [
        format!("LABEL containerd.io/logger=\"binary:///bin/touch?{path}/logged\""),
        format!("LABEL logger=\"binary:///bin/touch?{path}/logged\""),
        format!("LABEL io.containerd.runtime.v2.shim=\"/bin/touch {path}/shim\""),
        format!("LABEL org.systemd.property.ExecStart=\"'/bin/touch {path}/systemd'\""),
        format!("LABEL io.podman.annotations.init=\"/bin/touch {path}/podman\""),
        format!("LABEL io.podman.annotations.seccomp=unconfined org.criu.config=\"{path}/criu\""),
        format!("LABEL run.oci.hooks.stderr=\"{path}/hook\" module.wasm.image/variant=compat"),
        "LABEL io.kubernetes.cri-o.userns-mode=host io.kubernetes.cri.container-type=sandbox".to_owned(),
        "LABEL com.docker.security.privileged=true plywood.privileged=true".to_owned(),
    ];
    let plywood = with_evil("true", &labels.each_ref().map(String::as_str));
    let said = plywood.ok([
        "run",
        "--rm",
        "evil",
        "grep",
        "-E",
        "^(CapEff|Seccomp|NoNew)",
        "/proc/self/status",
    ]);
    assert_eq!(
        said,
        "CapEff:\t00000000a80425fb\nNoNewPrivs:\t1\nSeccomp:\t2\nSeccomp_filters:\t1"
    );
    sentinel.check("labels");
    oracle.check("labels");
}

#[test]
fn root_e18_no_container_sees_what_another_one_writes() {
    let plywood = with_evil("true", &[]);
    common::siblings_keep_to_themselves(&plywood, "evil");
}
