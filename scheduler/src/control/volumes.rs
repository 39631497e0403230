//! Volumes: which ones a spec mounts, whether they are free, where they tie a workspace to, and their deletion.

use std::sync::Arc;

use cordium_proto::v1;
use cordium_spec::{AccessMode, ObjectRef, WorkspaceSpec};
use rusqlite::Connection;

use crate::{
    core::Core,
    error::ApiError,
    names::{self, Target},
    nodes, specs,
    store::{
        left_behind::Left,
        records::{self, Record},
        volumes::{self, Volume},
        workspaces::{self, Workspace},
    },
};

/// Finds every volume that the spec mounts, each once, and writes name and uid into its references.
pub fn resolve(conn: &Connection, space: &str, spec: &mut WorkspaceSpec) -> Result<Vec<Volume>, ApiError> {
    let mut found: Vec<Volume> = Vec::new();
    for (index, mount) in spec.runtime.volume_mounts.iter_mut().enumerate() {
        let volume = named(conn, space, &mount.volume_ref).map_err(|message| {
            ApiError::invalid(format!("spec.runtime.volumeMounts[{index}].volumeRef: {message}"))
        })?;
        mount.volume_ref = ObjectRef { name: volume.record.name.clone(), uid: volume.record.uid.clone() };
        if !found.iter().any(|known| known.record.uid == volume.record.uid) {
            found.push(volume);
        }
    }
    Ok(found)
}

fn named(conn: &Connection, space: &str, reference: &ObjectRef) -> Result<Volume, String> {
    let ObjectRef { name, uid } = reference;
    let text = if name.is_empty() { uid } else { name };
    let target = names::parse_ref(text, space).map_err(|e| e.to_string())?;
    let volume = volumes::find(conn, &target).map_err(|e| e.to_string())?;
    match volume.filter(|volume| volume.record.space == space) {
        Some(volume) if uid.is_empty() || *uid == volume.record.uid => Ok(volume),
        Some(volume) => Err(format!(
            "was uid {uid:?} together with name {name:?}, whose uid is {:?}; give one of them",
            volume.record.uid
        )),
        None => Err(format!(
            "was {text:?}; there is no such volume in space {space:?}, create it first: cordium volume create NAME"
        )),
    }
}

/// Refuses a run that mounts an exclusive volume which another run mounts.
pub fn check_free(conn: &Connection, ws: &Workspace, mounted: &[Volume]) -> Result<(), ApiError> {
    for volume in mounted.iter().filter(|v| v.spec.access_mode == AccessMode::AccessModeExclusive) {
        let holders = volumes::holders(conn, &volume.record.uid)?;
        if let Some(holder) = holders.iter().find(|holder| holder.uid != ws.record.uid) {
            return Err(ApiError::state(
                format!(
                    "volume {:?} is exclusive and mounted by workspace {:?}; workspace {:?} cannot mount it, too",
                    volume.record.name, holder.name, ws.record.name
                ),
                format!("cordium stop {}, or use a volume that is shared", holder.name),
            ));
        }
    }
    Ok(())
}

/// The node that will do: the one that the workspace is tied to already, if any, and every volume's.
pub fn tied<'a>(
    workspace: &str,
    node: Option<&'a str>,
    mounted: &'a [Volume],
) -> Result<Option<&'a str>, ApiError> {
    let mut tied = node.map(|node| (node, format!("workspace {workspace:?}")));
    for volume in mounted.iter().filter(|volume| !volume.node.is_empty()) {
        let name = &volume.record.name;
        match &tied {
            Some((node, by)) if *node != volume.node => {
                return Err(ApiError::state(
                    format!("volume {name:?} lies on node {:?}, but {by} belongs on {node:?}", volume.node),
                    "a workspace runs where its volumes lie; mount others, or leave the node out",
                ));
            }
            _ => tied = Some((&volume.node, format!("volume {name:?}"))),
        }
    }
    Ok(tied.map(|(node, _)| node))
}

/// What the node is told of them.
pub fn grants(mounted: &[Volume]) -> Vec<v1::Volume> {
    let grant = |volume: &Volume| v1::Volume {
        uid: volume.record.uid.clone(),
        name: volume.record.name.clone(),
        exclusive: volume.spec.access_mode == AccessMode::AccessModeExclusive,
        size_mib: volume.spec.size.megabytes,
    };
    mounted.iter().map(grant).collect()
}

/// Makes the record of a new one.
pub fn create(conn: &Connection, core: &Core, record: &Record, node: &str) -> Result<(), ApiError> {
    if !node.is_empty() && !core.nodes.contains_key(node) {
        let known: Vec<_> = core.nodes.keys().map(String::as_str).collect();
        return Err(ApiError::invalid(format!("node: was {node:?}; allowed: {}", known.join(", "))));
    }
    let (existing, max) =
        (volumes::list(conn, &record.space)?.len() as u64, core.config.max_volumes_per_space);
    if existing >= max {
        return Err(ApiError::exhausted(
            format!("space {:?} has {existing} volumes already; allowed: {max}", record.space),
            "delete one with: cordium volume delete NAME",
        ));
    }
    volumes::insert(conn, record, node)
}

/// The size may only grow, and the access mode stays.
pub fn check_change(old: &str, new: &str) -> Result<(), ApiError> {
    let (old, new) = (cordium_spec::parse_volume_json(old)?, cordium_spec::parse_volume_json(new)?);
    if old.access_mode != new.access_mode {
        return Err(ApiError::invalid("spec.accessMode: cannot be changed; create another volume"));
    }
    if new.size.megabytes < old.size.megabytes {
        return Err(ApiError::invalid(format!(
            "spec.size.megabytes: was {}; allowed: at least {}, a volume can only grow",
            new.size.megabytes, old.size.megabytes
        )));
    }
    Ok(())
}

/// Forgets the volume and has its node delete the data. The record goes first: nobody can mount it from then on, and
/// what is left on the node is deleted there sooner or later, whatever happens now.
pub async fn delete(core: &Arc<Core>, target: Target) -> Result<Vec<String>, ApiError> {
    let inner = core.clone();
    core.detached(async move {
        let volume = inner
            .store
            .write(move |tx| {
                let volume = volumes::get(tx, &target)?;
                check_unused(tx, &volume)?;
                records::delete(tx, &volume.record.uid)?;
                if !volume.node.is_empty() {
                    Left::Volume.put(tx, &volume.node, &volume.record.uid)?;
                }
                Ok(volume)
            })
            .await?;
        if volume.node.is_empty() {
            return Ok(Vec::new());
        }
        let uid = &volume.record.uid;
        let _guard = inner.locks.lock(uid).await;
        let removed = match inner.node(&volume.node) {
            Ok(node) => nodes::left_behind::delete(&inner, node, Left::Volume, uid).await,
            Err(error) => Err(error),
        };
        let Err(error) = removed else { return Ok(Vec::new()) };
        let (name, node) = (&volume.record.name, &volume.node);
        tracing::warn!(volume = name, node, %error, "a volume's data is deleted later");
        Ok(vec![format!("{error}; the data of volume {name} on node {node} is deleted later")])
    })
    .await
}

/// Workspaces that mount it keep it, running or not: without it they could not start any more.
fn check_unused(conn: &Connection, volume: &Volume) -> Result<(), ApiError> {
    let (uid, name) = (&volume.record.uid, &volume.record.name);
    if let Some(holder) = volumes::holders(conn, uid)?.first() {
        return Err(ApiError::state(
            format!("volume {name:?} is mounted by workspace {:?}", holder.name),
            format!("cordium stop {}", holder.name),
        ));
    }
    for ws in workspaces::list(conn, &volume.record.space, "")? {
        let uses = match specs::resolve_ahead(conn, &ws, &Default::default()) {
            Ok(Some(resolved)) => resolved.volumes.iter().any(|used| used.record.uid == *uid),
            // As far as its own spec tells: the rest is known only when it starts.
            _ => cordium_spec::parse_workspace_json(&ws.record.spec)?.runtime.volume_mounts.iter().any(
                |mount| {
                    let used = named(conn, &ws.record.space, &mount.volume_ref);
                    used.is_ok_and(|used| used.record.uid == *uid)
                },
            ),
        };
        if uses {
            return Err(ApiError::state(
                format!("volume {name:?} is used by workspace {:?}", ws.record.name),
                "remove it from the workspace's spec first, or delete the workspace",
            ));
        }
    }
    Ok(())
}
