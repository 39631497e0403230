//! Repositories: addresses, revisions and where they are cloned to.

use super::{At, Stage, image, mounts, names, text, url};
use crate::error::SpecError;
use crate::model::*;

/// A Workspace's own draft may leave the url to its Template.
pub(super) fn primary(at: At<'_>, repository: &Repository, url_required: bool) -> Result<(), SpecError> {
    if !repository.url.is_empty() {
        url::fetchable(at.field("url"), &repository.url)?;
    } else if url_required || at.stage == Stage::Resolved {
        return Err(at.field("url").missing("an https:// (or http://) URL"));
    }
    let here = at.field("cloneOptions");
    let options = &repository.clone_options;
    options.branch.iter().try_for_each(|name| revision(here.field("branch"), name))?;
    options.checkout.iter().try_for_each(|name| revision(here.field("checkout"), name))?;
    let Some(authentication) = &repository.authentication else { return Ok(()) };
    let here = at.field("authentication");
    let here = here.field("http");
    text::line(here.field("username"), &authentication.http.username, 256)?;
    if authentication.http.username.contains(':') {
        return Err(here.field("username").was(&authentication.http.username, "a user name without ':'"));
    }
    image::secret(here.field("password"), &authentication.http.password)
}

pub(super) fn additional(at: At<'_>, repositories: &[AdditionalRepository]) -> Result<(), SpecError> {
    at.count(repositories.len(), 32)?;
    let mut paths: Vec<String> = Vec::new();
    for (index, entry) in repositories.iter().enumerate() {
        let at = at.index(index);
        names::label(at.field("name"), &entry.name)?;
        primary(at.field("repository"), &entry.repository, true)?;
        let Some(given) = &entry.clone_path else { continue };
        let here = at.field("clonePath");
        text::line(here, given, 256)?;
        let path = entry.path();
        let inside = path.strip_prefix("/workspace/").is_some_and(text::has_plain_parts);
        if !inside {
            return Err(here.was(given, "a path below /workspace, without '.' and '..'"));
        }
    }
    names::unique(at, "name", repositories.iter().map(|entry| entry.name.as_str()))?;
    for (index, entry) in repositories.iter().enumerate() {
        let path = entry.path();
        let taken = std::iter::once(Repository::PATH).chain(paths.iter().map(String::as_str));
        if let Some(other) = taken.into_iter().find(|other| mounts::overlap(&path, other)) {
            let allowed = format!("a path that does not overlap {other}");
            return Err(at.index(index).field("clonePath").was(&path, allowed));
        }
        paths.push(path);
    }
    Ok(())
}

/// A branch, tag or commit: what `git check-ref-format` allows, and never something that looks like an option.
pub(super) fn revision(at: At<'_>, name: &str) -> Result<(), SpecError> {
    text::line(at, name, 256)?;
    if at.is_open(name) {
        return Ok(());
    }
    let forbidden = |c: char| c.is_whitespace() || matches!(c, '~' | '^' | ':' | '?' | '*' | '[' | '\\');
    let sound = !name.starts_with(['-', '/'])
        && !name.ends_with(['/', '.'])
        && !name.contains("..")
        && !name.contains("//")
        && !name.contains("@{")
        && !name.contains(forbidden)
        && name.split('/').all(|part| !part.starts_with('.') && !part.ends_with(".lock"));
    if sound { Ok(()) } else { Err(at.was(name, "the name of a branch or tag, or a commit")) }
}
