//! The applications of a run's spec, as names of the ports that listen in it.

use std::collections::BTreeMap;

use cordium_proto::v1::ListeningPorts;

use crate::{core::Core, error::ApiError, names, store::workspaces};

/// Names by port: those of the spec that the workspace runs with. The first one counts where two have one port.
pub fn of_run(core: &Core, uid: &str) -> Result<BTreeMap<u32, String>, ApiError> {
    let target = names::parse_ref(uid, "")?;
    let spec = core.store.lookup(|conn| Ok(workspaces::get(conn, &target)?.run_spec))?;
    if spec.is_empty() {
        return Ok(BTreeMap::new());
    }
    let spec = cordium_spec::parse_resolved_json(&spec)?;
    Ok(spec.applications.into_iter().rev().map(|one| (one.port.into(), one.name)).collect())
}

/// Says which ports are applications.
pub fn name(mut list: ListeningPorts, applications: &BTreeMap<u32, String>) -> ListeningPorts {
    for item in &mut list.items {
        item.application = applications.get(&item.port).cloned().unwrap_or_default();
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;
    use cordium_proto::v1::ListeningPort;

    #[test]
    fn only_the_scheduler_names_applications() {
        let port = |port, application: &str| ListeningPort {
            port,
            application: application.to_owned(),
            ..ListeningPort::default()
        };
        let list = ListeningPorts { items: vec![port(80, ""), port(81, "made-up")], left_out: 3 };
        let named = name(list, &BTreeMap::from([(80, "web".to_owned())]));
        assert_eq!(named, ListeningPorts { items: vec![port(80, "web"), port(81, "")], left_out: 3 });
    }
}
