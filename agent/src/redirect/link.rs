//! Pinned links: made from an attached program, given another program in place, detached.
//!
//! aya 0.14 can pin a link and open it again, but replaces the program only of XDP and tc links. Detaching and attaching
//! anew would leave a moment without redirect, or one with two programs at work, so `bpf(2)` is called here directly.

use std::{
    ffi::CString,
    fs, io,
    mem::zeroed,
    os::{
        fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

use aya_obj::generated::{bpf_attr, bpf_cmd};

/// What became of a link that was to get another program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Updated {
    /// It runs the program from now on; no connection saw it without one.
    Replaced,
    /// What it was attached to is gone, or there is no such pin: attach anew.
    Gone,
}

/// Gives the link pinned at `pin` another program. A defunct link is unpinned.
pub(super) fn update(pin: &Path, program: &impl AsFd) -> io::Result<Updated> {
    let link = match open(pin) {
        Ok(link) => link,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Updated::Gone),
        Err(error) => return Err(error),
    };
    // SAFETY: all zeroes is a valid `bpf_attr`: it is a union of structures of integers.
    let mut attributes: bpf_attr = unsafe { zeroed() };
    attributes.link_update.link_fd = link.as_raw_fd().cast_unsigned();
    attributes.link_update.__bindgen_anon_1.new_prog_fd = program.as_fd().as_raw_fd().cast_unsigned();
    match bpf(bpf_cmd::BPF_LINK_UPDATE, &mut attributes) {
        Ok(_) => Ok(Updated::Replaced),
        Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => {
            fs::remove_file(pin)?;
            Ok(Updated::Gone)
        }
        Err(error) => Err(error),
    }
}

/// Detaches the program of the link pinned at `pin`; the pin stays. Removing the pin alone would detach it too, but some
/// time later (the kernel waits for an RCU grace period and a worker), and until then connections would still be
/// brought to listeners that are gone.
pub(super) fn detach(pin: &Path) -> io::Result<()> {
    let link = match open(pin) {
        Ok(link) => link,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    // SAFETY: as above.
    let mut attributes: bpf_attr = unsafe { zeroed() };
    attributes.link_detach.link_fd = link.as_raw_fd().cast_unsigned();
    match bpf(bpf_cmd::BPF_LINK_DETACH, &mut attributes) {
        Err(error) if error.raw_os_error() != Some(libc::ENOLINK) => Err(error),
        _ => Ok(()),
    }
}

fn open(pin: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(pin.as_os_str().as_bytes())?;
    // SAFETY: as above.
    let mut attributes: bpf_attr = unsafe { zeroed() };
    attributes.__bindgen_anon_4.pathname = path.as_ptr() as u64;
    let fd = bpf(bpf_cmd::BPF_OBJ_GET, &mut attributes)?;
    // SAFETY: BPF_OBJ_GET gave a new file descriptor, which nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// `bpf(2)`: a file descriptor or 0.
pub(super) fn bpf(command: bpf_cmd, attributes: &mut bpf_attr) -> io::Result<i32> {
    // SAFETY: `attributes` is a whole `bpf_attr` of that size, and the pointers in it outlive the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut *attributes, size_of::<bpf_attr>()) };
    // A file descriptor or 0, both of which fit.
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as i32) }
}
