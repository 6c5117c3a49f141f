//! The one writer of `CONFIG`: several parts of the agent each own some of its fields.

use std::sync::Arc;

use aya::Ebpf;
use parking_lot::Mutex;
use weir_abi::map::Config;

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
