//! Commands at a time, and containers of one image: they succeed, and none sees what another does.

use super::Plywood;

/// Two commands at a time both succeed, whatever they are: on the same container, over the same layers,
/// removing and measuring. Wants the image `base`.
pub fn every_two_at_a_time(plywood: &Plywood, rounds: u32) {
    for _ in 0..rounds {
        plywood.together(&[
            &["run", "--name", "a", "base", "sh", "-c", "echo a > /a"],
            &["run", "--name", "b", "base", "sh", "-c", "echo b > /b"],
            &["df"],
        ]);
        plywood.together(&[
            &["commit", "a", "a"],
            &["commit", "a", "also-a"],
            &["diff", "a"],
            &["diff", "a"],
            &["commit", "b", "b"],
            &["df"],
        ]);
        plywood.together(&[
            &["rm", "a"],
            &["rmi", "a", "also-a"],
            &["df"],
            &["rmi", "b"],
            &["rm", "b"],
            &["df"],
            &["run", "--rm", "base", "true"],
        ]);
    }
    assert_eq!(plywood.json(["ps", "-a"]), serde_json::json!([]));
    assert_eq!(plywood.json(["images"]).as_array().map(Vec::len), Some(1));
    plywood.ok(["gc"]);
    assert_eq!(plywood.json(["df"])["layers"].as_array().map(Vec::len), Some(1));
    plywood.sound();
}

/// One container overwrites a file of its image, in place and anew; another one, and a later one, see the image's.
#[track_caller]
pub fn siblings_keep_to_themselves(plywood: &Plywood, image: &str) {
    let digest = |name: &str, before: &str| {
        let script = format!("{before} md5sum < /usr/share/doc/a; md5sum < /bin/busybox");
        plywood.ok(["run", "--name", name, image, "sh", "-ec", &script])
    };
    let whole = digest("whole", "");
    let write = "printf changed | dd of=/usr/share/doc/a conv=notrunc 2>/dev/null;
        cp /bin/busybox /b; mv /b /bin/busybox; printf x >> /bin/busybox; sync;";
    assert_ne!(digest("writer", write), whole);
    assert_eq!(digest("reader", ""), whole);
    plywood.ok(["start", "-a", "writer"]);
    assert_eq!(plywood.ok(["start", "-a", "whole"]), whole);
    for name in ["whole", "writer", "reader"] {
        plywood.ok(["rm", name]);
    }
    plywood.sound();
}
