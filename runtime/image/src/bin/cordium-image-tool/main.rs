//! A tool for this crate's tests and for measurements: `unpack` is the confined helper as every executable
//! that opens a store must offer it; `pull ROOT REFERENCE` pulls one image and says how long that took, `view` the same
//! for giving it to another range of ids; `mounted` says what is in an overlay of the result.

mod mounted;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use cordium_image::{IdMap, ImageStore, StoreConfig, ViewMethod, no_progress, unpack_main};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let result = match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["unpack"] => return unpack_main(),
        ["pull", root, reference] => pull(Path::new(root), reference),
        ["remove-tree", root, path] => remove(Path::new(root), Path::new(path)),
        ["view", root, reference, start, method] => view(Path::new(root), reference, start, method),
        ["mounted", start, dir, layers @ ..] => mounted::show(start, Path::new(dir), layers),
        ["mounted-inner", dir, layers @ ..] => mounted::inner(Path::new(dir), layers),
        _ => Err("usage: cordium-image-tool unpack | pull ROOT REFERENCE | remove-tree ROOT PATH
  | view ROOT REFERENCE START auto|reflink|redirect|copy | mounted START DIR LAYER... [::DATA]"
            .into()),
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

/// Gives an image of the store to the 65,536 ids from `start` on.
fn view(root: &Path, reference: &str, start: &str, method: &str) -> Result<(), String> {
    let mut config = config()?;
    let start: u32 = start.parse().map_err(|e| format!("{start}: {e}"))?;
    let range = IdMap { uid_start: start, uid_count: 65_536, gid_start: start, gid_count: 65_536 };
    if !config.ranges.contains(&range) {
        config.ranges.push(range);
    }
    config.view_method = match method {
        "reflink" => Some(ViewMethod::Reflink),
        "redirect" => Some(ViewMethod::Redirect),
        "copy" => Some(ViewMethod::Copy),
        _ => None,
    };
    runtime()?.block_on(async {
        let store = ImageStore::open(root, config).map_err(|e| e.to_string())?;
        let image = store.ensure(reference, None, no_progress()).await.map_err(|e| e.to_string())?;
        let begin = Instant::now();
        let view = store.view(&image, &range).await.map_err(|e| e.to_string())?;
        println!("{} layers in {:.3} s", view.layers.len(), begin.elapsed().as_secs_f64());
        view.layers.iter().for_each(|layer| println!("{}", layer.display()));
        view.data.iter().for_each(|data| println!("::{}", data.display()));
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
    let pairs = ranges("/etc/subuid")?.into_iter().zip(ranges("/etc/subgid")?);
    let mut all = pairs.map(|(uid_start, gid_start)| IdMap {
        uid_start,
        uid_count: 65_536,
        gid_start,
        gid_count: 65_536,
    });
    let home = all.next().ok_or("the caller has no range of 65536 subordinate ids")?;
    let unpacker: PathBuf = std::env::current_exe().map_err(|e| e.to_string())?;
    let mut config = StoreConfig::new(home, unpacker);
    config.ranges = all.collect();
    Ok(config)
}

/// Starts of the calling user's whole ranges of 65,536 subordinate ids.
fn ranges(file: &str) -> Result<Vec<u32>, String> {
    let uid = nix::unistd::getuid();
    let user = nix::unistd::User::from_uid(uid).ok().flatten().map(|user| user.name).unwrap_or_default();
    let text = std::fs::read_to_string(file).map_err(|e| format!("{file}: {e}"))?;
    let lines = text.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let (start, count): (u32, u32) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        (name == user || name == uid.to_string()).then_some((start, count))
    });
    Ok(lines.flat_map(|(start, count)| (0..count / 65_536).map(move |n| start + n * 65_536)).collect())
}
