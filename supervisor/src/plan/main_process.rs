//! What runs beside the agent from the image's entrypoint and command.
//!
//! | spec | image | runs |
//! |---|---|---|
//! | `entrypoint` or `cmd` | any | (`entrypoint`, else ENTRYPOINT), then (`cmd`, else CMD) |
//! | neither | with ENTRYPOINT | ENTRYPOINT, then the agent's `idle`: entrypoints such as `tini` stay what they are |
//! | neither | without | nothing: CMD of most images is a shell, which would end at once |
//!
//! The agent is the first process and reaps in each case, so `runtime.disableInit` has nothing to disable.

use cordium_proto::v1::{EnvVar, MainProcess};
use oci_spec::image::ImageConfiguration;

/// Sleeps until it is told to end; there in every sandbox.
const IDLE: [&str; 2] = ["/run/cordium/bin/cordium-agent", "idle"];

/// The main process, if there is one.
pub fn main_process(
    entrypoint: Option<&[String]>,
    cmd: Option<&[String]>,
    image: &ImageConfiguration,
) -> Result<Option<MainProcess>, String> {
    let config = image.config().as_ref();
    let own_entrypoint = config.and_then(|c| c.entrypoint().as_deref()).unwrap_or_default();
    let own_cmd = config.and_then(|c| c.cmd().as_deref()).unwrap_or_default();
    let argv: Vec<String> = if entrypoint.is_some() || cmd.is_some() {
        let first = entrypoint.unwrap_or(own_entrypoint);
        first.iter().chain(cmd.unwrap_or(own_cmd)).cloned().collect()
    } else if !own_entrypoint.is_empty() {
        own_entrypoint.iter().cloned().chain(IDLE.map(str::to_owned)).collect()
    } else {
        return Ok(None);
    };
    if argv.first().is_none_or(String::is_empty) {
        return Err("the image's entrypoint or command begins with an empty word".to_owned());
    }
    Ok(Some(MainProcess {
        argv,
        env: image_env(image),
        working_dir: config.and_then(|c| c.working_dir().clone()).unwrap_or_default(),
        user: config.and_then(|c| c.user().clone()).unwrap_or_default(),
    }))
}

/// The image's environment. What has no `=` is left out, as engines do.
pub fn image_env(image: &ImageConfiguration) -> Vec<EnvVar> {
    let env = image.config().as_ref().and_then(|config| config.env().as_deref()).unwrap_or_default();
    env.iter()
        .filter_map(|entry| entry.split_once('='))
        .map(|(key, value)| EnvVar { key: key.to_owned(), value: value.to_owned() })
        .collect()
}
