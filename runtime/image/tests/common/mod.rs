//! What the tests of the store share: an ordinary user to run as, images made by hand, servers.
#![allow(dead_code, clippy::unwrap_used)]

pub mod disk;
pub mod image;
pub mod process;
pub mod server;
pub mod user;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cordium_image::{ImageError, ImageStore, StoreConfig, Timeouts};

pub struct Fixture {
    pub dir: tempfile::TempDir,
}

impl Fixture {
    pub fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn config(&self) -> StoreConfig {
        let mut config = StoreConfig::new(user::ids(), env!("CARGO_BIN_EXE_cordium-image-tool").into());
        config.timeouts = Timeouts {
            connect: Duration::from_secs(2),
            idle: Duration::from_secs(2),
            document: Duration::from_secs(5),
            layer: Duration::from_secs(120),
            pull: Duration::from_secs(180),
            attempts: 3,
            backoff: Duration::from_millis(20),
        };
        config
    }

    pub fn store(&self) -> ImageStore {
        self.store_with(self.config())
    }

    pub fn store_with(&self, config: StoreConfig) -> ImageStore {
        // A store that was just dropped may still have a task on its way out.
        let end = Instant::now() + Duration::from_secs(5);
        loop {
            match ImageStore::open(&self.path("store"), config.clone()) {
                Err(ImageError::Locked { .. }) if Instant::now() < end => {
                    std::thread::sleep(Duration::from_millis(10));
                }
                result => return result.unwrap(),
            }
        }
    }

    /// Nothing may be left behind; what is removed in the background gets a moment.
    pub async fn assert_staging_empty(&self) {
        let staging = self.path("store/staging");
        let end = Instant::now() + Duration::from_secs(20);
        loop {
            let left: Vec<_> = std::fs::read_dir(&staging).unwrap().map(|e| e.unwrap().path()).collect();
            if left.is_empty() {
                return;
            }
            assert!(Instant::now() < end, "left in staging: {left:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub fn published_layers(&self) -> usize {
        std::fs::read_dir(self.path("store/layers")).unwrap().count()
    }
}

impl Drop for Fixture {
    /// The store's files belong to subordinate ids: they go the way the product removes them.
    fn drop(&mut self) {
        let root = self.dir.path().join("cleanup");
        let tool = env!("CARGO_BIN_EXE_cordium-image-tool");
        let _ =
            std::process::Command::new(tool).arg("remove-tree").arg(&root).arg(self.path("store")).status();
    }
}

pub fn names(dir: &Path) -> Vec<String> {
    let mut list: Vec<String> = std::fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    list.sort();
    list
}
