//! `uninstall`: taking away what an agent left in the kernel.

use std::path::{Path, PathBuf};

use crate::{
    config::{self, Config},
    redirect::pins,
};

/// Removes the pins and links of an instance, and tells whether there were any.
pub fn uninstall(path: Option<&Path>, instance: Option<String>) -> anyhow::Result<()> {
    let config = path.map(Config::read).transpose()?;
    let bpffs = config.as_ref().map_or_else(|| config::Paths::default().bpffs, |config| config.paths.bpffs.clone());
    let instance = instance.or(config.map(|config| config.instance)).unwrap_or_else(config::default_instance);
    let directory: PathBuf = config::pins(&bpffs, &instance);
    if pins::uninstall(&directory)? {
        println!("removed {}: nothing is redirected any more", directory.display());
    } else {
        println!("nothing to remove: there is no {}", directory.display());
    }
    Ok(())
}
