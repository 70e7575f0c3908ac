//! The OCI image documents as types: config, manifest, index.
//!
//! What comes from outside is capped ([`DOCUMENT_MAX`], [`LAYERS_MAX`]) and
//! checked before anyone relies on it; a document that could be read as two
//! kinds is refused. A config keeps the fields that plywood does not know
//! (`Healthcheck`, `Shell`, …), so that committing onto an image loses nothing;
//! that is why these are types of our own. What plywood writes has its keys
//! sorted and no white space: same content, same bytes, same digest.
//!
//! Formats: OCI image specification 1.1, `config.md`, `manifest.md`,
//! `image-index.md`; Docker's schema 2 manifest, which has the same shape.

mod config;
mod document;
mod index;
mod manifest;

use plywood_store::Store;
use plywood_store::record::ImageRecord;

pub use self::config::{History, ImageConfig, RootFs, RunConfig};
pub(crate) use self::document::to_bytes;
pub use self::index::{Index, IndexEntry, Platform};
pub use self::manifest::Manifest;
use crate::error::{Error, Result};

/// Bytes that a config, manifest or index may have.
pub const DOCUMENT_MAX: u64 = 4 << 20;
/// Layers that an image may have.
pub const LAYERS_MAX: usize = 1000;

/// Media type of an OCI config.
pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// Media type of an OCI manifest.
pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// Media type of an OCI index.
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";

/// Reads a stored image's config.
///
/// # Errors
/// Not found or corrupt where the blob is missing or damaged.
pub fn read_config(store: &Store, image: &ImageRecord) -> Result<ImageConfig> {
    ImageConfig::parse(&store.blobs.read(&image.config.digest, DOCUMENT_MAX)?)
}

/// Reads a stored image's manifest.
///
/// # Errors
/// Not found or corrupt where the blob is missing or damaged.
pub fn read_manifest(store: &Store, image: &ImageRecord) -> Result<Manifest> {
    Manifest::parse(
        &store.blobs.read(&image.manifest.digest, DOCUMENT_MAX)?,
        &image.manifest.media_type,
    )
}

/// This machine's processor in Go's words, as OCI wants them.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "x86" => "386",
        "aarch64" => "arm64",
        "powerpc64" if cfg!(target_endian = "little") => "ppc64le",
        "loongarch64" => "loong64",
        same => same,
    }
}

/// `SOURCE_DATE_EPOCH`, where it is set: seconds since 1970.
///
/// # Errors
/// Invalid where it is not a number.
pub fn source_date_epoch() -> Result<Option<i64>> {
    let Some(text) = std::env::var_os("SOURCE_DATE_EPOCH").filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    let seconds = text.to_str().and_then(|text| text.parse().ok());
    seconds.map(Some).ok_or_else(|| {
        Error::invalid(format!(
            "SOURCE_DATE_EPOCH is {text:?}, not a number of seconds since 1970"
        ))
    })
}

/// The date for a config that is made now: RFC 3339, `SOURCE_DATE_EPOCH` where that is set.
///
/// # Errors
/// Invalid where `SOURCE_DATE_EPOCH` is no date.
pub fn created_now() -> Result<String> {
    let when = match source_date_epoch()? {
        Some(seconds) => jiff::Timestamp::from_second(seconds).map_err(|cause| {
            Error::invalid(format!("SOURCE_DATE_EPOCH is {seconds}, which is no date")).caused_by(cause)
        })?,
        None => jiff::Timestamp::now(),
    };
    Ok(when.to_string())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::manifest::LAYERS;
    use super::*;

    const DIGEST: &str = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    fn manifest(extra: &str) -> String {
        format!(
            r#"{{"schemaVersion":2,"config":{{"mediaType":"{CONFIG}","digest":"{DIGEST}","size":3}},"layers":[{{"mediaType":"{}","digest":"{DIGEST}","size":3}}]{extra}}}"#,
            LAYERS[0]
        )
    }

    #[test]
    fn a_config_keeps_what_it_does_not_know() {
        let text = format!(
            r#"{{"architecture":"amd64","config":{{"Cmd":["sh"],"Healthcheck":{{"Test":["NONE"]}}}},"moby.buildkit.cache.v0":"x","os":"linux","os.features":["y"],"rootfs":{{"diff_ids":["{DIGEST}"],"type":"layers"}}}}"#
        );
        let config = ImageConfig::parse(text.as_bytes()).unwrap();
        assert_eq!(String::from_utf8(config.to_bytes().unwrap()).unwrap(), text);
    }

    #[test]
    fn a_number_that_is_not_ours_stays_the_same_however_often_it_is_written() {
        let text = format!(r#"{{"rootfs":{{"type":"layers","diff_ids":["{DIGEST}"]}},"x":-24e23}}"#);
        let once = ImageConfig::parse(text.as_bytes()).unwrap().to_bytes().unwrap();
        let twice = ImageConfig::parse(&once).unwrap().to_bytes().unwrap();
        assert_eq!(String::from_utf8(twice).unwrap(), String::from_utf8(once).unwrap());
    }

    #[test]
    fn null_is_unset_as_docker_writes_it() {
        let text = r#"{"architecture":"amd64","os":"linux","config":{"Cmd":null,"Env":null,"Labels":null,"Volumes":null,"User":null,"ExposedPorts":null},"rootfs":{"type":"layers","diff_ids":null},"history":null,"author":null}"#;
        let config = ImageConfig::parse(text.as_bytes()).unwrap();
        assert_eq!(config.config, RunConfig::default());
        assert!(config.history.is_empty());
    }

    #[test]
    fn documents_round_trip() {
        let parsed = Manifest::parse(manifest("").as_bytes(), MANIFEST).unwrap();
        assert_eq!(Manifest::parse(&parsed.to_bytes().unwrap(), MANIFEST).unwrap(), parsed);
        let index = Index {
            manifests: vec![IndexEntry {
                blob: parsed.config.clone(),
                platform: Some(Platform {
                    architecture: "arm64".into(),
                    os: "linux".into(),
                    variant: Some("v8".into()),
                }),
                annotations: BTreeMap::from([("a".into(), "b".into())]),
            }],
        };
        assert_eq!(Index::parse(&index.to_bytes().unwrap(), INDEX).unwrap(), index);
    }

    #[test]
    fn u20_digests_that_are_paths_are_refused() {
        for bad in [
            "sha256:../../etc/passwd",
            "sha512:00",
            "sha256:BA7816BF8F01CFEA414140DE5DAE2223B00361A396177A9CB410FF61F20015AD",
            "../x",
            "",
        ] {
            assert!(
                Manifest::parse(manifest("").replace(DIGEST, bad).as_bytes(), MANIFEST).is_err(),
                "{bad}"
            );
            let config =
                format!(r#"{{"architecture":"amd64","os":"linux","rootfs":{{"type":"layers","diff_ids":["{bad}"]}}}}"#);
            assert!(ImageConfig::parse(config.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn u22_a_document_of_two_kinds_is_refused() {
        for (extra, media_type) in [
            (r#","manifests":[]"#, MANIFEST),
            (r#","fsLayers":[]"#, MANIFEST),
            (&*format!(r#","mediaType":"{INDEX}""#), MANIFEST),
            (r#","mediaType":7"#, MANIFEST),
        ] {
            assert!(
                Manifest::parse(manifest(extra).as_bytes(), media_type).is_err(),
                "{extra}"
            );
        }
        let both = format!(
            r#"{{"schemaVersion":2,"manifests":[],"config":{{"mediaType":"{CONFIG}","digest":"{DIGEST}","size":3}},"layers":[]}}"#
        );
        assert!(Index::parse(both.as_bytes(), INDEX).is_err());
        assert!(Manifest::parse(both.as_bytes(), MANIFEST).is_err());
        for bad in [
            r#"{"schemaVersion":1}"#,
            "[]",
            "",
            "null",
            r#"{"schemaVersion":2,"layers":[]}"#,
        ] {
            assert!(Manifest::parse(bad.as_bytes(), MANIFEST).is_err(), "{bad}");
        }
        let no_media_type = manifest("").replace(&format!(r#""mediaType":"{}","#, LAYERS[0]), "");
        assert!(Manifest::parse(no_media_type.as_bytes(), MANIFEST).is_err());
        let artifact = manifest("").replace(CONFIG, "application/vnd.cncf.helm.config.v1+json");
        assert!(Manifest::parse(artifact.as_bytes(), MANIFEST).is_err());
    }

    #[test]
    fn u23_huge_documents_are_refused() {
        let padded = format!("{}{}", manifest(""), " ".repeat(usize::try_from(DOCUMENT_MAX).unwrap()));
        assert!(Manifest::parse(padded.as_bytes(), MANIFEST).is_err());
        let deep = format!(
            r#"{{"schemaVersion":2,"x":{}{}}}"#,
            "[".repeat(100_000),
            "]".repeat(100_000)
        );
        assert!(Manifest::parse(deep.as_bytes(), MANIFEST).is_err());
        let ids = vec![format!("{DIGEST:?}"); LAYERS_MAX + 1].join(",");
        let many =
            format!(r#"{{"architecture":"amd64","os":"linux","rootfs":{{"type":"layers","diff_ids":[{ids}]}}}}"#);
        assert!(
            ImageConfig::parse(many.as_bytes())
                .unwrap_err()
                .to_string()
                .contains("1001 layers")
        );
    }
}
