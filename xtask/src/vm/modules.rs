//! Which kernel modules come before which: `modules.dep`, as `depmod` writes it.

use anyhow::{Context, Result, ensure};

/// The files of `wanted` and of all that they need, in the order in which they can be loaded.
pub fn load_order(modules_dep: &str, wanted: &[&str]) -> Result<Vec<String>> {
    let mut order = Vec::new();
    for name in wanted {
        let line = modules_dep.lines().find(|line| name_of(line.split(':').next().unwrap_or(line)) == *name);
        let (file, needs) = line
            .and_then(|line| line.split_once(':'))
            .with_context(|| format!("the kernel has no module {name}"))?;
        // `depmod` lists all that a module needs, the last to be loaded first.
        for path in needs.split_whitespace().rev().chain([file]) {
            ensure!(!path.starts_with('/') && !path.contains(".."), "modules.dep names {path}");
            if !order.iter().any(|there| there == path) {
                order.push(path.to_owned());
            }
        }
    }
    Ok(order)
}

/// `kernel/drivers/block/virtio_blk.ko` is `virtio_blk`.
fn name_of(path: &str) -> &str {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split('.').next().unwrap_or(file)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const DEP: &str = "\
kernel/drivers/virtio/virtio.ko:
kernel/drivers/virtio/virtio_ring.ko: kernel/drivers/virtio/virtio.ko
kernel/drivers/virtio/virtio_pci.ko: kernel/drivers/virtio/virtio_ring.ko kernel/drivers/virtio/virtio.ko
kernel/drivers/block/virtio_blk.ko: kernel/drivers/virtio/virtio_ring.ko kernel/drivers/virtio/virtio.ko
";

    #[test]
    fn what_is_needed_comes_first_and_once() {
        let order = load_order(DEP, &["virtio_pci", "virtio_blk"]).unwrap();
        let names: Vec<_> = order.iter().map(|path| name_of(path)).collect();
        assert_eq!(names, ["virtio", "virtio_ring", "virtio_pci", "virtio_blk"]);
    }

    #[test]
    fn an_unknown_module_is_an_error() {
        assert!(load_order(DEP, &["virtio_net"]).unwrap_err().to_string().contains("virtio_net"));
    }
}
