//! The fields that variables are replaced in. An inline Dockerfile is not among them.

use crate::error::SpecError;
use crate::model::*;
use crate::vars::Vars;

pub(super) fn spec(spec: &mut WorkspaceSpec, vars: &mut Vars) -> Result<(), SpecError> {
    if let Some(source) = &mut spec.image {
        image(source, vars)?;
    }
    if let Some(primary) = &mut spec.repository {
        repository(primary, vars, "spec.repository")?;
    }
    for (index, additional) in spec.additional_repositories.iter_mut().enumerate() {
        let at = format!("spec.additionalRepositories[{index}].repository");
        repository(&mut additional.repository, vars, &at)?;
    }
    for (index, env) in spec.runtime.env_vars.iter_mut().enumerate() {
        optional(&mut env.value, vars, || format!("spec.runtime.envVars[{index}].value"))?;
    }
    for (index, task) in spec.runtime.tasks.iter_mut().enumerate() {
        let at = |field: &str| format!("spec.runtime.tasks[{index}].{field}");
        vars.substitute(&mut task.run, || at("run"))?;
        optional(&mut task.working_dir, vars, || at("workingDir"))?;
        for (number, env) in task.env_vars.iter_mut().enumerate() {
            vars.substitute(&mut env.value, || at(&format!("envVars[{number}].value")))?;
        }
    }
    Ok(())
}

fn image(source: &mut ImageSource, vars: &mut Vars) -> Result<(), SpecError> {
    match source {
        ImageSource::Registry(image) => vars.substitute(&mut image.url, || "spec.image.registry.url".into()),
        ImageSource::Dockerfile(DockerfileImage::Url(url)) => {
            vars.substitute(url, || "spec.image.dockerfile.url".into())
        }
        ImageSource::Git(git) => {
            vars.substitute(&mut git.url, || "spec.image.git.url".into())?;
            optional(&mut git.checkout, vars, || "spec.image.git.checkout".into())?;
            optional(&mut git.dockerfile, vars, || "spec.image.git.dockerfile".into())?;
            optional(&mut git.context, vars, || "spec.image.git.context".into())
        }
        ImageSource::Dockerfile(DockerfileImage::Inline(_)) | ImageSource::Repository(_) => Ok(()),
    }
}

fn repository(repository: &mut Repository, vars: &mut Vars, at: &str) -> Result<(), SpecError> {
    vars.substitute(&mut repository.url, || format!("{at}.url"))?;
    let options = &mut repository.clone_options;
    optional(&mut options.branch, vars, || format!("{at}.cloneOptions.branch"))?;
    optional(&mut options.checkout, vars, || format!("{at}.cloneOptions.checkout"))?;
    // A variable that is not set leaves an option unset.
    options.branch = options.branch.take().filter(|branch| !branch.is_empty());
    options.checkout = options.checkout.take().filter(|checkout| !checkout.is_empty());
    Ok(())
}

fn optional(text: &mut Option<String>, vars: &mut Vars, at: impl Fn() -> String) -> Result<(), SpecError> {
    text.as_mut().map_or(Ok(()), |text| vars.substitute(text, at))
}
