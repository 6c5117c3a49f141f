//! Event logs of outlier detection and health checks: one JSON object a line, with Envoy's fields.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    path::Path,
    time::SystemTime,
};

use parking_lot::Mutex;
use serde_json::{Map, Value};

/// A file of events. They are rare: each is one write.
#[derive(Debug)]
pub struct EventLog {
    file: Mutex<File>,
}

impl EventLog {
    /// Appends to the file at `path`, which is made if it is not there.
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { file: Mutex::new(OpenOptions::new().append(true).create(true).open(path)?) })
    }

    /// Writes one event. A full disk loses it; nothing else depends on it.
    pub fn write(&self, event: Map<String, Value>) {
        let mut line = Value::Object(event).to_string();
        line.push('\n');
        if let Err(error) = self.file.lock().write_all(line.as_bytes()) {
            tracing::warn!(%error, "an event is lost: its log cannot be written");
        }
    }
}

/// Now, as Envoy's JSON has it.
pub(crate) fn timestamp() -> Value {
    let now = jiff::Timestamp::try_from(SystemTime::now()).unwrap_or_default();
    now.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string().into()
}
