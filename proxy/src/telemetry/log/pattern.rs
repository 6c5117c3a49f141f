//! spdlog's line patterns, as `--log-format` takes them: `%` flags, and what Envoy adds to them.

use jiff::Timestamp;

use super::level::Level;

/// A pattern that is not one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// A flag that means nothing here.
    #[error("unknown flag %{0} in a log format")]
    Flag(char),
    /// A `%` at the end.
    #[error("a log format ends with %; a single % is written %%")]
    End,
}

#[derive(Clone, Debug, PartialEq)]
enum Piece {
    Literal(String),
    /// A strftime format.
    Time(&'static str),
    Millis,
    Micros,
    Nanos,
    Thread,
    Process,
    Level,
    LevelLetter,
    Component,
    File,
    BaseName,
    Line,
    Message,
    /// The message with line ends and other control characters escaped.
    EscapedMessage,
    /// The message escaped as a JSON string's content.
    JsonMessage,
    SourceAndLine,
}

/// A parsed pattern.
#[derive(Clone, Debug, PartialEq)]
pub struct Pattern(Vec<Piece>);

/// What a line says.
#[derive(Clone, Copy, Debug)]
pub(super) struct Line<'a> {
    pub(super) time: Timestamp,
    pub(super) level: Level,
    pub(super) component: &'a str,
    pub(super) file: &'a str,
    pub(super) line: u32,
    pub(super) thread: i32,
    pub(super) message: &'a str,
}

impl Pattern {
    /// Parses a pattern. With `escaped`, messages are written with their control characters escaped.
    pub fn parse(text: &str, escaped: bool) -> Result<Self, PatternError> {
        let mut pieces = Vec::new();
        let mut literal = String::new();
        let mut letters = text.chars();
        while let Some(letter) = letters.next() {
            if letter != '%' {
                literal.push(letter);
                continue;
            }
            let piece = match letters.next().ok_or(PatternError::End)? {
                '%' => {
                    literal.push('%');
                    continue;
                }
                // Colours, and what has no meaning without spdlog's elapsed time: nothing is written.
                '^' | '$' => continue,
                'v' if escaped => Piece::EscapedMessage,
                'v' => Piece::Message,
                '_' => Piece::EscapedMessage,
                'j' => Piece::JsonMessage,
                't' => Piece::Thread,
                'P' => Piece::Process,
                'n' => Piece::Component,
                'l' => Piece::Level,
                'L' => Piece::LevelLetter,
                'g' => Piece::File,
                's' => Piece::BaseName,
                '#' => Piece::Line,
                '@' => Piece::SourceAndLine,
                'e' => Piece::Millis,
                'f' => Piece::Micros,
                'F' => Piece::Nanos,
                other => Piece::Time(time_format(other).ok_or(PatternError::Flag(other))?),
            };
            if !literal.is_empty() {
                pieces.push(Piece::Literal(std::mem::take(&mut literal)));
            }
            pieces.push(piece);
        }
        if !literal.is_empty() {
            pieces.push(Piece::Literal(literal));
        }
        Ok(Self(pieces))
    }

    /// One line, with its end.
    pub(super) fn write(&self, line: &Line<'_>) -> String {
        use std::fmt::Write;
        let mut out = String::with_capacity(line.message.len() + 80);
        let nanos = line.time.subsec_nanosecond();
        for piece in &self.0 {
            // Writing into a String does not fail.
            let _ = match piece {
                Piece::Literal(text) => out.write_str(text),
                Piece::Time(format) => write!(out, "{}", line.time.strftime(format)),
                Piece::Millis => write!(out, "{:03}", nanos / 1_000_000),
                Piece::Micros => write!(out, "{:06}", nanos / 1000),
                Piece::Nanos => write!(out, "{nanos:09}"),
                Piece::Thread => write!(out, "{}", line.thread),
                Piece::Process => write!(out, "{}", std::process::id()),
                Piece::Level => out.write_str(line.level.name()),
                Piece::LevelLetter => write!(out, "{}", line.level.name()[..1].to_ascii_uppercase()),
                Piece::Component => out.write_str(line.component),
                Piece::File => out.write_str(line.file),
                Piece::BaseName => out.write_str(line.file.rsplit('/').next().unwrap_or_default()),
                Piece::Line => write!(out, "{}", line.line),
                Piece::SourceAndLine => write!(out, "{}:{}", line.file, line.line),
                Piece::Message => out.write_str(line.message),
                Piece::EscapedMessage => write!(out, "{}", escaped(line.message)),
                Piece::JsonMessage => {
                    let quoted = serde_json::Value::from(line.message).to_string();
                    out.write_str(&quoted[1..quoted.len() - 1])
                }
            };
        }
        out.push('\n');
        out
    }
}

fn escaped(message: &str) -> String {
    let mut out = String::with_capacity(message.len());
    for letter in message.chars() {
        match letter {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\0' => out.push_str("\\0"),
            other => out.push(other),
        }
    }
    out
}

/// The strftime format of a flag, where spdlog's flag means the same or has an equal.
fn time_format(flag: char) -> Option<&'static str> {
    Some(match flag {
        'Y' => "%Y",
        'C' => "%y",
        'm' => "%m",
        'd' => "%d",
        'H' => "%H",
        'I' => "%I",
        'M' => "%M",
        'S' => "%S",
        'p' => "%p",
        'T' | 'X' => "%H:%M:%S",
        'R' => "%H:%M",
        'D' | 'x' => "%m/%d/%y",
        'a' => "%a",
        'A' => "%A",
        'b' | 'h' => "%b",
        'B' => "%B",
        'c' => "%a %b %d %H:%M:%S %Y",
        'r' => "%I:%M:%S %p",
        'z' => "+00:00",
        'E' => "%s",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::log::DEFAULT_PATTERN;

    fn line(pattern: &str, escaped: bool, message: &str) -> String {
        let line = Line {
            time: "2026-11-21T10:08:01.945123456Z".parse().unwrap(),
            level: Level::Warning,
            component: "main",
            file: "proxy/src/main.rs",
            line: 7,
            thread: 42,
            message,
        };
        Pattern::parse(pattern, escaped).unwrap().write(&line)
    }

    #[test]
    fn patterns() {
        assert_eq!(
            line(DEFAULT_PATTERN, false, "hello"),
            "[2026-11-21 10:08:01.945][42][warning][main] [proxy/src/main.rs:7] hello\n"
        );
        assert_eq!(
            line("%L %E.%f %F %s %@ 100%% %^%v%$", false, "x"),
            "W 1795255681.945123 945123456 main.rs proxy/src/main.rs:7 100% x\n"
        );
        assert_eq!(line("%v", true, "a\nb"), "a\\nb\n");
        assert_eq!(line("{\"m\":\"%j\"}", false, "a\"b\n"), "{\"m\":\"a\\\"b\\n\"}\n");
    }

    #[test]
    fn what_is_wrong_is_said() {
        assert_eq!(Pattern::parse("%q", false).unwrap_err().to_string(), "unknown flag %q in a log format");
        let end = "a log format ends with %; a single % is written %%";
        assert_eq!(Pattern::parse("a %", false).unwrap_err().to_string(), end);
    }
}
