//! Files that the agent makes, and a root that is read-only.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

use cordium_proto::v1::{HostEntry, PrepareRequest, TaskType};

use crate::harness::{Image, Sandbox, is_root, request, task};

#[tokio::test(flavor = "multi_thread")]
async fn names_user_and_sudo() {
    if !is_root() {
        return;
    }
    let sandbox = Sandbox::new(Image::Busybox).await;
    let hosts =
        vec![HostEntry { address: "100.127.255.253".into(), names: vec!["host.cordium.internal".into()] }];
    let user_dirs = vec!["/data/mine".to_owned()];
    let nameservers = vec!["100.127.255.253".into()];
    sandbox.prepare(PrepareRequest { hosts, nameservers, user_dirs, ..request() }).await;
    assert_eq!(sandbox.warnings().await, [""; 0]);
    let read = |path: &str| std::fs::read_to_string(sandbox.root.join(path)).unwrap();
    assert_eq!(read("etc/hostname"), "demo.test\n");
    assert!(read("etc/hosts").contains("100.127.255.253\thost.cordium.internal\n"));
    assert_eq!(read("etc/resolv.conf"), "nameserver 100.127.255.253\n");
    assert_eq!(read("etc/sudoers.d/cordium"), "cordium ALL=(ALL:ALL) NOPASSWD: ALL\n");
    assert_eq!(
        read("etc/passwd"),
        "root:x:0:0:root:/root:/bin/sh\ncordium:x:1000:1000:cordium:/home/cordium:/bin/sh\n"
    );
    let mode = |path: &str| std::fs::metadata(sandbox.root.join(path)).unwrap().permissions().mode() & 0o7777;
    assert_eq!(
        (mode("etc/sudoers.d/cordium"), mode("etc/shadow"), mode("etc/passwd")),
        (0o440, 0o600, 0o644)
    );
    let owner = |path: &str| std::fs::metadata(sandbox.root.join(path)).unwrap().uid();
    assert_eq!((owner("home/cordium/.profile"), owner("data/mine"), owner("workspace")), (1000, 1000, 1000));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_existing_uid_1000_is_taken() {
    if !is_root() {
        return;
    }
    let sandbox = Sandbox::new(Image::Busybox).await;
    std::fs::write(
        sandbox.root.join("etc/passwd"),
        "root:x:0:0::/root:/bin/sh\nubuntu:x:1000:1000::/home/ubuntu:/bin/ash\n",
    )
    .unwrap();
    sandbox.prepare(request()).await;
    sandbox.wait_running().await;
    assert_eq!(
        sandbox.sh("id -un; echo $HOME $SHELL; ls -a ~").await.out(),
        "ubuntu\n/home/ubuntu /bin/ash\n.\n..\n.profile"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_root_keeps_its_writable_places() {
    if !is_root() {
        return;
    }
    let sandbox = Sandbox::new(Image::Busybox).await;
    let tasks = vec![task("create", TaskType::OnCreate, "echo x > ~/made")];
    let read_only = |fresh| PrepareRequest { read_only_root: true, fresh, tasks: tasks.clone(), ..request() };
    sandbox.prepare(read_only(true)).await;
    assert_eq!(sandbox.warnings().await, [""; 0]);
    for path in ["/", "/etc", "/usr/bin", "/var/lib/cordium"] {
        let done = sandbox.root_sh(&format!("touch {path}/x")).await;
        assert!(
            String::from_utf8_lossy(&done.stderr).contains("Read-only file system"),
            "{path}: {:?}",
            done.stderr
        );
    }
    for path in ["/tmp", "/var/tmp", "/home/cordium", "/workspace"] {
        assert_eq!(sandbox.sh(&format!("touch {path}/x")).await.code, 0, "{path}");
    }
    assert_eq!(sandbox.root_sh("touch /run/x").await.code, 0);
    let options = sandbox.sh("grep ' / ' /proc/self/mountinfo | cut -d' ' -f6").await;
    assert!(options.out().starts_with("ro,"), "{}", options.out());

    let sandbox = sandbox.again().await;
    assert!(
        !sandbox.root.join("var/lib/cordium/creating").exists(),
        "the mark was cleared on a read-only root"
    );
    sandbox.prepare(read_only(false)).await;
    sandbox.wait_running().await;
    assert_eq!(sandbox.sh("cat ~/made").await.out(), "x", "the home is kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn health_is_served_and_stray_signals_change_nothing() {
    if !is_root() {
        return;
    }
    let sandbox = Sandbox::running().await;
    sandbox.root_sh("kill -1 1; kill -2 1; kill -3 1; kill -10 1; kill -13 1; kill -9 1; kill -19 1").await;
    assert!(sandbox.is_alive().await);
    let mut health = tonic_health::pb::health_client::HealthClient::new(sandbox.channel.clone());
    for service in ["", "cordium.v1.Agent", "cordium.v1.Session"] {
        let request = tonic_health::pb::HealthCheckRequest { service: service.into() };
        assert_eq!(health.check(request).await.unwrap().into_inner().status, 1, "{service}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_read_only_root_the_home_may_be_a_volume() {
    if !is_root() {
        return;
    }
    let sandbox = Sandbox::new(Image::Busybox).await;
    let volume = sandbox.view().join("run/cordium/home-volume");
    std::fs::create_dir(&volume).unwrap();
    sandbox.prepare(PrepareRequest { read_only_root: true, ..request() }).await;
    assert_eq!(sandbox.warnings().await, [""; 0]);
    assert_eq!(sandbox.sh("cat ~/.profile; echo kept > ~/new").await.out(), "# skeleton");
    assert_eq!(std::fs::read_to_string(volume.join("new")).unwrap(), "kept\n");
    assert_eq!(std::fs::metadata(volume.join(".profile")).unwrap().uid(), 1000);
}

#[tokio::test(flavor = "multi_thread")]
async fn all_of_it_works_for_root_of_a_user_namespace() {
    if !is_root() {
        return;
    }
    let sandbox = Sandbox::new(Image::UserNamespace).await;
    let tasks = vec![task("create", TaskType::OnCreate, "echo made > /workspace/made")];
    sandbox.prepare(PrepareRequest { read_only_root: true, tasks, ..request() }).await;
    assert_eq!(sandbox.warnings().await, [""; 0]);
    assert_eq!(sandbox.sh("cat /workspace/made; id -u; id -G; readlink /proc/self/ns/user").await.out(), {
        let ns = std::fs::read_link(format!("/proc/{}/ns/user", sandbox.agent_pid())).unwrap();
        assert_ne!(ns, std::fs::read_link("/proc/self/ns/user").unwrap());
        format!("made\n1000\n1000 77\n{}", ns.display())
    });
    assert_ne!(sandbox.root_sh("touch /etc/x").await.code, 0);
    assert_eq!(
        sandbox.root_sh("touch /tmp/x && chown 5:6 /tmp/x && stat -c %u:%g /tmp/x").await.out(),
        "5:6"
    );
    let tty = Some(cordium_proto::v1::TerminalSize { cols: 80, rows: 24 });
    let terminal = sandbox
        .exec(cordium_proto::v1::ExecStart {
            tty,
            ..crate::harness::sh("stat -c %u $(tty); echo hi > /dev/tty")
        })
        .await;
    assert_eq!(terminal.out(), "1000\r\nhi");
    assert!(sandbox.shutdown(cordium_proto::v1::ShutdownRequest::default()).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn root_cannot_look_into_pid_1_and_can_into_its_own() {
    if !is_root() {
        return;
    }
    let sandbox = Sandbox::new(Image::UserNamespace).await;
    sandbox.prepare(request()).await;
    sandbox.wait_running().await;
    assert_eq!(sandbox.root_sh("readlink /proc/self/exe && ls /proc/self/fd >/dev/null").await.code, 0);
    for look in [
        "readlink /proc/1/exe",
        "readlink /proc/1/fd/3",
        ": < /proc/1/fd/2",
        "cat /proc/1/environ",
        "readlink /proc/1/root",
    ] {
        assert_ne!(sandbox.root_sh(look).await.code, 0, "{look}");
    }
    assert_eq!(sandbox.root_sh("cat /proc/1/comm").await.out(), "cordium-agent");
}
