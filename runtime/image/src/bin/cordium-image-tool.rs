//! A tool for this crate's tests and for measurements: `unpack` is the confined helper as every executable
//! that opens a store must offer it; `pull ROOT REFERENCE` pulls one image and says how long that took.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use cordium_image::{IdMap, ImageStore, StoreConfig, no_progress, unpack_main};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let result = match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["unpack"] => return unpack_main(),
        ["pull", root, reference] => pull(Path::new(root), reference),
        ["remove-tree", root, path] => remove(Path::new(root), Path::new(path)),
        _ => Err("usage: cordium-image-tool unpack | pull ROOT REFERENCE | remove-tree ROOT PATH".into()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn pull(root: &Path, reference: &str) -> Result<(), String> {
    let config = config()?;
    runtime()?.block_on(async {
        let store = ImageStore::open(root, config).map_err(|e| e.to_string())?;
        let start = Instant::now();
        let image = store.pull(reference, None, no_progress()).await.map_err(|e| e.to_string())?;
        println!("{} in {:.3} s: {} layers", image.digest, start.elapsed().as_secs_f64(), image.layers.len());
        Ok(())
    })
}

fn remove(root: &Path, path: &Path) -> Result<(), String> {
    let config = config()?;
    runtime()?.block_on(async {
        let store = ImageStore::open(root, config).map_err(|e| e.to_string())?;
        store.remove_tree(path).await.map_err(|e| e.to_string())
    })
}

fn runtime() -> Result<tokio::runtime::Runtime, String> {
    tokio::runtime::Runtime::new().map_err(|e| e.to_string())
}

fn config() -> Result<StoreConfig, String> {
    let (uid_start, uid_count) = range("/etc/subuid")?;
    let (gid_start, gid_count) = range("/etc/subgid")?;
    let unpacker: PathBuf = std::env::current_exe().map_err(|e| e.to_string())?;
    Ok(StoreConfig::new(IdMap { uid_start, uid_count, gid_start, gid_count }, unpacker))
}

/// The calling user's first range of at least 65536 subordinate ids.
fn range(file: &str) -> Result<(u32, u32), String> {
    let uid = nix::unistd::getuid();
    let user = nix::unistd::User::from_uid(uid).ok().flatten().map(|user| user.name).unwrap_or_default();
    let text = std::fs::read_to_string(file).map_err(|e| format!("{file}: {e}"))?;
    text.lines()
        .filter_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            let (start, count): (u32, u32) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
            (name == user || name == uid.to_string()).then_some((start, count))
        })
        .find(|(_, count)| *count >= 65_536)
        .ok_or_else(|| format!("{file} gives {user} no range of 65536 ids"))
}
