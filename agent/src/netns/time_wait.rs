//! `net.ipv4.tcp_tw_reuse` of the namespace that the calling thread is in.
//!
//! All redirected connections of a pod go to one address and port, so those that are in TIME_WAIT take source ports away
//! from new ones whatever their destinations are: with the default range about 470 new connections a second would be all
//! that a pod can make. With 1 in place of the default 2 (loopback addresses only, Linux 4.19) such a port is taken again
//! after a second where timestamps (RFC 7323) keep the two connections apart, as they do inside a namespace.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::Error;

const DEFAULT: &str = "2";
const REUSE: &str = "1";

/// Lets ports in TIME_WAIT be used again. Whether they were not; who switched it off, or on, is left alone.
pub(super) fn reuse(proc: &Path) -> Result<bool, Error> {
    exchange(proc, DEFAULT, REUSE)
}

/// Undoes that, unless somebody has changed it since.
pub(super) fn restore(proc: &Path) -> Result<(), Error> {
    exchange(proc, REUSE, DEFAULT).map(drop)
}

fn exchange(proc: &Path, from: &str, to: &str) -> Result<bool, Error> {
    let path = path(proc);
    let failed = |source| Error::Socket { action: format!("change {}", path.display()), source };
    let changes = fs::read_to_string(&path).map_err(failed)?.trim() == from;
    if changes {
        fs::write(&path, to).map_err(failed)?;
    }
    Ok(changes)
}

fn path(proc: &Path) -> PathBuf {
    proc.join("sys/net/ipv4/tcp_tw_reuse")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_default_is_changed_and_put_back() {
        let proc = tempfile::tempdir().unwrap();
        fs::create_dir_all(proc.path().join("sys/net/ipv4")).unwrap();
        for (before, during, changed, after) in
            [("2\n", "1", true, "2"), ("0\n", "0\n", false, "0\n"), ("1\n", "1\n", false, "1\n")]
        {
            fs::write(path(proc.path()), before).unwrap();
            assert_eq!(reuse(proc.path()).unwrap(), changed, "{before:?}");
            assert_eq!(fs::read_to_string(path(proc.path())).unwrap(), during);
            if changed {
                restore(proc.path()).unwrap();
            }
            assert_eq!(fs::read_to_string(path(proc.path())).unwrap(), after);
        }
        fs::write(path(proc.path()), "0").unwrap();
        restore(proc.path()).unwrap();
        assert_eq!(fs::read_to_string(path(proc.path())).unwrap(), "0", "set by somebody else meanwhile");
    }
}
