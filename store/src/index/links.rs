//! What the index holds, as keys and values: pure text.
//!
//! ```text
//! link/<relation>/<target>\0<folder>/<key>    (empty)      one reference, to be found backwards
//! record/<folder>/<key>                       the keys of its links, a line each
//! state                                       what the index was built from, JSON
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;

use serde::{Deserialize, Serialize};

use crate::error::Context;
use crate::record::{Link, Record, Records, Relation};
use crate::{Result, Store};

/// The version of what is in the index; another one is rebuilt.
pub(super) const FORMAT: u32 = 1;
/// Where the index keeps what it was built from.
pub(super) const STATE: &[u8] = b"state";
/// Where links begin.
pub(super) const LINK: &[u8] = b"link/";

/// What the index was built from.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct State {
    /// The version of what is in the index.
    pub(super) format: u32,
    /// Each records folder's mtime in nanoseconds.
    pub(super) stamps: BTreeMap<String, i128>,
}

/// Each kind of record that has links, read in one way for all.
macro_rules! for_each_kind {
    ($store:expr, |$records:ident| $body:expr) => {{
        {
            let $records = &$store.layers;
            $body
        }
        {
            let $records = &$store.snapshots;
            $body
        }
        {
            let $records = &$store.images;
            $body
        }
        {
            let $records = &$store.names;
            $body
        }
        {
            let $records = &$store.containers;
            $body
        }
    }};
}

/// Links by folder and key of their record.
pub(super) type Linked = BTreeMap<(String, String), Vec<Link>>;

fn add_links<T: Record>(records: &Records<T>, to: &mut Linked) -> Result<()> {
    // Of those that pass the index knows nothing.
    for key in records.lasting_keys()? {
        if let Some(record) = records.get(&key)? {
            to.insert((T::FOLDER.to_owned(), key), record.links());
        }
    }
    Ok(())
}

pub(super) fn all_links(store: &Store) -> Result<Linked> {
    let mut all = Linked::new();
    for_each_kind!(store, |records| add_links(records, &mut all)?);
    Ok(all)
}

/// The links of every record as the index keeps them, for `check`.
pub(crate) fn expected(store: &Store) -> Result<BTreeSet<Vec<u8>>> {
    let all = all_links(store)?;
    let keys = all
        .iter()
        .flat_map(|((folder, key), links)| links.iter().map(move |link| link_key(link, folder, key).into_bytes()));
    Ok(keys.collect())
}

fn links_in<T: Record>(records: &Records<T>, folder: &str, key: &str) -> Result<Option<Vec<Link>>> {
    if T::FOLDER != folder {
        return Ok(None);
    }
    Ok(Some(records.get(key)?.map(|record| record.links()).unwrap_or_default()))
}

/// The links of one record, none where it is gone.
pub(super) fn links_of(store: &Store, folder: &str, key: &str) -> Result<Vec<Link>> {
    for_each_kind!(store, |records| {
        if let Some(links) = links_in(records, folder, key)? {
            return Ok(links);
        }
    });
    Ok(Vec::new())
}

pub(super) fn stamps(store: &Store) -> Result<BTreeMap<String, i128>> {
    let mut stamps = BTreeMap::new();
    for_each_kind!(store, |records| {
        let folder = records.folder();
        let metadata = folder.metadata().context("look at", folder)?;
        let stamp = i128::from(metadata.mtime()) * 1_000_000_000 + i128::from(metadata.mtime_nsec());
        stamps.insert(folder.display().to_string(), stamp);
    });
    Ok(stamps)
}

/// `link/<relation>/<target>\0`: a target may hold anything but NUL.
pub(super) fn link_prefix(relation: Relation, target: &str) -> String {
    format!("link/{relation}/{target}\0")
}

pub(super) fn link_key(link: &Link, folder: &str, key: &str) -> String {
    let prefix = link_prefix(link.relation, &link.target.replace(['\0', '\n'], ""));
    format!("{prefix}{folder}/{key}")
}

/// Where the links of one record are listed, to be taken away with it.
pub(super) fn owner_key(folder: &str, key: &str) -> String {
    format!("record/{folder}/{key}")
}

/// `<folder>/<key>` at the end of a link's key.
pub(super) fn parse_user(bytes: &[u8]) -> Option<(String, String)> {
    let (folder, key) = std::str::from_utf8(bytes).ok()?.split_once('/')?;
    Some((folder.to_owned(), key.to_owned()))
}

/// The list of links of one record.
pub(super) fn parse_links(bytes: &[u8]) -> Option<Vec<&str>> {
    let links: Vec<&str> = std::str::from_utf8(bytes).ok()?.split('\n').collect();
    links
        .iter()
        .all(|link| link.as_bytes().starts_with(LINK))
        .then_some(links)
}

pub(super) fn parse_state(bytes: &[u8]) -> Option<State> {
    serde_json::from_slice::<State>(bytes)
        .ok()
        .filter(|state| state.format == FORMAT)
}

/// Parses `bytes` as each kind of value that the index holds: for the fuzzer.
#[doc(hidden)]
pub fn parse_any(bytes: &[u8]) -> (bool, bool, bool) {
    (
        parse_user(bytes).is_some(),
        parse_links(bytes).is_some(),
        parse_state(bytes).is_some(),
    )
}
