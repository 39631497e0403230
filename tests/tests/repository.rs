//! Repository: clones of every kind, and repositories that do not exist, need a password, or hang.

use std::{
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use cordium_tests::{
    Context, Fixture, Result, Suite, Workspace, ensure, ensure_eq, git, json,
    v1::{Failure, Kind, UpdateRequest, WorkspaceState as State, failure::Type},
    workspace::put_secret,
};
use serde_json::Value;

fn main() -> ExitCode {
    Suite::new("repository")
        .case("clones_with_history", clones_with_history)
        .case("branch_depth_and_checkout", branch_depth_and_checkout)
        .case("additional_repositories", additional_repositories)
        .case("submodules", submodules)
        .case("password_from_a_secret_stays_out_of_the_clone", password_from_a_secret)
        .case("missing_repository_fails_and_starts_once_mended", missing_repository)
        .case("password_is_needed", password_is_needed)
        .case("wrong_password", wrong_password)
        .case("additional_repository_fails_by_name", additional_fails)
        .case("a_hanging_repository_can_be_stopped", hanging_repository)
        .case("a_hanging_repository_fails_by_itself_and_starts_once_mended", hanging_fails)
        .case("a_second_start_does_not_clone_again", second_start)
        .run(|| Fixture::start("repository"))
}

fn with_repository(f: &Fixture, repository: Value) -> Value {
    f.base(json!({"repository": repository}))
}

async fn fail(f: &Fixture, name: &str, spec: &Value) -> Result<(Workspace, Failure)> {
    let w = f.create(name, spec).await?;
    let started = Instant::now();
    let (watch, workspace) = w.start_to_end().await?;
    ensure!(!watch.seen.contains(&State::Running), "RUNNING was reached");
    ensure!(started.elapsed() < Duration::from_secs(90), "it took {:?}", started.elapsed());
    Ok((w, workspace.status.context("there is no status")?.failure.context("there is no failure")?))
}

/// Gives a workspace another spec and starts it.
async fn mend(w: &Workspace, spec: &Value) -> Result<()> {
    let mut request =
        UpdateRequest { r#ref: w.uid.clone(), spec_json: Some(spec.to_string()), ..Default::default() };
    request.set_kind(Kind::Workspace);
    w.clients.control.clone().update(request).await?;
    w.start().await.map(drop)
}

async fn clones_with_history(f: Arc<Fixture>) -> Result<()> {
    let w = f.run("clone", &with_repository(&f, json!({"url": f.git.url("demo")}))).await?;
    ensure_eq!(w.ok("cat /workspace/repo/README.md").await?, "# Demo");
    // The full history comes lazily, after the first shallow clone.
    w.ok("cd /workspace/repo && for i in $(seq 100); do [ $(git log --oneline | wc -l) = 2 ] && exit 0; sleep 0.1; done; exit 1").await?;
    ensure_eq!(w.ok("stat -c %U /workspace/repo/README.md").await?, w.ok("id -un").await?);
    ensure_eq!(w.ok("cd /workspace/repo && git status --porcelain").await?, "");
    w.ok("cd /workspace/repo && timeout 20 git fetch --quiet").await?;
    w.delete().await
}

async fn branch_depth_and_checkout(f: Arc<Fixture>) -> Result<()> {
    let options =
        json!({"branch": "feature", "depth": 1, "singleBranch": true, "disableLazyUnshallow": true});
    let w = f
        .run("branch", &with_repository(&f, json!({"url": f.git.url("demo"), "cloneOptions": options})))
        .await?;
    ensure_eq!(
        w.ok("cd /workspace/repo && cat FEATURE && git log --oneline | wc -l && git branch --show-current")
            .await?,
        "on the branch\n1\nfeature"
    );
    w.delete().await?;
    let options = json!({"checkout": "v1"});
    let w = f
        .run("tagged", &with_repository(&f, json!({"url": f.git.url("demo"), "cloneOptions": options})))
        .await?;
    ensure_eq!(w.ok("cd /workspace/repo && git describe --tags").await?, "v1");
    w.delete().await
}

async fn additional_repositories(f: Arc<Fixture>) -> Result<()> {
    let spec = f.base(json!({
        "repository": {"url": f.git.url("demo")},
        "additionalRepositories": [{"name": "library", "repository": {"url": f.git.url("library")}}],
    }));
    let w = f.run("more", &spec).await?;
    ensure_eq!(w.ok("cat /workspace/additional-repos/library/lib.txt").await?, "library");
    ensure_eq!(w.ok("cat /workspace/repo/README.md").await?, "# Demo");
    w.delete().await
}

async fn submodules(f: Arc<Fixture>) -> Result<()> {
    let w = f.run("subm", &with_repository(&f, json!({"url": f.git.url("with-module")}))).await?;
    ensure_eq!(w.ok("cat /workspace/repo/module/lib.txt").await?, "library");
    w.delete().await
}

fn private(f: &Fixture, secret: &str) -> Value {
    with_repository(
        f,
        json!({"url": f.git.url("private"),
        "authentication": {"http": {"username": git::USERNAME, "password": {"fromSecret": secret}}}}),
    )
}

async fn password_from_a_secret(f: Arc<Fixture>) -> Result<()> {
    put_secret(&f.clients, "git-password", git::PASSWORD).await?;
    let w = f.run("private", &private(&f, "git-password")).await?;
    ensure_eq!(w.ok("cat /workspace/repo/SECRET").await?, "only with a password");
    let leaked =
        w.root("grep -rl 'correct horse' /workspace /home /root /etc /tmp /var/tmp 2>/dev/null").await?;
    ensure_eq!(leaked.out(), "");
    ensure!(!w.ok("cat /workspace/repo/.git/config").await?.contains('@'), "the URL has a user name");
    ensure!(!w.log_text(None).await?.contains("correct horse"), "the password is in the log");
    ensure_eq!(w.root("tr '\\0' '\\n' < /proc/1/environ | grep 'correct horse'").await?.out(), "");
    w.delete().await
}

async fn missing_repository(f: Arc<Fixture>) -> Result<()> {
    let (w, failure) =
        fail(&f, "nogit", &with_repository(&f, json!({"url": f.git.url("no-such-thing")}))).await?;
    ensure!(matches!(failure.r#type, Some(Type::RepoClone(_))), "{failure:?}");
    let text = failure.message.to_lowercase();
    ensure!(
        text.contains("not found") || text.contains("404"),
        "git's words are missing: {}",
        failure.message
    );
    mend(&w, &with_repository(&f, json!({"url": f.git.url("demo")}))).await?;
    ensure_eq!(w.ok("cat /workspace/repo/README.md").await?, "# Demo");
    w.delete().await
}

async fn password_is_needed(f: Arc<Fixture>) -> Result<()> {
    let (w, failure) = fail(&f, "needpw", &with_repository(&f, json!({"url": f.git.url("private")}))).await?;
    ensure!(matches!(failure.r#type, Some(Type::RepoClone(_))), "{failure:?}");
    put_secret(&f.clients, "needed-password", git::PASSWORD).await?;
    mend(&w, &private(&f, "needed-password")).await?;
    ensure_eq!(w.ok("cat /workspace/repo/SECRET").await?, "only with a password");
    w.delete().await
}

async fn wrong_password(f: Arc<Fixture>) -> Result<()> {
    put_secret(&f.clients, "wrong-password", "nonsense-password").await?;
    let (w, failure) = fail(&f, "wrongpw", &private(&f, "wrong-password")).await?;
    ensure!(matches!(failure.r#type, Some(Type::RepoClone(_))), "{failure:?}");
    ensure!(
        !failure.message.contains("nonsense-password"),
        "the password is in the message: {}",
        failure.message
    );
    w.delete().await
}

async fn additional_fails(f: Arc<Fixture>) -> Result<()> {
    let spec = f.base(json!({
        "repository": {"url": f.git.url("demo")},
        "additionalRepositories": [{"name": "gone", "repository": {"url": f.git.url("no-such-thing")}}],
    }));
    let (w, failure) = fail(&f, "morebad", &spec).await?;
    ensure!(
        matches!(&failure.r#type, Some(Type::AdditionalRepoClone(named)) if named.name == "gone"),
        "{failure:?}"
    );
    w.delete().await
}

async fn hanging_repository(f: Arc<Fixture>) -> Result<()> {
    let w = f.create("hang", &with_repository(&f, json!({"url": f.git.url("hang")}))).await?;
    let mut watch = w.watch().await?;
    w.request_start(&[]).await?;
    let preparing =
        |event: &cordium_tests::v1::WorkspaceEvent| cordium_tests::watch::state_of(event) == State::Preparing;
    watch.until(Duration::from_secs(60), preparing).await?;
    let started = Instant::now();
    w.request_stop(false).await?;
    watch.stopped(Duration::from_secs(60)).await?;
    ensure!(started.elapsed() < Duration::from_secs(20), "the stop took {:?}", started.elapsed());
    w.delete().await
}

async fn hanging_fails(f: Arc<Fixture>) -> Result<()> {
    // Git gives a silent server a minute; whoever wants another time sets git's own variable for it.
    let patience = json!([{"key": "GIT_HTTP_LOW_SPEED_TIME", "value": "2"}]);
    let spec = |name: &str| {
        f.base(json!({"repository": {"url": f.git.url(name)}, "runtime": {"envVars": patience}}))
    };
    let (w, failure) = fail(&f, "hangs", &spec("hang")).await?;
    ensure!(matches!(failure.r#type, Some(Type::RepoClone(_))), "{failure:?}");
    ensure!(
        failure.message.to_lowercase().contains("too slow"),
        "git's words are missing: {}",
        failure.message
    );
    mend(&w, &spec("demo")).await?;
    ensure_eq!(w.ok("cat /workspace/repo/README.md").await?, "# Demo");
    w.delete().await
}

async fn second_start(f: Arc<Fixture>) -> Result<()> {
    let w = f.run("again", &with_repository(&f, json!({"url": f.git.url("demo")}))).await?;
    w.ok("echo mine >> /workspace/repo/README.md").await?;
    w.stop().await?;
    w.start().await?;
    ensure_eq!(w.ok("tail -1 /workspace/repo/README.md").await?, "mine");
    w.delete().await
}
