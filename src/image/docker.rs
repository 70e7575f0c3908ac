//! Reads a docker-archive: `manifest.json`, configs, layers, as `docker save` and skopeo write them.
//!
//! ```json
//! [{"Config": "<hex>.json", "RepoTags": ["name:tag"], "Layers": ["<hex>.tar", "<id>/layer.tar"]}]
//! ```
//!
//! A config names its layers by DiffID, so their content is verified by that;
//! a config's own digest is in its file's name.

use plywood_store::Digest;
use serde::Deserialize;

use super::foreign::{Foreign, ForeignLayer, Images, diff_ids_of, own_name};
use super::json;
use super::oci::{DOCUMENT_MAX, LAYERS_MAX};
use super::source::Parts;
use crate::error::{Error, Result};

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Option<Vec<String>>,
}

/// Reads every image of the archive.
pub(super) fn read(parts: &Parts) -> Result<Vec<Foreign>> {
    let manifest = parts.read("manifest.json", DOCUMENT_MAX)?.unwrap_or_default();
    let entries: Vec<Entry> = json::read(&manifest, &["Config", "RepoTags", "Layers"])
        .and_then(serde_json::from_value)
        .map_err(|cause| Error::invalid("manifest.json is not a docker-archive's").caused_by(cause))?;
    if entries.is_empty() {
        return Err(Error::invalid("the docker-archive holds no image"));
    }
    let mut images = Images::default();
    entries
        .into_iter()
        .try_for_each(|entry| images.add(image(parts, entry)?))?;
    Ok(images.all())
}

fn image(parts: &Parts, entry: Entry) -> Result<Foreign> {
    let files = entry.layers.unwrap_or_default();
    if files.len() > LAYERS_MAX {
        return Err(Error::invalid(format!(
            "manifest.json lists {} layers; an image has at most {LAYERS_MAX}",
            files.len()
        )));
    }
    let config = parts.read(&entry.config, DOCUMENT_MAX)?.ok_or_else(|| {
        Error::not_found(format!("the image config {} is not in the archive", entry.config))
            .hinted("the archive is not whole: save it again")
    })?;
    let found = Digest::of(&config);
    if let Some(promised) = digest_in(&entry.config).filter(|promised| *promised != found) {
        return Err(Error::corrupt(format!("the image config {promised} came as {found}"))
            .hinted("the archive is damaged: fetch or save it again"));
    }
    let diff_ids = diff_ids_of(&config, files.len())?;
    let names = entry
        .repo_tags
        .unwrap_or_default()
        .iter()
        .map(|name| own_name(name))
        .collect::<Result<Vec<_>>>()?;
    let layers = files
        .into_iter()
        .map(|file| ForeignLayer { file, blob: None })
        .collect();
    Ok(Foreign {
        config,
        diff_ids,
        digest: found,
        manifest: None,
        layers,
        names,
    })
}

/// The digest that a file's name promises.
fn digest_in(file: &str) -> Option<Digest> {
    let name = file.rsplit('/').next()?;
    format!("sha256:{}", name.trim_end_matches(".json")).parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_names_promise_digests() {
        let hex = Digest::of(b"x").hex();
        for name in [format!("{hex}.json"), format!("blobs/sha256/{hex}"), hex.clone()] {
            assert_eq!(digest_in(&name), Some(Digest::of(b"x")), "{name}");
        }
        assert_eq!(digest_in("config.json"), None);
    }
}
