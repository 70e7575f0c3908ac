//! From what a person types to a record: names, ids, unique id prefixes.
//!
//! An image's name is a key and an id is a file name, so neither needs a search:
//! what a person names exactly costs one file. What must be searched for (a
//! container's name, what stands on a layer) the index finds where there are
//! many records; where there are few, or the index cannot be had, they are read.

use crate::index::{self, Index};
use crate::record::{ContainerRecord, ImageRecord, LayerRecord, Record, Records, Relation, SnapshotRecord, name_key};
use crate::{ChainId, Error, ImageId, Reference, Result, Store};

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
    if let Some(found) = container_by_name(store, text)? {
        return Ok(found);
    }
    let key = match by_id(text) {
        Some(ById::Whole(hex)) => Some(hex),
        Some(ById::Prefix(hex)) => unique(&store.containers.keys()?, &hex, "container id")?,
        None => None,
    };
    if let Some(key) = key
        && let Some(container) = store.containers.get(&key)?
    {
        return Ok(container);
    }
    let names = store.containers.list().unwrap_or_default();
    let names = names.into_iter().map(|container| container.name);
    let error = Error::not_found(format!("no container {text}"));
    Err(match near(text, names) {
        Some(near) => error.hinted(format!("there is {near}")),
        None => error.hinted("`plywood ps -a` lists what there is"),
    })
}

fn container_by_name(store: &Store, name: &str) -> Result<Option<ContainerRecord>> {
    let found = users(store, &store.containers, Relation::Named, name)?;
    Ok(found.into_iter().find(|container| container.name == name))
}

/// The records of one kind that stand in `relation` to `target`: from the index
/// where reading them all would take longer, or else by reading them all.
fn users<T: Record>(store: &Store, records: &Records<T>, relation: Relation, target: &str) -> Result<Vec<T>> {
    let fits = |record: &T| {
        let mut links = record.links().into_iter();
        links.any(|link| link.relation == relation && link.target == target)
    };
    if records.lasting_keys()?.len() >= index::WORTH_IT {
        match ask_index(store, records, relation, target) {
            // Each answer was read as a record: one that does not fit shows an index that errs.
            Ok(mut found) if found.iter().all(fits) => {
                for key in records.passing_keys()? {
                    found.extend(records.get(&key)?.filter(fits));
                }
                return Ok(found);
            }
            Ok(_) => tracing::warn!("the index errs: `plywood check --rebuild` makes it again"),
            Err(error) => tracing::debug!("reading all records, for {error}"),
        }
    }
    let mut all = records.list()?;
    all.retain(fits);
    Ok(all)
}

fn ask_index<T: Record>(store: &Store, records: &Records<T>, relation: Relation, target: &str) -> Result<Vec<T>> {
    let users = Index::open(store)?.users(relation, target)?;
    let mut found = Vec::new();
    for (folder, key) in users {
        if folder == T::FOLDER {
            found.extend(records.get(&key)?);
        }
    }
    Ok(found)
}

pub(crate) fn names_of(store: &Store, image: &ImageId) -> Result<Vec<Reference>> {
    let names = users(store, &store.names, Relation::Image, &image.0.hex())?;
    let mut names: Vec<Reference> = names.into_iter().map(|record| record.name).collect();
    names.sort_unstable();
    Ok(names)
}

/// What stands directly on a layer.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct LayerUsers {
    /// Layers whose parent it is.
    pub layers: Vec<LayerRecord>,
    /// Images whose top layer it is.
    pub images: Vec<ImageRecord>,
    /// Snapshots over it.
    pub snapshots: Vec<SnapshotRecord>,
}

impl LayerUsers {
    /// Whether nothing stands on it.
    pub fn is_empty(&self) -> bool {
        self.layers.is_empty() && self.images.is_empty() && self.snapshots.is_empty()
    }
}

impl Store {
    /// The image that a name, an id or a unique id prefix of 6 or more digits stands for.
    ///
    /// # Errors
    /// Not found, with near names in the hint; invalid for an ambiguous prefix.
    pub fn find_image(&self, text: &str) -> Result<ImageRecord> {
        image(self, text)
    }

    /// The container of a name, an id or a unique id prefix.
    ///
    /// # Errors
    /// As for [`Store::find_image`].
    pub fn find_container(&self, text: &str) -> Result<ContainerRecord> {
        container(self, text)
    }

    /// The names of an image, sorted.
    ///
    /// # Errors
    /// A damaged record; I/O.
    pub fn names_of(&self, image: &ImageId) -> Result<Vec<Reference>> {
        names_of(self, image)
    }

    /// The containers that were made from an image.
    ///
    /// # Errors
    /// A damaged record; I/O.
    pub fn containers_of(&self, image: &ImageId) -> Result<Vec<ContainerRecord>> {
        users(self, &self.containers, Relation::Image, &image.0.hex())
    }

    /// What stands directly on a layer. Images that stand on it through other
    /// layers are found through these.
    ///
    /// # Errors
    /// A damaged record; I/O.
    pub fn users_of_layer(&self, layer: &ChainId) -> Result<LayerUsers> {
        let hex = layer.0.hex();
        Ok(LayerUsers {
            layers: users(self, &self.layers, Relation::StandsOn, &hex)?,
            images: users(self, &self.images, Relation::StandsOn, &hex)?,
            snapshots: users(self, &self.snapshots, Relation::StandsOn, &hex)?,
        })
    }
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
    use crate::Kind;
    use crate::fixture::{fixture, unname};
    use crate::record::NameRecord;

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

    #[test]
    fn an_image_is_found_by_all_that_it_is_called() {
        let it = fixture();
        let (id, manifest) = (it.image.id, it.image.manifest.digest);
        let hex = id.0.hex();
        for text in [
            "base",
            "base:latest",
            &format!("base@{manifest}"),
            &id.to_string(),
            &hex,
            &hex[..6],
            &format!("sha256:{}", &hex[..12]),
        ] {
            assert_eq!(it.store.find_image(text).unwrap().id, id, "{text}");
        }
        for (text, kind) in [
            ("base:12", Kind::NotFound),
            (&format!("base@{id}"), Kind::NotFound),
            (&hex[..5], Kind::NotFound),
            (&"0".repeat(64), Kind::NotFound),
            ("../../etc/passwd", Kind::Invalid),
            ("", Kind::Invalid),
        ] {
            assert_eq!(it.store.find_image(text).unwrap_err().kind(), kind, "{text:?}");
        }
        let error = it.store.find_image("bass").unwrap_err();
        assert_eq!(error.hint(), Some("there is base"));
    }

    #[test]
    fn a_name_that_looks_like_an_id_is_a_name() {
        let it = fixture();
        let lock = it.store.exclusive().unwrap();
        let other = it.top.diff_id.0;
        let mut image = it.image.clone();
        image.id = ImageId(other);
        image.config.digest = other;
        it.store.images.put(&lock, &image).unwrap();
        let name = NameRecord {
            name: it.image.id.0.hex()[..12].parse().unwrap(),
            image: image.id,
        };
        it.store.names.put(&lock, &name).unwrap();
        let typed = name.name.repository();
        assert_eq!(it.store.find_image(typed).unwrap().id, image.id);
        assert_eq!(it.store.find_image(&format!("sha256:{typed}")).unwrap().id, it.image.id);
    }

    #[test]
    fn a_prefix_must_be_unique() {
        let keys = ["abcdef01", "abcdef02", "abc00000"].map(str::to_owned);
        let found = |prefix: &str| unique(&keys, prefix, "image id").map_err(|error| error.kind());
        assert_eq!(found("abc000"), Ok(Some("abc00000".to_owned())));
        assert_eq!(found("abcdef"), Err(Kind::Invalid));
        assert_eq!(found("ffffff"), Ok(None));
    }

    #[test]
    fn what_stands_on_a_layer_is_known() {
        let it = fixture();
        let on_base = it.store.users_of_layer(&it.base.chain_id).unwrap();
        assert_eq!(on_base.layers, std::slice::from_ref(&it.top));
        assert!(on_base.images.is_empty() && on_base.snapshots.is_empty());
        let on_top = it.store.users_of_layer(&it.top.chain_id).unwrap();
        assert_eq!(on_top.images, std::slice::from_ref(&it.image));
        assert!(it.store.users_of_layer(&ChainId(it.image.id.0)).unwrap().is_empty());
        assert_eq!(it.store.names_of(&it.image.id).unwrap().len(), 1);
        unname(&it.store);
        assert!(it.store.names_of(&it.image.id).unwrap().is_empty());
    }
}
