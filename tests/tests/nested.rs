//! Nested: containers, engines, an init system and debuggers inside a workspace, as root and as the workspace user.

use std::{process::ExitCode, sync::Arc};

use cordium_tests::{
    Fixture, Result, Suite, Workspace, containers, ensure, ensure_eq,
    forward::Forward,
    images, json,
    registry::{Registry, storage},
    skip,
    spec::with_image,
};

/// Everything runs in one workspace unless it needs one of its own.
struct Nested {
    f: Arc<Fixture>,
    w: Workspace,
    /// For pulls from inside.
    inner: Registry,
}

impl cordium_tests::suite::TearDown for Nested {
    async fn tear_down(self: Arc<Self>) -> Result<()> {
        Arc::clone(&self.f).tear_down().await
    }
}

fn main() -> ExitCode {
    Suite::new("nested")
        .case("podman_runs_for_root", podman_runs_for_root)
        .case("podman_runs_for_the_user", podman_runs_for_the_user)
        .case("podman_builds_for_root", podman_builds_for_root)
        .case("podman_builds_for_the_user", podman_builds_for_the_user)
        .case("buildah_builds_for_the_user", buildah_builds_for_the_user)
        .case("a_published_port_is_reached", a_published_port_is_reached)
        .case("a_port_of_the_users_container_is_reached", a_port_of_the_users_container_is_reached)
        .case("containers_of_a_pod_talk", containers_of_a_pod_talk)
        .case("containers_of_a_network_know_each_other", containers_of_a_network_know_each_other)
        .case("containers_reach_out_through_the_gateway", containers_reach_out_through_the_gateway)
        .case("the_workspaces_network_can_be_shared", the_workspaces_network_can_be_shared)
        .case("volumes_keep_data", volumes_keep_data)
        .case("exec_and_logs_work", exec_and_logs_work)
        .case("exec_in_a_container_of_another_user", exec_in_a_container_of_another_user)
        .case("limits_of_containers", limits_of_containers)
        .case("engines_state_persists", engines_state_persists)
        .case("docker_runs", docker_runs)
        .case("systemd_as_the_main_process", systemd_as_the_main_process)
        .case("run_is_empty_at_each_start", run_is_empty_at_each_start)
        .case("unshare_and_bubblewrap", unshare_and_bubblewrap)
        .case("a_browsers_sandbox", a_browsers_sandbox)
        .case("chromium_keeps_its_own_sandbox", chromium_keeps_its_own_sandbox)
        .case("strace_and_gdb_on_own_processes", strace_and_gdb_on_own_processes)
        .case("every_process_is_under_seccomp", every_process_is_under_seccomp)
        .case("the_cgroup_is_delegated_without_its_limits", the_cgroup_is_delegated_without_its_limits)
        .case("nothing_of_nested_cgroups_is_left", nothing_of_nested_cgroups_is_left)
        .case("a_read_only_root_has_containers_too", a_read_only_root_has_containers_too)
        .one_at_a_time()
        .run(set_up)
}

async fn set_up() -> Result<Nested> {
    let inner_dir = cordium_tests::fixture::fresh_dir("nreg")?;
    let inner = Registry::start(&storage(), &inner_dir)?;
    let port = inner.port();
    let f = Arc::new(Fixture::start_with("nested", |options| options.host_ports.push(port)).await?);
    f.registry.push_all(&storage(), &[images::nested()?])?;
    let w = f.run("nest", &image(&f, json!({}))).await?;
    let import = containers::podman_import(containers::BUSYBOX);
    w.root_ok(&import).await?;
    w.ok(&import).await?;
    std::fs::remove_dir_all(&inner_dir)?;
    Ok(Nested { f, w, inner })
}

fn image(f: &Fixture, rest: serde_json::Value) -> serde_json::Value {
    let mut spec = with_image(&f.image(images::NESTED), json!({"limit": {"memory": {"megabytes": 2048}}}));
    if let Some(runtime) = rest.get("runtime") {
        spec["runtime"] = runtime.clone();
    }
    spec
}

/// As root and as the workspace user.
async fn both(w: &Workspace, script: &str) -> Result<[String; 2]> {
    Ok([w.root_ok(script).await?, w.ok(script).await?])
}

/// A container that serves `hello` on a port, and the time that it takes to begin.
fn server(name: &str, options: &str, port: u16) -> String {
    format!(
        "podman run --detach --name {name} {options} tiny sh -c 'echo hello from {name} > /tmp/index.html; exec httpd -f -p {port} -h /tmp' >/dev/null"
    )
}

/// Asks until somebody answers.
fn fetch(url: &str) -> String {
    format!(
        "for i in $(seq 100); do curl --silent --fail --max-time 5 {url} && exit 0; sleep 0.1; done; exit 1"
    )
}

async fn podman_runs_for_root(n: Arc<Nested>) -> Result<()> {
    ensure_eq!(n.w.root_ok("podman run --rm tiny id -u").await?, "0");
    native_overlay(
        &n.w.root_ok("podman info --format '{{.Store.GraphDriverName}} {{.Store.GraphRoot}}'").await?,
        "/var/lib/containers/storage",
    )?;
    let root = n.w.root_ok("podman run --rm tiny grep ' / ' /proc/self/mounts").await?;
    ensure!(root.starts_with("overlay / overlay "), "its root is {root}");
    let seccomp = n.w.root_ok("podman run --rm tiny grep Seccomp /proc/self/status").await?;
    ensure!(seccomp.contains("Seccomp_filters:\t4"), "the engine's own filter is not there: {seccomp}");
    Ok(())
}

fn native_overlay(info: &str, root: &str) -> Result<()> {
    ensure_eq!(info, format!("overlay {root}"));
    Ok(())
}

async fn podman_runs_for_the_user(n: Arc<Nested>) -> Result<()> {
    ensure_eq!(n.w.ok("podman run --rm tiny id -u").await?, "0");
    let home = n.w.ok("echo $HOME").await?;
    let info = n.w.ok("podman info --format '{{.Store.GraphDriverName}} {{.Store.GraphRoot}}'").await?;
    native_overlay(&info, &format!("{home}/.local/share/containers/storage"))?;
    let root = n.w.ok("podman run --rm tiny grep ' / ' /proc/self/mounts").await?;
    ensure!(root.starts_with("overlay / overlay "), "its root is {root}");
    // Root of the container is the user outside of it; its other ids are others than root's.
    ensure_eq!(n.w.ok("podman run --rm --user 65534 tiny id -u").await?, "65534");
    let outside =
        n.w.ok("podman run --rm -v /etc:/e:ro tiny sh -c 'cat /e/shadow 2>/dev/null; stat -c %u /e/passwd'")
            .await?;
    ensure_eq!(outside, "65534");
    Ok(())
}

/// A Dockerfile on the base image, from the registry outside, with a package and a repository of packages in its context.
fn context(n: &Nested, dir: &str) -> String {
    let base = format!("host.cordium.internal:{}/{}", n.inner.port(), images::BASE);
    format!(
        "set -e; rm -rf {dir}; mkdir -p {dir}/pkg/DEBIAN {dir}/repo; cd {dir}; \
         printf 'Package: hello-cordium\\nVersion: 1\\nArchitecture: all\\nMaintainer: t <t@example.org>\\nDescription: t\\n' > pkg/DEBIAN/control; \
         mkdir -p pkg/usr/bin; printf '#!/bin/sh\\necho hello from a package\\n' > pkg/usr/bin/hello-cordium; chmod 755 pkg pkg/DEBIAN pkg/usr pkg/usr/bin pkg/usr/bin/hello-cordium; \
         dpkg-deb --root-owner-group --build pkg repo/hello-cordium_1_all.deb >/dev/null; cd repo; \
         h=$(sha256sum *.deb | cut -d' ' -f1); s=$(stat -c %s *.deb); \
         (cat ../pkg/DEBIAN/control; printf 'Filename: ./hello-cordium_1_all.deb\\nSize: %s\\nSHA256: %s\\n' $s $h) > Packages; cd ..; \
         cat > Dockerfile <<X\nFROM {base}\nCOPY repo /repo\n\
         RUN rm -f /etc/apt/sources.list /etc/apt/sources.list.d/* && echo 'deb [trusted=yes] file:/repo ./' > /etc/apt/sources.list\n\
         RUN apt-get update && apt-get install --yes hello-cordium\n\
         RUN useradd --create-home joe && install -o joe -g joe -m 600 /dev/null /home/joe/file\n\
         USER joe\nCMD [\"sh\", \"-c\", \"id -un; hello-cordium; stat -c %U /home/joe/file\"]\nX\n"
    )
}

const BUILT: &str = "joe\nhello from a package\njoe";

async fn podman_builds_for_root(n: Arc<Nested>) -> Result<()> {
    n.w.root_ok(&context(&n, "/root/context")).await?;
    n.w.root_ok("cd /root/context && podman build --quiet --tls-verify=false --tag built . >/tmp/build.log 2>&1 || { cat /tmp/build.log; exit 1; }").await?;
    ensure_eq!(n.w.root_ok("podman run --rm built").await?, BUILT);
    Ok(())
}

async fn podman_builds_for_the_user(n: Arc<Nested>) -> Result<()> {
    n.w.ok(&context(&n, "$HOME/context")).await?;
    n.w.ok("cd ~/context && podman build --quiet --tls-verify=false --tag built . >/tmp/ubuild.log 2>&1 || { cat /tmp/ubuild.log; exit 1; }").await?;
    ensure_eq!(n.w.ok("podman run --rm built").await?, BUILT);
    Ok(())
}

async fn buildah_builds_for_the_user(n: Arc<Nested>) -> Result<()> {
    let script = "set -e; c=$(buildah from tiny); buildah run $c sh -c 'echo made > /made && chown 33:33 /made'; \
                  buildah commit --quiet $c made >/dev/null; buildah rm $c >/dev/null; podman run --rm made stat -c '%u %g' /made";
    let [root, user] = both(&n.w, script).await?;
    ensure_eq!((root.as_str(), user.as_str()), ("33 33", "33 33"));
    Ok(())
}

async fn a_published_port_is_reached(n: Arc<Nested>) -> Result<()> {
    n.w.root_ok(&server("pub", "--publish 8088:80", 80)).await?;
    for host in ["127.0.0.1", "$(hostname -I | cut -d' ' -f1)"] {
        // The container is root's, whoever asks.
        ensure_eq!(n.w.ok(&fetch(&format!("http://{host}:8088/"))).await?, "hello from pub");
    }
    // From outside as well: as if it were served by the workspace itself.
    let forward = Forward::begin(&n.f.cli(), "nest", &["0:8088"]).await?;
    let answer = String::from_utf8(forward.ask(b"GET / HTTP/1.0\r\n\r\n").await?)?;
    ensure!(answer.trim_end().ends_with("hello from pub"), "{answer}");
    n.w.root_ok("podman rm --force --time 0 pub").await?;
    ensure!(
        n.w.sh("curl --silent --max-time 2 http://127.0.0.1:8088/").await?.code() != 0,
        "the port is still there"
    );
    Ok(())
}

async fn a_port_of_the_users_container_is_reached(n: Arc<Nested>) -> Result<()> {
    n.w.ok(&server("own", "", 8089)).await?;
    ensure_eq!(n.w.ok(&fetch("http://127.0.0.1:8089/")).await?, "hello from own");
    n.w.ok("podman rm --force --time 0 own").await?;
    Ok(())
}

async fn containers_of_a_pod_talk(n: Arc<Nested>) -> Result<()> {
    // podman insists on passing controllers on to the pod's cgroup, of which this machine may have none.
    let parent = "$([ -s /sys/fs/cgroup/cgroup.controllers ] || echo --share-parent=false)";
    n.w.root_ok(&format!("podman pod create --name pod {parent} --publish 8090:80 >/dev/null")).await?;
    n.w.root_ok(&server("inpod", "--pod pod", 80)).await?;
    let ask = "podman run --rm --pod pod tiny sh -c 'for i in $(seq 50); do wget -qO- http://127.0.0.1/ && exit 0; sleep 0.1; done; exit 1'";
    ensure_eq!(n.w.root_ok(ask).await?, "hello from inpod");
    ensure_eq!(n.w.ok(&fetch("http://127.0.0.1:8090/")).await?, "hello from inpod");
    n.w.root_ok("podman pod rm --force --time 0 pod").await?;
    n.w.ok("podman pod create --name pod >/dev/null").await?;
    n.w.ok(&server("inpod", "--pod pod", 8091)).await?;
    ensure_eq!(n.w.ok(&ask.replace("127.0.0.1/", "127.0.0.1:8091/")).await?, "hello from inpod");
    n.w.ok("podman pod rm --force --time 0 pod").await?;
    Ok(())
}

async fn containers_of_a_network_know_each_other(n: Arc<Nested>) -> Result<()> {
    n.w.root_ok("podman network create net1 >/dev/null").await?;
    n.w.root_ok(&server("named", "--network net1", 80)).await?;
    let ask = "podman run --rm --network net1 tiny sh -c 'for i in $(seq 50); do wget -qO- http://named/ && exit 0; sleep 0.1; done; exit 1'";
    ensure_eq!(n.w.root_ok(ask).await?, "hello from named");
    // A bridge of its own: not the default one's addresses.
    ensure!(
        n.w.root_ok("podman run --rm --network net1 tiny ip route").await?.contains("default via 10.89."),
        "not netavark's"
    );
    n.w.root_ok("podman rm --force --time 0 named && podman network rm net1").await?;
    Ok(())
}

async fn containers_reach_out_through_the_gateway(n: Arc<Nested>) -> Result<()> {
    let (port, bridged) = (n.inner.port(), "podman run --rm tiny wget -qO- http://host.cordium.internal:");
    ensure_eq!(n.w.root_ok(&format!("{bridged}{port}/v2/")).await?, "{}");
    // No more than the workspace itself.
    let other = n.f.registry.port();
    ensure!(
        n.w.root(&format!("{bridged}{other}/v2/")).await?.code() != 0,
        "a port that is not open to workspaces was reached"
    );
    ensure_eq!(n.w.ok(&format!("{bridged}{port}/v2/")).await?, "{}");
    Ok(())
}

async fn the_workspaces_network_can_be_shared(n: Arc<Nested>) -> Result<()> {
    let own = n.w.ok("readlink /proc/self/ns/net").await?;
    for shared in both(&n.w, "podman run --rm --network host tiny readlink /proc/self/ns/net").await? {
        ensure_eq!(shared, own);
    }
    ensure!(
        n.w.root_ok("podman run --rm tiny readlink /proc/self/ns/net").await? != own,
        "the bridge has no namespace"
    );
    ensure!(
        n.w.ok("podman run --rm --network none tiny readlink /proc/self/ns/net").await? != own,
        "none has no namespace"
    );
    Ok(())
}

async fn volumes_keep_data(n: Arc<Nested>) -> Result<()> {
    let script = "set -e; podman volume create data >/dev/null; podman run --rm -v data:/data tiny sh -c 'echo kept > /data/f'; \
                  podman run --rm -v data:/data tiny cat /data/f; podman volume rm data >/dev/null; \
                  d=$(mktemp -d); echo given > $d/f; podman run --rm -v $d:/d:ro tiny cat /d/f; \
                  podman run --rm -v $d:/d:ro tiny sh -c 'echo x > /d/f' 2>/dev/null && exit 1; rm -r $d";
    for out in both(&n.w, script).await? {
        ensure_eq!(out, "kept\ngiven");
    }
    Ok(())
}

async fn exec_and_logs_work(n: Arc<Nested>) -> Result<()> {
    let script = "set -e; podman run --detach --name e tiny sh -c 'echo logged; sleep 100' >/dev/null; podman exec e id -u; \
                  podman exec --user web e id -u; echo in | podman exec --interactive e cat; podman exec e sh -c 'exit 7' || echo $?; \
                  for i in $(seq 50); do podman logs e | grep logged && break; sleep 0.1; done; podman rm --force --time 0 e";
    for out in both(&n.w, script).await? {
        ensure!(out.starts_with("0\n1000\nin\n7\nlogged\n"), "{out}");
    }
    // The user's containers have no cgroup to be frozen in.
    let pause = "podman run --detach --name p tiny sleep 100 && podman pause p && podman inspect --format '{{.State.Status}}' p && podman unpause p && podman rm --force --time 0 p";
    ensure!(n.w.root_ok(pause).await?.contains("\npaused\n"), "not paused");
    Ok(())
}

/// The kernel lets root of a sandbox look at the processes of other users with CAP_SYS_PTRACE only.
async fn exec_in_a_container_of_another_user(n: Arc<Nested>) -> Result<()> {
    let script =
        "set -e; podman run --detach --name o --user web tiny sleep 100 >/dev/null; podman exec o id -un";
    // Without root the containers' user namespace is the user's own.
    ensure_eq!(n.w.ok(&format!("{script}; podman rm --force --time 0 o >/dev/null")).await?, "web");
    let w =
        n.f.run("ptrace", &image(&n.f, json!({"runtime": {"capabilities": {"add": ["SYS_PTRACE"]}}})))
            .await?;
    w.root_ok(&containers::podman_import(containers::BUSYBOX)).await?;
    ensure_eq!(w.root_ok(script).await?, "web");
    w.delete().await
}

async fn limits_of_containers(n: Arc<Nested>) -> Result<()> {
    if let Some(reason) = containers::without_controllers(&n.w.root_ok(containers::CONTROLLERS).await?) {
        let refused = n.w.root("podman run --rm --memory 64m tiny true").await?;
        ensure!(refused.code() != 0, "a limit that is not enforced was accepted");
        return skip(reason);
    }
    ensure_eq!(n.w.root_ok("podman run --rm --pids-limit 9 tiny cat /sys/fs/cgroup/pids.max").await?, "9");
    Ok(())
}

async fn engines_state_persists(n: Arc<Nested>) -> Result<()> {
    let w = n.f.run("keep", &image(&n.f, json!({}))).await?;
    for script in [
        containers::podman_import(containers::BUSYBOX),
        "podman create --name kept tiny sh -c 'date +%N >> /n; wc -l < /n' >/dev/null; podman start --attach kept".to_owned(),
        "podman run --detach --name sleeper tiny sleep 1000".to_owned(),
    ] {
        both(&w, &script).await?;
    }
    w.root_ok(&format!("{DOCKERD}; docker import /tmp/tiny.tar tiny >/dev/null; docker create --name kept tiny echo kept >/dev/null")).await?;
    w.stop().await?;
    w.start().await?;
    for out in
        both(&w, "podman start --attach kept; podman start sleeper >/dev/null; podman inspect --format '{{.State.Status}}' sleeper")
            .await?
    {
        ensure_eq!(out, "2\nrunning");
    }
    ensure_eq!(w.root_ok(&format!("{DOCKERD}; docker start --attach kept")).await?, "kept");
    w.delete().await
}

/// Starts Docker's engine in the background and waits until it answers.
const DOCKERD: &str = "setsid dockerd >/var/log/dockerd.log 2>&1 </dev/null & for i in $(seq 300); do docker version >/dev/null 2>&1 && break; sleep 0.1; done; docker version >/dev/null || { tail /var/log/dockerd.log; exit 1; }";

async fn docker_runs(n: Arc<Nested>) -> Result<()> {
    let w = n.f.run("docker", &image(&n.f, json!({}))).await?;
    w.root_ok(&format!(
        "{}; {DOCKERD}; usermod --append --groups docker $(id -un 1000)",
        containers::BUSYBOX
    ))
    .await?;
    // As the user, who is in its group from the next command on.
    ensure_eq!(w.ok("docker import /tmp/tiny.tar tiny >/dev/null && docker run --rm tiny id -u").await?, "0");
    ensure_eq!(w.ok("docker info --format '{{.Driver}}'").await?, "overlay2");
    w.ok("docker run --detach --name web --publish 8088:80 tiny sh -c 'echo hello from docker > /tmp/index.html; exec httpd -f -p 80 -h /tmp' >/dev/null").await?;
    ensure_eq!(w.ok(&fetch("http://127.0.0.1:8088/")).await?, "hello from docker");
    ensure_eq!(w.ok("docker exec web cat /tmp/index.html").await?, "hello from docker");
    w.ok("mkdir -p ~/c && printf 'FROM tiny\\nRUN echo built > /built && chown 33 /built\\nCMD cat /built\\n' > ~/c/Dockerfile && docker build --quiet --tag built ~/c && docker rm --force web").await?;
    ensure_eq!(w.ok("docker run --rm built").await?, "built");
    w.delete().await
}

async fn systemd_as_the_main_process(n: Arc<Nested>) -> Result<()> {
    let w = n.f.run("sysd", &image(&n.f, json!({"runtime": {"cmd": "/lib/systemd/systemd"}}))).await?;
    let state = "for i in $(seq 300); do s=$(systemctl is-system-running); [ \"$s\" = running ] && break; [ \"$s\" = degraded ] && break; sleep 0.1; done; echo $s; systemctl --failed --no-legend --plain";
    ensure_eq!(w.ok(state).await?, "running");
    // Commands are in its pid namespace, as the user and as root.
    for comm in both(&w, "cat /proc/1/comm").await? {
        ensure_eq!(comm, "systemd");
    }
    let unit = "[Service]\\nExecStart=/bin/sleep infinity\\nExecStop=/bin/sh -c \"echo stopped > /workspace/stopped\"\\nPrivateTmp=yes\\nDynamicUser=no\\n[Install]\\nWantedBy=multi-user.target\\n";
    w.root_ok(&format!("printf '{unit}' > /etc/systemd/system/t.service && systemctl daemon-reload && systemctl enable --now t.service")).await?;
    ensure_eq!(w.ok("systemctl is-active t.service").await?, "active");
    ensure!(w.root_ok("systemd-cgls --no-pager").await?.contains("t.service"), "the service has no cgroup");
    ensure!(
        w.root_ok("journalctl --no-pager -u t.service").await?.contains("Started"),
        "the journal knows nothing of it"
    );
    // The end of the run is an orderly one, and the next run starts what was enabled.
    w.stop().await?;
    w.start().await?;
    ensure_eq!(w.ok("cat /workspace/stopped").await?, "stopped");
    ensure_eq!(w.ok(state).await?, "running");
    ensure_eq!(w.ok("systemctl is-active t.service").await?, "active");
    w.delete().await
}

async fn run_is_empty_at_each_start(n: Arc<Nested>) -> Result<()> {
    let w = n.f.run("run", &image(&n.f, json!({}))).await?;
    w.root_ok("echo stale > /run/stale.pid; echo kept > /var/kept; stat -f -c %T /run | grep -x tmpfs")
        .await?;
    ensure_eq!(
        w.ok("stat -c '%a %U' $XDG_RUNTIME_DIR /run/lock").await?,
        format!("700 {}\n1777 root", w.ok("id -un").await?)
    );
    w.stop().await?;
    w.start().await?;
    ensure_eq!(w.ok("ls /run/stale.pid 2>/dev/null; cat /var/kept").await?, "kept");
    w.delete().await
}

async fn unshare_and_bubblewrap(n: Arc<Nested>) -> Result<()> {
    let script = "set -e; unshare --user --map-root-user --mount --pid --fork --mount-proc sh -c 'id -u; cat /proc/1/comm'; \
                  bwrap --unshare-all --ro-bind / / --proc /proc --dev /dev --tmpfs /tmp --die-with-parent sh -c 'ls /proc | grep -c \"^[0-9]\" | grep -qx \"[1-9]\" && echo bwrap'";
    for out in both(&n.w, script).await? {
        ensure_eq!(out, "0\nsh\nbwrap");
    }
    Ok(())
}

/// Chromium refuses to run where it can make no sandbox; what renders is in namespaces of its own and under a filter of its own.
async fn chromium_keeps_its_own_sandbox(n: Arc<Nested>) -> Result<()> {
    n.f.registry.push_all(&storage(), &[images::browser()?])?;
    let limit = json!({"limit": {"memory": {"megabytes": 2048}}});
    let w = n.f.run("browser", &with_image(&n.f.image(images::BROWSER), limit)).await?;
    let shell = "chromium-headless-shell --disable-gpu --user-data-dir=/tmp/profile";
    let page =
        "data:text/html,<p id=p>no</p><script>document.getElementById('p').textContent='it '+'runs'</script>";
    let dumped = w
        .ok(&format!(
            "timeout 50 {shell} --dump-dom \"{page}\" 2>/tmp/err || {{ cat /tmp/err >&2; exit 1; }}"
        ))
        .await?;
    ensure!(dumped.contains("<p id=\"p\">it runs</p>"), "the page is {dumped}");
    w.ok(&format!("setsid {shell} --remote-debugging-port=9222 about:blank >/tmp/out 2>&1 & for i in $(seq 200); do pgrep -f -- '--type=[r]enderer' >/dev/null && exit 0; sleep 0.1; done; cat /tmp/out >&2; exit 1")).await?;
    // Its namespaces themselves are nobody's to look at; what its status tells of them is.
    let look = "p=$(pgrep -f -- '--type=[r]enderer' | head -1); cmp -s /proc/$p/uid_map /proc/self/uid_map || echo user; \
                awk '/^NSpid:/ && NF > 2 {print \"pid\"}' /proc/$p/status; \
                grep -E '^(NoNewPrivs|Seccomp):' /proc/$p/status | tr -d '\\t'";
    ensure_eq!(w.ok(look).await?, "user\npid\nNoNewPrivs:1\nSeccomp:2");
    w.delete().await
}

/// What such a sandbox consists of, step by step, also for root.
async fn a_browsers_sandbox(n: Arc<Nested>) -> Result<()> {
    let script = r#"
import ctypes, os, struct
l = ctypes.CDLL(None, use_errno=True)
def check(what, result):
    if result < 0: raise SystemExit(f"{what}: {os.strerror(ctypes.get_errno())}")
uid, gid = os.getuid(), os.getgid()
check("unshare", l.unshare(0x10000000 | 0x20000000 | 0x40000000))  # user, pid, net
for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
    open(f"/proc/self/{name}", "w").write(text)
child = os.fork()
if child:
    raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
assert os.getpid() == 1
# An empty root: the directory of a process that is gone.
empty = os.fork()
if not empty:
    check("unshare fs", l.unshare(0x200))
    os._exit(0)
os.waitpid(empty, 0)
os.chroot("/proc/self/fdinfo"); os.chdir("/")
check("no_new_privs", l.prctl(38, 1, 0, 0, 0))
code = struct.pack("HBBI", 0x20, 0, 0, 0) + struct.pack("HBBI", 0x15, 0, 1, 39) + struct.pack("HBBI", 0x06, 0, 0, 0x50000 | 1) + struct.pack("HBBI", 0x06, 0, 0, 0x7fff0000)
buffer = ctypes.create_string_buffer(code)
program = ctypes.create_string_buffer(struct.pack("HxxxxxxP", 4, ctypes.addressof(buffer)))
check("seccomp TSYNC", l.syscall(317, 1, 1, program))
assert l.syscall(39) == -1 and ctypes.get_errno() == 1, "the filter does nothing"
os.write(1, b"sandboxed\n")
os._exit(0)
"#;
    for out in both(
        &n.w,
        &format!(
            "cat > /tmp/b.$$.py <<'X'\n{script}\nX\npython3 /tmp/b.$$.py; s=$?; rm /tmp/b.$$.py; exit $s"
        ),
    )
    .await?
    {
        ensure_eq!(out, "sandboxed");
    }
    Ok(())
}

async fn strace_and_gdb_on_own_processes(n: Arc<Nested>) -> Result<()> {
    let script = "set -e; strace -f -o /tmp/s.$$ sh -c true && grep -q execve /tmp/s.$$; sleep 100 & p=$!; \
                  gdb -batch -p $p -ex 'info proc' 2>/dev/null | grep -o 'process [0-9]*' | head -1 | sed \"s/$p/own/\"; \
                  timeout 5 strace -o /dev/null -p $p 2>/tmp/a.$$ & for i in $(seq 40); do grep -q attached /tmp/a.$$ && break; sleep 0.1; done; grep -o attached /tmp/a.$$; kill $p";
    for out in both(&n.w, script).await? {
        ensure_eq!(out, "process own\nattached");
    }
    // PID 1 is nobody's.
    ensure!(
        n.w.root("strace -o /dev/null -p 1 & sleep 0.3; kill %1 2>/dev/null && exit 0; exit 1").await?.code()
            != 0,
        "PID 1 was traced"
    );
    Ok(())
}

async fn every_process_is_under_seccomp(n: Arc<Nested>) -> Result<()> {
    n.w.root_ok(
        "podman run --detach --name sc tiny sleep 100 >/dev/null && podman exec --detach sc sleep 100",
    )
    .await?;
    n.w.ok("setsid sleep 100 >/dev/null 2>&1 & sudo setsid sleep 100 >/dev/null 2>&1 & echo").await?;
    let script = "n=0; for p in /proc/[0-9]*; do s=$(grep '^Seccomp:' $p/status 2>/dev/null | cut -f2); [ -n \"$s\" ] || continue; [ \"$s\" = 2 ] || echo \"$p $(cat $p/comm)\"; n=$((n+1)); done; [ $n -ge 6 ] && echo enough";
    ensure_eq!(n.w.root_ok(script).await?, "enough");
    n.w.root_ok("podman rm --force --time 0 sc; pkill -x sleep || true").await?;
    Ok(())
}

async fn the_cgroup_is_delegated_without_its_limits(n: Arc<Nested>) -> Result<()> {
    ensure_eq!(n.w.root_ok("mkdir /sys/fs/cgroup/t && rmdir /sys/fs/cgroup/t && echo made").await?, "made");
    ensure_eq!(n.w.ok("cat /proc/self/cgroup | grep '^0::'").await?, "0::/init");
    for file in ["cgroup.max.descendants", "cgroup.max.depth", "cgroup.freeze", "cgroup.kill"] {
        let written = n.w.root(&format!("echo 0 > /sys/fs/cgroup/{file}")).await?;
        ensure!(written.code() != 0, "the sandbox's own {file} could be written");
    }
    ensure!(n.w.sh("mkdir /sys/fs/cgroup/t").await?.code() != 0, "the user may make cgroups");
    let many = "cd /sys/fs/cgroup && mkdir m && cd m && i=0; while mkdir $i 2>/dev/null; do i=$((i+1)); [ $i -gt 5000 ] && break; done; echo $i; find /sys/fs/cgroup/m -depth -type d -exec rmdir {} +";
    let made: u32 = n.w.root_ok(many).await?.parse()?;
    ensure!((100..=2048).contains(&made), "{made} cgroups could be made");
    Ok(())
}

/// Whether the run ends in order or not.
async fn nothing_of_nested_cgroups_is_left(n: Arc<Nested>) -> Result<()> {
    let w = n.f.run("left", &image(&n.f, json!({}))).await?;
    for end in ["in order", "by force", "with its keeper"] {
        w.root_ok("mkdir -p /sys/fs/cgroup/a/b/c && setsid sh -c 'echo 0 > /sys/fs/cgroup/a/b/c/cgroup.procs; exec sleep 98761' >/dev/null 2>&1 & \
                   for i in $(seq 50); do pgrep -x sleep >/dev/null && break; sleep 0.1; done").await?;
        let dirs = cgroups_of("sleep 98761", n.f.node.user.uid)?;
        ensure!(dirs.iter().any(|dir| dir.join("box/a/b/c").is_dir()), "no nested cgroup in {dirs:?}");
        let mut watch = w.watch().await?;
        match end {
            "with its keeper" => {
                for dir in &dirs {
                    let keepers = std::fs::read_to_string(dir.join("keeper/cgroup.procs"))?;
                    for pid in keepers.lines() {
                        let pid = nix::unistd::Pid::from_raw(pid.parse()?);
                        // The first one may have taken the others along.
                        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
                    }
                }
            }
            end => w.request_stop(end == "by force").await?,
        }
        watch.stopped(cordium_tests::workspace::STOP).await?;
        let left: Vec<_> = dirs.iter().filter(|dir| dir.exists()).collect();
        ensure!(left.is_empty(), "ended {end}, cgroups are left: {left:?}");
        w.start().await?;
    }
    w.delete().await
}

/// The directories of the workspace in which a process runs, in every hierarchy.
fn cgroups_of(command: &str, uid: u32) -> Result<Vec<std::path::PathBuf>> {
    let cgroups = cordium_tests::process::processes()
        .into_iter()
        .filter(|pid| cordium_tests::process::command_line(*pid).as_deref() == Some(command))
        .find_map(|pid| std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok())
        .unwrap_or_default();
    let base = format!("/cordium-{uid}/");
    let name = cgroups
        .lines()
        .find_map(|line| Some(line.strip_prefix("0::")?.split_once(&base)?.1.split('/').next()?.to_owned()));
    let Some(name) = name else { return skip("no delegated unified hierarchy on this machine") };
    let all = cordium_tests::delegation::subtrees(uid).into_iter().map(|subtree| subtree.join(&name));
    Ok(all.filter(|dir| dir.is_dir()).collect())
}

async fn a_read_only_root_has_containers_too(n: Arc<Nested>) -> Result<()> {
    let w = n.f.run("ro", &image(&n.f, json!({"runtime": {"filesystem": {"readOnly": true}}}))).await?;
    ensure!(w.root("touch /etc/x").await?.code() != 0, "the root can be written");
    for out in both(
        &w,
        &format!(
            "{}; podman run --rm localhost/tiny echo ran",
            containers::podman_import(containers::BUSYBOX)
        ),
    )
    .await?
    {
        ensure!(out.ends_with("ran"), "{out}");
    }
    w.delete().await
}
