//! Images: OCI configs and manifests, import and export.
