//! Access log output: workers format lines into buffers of their own, one thread writes them. When it falls behind,
//! lines are dropped and counted, never waited for.

use std::{
    cell::RefCell,
    collections::{HashMap, HashSet, hash_map::Entry},
    fs::{File, Metadata, OpenOptions},
    io::{self, Write},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::fs::{MetadataExt, fchown},
    },
    sync::{
        Arc,
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    thread::JoinHandle,
};

use nix::unistd::geteuid;

use crate::telemetry::stats::{Shard, Shared, process};

/// A worker hands its buffer over when it holds this many bytes unless told otherwise, or at the flush interval.
const BUFFER_BYTES: usize = 64 * 1024;
/// What a buffer has room for: lines that pass its end are rarely longer than the rest. Growing to it step by step would
/// copy every line, and touch new pages with each step.
const BUFFER_ROOM: usize = BUFFER_BYTES + 4 * 1024;
/// Buffers that may wait for the writer; beyond, they are dropped.
const QUEUE_BUFFERS: usize = 256;

/// A log file could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("access log {path}: {source}")]
pub struct OpenError {
    path: String,
    source: io::Error,
}

enum Command {
    Write { file: LogFile, lines: Vec<u8> },
    Reopen,
    End,
}

/// A log file by its path. Clones are cheap.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LogFile(Arc<str>);

impl LogFile {
    /// A file that the writer opens when it must, unless [`LogFiles::open`] already has.
    pub fn new(path: &str) -> Self {
        Self(path.into())
    }

    /// Its path.
    pub fn path(&self) -> &str {
        &self.0
    }
}

/// The open files. Open them while still privileged, then [`spawn`](LogFiles::spawn) the writer.
#[derive(Debug)]
pub struct LogFiles {
    files: HashMap<LogFile, File>,
    gathered: usize,
}

impl LogFiles {
    /// Opens every path for appending, creates what is missing. `/dev/stdout` and `/dev/stderr` are this process's own,
    /// whatever they are connected to.
    pub fn open(logs: impl IntoIterator<Item = LogFile>) -> Result<Self, OpenError> {
        let mut files = HashMap::new();
        for log in logs {
            if let Entry::Vacant(place) = files.entry(log) {
                let log = place.key();
                let file = open(log).map_err(|source| OpenError { path: log.path().to_owned(), source })?;
                place.insert(file);
            }
        }
        Ok(Self { files, gathered: BUFFER_BYTES })
    }

    /// Makes them a user's, who is to open them again: a rotation that makes a new file gives it to the old one's owner
    /// (`create` of logrotate). Only as root, and only files that are root's: others are somebody's.
    pub fn give_to(&self, user: u32) {
        if !geteuid().is_root() {
            return;
        }
        for (log, file) in &self.files {
            let of_root = |about: &Metadata| about.is_file() && about.uid() == 0;
            if file.metadata().is_ok_and(|about| of_root(&about))
                && let Err(error) = fchown(file, Some(user), Some(user))
            {
                tracing::debug!(path = log.path(), %error, "access log stays root's");
            }
        }
    }

    /// How many bytes workers gather at most.
    pub fn gather(&mut self, bytes: usize) {
        self.gathered = bytes;
    }

    /// Starts the writer thread, which counts in `stats`.
    pub fn spawn(self, stats: Shared) -> io::Result<LogWriter> {
        let (commands, queue) = sync_channel(QUEUE_BUFFERS);
        let thread =
            std::thread::Builder::new().name("access-log".into()).spawn(move || run(self.files, queue, &stats))?;
        Ok(LogWriter { commands, thread, gathered: self.gathered })
    }
}

/// The writer thread.
#[derive(Debug)]
pub struct LogWriter {
    commands: SyncSender<Command>,
    thread: JoinHandle<()>,
    gathered: usize,
}

impl LogWriter {
    /// A worker's end, which counts what it drops in `stats`.
    pub fn handle(&self, stats: Shard) -> LogHandle {
        LogHandle { commands: self.commands.clone(), stats, gathered: self.gathered, buffers: RefCell::default() }
    }

    /// Something that asks for every file to be opened again, after a rotation.
    pub fn reopener(&self) -> Reopener {
        Reopener(self.commands.clone())
    }

    /// Waits until everything is written that was handed over. What comes later is lost.
    pub fn finish(self) {
        // The thread is gone only if it panicked.
        let _ = self.commands.send(Command::End);
        if self.thread.join().is_err() {
            tracing::error!("the access log writer panicked");
        }
    }
}

/// Asks the writer to open its files again.
#[derive(Clone, Debug)]
pub struct Reopener(SyncSender<Command>);

impl Reopener {
    /// Opens every file again by its path; one that cannot be opened stays as it is, with a warning. Blocks while the
    /// queue is full.
    pub fn reopen(&self) {
        // The writer is gone only at shutdown.
        let _ = self.0.send(Command::Reopen);
    }
}

/// A worker's end. Dropping it hands over what is left.
#[derive(Debug)]
pub struct LogHandle {
    commands: SyncSender<Command>,
    stats: Shard,
    gathered: usize,
    buffers: RefCell<Vec<Buffer>>,
}

#[derive(Debug)]
struct Buffer {
    file: LogFile,
    lines: Vec<u8>,
}

impl LogHandle {
    /// A handle whose lines go nowhere, for tests.
    pub fn discard() -> Self {
        let (commands, _) = sync_channel(1);
        Self { commands, stats: Shard::default(), gathered: BUFFER_BYTES, buffers: RefCell::default() }
    }

    /// Appends one line to a log: `write` formats it, the end of line included, into a buffer that may hold earlier
    /// lines.
    pub fn append(&self, file: &LogFile, write: impl FnOnce(&mut Vec<u8>)) {
        let mut buffers = self.buffers.borrow_mut();
        let index = buffers.iter().position(|buffer| buffer.file == *file).unwrap_or_else(|| {
            buffers.push(Buffer { file: file.clone(), lines: Vec::new() });
            buffers.len() - 1
        });
        let buffer = &mut buffers[index];
        if buffer.lines.capacity() == 0 {
            buffer.lines.reserve_exact(BUFFER_ROOM);
        }
        let before = buffer.lines.len();
        write(&mut buffer.lines);
        self.stats.inc(process::FILESYSTEM_WRITE_BUFFERED);
        let written = buffer.lines.len() - before;
        self.stats.gauge_add(process::FILESYSTEM_WRITE_TOTAL_BUFFERED, written as i64);
        if buffer.lines.len() >= self.gathered {
            self.hand_over(buffer);
        }
    }

    /// Hands every buffer to the writer.
    pub fn flush(&self) {
        for buffer in self.buffers.borrow_mut().iter_mut() {
            self.stats.inc(process::FILESYSTEM_FLUSHED_BY_TIMER);
            self.hand_over(buffer);
        }
    }

    fn hand_over(&self, buffer: &mut Buffer) {
        if buffer.lines.is_empty() {
            return;
        }
        let lines = std::mem::take(&mut buffer.lines);
        let Err(error) = self.commands.try_send(Command::Write { file: buffer.file.clone(), lines }) else { return };
        let (TrySendError::Full(dropped) | TrySendError::Disconnected(dropped)) = error;
        if let Command::Write { lines, .. } = dropped {
            self.stats.gauge_add(process::FILESYSTEM_WRITE_TOTAL_BUFFERED, -(lines.len() as i64));
            self.stats.add(process::ACCESS_LOG_DROPPED, lines.iter().filter(|byte| **byte == b'\n').count() as u64);
        }
    }
}

impl Drop for LogHandle {
    fn drop(&mut self) {
        self.flush();
    }
}

fn open(log: &LogFile) -> io::Result<File> {
    let own = |fd: BorrowedFd<'_>| fd.try_clone_to_owned().map(File::from);
    match log.path() {
        "/dev/stdout" => own(io::stdout().as_fd()),
        "/dev/stderr" => own(io::stderr().as_fd()),
        path => OpenOptions::new().append(true).create(true).open(path),
    }
}

fn run(mut files: HashMap<LogFile, File>, queue: Receiver<Command>, stats: &Shared) {
    // Logs whose last write failed: one warning, not one per buffer.
    let mut failed: HashSet<LogFile> = HashSet::new();
    for command in queue {
        match command {
            Command::Write { file: log, lines } => {
                stats.gauge_add(process::FILESYSTEM_WRITE_TOTAL_BUFFERED, -(lines.len() as i64));
                match write(&mut files, &log, &lines) {
                    Ok(()) => {
                        stats.inc(process::FILESYSTEM_WRITE_COMPLETED);
                        failed.remove(&log);
                    }
                    Err(error) => {
                        stats.inc(process::FILESYSTEM_WRITE_FAILED);
                        if failed.insert(log.clone()) {
                            tracing::warn!(path = log.path(), %error, "access log lines lost");
                        }
                    }
                }
            }
            Command::Reopen => {
                for (log, file) in &mut files {
                    match open(log) {
                        Ok(opened) => *file = opened,
                        Err(error) => {
                            stats.inc(process::FILESYSTEM_REOPEN_FAILED);
                            tracing::warn!(path = log.path(), %error, "access log not reopened; the old file stays (what is only root's takes --user 0)");
                        }
                    }
                }
            }
            Command::End => return,
        }
    }
}

fn write(files: &mut HashMap<LogFile, File>, log: &LogFile, lines: &[u8]) -> io::Result<()> {
    let file = match files.entry(log.clone()) {
        Entry::Occupied(file) => file.into_mut(),
        Entry::Vacant(place) => place.insert(open(log)?),
    };
    file.write_all(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_arrive_in_order_and_follow_a_rotation() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("access.log");
        let name = LogFile::new(path.to_str().unwrap());
        let writer = LogFiles::open([name.clone()]).unwrap().spawn(Shared::default()).unwrap();
        let handle = writer.handle(Shard::default());
        handle.append(&name, |buffer| buffer.extend_from_slice(b"one\n"));
        handle.append(&name, |buffer| buffer.extend_from_slice(b"two\n"));
        handle.flush();
        let rotated = directory.path().join("access.log.1");
        // The writer holds the file open: what is in flight lands in the rotated one.
        std::fs::rename(&path, &rotated).unwrap();
        writer.reopener().reopen();
        handle.append(&name, |buffer| buffer.extend_from_slice(b"three\n"));
        drop(handle);
        writer.finish();
        assert_eq!(std::fs::read_to_string(rotated).unwrap(), "one\ntwo\n");
        assert_eq!(std::fs::read_to_string(path).unwrap(), "three\n");
    }

    #[test]
    fn a_writer_that_falls_behind_costs_lines_not_time() {
        let (commands, _queue) = sync_channel(1);
        let stats = Shard::default();
        let handle = LogHandle { commands, stats: stats.clone(), gathered: BUFFER_BYTES, buffers: RefCell::default() };
        let path = LogFile::new("/dev/null");
        for _ in 0..3 {
            handle.append(&path, |buffer| buffer.extend_from_slice(b"line\nline\n"));
            handle.flush();
        }
        assert_eq!(stats.get(process::ACCESS_LOG_DROPPED), 4);
    }

    #[test]
    fn a_directory_that_is_missing_is_named() {
        let error = LogFiles::open([LogFile::new("/nonexistent/access.log")]).unwrap_err();
        assert_eq!(error.to_string(), "access log /nonexistent/access.log: No such file or directory (os error 2)");
    }
}
