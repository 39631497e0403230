//! SharePort: who may reach an application of a workspace.

use std::{collections::BTreeMap, sync::Arc};

use cordium_proto::v1::{Resource, SharePortRequest, SharedPort, shared_port::Mode};

use crate::{
    core::Core,
    error::ApiError,
    names, specs,
    store::{journal, workspaces},
};

pub async fn share(core: &Arc<Core>, request: SharePortRequest) -> Result<Resource, ApiError> {
    let target = names::parse_ref(&request.r#ref, &request.space)?;
    let mode = request.mode();
    if mode == Mode::Unset && !request.unshare {
        return Err(ApiError::invalid("mode: was unset; allowed: MODE_MEMBERS, MODE_ALL, or unshare"));
    }
    let mut resource = core
        .store
        .write(move |tx| {
            let mut ws = workspaces::get(tx, &target)?;
            let name = request.application_name;
            let known = specs::resolve(tx, &ws, &BTreeMap::new())?.applications;
            if !known.contains(&name) {
                return Err(ApiError::invalid(format!(
                    "application_name: was {name:?}; allowed: {}",
                    if known.is_empty() { "none, spec.applications is empty".into() } else { join(&known) }
                )));
            }
            ws.status.shared_ports.retain(|shared| shared.application_name != name);
            if !request.unshare {
                ws.status.shared_ports.push(SharedPort { mode: mode.into(), application_name: name });
            }
            workspaces::save(tx, &mut ws)?;
            journal::append(tx, &ws, None, false)?;
            Ok(ws.to_resource())
        })
        .await?;
    core.decorate(&mut resource);
    Ok(resource)
}

fn join(names: &std::collections::BTreeSet<String>) -> String {
    names.iter().map(String::as_str).collect::<Vec<_>>().join(", ")
}
