//! A small store for tests: one image of two layers.

use crate::blob::Descriptor;
use crate::record::{ImageRecord, LayerRecord, NameRecord, Phase, Place};
use crate::{ChainId, DiffId, Driver, ImageId, Store};

/// A root with layers base <- top, an image of both named `base`, and nothing else.
pub(crate) struct Fixture {
    pub(crate) store: Store,
    pub(crate) base: LayerRecord,
    pub(crate) top: LayerRecord,
    pub(crate) image: ImageRecord,
    _folder: tempfile::TempDir,
}

pub(crate) fn blob(store: &Store, content: &[u8]) -> Descriptor {
    let stored = store.blobs.put(content).unwrap();
    Descriptor {
        media_type: "test".into(),
        digest: stored.digest,
        size: stored.size,
    }
}

pub(crate) fn layer(store: &Store, parent: Option<&LayerRecord>, content: &[u8]) -> LayerRecord {
    let blob = blob(store, content);
    let diff_id = DiffId(blob.digest);
    let parent = parent.map(|parent| parent.chain_id);
    LayerRecord {
        chain_id: ChainId::new(parent, diff_id),
        diff_id,
        parent,
        size: blob.size,
        blob,
        place: Place::Folder("x".into()),
        phase: Phase::Ready,
    }
}

pub(crate) fn fixture() -> Fixture {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::create(folder.path(), Driver::Overlay).unwrap();
    let base = layer(&store, None, b"base");
    let top = layer(&store, Some(&base), b"top");
    let config = blob(&store, b"{}");
    let other = blob(&store, b"the base layer, packed otherwise").digest;
    let manifest = format!("{{\"layers\":[{{\"digest\":\"{other}\"}}]}}");
    let image = ImageRecord {
        id: ImageId(config.digest),
        config,
        manifest: blob(&store, manifest.as_bytes()),
        layers: vec![base.chain_id, top.chain_id],
        created: None,
        stored_at: 0,
    };
    let name = NameRecord {
        name: "base".parse().unwrap(),
        image: image.id,
    };
    let lock = store.exclusive().unwrap();
    store.layers.put(&lock, &base).unwrap();
    store.layers.put(&lock, &top).unwrap();
    store.images.put(&lock, &image).unwrap();
    store.names.put(&lock, &name).unwrap();
    lock.done().unwrap();
    Fixture {
        store,
        base,
        top,
        image,
        _folder: folder,
    }
}

pub(crate) fn unname(store: &Store) {
    let lock = store.exclusive().unwrap();
    for key in store.names.keys().unwrap() {
        store.names.remove(&lock, &key).unwrap();
    }
    lock.done().unwrap();
}
