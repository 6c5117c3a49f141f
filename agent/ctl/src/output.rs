//! Standard output: plain text, JSON or indented JSON.

use std::{
    fmt::Display,
    io::{self, Write},
};

use serde_json::{Value, json};

/// How to print.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Text.
    Plain,
    /// JSON on one line.
    Json,
    /// Indented JSON.
    Pretty,
}

/// Where answers go.
pub struct Output {
    format: Format,
    to: Box<dyn Write>,
}

impl Output {
    /// Standard output.
    pub fn stdout(format: Format) -> Self {
        Self { format, to: Box::new(io::stdout()) }
    }

    /// Writes text as it is, whatever the format.
    pub fn text(&mut self, text: impl Display) -> io::Result<()> {
        // In one piece: a line is seen whole or not at all.
        self.to.write_all(text.to_string().as_bytes())?;
        self.to.flush()
    }

    /// Writes one of the two, whichever the format wants.
    pub fn write(&mut self, plain: impl Display, json: impl FnOnce() -> Value) -> io::Result<()> {
        match self.format {
            Format::Plain => self.text(plain),
            Format::Json => self.text(format_args!("{}\n", json())),
            Format::Pretty => self.text(format_args!("{:#}\n", json())),
        }
    }

    /// Says something beside the answer on standard error, to people: JSON's readers find it in the answer.
    pub fn note(&self, note: impl Display) {
        if self.format == Format::Plain {
            eprintln!("weirctl: {note}");
        }
    }

    /// Writes an error as JSON, if JSON is wanted.
    pub fn json_error(&mut self, message: &str) -> io::Result<()> {
        if self.format == Format::Plain { Ok(()) } else { self.write("", || json!({ "error": message })) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{cell::RefCell, rc::Rc};

    #[derive(Clone, Default)]
    struct Buffer(Rc<RefCell<Vec<u8>>>);

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
            let buffer = Buffer::default();
            let mut output = Output { format, to: Box::new(buffer.clone()) };
            output.write("one\n", || json!([{ "a": 1 }])).unwrap();
            output.json_error("no").unwrap();
            let bytes = buffer.0.take();
            String::from_utf8(bytes).unwrap()
        };
        assert_eq!(written(Format::Plain), "one\n");
        assert_eq!(written(Format::Json), "[{\"a\":1}]\n{\"error\":\"no\"}\n");
        assert_eq!(written(Format::Pretty), "[\n  {\n    \"a\": 1\n  }\n]\n{\n  \"error\": \"no\"\n}\n");
    }
}
