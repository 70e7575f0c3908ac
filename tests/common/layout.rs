//! An OCI archive whose parts can be changed before it is written.

use std::collections::BTreeMap;

use plywood_store::Digest;
use serde_json::{Value, json};

use super::tars::files_tar;

/// The parts of an OCI layout, to be changed and written as a tar.
pub struct Layout {
    /// Beside what is written of the image, or instead.
    pub files: BTreeMap<String, Vec<u8>>,
    pub layers: Vec<Vec<u8>>,
    pub config: Value,
    pub manifest: Value,
}

impl Layout {
    /// An image of these layers, base first.
    pub fn of(layers: &[Vec<u8>]) -> Self {
        let layers = layers.to_vec();
        let diff_ids: Vec<String> = layers.iter().map(|tar| Digest::of(tar).to_string()).collect();
        let config = json!({"architecture": plywood::image::oci::architecture(), "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": diff_ids}});
        let blob = |kind: &str, bytes: &[u8]| json!({"mediaType": format!("application/vnd.oci.image.{kind}"), "digest": Digest::of(bytes).to_string(), "size": bytes.len()});
        let manifest = json!({"schemaVersion": 2, "config": blob("config.v1+json", config.to_string().as_bytes()), "layers": layers.iter().map(|tar| blob("layer.v1.tar", tar)).collect::<Vec<_>>()});
        Self {
            files: BTreeMap::new(),
            layers,
            config,
            manifest,
        }
    }

    /// Writes config and manifest as they are now; the manifest's own descriptor of the config too, unless `keep`.
    pub fn tar(mut self, keep_config: bool) -> Vec<u8> {
        let config = self.config.to_string().into_bytes();
        if !keep_config {
            self.manifest["config"]["digest"] = json!(Digest::of(&config).to_string());
            self.manifest["config"]["size"] = json!(config.len());
        }
        let manifest = self.manifest.to_string().into_bytes();
        let index = json!({"schemaVersion": 2, "manifests": [{"mediaType": plywood::image::oci::MANIFEST, "digest": Digest::of(&manifest).to_string(), "size": manifest.len()}]});
        let mut files = BTreeMap::from([
            ("oci-layout".to_owned(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()),
            ("index.json".to_owned(), index.to_string().into_bytes()),
        ]);
        for bytes in self.layers.iter().chain([&config, &manifest]) {
            files.insert(format!("blobs/sha256/{}", Digest::of(bytes).hex()), bytes.clone());
        }
        files.extend(self.files);
        files_tar(files.iter().map(|(name, content)| (name.as_str(), content.as_slice())))
    }
}
