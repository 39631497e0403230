//! Image: any image starts; one that is missing or closed fails with a message, and the same workspace starts once mended.
//! Images and registries that are hostile are in the group `hostile_images`.

use std::{process::ExitCode, sync::Arc};

use cordium_tests::{
    Context, Fixture, Result, Suite, Workspace, ensure, ensure_eq, images, json,
    oci::{self, Compression, Config, LayerWriter, Layout},
    registry::Registry,
    spec::with_image,
    v1::{Failure, Kind, UpdateRequest, WorkspaceState as State, failure::Type},
    watch::names,
    workspace::put_secret,
};

fn main() -> ExitCode {
    Suite::new("image")
        .case("missing_image_fails_and_starts_once_mended", missing_image)
        .case("missing_tag", missing_tag)
        .case("image_without_glibc", image_without_glibc)
        .case("image_of_one_static_program", image_of_one_static_program)
        .case("layers_replace_delete_and_hide", layers_replace_delete_and_hide)
        .case("registry_with_a_password", registry_with_a_password)
        .case("oci_layout_and_docker_archive", oci_layout_and_docker_archive)
        .case("layers_are_shared_and_pulled_once", layers_are_shared_and_pulled_once)
        .case("list_pull_remove_prune", list_pull_remove_prune)
        .run(|| Fixture::start("image"))
}

/// Runs a workspace whose image is bad to its end.
async fn fail(f: &Fixture, name: &str, reference: &str) -> Result<(Workspace, Failure)> {
    let w = f.create(name, &with_image(reference, json!({}))).await?;
    let (watch, workspace) = w.start_to_end().await?;
    ensure!(!watch.seen.contains(&State::StartingRuntime), "went on after {}", names(&watch.seen));
    let status = workspace.status.context("there is no status")?;
    ensure_eq!(status.successful_runs, 0);
    let failure = status.failure.context("there is no failure")?;
    ensure!(matches!(failure.r#type, Some(Type::ImagePull(_))), "the failure is {failure:?}");
    ensure!(failure.message.len() > 20, "the message says little: {}", failure.message);
    let run = status.run.or_else(|| status.last_runs.first().cloned()).context("there is no run")?;
    ensure!(run.failure.is_some(), "the run does not know its failure");
    Ok((w, failure))
}

async fn mend(w: &Workspace, spec: &serde_json::Value) -> Result<()> {
    let mut request =
        UpdateRequest { r#ref: w.uid.clone(), spec_json: Some(spec.to_string()), ..Default::default() };
    request.set_kind(Kind::Workspace);
    w.clients.control.clone().update(request).await?;
    w.start().await.map(drop)
}

async fn missing_image(f: Arc<Fixture>) -> Result<()> {
    let (w, failure) = fail(&f, "missing", &f.image("no/such/image:1.0")).await?;
    ensure!(failure.message.contains("no/such/image"), "{}", failure.message);
    mend(&w, &f.small(json!({}))).await?;
    ensure!(w.ok("cat /etc/os-release").await?.contains("busybox-musl"), "it is another image");
    ensure!(w.ok("id -u").await? != "0", "commands run as root");
    w.ok("touch /workspace/x").await?;
    w.delete().await
}

async fn missing_tag(f: Arc<Fixture>) -> Result<()> {
    let (w, failure) = fail(&f, "tag", &f.image("cordium/base:no-such-tag")).await?;
    ensure!(failure.message.contains("no-such-tag"), "{}", failure.message);
    w.delete().await
}

async fn image_without_glibc(f: Arc<Fixture>) -> Result<()> {
    let w = f.run("musl", &f.small(json!({}))).await?;
    ensure!(w.ok("id -u").await? != "0", "commands run as root");
    w.ok("[ \"$(id -un)\" != root ] && touch /workspace/x \"$HOME/x\" && [ -x /lib/ld-musl-x86_64.so.1 -o -x /lib/ld-musl-aarch64.so.1 ]").await?;
    ensure_eq!(w.root_ok("id -u").await?, "0");
    w.delete().await
}

async fn image_of_one_static_program(f: Arc<Fixture>) -> Result<()> {
    let w = f.run("scratch", &with_image(&f.image(images::SCRATCH), json!({}))).await?;
    let id = w.exec(&["/busybox", "id", "-u"]).await?;
    ensure!(id.code() == 0 && id.out() != "0", "{id:?}");
    let written = w.exec(&["/busybox", "touch", "/workspace/x"]).await?;
    ensure!(written.code() == 0, "{written:?}");
    ensure_eq!(w.exec(&["sh"]).await?.code(), 127);
    w.delete().await
}

async fn layers_replace_delete_and_hide(f: Arc<Fixture>) -> Result<()> {
    let w = f.run("layers", &with_image(&f.image(images::LAYERS), json!({}))).await?;
    let start = |script: &str| cordium_tests::v1::ExecStart {
        command: cordium_tests::workspace::owned(&["/busybox", "sh", "-c", script]),
        run_as_root: true,
        ..Default::default()
    };
    let check = |script: &'static str, expected: &'static str| {
        let (w, start) = (w.clone(), start(script));
        async move {
            let output = w.exec_with(start, None).await?;
            ensure!(output.out() == expected, "`{script}`: {output:?}, expected {expected}");
            Ok(())
        }
    };
    check("/busybox ls -A /dir", "kept").await?;
    check("/busybox stat -c %a /dir/kept", "600").await?;
    check("/busybox ls -A /hidden", "above").await?;
    check("/busybox stat -c %a /hidden", "700").await?;
    check("/busybox cat /replaced; /busybox stat -c %a /replaced", "top4755").await?;
    check("/busybox stat -c %u:%g:%a /owned", "1234:5678:640").await?;
    w.delete().await
}

async fn registry_with_a_password(f: Arc<Fixture>) -> Result<()> {
    let dir = f.dir.join("private");
    let registry = Registry::start_private(&dir.join("storage"), &dir, "robot", "p4ss word")?;
    let image = images::all()?.into_iter().find(|image| image.name == images::MUSL).context("no image")?;
    registry.push(&image.layout, "image", "secret/tool:1")?;
    let reference = registry.reference("secret/tool:1");
    let (w, failure) = fail(&f, "nopass", &reference).await?;
    let text = failure.message.to_lowercase();
    ensure!(text.contains("auth") || text.contains("credential") || text.contains("password"), "{text}");
    put_secret(&f.clients, "robot-password", "p4ss word").await?;
    let login = json!({"username": "robot", "password": {"fromSecret": "robot-password"}});
    mend(&w, &with_image(&reference, json!({"image": {"registry": {"authentication": login}}}))).await?;
    w.delete().await
}

async fn oci_layout_and_docker_archive(f: Arc<Fixture>) -> Result<()> {
    let image = images::all()?.into_iter().find(|image| image.name == images::MUSL).context("no image")?;
    // The supervisor's user must be able to read it.
    let (layout, archive) = (f.dir.join("layout"), f.dir.join("archive.tar"));
    cordium_tests::process::sh(
        "cp",
        &["-r", &image.layout.dir().to_string_lossy(), &layout.to_string_lossy()],
    )?;
    cordium_tests::process::sh("chmod", &["-R", "a+rX", &layout.to_string_lossy()])?;
    let from = format!("oci:{}:image", layout.display());
    let to = format!("docker-archive:{}:tool:1", archive.display());
    cordium_tests::process::sh("skopeo", &["copy", "--quiet", "--insecure-policy", &from, &to])?;
    cordium_tests::process::sh("chmod", &["a+r", &archive.to_string_lossy()])?;
    for (name, reference) in [("layout", from), ("archive", format!("docker-archive:{}", archive.display()))]
    {
        let w = f.run(name, &with_image(&reference, json!({}))).await?;
        ensure!(w.ok("cat /etc/os-release").await?.contains("busybox-musl"), "it is another image");
        w.delete().await?;
    }
    Ok(())
}

fn one_layer(
    f: &Fixture,
    name: &str,
    fill: impl FnOnce(&mut tar::Builder<LayerWriter>) -> Result<()>,
) -> Result<Layout> {
    let layout = Layout::create(&f.dir.join(name))?;
    let layer = layout.tar_layer(Compression::Gzip, fill)?;
    layout.image("image", &[layer], &Config::default())?;
    Ok(layout)
}

fn small_layout(f: &Fixture, name: &str) -> Result<Layout> {
    one_layer(f, name, |tar| {
        let noise: Vec<u8> = (0..200_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        oci::file(tar, "name", 0o644, name.as_bytes())?;
        oci::file(tar, "noise", 0o644, &noise)
    })
}

async fn layers_are_shared_and_pulled_once(f: Arc<Fixture>) -> Result<()> {
    // Both are on the base image's layers, and both are asked for at once.
    let base = f.base(json!({}));
    let tini = with_image(&f.image(images::TINI), json!({}));
    let (one, two, three) = tokio::join!(f.run("sh1", &base), f.run("sh2", &base), f.run("sh3", &tini));
    let (one, two, three) = (one?, two?, three?);
    let images =
        f.clients.node.clone().list_images(cordium_tests::v1::ListImagesRequest {}).await?.into_inner().items;
    let find =
        |name: &str| images.iter().find(|image| image.reference.ends_with(name)).map(|image| image.in_use);
    ensure_eq!((find(images::BASE), find(images::TINI)), (Some(true), Some(true)));
    let layers = std::fs::read_dir(f.node.state().join("images/layers"))?.flatten().count();
    let wanted: u32 = images.iter().map(|image| image.layers).sum();
    ensure!(
        (layers as u32) < wanted,
        "{layers} layer directories for {wanted} layers of images: nothing is shared"
    );
    for w in [one, two, three] {
        w.delete().await?;
    }
    Ok(())
}

async fn list_pull_remove_prune(f: Arc<Fixture>) -> Result<()> {
    let cli = f.cli();
    f.registry.push(&small_layout(&f, "lprune")?, "image", "cordium/prune:latest")?;
    let reference = f.image("cordium/prune:latest");
    cli.ok(&["image", "pull", &reference]).await?;
    ensure!(cli.ok(&["image", "list"]).await?.contains(&reference), "a pulled image is not listed");
    // Of its own: an image with a second name may lose one of them.
    f.registry.push(&small_layout(&f, "linuse")?, "image", "cordium/in-use:latest")?;
    let used = f.image("cordium/in-use:latest");
    let in_use = f.run("inuse", &with_image(&used, json!({}))).await?;
    let refused = cli.run(&["image", "rm", &used]).await?;
    ensure!(refused.code != 0 && refused.err.contains("in use"), "an image in use was removed: {refused:?}");
    cli.ok(&["image", "rm", &reference]).await?;
    ensure!(!cli.ok(&["image", "list"]).await?.contains(&reference), "a removed image is listed");
    cli.ok(&["image", "prune"]).await?;
    ensure!(cli.ok(&["image", "list"]).await?.contains(&used), "an image in use was pruned");
    ensure_eq!(in_use.status().await?.state(), State::Running);
    in_use.delete().await
}
