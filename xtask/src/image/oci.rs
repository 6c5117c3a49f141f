//! Images and archives of them, as the OCI image specification 1.1 has them: an image layout in a tar file, which
//! `ctr images import`, `podman load`, `docker load` and `skopeo copy oci-archive:` take.
//!
//! Layers are not compressed: their bits then depend on no compressor, and what pushes them compresses.

use anyhow::Result;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

use super::tar::Archive;

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// An image of one platform.
pub struct Image {
    /// Architecture in Go's words, which OCI uses.
    pub architecture: &'static str,
    /// The only layer: a tar archive.
    pub layer: Vec<u8>,
}

/// What all platforms of an image share.
pub struct Description {
    /// Full name with tag, as `ghcr.io/weir-mesh/weir-agent:0.1.0`.
    pub reference: String,
    /// What runs.
    pub entrypoint: String,
    /// `UID:GID`.
    pub user: &'static str,
    /// When it was made, as RFC 3339 has it.
    pub created: String,
    /// `org.opencontainers.image.*`.
    pub labels: BTreeMap<String, String>,
}

/// The archive of an image for one or more platforms.
pub fn archive(description: &Description, images: &[Image]) -> Result<Vec<u8>> {
    let mut blobs = Blobs::default();
    let manifests: Vec<Value> = images.iter().map(|image| manifest(description, image, &mut blobs)).collect();
    let index =
        json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests, "annotations": description.labels});
    let mut index = blobs.add(INDEX, text(&index));
    let tag = description.reference.rsplit_once(':').map_or("latest", |(_, tag)| tag);
    index["annotations"] = json!({
        // containerd goes by the first, others by the second.
        "io.containerd.image.name": description.reference,
        "org.opencontainers.image.ref.name": tag,
    });
    let root = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [index]});

    let mut archive = Archive::default();
    archive.file("oci-layout", 0o644, br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    archive.file("index.json", 0o644, &text(&root))?;
    archive.directory("blobs", 0o755)?;
    archive.directory("blobs/sha256", 0o755)?;
    for (name, content) in &blobs.0 {
        archive.file(&format!("blobs/sha256/{name}"), 0o644, content)?;
    }
    Ok(archive.finish())
}

/// Adds the blobs of one platform; its descriptor.
fn manifest(description: &Description, image: &Image, blobs: &mut Blobs) -> Value {
    let config = json!({
        "created": description.created,
        "architecture": image.architecture,
        "os": "linux",
        "config": {
            "User": description.user,
            "Env": ["PATH=/usr/bin"],
            "Entrypoint": [description.entrypoint],
            "WorkingDir": "/",
            "Labels": description.labels,
        },
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", sha256(&image.layer))]},
        "history": [{"created": description.created, "created_by": "cargo xtask image"}],
    });
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": blobs.add(CONFIG, text(&config)),
        "layers": [blobs.add(LAYER, image.layer.clone())],
        "annotations": description.labels,
    });
    let mut descriptor = blobs.add(MANIFEST, text(&manifest));
    descriptor["platform"] = json!({"architecture": image.architecture, "os": "linux"});
    descriptor
}

/// Contents by the SHA-256 that names them.
#[derive(Default)]
struct Blobs(BTreeMap<String, Vec<u8>>);

impl Blobs {
    /// Adds one; its descriptor.
    fn add(&mut self, media_type: &str, content: Vec<u8>) -> Value {
        let digest = sha256(&content);
        let descriptor = Map::from_iter([
            ("mediaType".to_owned(), json!(media_type)),
            ("digest".to_owned(), json!(format!("sha256:{digest}"))),
            ("size".to_owned(), json!(content.len())),
        ]);
        self.0.insert(digest, content);
        Value::Object(descriptor)
    }
}

fn sha256(content: &[u8]) -> String {
    Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn text(value: &Value) -> Vec<u8> {
    value.to_string().into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;
    use std::process::Command;

    fn sample() -> Vec<u8> {
        let description = Description {
            reference: "example.org/weir-agent:0.1.0".to_owned(),
            entrypoint: "/usr/bin/weir-agent".to_owned(),
            user: "65532:65532",
            created: "2026-01-02T03:04:05Z".to_owned(),
            labels: BTreeMap::from([("org.opencontainers.image.title".to_owned(), "weir-agent".to_owned())]),
        };
        let images =
            ["amd64", "arm64"].map(|architecture| Image { architecture, layer: architecture.as_bytes().to_vec() });
        archive(&description, &images).unwrap()
    }

    fn json_file(path: &Path) -> Value {
        serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
    }

    /// The blob that a descriptor names, proved to be of that size and digest.
    fn blob(layout: &Path, descriptor: &Value) -> Vec<u8> {
        let digest = descriptor["digest"].as_str().unwrap();
        let content = std::fs::read(layout.join("blobs").join(digest.replace(':', "/"))).unwrap();
        assert_eq!(descriptor["size"], content.len());
        assert_eq!(digest, format!("sha256:{}", sha256(&content)));
        content
    }

    #[test]
    fn every_blob_is_reached_from_the_index_and_is_what_its_descriptor_says() {
        let layout = tempfile::tempdir().unwrap();
        let path = layout.path().join("image.tar");
        std::fs::write(&path, sample()).unwrap();
        let status = Command::new("tar").arg("-xf").arg(&path).arg("-C").arg(layout.path()).status().unwrap();
        assert!(status.success());
        assert_eq!(json_file(&layout.path().join("oci-layout"))["imageLayoutVersion"], "1.0.0");

        let root = json_file(&layout.path().join("index.json"));
        let named = &root["manifests"][0];
        assert_eq!(named["annotations"]["io.containerd.image.name"], "example.org/weir-agent:0.1.0");
        assert_eq!(named["annotations"]["org.opencontainers.image.ref.name"], "0.1.0");
        let index: Value = serde_json::from_slice(&blob(layout.path(), named)).unwrap();
        let mut seen = 1;
        for descriptor in index["manifests"].as_array().unwrap() {
            let architecture = descriptor["platform"]["architecture"].as_str().unwrap();
            let manifest: Value = serde_json::from_slice(&blob(layout.path(), descriptor)).unwrap();
            let config: Value = serde_json::from_slice(&blob(layout.path(), &manifest["config"])).unwrap();
            let layer = blob(layout.path(), &manifest["layers"][0]);
            assert_eq!(config["architecture"], architecture);
            assert_eq!(layer, architecture.as_bytes());
            assert_eq!(config["rootfs"]["diff_ids"][0], manifest["layers"][0]["digest"]);
            assert_eq!(config["config"]["User"], "65532:65532");
            assert_eq!(config["config"]["Labels"]["org.opencontainers.image.title"], "weir-agent");
            seen += 3;
        }
        assert_eq!(std::fs::read_dir(layout.path().join("blobs/sha256")).unwrap().count(), seen);
    }

    #[test]
    fn the_same_image_is_the_same_bits() {
        assert_eq!(sample(), sample());
    }
}
