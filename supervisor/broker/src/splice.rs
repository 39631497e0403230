//! Copies between two connections inside the kernel, `socket → pipe → socket`.
//!
//! A direction holds a pipe only while it has bytes in flight: ten thousand idle flows cost no pipes.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::Instant;

/// Wanted capacity of a pipe; the kernel may give less to a user who has many.
const CAPACITY: usize = 256 * 1024;
const KEPT: usize = 64;
const FLAGS: SpliceFlags = SpliceFlags::NONBLOCK.union(SpliceFlags::MOVE);

struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
}

/// Empty pipes, for the next direction that has something to move.
#[derive(Default)]
pub(crate) struct Pipes(Mutex<Vec<Pipe>>);

impl Pipes {
    fn take(&self) -> io::Result<Pipe> {
        if let Some(pipe) = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop() {
            return Ok(pipe);
        }
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        // A smaller pipe is slower, not wrong.
        let _ = fcntl_setpipe_size(&write, CAPACITY);
        Ok(Pipe { read, write })
    }

    /// Only an empty pipe may come back.
    fn give(&self, pipe: Pipe) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < KEPT {
            kept.push(pipe);
        }
    }
}

/// When bytes last moved, and in how many directions they still may.
pub(crate) struct Activity {
    start: Instant,
    last_millis: AtomicU64,
    ended: AtomicU64,
    moved: AtomicBool,
}

impl Activity {
    pub(crate) fn new() -> Self {
        Self {
            start: Instant::now(),
            last_millis: AtomicU64::new(0),
            ended: AtomicU64::new(0),
            moved: AtomicBool::new(false),
        }
    }

    /// Whether any byte has moved yet.
    pub(crate) fn has_moved(&self) -> bool {
        self.moved.load(Ordering::Relaxed)
    }

    /// Something moved just now.
    pub(crate) fn touch(&self) {
        let millis = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_millis.store(millis, Ordering::Relaxed);
    }

    /// Returns once nothing has moved for `open`, or for `half_closed` when one direction has ended.
    pub(crate) async fn idle(&self, open: Duration, half_closed: Duration) {
        loop {
            let limit = if self.ended.load(Ordering::Relaxed) > 0 { half_closed } else { open };
            let due = self.start + Duration::from_millis(self.last_millis.load(Ordering::Relaxed)) + limit;
            if due <= Instant::now() {
                return;
            }
            // Wakes often enough to see the limit change.
            tokio::time::sleep_until(due.min(Instant::now() + half_closed)).await;
        }
    }
}

/// Copies until `from` ends, then ends `to` for writing. Back-pressure is the pipe: nothing is read while it is not empty.
pub(crate) async fn copy(
    from: &TcpStream,
    to: &TcpStream,
    pipes: &Pipes,
    activity: &Activity,
) -> io::Result<()> {
    loop {
        from.readable().await?;
        let pipe = pipes.take()?;
        let ended = drain(from, to, &pipe, activity).await?;
        pipes.give(pipe);
        if ended {
            break;
        }
    }
    activity.ended.fetch_add(1, Ordering::Relaxed);
    activity.touch();
    match rustix::net::shutdown(to, rustix::net::Shutdown::Write) {
        Err(rustix::io::Errno::NOTCONN) | Ok(()) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Moves what there is; `true` at the end of the stream. The pipe is empty afterwards, unless it failed.
async fn drain(from: &TcpStream, to: &TcpStream, pipe: &Pipe, activity: &Activity) -> io::Result<bool> {
    loop {
        let taken =
            from.try_io(Interest::READABLE, || Ok(splice(from, None, &pipe.write, None, CAPACITY, FLAGS)?));
        let mut pending = match taken {
            Ok(0) => return Ok(true),
            Ok(taken) => taken,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error),
        };
        while pending > 0 {
            let moved = to
                .async_io(Interest::WRITABLE, || Ok(splice(&pipe.read, None, to, None, pending, FLAGS)?))
                .await?;
            if moved == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            pending -= moved;
            activity.moved.store(true, Ordering::Relaxed);
            activity.touch();
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (near, listener.accept().await.unwrap().0)
    }

    #[tokio::test]
    async fn bytes_arrive_in_order_and_the_end_is_passed_on() {
        let ((mut client, left), (right, mut server)) = (pair().await, pair().await);
        let data: Vec<u8> = (0..3_000_000_u32).map(|i| ((i * 31) >> 3) as u8).collect();
        let sent = data.clone();
        let (pipes, activity) = (Pipes::default(), Activity::new());
        let write = async {
            client.write_all(&sent).await.unwrap();
            client.shutdown().await.unwrap();
        };
        let mut got = Vec::new();
        let (copied, (), read) =
            tokio::join!(copy(&left, &right, &pipes, &activity), write, server.read_to_end(&mut got));
        copied.unwrap();
        assert_eq!(read.unwrap(), data.len());
        assert!(got == data);
        assert!(pipes.0.lock().unwrap().len() == 1, "the pipe came back");
    }

    #[tokio::test]
    async fn idle_ends_at_its_limit_and_earlier_when_half_closed() {
        let (open, half_closed) = (Duration::from_millis(400), Duration::from_millis(50));
        let activity = Activity::new();
        let begun = Instant::now();
        activity.idle(open, half_closed).await;
        assert!(begun.elapsed() >= open);
        activity.ended.store(1, Ordering::Relaxed);
        activity.touch();
        let idle = activity.idle(Duration::from_secs(3600), half_closed);
        tokio::time::timeout(Duration::from_secs(60), idle).await.unwrap();
    }
}
