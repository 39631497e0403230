//! Volumes: data that outlives workspaces, who may mount it at a time, and what an image or a name cannot do with it.

use std::{path::PathBuf, process::ExitCode, sync::Arc};

use cordium_tests::{
    Context, Fixture, Result, Suite, Workspace,
    client::{Clients, refused},
    ensure, ensure_eq, images, json,
    oci::{self, Compression, Config, Layout},
    spec::with_image,
    v1::{
        CreateRequest, DeleteResourceRequest, DeleteVolumeRequest, GetRequest, Kind, Resource, VolumeStatus,
        failure::Type, volume_status::State,
    },
};
use nix::sys::signal::Signal;
use serde_json::Value;
use tonic::Code;

fn main() -> ExitCode {
    // One case ends the supervisor.
    Suite::new("volumes")
        .case("data_outlives_workspaces", data_outlives_workspaces)
        .case("an_exclusive_volume_has_one_workspace", an_exclusive_volume_has_one_workspace)
        .case("a_shared_volume_is_written_by_two", a_shared_volume_is_written_by_two)
        .case("a_read_only_mount_stays_read_only", a_read_only_mount_stays_read_only)
        .case("a_read_only_root_leaves_volumes_writable", a_read_only_root_leaves_volumes_writable)
        .case("what_is_in_use_is_not_deleted", what_is_in_use_is_not_deleted)
        .case("a_link_of_the_image_does_not_move_the_mount", a_link_of_the_image_does_not_move_the_mount)
        .case("a_link_of_the_tenant_does_not_move_the_mount", a_link_of_the_tenant_does_not_move_the_mount)
        .case("names_paths_and_sizes_are_checked", names_paths_and_sizes_are_checked)
        .case("templates_bring_mounts", templates_bring_mounts)
        .case("volumes_outlive_the_supervisors_sudden_end", volumes_outlive_the_supervisors_sudden_end)
        .case("the_command_line_handles_volumes", the_command_line_handles_volumes)
        .one_at_a_time()
        .run(|| Fixture::start("volumes"))
}

async fn make(clients: &Clients, name: &str, spec: Value) -> Result<String> {
    let mut request =
        CreateRequest { name: name.to_owned(), spec_json: spec.to_string(), ..Default::default() };
    request.set_kind(Kind::Volume);
    let made = clients.control.clone().create(request).await;
    let made = made.with_context(|| format!("creating volume {name}"))?.into_inner();
    Ok(made.metadata.context("volume has no metadata")?.uid)
}

async fn resource(clients: &Clients, name: &str) -> Result<Resource> {
    let mut request = GetRequest { r#ref: name.to_owned(), ..Default::default() };
    request.set_kind(Kind::Volume);
    Ok(clients.control.clone().get(request).await.context("getting a volume")?.into_inner())
}

async fn status(clients: &Clients, name: &str) -> Result<VolumeStatus> {
    resource(clients, name).await?.volume_status.context("volume has no status")
}

fn deletion(name: &str) -> DeleteResourceRequest {
    let mut request = DeleteResourceRequest { r#ref: name.to_owned(), ..Default::default() };
    request.set_kind(Kind::Volume);
    request
}

async fn remove(f: &Fixture, name: &str) -> Result<()> {
    let clients = f.node.clients().await?;
    let answer = clients.control.clone().delete(deletion(name)).await;
    let left = answer.with_context(|| format!("deleting volume {name}"))?.into_inner().warnings;
    ensure!(left.is_empty(), "something is left: {left:?}");
    Ok(())
}

/// A spec that mounts these (volume, path) pairs.
fn mounting(f: &Fixture, mounts: &[(&str, &str)]) -> Value {
    f.small(with_mounts(mounts))
}

fn with_mounts(mounts: &[(&str, &str)]) -> Value {
    let mounts: Vec<_> =
        mounts.iter().map(|(name, path)| json!({"volumeRef": {"name": name}, "mountPath": path})).collect();
    json!({"runtime": {"volumeMounts": mounts}})
}

/// Where a volume lies on the node.
fn on_node(f: &Fixture, uid: &str) -> PathBuf {
    f.node.state().join("volumes").join(uid)
}

async fn data_outlives_workspaces(f: Arc<Fixture>) -> Result<()> {
    let uid = make(&f.clients, "lasting", json!({"size": {"megabytes": 64}})).await?;
    ensure_eq!(status(&f.clients, "lasting").await?.state(), State::Pending);
    let w = f.run("first", &mounting(&f, &[("lasting", "/data/deep")])).await?;
    let told = status(&f.clients, "lasting").await?;
    ensure_eq!((told.state(), told.node.as_str(), told.capacity_mib), (State::Ready, "node-1", 64));
    ensure_eq!(told.mounted_by, ["first"]);
    // A directory has no quota: that is said, of the volume and of the workspace.
    ensure!(told.warnings.iter().any(|warning| warning.contains("not enforced")), "{:?}", told.warnings);
    let warnings = w.status().await?.warnings;
    ensure!(warnings.iter().any(|w| w.contains("\"lasting\", 64 MiB, is not enforced")), "{warnings:?}");

    ensure_eq!(w.root_ok("stat -c %u:%g:%a /data/deep").await?, "0:0:777");
    w.ok("echo user > /data/deep/f; mkdir /data/deep/d").await?;
    w.root_ok("echo root > /data/deep/r; chmod 600 /data/deep/r; chown 1234:5678 /data/deep/d").await?;
    let mount = w.ok("grep ' /data/deep ' /proc/self/mountinfo").await?;
    for option in ["rw", "nosuid", "nodev"] {
        ensure!(mount.split([' ', ',']).any(|word| word == option), "{option} is not in {mount}");
    }
    ensure!(!mount.contains("overlay"), "it lies on the overlay: {mount}");
    w.stop().await?;
    w.start().await?;
    ensure_eq!(w.ok("cat /data/deep/f").await?, "user");
    w.delete().await?;

    // Another workspace, ephemeral, at another path: also inside the home that is still to be made.
    let mut spec = mounting(&f, &[("lasting", "/home/cordium/kept")]);
    spec["isEphemeral"] = json!(true);
    let w = f.run("second", &spec).await?;
    ensure_eq!(w.ok("cat ~/kept/f && touch ~/kept/new ~/own && stat -c %U ~").await?, "user\ncordium");
    ensure_eq!(
        w.root_ok("cat ~cordium/kept/r; stat -c %u:%g /home/cordium/kept/d").await?,
        "root\n1234:5678"
    );
    w.delete().await?;
    ensure!(on_node(&f, &uid).join("data/new").exists(), "the volume went with an ephemeral workspace");
    remove(&f, "lasting").await?;
    ensure!(!on_node(&f, &uid).exists(), "the data of a deleted volume is still there");
    let left: Vec<_> =
        std::fs::read_dir(f.node.state().join("volumes"))?.flatten().map(|e| e.path()).collect();
    ensure!(left.is_empty(), "something is left: {left:?}");
    Ok(())
}

async fn an_exclusive_volume_has_one_workspace(f: Arc<Fixture>) -> Result<()> {
    make(&f.clients, "single", json!({})).await?;
    let spec = mounting(&f, &[("single", "/data")]);
    let holder = f.run("holder", &spec).await?;
    let second = f.create("second", &spec).await?;
    let error = second.request_start(&[]).await.err().context("two workspaces mount an exclusive volume")?;
    let text = format!("{error:#}").replace('\\', "");
    ensure!(text.contains("volume \"single\"") && text.contains("workspace \"holder\""), "{text}");
    ensure_eq!(second.status().await?.run, None);
    holder.ok("echo mine > /data/f").await?;
    holder.stop().await?;
    second.start().await?;
    ensure_eq!(second.ok("cat /data/f").await?, "mine");
    ensure!(holder.request_start(&[]).await.is_err(), "two workspaces mount an exclusive volume");
    for w in [holder, second] {
        w.delete().await?;
    }
    remove(&f, "single").await
}

async fn a_shared_volume_is_written_by_two(f: Arc<Fixture>) -> Result<()> {
    make(&f.clients, "common", json!({"accessMode": "ACCESS_MODE_SHARED"})).await?;
    let a = f.run("sa", &f.base(with_mounts(&[("common", "/one")]))).await?;
    let b = f.run("sb", &f.base(with_mounts(&[("common", "/two")]))).await?;
    ensure_eq!(status(&f.clients, "common").await?.mounted_by, ["sa", "sb"]);
    a.ok("echo a > /one/a; mkfifo /one/pipe").await?;
    b.ok("echo b > /two/b; cat /two/a").await?;
    ensure_eq!(a.ok("cat /one/a /one/b | tr -d '\\n'").await?, "ab");
    // The same file at the same moment: one is not a copy of the other.
    let (write, read) = tokio::join!(a.ok("echo through > /one/pipe"), b.ok("cat /two/pipe"));
    write?;
    ensure_eq!(read?, "through");
    // A program that gains root elsewhere does not do so from here.
    a.root_ok("cp /usr/bin/id /one/gain; chmod 4755 /one/gain").await?;
    ensure!(b.ok("/two/gain -u").await? != "0", "a set-id file of another workspace gives root");
    for w in [a, b] {
        w.delete().await?;
    }
    remove(&f, "common").await
}

async fn a_read_only_mount_stays_read_only(f: Arc<Fixture>) -> Result<()> {
    make(&f.clients, "fixed", json!({"accessMode": "ACCESS_MODE_SHARED"})).await?;
    let writer = f.run("writer", &mounting(&f, &[("fixed", "/data")])).await?;
    writer.ok("echo given > /data/f").await?;
    let mut spec = f.base(with_mounts(&[("fixed", "/data")]));
    spec["runtime"]["volumeMounts"][0]["readOnly"] = json!(true);
    let reader = f.run("reader", &spec).await?;
    ensure_eq!(reader.ok("cat /data/f").await?, "given");
    for script in [
        "echo x > /data/x",
        "rm /data/f",
        "chmod 700 /data",
        "mount -o remount,rw /data && echo x > /data/x",
        "mount -o remount,bind,rw /data && echo x > /data/x",
        "mkdir -p /mnt/again && mount --bind /data /mnt/again && mount -o remount,bind,rw /mnt/again && echo x > /mnt/again/x",
        "unshare -m sh -c 'mount -o remount,bind,rw /data && echo x > /data/x'",
        "unshare -Urm sh -c 'mount -o remount,bind,rw /data && echo x > /data/x'",
        // What lies below is the workspace's own root.
        "umount /data && ls /data/f",
    ] {
        let output = reader.root(script).await?;
        ensure!(output.code() != 0, "`{script}` was done: {output:?}");
    }
    ensure_eq!(writer.ok("ls /data").await?, "f");
    ensure_eq!(writer.ok("cat /data/f").await?, "given");
    for w in [reader, writer] {
        w.delete().await?;
    }
    remove(&f, "fixed").await
}

async fn a_read_only_root_leaves_volumes_writable(f: Arc<Fixture>) -> Result<()> {
    make(&f.clients, "beside", json!({})).await?;
    let mut spec = mounting(&f, &[("beside", "/data")]);
    spec["runtime"]["filesystem"] = json!({"readOnly": true});
    let w = f.run("fixedroot", &spec).await?;
    ensure!(w.root("touch /etc/x").await?.code() != 0, "the root is writable");
    w.ok("touch /data/x ~/x").await?;
    w.delete().await?;
    remove(&f, "beside").await
}

async fn what_is_in_use_is_not_deleted(f: Arc<Fixture>) -> Result<()> {
    let uid = make(&f.clients, "used", json!({})).await?;
    let w = f.run("user", &mounting(&f, &[("used", "/data")])).await?;
    w.ok("touch /data/f").await?;
    let mut control = f.clients.control.clone();
    let text = refused(control.delete(deletion("used")).await, Code::FailedPrecondition)?;
    ensure!(text.contains("\"used\"") && text.contains("\"user\""), "{text}");
    // Nor by whoever speaks to the node itself.
    let request = DeleteVolumeRequest { volume_uid: uid.clone() };
    refused(f.clients.node.clone().delete_volume(request).await, Code::FailedPrecondition)?;
    for bad in ["", "..", "../workspaces", "/", ".gone-x"] {
        let request = DeleteVolumeRequest { volume_uid: bad.to_owned() };
        refused(f.clients.node.clone().delete_volume(request).await, Code::InvalidArgument)?;
    }
    w.stop().await?;
    refused(control.delete(deletion("used")).await, Code::FailedPrecondition)?;
    w.start().await?;
    w.ok("ls /data/f").await?;
    w.delete().await?;
    remove(&f, "used").await?;
    refused(control.delete(deletion("used")).await, Code::NotFound)?;
    ensure!(!on_node(&f, &uid).exists(), "the data is still there");
    Ok(())
}

async fn a_link_of_the_image_does_not_move_the_mount(f: Arc<Fixture>) -> Result<()> {
    let program = std::fs::read("/bin/busybox").context("reading /bin/busybox")?;
    let layout = Layout::create(&f.dir.join("links"))?;
    let layer = layout.tar_layer(Compression::Gzip, |tar| {
        oci::file(tar, "busybox", 0o755, &program)?;
        oci::dir(tar, "etc", 0o755)?;
        oci::file(tar, "etc/passwd", 0o644, b"root:x:0:0:root:/root:/busybox\n")?;
        oci::file(tar, "file", 0o644, b"")?;
        oci::symlink(tar, "absolute", "/etc")?;
        oci::symlink(tar, "up", "../../../../../../../..")?;
        oci::symlink(tar, "root", "/")?;
        oci::symlink(tar, "proc-link", "/proc/self/root")?;
        oci::symlink(tar, "itself", "itself")?;
        oci::symlink(tar, "opt", "/run/cordium")
    })?;
    layout.image("image", &[layer], &Config::default())?;
    cordium_tests::process::sh("chmod", &["-R", "a+rX", &layout.dir().to_string_lossy()])?;
    let image = format!("oci:{}:image", layout.dir().display());
    let uid = make(&f.clients, "bait", json!({})).await?;
    for path in
        ["/absolute", "/up", "/up/x", "/root/x", "/proc-link/etc", "/itself", "/opt/bin", "/file", "/file/x"]
    {
        let w = f.create("hostile", &with_image(&image, with_mounts(&[("bait", path)]))).await?;
        let (watch, after) = w.start_to_end().await?;
        ensure!(!watch.seen.contains(&cordium_tests::v1::WorkspaceState::Running), "{path}: it ran");
        let failure = after.status.and_then(|status| status.failure).context("it failed without a word")?;
        let Some(Type::Volume(named)) = &failure.r#type else { cordium_tests::bail!("{path}: {failure:?}") };
        ensure_eq!(named.name, "bait");
        ensure!(failure.message.contains(&format!("mount target \"{path}\"")), "{path}: {}", failure.message);
        w.delete().await?;
    }
    // The same image is no hindrance where it has no link.
    let w = f.run("harmless", &with_image(&image, with_mounts(&[("bait", "/etc/cordium-data")]))).await?;
    let output = w.exec(&["/busybox", "touch", "/etc/cordium-data/x"]).await?;
    ensure!(output.code() == 0, "{output:?}");
    w.delete().await?;
    let found: Vec<_> =
        std::fs::read_dir(on_node(&f, &uid).join("data"))?.flatten().map(|e| e.file_name()).collect();
    ensure_eq!(found, ["x"]);
    remove(&f, "bait").await
}

async fn a_link_of_the_tenant_does_not_move_the_mount(f: Arc<Fixture>) -> Result<()> {
    make(&f.clients, "late", json!({})).await?;
    let w = f.run("tenant", &f.small(json!({}))).await?;
    w.root_ok("ln -s /etc /data").await?;
    w.stop().await?;
    let mut request = cordium_tests::v1::UpdateRequest {
        r#ref: w.uid.clone(),
        spec_json: Some(mounting(&f, &[("late", "/data")]).to_string()),
        ..Default::default()
    };
    request.set_kind(Kind::Workspace);
    w.clients.control.clone().update(request.clone()).await?;
    let (_, after) = w.start_to_end().await?;
    let failure = after.status.and_then(|status| status.failure).context("it failed without a word")?;
    ensure!(failure.message.contains("\"/data\" is a symbolic link"), "{}", failure.message);
    // The same workspace runs once the cause is mended.
    request.spec_json = Some(mounting(&f, &[("late", "/data2")]).to_string());
    w.clients.control.clone().update(request).await?;
    w.start().await?;
    w.ok("touch /data2/x && [ ! -e /etc/x ]").await?;
    w.delete().await?;
    remove(&f, "late").await
}

async fn names_paths_and_sizes_are_checked(f: Arc<Fixture>) -> Result<()> {
    make(&f.clients, "sound", json!({})).await?;
    let mut control = f.clients.control.clone();
    for (name, spec) in [
        ("", json!({})),
        ("..", json!({})),
        ("a/b", json!({})),
        ("A", json!({})),
        ("-a", json!({})),
        ("a.b", json!({})),
        (&"x".repeat(64), json!({})),
        ("zero", json!({"size": {"megabytes": 0}})),
        ("huge", json!({"size": {"megabytes": u64::MAX}})),
        ("text", json!({"size": {"megabytes": "64"}})),
        ("mode", json!({"accessMode": "ACCESS_MODE_ANY"})),
        ("unknown", json!({"path": "/etc"})),
    ] {
        let mut request =
            CreateRequest { name: name.to_owned(), spec_json: spec.to_string(), ..Default::default() };
        request.set_kind(Kind::Volume);
        refused(control.create(request).await, Code::InvalidArgument)
            .with_context(|| format!("{name:?} {spec}"))?;
    }
    for path in [
        "",
        "data",
        "./data",
        "/",
        "//",
        "/data/",
        "/a//b",
        "/a/./b",
        "/a/../etc",
        "/..",
        "/proc",
        "/proc/1",
        "/sys/fs/cgroup",
        "/dev",
        "/dev/shm",
        "/run",
        "/run/cordium",
        "/run/cordium/bin",
        "/workspace",
        "/workspace/x",
        "/cordium-volumes/x",
        "/etc",
        "/usr",
        "/bin",
        "/tmp",
        "/root",
        "/home",
        "/var",
        "/var/lib/docker",
        "/var/lib/containers/storage",
        "/a\0b",
        "/a\nb",
        &format!("/{}", "x".repeat(256)),
    ] {
        let mut request = CreateRequest {
            name: "bad".to_owned(),
            spec_json: mounting(&f, &[("sound", path)]).to_string(),
            ..Default::default()
        };
        request.set_kind(Kind::Workspace);
        let text = refused(control.create(request).await, Code::InvalidArgument)
            .with_context(|| format!("{path:?}"))?;
        ensure!(text.starts_with("spec.runtime.volumeMounts[0].mountPath: "), "{path:?}: {text}");
    }
    for (mounts, words) in [
        (&[("sound", "/a"), ("sound", "/a")][..], "volumeMounts[1].mountPath"),
        (&[("sound", "/a"), ("sound", "/a/b")], "volumeMounts[1].mountPath"),
        (&[("sound", "/a/b"), ("sound", "/a")], "volumeMounts[1].mountPath"),
        (&[("missing", "/a")], "\"missing\"; there is no such volume"),
        (&[("", "/a")], "volumeRef: was empty"),
        (&[("../sound", "/a")], "volumeRef.name"),
    ] {
        let mut request = CreateRequest {
            name: "bad".to_owned(),
            spec_json: mounting(&f, mounts).to_string(),
            ..Default::default()
        };
        request.set_kind(Kind::Workspace);
        let text = refused(control.create(request).await, Code::InvalidArgument)?;
        ensure!(text.contains(words), "{mounts:?}: {text}");
    }
    remove(&f, "sound").await
}

async fn templates_bring_mounts(f: Arc<Fixture>) -> Result<()> {
    make(&f.clients, "tools", json!({})).await?;
    make(&f.clients, "mine", json!({})).await?;
    cordium_tests::workspace::put_template(
        &f.clients,
        "with-tools",
        &with_mounts(&[("tools", "/opt/tools")]),
    )
    .await?;
    let create = |name: &str, path: &str| {
        let request = CreateRequest {
            name: name.to_owned(),
            template: "with-tools".to_owned(),
            spec_json: mounting(&f, &[("mine", path)]).to_string(),
            ..Default::default()
        };
        let clients = f.clients.clone();
        async move { Workspace::create_with(&clients, request).await }
    };
    let w = create("both", "/data").await?;
    w.start().await?;
    w.ok("touch /opt/tools/x /data/x").await?;
    let error = create("over", "/opt/tools/mine").await.err().context("two mounts overlap")?;
    ensure!(format!("{error:#}").contains("does not overlap /opt/tools"), "{error:#}");
    w.delete().await?;
    remove(&f, "tools").await?;
    remove(&f, "mine").await
}

async fn volumes_outlive_the_supervisors_sudden_end(f: Arc<Fixture>) -> Result<()> {
    let clients = f.node.clients().await?;
    make(&clients, "steady", json!({})).await?;
    let doomed = make(&clients, "doomed", json!({})).await?;
    let spec = mounting(&f, &[("steady", "/data")]);
    let w = Workspace::run(&clients, "steady-user", &spec).await?;
    let other = Workspace::create(&clients, "other", &spec).await?;
    let brief = Workspace::run(&clients, "brief", &mounting(&f, &[("doomed", "/data")])).await?;
    brief.root_ok("mkdir -p /data/a/b && touch /data/a/b/c").await?;
    brief.delete().await?;
    w.ok("echo before > /data/f").await?;
    f.node.end(Signal::SIGKILL)?;
    // As if it had been killed between the renaming and the end of the removal.
    std::fs::rename(on_node(&f, &doomed), f.node.state().join(format!("volumes/.gone-{doomed}")))?;
    f.node.launch()?;
    let clients = f.node.clients().await?;
    let (w, other) =
        (Workspace { clients: clients.clone(), ..w }, Workspace { clients: clients.clone(), ..other });
    let mut watch = w.watch().await?;
    let running =
        |event: &_| cordium_tests::watch::state_of(event) == cordium_tests::v1::WorkspaceState::Running;
    watch.until(std::time::Duration::from_secs(30), running).await?;
    ensure_eq!(w.ok("cat /data/f && echo after > /data/g").await?, "before");
    // Whose it is is known to the scheduler, and to the node, which had no scheduler to ask.
    ensure!(other.request_start(&[]).await.is_err(), "two workspaces mount an exclusive volume");
    let uid = resource(&clients, "steady").await?.metadata.context("volume has no metadata")?.uid;
    let request = DeleteVolumeRequest { volume_uid: uid };
    refused(clients.node.clone().delete_volume(request).await, Code::FailedPrecondition)?;
    let gone = f.node.state().join(format!("volumes/.gone-{doomed}"));
    cordium_tests::process::until("the sweep", std::time::Duration::from_secs(20), || {
        Ok((!gone.exists()).then_some(()))
    })?;
    w.delete().await?;
    other.start().await?;
    ensure_eq!(other.ok("cat /data/f /data/g | tr '\\n' ' '").await?, "before after");
    other.delete().await?;
    remove(&f, "doomed").await?;
    remove(&f, "steady").await
}

async fn the_command_line_handles_volumes(f: Arc<Fixture>) -> Result<()> {
    let cli = f.cli();
    let parse = |text: String| -> Result<Value> {
        serde_json::from_str(&text).with_context(|| format!("this is no JSON: {text}"))
    };
    let made = parse(cli.ok(&["volume", "create", "box", "--size", "1G", "--shared", "-o", "json"]).await?)?;
    ensure_eq!(made["spec"], json!({"size": {"megabytes": 1024}, "accessMode": "ACCESS_MODE_SHARED"}));
    ensure_eq!(made["status"]["state"], "PENDING");
    let image = f.image(images::MUSL);
    let run = ["run", "boxed", "--image", &image, "--volume", "box:/data", "--memory", "512", "--rm"];
    cli.ok(&[&run[..], &["--", "sh", "-c", "echo kept > /data/f"]].concat()).await?;
    let read = ["run", "boxed", "--image", &image, "--volume", "box:/mnt/in:ro", "--memory", "512", "--rm"];
    let text = cli
        .ok(&[&read[..], &["--", "sh", "-c", "cat /mnt/in/f; touch /mnt/in/x 2>&1 || true"]].concat())
        .await?;
    ensure!(text.contains("kept") && text.contains("Read-only"), "{text}");
    let list = cli.ok(&["volume", "list"]).await?;
    ensure!(list.lines().any(|line| line.starts_with("box") && line.contains("READY")), "{list}");
    let got = cli.ok(&["volume", "get", "box", "-o", "yaml"]).await?;
    ensure!(got.contains("kind: Volume") && got.contains("node: node-1"), "{got}");
    let absent =
        cli.run(&["run", "boxed", "--image", &image, "--volume", "absent:/data", "--", "true"]).await?;
    ensure!(absent.code != 0 && absent.err.contains("no such volume"), "{absent:?}");
    cli.ok(&["volume", "delete", "box"]).await?;
    let again = cli.run(&["volume", "delete", "box"]).await?;
    ensure!(again.code == 1 && again.err.contains("no volume \"box\""), "{again:?}");
    Ok(())
}
