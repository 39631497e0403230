//! What the keeper is told to build.

use cordium_egress::Policy;
use cordium_proto::v1::Limit;
use cordium_runtime::{Bind, IdMap, Limits, NetworkPlan, SandboxPlan};

use super::RunPlan;
use crate::{context::Context, images::Layers, volumes::VolumeMount};

/// The plan of the sandbox of a run.
pub fn sandbox_plan(plan: &RunPlan, layers: Layers, ids: IdMap, context: &Context) -> SandboxPlan {
    let uid = &plan.prepare.workspace_uid;
    let settings = &context.sandbox;
    let limits = limits(&plan.limit);
    SandboxPlan {
        id: uid.clone(),
        run: plan.prepare.run_id.clone(),
        hostname: plan.prepare.hostname.clone(),
        layers: layers.dirs,
        layer_data: layers.data,
        volume: context.dirs.volume(uid),
        run_dir: context.dirs.sandbox(uid),
        agent: settings.agent.clone(),
        capabilities: plan.capabilities.clone(),
        limits,
        ids,
        cgroup: context.runtime.cgroup(uid),
        read_only_root: plan.prepare.read_only_root,
        binds: plan.volumes.iter().map(|volume| bind(volume, context)).collect(),
        network: NetworkPlan {
            broker_socket: settings.broker_socket.clone(),
            policy: Policy { context: Some(plan.subject.clone()), ..settings.policy(&plan.egress) },
            credentials: plan.credentials.clone(),
            services: plan.services.clone(),
            host_ports: settings.host_ports.clone(),
        },
        env: Vec::new(),
    }
}

fn limits(limit: &Limit) -> Limits {
    Limits {
        cpu_millicores: limit.cpu_millicores,
        memory_mib: limit.memory_mib,
        swap_mib: limit.swap_mib,
        storage_mib: limit.storage_mib,
        inodes: limit.inodes,
        pids: limit.pids,
        io_weight: limit.io_weight,
        open_files: limit.open_files,
        inotify_instances: limit.inotify_instances,
        inotify_watches: limit.inotify_watches,
        user_namespaces: limit.user_namespaces,
    }
}

fn bind(volume: &VolumeMount, context: &Context) -> Bind {
    Bind {
        source: context.volumes.data(&volume.uid),
        target: volume.target.clone(),
        read_only: volume.read_only,
        owned: true,
    }
}
