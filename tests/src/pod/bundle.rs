//! The OCI bundle of the pod: `images/pod/config.json` with this run's paths.

use std::{fs, path::Path};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::paths;

/// What a case changes in the bundle before the pod is made.
#[derive(Clone, Copy)]
pub enum Change {
    /// The shortest list that works.
    Nothing,
    /// Something in the runtime's configuration.
    Config(fn(&mut Value)),
    /// Something in the root file system.
    Files(fn(&Path) -> Result<()>),
}

/// The reviewed configuration, with its seccomp profile in place.
pub fn reviewed() -> Result<Value> {
    let mut config = read("config.json")?;
    config["linux"]["seccomp"] = read("seccomp.json")?;
    Ok(config)
}

fn read(name: &str) -> Result<Value> {
    let path = paths::repository().join("images/pod").join(name);
    let text = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("parsing {}", path.display()))
}

/// Puts in where volumes and the network namespace are. The names in the file stand for them.
pub fn complete(config: &mut Value, bundle: &Path, network: &str) {
    for mount in config["mounts"].as_array_mut().into_iter().flatten() {
        if mount["type"] == "bind"
            && let Some(source) = mount["source"].as_str()
        {
            // An absolute source stays as it is.
            mount["source"] = bundle.join(source).to_string_lossy().into();
        }
    }
    for namespace in config["linux"]["namespaces"].as_array_mut().into_iter().flatten() {
        if namespace["type"] == "network" {
            namespace["path"] = network.into();
        }
    }
}

/// Leaves a mount out.
pub fn without_mount(config: &mut Value, destination: &str) {
    if let Some(mounts) = config["mounts"].as_array_mut() {
        mounts.retain(|mount| mount["destination"] != destination);
    }
}

/// Leaves system calls out of the seccomp profile.
pub fn without_calls(config: &mut Value, calls: &[&str]) {
    for rule in config["linux"]["seccomp"]["syscalls"].as_array_mut().into_iter().flatten() {
        if let Some(names) = rule["names"].as_array_mut() {
            names.retain(|name| !calls.iter().any(|call| name == call));
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn calls(profile: &Value) -> BTreeSet<String> {
        let rules = profile["syscalls"].as_array().unwrap();
        rules
            .iter()
            .flat_map(|rule| rule["names"].as_array().unwrap())
            .map(|name| name.as_str().unwrap().to_owned())
            .collect()
    }

    #[test]
    fn the_pods_profile_allows_what_the_sandboxs_allows() {
        let text = fs::read(paths::repository().join("runtime/profiles/sandbox.json")).unwrap();
        let sandbox = calls(&serde_json::from_slice(&text).unwrap());
        let pod = calls(&read("seccomp.json").unwrap());
        let missing: Vec<_> = sandbox.difference(&pod).collect();
        assert!(missing.is_empty(), "filters add up: images/pod/seccomp.json lacks {missing:?}");
    }

    #[test]
    fn the_pod_is_as_restricted_as_it_says() {
        let config = reviewed().unwrap();
        let none: [&str; 0] = [];
        assert_eq!(
            config["process"]["capabilities"]["bounding"],
            serde_json::json!(["CAP_SETUID", "CAP_SETGID"])
        );
        for set in ["effective", "permitted", "inheritable", "ambient"] {
            assert_eq!(config["process"]["capabilities"][set], serde_json::json!(none), "{set}");
        }
        assert_eq!(config["root"]["readonly"], true);
        assert_ne!(config["process"]["user"]["uid"], 0);
        assert_eq!(config["linux"]["devices"], Value::Null);
        assert_eq!(config["linux"]["seccomp"]["defaultAction"], "SCMP_ACT_ERRNO");
    }

    #[test]
    fn paths_are_put_in_and_parts_left_out() {
        let mut config = reviewed().unwrap();
        complete(&mut config, Path::new("/b"), "/proc/1/fd/2");
        let source = |config: &Value, at: &str| {
            let mounts = config["mounts"].as_array().unwrap();
            mounts.iter().find(|mount| mount["destination"] == at).map(|mount| mount["source"].clone())
        };
        assert_eq!(source(&config, "/run/cordium"), Some("/b/run".into()));
        assert_eq!(source(&config, "/host/proc"), Some("/proc".into()));
        without_mount(&mut config, "/host/proc");
        assert_eq!(source(&config, "/host/proc"), None);
        without_calls(&mut config, &["mount"]);
        assert!(!calls(&config["linux"]["seccomp"]).contains("mount"));
    }
}
