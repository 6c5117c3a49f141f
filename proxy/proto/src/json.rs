//! JSON to a [`Node`] tree. serde_json reads the scalars; it gives no positions, so the structure is read here.

use crate::error::{ConfigError, Position};
use crate::tree::{Entry, MAX_DEPTH, Node, Value};

/// The tree of a JSON text.
pub(crate) fn parse(text: &str) -> Result<Node, ConfigError> {
    let mut reader = Reader { text, offset: 0, line: 1, line_start: 0 };
    let node = reader.node(0)?;
    reader.skip_space();
    match reader.peek() {
        None => Ok(node),
        Some(_) => Err(reader.unexpected("the end")),
    }
}

struct Reader<'text> {
    text: &'text str,
    /// In bytes.
    offset: usize,
    line: u32,
    /// Offset of the line's first byte. Lines end only between tokens: a JSON string cannot hold a raw line break.
    line_start: usize,
}

impl Reader<'_> {
    fn node(&mut self, depth: usize) -> Result<Node, ConfigError> {
        self.skip_space();
        let start = self.offset;
        let at = self.position(start);
        if depth > MAX_DEPTH {
            return Err(ConfigError::new(format!("nested deeper than {MAX_DEPTH} levels")).at(at));
        }
        let value = match self.peek() {
            Some(b'{') => self.map(depth)?,
            Some(b'[') => self.list(depth)?,
            Some(b'"') => Value::String(self.string()?),
            _ => self.word()?,
        };
        Ok(Node { at, value })
    }

    fn map(&mut self, depth: usize) -> Result<Value, ConfigError> {
        self.offset += 1;
        let mut entries = Vec::new();
        self.skip_space();
        if self.take(b'}') {
            return Ok(Value::Map(entries));
        }
        loop {
            self.skip_space();
            let at = self.position(self.offset);
            if self.peek() != Some(b'"') {
                return Err(self.unexpected("a key in quotes"));
            }
            let key = self.string()?;
            self.skip_space();
            if !self.take(b':') {
                return Err(self.unexpected("`:`"));
            }
            entries.push(Entry { key, at, value: self.node(depth + 1)? });
            self.skip_space();
            if self.take(b'}') {
                return Ok(Value::Map(entries));
            }
            if !self.take(b',') {
                return Err(self.unexpected("`,` or `}`"));
            }
        }
    }

    fn list(&mut self, depth: usize) -> Result<Value, ConfigError> {
        self.offset += 1;
        let mut items = Vec::new();
        self.skip_space();
        if self.take(b']') {
            return Ok(Value::List(items));
        }
        loop {
            items.push(self.node(depth + 1)?);
            self.skip_space();
            if self.take(b']') {
                return Ok(Value::List(items));
            }
            if !self.take(b',') {
                return Err(self.unexpected("`,` or `]`"));
            }
        }
    }

    fn string(&mut self) -> Result<String, ConfigError> {
        let start = self.offset;
        let mut escaped = false;
        let end = self.text.as_bytes()[start + 1..].iter().position(|&byte| {
            let ends = byte == b'"' && !escaped;
            escaped = byte == b'\\' && !escaped;
            ends
        });
        let Some(length) = end else { return Err(self.wrong(start, "this string does not end")) };
        self.offset = start + length + 2;
        serde_json::from_str(&self.text[start..self.offset])
            .map_err(|_| self.wrong(start, "not a JSON string: bad escape or control character"))
    }

    /// null, true, false or a number.
    fn word(&mut self) -> Result<Value, ConfigError> {
        let start = self.offset;
        let rest = &self.text[start..];
        let length = rest.find([',', ']', '}', ' ', '\t', '\r', '\n', ':']).unwrap_or(rest.len());
        self.offset += length;
        match &rest[..length] {
            "null" => Ok(Value::Null),
            "true" => Ok(Value::Bool(true)),
            "false" => Ok(Value::Bool(false)),
            number if is_number(number) => Ok(Value::Number(number.to_owned())),
            _ => {
                self.offset = start;
                Err(self.unexpected("a value"))
            }
        }
    }

    fn skip_space(&mut self) {
        while let Some(byte @ (b' ' | b'\t' | b'\r' | b'\n')) = self.peek() {
            self.offset += 1;
            if byte == b'\n' {
                self.line += 1;
                self.line_start = self.offset;
            }
        }
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.offset).copied()
    }

    fn take(&mut self, byte: u8) -> bool {
        let is_next = self.peek() == Some(byte);
        self.offset += usize::from(is_next);
        is_next
    }

    fn unexpected(&self, wanted: &str) -> ConfigError {
        let found = match self.text[self.offset..].chars().next() {
            Some(character) => format!("{character:?}"),
            None => "the end".into(),
        };
        self.wrong(self.offset, &format!("expected {wanted}, found {found}"))
    }

    fn wrong(&self, offset: usize, what: &str) -> ConfigError {
        ConfigError::new(format!("not JSON: {what}")).at(self.position(offset))
    }

    /// Where `offset`, on the current line, is; the column counts bytes.
    fn position(&self, offset: usize) -> Position {
        Position { line: self.line, column: u32::try_from(offset - self.line_start + 1).unwrap_or(u32::MAX) }
    }
}

/// JSON's grammar of numbers.
pub(crate) fn is_number(text: &str) -> bool {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let text = text.strip_prefix('-').unwrap_or(text);
    let (mantissa, exponent) = match text.find(['e', 'E']) {
        Some(at) => (&text[..at], Some(&text[at + 1..])),
        None => (text, None),
    };
    let (whole, fraction) = match mantissa.split_once('.') {
        Some((whole, fraction)) => (whole, Some(fraction)),
        None => (mantissa, None),
    };
    digits(whole)
        && (whole == "0" || !whole.starts_with('0'))
        && fraction.is_none_or(digits)
        && exponent.is_none_or(|exponent| digits(exponent.strip_prefix(['+', '-']).unwrap_or(exponent)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        parse(text).expect_err(text).to_string()
    }

    #[test]
    fn says_where_the_text_is_broken() {
        assert_eq!(error(""), "line 1 column 1: not JSON: expected a value, found the end");
        assert_eq!(error("{\n \"a\": 1,}"), "line 2 column 9: not JSON: expected a key in quotes, found '}'");
        assert_eq!(error("{\"a\": [1 2]}"), "line 1 column 10: not JSON: expected `,` or `]`, found '2'");
        assert_eq!(error("{\"a\": 01}"), "line 1 column 7: not JSON: expected a value, found '0'");
        assert_eq!(error("{\"a\" 1}"), "line 1 column 6: not JSON: expected `:`, found '1'");
        assert_eq!(error("\"abc"), "line 1 column 1: not JSON: this string does not end");
        assert_eq!(error("[\"\\x\"]"), "line 1 column 2: not JSON: not a JSON string: bad escape or control character");
        assert_eq!(error("{} x"), "line 1 column 4: not JSON: expected the end, found 'x'");
        assert_eq!(error(&"[".repeat(1000)), "line 1 column 102: nested deeper than 100 levels");
    }

    #[test]
    fn knows_numbers() {
        for number in ["0", "-0", "10", "1.5", "1e3", "-1.5E-10"] {
            assert!(is_number(number), "{number}");
        }
        for other in ["", "-", "01", "+1", ".5", "1.", "1e", "0x1", "NaN", "1 "] {
            assert!(!is_number(other), "{other}");
        }
    }

    proptest::proptest! {
        /// The same values as serde_json, or a refusal where it refuses.
        #[test]
        fn agrees_with_serde_json(text in r#"([\[\]{},:" \n]|"[a-z\\u0]{0,4}"|-?[0-9.e]{1,4}|null|true){0,12}"#) {
            let theirs = serde_json::from_str::<serde_json::Value>(&text);
            let ours = parse(&text);
            proptest::prop_assert_eq!(theirs.is_ok(), ours.is_ok(), "{:?} {:?}", theirs, ours);
        }
    }
}
