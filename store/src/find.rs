//! From what a person types to a record: names, ids, unique id prefixes.
//!
//! A name is a key and an id is a file name, so neither needs a search: what a
//! person names exactly costs one file. Only what is not found is searched
//! for, to name what is near.

use crate::record::{ContainerRecord, ImageRecord, name_key};
use crate::{Error, ImageId, Reference, Result, Store};

/// Digits that an id prefix must have at least.
const PREFIX_MIN: usize = 6;
/// Letters of difference at which a name is still near.
const NEAR: usize = 2;

/// How a text may name something by its id.
enum ById {
    Whole(String),
    Prefix(String),
}

/// Whether `text` can be an id or a prefix of one, with or without `sha256:`.
fn by_id(text: &str) -> Option<ById> {
    let hex = text.strip_prefix("sha256:").unwrap_or(text);
    let is_hex = hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    match hex.len() {
        64 if is_hex => Some(ById::Whole(hex.to_owned())),
        PREFIX_MIN..64 if is_hex => Some(ById::Prefix(hex.to_owned())),
        _ => None,
    }
}

/// The one key that starts with `prefix`, or none.
fn unique(keys: &[String], prefix: &str, what: &str) -> Result<Option<String>> {
    let mut fitting = keys.iter().filter(|key| key.starts_with(prefix));
    match (fitting.next(), fitting.next()) {
        (Some(one), None) => Ok(Some(one.clone())),
        (Some(one), Some(two)) => Err(Error::invalid(format!(
            "{prefix} is the beginning of more than one {what}: {one} and {two}"
        ))
        .hinted("give more digits")),
        (None, _) => Ok(None),
    }
}

pub(crate) fn image(store: &Store, text: &str) -> Result<ImageRecord> {
    let name = text.parse::<Reference>();
    if let Ok(name) = &name
        && let Some(image) = image_by_name(store, name)?
    {
        return Ok(image);
    }
    let key = match by_id(text) {
        Some(ById::Whole(hex)) => Some(hex),
        Some(ById::Prefix(hex)) => unique(&store.images.keys()?, &hex, "image id")?,
        None => None,
    };
    if let Some(key) = key
        && let Some(image) = store.images.get(&key)?
    {
        return Ok(image);
    }
    match name {
        // Neither a name nor an id: the name's error says what a name looks like.
        Err(error) if by_id(text).is_none() => Err(error),
        _ => Err(no_image(store, text)),
    }
}

fn image_by_name(store: &Store, name: &Reference) -> Result<Option<ImageRecord>> {
    let Some(record) = store.names.get(&name_key(name))? else {
        return Ok(None);
    };
    let Some(image) = store.images.get(&record.image.0.hex())? else {
        return Err(Error::corrupt(format!(
            "the name {} stands for image {}, which is not there",
            record.name, record.image
        ))
        .hinted("`plywood check` lists what is damaged; `plywood rmi` removes the name"));
    };
    match name.digest() {
        Some(digest) if digest != image.manifest.digest => Err(Error::not_found(format!(
            "{} is not {name}: its manifest is {}",
            record.name, image.manifest.digest
        ))),
        _ => Ok(Some(image)),
    }
}

fn no_image(store: &Store, text: &str) -> Error {
    let names = store.names.list().unwrap_or_default();
    let names = names.iter().map(|record| shown(&record.name));
    let error = Error::not_found(format!("no image {text}"));
    match near(text, names) {
        Some(near) => error.hinted(format!("there is {near}")),
        None => error.hinted("`plywood images` lists what there is"),
    }
}

/// A name as people type it: without the tag that goes without saying.
fn shown(name: &Reference) -> String {
    if name.tag() == crate::reference::LATEST {
        name.repository().to_owned()
    } else {
        name.to_string()
    }
}

pub(crate) fn container(store: &Store, text: &str) -> Result<ContainerRecord> {
    let containers = store.containers.list()?;
    if let Some(found) = containers.iter().find(|container| container.name == text) {
        return Ok(found.clone());
    }
    let ids: Vec<String> = containers.iter().map(|one| one.id.clone()).collect();
    let id = match by_id(text) {
        Some(ById::Whole(hex)) => Some(hex),
        Some(ById::Prefix(hex)) => unique(&ids, &hex, "container id")?,
        None => None,
    };
    if let Some(found) = containers.iter().find(|container| Some(&container.id) == id.as_ref()) {
        return Ok(found.clone());
    }
    let error = Error::not_found(format!("no container {text}"));
    let names = containers.iter().map(|container| container.name.clone());
    Err(match near(text, names) {
        Some(near) => error.hinted(format!("there is {near}")),
        None => error.hinted("`plywood ps -a` lists what there is"),
    })
}

pub(crate) fn names_of(store: &Store, image: &ImageId) -> Result<Vec<Reference>> {
    let mut names: Vec<Reference> = store
        .names
        .list()?
        .into_iter()
        .filter(|record| record.image == *image)
        .map(|record| record.name)
        .collect();
    names.sort_unstable();
    Ok(names)
}

/// Up to three names that are nearly `text`, nearest first, joined for a hint.
fn near(text: &str, names: impl Iterator<Item = String>) -> Option<String> {
    let bare = |name: &str| {
        let base = name.rsplit('/').next().unwrap_or(name);
        base.split(':').next().unwrap_or(base).to_owned()
    };
    let mut near: Vec<(usize, String)> = names
        .map(|name| {
            let distance = distance(text, &name).min(distance(&bare(text), &bare(&name)) + 1);
            (distance, name)
        })
        .filter(|(distance, name)| *distance <= NEAR && *distance < name.len())
        .collect();
    near.sort_unstable();
    near.dedup();
    let names: Vec<String> = near.into_iter().take(3).map(|(_, name)| name).collect();
    (!names.is_empty()).then(|| names.join(", "))
}

/// Letters to insert, delete or replace (Levenshtein).
fn distance(one: &str, two: &str) -> usize {
    let two: Vec<char> = two.chars().take(300).collect();
    let mut row: Vec<usize> = (0..=two.len()).collect();
    for (line, letter) in one.chars().take(300).enumerate() {
        let mut left = line + 1;
        let mut next = Vec::with_capacity(row.len());
        next.push(left);
        for (pair, other) in row.windows(2).zip(&two) {
            if let [diagonal, above] = pair {
                let replaced = diagonal + usize::from(letter != *other);
                left = replaced.min(above + 1).min(left + 1);
                next.push(left);
            }
        }
        row = next;
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_names_are_found() {
        for (one, two, letters) in [("", "", 0), ("a", "", 1), ("nginx", "ngnix", 2), ("base", "bases", 1)] {
            assert_eq!(distance(one, two), letters, "{one} {two}");
        }
        let names = || ["ops-nginx", "website-nginx", "base:12"].map(str::to_owned).into_iter();
        assert_eq!(near("ops-ngin", names()), Some("ops-nginx".to_owned()));
        assert_eq!(near("base", names()), Some("base:12".to_owned()));
        assert_eq!(near("quite-else", names()), None);
    }
}
