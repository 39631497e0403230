//! Image sources.

use super::{At, Stage, names, repository, text, url};
use crate::error::SpecError;
use crate::model::*;
use crate::reference::{self, ImageUrl};

pub(super) fn source(at: At<'_>, source: &ImageSource) -> Result<(), SpecError> {
    let at = at.field(source.kind());
    match source {
        ImageSource::Registry(image) => registry(at, image),
        ImageSource::Dockerfile(DockerfileImage::Inline(dockerfile)) => {
            text::block(at.field("inline"), dockerfile, 5000)
        }
        ImageSource::Dockerfile(DockerfileImage::Url(address)) => url::fetchable(at.field("url"), address),
        ImageSource::Git(git) => {
            url::fetchable(at.field("url"), &git.url)?;
            git.checkout.iter().try_for_each(|name| repository::revision(at.field("checkout"), name))?;
            git.dockerfile.iter().try_for_each(|path| text::relative_path(at.field("dockerfile"), path))?;
            git.context.iter().try_for_each(|path| text::relative_path(at.field("context"), path))
        }
        ImageSource::Repository(RepositoryImage::Devcontainer(build)) => {
            let at = at.field("devcontainer");
            build.dir_path.iter().try_for_each(|path| text::relative_path(at.field("dirPath"), path))
        }
        ImageSource::Repository(RepositoryImage::Dockerfile(build)) => {
            let at = at.field("dockerfile");
            build.path.iter().try_for_each(|path| text::relative_path(at.field("path"), path))?;
            build.context.iter().try_for_each(|path| text::relative_path(at.field("context"), path))
        }
    }
}

fn registry(at: At<'_>, image: &RegistryImage) -> Result<(), SpecError> {
    let here = at.field("url");
    text::line(here, &image.url, 256)?;
    if !here.is_open(&image.url) {
        let parsed: ImageUrl = image.url.parse().map_err(|_| here.was(&image.url, reference::ALLOWED))?;
        let path = match &parsed {
            ImageUrl::Registry(_) => None,
            ImageUrl::OciLayout { dir, .. } => Some(dir),
            ImageUrl::DockerArchive { file } => Some(file),
        };
        if let Some(path) = path {
            // As people write it the path may be relative to where they are; a node has no such place.
            if here.stage == Stage::Resolved && !path.is_absolute() {
                return Err(here.was(&image.url, "an absolute path on the node"));
            }
            if image.authentication.is_some() {
                return Err(at
                    .field("authentication")
                    .error("was set for a local image; allowed: only with a registry"));
            }
        }
    }
    let Some(authentication) = &image.authentication else { return Ok(()) };
    let at = at.field("authentication");
    text::line(at.field("username"), &authentication.username, 256)?;
    secret(at.field("password"), &authentication.password)
}

pub(super) fn secret(at: At<'_>, secret: &SecretRef) -> Result<(), SpecError> {
    names::dotted(at.field("fromSecret"), &secret.from_secret)
}
