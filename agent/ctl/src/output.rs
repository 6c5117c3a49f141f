//! Standard output: plain text, JSON, indented JSON or YAML.

use std::{
    fmt::Display,
    io::{self, Write},
};

use serde_json::{Value, json};

use crate::yaml;

/// How to print.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Text.
    Plain,
    /// JSON on one line.
    Json,
    /// Indented JSON.
    Pretty,
    /// YAML.
    Yaml,
}

/// Where answers go.
pub struct Output {
    name: &'static str,
    format: Format,
    notes: bool,
    to: Box<dyn Write>,
}

impl Output {
    /// Standard output of a program as users type it, and whether notes are wanted whatever the format.
    pub fn stdout(name: &'static str, format: Format, notes: bool) -> Self {
        Self { name, format, notes, to: Box::new(io::stdout()) }
    }

    /// A buffer.
    #[cfg(test)]
    pub fn buffer(format: Format) -> (Self, tests::Buffer) {
        let buffer = tests::Buffer::default();
        (Self { name: "weirctl", format, notes: false, to: Box::new(buffer.clone()) }, buffer)
    }

    /// Whether text is wanted.
    pub fn is_plain(&self) -> bool {
        self.format == Format::Plain
    }

    /// The program as users type it.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Writes text as it is, whatever the format.
    pub fn text(&mut self, text: impl Display) -> io::Result<()> {
        // In one piece: a line is seen whole or not at all.
        self.to.write_all(text.to_string().as_bytes())?;
        self.to.flush()
    }

    /// Writes an answer as text or as JSON.
    pub fn answer(&mut self, plain: impl Display, json: impl FnOnce() -> serde_json::Result<Value>) -> io::Result<()> {
        match self.format {
            Format::Plain => self.text(plain),
            Format::Json => self.text(format_args!("{}\n", json()?)),
            Format::Pretty => self.text(format_args!("{:#}\n", json()?)),
            Format::Yaml => self.text(yaml::text(&json()?)),
        }
    }

    /// Says something beside the answer on standard error: to people, or if it is asked for.
    pub fn note(&self, note: impl Display) {
        if self.notes() {
            self.complain(note);
        }
    }

    /// Whether notes are wanted.
    pub fn notes(&self) -> bool {
        self.notes || self.is_plain()
    }

    /// Says on standard error what went wrong.
    pub fn complain(&self, what: impl Display) {
        eprintln!("{}: {what}", self.name);
    }

    /// Writes an error as JSON, if JSON is wanted.
    pub fn json_error(&mut self, message: &str) -> io::Result<()> {
        if self.format == Format::Plain { Ok(()) } else { self.answer("", || Ok(json!({ "error": message }))) }
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use std::{cell::RefCell, rc::Rc};

    #[derive(Clone, Default)]
    pub struct Buffer(Rc<RefCell<Vec<u8>>>);

    impl Buffer {
        /// What was written since the last time.
        pub fn text(&self) -> String {
            String::from_utf8(self.0.take()).unwrap()
        }
    }

    impl Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.borrow_mut().write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn the_format_chooses() {
        let written = |format| {
            let (mut output, buffer) = Output::buffer(format);
            output.answer("one\n", || Ok(json!([{ "a": 1 }]))).unwrap();
            output.json_error("no").unwrap();
            buffer.text()
        };
        assert_eq!(written(Format::Plain), "one\n");
        assert_eq!(written(Format::Json), "[{\"a\":1}]\n{\"error\":\"no\"}\n");
        assert_eq!(written(Format::Pretty), "[\n  {\n    \"a\": 1\n  }\n]\n{\n  \"error\": \"no\"\n}\n");
    }
}
