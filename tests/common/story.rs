//! Edits that are the same each time: with both drivers and on every machine they come to the same ids.

use std::ffi::OsStr;

use super::{Plywood, busybox_tar};

/// The fixed edits of "same edits, same ids": one shell script per layer.
pub const EDITS: [&str; 3] = [
    // New things of every kind, a changed twin, a removal, a moved folder.
    "set -e
     mkdir -p /srv/site/img /var/log/web; echo '<h1>plywood</h1>' > /srv/site/index.html
     dd if=/dev/zero of=/srv/site/img/zeros bs=1k count=100 2>/dev/null; echo end >> /srv/site/img/zeros
     echo more >> /usr/share/doc/a; rm /usr/share/doc/b; mv /usr/share/doc/c /usr/share/c-moved
     ln /srv/site/index.html /srv/site/home.html; ln -s ../index.html /srv/site/img/up
     mkfifo /srv/fifo; mknod /srv/null c 1 3; chmod 4755 /bin/busybox; chown 1000:1000 /home; chmod 1777 /srv
     ln /usr/share/doc/d /usr/share/doc/dd; touch -d '2001-02-03 04:05:06' /srv/site/old",
    // Kinds change places, a twin is cut, a folder is made anew.
    "set -e
     rm -r /srv/site/img; echo file > /srv/site/img; rm /srv/site/home.html; mkdir /srv/site/home.html
     rm -r /var/log/web; mkdir /var/log/web; echo new > /var/log/web/access
     cp /usr/share/twin /usr/share/t; rm /usr/share/twin; mv /usr/share/t /usr/share/twin
     chmod 600 /usr/share/doc/d; rm /usr/share/link; ln -s doc/d /usr/share/link",
    // Deep removals, and a change that is undone.
    "set -e
     mv /usr/share/doc /usr/share/papers; mkdir /usr/share/doc; echo again > /usr/share/doc/a
     echo x > /srv/x; rm /srv/x; rm /srv/fifo /srv/null; chown 0:0 /home",
];

/// Imports the base system and commits every edit on top of the last: the images' ids, base first.
pub fn story(plywood: &Plywood) -> Vec<String> {
    let base = plywood.beside("base.tar");
    busybox_tar(&base);
    let mut ids = vec![plywood.ok([
        OsStr::new("import"),
        OsStr::new("-c"),
        OsStr::new("CMD [\"/bin/sh\"]"),
        base.as_os_str(),
        OsStr::new("step0"),
    ])];
    for (index, edit) in EDITS.iter().enumerate() {
        let (from, to, name) = (
            format!("step{index}"),
            format!("step{}", index + 1),
            format!("c{index}"),
        );
        plywood.ok(["run", "--name", &name, &from, "sh", "-c", edit]);
        ids.push(plywood.ok(["commit", "--diff", "verify", "-m", "an edit", &name, &to]));
    }
    ids
}
