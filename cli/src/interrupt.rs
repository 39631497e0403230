//! Ctrl-C with two meanings: the first asks the work in hand to end, the second leaves at once.

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
    task::JoinHandle,
};

use crate::{
    error::{CliResult, Doing as _, EXIT_INTERRUPTED},
    tty,
};

pub struct Interrupt {
    seen: watch::Receiver<bool>,
    task: JoinHandle<()>,
}

impl Interrupt {
    pub fn arm() -> CliResult<Self> {
        let mut int = signal(SignalKind::interrupt()).doing("watch for Ctrl-C")?;
        let mut term = signal(SignalKind::terminate()).doing("watch for SIGTERM")?;
        let (tell, seen) = watch::channel(false);
        let task = tokio::spawn(async move {
            loop {
                tokio::select! {
                    _ = int.recv() => {}
                    _ = term.recv() => {}
                }
                if *tell.borrow() {
                    tty::exit(EXIT_INTERRUPTED);
                }
                tell.send_replace(true);
            }
        });
        Ok(Self { seen, task })
    }

    /// From here on others deal with signals.
    pub fn disarm(&self) {
        self.task.abort();
    }

    /// Resolves once the user has interrupted.
    pub async fn first(&mut self) {
        if self.seen.wait_for(|seen| *seen).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

impl Drop for Interrupt {
    fn drop(&mut self) {
        self.task.abort();
    }
}
