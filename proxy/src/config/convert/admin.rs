//! The bootstrap's `admin`.

use std::{net::SocketAddr, path::PathBuf};

use weir_proto::envoy::config::{bootstrap::v3::Bootstrap, core::v3::address::Address};

use super::{
    access_log,
    context::Context,
    fields::{item, socket_address, sub},
    matcher,
};
use crate::{access_log::AccessLog, config::error::Error, matcher::StringMatcher};

/// Where the admin server listens, and what it logs.
#[derive(Debug)]
pub struct AdminSettings {
    /// Its address.
    pub address: AdminAddress,
    /// A line for each request.
    pub access_log: Vec<AccessLog>,
    /// Paths that are answered; empty: all.
    pub allow_paths: Vec<StringMatcher>,
}

/// See [`AdminSettings::address`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdminAddress {
    /// TCP.
    Tcp(SocketAddr),
    /// A unix socket's path, and its mode.
    Pipe(PathBuf, u32),
}

impl AdminSettings {
    /// Reads a bootstrap that has passed its validation rules; none: there is to be no admin server.
    pub fn read(bootstrap: &Bootstrap) -> Result<Option<Self>, Error> {
        let Some(message) = &bootstrap.admin else { return Ok(None) };
        let at = "admin";
        let mut cx = Context::default();
        let supported = ["access_log", "access_log_path", "address", "allow_paths"];
        cx.only(message, at, &supported, &["profile_path", "ignore_global_conn_limit"])?;
        let Some(address) = &message.address else { return Ok(None) };
        let address_at = sub(at, "address");
        let address = match &address.address {
            Some(Address::Pipe(pipe)) => AdminAddress::Pipe(pipe.path.clone().into(), pipe.mode),
            _ => AdminAddress::Tcp(socket_address(Some(address), &address_at)?),
        };
        let allow_paths = message.allow_paths.iter().enumerate();
        let allow_paths: Result<_, _> =
            allow_paths.map(|(index, path)| matcher::string(path, &item(at, "allow_paths", index))).collect();
        let mut access_log = access_log::access_logs(&mut cx, &message.access_log, at, "access_log")?;
        #[expect(deprecated, reason = "published configurations use it")]
        if !message.access_log_path.is_empty() {
            access_log.push(access_log::of_path(&message.access_log_path)?);
        }
        Ok(Some(Self { address, access_log, allow_paths: allow_paths? }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Option<AdminSettings>, String> {
        let bootstrap: Bootstrap = weir_proto::from_yaml(text).map_err(|error| error.to_string())?;
        AdminSettings::read(&bootstrap).map_err(|error| error.to_string())
    }

    #[test]
    fn addresses() {
        assert!(read("{}").unwrap().is_none());
        assert!(read("admin: {}").unwrap().is_none());
        let tcp = read("admin: { address: { socket_address: { address: 127.0.0.1, port_value: 9901 } } }").unwrap();
        assert_eq!(tcp.unwrap().address, AdminAddress::Tcp("127.0.0.1:9901".parse().unwrap()));
        let pipe = read("admin: { address: { pipe: { path: /run/a.sock, mode: 384 } } }").unwrap();
        assert_eq!(pipe.unwrap().address, AdminAddress::Pipe("/run/a.sock".into(), 0o600));
    }

    #[test]
    fn what_is_wrong_is_said() {
        let error = read("admin: { address: { socket_address: { address: here, port_value: 1 } } }").map(drop);
        assert_eq!(error.unwrap_err(), "admin.address.socket_address.address: \"here\" is not an IP address");
        let error = read("admin: { access_log: [{ name: x }], address: { pipe: { path: /a } } }").map(drop);
        assert_eq!(error.unwrap_err(), "admin.access_log[0].typed_config: a logger is required");
    }
}
