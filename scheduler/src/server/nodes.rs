//! Connections to the nodes' supervisors: mutual TLS, or a unix socket on this machine.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context as _, bail};
use cordium_scheduler::NodeTarget;
use cordium_serve::tls::PemFiles;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};

use super::{CONNECTION_WINDOW, Options, STREAM_WINDOW};

const CONNECT: Duration = Duration::from_secs(5);
/// A node that is cut off without a word is noticed within interval plus time-out.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
const KEEP_ALIVE_ANSWER: Duration = Duration::from_secs(5);

/// The nodes of `--node`, connected when first needed.
pub fn targets(options: &Options) -> anyhow::Result<Vec<NodeTarget>> {
    let target = |given: &String| {
        let (name, address) =
            given.split_once('=').with_context(|| format!("--node {given}: allowed: NAME=ADDRESS"))?;
        let channel = channel(options, address).with_context(|| format!("--node {given}"))?;
        Ok(NodeTarget { name: name.to_owned(), channel })
    };
    options.nodes.iter().map(target).collect()
}

fn channel(options: &Options, address: &str) -> anyhow::Result<Channel> {
    if let Some(path) = address.strip_prefix("unix:") {
        return Ok(unix(PathBuf::from(path)));
    }
    let (true, Some(authority), Some(cert), Some(key)) =
        (address.starts_with("https://"), &options.ca, &options.cert, &options.key_file)
    else {
        bail!("allowed: https://HOST:PORT together with --ca, --cert and --key-file, or unix:PATH");
    };
    let tls = PemFiles { cert, key, authority }.client()?;
    let endpoint = Endpoint::from_shared(address.to_owned()).context("not an address")?;
    Ok(tuned(endpoint)
        .tls_config(tls)
        .context("--ca, --cert or --key-file cannot be used")?
        .tcp_nodelay(true)
        .connect_lazy())
}

fn unix(path: PathBuf) -> Channel {
    let connect = tower::service_fn(move |_: Uri| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    tuned(Endpoint::from_static("http://node")).connect_with_connector_lazy(connect)
}

fn tuned(endpoint: Endpoint) -> Endpoint {
    endpoint
        .connect_timeout(CONNECT)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE_ANSWER)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
}
