//! What the fuzzer does with a line from the kernel, with words from a command line and with a file that
//! they name, and what must then hold. The corpora are replayed through the same functions by `tests/corpus_words.rs`.

#![allow(dead_code, reason = "each target uses one of them")]

use std::collections::HashSet;
use std::fmt::{Debug, Display};
use std::str::FromStr;

use clap::Parser;
use plywood::cli::{self, Cli, PoolVerb, Verb};
use plywood::commands::connection::Connection;
use plywood::commands::request;
use plywood::dm::mappings::Mappings;
use plywood::dm::name::Names;
use plywood::dm::status::{PoolStatus, ThinStatus};
use plywood::dm::table::Table;
use plywood::exec::capability::Capabilities;
use plywood::exec::seccomp::Seccomp;
use plywood::exec::spec::Spec;
use plywood::exec::user;
use plywood::image::oci::RunConfig;
use plywood::network::port::Publication;

/// A status or table line of device-mapper, or a device's name.
pub(crate) fn dm_line(data: &[u8]) {
    let Ok(line) = std::str::from_utf8(data) else { return };
    same_again::<PoolStatus>(line);
    same_again::<ThinStatus>(line);
    same_again::<Table>(line);
    let names = Names::of_root("0123abcd0000");
    if let Some(id) = names.parse_thin(line) {
        assert_eq!(names.thin(id), line, "a name that plywood does not make");
    }
}

/// A pool's mappings as `thin_dump` writes them: what is free lies within the pool, in order.
pub(crate) fn thin_dump(data: &[u8]) {
    const MOST: u64 = 4096;
    if let Ok(mappings) = Mappings::read(data, 128, MOST) {
        let mut at = 0;
        for run in mappings.free() {
            assert!(at <= run.start && run.start < run.end && run.end <= MOST, "{run:?}");
            at = run.end + 1;
        }
    }
}

/// Refused, or what was read says the same when it is read again.
fn same_again<T: FromStr + Display + PartialEq + Debug>(line: &str) {
    if let Ok(read) = line.parse::<T>() {
        let again = read.to_string();
        assert_eq!(again.parse::<T>().ok(), Some(read), "{again:?}");
    }
}

/// What comes before the operand that the fuzzer makes up, and after it.
const ASKED: [(&[&str], &[&str]); 19] = [
    (&["pool", "init", "--data-size"], &[]),
    (&["pool", "init", "--volume-size"], &["--metadata-size", "1G"]),
    (&["pool", "grow", "--metadata-size"], &[]),
    (&["run", "-v"], &["image"]),
    (&["run", "-u"], &["image"]),
    (&["run", "-e"], &["image", "sh"]),
    (&["run", "-w"], &["image", "sh"]),
    (&["run", "--tmpfs"], &["image", "sh"]),
    (&["run", "--hostname"], &["image", "sh"]),
    (&["run", "--entrypoint"], &["image"]),
    (&["run", "--net"], &["image"]),
    (&["export", "-o", "-", "--compress"], &["image"]),
    (&["import", "--digest"], &["file"]),
    (&["tag", "image"], &[]),
    (&["--driver"], &["images"]),
    (&[], &[]),
    (&["run", "-p"], &["image"]),
    (&["run", "--link"], &["image"]),
    (&["run", "--dns"], &["image"]),
];

/// Words of a command line: the first byte says which operand the lines of the rest are, the others
/// are what an env file, or an image's passwd and group files, could say instead.
pub(crate) fn command_line(data: &[u8]) {
    let Some((first, rest)) = data.split_first() else {
        return;
    };
    users(rest);
    let Ok(text) = std::str::from_utf8(rest) else { return };
    if let Ok(bytes) = cli::size(text) {
        is_size(text, bytes);
    }
    let (before, after) = ASKED[usize::from(*first) % ASKED.len()];
    let words = ["plywood"].into_iter().chain(before.iter().copied());
    let words = words.chain(text.split('\n')).chain(after.iter().copied());
    let Ok(cli) = Cli::try_parse_from(words) else { return };
    match cli.verb {
        Verb::Run(mut args) => {
            // Not the files of this machine.
            args.env_file.clear();
            args.security_opt.retain(|option| !option.starts_with("seccomp"));
            args.env.extend(request::env_lines(text).map(str::to_owned));
            if let Ok(connection) = Connection::asked(&args) {
                is_reachable(&connection);
            }
            if let Ok(spec) = request::spec(&args, &RunConfig::default(), &"0".repeat(64)) {
                is_sound(&spec);
            }
        }
        Verb::Pool(PoolVerb::Init(args)) => {
            let sizes = [args.data_size, args.metadata_size, args.volume_size];
            assert!(sizes.iter().flatten().all(|size| *size > 0));
        }
        _ => {}
    }
}

/// Ports are written as they are read, and few; a network is one that can be written.
fn is_reachable(connection: &Connection) {
    for port in &connection.ports {
        assert!(port.host_port > 0 && port.port > 0);
        let text = format!(
            "{}:{}:{}/{}",
            port.address,
            port.host_port,
            port.port,
            port.protocol.name()
        );
        assert_eq!(
            text.parse::<Publication>().ok(),
            Some(Publication(vec![*port])),
            "{text}"
        );
    }
    assert!(
        connection
            .links
            .iter()
            .all(|link| !link.alias.contains(char::is_whitespace))
    );
    let kept = serde_json::to_value(connection).expect("what was typed can be kept");
    assert_eq!(
        serde_json::from_value::<Connection>(kept).ok().as_ref(),
        Some(connection)
    );
}

/// A size is a number times a power of 1024, and fits.
fn is_size(text: &str, bytes: u64) {
    let digits: String = text.chars().take_while(char::is_ascii_digit).collect();
    let number: u128 = digits.parse().expect("a number before the unit");
    let unit = text[digits.len()..].trim().to_ascii_lowercase();
    let power = match unit.chars().next() {
        None | Some('b') => 0,
        Some(letter) => 1 + "kmgt".find(letter).expect("a unit"),
    };
    assert_eq!(number << (10 * power), u128::from(bytes), "{text:?}");
}

/// What can be run keeps what its fields promise, and comes back from a record as it was.
fn is_sound(spec: &Spec) {
    let keys: Vec<&str> = spec
        .env
        .iter()
        .filter_map(|entry| entry.split_once('='))
        .map(|(key, _)| key)
        .collect();
    assert_eq!(keys.len(), spec.env.len(), "{:?}", spec.env);
    assert!(keys.iter().all(|key| !key.is_empty()), "{keys:?}");
    assert_eq!(
        keys.iter().collect::<HashSet<_>>().len(),
        keys.len(),
        "a key twice: {keys:?}"
    );
    assert!(spec.working_dir.starts_with('/'));
    assert!(
        spec.binds
            .iter()
            .all(|bind| bind.source.is_absolute() && bind.target.is_absolute())
    );
    let kept = serde_json::to_vec(spec).expect("what was typed can be kept");
    assert_eq!(serde_json::from_slice::<Spec>(&kept).ok().as_ref(), Some(spec));
    let _ = spec.check();
}

/// `USER[:GROUP]` and, after the first line, files in which to look it up.
fn users(data: &[u8]) {
    let end = data.iter().position(|byte| *byte == b'\n').unwrap_or(data.len());
    let (wanted, files) = data.split_at(end);
    let Ok(wanted) = std::str::from_utf8(wanted) else {
        return;
    };
    let Ok(user) = user::find(wanted, files, files) else {
        return;
    };
    let numbers = user.groups.iter().chain([&user.uid, &user.gid]);
    assert!(numbers.max().is_some_and(|most| *most <= i32::MAX.unsigned_abs()));
    assert!(user.home.starts_with('/'));
    // Root only by its number, by a line that says so, or where nobody is asked for.
    let asked = wanted.split(':').next().unwrap_or_default();
    let number = asked.bytes().all(|byte| byte == b'0');
    let line = files.split(|byte| *byte == b'\n').any(|line| {
        let mut fields = line.split(|byte| *byte == b':');
        fields.next() == Some(asked.as_bytes()) || fields.nth(1).is_some_and(|uid| uid.ends_with(asked.as_bytes()))
    });
    assert!(user.uid != 0 || number || line, "{wanted:?} became root");
}

/// A seccomp profile of Docker's: refused, or it can be kept, read again, and says the same.
pub(crate) fn seccomp(data: &[u8]) {
    for add in [&[][..], &["ALL".to_owned()]] {
        let capabilities = Capabilities::chosen(false, add, &[]).expect("a capability");
        if let Ok(profile) = Seccomp::from_docker("profile", data, capabilities) {
            let kept = serde_json::to_vec(&profile).expect("what was read can be kept");
            assert_eq!(serde_json::from_slice::<Seccomp>(&kept).ok(), Some(profile));
        }
    }
}
