//! Attacks by what an archive's JSON says: digests, documents, configs.
//!
//! As in import_attacks, each test is named after the attacks of docs/attacks.md that it makes.

mod common;

#[path = "common/attack.rs"]
mod attack;
#[path = "common/sentinel.rs"]
mod sentinel;

use std::fs;

use attack::{gzip, refused, with_base, with_bystander};
use common::layout::Layout;
use common::tars::{archive, file, files_tar};
use plywood_store::Digest;
use sentinel::Sentinel;
use serde_json::json;

#[test]
fn u20_digests_and_names_are_no_paths() {
    let plywood = with_base();
    let upper = |text: &str| text.replace("sha256:", "SHA256:");
    let bad_digests = [
        "sha256:../../../../etc/passwd",
        "sha512:00",
        "sha256:",
        "sha256:ABCDEF",
        "md5:x",
        "../x",
    ];
    for digest in bad_digests {
        let mut layout = Layout::of(&[archive(&[file("x", "x")])]);
        layout.manifest["layers"][0]["digest"] = json!(digest);
        refused(&plywood, digest, &layout.tar(false), "manifest");
        plywood.fails(2, ["import", "--digest", digest, "/dev/null", "x"]);
        let manifest = json!([{"Config": digest, "Layers": []}]).to_string();
        refused(
            &plywood,
            digest,
            &files_tar([("manifest.json", manifest.as_bytes())]),
            "",
        );
    }
    let mut layout = Layout::of(&[archive(&[file("x", "x")])]);
    let right = layout.manifest["layers"][0]["digest"].as_str().unwrap().to_owned();
    for other in [
        right.to_uppercase(),
        upper(&right),
        format!("sha256:{}", right[7..].to_uppercase()),
        format!("{right} "),
    ] {
        layout.manifest["layers"][0]["digest"] = json!(other);
        let changed = Layout {
            manifest: layout.manifest.clone(),
            ..Layout::of(&[archive(&[file("x", "x")])])
        };
        refused(&plywood, &other, &changed.tar(false), "manifest");
    }
    for name in ["../../etc/passwd", "/etc/passwd", "sha256:../x", "base/../base", "a//b"] {
        assert!(!plywood.run(["inspect", name]).status.success(), "{name}");
        assert!(!plywood.run(["rmi", name]).status.success(), "{name}");
        assert!(!plywood.run(["tag", "base", name]).status.success(), "{name}");
    }
    plywood.sound();
}

#[test]
fn u22_documents_that_could_be_read_as_two_are_refused() {
    let plywood = with_bystander();
    let layer = archive(&[file("x", "x")]);
    type Change<'a> = &'a dyn Fn(&str) -> String;
    // Written by hand, as no JSON library writes a field twice.
    let with_config = |change: Change<'_>| {
        let mut layout = Layout::of(std::slice::from_ref(&layer));
        let config = change(&layout.config.to_string()).into_bytes();
        layout.manifest["config"]["digest"] = json!(Digest::of(&config).to_string());
        layout.manifest["config"]["size"] = json!(config.len());
        layout
            .files
            .insert(format!("blobs/sha256/{}", Digest::of(&config).hex()), config);
        layout.tar(true)
    };
    let cases: [(&str, Change<'_>); 4] = [
        ("twice", &|config| config.replacen('{', r#"{"os":"plan9","#, 1)),
        ("which some take for", &|config| {
            config.replacen('{', r#"{"OS":"plan9","#, 1)
        }),
        ("twice", &|config| {
            config.replacen(r#""config":{}"#, r#""config":{"User":"a","User":"0"}"#, 1)
        }),
        ("which some take for", &|config| {
            config.replacen(r#""config":{}"#, r#""config":{"user":"0"}"#, 1)
        }),
    ];
    for (names, change) in cases {
        refused(&plywood, names, &with_config(change), names);
    }
    let edit = |edit: &dyn Fn(&mut Layout)| {
        let mut layout = Layout::of(std::slice::from_ref(&layer));
        edit(&mut layout);
        layout.tar(false)
    };
    for (names, bytes) in [
        ("manifests", edit(&|l| l.manifest["manifests"] = json!([]))),
        ("which some take for", edit(&|l| l.manifest["Layers"] = json!([]))),
        (
            "which some take for",
            edit(&|l| l.manifest["layers"][0]["Digest"] = json!("x")),
        ),
        (
            "promised",
            edit(&|l| l.manifest["mediaType"] = json!(plywood::image::oci::INDEX)),
        ),
        (
            "helm",
            edit(&|l| l.manifest["config"]["mediaType"] = json!("application/vnd.cncf.helm.config.v1+json")),
        ),
        ("schema version", edit(&|l| l.manifest["schemaVersion"] = json!(1))),
        (
            "cannot unpack",
            edit(&|l| l.manifest["layers"][0]["mediaType"] = json!("application/x-tar")),
        ),
        ("manifest", edit(&|l| l.manifest["layers"][0]["size"] = json!(-1))),
        ("manifest", edit(&|l| l.manifest["layers"][0]["size"] = json!(1e300))),
        ("came as", edit(&|l| l.manifest["layers"][0]["size"] = json!(u64::MAX))),
        ("layers", edit(&|l| l.config["rootfs"]["type"] = json!("squashfs"))),
    ] {
        refused(&plywood, names, &bytes, names);
    }
    // A packing other than the promised one is seen by its bytes, and the DiffID has the last word.
    let path = plywood.beside("packed");
    fs::write(
        &path,
        edit(&|l| l.manifest["layers"][0]["mediaType"] = json!("application/vnd.oci.image.layer.v1.tar+gzip")),
    )
    .unwrap();
    plywood.ok(["import", path.to_str().unwrap(), "packed"]);
    plywood.sound();
}

#[test]
fn u23_few_bytes_of_json_cost_little() {
    let plywood = with_bystander();
    let rootfs = r#""os":"linux","rootfs":{"type":"layers","diff_ids":[]}"#;
    let config = format!(r#"{{{rootfs},"a":"{}"}}"#, "x".repeat(4_000_000)).into_bytes();
    let name = format!("{}.json", Digest::of(&config).hex());
    let image = json!({"Config": name, "Layers": []});
    let manifest = json!(vec![image; 20_000]).to_string();
    let docker = |config: &[u8], manifest: &str| {
        gzip(&files_tar([
            (name.as_str(), config),
            ("manifest.json", manifest.as_bytes()),
        ]))
    };
    refused(
        &plywood,
        "one config many times",
        &docker(&config, &manifest),
        "67108864",
    );
    let tags: Vec<_> = (0..20_000).map(|n| format!("a:{n}")).collect();
    let small = format!("{{{rootfs}}}").into_bytes();
    let small_name = format!("{}.json", Digest::of(&small).hex());
    let manifest = json!([{"Config": small_name, "Layers": [], "RepoTags": tags}]).to_string();
    let many_names = gzip(&files_tar([
        (small_name.as_str(), &small[..]),
        ("manifest.json", manifest.as_bytes()),
    ]));
    refused(&plywood, "many names", &many_names, "10000 names");
    let of_config = |text: String| {
        let config = text.into_bytes();
        let name = format!("{}.json", Digest::of(&config).hex());
        let manifest = json!([{"Config": name, "Layers": []}]).to_string();
        gzip(&files_tar([
            (name.as_str(), &config[..]),
            ("manifest.json", manifest.as_bytes()),
        ]))
    };
    let values = r#"{"":0},"#.repeat(500_000);
    refused(
        &plywood,
        "many values",
        &of_config(format!(r#"{{{rootfs},"a":[{values}0]}}"#)),
        "100000 values",
    );
    let deep = "[".repeat(1_000_000);
    refused(
        &plywood,
        "deep",
        &of_config(format!(r#"{{{rootfs},"a":{deep}"#)),
        "recursion limit",
    );
    refused(
        &plywood,
        "large",
        &of_config(format!(r#"{{{rootfs},"a":"{}"}}"#, "x".repeat(5 << 20))),
        "4194304",
    );
    let nested = index_in_index(5);
    refused(&plywood, "indexes in indexes", &nested, "nested");
    plywood.sound();
}

/// An archive whose index leads to an index, and so on.
fn index_in_index(depth: usize) -> Vec<u8> {
    let mut files = vec![("oci-layout".to_owned(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec())];
    let mut inner = json!({"schemaVersion": 2, "manifests": []}).to_string().into_bytes();
    for _ in 0..depth {
        let digest = Digest::of(&inner);
        let entry = json!({"mediaType": plywood::image::oci::INDEX, "digest": digest.to_string(), "size": inner.len()});
        files.push((format!("blobs/sha256/{}", digest.hex()), inner));
        inner = json!({"schemaVersion": 2, "manifests": [entry]})
            .to_string()
            .into_bytes();
    }
    files.push(("index.json".to_owned(), inner));
    files_tar(files.iter().map(|(name, content)| (name.as_str(), content.as_slice())))
}

#[test]
fn u24_a_config_reaches_nothing_outside() {
    let plywood = with_base();
    let sentinel = Sentinel::new(&plywood.beside("outside"));
    let outside = sentinel.path().to_str().unwrap().to_owned();
    let base = fs::read(plywood.beside("base.tar")).unwrap();
    let run = |key: &str, value: serde_json::Value| {
        let mut layout = Layout::of(std::slice::from_ref(&base));
        layout.config["config"][key] = value;
        let path = plywood.beside("archive");
        fs::write(&path, layout.tar(false)).unwrap();
        let imported = plywood.run(["import", path.to_str().unwrap(), "config"]);
        if !imported.status.success() {
            return None;
        }
        let look = "id -u; pwd; ls; touch /made secret 2>/dev/null; true";
        Some(plywood.run(["run", "--rm", "config", "sh", "-c", look]))
    };
    for user in [
        "4294967296",
        "4294967295",
        "2147483648",
        "-1",
        "+0",
        "0x0",
        " ",
        "nobody-here",
        "1000:4294967296",
    ] {
        let output = run("User", json!(user)).unwrap();
        assert_eq!(
            output.status.code(),
            Some(125),
            "{user}: {}",
            String::from_utf8_lossy(&output.stdout)
        );
    }
    let mut folders: Vec<_> = (0..64).step_by(7).map(|n| format!("/proc/self/fd/{n}")).collect();
    folders.extend(
        [
            "../../../../..",
            "/proc/1/root",
            "/proc/self/root/..",
            "/../../..",
            &outside,
        ]
        .map(str::to_owned),
    );
    for folder in folders {
        let Some(output) = run("WorkingDir", json!(folder)) else {
            continue;
        };
        let seen = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            !seen.contains("unreachable") && !seen.contains("base.tar"),
            "{folder}: {seen}"
        );
        sentinel.check(&folder);
    }
    for volume in ["/../../../outside", "../outside", &outside, "/proc/self/root"] {
        run("Volumes", json!({volume: {}}));
        sentinel.check(volume);
    }
    for (key, value) in [
        (
            "Env",
            json!(["LD_PRELOAD=/evil.so", "A\0B=c", "=x", "novalue", "PATH=/nowhere"]),
        ),
        ("Entrypoint", json!(["/proc/self/exe"])),
        (
            "Labels",
            json!({"io.containerd.runtime": "binary:///bin/touch?x=/made"}),
        ),
        ("StopSignal", json!("99999999999")),
        ("ExposedPorts", json!({"0/../x": {}})),
    ] {
        run(key, value);
        sentinel.check(key);
    }
    plywood.sound();
}
