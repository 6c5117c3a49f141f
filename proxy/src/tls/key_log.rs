//! The key log: secrets of connections, in NSS's format, for Wireshark. On for the connections that `key_log` names.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    net::IpAddr,
    path::Path,
};

use ipnet::IpNet;
use parking_lot::Mutex;
use rustls::KeyLog;

use super::certificate::hex;

/// Where secrets go.
#[derive(Debug)]
pub struct KeyLogFile {
    file: Mutex<File>,
}

impl KeyLogFile {
    /// Appends to `path`.
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { file: Mutex::new(OpenOptions::new().append(true).create(true).open(path)?) })
    }
}

impl KeyLog for KeyLogFile {
    fn log(&self, label: &str, client_random: &[u8], secret: &[u8]) {
        let line = format!("{label} {} {}\n", hex(client_random), hex(secret));
        // Who looks for secrets and finds none sees it at once; connections go on.
        let _ = self.file.lock().write_all(line.as_bytes());
    }
}

/// Which connections' secrets are logged.
#[derive(Clone, Debug, Default)]
pub struct KeyLogRange {
    /// This side's addresses; empty: all.
    pub local: Vec<IpNet>,
    /// The peer's addresses; empty: all.
    pub remote: Vec<IpNet>,
}

impl KeyLogRange {
    /// Whether a connection is one of them.
    pub fn contains(&self, local: IpAddr, remote: IpAddr) -> bool {
        let within = |ranges: &[IpNet], ip: IpAddr| ranges.is_empty() || ranges.iter().any(|range| range.contains(&ip));
        within(&self.local, local) && within(&self.remote, remote)
    }
}
