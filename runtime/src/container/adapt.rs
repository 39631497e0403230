//! The spec of a bundle as libcontainer needs it, as a pure function.

use std::path::Path;

use caps::Capability;
use oci_spec::runtime::{Capability as SpecCapability, Spec};

/// A spec made fit.
#[derive(Debug)]
pub(super) struct Adapted {
    pub(super) spec: Spec,
    /// Held only until the seccomp filters are loaded, which needs it unless `no_new_privs` is on.
    pub(super) borrowed: Vec<Capability>,
    /// The program's HOME is to be looked up in the container: what `spec` has for it only holds its place.
    pub(super) without_home: bool,
    /// Whether `spec` differs from the bundle's.
    pub(super) changed: bool,
}

/// - Without `linux.cgroupsPath`, libcontainer hands a container with a user namespace to systemd: name a path.
/// - Loading seccomp filters without `no_new_privs` needs CAP_SYS_ADMIN at the end of init: lend it.
/// - Without HOME, libcontainer asks libc for it once inside, which may load libraries that the image names
///   (`/etc/nsswitch.conf`) into our program, unfiltered, and wait for a pipe in the place of `/etc/passwd`: name one.
pub(super) fn adapt(mut spec: Spec, id: &str, bundle: &Path) -> Adapted {
    let borrowed = if lacks_sys_admin(&spec) { vec![Capability::CAP_SYS_ADMIN] } else { vec![] };
    let without_home = hold_place_of_home(&mut spec);
    let mut changed = !borrowed.is_empty() || without_home;
    if !borrowed.is_empty() {
        lend_sys_admin(&mut spec);
    }
    if let Some(linux) = spec.linux_mut()
        && linux.cgroups_path().is_none()
        && linux.uid_mappings().as_ref().is_some_and(|mappings| !mappings.is_empty())
    {
        linux.set_cgroups_path(Some(format!("/cordium-oci-{id}").into()));
        changed = true;
    }
    if changed && let Some(root) = spec.root_mut() {
        // The changed spec lies in another directory, and a relative root is relative to the bundle.
        root.set_path(bundle.join(root.path()));
    }
    Adapted { spec, borrowed, without_home, changed }
}

fn hold_place_of_home(spec: &mut Spec) -> bool {
    let Some(process) = spec.process_mut() else { return false };
    let mut env = process.env().clone().unwrap_or_default();
    let last = env.iter().filter_map(|entry| entry.strip_prefix("HOME=")).next_back();
    if last.is_some_and(|home| !home.is_empty()) {
        return false;
    }
    env.push("HOME=/".to_owned());
    process.set_env(Some(env));
    true
}

fn lacks_sys_admin(spec: &Spec) -> bool {
    let Some(process) = spec.process() else { return false };
    let filtered = spec.linux().as_ref().is_some_and(|linux| linux.seccomp().is_some());
    let effective = process.capabilities().as_ref().and_then(|sets| sets.effective().as_ref());
    let has = effective.is_some_and(|set| set.contains(&SpecCapability::SysAdmin));
    filtered && process.no_new_privileges() != Some(true) && !has
}

fn lend_sys_admin(spec: &mut Spec) {
    let Some(process) = spec.process_mut() else { return };
    let mut sets = process.capabilities().clone().unwrap_or_default();
    let with = |set: &Option<std::collections::HashSet<SpecCapability>>| {
        let mut set = set.clone().unwrap_or_default();
        set.insert(SpecCapability::SysAdmin);
        Some(set)
    };
    // Not in the bounding set: that counts for programs only, and leaving it again would take CAP_SETPCAP.
    let (permitted, effective) = (with(sets.permitted()), with(sets.effective()));
    sets.set_permitted(permitted).set_effective(effective);
    process.set_capabilities(Some(sets));
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn spec(process: Value, linux: Value) -> Spec {
        let mut whole = json!({"ociVersion": "1.2.0", "root": {"path": "rootfs"}, "process": {"cwd": "/", "user": {"uid": 0, "gid": 0}, "args": ["true"], "env": ["HOME=/root"]}, "linux": linux});
        whole["process"].as_object_mut().unwrap().extend(process.as_object().unwrap().clone());
        serde_json::from_value(whole).unwrap()
    }

    #[test]
    fn a_spec_that_is_fit_stays_as_it_is() {
        let adapted = adapt(spec(json!({}), json!({"cgroupsPath": "/x"})), "c", Path::new("/b"));
        assert!(!adapted.changed && adapted.borrowed.is_empty());
        assert_eq!(adapted.spec.root().as_ref().unwrap().path(), Path::new("rootfs"));
    }

    #[test]
    fn a_home_that_is_missing_is_held_a_place() {
        for env in [json!([]), json!(["A=1"]), json!(["HOME="]), json!(["HOME=/a", "HOME="])] {
            let adapted =
                adapt(spec(json!({"env": env}), json!({"cgroupsPath": "/x"})), "c", Path::new("/b"));
            assert!(adapted.without_home && adapted.changed, "{env}");
            let env = adapted.spec.process().as_ref().unwrap().env().clone().unwrap();
            assert_eq!(env.last().unwrap(), "HOME=/");
            assert_eq!(adapted.spec.root().as_ref().unwrap().path(), Path::new("/b/rootfs"));
        }
    }

    #[test]
    fn with_a_user_namespace_a_cgroup_path_is_named_and_the_root_made_absolute() {
        assert!(!adapt(spec(json!({}), json!({})), "c", Path::new("/b")).changed);
        let mapped = json!({"uidMappings": [{"containerID": 0, "hostID": 1, "size": 1}]});
        let adapted = adapt(spec(json!({}), mapped), "c", Path::new("/b"));
        let linux = adapted.spec.linux().as_ref().unwrap();
        assert_eq!(linux.cgroups_path().as_deref(), Some(Path::new("/cordium-oci-c")));
        assert_eq!(adapted.spec.root().as_ref().unwrap().path(), Path::new("/b/rootfs"));
    }

    #[test]
    fn loading_filters_borrows_a_capability_only_where_it_is_needed() {
        let seccomp = json!({"cgroupsPath": "/x", "seccomp": {"defaultAction": "SCMP_ACT_ALLOW"}});
        let bare = adapt(spec(json!({"noNewPrivileges": false}), seccomp.clone()), "c", Path::new("/b"));
        assert_eq!(bare.borrowed, [Capability::CAP_SYS_ADMIN]);
        let kept = json!({"noNewPrivileges": true});
        assert!(adapt(spec(kept, seccomp.clone()), "c", Path::new("/b")).borrowed.is_empty());
        let admin = json!({"capabilities": {"effective": ["CAP_SYS_ADMIN"]}});
        assert!(adapt(spec(admin, seccomp), "c", Path::new("/b")).borrowed.is_empty());
    }
}
