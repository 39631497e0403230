//! How one repository is cloned, as data.

use std::path::{Component, Path, PathBuf};

use cordium_proto::v1::Repository;

use crate::git::url::{Access, UrlError, split};

const ALL_BRANCHES: &str = "+refs/heads/*:refs/remotes/origin/*";

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClonePlan {
    /// Empty for the primary repository.
    pub name: String,
    pub url: String,
    pub access: Option<Access>,
    pub path: PathBuf,
    pub branch: String,
    pub depth: Option<u32>,
    /// Fetch the rest of the history once the working tree is there.
    pub unshallow: bool,
    pub single_branch: bool,
    pub shallow_submodules: bool,
    pub checkout: String,
}

#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    #[error(transparent)]
    Url(#[from] UrlError),
    #[error("the path `{0}` of a repository must be absolute and below /workspace")]
    Path(String),
    #[error("`{0}` is not the name of a branch or commit")]
    Revision(String),
}

pub fn plan(repository: &Repository) -> Result<ClonePlan, PlanError> {
    let (url, access) = split(&repository.url, &repository.username, &repository.password)?;
    for revision in [&repository.branch, &repository.checkout] {
        let odd = |c: char| c.is_whitespace() || c.is_control() || c == ':';
        if revision.starts_with(['-', '+']) || revision.contains(odd) {
            return Err(PlanError::Revision(revision.clone()));
        }
    }
    let lazy = repository.depth == 0 && !repository.disable_unshallow;
    Ok(ClonePlan {
        name: repository.name.clone(),
        url,
        access,
        path: path(repository)?,
        branch: repository.branch.clone(),
        depth: if lazy { Some(1) } else { Some(repository.depth).filter(|depth| *depth > 0) },
        unshallow: lazy,
        single_branch: repository.single_branch,
        shallow_submodules: repository.shallow_submodules,
        checkout: repository.checkout.clone(),
    })
}

fn path(repository: &Repository) -> Result<PathBuf, PlanError> {
    let wanted = match (repository.path.as_str(), repository.name.as_str()) {
        ("", "") => "/workspace/repo".to_owned(),
        ("", name) => format!("/workspace/{name}"),
        (path, _) => path.to_owned(),
    };
    let path = Path::new(&wanted);
    let plain = path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    let below = path.starts_with("/workspace") && path != Path::new("/workspace");
    if plain && below { Ok(path.to_path_buf()) } else { Err(PlanError::Path(wanted)) }
}

impl ClonePlan {
    /// For people: the primary one has no name.
    pub fn title(&self) -> String {
        if self.name.is_empty() { self.url.clone() } else { format!("{} ({})", self.name, self.url) }
    }

    /// The mark that stands while the clone is unfinished.
    pub fn mark(&self) -> String {
        let safe = |c: char| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' };
        format!("cloning-{}", self.path.to_string_lossy().chars().map(safe).collect::<String>())
    }

    pub fn clone_arguments(&self, shallow: bool) -> Vec<String> {
        let mut arguments = vec!["clone".to_owned()];
        if !self.branch.is_empty() {
            arguments.push(format!("--branch={}", self.branch));
        }
        if let Some(depth) = self.depth.filter(|_| shallow) {
            arguments.push(format!("--depth={depth}"));
            // While shallow only this branch is fetched, the others come with the rest of the history.
            if !self.unshallow && !self.single_branch {
                arguments.push("--no-single-branch".into());
            }
        }
        if self.single_branch {
            arguments.push("--single-branch".into());
        }
        arguments.extend(["--".into(), self.url.clone(), self.path.to_string_lossy().into_owned()]);
        arguments
    }

    /// Gets just the wanted commit; servers may refuse that for one that no branch names.
    pub fn fetch_commit_arguments(&self) -> Vec<String> {
        let mut arguments = vec!["fetch".to_owned()];
        arguments.extend(self.depth.map(|depth| format!("--depth={depth}")));
        arguments.extend(["origin".into(), self.checkout.clone()]);
        arguments
    }

    pub fn unshallow_arguments(&self) -> Vec<String> {
        let mut arguments = vec!["fetch".to_owned(), "--unshallow".into(), "--tags".into(), "origin".into()];
        if !self.single_branch {
            arguments.push(ALL_BRANCHES.into());
        }
        arguments
    }

    /// Later fetches by the user get every branch, as after an ordinary clone.
    pub fn widen_arguments(&self) -> Option<Vec<String>> {
        let widen = self.unshallow && !self.single_branch;
        widen.then(|| ["config", "remote.origin.fetch", ALL_BRANCHES].map(str::to_owned).to_vec())
    }

    pub fn submodule_arguments(&self, shallow: bool) -> Vec<String> {
        let mut arguments = ["submodule", "update", "--init", "--recursive"].map(str::to_owned).to_vec();
        if shallow {
            arguments.push("--depth=1".into());
        }
        arguments
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn repository() -> Repository {
        Repository { url: "https://u:p@h/r.git".into(), ..Repository::default() }
    }

    #[test]
    fn by_default_shallow_first_and_the_rest_later() {
        let plan = plan(&repository()).unwrap();
        assert_eq!(
            plan.clone_arguments(true),
            ["clone", "--depth=1", "--", "https://h/r.git", "/workspace/repo"]
        );
        assert_eq!(plan.clone_arguments(false), ["clone", "--", "https://h/r.git", "/workspace/repo"]);
        assert!(plan.unshallow && plan.widen_arguments().is_some());
        assert_eq!(plan.mark(), "cloning-_workspace_repo");
    }

    #[test]
    fn an_explicit_depth_stays() {
        let plan = plan(&Repository { depth: 3, branch: "dev".into(), ..repository() }).unwrap();
        assert!(!plan.unshallow);
        assert_eq!(plan.clone_arguments(true)[1..4], ["--branch=dev", "--depth=3", "--no-single-branch"]);
    }

    #[test]
    fn without_lazy_unshallow_the_clone_is_whole() {
        let plan =
            plan(&Repository { disable_unshallow: true, single_branch: true, ..repository() }).unwrap();
        assert_eq!((plan.depth, plan.unshallow), (None, false));
        assert_eq!(plan.clone_arguments(true)[1], "--single-branch");
    }

    #[test]
    fn paths_stay_below_workspace() {
        let at = |path: &str| plan(&Repository { path: path.into(), ..repository() });
        assert!(at("/workspace/a/b").is_ok());
        for path in
            ["/workspace", "/workspace/../etc", "/etc", "workspace/x", "/workspaces/x", "/workspace/./.."]
        {
            assert!(at(path).is_err(), "{path}");
        }
        let named = plan(&Repository { name: "lib".into(), ..repository() }).unwrap();
        assert_eq!(named.path, Path::new("/workspace/lib"));
    }

    #[test]
    fn revisions_cannot_be_options_or_refspecs() {
        for checkout in ["--upload-pack=x", "+main", "a:b", "a b"] {
            assert!(plan(&Repository { checkout: checkout.into(), ..repository() }).is_err(), "{checkout}");
        }
    }
}
