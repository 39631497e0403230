//! Standard input as a bounded channel.
//!
//! A thread of its own reads, because a blocked read on a terminal cannot be cancelled: the thread is left behind
//! when the process leaves.

use bytes::Bytes;
use rustix::io::Errno;
use tokio::sync::mpsc;

const CHUNK: usize = 32 << 10;

/// What is read, until the channel closes at the end of input.
pub fn read() -> mpsc::Receiver<Bytes> {
    let (tx, rx) = mpsc::channel(4);
    std::thread::spawn(move || {
        let stdin = std::io::stdin();
        let mut buffer = vec![0; CHUNK];
        loop {
            match rustix::io::read(&stdin, &mut buffer[..]) {
                Ok(0) => return,
                Ok(n) => {
                    if tx.blocking_send(Bytes::copy_from_slice(&buffer[..n])).is_err() {
                        return;
                    }
                }
                Err(Errno::INTR) => {}
                Err(_) => return,
            }
        }
    });
    rx
}
