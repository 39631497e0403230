//! From the resolved spec of a start request to a [`RunPlan`].

use std::collections::BTreeSet;

use cordium_broker::{GATEWAY_V4, HOST_NAME};
use cordium_proto::v1::{
    Dotfiles, EnvVar, HostEntry, OnFailure, PrepareRequest, Repository, StartRequest, Task, TaskType,
    UserSettings, Volume,
};
use cordium_runtime::DEFAULT_CAPABILITIES;
use cordium_spec::{self as schema, ImageSource, WorkspaceSpec};

use super::{
    RunPlan, Secrets,
    credentials::{credentials, placeholders},
    services::services,
};
use crate::{images::Login, request_error::RequestError, volumes::VolumeMount};

/// Whose run it is.
pub struct Asked {
    /// The workspace.
    pub uid: String,
    /// Its name.
    pub name: String,
    /// Its space.
    pub space: String,
    /// The run.
    pub run_id: String,
    /// Dotfiles and so on.
    pub user: UserSettings,
    /// Who asked for it, and the workspace's template, where that is known.
    pub started_by: Option<String>,
    /// See above.
    pub template: Option<String>,
    /// The volumes that its spec mounts.
    pub volumes: Vec<Volume>,
}

impl Asked {
    /// Checks the names of a request: they become paths, host names and cgroups.
    pub fn from_request(request: &StartRequest) -> Result<Self, RequestError> {
        check_id("workspace_uid", &request.workspace_uid)?;
        check_id("run_id", &request.run_id)?;
        let name = &request.workspace_name;
        let is_label = (1..=63).contains(&name.len())
            && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !name.starts_with('-')
            && !name.ends_with('-');
        if !is_label {
            return Err(RequestError::Invalid(format!(
                "workspace_name: was {name:?}; allowed: 1 to 63 lower-case letters, digits and dashes"
            )));
        }
        Ok(Self {
            uid: request.workspace_uid.clone(),
            name: name.clone(),
            space: request.space.clone(),
            run_id: request.run_id.clone(),
            user: request.user.clone().unwrap_or_default(),
            started_by: Some(request.started_by.clone()).filter(|text| !text.is_empty()),
            template: Some(request.template.clone()).filter(|text| !text.is_empty()),
            volumes: request.volumes.clone(),
        })
    }
}

/// Refuses an id that is not a plain word.
pub fn check_id(field: &str, id: &str) -> Result<(), RequestError> {
    let is_plain = (1..=63).contains(&id.len())
        && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        && !id.starts_with('-');
    if is_plain {
        return Ok(());
    }
    Err(RequestError::Invalid(format!("{field}: was {id:?}; allowed: 1 to 63 letters, digits and dashes")))
}

/// What is mounted, outer ones first. Volumes are named by uid, which becomes a path.
fn volumes(asked: &Asked, spec: &WorkspaceSpec) -> Result<Vec<VolumeMount>, RequestError> {
    let mut mounts = Vec::new();
    for (index, mount) in spec.runtime.volume_mounts.iter().enumerate() {
        let uid = &mount.volume_ref.uid;
        let field = format!("spec.runtime.volumeMounts[{index}].volumeRef.uid");
        check_id(&field, uid)?;
        let volume = asked.volumes.iter().find(|volume| volume.uid == *uid).ok_or_else(|| {
            RequestError::Invalid(format!("{field}: was {uid:?}; that volume was not given with the start"))
        })?;
        mounts.push(VolumeMount {
            uid: uid.clone(),
            name: volume.name.clone(),
            exclusive: volume.exclusive,
            target: mount.mount_path.clone().into(),
            read_only: mount.read_only,
        });
    }
    mounts.sort_by_key(|mount| mount.target.components().count());
    Ok(mounts)
}

/// Makes the plan, or says which field of the spec this node cannot serve.
pub fn run_plan(
    asked: &Asked,
    spec: &WorkspaceSpec,
    secrets: &Secrets,
    base_image: Option<&str>,
) -> Result<RunPlan, RequestError> {
    schema::check_supported(spec).map_err(|error| RequestError::Unsupported(error.to_string()))?;
    let (image, login) = image(spec, secrets, base_image)?;
    let runtime = &spec.runtime;
    let mut warnings = Vec::new();
    if runtime.disable_init == Some(true) {
        warnings.push("runtime.disableInit has no effect: the agent is always the first process".to_owned());
    }
    let volumes = volumes(asked, spec)?;
    for volume in &asked.volumes {
        let Volume { name, size_mib, .. } = volume;
        warnings.push(format!("the size of volume {name:?}, {size_mib} MiB, is not enforced on this node"));
    }
    let credentials = credentials(&asked.name, spec, secrets)?;
    let services = services(spec, secrets)?;
    let mut prepare = prepare(asked, spec, secrets).map_err(RequestError::Invalid)?;
    if let Some(credentials) = &credentials {
        prepare.trust_anchor_pem = credentials.authority.certificate.clone();
    }
    Ok(RunPlan {
        image,
        login,
        limit: cordium_scheduler::limit(spec),
        ephemeral: spec.is_ephemeral,
        capabilities: capabilities(&runtime.capabilities),
        egress: runtime.network.egress.clone(),
        credentials,
        services,
        subject: cordium_egress::Subject {
            workspace: asked.name.clone(),
            uid: asked.uid.clone(),
            space: asked.space.clone(),
            template: asked.template.clone(),
            user: asked.started_by.clone(),
        },
        volumes,
        entrypoint: words("entrypoint", runtime.entrypoint.as_deref())?,
        cmd: words("cmd", runtime.cmd.as_deref())?,
        prepare,
        warnings,
    })
}

fn image(
    spec: &WorkspaceSpec,
    secrets: &Secrets,
    base_image: Option<&str>,
) -> Result<(String, Option<Login>), RequestError> {
    match &spec.image {
        Some(ImageSource::Registry(image)) => {
            let login = match &image.authentication {
                Some(authentication) => Some(Login {
                    username: authentication.username.clone(),
                    password: secrets
                        .get(&authentication.password.from_secret)
                        .map_err(RequestError::Invalid)?,
                }),
                None => None,
            };
            Ok((image.url.clone(), login))
        }
        Some(other) => Err(RequestError::Unsupported(format!(
            "spec.image.{}: building an image is not supported yet; use image.registry",
            other.kind()
        ))),
        None => base_image.map(|image| (image.to_owned(), None)).ok_or_else(|| {
            RequestError::Invalid(
                "spec.image: is unset and this node has no base image; set spec.image.registry.url, or baseImage \
                 in the node's configuration"
                    .to_owned(),
            )
        }),
    }
}

/// The default set, and what the spec adds, without what it drops.
fn capabilities(spec: &schema::Capabilities) -> Vec<String> {
    let full = |name: &String| {
        let name = name.to_ascii_uppercase();
        if name.starts_with("CAP_") { name } else { format!("CAP_{name}") }
    };
    let mut set: BTreeSet<String> = DEFAULT_CAPABILITIES.map(str::to_owned).into();
    set.extend(spec.add.iter().map(full));
    for name in spec.drop.iter().map(full) {
        set.remove(&name);
    }
    set.into_iter().collect()
}

fn words(field: &str, text: Option<&str>) -> Result<Option<Vec<String>>, RequestError> {
    let Some(text) = text else { return Ok(None) };
    match schema::split_command(text) {
        Some(words) => Ok(Some(words)),
        None => Err(RequestError::Invalid(format!(
            "spec.runtime.{field}: was {text:?}; allowed: words with balanced quotes, as a shell would split them, or \
             a JSON array of strings"
        ))),
    }
}

/// The environment is in the order of application: the spec's, then what is forced.
fn prepare(asked: &Asked, spec: &WorkspaceSpec, secrets: &Secrets) -> Result<PrepareRequest, String> {
    let runtime = &spec.runtime;
    let hostname = format!("{}.cordium.local", asked.name);
    let mut env = Vec::with_capacity(runtime.env_vars.len() + 3);
    for var in &runtime.env_vars {
        let value = match (&var.value, &var.from_secret) {
            (_, Some(secret)) => secrets.get(secret)?,
            (Some(value), None) => value.clone(),
            (None, None) => String::new(),
        };
        env.push(EnvVar { key: var.key.clone(), value });
    }
    env.extend(placeholders(spec));
    for (key, value) in
        [("CORDIUM_NAME", &asked.name), ("CORDIUM_HOSTNAME", &hostname), ("CORDIUM_SPACE", &asked.space)]
    {
        env.push(EnvVar { key: key.to_owned(), value: value.clone() });
    }
    let primary = spec.repository.iter().filter(|repository| !repository.url.is_empty());
    let primary = primary.map(|r| repository("", schema::Repository::PATH, r, secrets)).next().transpose()?;
    let additional_repositories = spec
        .additional_repositories
        .iter()
        .map(|additional| repository(&additional.name, &additional.path(), &additional.repository, secrets))
        .collect::<Result<_, _>>()?;
    let user = &asked.user;
    let dotfiles = (!user.dotfiles_url.is_empty()).then(|| Dotfiles {
        url: user.dotfiles_url.clone(),
        branch: user.dotfiles_branch.clone(),
        ..Dotfiles::default()
    });
    let host = |address: String, names: &[&str]| HostEntry {
        address,
        names: names.iter().map(|name| (*name).to_owned()).collect(),
    };
    Ok(PrepareRequest {
        run_id: asked.run_id.clone(),
        workspace_name: asked.name.clone(),
        workspace_uid: asked.uid.clone(),
        space: asked.space.clone(),
        hostname: asked.name.clone(),
        env,
        tasks: runtime.tasks.iter().map(task).collect(),
        repository: primary,
        additional_repositories,
        dotfiles,
        read_only_root: runtime.filesystem.read_only == Some(true),
        user_dirs: vec!["/workspace".to_owned()],
        auto_stop: runtime.auto_stop == Some(true),
        nameservers: vec![GATEWAY_V4.to_string()],
        // The agent adds localhost and the short name itself.
        hosts: vec![host("127.0.1.1".to_owned(), &[&hostname]), host(GATEWAY_V4.to_string(), &[HOST_NAME])],
        ..PrepareRequest::default()
    })
}

fn repository(
    name: &str,
    path: &str,
    spec: &schema::Repository,
    secrets: &Secrets,
) -> Result<Repository, String> {
    let options = &spec.clone_options;
    let (username, password) = match &spec.authentication {
        Some(authentication) => {
            let http = &authentication.http;
            (http.username.clone(), secrets.get(&http.password.from_secret)?)
        }
        None => Default::default(),
    };
    Ok(Repository {
        name: name.to_owned(),
        url: spec.url.clone(),
        path: path.to_owned(),
        branch: options.branch.clone().unwrap_or_default(),
        depth: options.depth.unwrap_or_default(),
        single_branch: options.single_branch == Some(true),
        shallow_submodules: options.shallow_submodules == Some(true),
        checkout: options.checkout.clone().unwrap_or_default(),
        disable_unshallow: options.disable_lazy_unshallow == Some(true),
        username,
        password,
    })
}

fn task(spec: &schema::Task) -> Task {
    let kind = match spec.task_type {
        schema::TaskType::OnCreate => TaskType::OnCreate,
        schema::TaskType::PostStart => TaskType::PostStart,
        schema::TaskType::PreStop => TaskType::PreStop,
    };
    let on_failure = match spec.on_failure {
        schema::OnFailure::OnFailureUnset => OnFailure::Unset,
        schema::OnFailure::OnFailureAbort => OnFailure::Abort,
        schema::OnFailure::OnFailureContinue => OnFailure::Continue,
    };
    let env = spec.env_vars.iter().map(|var| EnvVar { key: var.key.clone(), value: var.value.clone() });
    Task {
        name: spec.name.clone(),
        run: spec.run.clone(),
        r#type: kind.into(),
        env: env.collect(),
        working_dir: spec.working_dir.clone().unwrap_or_default(),
        background: spec.is_background,
        on_failure: on_failure.into(),
        run_as_root: spec.run_as_root,
        timeout_ms: spec.timeout.map_or(0, schema::Timeout::millis),
    }
}
