//! Repositories and dotfiles, from a real `git http-backend`.

use cordium_proto::v1::failure::Type;
use cordium_proto::v1::{Dotfiles, LogSource, LogsRequest, PrepareRequest, Repository, TaskType};

use crate::git_server::GitServer;
use crate::harness::{Image, Sandbox, is_root, request, task};

const TWO_BRANCHES: &str = "echo one > file; commit one; echo two > file; commit two; \
    git checkout -q -b dev; echo dev > file; commit dev; git checkout -q main; git tag v1 HEAD~1";

fn with(repository: Repository) -> PrepareRequest {
    PrepareRequest { repository: Some(repository), ..request() }
}

fn at(url: String) -> Repository {
    Repository { url, ..Repository::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn primary_and_additional_with_a_secret_that_is_written_nowhere() {
    if !is_root() {
        return;
    }
    let server = GitServer::start();
    server.repository("private.git", TWO_BRANCHES);
    server.repository("lib.git", "echo lib > lib; commit lib");
    let primary =
        Repository { username: "me".into(), password: "s3cret".into(), ..at(server.url("private.git")) };
    let additional = vec![
        Repository { name: "lib".into(), path: "/workspace/libs/lib".into(), ..at(server.url("lib.git")) },
        // The credential may also stand in the address.
        Repository {
            name: "dev".into(),
            branch: "dev".into(),
            ..at(server.url("private.git").replace("//", "//me:s3cret@"))
        },
    ];
    let tasks = vec![task(
        "see",
        TaskType::OnCreate,
        "cat /workspace/repo/file /workspace/libs/lib/lib /workspace/dev/file > /tmp/seen; env > /tmp/env",
    )];
    let sandbox = Sandbox::new(Image::Host).await;
    sandbox.prepare(PrepareRequest { additional_repositories: additional, tasks, ..with(primary) }).await;
    let warnings = sandbox.warnings().await;
    assert!(!warnings.iter().any(|w| w.contains("shallow") || w.contains("clone")), "{warnings:?}");
    assert_eq!(sandbox.sh("cat /tmp/seen").await.out(), "two\nlib\ndev");
    let state = sandbox.sh("cd /workspace/repo && git rev-list --count HEAD && git rev-parse --is-shallow-repository && git branch -r && git remote get-url origin && stat -c %U:%G . .git && stat -c %u ../libs").await;
    let name = sandbox.sh("id -un").await.out().to_owned();
    let owner = format!("{name}:{}", sandbox.sh("id -gn").await.out());
    let uid = sandbox.sh("id -u").await.out().to_owned();
    assert_eq!(
        state.out(),
        format!(
            "2\nfalse\n  origin/HEAD -> origin/main\n  origin/dev\n  origin/main\n{}\n{owner}\n{owner}\n{uid}",
            server.url("private.git")
        )
    );
    let found = sandbox
        .root_sh("grep -rl s3cret /workspace /tmp/env /home/ /root/.git* /etc/gitconfig 2>/dev/null")
        .await;
    assert_eq!(found.out(), "", "{found}", found = found.out());
    let log = sandbox.log_text().await;
    assert!(log.contains("Cloning into '/workspace/repo'") && !log.contains("s3cret"), "{log}");
    let entries = sandbox.logs(LogsRequest::default()).await;
    assert!(entries.iter().any(|entry| entry.source() == LogSource::Clone && entry.name == "lib"));
    let elsewhere =
        server.seen.lock().unwrap().iter().any(|(path, sent)| path.starts_with("/lib") && sent.is_some());
    assert!(!elsewhere, "no credential for a repository that was given none");
}

#[tokio::test(flavor = "multi_thread")]
async fn branch_depth_checkout_and_submodules() {
    if !is_root() {
        return;
    }
    let server = GitServer::start();
    let sub = server.repository("sub.git", "echo sub > sub; commit sub");
    let address = server.url("sub.git");
    let script = format!(
        "{TWO_BRANCHES}; git -c protocol.file.allow=always submodule add -q '{}' inner; git config -f .gitmodules submodule.inner.url '{address}'; commit sub",
        sub.display()
    );
    let bare = server.repository("main.git", &script);
    let commit = |name: &str| {
        let done = std::process::Command::new("git")
            .arg("-C")
            .arg(&bare)
            .args(["rev-parse", name])
            .output()
            .unwrap();
        String::from_utf8(done.stdout).unwrap().trim().to_owned()
    };
    let named = |name: &str| Repository { name: name.into(), ..at(server.url("main.git")) };
    let additional_repositories = vec![
        Repository { checkout: commit("main~1"), ..named("sha") },
        Repository { checkout: "v1".into(), ..named("tag") },
        Repository { checkout: "dev".into(), ..named("branch") },
        Repository { depth: 1, single_branch: true, shallow_submodules: true, ..named("shallow") },
        Repository { disable_unshallow: true, ..named("whole") },
    ];
    let sandbox = Sandbox::new(Image::Host).await;
    sandbox.prepare(PrepareRequest { additional_repositories, ..with(at(server.url("main.git"))) }).await;
    sandbox.wait_running().await;
    let see = "cd /workspace; for d in repo sha tag branch shallow whole; do echo $d $(cat $d/file) $(cat $d/inner/sub 2>/dev/null) $(git -C $d rev-parse --is-shallow-repository) $(git -C $d branch --show-current); done";
    assert_eq!(
        sandbox.sh(see).await.out(),
        "repo two sub false main\nsha two false\ntag one false\nbranch dev false dev\nshallow two sub true main\nwhole two sub false main"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_carry_the_words_of_git() {
    if !is_root() {
        return;
    }
    let server = GitServer::start();
    server.repository("private.git", TWO_BRANCHES);
    let wrong =
        Repository { username: "me".into(), password: "wrong".into(), ..at(server.url("private.git")) };
    let cases = [
        (at(server.url("missing.git")), "not found"),
        (at(server.url("private.git")), "could not read Username"),
        (wrong, "Authentication failed"),
        (
            Repository {
                branch: "nope".into(),
                username: "me".into(),
                password: "s3cret".into(),
                ..at(server.url("private.git"))
            },
            "Remote branch nope not found",
        ),
        (at("http://127.0.0.1:1/x.git".into()), "Failed to connect"),
        (at("file:///etc".into()), "must begin with https://"),
    ];
    for (repository, words) in cases {
        let sandbox = Sandbox::new(Image::Host).await;
        sandbox.prepare(with(repository)).await;
        let failure = sandbox.wait_failure().await;
        assert!(matches!(failure.r#type, Some(Type::RepoClone(_))), "{failure:?}");
        assert!(failure.message.contains(words), "{failure:?}");
        assert!(!failure.message.contains("wrong"), "{failure:?}");
    }
    let sandbox = Sandbox::new(Image::Host).await;
    let missing = Repository { name: "extra".into(), ..at(server.url("missing.git")) };
    sandbox.prepare(PrepareRequest { additional_repositories: vec![missing], ..request() }).await;
    let failure = sandbox.wait_failure().await;
    assert!(matches!(failure.r#type, Some(Type::AdditionalRepoClone(named)) if named.name == "extra"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_hangs_and_an_image_without_git() {
    if !is_root() {
        return;
    }
    let server = GitServer::start();
    let sandbox = Sandbox::new(Image::Host).await;
    sandbox.prepare(PrepareRequest { startup_timeout_ms: 1500, ..with(at(server.url("hang.git"))) }).await;
    let failure = sandbox.wait_failure().await;
    assert!(matches!(failure.r#type, Some(Type::StartupTimeoutExceeded(_))), "{failure:?}");
    assert!(failure.message.contains("hang.git"), "{failure:?}");

    let sandbox = Sandbox::new(Image::Busybox).await;
    sandbox.prepare(with(at("https://example.invalid/x.git".into()))).await;
    let failure = sandbox.wait_failure().await;
    assert!(failure.message.contains("the image has no `git`: add it to the image"), "{failure:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unfinished_clone_is_done_again_and_a_finished_one_left_alone() {
    if !is_root() {
        return;
    }
    let server = GitServer::start();
    server.repository("main.git", TWO_BRANCHES);
    let sandbox = Sandbox::new(Image::Host).await;
    // What a crash in the middle of an earlier run leaves, made through the sandbox's own view of its files.
    let view = sandbox.view();
    for (path, mark) in [("workspace/repo/.git", Some("cloning-_workspace_repo")), ("workspace/kept", None)] {
        std::fs::create_dir_all(view.join(path)).unwrap();
        std::fs::write(view.join(path).join("half"), "x").unwrap();
        if let Some(mark) = mark {
            std::fs::create_dir_all(view.join("var/lib/cordium")).unwrap();
            std::fs::write(view.join("var/lib/cordium").join(mark), "").unwrap();
        }
    }
    let kept = Repository { name: "kept".into(), ..at(server.url("main.git")) };
    let request = PrepareRequest {
        additional_repositories: vec![kept],
        fresh: false,
        ..with(at(server.url("main.git")))
    };
    sandbox.prepare(request).await;
    let warnings = sandbox.warnings().await;
    assert!(warnings.iter().any(|w| w.contains("/workspace/kept holds other files")), "{warnings:?}");
    let state = sandbox
        .sh("cat /workspace/repo/file; ls /workspace/repo/.git/half /workspace/kept; ls /var/lib/cordium")
        .await;
    assert_eq!(state.out(), "two\n/workspace/kept:\nhalf");
}

#[tokio::test(flavor = "multi_thread")]
async fn dotfiles_are_installed_once_and_only_warn() {
    if !is_root() {
        return;
    }
    let server = GitServer::start();
    server.repository("dots.git", "printf '#!/bin/sh\\necho installed as $(id -u) in $(pwd) > ~/result\\n' > setup.sh; chmod +x setup.sh; echo no > install; commit dots");
    let dotfiles = |name: &str| Some(Dotfiles { url: server.url(name), ..Dotfiles::default() });
    let sandbox = Sandbox::new(Image::Host).await;
    sandbox.prepare(PrepareRequest { dotfiles: dotfiles("dots.git"), ..request() }).await;
    sandbox.wait_running().await;
    let uid = sandbox.sh("id -u").await.out().to_owned();
    let home = sandbox.sh("echo $HOME").await.out().to_owned();
    assert_eq!(sandbox.sh("cat ~/result").await.out(), format!("installed as {uid} in {home}/dotfiles"));

    let sandbox = Sandbox::new(Image::Host).await;
    sandbox.prepare(PrepareRequest { dotfiles: dotfiles("none.git"), ..request() }).await;
    let warnings = sandbox.warnings().await;
    assert!(warnings.iter().any(|w| w.starts_with("dotfiles were not installed: git clone")), "{warnings:?}");
}
