//! The three ways to name an image: a registry reference, an OCI layout, a `docker save` archive.

use std::path::PathBuf;

use oci_client::Reference;

use crate::error::ImageError;

#[derive(Debug, Clone)]
pub(crate) enum ImageRef {
    Registry(Reference),
    Layout { dir: PathBuf, tag: Option<String> },
    Archive { file: PathBuf },
}

impl ImageRef {
    pub(crate) fn parse(text: &str) -> Result<Self, ImageError> {
        let bad =
            |reason: &str| ImageError::Reference { reference: text.to_owned(), reason: reason.to_owned() };
        if text.len() > 4096 || text.chars().any(char::is_control) {
            return Err(bad("it is too long or contains control characters"));
        }
        if let Some(rest) = text.strip_prefix("oci:") {
            let (dir, tag) = match rest.rsplit_once(':') {
                Some((dir, tag)) if !tag.contains('/') => (dir, Some(tag.to_owned())),
                _ => (rest, None),
            };
            if dir.is_empty() || tag.as_deref() == Some("") {
                return Err(bad("expected oci:DIR or oci:DIR:TAG"));
            }
            return Ok(Self::Layout { dir: dir.into(), tag });
        }
        if let Some(file) = text.strip_prefix("docker-archive:") {
            if file.is_empty() {
                return Err(bad("expected docker-archive:FILE"));
            }
            return Ok(Self::Archive { file: file.into() });
        }
        text.parse::<Reference>().map(Self::Registry).map_err(|e| bad(&e.to_string()))
    }

    /// The name under which the image is kept: the same image asked for in two spellings is one.
    pub(crate) fn canonical(&self) -> String {
        match self {
            Self::Registry(reference) => reference.whole(),
            Self::Layout { dir, tag: None } => format!("oci:{}", dir.display()),
            Self::Layout { dir, tag: Some(tag) } => format!("oci:{}:{tag}", dir.display()),
            Self::Archive { file } => format!("docker-archive:{}", file.display()),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn spellings() {
        for (text, canonical) in [
            ("alpine", "docker.io/library/alpine:latest"),
            ("docker.io/library/alpine:latest", "docker.io/library/alpine:latest"),
            ("127.0.0.1:5000/a/b:c", "127.0.0.1:5000/a/b:c"),
            ("oci:/tmp/x", "oci:/tmp/x"),
            ("oci:/tmp/x:y", "oci:/tmp/x:y"),
            ("docker-archive:/tmp/a:b.tar", "docker-archive:/tmp/a:b.tar"),
        ] {
            assert_eq!(ImageRef::parse(text).unwrap().canonical(), canonical);
        }
        for bad in
            ["", "example.com/UPPER", "a b", "oci:", "oci:/x:", "docker-archive:", "a\nb", "x@sha256:12"]
        {
            assert!(matches!(ImageRef::parse(bad), Err(ImageError::Reference { .. })), "{bad}");
        }
    }
}
