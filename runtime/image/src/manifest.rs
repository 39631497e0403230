//! Reading manifests, indexes and configurations. Pure; what comes in is bounded by the caller.

use oci_spec::image::{Descriptor, ImageConfiguration, ImageIndex, ImageManifest};

use crate::digest::Digest;

pub(crate) const ACCEPT: &[&str] = &[
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.distribution.manifest.v2+json",
];

#[derive(Debug)]
pub(crate) enum Document {
    Manifest(Manifest),
    Index(Vec<Descriptor>),
}

#[derive(Debug)]
pub(crate) struct Manifest {
    pub config: Blob,
    /// Bottom first.
    pub layers: Vec<Blob>,
}

/// Content by digest. Archives have no digest of a layer's stored form, and name an offset instead.
#[derive(Debug, Clone)]
pub(crate) struct Blob {
    pub digest: Option<Digest>,
    pub size: u64,
    pub offset: u64,
}

pub(crate) fn parse(bytes: &[u8]) -> Result<Document, String> {
    let value: serde_json::Value =
        serde_json::from_slice(bytes).map_err(|e| format!("it is not JSON: {e}"))?;
    let has = |key: &str| value.get(key).is_some();
    if value.get("schemaVersion").and_then(serde_json::Value::as_u64) != Some(2) {
        return Err("its schemaVersion is not 2: push the image again with a current tool".into());
    }
    match (has("manifests"), has("layers") || has("config")) {
        // Two readers could see two different images in it.
        (true, true) => Err("it is a manifest and an index at the same time".into()),
        (true, false) => serde_json::from_slice::<ImageIndex>(bytes)
            .map(|index| Document::Index(index.manifests().clone()))
            .map_err(|e| format!("it is not a valid index: {e}")),
        (false, true) => {
            let manifest: ImageManifest =
                serde_json::from_slice(bytes).map_err(|e| format!("it is not a valid manifest: {e}"))?;
            let layers = manifest.layers().iter().map(layer_blob).collect::<Result<_, _>>()?;
            Ok(Document::Manifest(Manifest { config: blob(manifest.config())?, layers }))
        }
        (false, false) => Err("it is neither a manifest nor an index".into()),
    }
}

pub(crate) fn blob(descriptor: &Descriptor) -> Result<Blob, String> {
    Ok(Blob {
        digest: Some(Digest::parse(descriptor.digest().as_ref())?),
        size: descriptor.size(),
        offset: 0,
    })
}

fn layer_blob(descriptor: &Descriptor) -> Result<Blob, String> {
    let kind = descriptor.media_type().to_string();
    if kind.contains("encrypted") || !(kind.contains("tar") || kind.contains("layer")) {
        return Err(format!("a layer has the media type {kind:?}, which is not a file system layer"));
    }
    blob(descriptor)
}

/// This machine's platform in the words of images.
pub(crate) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "powerpc64" => "ppc64le",
        other => other,
    }
}

pub(crate) fn platform_name() -> String {
    format!("linux/{}", architecture())
}

/// The entry for this machine; else what there is. Entries without a variant come first.
pub(crate) fn choose(entries: &[Descriptor]) -> Result<&Descriptor, String> {
    let fits = |entry: &&Descriptor| {
        entry.platform().as_ref().is_some_and(|platform| {
            platform.os().to_string() == "linux" && platform.architecture().to_string() == architecture()
        })
    };
    let plain = |entry: &&&Descriptor| {
        entry.platform().as_ref().is_some_and(|p| matches!(p.variant().as_deref(), None | Some("v8" | "v1")))
    };
    let fitting: Vec<&Descriptor> = entries.iter().filter(fits).collect();
    if let Some(found) = fitting.iter().find(plain).or(fitting.first()) {
        return Ok(found);
    }
    if let [only] = entries
        && only.platform().is_none()
    {
        return Ok(only);
    }
    let names: Vec<String> = entries
        .iter()
        .filter_map(|entry| entry.platform().as_ref())
        .map(|p| format!("{}/{}", p.os(), p.architecture()))
        .take(20)
        .collect();
    Err(if names.is_empty() { "no platform at all".into() } else { names.join(", ") })
}

/// The configuration and the diff ids, which must be as many as there are layers.
pub(crate) fn parse_config(bytes: &[u8], layers: usize) -> Result<(ImageConfiguration, Vec<Digest>), String> {
    let config: ImageConfiguration =
        serde_json::from_slice(bytes).map_err(|e| format!("it is not an image configuration: {e}"))?;
    let (os, arch) = (config.os().to_string(), config.architecture().to_string());
    if os != "linux" || arch != architecture() {
        return Err(format!("it is for {os}/{arch}, this machine is {}", platform_name()));
    }
    let diff_ids = config.rootfs().diff_ids();
    if diff_ids.len() != layers {
        return Err(format!("it names {} layers, the manifest {layers}", diff_ids.len()));
    }
    let diff_ids = diff_ids.iter().map(|id| Digest::parse(id)).collect::<Result<Vec<_>, _>>()?;
    Ok((config, diff_ids))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn descriptor(extra: &str) -> String {
        let hex = "ab".repeat(32);
        format!(
            r#"{{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"sha256:{hex}","size":7{extra}}}"#
        )
    }

    #[test]
    fn manifests_indexes_and_neither() {
        let layer = descriptor("");
        let manifest = format!(r#"{{"schemaVersion":2,"config":{layer},"layers":[{layer},{layer}]}}"#);
        assert!(matches!(parse(manifest.as_bytes()), Ok(Document::Manifest(m)) if m.layers.len() == 2));
        let index = format!(r#"{{"schemaVersion":2,"manifests":[{layer}]}}"#);
        assert!(matches!(parse(index.as_bytes()), Ok(Document::Index(list)) if list.len() == 1));
        let both = format!(r#"{{"schemaVersion":2,"manifests":[],"config":{layer},"layers":[]}}"#);
        for bad in [both.as_str(), "{}", "[", r#"{"schemaVersion":1,"layers":[]}"#, r#"{"schemaVersion":2}"#]
        {
            assert!(parse(bad.as_bytes()).is_err(), "{bad}");
        }
        let escaping = manifest.replace(&"ab".repeat(32), "../../../../etc/passwd");
        assert!(parse(escaping.as_bytes()).is_err());
        let encrypted = manifest.replace("tar+gzip", "tar+gzip+encrypted");
        assert!(parse(encrypted.as_bytes()).unwrap_err().contains("encrypted"));
    }

    #[test]
    fn the_platform_is_chosen_or_the_others_are_told() {
        let entry = |os: &str, arch: &str| -> Descriptor {
            let platform = format!(r#","platform":{{"os":"{os}","architecture":"{arch}"}}"#);
            serde_json::from_str(&descriptor(&platform)).unwrap()
        };
        let list =
            [entry("windows", architecture()), entry("linux", "s390x"), entry("linux", architecture())];
        assert_eq!(choose(&list).unwrap(), &list[2]);
        assert!(choose(&list[..2]).unwrap_err().contains("linux/s390x"));
        let plain: Descriptor = serde_json::from_str(&descriptor("")).unwrap();
        assert!(choose(std::slice::from_ref(&plain)).is_ok());
        assert!(choose(&[]).is_err());
    }

    #[test]
    fn the_configuration_must_fit_the_manifest() {
        let config = format!(
            r#"{{"architecture":"{}","os":"linux","rootfs":{{"type":"layers","diff_ids":["sha256:{}"]}}}}"#,
            architecture(),
            "cd".repeat(32)
        );
        assert_eq!(parse_config(config.as_bytes(), 1).unwrap().1.len(), 1);
        assert!(parse_config(config.as_bytes(), 2).unwrap_err().contains("names 1 layers"));
        assert!(parse_config(config.replace("linux", "plan9").as_bytes(), 1).unwrap_err().contains("plan9"));
        assert!(parse_config(config.replace(&"cd".repeat(32), "x").as_bytes(), 1).is_err());
    }
}
