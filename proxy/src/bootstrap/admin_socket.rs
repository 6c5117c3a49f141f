//! The admin server's socket: bound while there may be privileges for it.

use std::{
    fs, io,
    net::TcpListener,
    os::unix::{fs::PermissionsExt, net::UnixListener},
    path::{Path, PathBuf},
};

use crate::{admin::Listener, config::convert::AdminAddress};

/// Why there is no admin server.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// It cannot be bound.
    #[error("admin: cannot bind {address}: {source}")]
    Bind {
        /// The address.
        address: String,
        /// Why not.
        source: io::Error,
    },
    /// Its address cannot be written where --admin-address-path says.
    #[error("--admin-address-path {}: {source}", path.display())]
    AddressPath {
        /// Where.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// Binds `address`, and writes it, with the port that the kernel chose where 0 was asked for, to `address_path`.
pub(super) fn bind(address: &AdminAddress, address_path: Option<&Path>) -> Result<Listener, BindError> {
    let (listener, bound) = match address {
        AdminAddress::Tcp(address) => {
            let failed = |source| BindError::Bind { address: address.to_string(), source };
            let listener = TcpListener::bind(address).map_err(failed)?;
            listener.set_nonblocking(true).map_err(failed)?;
            let bound = listener.local_addr().map_err(failed)?.to_string();
            (Listener::Tcp(listener), bound)
        }
        AdminAddress::Pipe(path, mode) => {
            let shown = path.display().to_string();
            let listener =
                bind_pipe(path, *mode).map_err(|source| BindError::Bind { address: shown.clone(), source })?;
            (Listener::Pipe(listener), shown)
        }
    };
    if let Some(path) = address_path {
        let failed = |source| BindError::AddressPath { path: path.to_owned(), source };
        fs::write(path, bound.as_bytes()).map_err(failed)?;
    }
    Ok(listener)
}

/// What an earlier process left at the path is removed first, as Envoy does.
fn bind_pipe(path: &Path, mode: u32) -> io::Result<UnixListener> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    if mode != 0 {
        fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    }
    listener.set_nonblocking(true)?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_written_with_its_port() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("address");
        let address = AdminAddress::Tcp("127.0.0.1:0".parse().unwrap());
        let Listener::Tcp(listener) = bind(&address, Some(&path)).unwrap() else { panic!("TCP") };
        assert_eq!(fs::read_to_string(&path).unwrap(), listener.local_addr().unwrap().to_string());
        let missing = Path::new("/nonexistent/address");
        let error = bind(&address, Some(missing)).unwrap_err().to_string();
        assert_eq!(error, "--admin-address-path /nonexistent/address: No such file or directory (os error 2)");
    }

    #[test]
    fn a_pipe_replaces_what_an_earlier_process_left() {
        let directory = tempfile::tempdir().unwrap();
        let address = AdminAddress::Pipe(directory.path().join("admin.sock"), 0o600);
        drop(bind(&address, None).unwrap());
        bind(&address, None).unwrap();
    }

    #[test]
    fn an_address_in_use_is_named() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let error = bind(&AdminAddress::Tcp(address), None).unwrap_err().to_string();
        assert_eq!(error, format!("admin: cannot bind {address}: Address already in use (os error 98)"));
    }
}
