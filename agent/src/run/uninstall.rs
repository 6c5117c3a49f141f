//! `uninstall`: taking weir off a node on which no agent runs.

use std::path::Path;

use anyhow::bail;
use nix::sys::socket::SockType;
use tokio::runtime::Builder;

use crate::{
    config::{self, Config},
    features, lead,
    redirect::{self, pins::Pins},
    uninstall::{Remains, restore_sysctls},
    unix,
};

/// Removes what an agent of this configuration leaves: links and pins, the keeper, the CNI plugin and files. Without a
/// configuration, the links and pins of the instance. Tells what it did.
pub fn uninstall(path: Option<&Path>, instance: Option<String>) -> anyhow::Result<()> {
    let mut config = path.map(Config::read).transpose()?;
    if let (Some(config), Some(instance)) = (&mut config, &instance) {
        config.instance = instance.clone();
    }
    let Some(config) = config else {
        let instance = instance.unwrap_or_else(config::default_instance);
        let directory = config::pins(&config::Paths::default().bpffs, &instance);
        return remove_pins(Pins::lock_existing(&directory)?.as_ref(), &directory);
    };
    let directory = config.pins();
    let place = lead::Place::new(&directory, config.state(), &config.instance);
    // Locked until everything is gone: no agent starts meanwhile.
    let pins = match Pins::lock_existing(&directory) {
        Err(redirect::Error::AnotherAgent(_)) => match unix::listener_at(&place.socket, SockType::SeqPacket) {
            Some(pid @ 1..) => {
                bail!("an agent runs with the pins in {} (pid {pid}): end it first", directory.display())
            }
            _ => bail!("an agent runs with the pins in {}: end it first", directory.display()),
        },
        pins => pins?,
    };
    let cgroup2 = features::find_cgroup2(config.paths.cgroup2.as_deref())?;
    let remains = Remains::new(&config, &cgroup2, None);
    let mut problems: Vec<String> = remains.close_cni().err().into_iter().collect();
    if let Some(pins) = &pins {
        problems.extend(restore_sysctls(pins, &config.paths.proc).err());
    }
    remove_pins(pins.as_ref(), &directory)?;
    let runtime = Builder::new_current_thread().enable_all().build()?;
    problems.extend(runtime.block_on(remains.dismiss_keeper()).err());
    problems.extend(remains.sweep());
    if !problems.is_empty() {
        bail!(problems.join("\n"));
    }
    Ok(())
}

fn remove_pins(pins: Option<&Pins>, directory: &Path) -> anyhow::Result<()> {
    match pins {
        Some(pins) => {
            pins.remove()?;
            println!("removed {}: nothing is redirected any more", directory.display());
        }
        None => println!("nothing to remove: there is no {}", directory.display()),
    }
    Ok(())
}
