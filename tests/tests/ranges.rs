//! Ranges of subordinate ids: no two tenants share an id of the node, the image looks the same to each, and files follow
//! their workspace.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use cordium_tests::{
    Context, Fixture, Result, Suite, Workspace, ensure, ensure_eq, json,
    node::{Node, Options},
    paths, process, skip, subordinate,
    user::User,
    v1::{CreateRequest, Kind},
};
use nix::sys::signal::Signal;
use serde_json::Value;

const IDS: u32 = 65_536;

fn main() -> ExitCode {
    // One case ends the supervisor, and another one looks at which ranges are free.
    Suite::new("ranges")
        .case("no_two_share_an_id_of_the_node", no_two_share)
        .case("the_image_looks_the_same_to_each", the_image_looks_the_same)
        .case("what_one_changes_the_other_does_not_see", changes_stay_apart)
        .case("files_belong_to_the_same_range_at_the_next_run", files_stay)
        .case("files_follow_when_volumes_come_together", files_follow)
        .case("an_interrupted_move_is_finished", an_interrupted_move)
        .case("a_supervisor_that_comes_back_knows_who_runs_where", after_a_restart)
        .case("what_is_shared_is_told", sharing_is_told)
        .case("an_image_takes_what_was_made_of_it_along", images_go)
        .one_at_a_time()
        .run(|| Fixture::start("ranges"))
}

/// Whether the user has ranges enough for what is tried here.
fn enough(user: &User) -> bool {
    subordinate::ranges(user) >= 4
}

fn too_few() -> Result<()> {
    skip("the user has fewer than 4 ranges of subordinate ids; as root run: cordium setup --user NAME")
}

/// The ids of the node that a sandbox has, by the map of its user namespace as it is read from outside.
async fn range_of(w: &Workspace) -> Result<u32> {
    let inside = w.ok("readlink /proc/self/ns/pid").await?;
    let of = |pid: &i32| {
        let namespace = fs::read_link(format!("/proc/{pid}/ns/pid"));
        namespace.is_ok_and(|namespace| namespace.as_os_str() == inside.as_str())
    };
    let pid =
        process::processes().into_iter().find(of).with_context(|| format!("{} has no process", w.name))?;
    let map = fs::read_to_string(format!("/proc/{pid}/uid_map"))?;
    let numbers: Vec<u32> = map.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    ensure_eq!((numbers.len(), numbers[0], numbers[2]), (3, 0, IDS));
    Ok(numbers[1])
}

/// Where the files of a workspace are on the node.
fn files_of(f: &Fixture, w: &Workspace) -> PathBuf {
    f.storage_of(w).join("volume")
}

/// The start of the range that owns a file.
fn owner(path: &Path, user: &User) -> Result<u32> {
    let uid = fs::symlink_metadata(path).with_context(|| format!("looking at {}", path.display()))?.uid();
    let lines = subordinate::uids(user).into_iter();
    let start = lines
        .filter_map(|(start, count)| {
            uid.checked_sub(start).filter(|n| *n < count).map(|n| start + n / IDS * IDS)
        })
        .next();
    start.with_context(|| format!("{} belongs to {uid}", path.display()))
}

async fn no_two_share(f: Arc<Fixture>) -> Result<()> {
    if !enough(&f.node.user) {
        return too_few();
    }
    let mut boxes = Vec::new();
    for name in ["own-1", "own-2", "own-3"] {
        boxes.push(f.run(name, &f.base(json!({}))).await?);
    }
    let mut ranges = Vec::new();
    for (n, w) in boxes.iter().enumerate() {
        // As the user and as root, each recognizable from outside.
        let nap = format!("sleep 100000.{n}");
        w.ok(&format!("{nap} > /dev/null 2>&1 &")).await?;
        w.root_ok(&format!("{nap} > /dev/null 2>&1 &")).await?;
        let range = range_of(w).await?;
        let is_nap = |pid: &i32| process::command_line(*pid).is_some_and(|line| line.trim() == nap);
        // A shell may be done before its child has become the program.
        let naps = process::until("both processes", Duration::from_secs(20), || {
            let naps: Vec<i32> = process::processes().into_iter().filter(is_nap).collect();
            Ok((naps.len() >= 2).then_some(naps))
        })?;
        for pid in &naps {
            let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
            for kind in ["Uid:", "Gid:"] {
                let line = status.lines().find_map(|line| line.strip_prefix(kind)).context("no ids")?;
                let ids: Vec<u32> = line.split_whitespace().filter_map(|id| id.parse().ok()).collect();
                ensure_eq!(ids.len(), 4);
                ensure!(
                    ids.iter().all(|id| (range..range + IDS).contains(id)),
                    "{kind} {ids:?}, not in {range}"
                );
            }
        }
        ensure_eq!(naps.len(), 2);
        ensure_eq!(owner(&files_of(&f, w).join("workspace"), &f.node.user)?, range);
        ensure!(!w.status().await?.warnings.iter().any(|warning| warning.contains("range of")), "{}", w.name);
        ranges.push(range);
    }
    ranges.sort_unstable();
    ranges.dedup();
    ensure_eq!(ranges.len(), 3);
    let node = status_of(&f.node).await?;
    ensure!(!node.contains("share one range"), "{node}");
    for w in boxes {
        w.delete().await?;
    }
    Ok(())
}

/// What is told of the node, warnings included.
async fn status_of(node: &Node) -> Result<String> {
    let answer = node.cli().run(&["status"]).await?;
    Ok(answer.out + &answer.err)
}

/// Owners, modes, links, times, sizes and contents of much of the base image.
const LOOK: &str = r"cd / && for d in usr/bin usr/sbin etc root var/lib/dpkg var/cache usr/lib/git-core usr/share/doc; do [ -e $d ] && echo $d; done > /tmp/dirs
xargs -a /tmp/dirs -I{} find {} -xdev ! -type d -printf '%p %U:%G %m %n %s %T@ %y %l\n' | grep -v -e '^etc/host' -e '^etc/resolv' -e '^etc/mtab' -e '^etc/machine-id' -e '^etc/sudoers.d/cordium' -e '^etc/g*group' -e '^etc/passwd' -e '^etc/g*shadow' -e '^etc/sub[ug]id' | sort > /tmp/list
xargs -a /tmp/dirs -I{} find {} -xdev -type d -printf '%p %U:%G %m\n' | sort >> /tmp/list
xargs -a /tmp/dirs -I{} find {} -xdev -type f ! -path 'etc/host*' ! -path 'etc/resolv*' ! -path 'etc/machine-id' -print0 | sort -z | xargs -0 sha256sum >> /tmp/list
wc -l < /tmp/list; sha256sum < /tmp/list";

async fn the_image_looks_the_same(f: Arc<Fixture>) -> Result<()> {
    if !enough(&f.node.user) {
        return too_few();
    }
    let one = f.run("look-1", &f.base(json!({}))).await?;
    let two = f.run("look-2", &f.base(json!({}))).await?;
    ensure!(range_of(&one).await? != range_of(&two).await?, "they share a range");
    let (first, second) = (one.root_ok(LOOK).await?, two.root_ok(LOOK).await?);
    if first != second {
        let lists = [one.root_ok("cat /tmp/list").await?, two.root_ok("cat /tmp/list").await?];
        let differs = lists[0].lines().zip(lists[1].lines()).find(|(a, b)| a != b);
        ensure!(false, "{first} {second}: {differs:?}");
    }
    let lines: u64 = first.lines().next().unwrap_or_default().trim().parse()?;
    ensure!(lines > 2000, "only {lines} lines were compared");
    for w in [&one, &two] {
        // A set-id file that was taken from the image works, and nothing is anybody's.
        ensure_eq!(w.ok("sudo -n id -u").await?, "0");
        let strangers = "find / -xdev ! -path /proc ! -path /sys \\( -nouser -o -nogroup -o -uid 65534 \\) -print | head -3";
        ensure_eq!(w.root_ok(strangers).await?, "");
        ensure_eq!(w.root_ok("stat -c %U:%a /etc/shadow /root").await?.lines().next(), Some("root:640"));
    }
    one.delete().await?;
    two.delete().await
}

async fn changes_stay_apart(f: Arc<Fixture>) -> Result<()> {
    let one = f.run("apart-1", &f.base(json!({}))).await?;
    let two = f.run("apart-2", &f.base(json!({}))).await?;
    let before = two.root_ok("sha256sum < /usr/bin/git; stat -c '%s %U' /usr/bin/git /etc/shadow").await?;
    // A large file of the image: written to at its end, cut, given away, linked and renamed.
    one.root_ok(
        "echo more >> /usr/bin/git && tail -c 5 /usr/bin/git && chown 1000 /etc/shadow && truncate -s 10 /usr/bin/perl && \
         mv /usr/bin/perl /usr/bin/pearl && ln /usr/bin/git /usr/bin/git-again && rm /usr/bin/sudo && rm -r /usr/share/doc",
    )
    .await?;
    ensure_eq!(
        one.root_ok("stat -c %s /usr/bin/pearl; ls /usr/share/doc 2>&1 | tail -1").await?.lines().next(),
        Some("10")
    );
    let after = two.root_ok("sha256sum < /usr/bin/git; stat -c '%s %U' /usr/bin/git /etc/shadow").await?;
    ensure_eq!(before, after);
    two.root_ok("test -e /usr/bin/perl && test -u /usr/bin/sudo && test -d /usr/share/doc").await?;
    // The changes are there again at the next run.
    one.stop().await?;
    one.start().await?;
    ensure_eq!(
        one.root_ok("tail -c 5 /usr/bin/git; stat -c '%s %u' /usr/bin/pearl /etc/shadow | head -1").await?,
        "more\n10 0"
    );
    one.delete().await?;
    two.delete().await
}

async fn files_stay(f: Arc<Fixture>) -> Result<()> {
    let w = f.run("stays", &f.small(json!({}))).await?;
    let range = range_of(&w).await?;
    w.ok("echo mine > /workspace/f").await?;
    w.stop().await?;
    // Others that come and go meanwhile do not take it.
    let other = f.run("passes", &f.small(json!({}))).await?;
    if enough(&f.node.user) {
        ensure!(range_of(&other).await? != range, "it runs where another's files are");
    }
    w.start().await?;
    ensure_eq!(range_of(&w).await?, range);
    ensure_eq!(w.ok("cat /workspace/f; stat -c %U /workspace/f").await?, "mine\ncordium");
    other.delete().await?;
    w.delete().await
}

async fn volume(f: &Fixture, name: &str) -> Result<String> {
    let mut request =
        CreateRequest { name: name.to_owned(), spec_json: "{}".to_owned(), ..Default::default() };
    request.set_kind(Kind::Volume);
    let made = f.clients.control.clone().create(request).await.context("creating a volume")?.into_inner();
    Ok(made.metadata.context("volume has no metadata")?.uid)
}

fn mounting(f: &Fixture, mounts: &[(&str, &str)]) -> Value {
    let mounts: Vec<_> =
        mounts.iter().map(|(name, path)| json!({"volumeRef": {"name": name}, "mountPath": path})).collect();
    f.base(json!({"runtime": {"volumeMounts": mounts}}))
}

/// Files of every kind, of several users.
const FILL: &str = "cd $DIR && echo root > plain && cp /usr/bin/id set && chown 1234:5678 set && chmod 6755 set && ln set twice && \
     ln -s /etc/passwd link && mkfifo pipe && mkdir -m 700 -p deep/er && echo x > deep/er/x && chown -R 1000:1000 deep";
const SHOW: &str = "cd $DIR && find . -printf '%p %U:%G %m %n %y %l\n' | sort && cat plain deep/er/x";

async fn fill(w: &Workspace, dir: &str) -> Result<String> {
    w.root_ok(&format!("DIR={dir}; {FILL}")).await?;
    show(w, dir).await
}

async fn show(w: &Workspace, dir: &str) -> Result<String> {
    w.root_ok(&format!("DIR={dir}; {SHOW}")).await
}

async fn files_follow(f: Arc<Fixture>) -> Result<()> {
    if !enough(&f.node.user) {
        return too_few();
    }
    let data = |uid: &str| f.node.state().join("volumes").join(uid).join("data");
    let (left, right) = (volume(&f, "left").await?, volume(&f, "right").await?);
    let a = f.run("one-a", &mounting(&f, &[("left", "/data")])).await?;
    let b = f.run("one-b", &mounting(&f, &[("right", "/data")])).await?;
    let (in_left, in_right) = (fill(&a, "/data").await?, fill(&b, "/data").await?);
    let own = fill(&b, "/workspace").await?;
    let user = &f.node.user;
    ensure!(owner(&data(&left), user)? != owner(&data(&right), user)?, "both volumes are of one range");
    a.stop().await?;
    b.stop().await?;

    // Both at once: one of them has to follow.
    let both = f.run("both", &mounting(&f, &[("left", "/l"), ("right", "/r")])).await?;
    let range = range_of(&both).await?;
    for uid in [&left, &right] {
        ensure_eq!(owner(&data(uid), user)?, range);
        ensure_eq!(owner(&data(uid).join("deep/er/x"), user)?, range);
    }
    ensure_eq!(show(&both, "/l").await?, in_left);
    ensure_eq!(show(&both, "/r").await?, in_right);
    both.delete().await?;

    // And what else its workspaces have follows the volume.
    b.start().await?;
    ensure_eq!(range_of(&b).await?, owner(&data(&right), user)?);
    ensure_eq!(owner(&files_of(&f, &b).join("workspace/plain"), user)?, range_of(&b).await?);
    ensure_eq!(show(&b, "/workspace").await?, own);
    ensure_eq!(show(&b, "/data").await?, in_right);
    // The image's own files are where they were.
    ensure_eq!(b.ok("sudo -n id -u").await?, "0");
    a.delete().await?;
    b.delete().await?;
    for name in ["left", "right"] {
        f.cli().ok(&["delete", "volume", name]).await?;
    }
    Ok(())
}

async fn an_interrupted_move(f: Arc<Fixture>) -> Result<()> {
    if !nix::unistd::geteuid().is_root() || !enough(&f.node.user) {
        return skip("files of another range can only be had as root, and with several ranges");
    }
    let w = f.run("torn", &f.base(json!({}))).await?;
    let shown = fill(&w, "/workspace").await?;
    let range = range_of(&w).await?;
    w.stop().await?;
    // As if a move had ended in the middle: some files belong to another range, and a set-id bit is gone that is noted.
    let files = files_of(&f, &w);
    let other = subordinate::uids(&f.node.user)
        .into_iter()
        .flat_map(|(start, count)| (0..count / IDS).map(move |n| start + n * IDS));
    let other = other.filter(|start| *start != range).nth(1).context("there is no other range")?;
    for name in ["workspace/plain", "workspace/set", "workspace/deep/er"] {
        let path = files.join(name);
        let meta = fs::symlink_metadata(&path)?;
        chown(&path, Some(meta.uid() - range + other), Some(meta.gid() - range + other))?;
    }
    let set = files.join("workspace/set");
    fs::set_permissions(&set, fs::Permissions::from_mode(0o755))?;
    let note = json!({"inode": fs::metadata(&set)?.ino(), "mode": 0o6755, "capability": null});
    let giving = files.join(".cordium-giving");
    // The last line was cut off.
    fs::write(&giving, format!("\n{note}\n\n{{\"ino"))?;
    f.node.user.own(&giving)?;
    w.start().await?;
    ensure_eq!(show(&w, "/workspace").await?, shown);
    ensure_eq!(owner(&set, &f.node.user)?, range_of(&w).await?);
    ensure!(!giving.exists(), "the note of the move is left");
    w.delete().await
}

async fn after_a_restart(f: Arc<Fixture>) -> Result<()> {
    if !enough(&f.node.user) {
        return too_few();
    }
    let a = f.run("before-a", &f.small(json!({}))).await?;
    let b = f.run("before-b", &f.small(json!({}))).await?;
    let taken = [range_of(&a).await?, range_of(&b).await?];
    f.node.end(Signal::SIGKILL)?;
    f.node.launch()?;
    let clients = f.node.clients().await?;
    let c = Workspace::run(&clients, "after-c", &f.small(json!({}))).await?;
    ensure!(!taken.contains(&range_of(&c).await?), "it runs where another does");
    for w in [a, b, c] {
        Workspace { clients: clients.clone(), ..w }.delete().await?;
    }
    Ok(())
}

async fn sharing_is_told(f: Arc<Fixture>) -> Result<()> {
    for most in [1, 2] {
        let dir = cordium_tests::fixture::fresh_dir("few")?;
        let options =
            Options { name: "few".to_owned(), config: json!({"idRanges": most}), ..Default::default() };
        let node = Node::start(&f.node.user, &paths::staged_programs()?, &dir.join("n"), options)?;
        let outcome = few(&f, &node, most).await;
        let torn_down = node.tear_down().await;
        cordium_tests::fixture::remove_dir(&dir)?;
        outcome.and(torn_down)?;
    }
    Ok(())
}

async fn few(f: &Fixture, node: &Node, most: usize) -> Result<()> {
    let clients = node.clients().await?;
    let shares = |w: &Workspace| {
        let w = w.clone();
        async move {
            cordium_tests::Result::<bool>::Ok(
                w.status().await?.warnings.iter().any(|w| w.contains("shares its range of ids")),
            )
        }
    };
    let mut boxes = Vec::new();
    for n in 0..=most {
        let w = Workspace::run(&clients, &format!("few-{n}"), &f.small(json!({}))).await?;
        // Where there is but one, the node tells, once.
        ensure_eq!(shares(&w).await?, most > 1 && n == most && enough(&f.node.user));
        boxes.push(w);
    }
    let status = status_of(node).await?;
    ensure_eq!(status.contains("all workspaces share one range of subordinate ids"), most == 1);
    // They are kept apart all the same.
    ensure!(
        boxes[0].root("kill -0 -1; ls /proc | grep -c '^[0-9]'").await?.out().lines().last() < Some("99"),
        "too many processes"
    );
    for w in boxes {
        w.delete().await?;
    }
    Ok(())
}

async fn images_go(f: Arc<Fixture>) -> Result<()> {
    if !enough(&f.node.user) {
        return too_few();
    }
    let views = f.node.state().join("images").join("views");
    let count = || -> Result<usize> {
        let ranges = fs::read_dir(&views)?.flatten().filter_map(|range| fs::read_dir(range.path()).ok());
        Ok(ranges.map(|layers| layers.flatten().count()).sum())
    };
    let one = f.run("image-1", &f.small(json!({}))).await?;
    let two = f.run("image-2", &f.small(json!({}))).await?;
    ensure!(count()? > 0, "no layer was shown to another range");
    let refused = f.cli().run(&["image", "prune", "--all"]).await?;
    ensure!(count()? > 0, "what is in use is gone: {}", refused.err);
    one.delete().await?;
    two.delete().await?;
    f.cli().ok(&["image", "prune", "--all"]).await?;
    ensure_eq!(count()?, 0);
    // And comes back.
    let again = f.run("image-3", &f.base(json!({}))).await?;
    ensure_eq!(again.ok("echo back").await?, "back");
    again.delete().await
}
