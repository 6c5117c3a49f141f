//! The one writer of `CONFIG`: several parts of the agent each own some of its fields.

use std::{io, os::fd::OwnedFd, sync::Arc};

use aya::Ebpf;
use parking_lot::Mutex;
use weir_abi::map::{Config, config_flag};

use super::{Error, maps::ConfigMap};

/// Reads and changes what holds for the whole node, under one lock.
#[derive(Clone)]
pub struct ConfigHandle(Arc<Mutex<ConfigMap>>);

impl ConfigHandle {
    pub(super) fn take(object: &mut Ebpf) -> Result<Self, Error> {
        Ok(Self(Arc::new(Mutex::new(ConfigMap::take(object)?))))
    }

    /// What the kernel has.
    pub fn get(&self) -> Result<Config, Error> {
        self.0.lock().get()
    }

    /// A copy of the map's file descriptor, for [`no_proxy`].
    pub fn fd(&self) -> io::Result<OwnedFd> {
        self.0.lock().fd()
    }

    /// Sets or clears bits of [`weir_abi::map::config_flag`]; the others stay.
    pub fn set_flag(&self, bits: u32, on: bool) -> Result<(), Error> {
        self.update(|config| if on { config.flags |= bits } else { config.flags &= !bits })
    }

    /// Changes some fields; the others stay.
    pub fn update(&self, change: impl FnOnce(&mut Config)) -> Result<(), Error> {
        let mut map = self.0.lock();
        let before = map.get()?;
        let mut config = before;
        change(&mut config);
        if config == before { Ok(()) } else { map.set(&config) }
    }
}

/// Says through a copy of the map's file descriptor that no proxy accepts: pods that fail open are left alone from then
/// on. Needs no privilege. For a process that is the only one left to know.
pub fn no_proxy(map: OwnedFd) -> Result<(), Error> {
    let mut map = ConfigMap::open(map)?;
    let config = map.get()?;
    map.set(&Config { flags: config.flags & !config_flag::PROXY_READY, ..config })
}
