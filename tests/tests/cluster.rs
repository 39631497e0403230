//! Cluster: a scheduler of its own drives two supervisors over mutual TLS.

use std::{collections::BTreeSet, process::ExitCode, sync::Arc, time::Duration};

use cordium_tests::{
    Context, Result, Suite, Workspace,
    client::{Clients, refused},
    cluster::Cluster,
    ensure, ensure_eq, json,
    v1::{
        CreateRequest, DeleteResourceRequest, GetNodeRequest, GetStatusRequest, GetStatusResponse, Kind,
        StartWorkspaceRequest, WorkspaceState as State,
    },
    watch::Watch,
};
use nix::sys::signal::Signal;

fn main() -> ExitCode {
    Suite::new("cluster")
        .case("places_by_free_capacity_and_merges_the_streams", places_and_merges)
        .case("exec_reaches_the_right_node", exec_reaches_the_right_node)
        .case("a_volume_draws_workspaces_to_its_node", a_volume_draws_workspaces_to_its_node)
        .case("strangers_are_refused", strangers_are_refused)
        .case("scheduler_killed_resumes_where_it_was", scheduler_killed)
        .case("a_node_that_is_gone_is_noticed", node_gone)
        .one_at_a_time()
        .run(Cluster::start)
}

async fn status(clients: &Clients) -> Result<GetStatusResponse> {
    Ok(clients.control.clone().get_status(GetStatusRequest {}).await?.into_inner())
}

/// Waits until the scheduler sees so many nodes. It tells no event of that: asked again and again.
async fn reachable(clients: &Clients, wanted: usize) -> Result<()> {
    let mut seen = 0;
    for _ in 0..300 {
        seen = status(clients).await?.nodes.iter().filter(|node| node.reachable).count();
        if seen == wanted {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    anyhow::bail!("{seen} nodes are reachable, not {wanted}")
}

async fn node_of(w: &Workspace) -> Result<String> {
    Ok(w.status().await?.node)
}

/// A spec that takes most of a node, so that two need two nodes.
async fn most_of_a_node(c: &Cluster, clients: &Clients) -> Result<serde_json::Value> {
    let nodes = status(clients).await?.nodes;
    let sizes = nodes.iter().filter_map(|node| Some(node.node.as_ref()?.capacity.as_ref()?.memory_mib));
    let megabytes = sizes.min().context("no node says what it has")? * 6 / 10;
    Ok(c.small(json!({"limit": {"memory": {"megabytes": megabytes}}})))
}

async fn places_and_merges(c: Arc<Cluster>) -> Result<()> {
    let clients = c.clients().await?;
    reachable(&clients, 2).await?;
    let mut all = Watch::open(&clients, "").await?;
    let spec = most_of_a_node(&c, &clients).await?;
    let a = Workspace::run(&clients, "large-a", &spec).await?;
    let b = Workspace::run(&clients, "large-b", &spec).await?;
    let nodes = BTreeSet::from([node_of(&a).await?, node_of(&b).await?]);
    ensure_eq!(nodes, BTreeSet::from(["node-1".to_owned(), "node-2".to_owned()]));
    let third = Workspace::create(&clients, "large-c", &spec).await?;
    let start = StartWorkspaceRequest { r#ref: third.uid.clone(), ..Default::default() };
    let message =
        refused(clients.control.clone().start_workspace(start).await, tonic::Code::ResourceExhausted)?;
    ensure!(message.contains("node-1") && message.contains("node-2"), "{message}");
    let small = Workspace::run(&clients, "small-d", &c.small(json!({}))).await?;
    let (mut running, mut last) = (BTreeSet::new(), 0);
    while running.len() < 3 {
        let event = all.next(Duration::from_secs(10)).await?;
        ensure!(event.revision >= last, "the merged revision went back from {last} to {}", event.revision);
        last = event.revision;
        if let Some(phase) = event.phase.filter(|phase| phase.state() == State::Running) {
            running.insert((phase.node, phase.workspace_name));
        }
    }
    let from: BTreeSet<&String> = running.iter().map(|(node, _)| node).collect();
    ensure_eq!(from.len(), 2);
    // Storage ties a workspace to its node.
    let home = node_of(&b).await?;
    b.stop().await?;
    b.start().await?;
    ensure_eq!(node_of(&b).await?, home);
    for w in [a, b, third, small] {
        w.delete().await?;
    }
    Ok(())
}

async fn exec_reaches_the_right_node(c: Arc<Cluster>) -> Result<()> {
    let clients = c.clients().await?;
    let spec = most_of_a_node(&c, &clients).await?;
    let a = Workspace::run(&clients, "on-a", &spec).await?;
    let b = Workspace::run(&clients, "on-b", &spec).await?;
    for w in [&a, &b] {
        ensure_eq!(w.ok("echo $CORDIUM_NAME").await?, w.name);
    }
    ensure!(node_of(&a).await? != node_of(&b).await?, "both are on one node");
    a.delete().await?;
    b.delete().await
}

async fn a_volume_draws_workspaces_to_its_node(c: Arc<Cluster>) -> Result<()> {
    let clients = c.clients().await?;
    reachable(&clients, 2).await?;
    let mut uids = Vec::new();
    for node in ["node-1", "node-2"] {
        let mut request =
            CreateRequest { name: format!("on-{node}"), node: node.to_owned(), ..Default::default() };
        request.set_kind(Kind::Volume);
        let made = clients.control.clone().create(request).await?.into_inner();
        uids.push(made.metadata.context("volume has no metadata")?.uid);
        let mounts = json!([{"volumeRef": {"name": format!("on-{node}")}, "mountPath": "/data"}]);
        let spec = c.small(json!({"runtime": {"volumeMounts": mounts}}));
        let w = Workspace::run(&clients, &format!("drawn-to-{node}"), &spec).await?;
        ensure_eq!(node_of(&w).await?, node);
        w.ok("echo kept > /data/f").await?;
        w.delete().await?;
    }
    let data = |node: usize, uid: &str| c.nodes[node].state().join("volumes").join(uid);
    ensure!(data(0, &uids[0]).join("data/f").exists(), "the data is not on its node");
    ensure!(!data(1, &uids[0]).exists() && !data(0, &uids[1]).exists(), "a volume is on another node");
    let mounts: Vec<_> = ["node-1", "node-2"]
        .map(|node| json!({"volumeRef": {"name": format!("on-{node}")}, "mountPath": format!("/{node}")}))
        .into();
    let spec = c.small(json!({"runtime": {"volumeMounts": mounts}}));
    let torn = Workspace::create(&clients, "torn", &spec).await?;
    let start = StartWorkspaceRequest { r#ref: torn.uid.clone(), ..Default::default() };
    let answer = clients.control.clone().start_workspace(start).await;
    let message = refused(answer, tonic::Code::FailedPrecondition)?;
    ensure!(message.contains("on-node-1") && message.contains("on-node-2"), "{message}");
    torn.delete().await?;
    for node in ["node-1", "node-2"] {
        let mut request = DeleteResourceRequest { r#ref: format!("on-{node}"), ..Default::default() };
        request.set_kind(Kind::Volume);
        let left = clients.control.clone().delete(request).await?.into_inner().warnings;
        ensure!(left.is_empty(), "something is left: {left:?}");
    }
    ensure!(!data(0, &uids[0]).exists() && !data(1, &uids[1]).exists(), "the data is still there");
    Ok(())
}

async fn strangers_are_refused(c: Arc<Cluster>) -> Result<()> {
    let address = &c.addresses[0];
    let trusted = Clients::tls(address, c.trusted.client()?).await?;
    trusted.node.clone().get_node(GetNodeRequest {}).await.context("the trusted party")?;
    let mut wrong = c.stranger.clone();
    wrong.ca.clone_from(&c.trusted.ca);
    let refused = match Clients::tls(address, wrong.client()?).await {
        Ok(clients) => clients.node.clone().get_node(GetNodeRequest {}).await.is_err(),
        Err(_) => true,
    };
    ensure!(refused, "a stranger's certificate was accepted");
    let anonymous = tonic::transport::ClientTlsConfig::new()
        .domain_name("localhost")
        .ca_certificate(tonic::transport::Certificate::from_pem(std::fs::read(&c.trusted.ca)?));
    let refused = match Clients::tls(address, anonymous).await {
        Ok(clients) => clients.node.clone().get_node(GetNodeRequest {}).await.is_err(),
        Err(_) => true,
    };
    ensure!(refused, "a client without a certificate was accepted");
    Ok(())
}

async fn scheduler_killed(c: Arc<Cluster>) -> Result<()> {
    let clients = c.clients().await?;
    let w = Workspace::run(&clients, "through", &c.small(json!({}))).await?;
    let stopping = Workspace::run(&clients, "stopping", &c.small(json!({}))).await?;
    let before = status(&clients).await?.revision;
    stopping.request_stop(false).await?;
    c.kill_scheduler()?;
    c.launch_scheduler()?;
    let clients = c.clients().await?;
    let (w, stopping) =
        (Workspace { clients: clients.clone(), ..w }, Workspace { clients: clients.clone(), ..stopping });
    // What happened while it was away comes with revisions after those before.
    let mut watch = Watch::after(&clients, &stopping.uid, before).await?;
    let limit = Duration::from_secs(60);
    let event = watch.until(limit, |event| cordium_tests::watch::state_of(event) == State::Stopped).await?;
    ensure!(event.revision > before, "revision {} after {before}", event.revision);
    let mut watch = w.watch().await?;
    watch.until(limit, |event| cordium_tests::watch::state_of(event) == State::Running).await?;
    ensure_eq!(w.ok("echo alive").await?, "alive");
    ensure_eq!(w.status().await?.successful_runs, 1);
    w.delete().await?;
    stopping.delete().await
}

async fn node_gone(c: Arc<Cluster>) -> Result<()> {
    let clients = c.clients().await?;
    reachable(&clients, 2).await?;
    let gone = &c.nodes[0];
    gone.end(Signal::SIGKILL)?;
    reachable(&clients, 1).await?;
    let w = Workspace::run(&clients, "elsewhere", &c.small(json!({}))).await?;
    ensure_eq!(node_of(&w).await?, c.nodes[1].name);
    gone.launch()?;
    reachable(&clients, 2).await?;
    w.delete().await
}
