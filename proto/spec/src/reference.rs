//! What `image.registry.url` may say.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::model::ImageSource;

/// Where an image is to be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageUrl {
    /// A registry reference, as it was written: `alpine:3.21`, `localhost:5000/base@sha256:…`.
    Registry(String),
    /// `oci:DIR[:TAG]`
    OciLayout { dir: PathBuf, tag: Option<String> },
    /// `docker-archive:FILE`
    DockerArchive { file: PathBuf },
}

pub(crate) const ALLOWED: &str =
    "an image reference such as docker.io/library/debian:12, oci:DIR[:TAG] or docker-archive:FILE";

/// Not an image url.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not {ALLOWED}")]
pub struct ImageUrlError;

impl FromStr for ImageUrl {
    type Err = ImageUrlError;

    fn from_str(text: &str) -> Result<Self, ImageUrlError> {
        if text.chars().any(char::is_control) {
            return Err(ImageUrlError);
        }
        if let Some(rest) = text.strip_prefix("oci:") {
            let name = rest.rfind('/').map_or(0, |slash| slash + 1);
            let (dir, tag) = match rest[name..].rfind(':') {
                Some(colon) => (&rest[..name + colon], Some(&rest[name + colon + 1..])),
                None => (rest, None),
            };
            if dir.is_empty() || tag.is_some_and(|tag| !is_tag(tag)) {
                return Err(ImageUrlError);
            }
            return Ok(Self::OciLayout { dir: dir.into(), tag: tag.map(str::to_string) });
        }
        if let Some(file) = text.strip_prefix("docker-archive:") {
            return if file.is_empty() {
                Err(ImageUrlError)
            } else {
                Ok(Self::DockerArchive { file: file.into() })
            };
        }
        if is_reference(text) { Ok(Self::Registry(text.to_string())) } else { Err(ImageUrlError) }
    }
}

impl fmt::Display for ImageUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Registry(reference) => f.write_str(reference),
            Self::OciLayout { dir, tag: Some(tag) } => write!(f, "oci:{}:{tag}", dir.display()),
            Self::OciLayout { dir, tag: None } => write!(f, "oci:{}", dir.display()),
            Self::DockerArchive { file } => write!(f, "docker-archive:{}", file.display()),
        }
    }
}

/// Makes the path of a local image absolute, as a node needs it: people mean it relative to `base`, which is where
/// their file lies or where they are.
pub fn absolute_image(image: &mut ImageSource, base: &Path) {
    let ImageSource::Registry(image) = image else { return };
    let absolute = match image.url.parse() {
        Ok(ImageUrl::OciLayout { dir, tag }) => ImageUrl::OciLayout { dir: join(base, &dir), tag },
        Ok(ImageUrl::DockerArchive { file }) => ImageUrl::DockerArchive { file: join(base, &file) },
        Ok(ImageUrl::Registry(_)) | Err(ImageUrlError) => return,
    };
    image.url = absolute.to_string();
}

fn join(base: &Path, path: &Path) -> PathBuf {
    // Through components, so that "./" disappears.
    base.join(path).components().collect()
}

/// `[HOST[:PORT]/]PATH[:TAG][@DIGEST]`
fn is_reference(text: &str) -> bool {
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest)),
        None => (text, None),
    };
    let name = rest.rfind('/').map_or(0, |slash| slash + 1);
    let (path, tag) = match rest[name..].find(':') {
        Some(colon) => (&rest[..name + colon], Some(&rest[name + colon + 1..])),
        None => (rest, None),
    };
    let path = match path.split_once('/') {
        Some((first, others)) if is_host_like(first) => {
            if !crate::validate::is_host_port(first) {
                return false;
            }
            others
        }
        _ => path,
    };
    digest.is_none_or(is_digest) && tag.is_none_or(is_tag) && path.split('/').all(is_component)
}

fn is_host_like(first: &str) -> bool {
    first == "localhost" || first.contains(['.', ':', '['])
}

fn is_tag(tag: &str) -> bool {
    (1..=128).contains(&tag.len())
        && !tag.starts_with(['.', '-'])
        && tag.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'))
}

fn is_digest(digest: &str) -> bool {
    let hex = |text: &str, len| text.len() == len && text.chars().all(|c| matches!(c, '0'..='9' | 'a'..='f'));
    match digest.split_once(':') {
        Some(("sha256", text)) => hex(text, 64),
        Some(("sha512", text)) => hex(text, 128),
        _ => false,
    }
}

/// Runs of lower-case letters and digits with `.`, `_`, `__` or dashes between them.
fn is_component(text: &str) -> bool {
    let separators = |run: &str| matches!(run, "." | "_" | "__") || run.chars().all(|c| c == '-');
    let word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    text.starts_with(word)
        && text.ends_with(word)
        && text.split(word).filter(|run| !run.is_empty()).all(separators)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::model::RegistryImage;

    #[test]
    fn references_are_told_from_other_text() {
        let digest = format!("base@sha256:{}", "0a".repeat(32));
        for good in [
            "alpine",
            "alpine:3.21",
            "docker.io/library/python:3.12-bookworm",
            "localhost:5000/base",
            "localhost/base",
            "127.0.0.1:5000/a/b/c:latest",
            "[::1]:5000/base:1",
            "a__b/c-d--e/f.g:Tag_1",
            &digest,
            &format!("registry.example.org/x:1@{}", &digest[5..]),
        ] {
            assert_eq!(good.parse::<ImageUrl>().unwrap(), ImageUrl::Registry(good.into()));
        }
        for bad in [
            "",
            " alpine",
            "Alpine",
            "alpine:",
            "alpine:-x",
            "a//b",
            "/a",
            "a/",
            "https://example.org/x",
            "docker://alpine",
            "a..b",
            "a___b",
            "-a",
            "a@sha256:00",
            "a@md5:00",
            "a:1:2",
            "localhost:99999/x",
            "localhost:0/x",
            "exa mple.org/x",
            "user@example.org/x",
            "a\nb",
            "file:/etc/passwd",
            "..",
            "../x",
            "a\0",
            "ex_ample.org:5000/x",
        ] {
            assert!(bad.parse::<ImageUrl>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn layouts_and_archives_have_paths() {
        let layout =
            |dir: &str, tag: Option<&str>| ImageUrl::OciLayout { dir: dir.into(), tag: tag.map(Into::into) };
        assert_eq!("oci:/srv/base".parse(), Ok(layout("/srv/base", None)));
        assert_eq!("oci:/srv/base:v1".parse(), Ok(layout("/srv/base", Some("v1"))));
        assert_eq!("oci:/srv/a:b/base".parse(), Ok(layout("/srv/a:b/base", None)));
        let file = ImageUrl::DockerArchive { file: "/srv/image.tar".into() };
        assert_eq!("docker-archive:/srv/image.tar".parse(), Ok(file));
        for bad in ["oci:", "oci::x", "oci:/srv/base:", "docker-archive:", "oci:/a\nb"] {
            assert!(bad.parse::<ImageUrl>().is_err(), "{bad:?}");
        }
    }
    #[test]
    fn local_images_become_absolute() {
        for (url, expected) in [
            ("oci:./build/layout:v1", "oci:/home/me/build/layout:v1"),
            ("oci:/srv/base", "oci:/srv/base"),
            ("docker-archive:a.tar", "docker-archive:/home/me/a.tar"),
            ("alpine:3.21", "alpine:3.21"),
            ("oci:${{ vars.X }}:", "oci:${{ vars.X }}:"),
        ] {
            let mut image = ImageSource::Registry(RegistryImage { url: url.into(), authentication: None });
            absolute_image(&mut image, Path::new("/home/me"));
            let ImageSource::Registry(image) = image else { panic!("no registry") };
            assert_eq!(image.url, expected);
        }
    }
}
