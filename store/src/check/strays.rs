//! Files in the store's own folders that nothing of plywood's would make. The drivers look into theirs.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use super::Report;
use crate::error::Context;
use crate::record::key_is_valid;
use crate::{Digest, Error, Result, Store, durable, store};

/// The kinds of records, each a folder.
const KINDS: [&str; 7] = ["layers", "snapshots", "images", "names", "containers", "pool", "steps"];

/// What a folder of ours holds.
#[derive(Clone, Copy)]
enum Holds {
    Files,
    Folders,
    Both,
}

/// Whether a folder of ours may hold something of this name.
type Known<'a> = &'a dyn Fn(&str) -> bool;

/// Finds what lies there that nothing of plywood's would make.
pub(super) fn find(store: &Store, report: &mut Report) -> Result<()> {
    let is_hex = |name: &str| format!("sha256:{name}").parse::<Digest>().is_ok();
    let is_record = |name: &str| name.strip_suffix(".json").is_some_and(key_is_valid);
    let is_top = |name: &str| store::TOP.contains(&name);
    let is_kind = |name: &str| KINDS.contains(&name);
    // A file without a name has one for a moment, where the filesystem knows none such.
    let is_temporary = |name: &str| durable::is_unique_name(name) || name.starts_with(".tmp");
    let is_lock = |name: &str| name.strip_prefix("container-").is_some_and(key_is_valid);
    let is_log = |name: &str| {
        let name = name.strip_suffix(".1").unwrap_or(name);
        name.strip_suffix(".log").is_some_and(key_is_valid)
    };
    strays(store.root(), Holds::Both, &is_top, report)?;
    strays(
        &store.root().join("blobs"),
        Holds::Folders,
        &|name| name == "sha256",
        report,
    )?;
    strays(&store.root().join("records"), Holds::Folders, &is_kind, report)?;
    let mut folders: Vec<(String, Known<'_>)> = vec![
        ("blobs/sha256".to_owned(), &is_hex),
        ("intents".to_owned(), &is_record),
        ("tmp".to_owned(), &is_temporary),
        ("locks".to_owned(), &is_lock),
        ("logs".to_owned(), &is_log),
    ];
    folders.extend(
        KINDS
            .iter()
            .map(|kind| (format!("records/{kind}"), &is_record as Known<'_>)),
    );
    for (folder, known) in folders {
        strays(&store.root().join(folder), Holds::Files, known, report)?;
    }
    Ok(())
}

/// Finds what in one folder has another name or type than it can have.
fn strays(folder: &Path, holds: Holds, known: Known<'_>, report: &mut Report) -> Result<()> {
    let entries = match fs::read_dir(folder) {
        // Made when somebody needs it.
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        entries => entries.context("list", folder)?,
    };
    for entry in entries {
        let entry = entry.context("list", folder)?;
        let fits = entry.file_type().is_ok_and(|kind| match holds {
            Holds::Files => kind.is_file(),
            Holds::Folders => kind.is_dir(),
            Holds::Both => kind.is_file() || kind.is_dir(),
        });
        if !fits || !entry.file_name().to_str().is_some_and(known) {
            report.findings.push(
                Error::invalid(format!("{} is none of plywood's files", entry.path().display()))
                    .hinted("move it away: plywood neither reads nor removes it"),
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::fixture;
    use crate::gc;

    #[test]
    fn a_file_that_is_not_ours_is_found_wherever_it_lies_and_left_alone() {
        for place in [
            "foo",
            "newdir/",
            "records/foo",
            "records/more/",
            "blobs/md5/",
            "tmp/bar",
            "tmp/folder/",
        ] {
            let it = fixture();
            let path = it.store.root().join(place);
            match place.strip_suffix('/') {
                Some(_) => fs::create_dir(&path).unwrap(),
                None => fs::write(&path, "").unwrap(),
            }
            let mut report = Report::default();
            find(&it.store, &mut report).unwrap();
            let found: Vec<_> = report.findings.iter().map(ToString::to_string).collect();
            assert_eq!(found.len(), 1, "{place}: {found:?}");
            assert!(found[0].contains("none of plywood's files"), "{found:?}");
            assert!(gc::mark(&it.store).unwrap().temporary.is_empty(), "{place}");
        }
    }
}
