//! Opens files that are named to the plugin: none that makes it wait. The runtime holds a lock while it runs.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use nix::libc;

/// Opens a regular file to read, which a network namespace's is, too. Opening a FIFO would wait for who writes it.
pub fn regular(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("it is not a regular file")) }
}

/// Opens a file to append to, which is made if it is not there.
pub fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).custom_flags(libc::O_NONBLOCK).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::{sys::stat::Mode, unistd::mkfifo};

    #[test]
    fn a_fifo_is_refused_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let fifo = directory.path().join("fifo");
        mkfifo(&fifo, Mode::S_IRWXU).unwrap();
        assert_eq!(regular(&fifo).unwrap_err().to_string(), "it is not a regular file");
        assert!(append(&fifo).is_err(), "nobody reads it");
        assert!(regular(Path::new("/proc/self/ns/net")).is_ok());
        assert_eq!(regular(directory.path()).unwrap_err().to_string(), "it is not a regular file");
        append(&directory.path().join("log")).unwrap();
    }
}
