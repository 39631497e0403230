//! `cordium port-forward`.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use serde_json::json;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
};

use super::{Outcome, resource, watch::JsonLines};
use crate::{
    args::Global,
    client::{Client, Start},
    error::{CliError, Doing as _},
    interrupt::Interrupt,
    output,
    session::forward::{self, Broken},
};

/// Connections at a time; more wait to be accepted.
const MOST: usize = 256;
/// Pause after a failed accept, when descriptors have run out.
const PAUSE: Duration = Duration::from_millis(100);

/// Each connection to a local port is carried to that port of the workspace's own loopback. Goes on until it is
/// interrupted.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The workspace's name or uid
    pub workspace: String,
    /// PORT for the same port on both sides; 0 as the local one picks a free port
    #[arg(required = true, value_name = "[LOCAL:]PORT", value_parser = parse)]
    pub ports: Vec<Ports>,
    /// Local address to listen on; others can then reach it
    #[arg(long, value_name = "ADDRESS", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    pub address: IpAddr,
    /// The space it lies in [default: default]
    #[arg(long, value_name = "SPACE", default_value = "", hide_default_value = true)]
    pub space: String,
    /// One JSON object for each port that listens
    #[arg(short = 'o', long = "out", visible_alias = "output", value_name = "FORMAT")]
    pub out: Option<JsonLines>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    local: u16,
    inside: u16,
}

fn parse(text: &str) -> Result<Ports, String> {
    let port =
        |text: &str| text.parse::<u16>().map_err(|_| format!("{text:?} is no port; allowed: 1 to 65535"));
    let (local, inside) = match text.split_once(':') {
        Some((local, inside)) => (port(local)?, port(inside)?),
        None => (port(text)?, port(text)?),
    };
    match inside {
        0 => Err("the port inside was 0; allowed: 1 to 65535".to_owned()),
        _ => Ok(Ports { local, inside }),
    }
}

/// What all connections share.
struct Carrier {
    client: Client,
    /// Its uid: a workspace that is made anew under the name is another one.
    uid: String,
    name: String,
    room: Arc<Semaphore>,
}

pub async fn run(global: &Global, args: Args) -> Outcome {
    let mut interrupt = Interrupt::arm()?;
    let client = Client::connect(global, Start::Never).await?;
    let workspace = resource::workspace(&client, &args.workspace, &args.space).await?;
    let uid = workspace.metadata.as_ref().map(|metadata| metadata.uid.clone()).unwrap_or_default();
    let room = Arc::new(Semaphore::new(MOST));
    let carrier = Arc::new(Carrier { client, uid, name: resource::name(&workspace).to_owned(), room });
    // All or nothing.
    let mut listeners = Vec::new();
    for ports in &args.ports {
        let address = SocketAddr::new(args.address, ports.local);
        let listener = TcpListener::bind(address).await.map_err(|error| {
            CliError::new(format!("cannot listen on {address}: {error}")).hint(format!(
                "choose another local port: {}:{}",
                ports.local.wrapping_add(1),
                ports.inside
            ))
        })?;
        listeners.push((listener, ports.inside));
    }
    let mut serving = JoinSet::new();
    for (listener, port) in listeners {
        let local = listener.local_addr().doing("find the local port")?;
        output::line(&match args.out {
            Some(JsonLines::Json) => json!({"local": local.to_string(), "port": port}).to_string(),
            None => format!("{local} -> {} port {port}", carrier.name),
        });
        serving.spawn(Arc::clone(&carrier).serve(listener, port));
    }
    interrupt.first().await;
    Ok(0)
}

impl Carrier {
    async fn serve(self: Arc<Self>, listener: TcpListener, port: u16) {
        let mut open = JoinSet::new();
        loop {
            let Ok(room) = Arc::clone(&self.room).acquire_owned().await else { return };
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => {
                        let carrier = Arc::clone(&self);
                        open.spawn(async move {
                            carrier.one(port, stream).await;
                            drop(room);
                        });
                    }
                    Err(error) => {
                        output::warning(&format!("accepting a connection for port {port}: {error}"));
                        tokio::time::sleep(PAUSE).await;
                    }
                },
                Some(_) = open.join_next() => {}
            }
        }
    }

    async fn one(&self, port: u16, stream: TcpStream) {
        if let Err(Broken::Remote(status)) = forward::forward(&self.client, &self.uid, port, stream).await {
            output::warning(&format!("{} port {port}: {}", self.name, status.message()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports() {
        assert_eq!(parse("3000"), Ok(Ports { local: 3000, inside: 3000 }));
        assert_eq!(parse("8080:80"), Ok(Ports { local: 8080, inside: 80 }));
        assert_eq!(parse("0:80"), Ok(Ports { local: 0, inside: 80 }));
        for bad in ["", ":", "80:", "0", "80:0", "70000", "-1", "a:80", "1:2:3"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
