//! `mount-bpffs`: for nodes on which nobody else mounts the BPF file system.

use std::path::Path;

use nix::mount::{MsFlags, mount};

use crate::features;

/// Mounts the BPF file system, unless it is mounted. In a container the mount reaches the host only by a volume with
/// Bidirectional propagation.
pub fn mount_bpffs(path: &Path) -> anyhow::Result<()> {
    if features::check_bpffs(path).is_ok() {
        println!("{} is a BPF file system already", path.display());
        return Ok(());
    }
    // As systemd mounts it.
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("bpf"), path, Some("bpf"), flags, Some("mode=700"))
        .map_err(|errno| anyhow::anyhow!("cannot mount the BPF file system at {}: {}", path.display(), errno.desc()))?;
    println!("the BPF file system is mounted at {}", path.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_that_is_none_is_named() {
        let error = mount_bpffs(Path::new("/nonexistent/bpf")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "cannot mount the BPF file system at /nonexistent/bpf: No such file or directory"
        );
    }
}
