//! Lays flags over a spec.

use std::{fs, io::Read as _, path::Path};

use serde_json::{Map, Value, json};

use super::flags::SpecFlags;
use crate::error::{CliError, CliResult, Doing as _};

const MAX_DOCKERFILE: u64 = 64 << 10;

/// The spec with the flags laid over it: scalars are replaced, lists are added to, by name where they have one.
pub fn with_flags(mut spec: Value, flags: &SpecFlags, with_vars: bool) -> CliResult<Value> {
    if let Some(image) = &flags.image {
        spec["image"] = json!({ "registry": { "url": image } });
    }
    if let Some(path) = &flags.dockerfile {
        spec["image"] = json!({ "dockerfile": { "inline": read_dockerfile(path)? } });
    }
    repository(&mut spec, flags)?;
    for (name, url) in &flags.additional_repos {
        let item = json!({ "name": name, "repository": { "url": url } });
        put(list(&mut spec, &["additionalRepositories"]), "name", item);
    }
    for (key, value) in &flags.env {
        put(list(&mut spec, &["runtime", "envVars"]), "key", json!({ "key": key, "value": value }));
    }
    for (key, secret) in &flags.env_from_secret {
        put(list(&mut spec, &["runtime", "envVars"]), "key", json!({ "key": key, "fromSecret": secret }));
    }
    if with_vars {
        for (name, value) in &flags.vars {
            put(list(&mut spec, &["vars"]), "name", json!({ "name": name, "value": value }));
        }
    }
    for (path, value) in [
        (["limit", "cpu", "millicores"], flags.cpu),
        (["limit", "memory", "megabytes"], flags.memory),
        (["limit", "storage", "megabytes"], flags.storage),
    ] {
        if let Some(value) = value {
            *at(&mut spec, &path) = value.into();
        }
    }
    for (n, port) in flags.ports.iter().enumerate() {
        let name = port.name.clone().unwrap_or_else(|| format!("port-{}", n + 1));
        let mut item = json!({ "name": name, "port": port.port });
        if port.default {
            item["isDefault"] = true.into();
        }
        put(list(&mut spec, &["applications"]), "name", item);
    }
    for volume in &flags.volumes {
        let mut item = json!({ "volumeRef": { "name": volume.name }, "mountPath": volume.path });
        if volume.read_only {
            item["readOnly"] = true.into();
        }
        put(list(&mut spec, &["runtime", "volumeMounts"]), "mountPath", item);
    }
    if flags.auto_stop {
        *at(&mut spec, &["runtime", "autoStop"]) = true.into();
    }
    if flags.ephemeral {
        spec["isEphemeral"] = true.into();
    }
    Ok(spec)
}

fn repository(spec: &mut Value, flags: &SpecFlags) -> CliResult {
    if let Some(url) = &flags.repository {
        *at(spec, &["repository", "url"]) = url.clone().into();
    }
    let options = [
        ("branch", flags.branch.clone().map(Value::from)),
        ("depth", flags.depth.map(Value::from)),
        ("checkout", flags.checkout.clone().map(Value::from)),
    ];
    for (key, value) in options {
        let Some(value) = value else { continue };
        if spec.pointer("/repository/url").is_none() {
            return Err(CliError::usage(format!("--{key} is for a repository, and none is named"))
                .hint("add --repository URL"));
        }
        *at(spec, &["repository", "cloneOptions", key]) = value;
    }
    Ok(())
}

fn read_dockerfile(path: &Path) -> CliResult<String> {
    let doing = || format!("read {}", path.display());
    let mut text = String::new();
    let file = fs::File::open(path).doing(doing())?;
    file.take(MAX_DOCKERFILE + 1).read_to_string(&mut text).doing(doing())?;
    if text.len() as u64 > MAX_DOCKERFILE {
        return Err(CliError::new(format!("{} is larger than {MAX_DOCKERFILE} bytes", path.display())));
    }
    Ok(text)
}

/// The place at a path of keys, with objects made on the way.
fn at<'a>(spec: &'a mut Value, path: &[&str]) -> &'a mut Value {
    path.iter().fold(spec, |value, key| {
        if !value.is_object() {
            *value = Value::Object(Map::new());
        }
        &mut value[*key]
    })
}

fn list<'a>(spec: &'a mut Value, path: &[&str]) -> &'a mut Vec<Value> {
    let value = at(spec, path);
    if !value.is_array() {
        *value = Value::Array(Vec::new());
    }
    match value {
        Value::Array(items) => items,
        _ => unreachable!("made an array above"),
    }
}

/// Replaces the item of the same name, else appends.
fn put(items: &mut Vec<Value>, key: &str, item: Value) {
    match items.iter_mut().find(|i| i.get(key) == item.get(key)) {
        Some(there) => *there = item,
        None => items.push(item),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::spec::parse;

    #[test]
    fn every_flag_finds_its_field() {
        let flags = SpecFlags {
            image: Some("alpine:3".into()),
            repository: Some("https://e.org/r.git".into()),
            branch: Some("main".into()),
            depth: Some(3),
            checkout: Some("v1".into()),
            additional_repos: vec![("lib".into(), "https://e.org/lib.git".into())],
            env: vec![("A".into(), "1".into())],
            env_from_secret: vec![("T".into(), "token".into())],
            vars: vec![("X".into(), "y".into())],
            cpu: Some(1500),
            memory: Some(1024),
            storage: Some(2000),
            ports: vec![parse::port("8080").unwrap(), parse::port("web:80:default").unwrap()],
            volumes: vec![parse::volume("cache:/data").unwrap(), parse::volume("in:/in:ro").unwrap()],
            auto_stop: true,
            ephemeral: true,
            ..SpecFlags::default()
        };
        assert_eq!(
            with_flags(json!({}), &flags, true).unwrap(),
            json!({
                "image": { "registry": { "url": "alpine:3" } },
                "repository": { "url": "https://e.org/r.git",
                                "cloneOptions": { "branch": "main", "depth": 3, "checkout": "v1" } },
                "additionalRepositories": [{ "name": "lib", "repository": { "url": "https://e.org/lib.git" } }],
                "runtime": { "envVars": [{ "key": "A", "value": "1" }, { "key": "T", "fromSecret": "token" }],
                             "volumeMounts": [{ "volumeRef": { "name": "cache" }, "mountPath": "/data" },
                                              { "volumeRef": { "name": "in" }, "mountPath": "/in", "readOnly": true }],
                             "autoStop": true },
                "vars": [{ "name": "X", "value": "y" }],
                "limit": { "cpu": { "millicores": 1500 }, "memory": { "megabytes": 1024 },
                           "storage": { "megabytes": 2000 } },
                "applications": [{ "name": "port-1", "port": 8080 }, { "name": "web", "port": 80, "isDefault": true }],
                "isEphemeral": true
            })
        );
        assert!(flags.describe_something());
        assert!(!SpecFlags::default().describe_something());
    }

    #[test]
    fn flags_replace_by_name_and_keep_the_rest() {
        let base = json!({ "runtime": { "envVars": [{ "key": "A", "value": "0" }, { "key": "B", "value": "2" }],
                                        "readOnly": true } });
        let flags = SpecFlags { env: vec![("A".into(), "1".into())], ..SpecFlags::default() };
        let spec = with_flags(base, &flags, false).unwrap();
        assert_eq!(
            spec["runtime"]["envVars"],
            json!([{ "key": "A", "value": "1" }, { "key": "B", "value": "2" }])
        );
        assert_eq!(spec["runtime"]["readOnly"], true);
    }

    #[test]
    fn a_branch_needs_a_repository() {
        let flags = SpecFlags { branch: Some("main".into()), ..SpecFlags::default() };
        let error = with_flags(json!({}), &flags, false).unwrap_err();
        assert_eq!(error.exit_code(), 2);
    }
}
