//! Bytes per second, of one stream and of several, both ways.

use std::{
    net::{Shutdown, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow, ensure};

use super::{
    compare::compare,
    servers::{SINK, SOURCE, Servers, give, take},
    ways::{Named, Way},
};
use crate::bench::table::Row;

const STREAMS: [usize; 2] = [1, 8];
/// Until the windows are open.
const RAMP: Duration = Duration::from_millis(200);
/// What is counted.
const WINDOW: Duration = Duration::from_millis(500);
/// Of a veth pair's.
const OF_VETH: f64 = 0.5;
/// Of that of the faster of slirp4netns and pasta.
const OF_OTHERS: f64 = 4.0;

#[derive(Clone, Copy)]
enum Direction {
    Out,
    In,
}

pub async fn rows(ways: &[Named], servers: &Servers, rounds: usize) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (direction, words) in [(Direction::Out, "out"), (Direction::In, "in")] {
        for streams in STREAMS {
            let once =
                async |way: &Way| run(way, servers, direction, streams).await.map(|number| vec![number]);
            let compared = compare(ways, rounds, "Gbit/s", once).await;
            let plural = if streams == 1 { "" } else { "s" };
            let what = format!("(i) {streams} TCP stream{plural} {words} through the gateway");
            rows.push(compared.row(what, Some(OF_VETH), Some(OF_OTHERS))?);
        }
    }
    Ok(rows)
}

/// The client's ends. Dropping them ends what reads and writes them.
struct Streams(Vec<TcpStream>);

impl Drop for Streams {
    fn drop(&mut self) {
        for stream in &self.0 {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

/// In Gbit/s, counted where it arrives.
async fn run(way: &Way, servers: &Servers, direction: Direction, count: usize) -> Result<f64> {
    let (port, arrived) = match direction {
        Direction::Out => (SINK, Arc::clone(&servers.taken)),
        Direction::In => (SOURCE, Arc::new(AtomicU64::new(0))),
    };
    let connect = || (0..count).map(|_| way.connect(port)).collect::<Result<Vec<_>>>();
    let streams = Streams(way.entry.run(connect)?);
    let mut workers = Vec::new();
    for stream in &streams.0 {
        let (stream, arrived) = (stream.try_clone()?, Arc::clone(&arrived));
        workers.push(thread::spawn(move || match direction {
            Direction::Out => give(stream),
            Direction::In => take(stream, &arrived),
        }));
    }
    tokio::time::sleep(RAMP).await;
    let (before, started) = (arrived.load(Ordering::Relaxed), Instant::now());
    tokio::time::sleep(WINDOW).await;
    let (bytes, time) = (arrived.load(Ordering::Relaxed) - before, started.elapsed());
    ensure!(workers.iter().all(|worker| !worker.is_finished()), "a stream ended early");
    drop(streams);
    for worker in workers {
        worker.join().map_err(|_| anyhow!("a client panicked"))?;
    }
    servers.settle()?;
    Ok(bytes as f64 * 8.0 / 1e9 / time.as_secs_f64())
}
