//! From events to lines.

use std::{
    fmt::{self, Write as _},
    fs::File,
    io::Write as _,
};

use jiff::Timestamp;
use tracing::{
    Event, Metadata, Subscriber,
    field::{Field, Visit},
    level_filters::LevelFilter,
    span,
    subscriber::Interest,
};

use super::{
    components::{self, COMPONENTS},
    level::Level,
    levels::{is_on, lowest},
    pattern::{Line, Pattern},
};

/// Where lines go.
#[derive(Debug)]
pub enum Output {
    /// Standard error.
    StandardError,
    /// A file, opened for appending.
    File(File),
}

/// What a line looks like.
#[derive(Clone, Debug)]
pub enum Shape {
    /// By a pattern.
    Pattern(Pattern),
    /// A JSON object with the fields of the event.
    Json,
}

/// Starts logging; a second start in one process (tests) keeps the first.
pub fn start(output: Output, shape: Shape) {
    let _ = tracing::subscriber::set_global_default(Log { output, shape });
    tracing::callsite::rebuild_interest_cache();
}

struct Log {
    output: Output,
    shape: Shape,
}

fn wanted(metadata: &Metadata<'_>) -> bool {
    metadata.is_event() && is_on(components::of(metadata.target()), level(metadata))
}

/// At most debug for what a library says of a peer.
fn level(metadata: &Metadata<'_>) -> Level {
    let level = Level::of(*metadata.level());
    if components::is_of_peers(metadata.target()) { level.min(Level::Debug) } else { level }
}

impl Subscriber for Log {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        if wanted(metadata) { Interest::always() } else { Interest::never() }
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        wanted(metadata)
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(match lowest() {
            Level::Trace => LevelFilter::TRACE,
            Level::Debug => LevelFilter::DEBUG,
            Level::Info => LevelFilter::INFO,
            Level::Warning => LevelFilter::WARN,
            Level::Error | Level::Critical => LevelFilter::ERROR,
            Level::Off => LevelFilter::OFF,
        })
    }

    // Spans are not used; what libraries open is not kept.
    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        let metadata = event.metadata();
        let mut text = Text::default();
        event.record(&mut text);
        let component = COMPONENTS[components::of(metadata.target())];
        let level = level(metadata);
        let line = match &self.shape {
            Shape::Pattern(pattern) => pattern.write(&Line {
                time: Timestamp::now(),
                level,
                component,
                file: metadata.file().unwrap_or_default(),
                line: metadata.line().unwrap_or_default(),
                thread: nix::unistd::gettid().as_raw(),
                message: &text.message(),
            }),
            Shape::Json => text.json(level, component),
        };
        // Nobody is left to tell when the log itself cannot be written.
        let _ = match &self.output {
            Output::StandardError => std::io::stderr().lock().write_all(line.as_bytes()),
            Output::File(file) => (&*file).write_all(line.as_bytes()),
        };
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

/// An event's fields.
#[derive(Default)]
struct Text {
    connection: Option<u64>,
    stream: Option<String>,
    message: String,
    fields: Vec<(&'static str, String)>,
}

impl Text {
    /// `[C1][S2] message name=value`.
    fn message(&self) -> String {
        let mut out = String::new();
        if let Some(id) = self.connection {
            let _ = write!(out, "[C{id}]");
        }
        if let Some(id) = &self.stream {
            let _ = write!(out, "[S{id}]");
        }
        if !out.is_empty() {
            out.push(' ');
        }
        out.push_str(&self.message);
        for (name, value) in &self.fields {
            let _ = write!(out, " {name}={value}");
        }
        out
    }

    fn json(&self, level: Level, component: &str) -> String {
        let mut object = serde_json::Map::new();
        let mut put = |name: &str, value: &str| object.insert(name.to_owned(), value.into());
        put("timestamp", &Timestamp::now().to_string());
        put("level", level.name());
        put("component", component);
        put("message", &self.message);
        for (name, value) in &self.fields {
            put(name, value);
        }
        if let Some(id) = self.connection {
            object.insert("connection".to_owned(), id.into());
        }
        if let Some(id) = &self.stream {
            object.insert("stream".to_owned(), id.as_str().into());
        }
        serde_json::Value::Object(object).to_string() + "\n"
    }
}

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        match field.name() {
            "message" => self.message = format!("{value:?}"),
            name => self.fields.push((name, format!("{value:?}"))),
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        match field.name() {
            "connection" => self.connection = Some(value),
            _ => self.record_debug(field, &value),
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "stream" => self.stream = Some(value.to_owned()),
            _ => self.record_debug(field, &value),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_come_first_and_fields_last() {
        let text = Text {
            connection: Some(3),
            stream: Some("a-b".into()),
            message: "request end".into(),
            fields: vec![("code", "200".into())],
        };
        assert_eq!(text.message(), "[C3][Sa-b] request end code=200");
        assert!(text.json(Level::Debug, "http").ends_with(
            "\"level\":\"debug\",\"component\":\"http\",\"message\":\"request end\",\"code\":\"200\",\"connection\":3,\"stream\":\"a-b\"}\n"
        ));
    }
}
