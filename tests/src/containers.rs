//! Small images for the engines that tests run inside a workspace: they are made there, for there is no registry of the
//! world's to pull from.

/// Writes `/tmp/tiny.tar`, the root file system of a container with all of busybox. The workspace must have busybox.
pub const BUSYBOX: &str = "set -e; d=$(mktemp -d); mkdir -p $d/bin $d/etc $d/tmp $d/root $d/proc $d/sys $d/dev $d/var; \
    cp /bin/busybox $d/bin/; for a in $(busybox --list | grep -vx busybox); do ln -sf busybox $d/bin/$a; done; \
    printf 'root:x:0:0:root:/root:/bin/sh\\nweb:x:1000:1000:web:/tmp:/bin/sh\\n' > $d/etc/passwd; \
    printf 'root:x:0:\\nweb:x:1000:\\n' > $d/etc/group; chmod 1777 $d/tmp; \
    tar -C $d -cf /tmp/tiny.tar .; chmod 644 /tmp/tiny.tar; rm -rf $d";

/// As `BUSYBOX`, with a few programs of the workspace's own and the libraries that they need.
pub const OWN_FILES: &str = "set -e; d=$(mktemp -d); mkdir -p $d/tmp $d/proc $d/sys $d/dev $d/etc $d/usr; \
    for l in bin lib lib64 sbin; do mkdir -p $d/usr/$l; ln -s usr/$l $d/$l; done; \
    for p in sh cat head tail sleep id; do f=$(readlink -f /usr/bin/$p); cp $f $d/usr/bin/$p; \
    for l in $(ldd $f | grep -o '/[^ ]*'); do mkdir -p $d/usr/$(dirname $l | sed 's|^/usr||'); \
    cp -L $l $d/usr/$(echo $l | sed 's|^/usr||'); done; done; \
    echo 'root:x:0:0:root:/root:/bin/sh' > $d/etc/passwd; tar -C $d -cf /tmp/tiny.tar .; chmod 644 /tmp/tiny.tar; rm -rf $d";

/// `SCRIPT`, unless somebody did it before, and then the image `tiny` for whoever runs this.
pub fn podman_import(script: &str) -> String {
    format!("[ -e /tmp/tiny.tar ] || ( {script} ); podman import --quiet /tmp/tiny.tar tiny")
}

/// The controllers that the sandbox can pass on to containers inside, as its root sees them.
pub const CONTROLLERS: &str = "cat /sys/fs/cgroup/cgroup.controllers";

/// Why limits of nested containers cannot be tried, if so.
pub fn without_controllers(controllers: &str) -> Option<String> {
    let missing: Vec<&str> = ["memory", "pids"]
        .into_iter()
        .filter(|name| !controllers.split_whitespace().any(|c| c == *name))
        .collect();
    (!missing.is_empty()).then(|| {
        format!(
            "the cgroup controllers {} of this machine are on v1 hierarchies, which a sandbox cannot have a part of; \
             `cargo xtask test --vm` runs this on pure cgroup v2",
            missing.join(" and ")
        )
    })
}
