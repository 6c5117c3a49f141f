//! YAML to a [`Node`] tree, with scalars typed as Envoy types them (it goes from yaml-cpp through JSON):
//!
//! - unquoted `true`, `yes`, `on`, `y` and their opposites, in lower, upper or title case, are booleans;
//! - unquoted integers are numbers: decimal, `0x` hexadecimal and `0` octal;
//! - unquoted `~`, `null`, `Null`, `NULL` and nothing are null;
//! - everything else is a string, also `1.5`: the field's type decides what it means.
//!
//! Merge keys (`<<`) mean nothing special, as in Envoy. Unlike Envoy, a second document in the text is refused.

use std::borrow::Cow;
use std::collections::HashMap;

use serde_saphyr::granit_parser::{Event, Parser, ScalarStyle, Span, Tag};

use crate::error::{ConfigError, Position};
use crate::tree::{Entry, MAX_DEPTH, Node, Value};

/// Nodes that aliases may add in total: a short text must not unfold into gigabytes.
const MAX_ALIASED_NODES: usize = 1_000_000;

/// The tree of a YAML text; an empty one is null.
pub(crate) fn parse(text: &str) -> Result<Node, ConfigError> {
    let mut builder = Builder::default();
    for event in Parser::new_from_str(text) {
        let (event, span) = event
            .map_err(|error| ConfigError::new(format!("not YAML: {}", error.info())).at(position(error.marker())))?;
        builder.take(event, &span)?;
    }
    Ok(builder.root.unwrap_or(Node { at: Position { line: 1, column: 1 }, value: Value::Null }))
}

#[derive(Default)]
struct Builder {
    root: Option<Node>,
    open: Vec<Open>,
    anchors: HashMap<usize, Node>,
    aliased_nodes: usize,
}

/// A list or map that has not ended yet.
struct Open {
    at: Position,
    anchor: usize,
    items: Items,
}

enum Items {
    List(Vec<Node>),
    /// With the key whose value comes next.
    Map(Vec<Entry>, Option<(String, Position)>),
}

impl Builder {
    fn take(&mut self, event: Event<'_>, span: &Span) -> Result<(), ConfigError> {
        let at = position(&span.start);
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                if let Some(Open { items: Items::Map(_, key @ None), .. }) = self.open.last_mut() {
                    if anchor != 0 {
                        let value = Value::String(text.clone().into_owned());
                        self.anchors.insert(anchor, Node { at, value });
                    }
                    *key = Some((text.into_owned(), at));
                    return Ok(());
                }
                self.finish(Node { at, value: scalar(text, style, tag.as_deref()) }, anchor)
            }
            Event::SequenceStart(_, anchor, _) => self.start(at, anchor, Items::List(Vec::new())),
            Event::MappingStart(_, anchor, _) => self.start(at, anchor, Items::Map(Vec::new(), None)),
            Event::SequenceEnd | Event::MappingEnd => {
                let Some(Open { at, anchor, items }) = self.open.pop() else { return Ok(()) };
                let value = match items {
                    Items::List(items) => Value::List(items),
                    Items::Map(entries, _) => Value::Map(entries),
                };
                self.finish(Node { at, value }, anchor)
            }
            Event::Alias(id) => self.alias(id, at),
            _ => Ok(()),
        }
    }

    fn start(&mut self, at: Position, anchor: usize, items: Items) -> Result<(), ConfigError> {
        if let Some(Open { items: Items::Map(_, None), .. }) = self.open.last() {
            return Err(ConfigError::new("a key must be a string").at(at));
        }
        if self.open.len() >= MAX_DEPTH {
            return Err(too_deep(at));
        }
        self.open.push(Open { at, anchor, items });
        Ok(())
    }

    fn alias(&mut self, id: usize, at: Position) -> Result<(), ConfigError> {
        let Some(anchored) = self.anchors.get(&id) else {
            return Err(ConfigError::new("this alias stands for something that contains it").at(at));
        };
        let (depth, size) = anchored.depth_and_size();
        self.aliased_nodes += size;
        if self.aliased_nodes > MAX_ALIASED_NODES {
            return Err(ConfigError::new("aliases unfold into too much").at(at));
        }
        if self.open.len() + depth > MAX_DEPTH {
            return Err(too_deep(at));
        }
        let node = anchored.clone();
        if let Some(Open { items: Items::Map(_, key @ None), .. }) = self.open.last_mut() {
            let Value::String(text) = node.value else {
                return Err(ConfigError::new("a key must be a string").at(at));
            };
            *key = Some((text, at));
            return Ok(());
        }
        self.finish(node, 0)
    }

    fn finish(&mut self, node: Node, anchor: usize) -> Result<(), ConfigError> {
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        match self.open.last_mut() {
            // `---` with nothing after it.
            None if self.root.is_some() && matches!(node.value, Value::Null) => {}
            None if self.root.is_some() => {
                return Err(ConfigError::new("a second YAML document is not read; join them").at(node.at));
            }
            None => self.root = Some(node),
            Some(Open { items: Items::List(items), .. }) => items.push(node),
            Some(Open { items: Items::Map(entries, key), .. }) => {
                if let Some((key, at)) = key.take() {
                    entries.push(Entry { key, at, value: node });
                }
            }
        }
        Ok(())
    }
}

fn too_deep(at: Position) -> ConfigError {
    ConfigError::new(format!("nested deeper than {MAX_DEPTH} levels")).at(at)
}

fn position(marker: &serde_saphyr::granit_parser::Marker) -> Position {
    let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    Position { line: count(marker.line()), column: count(marker.col() + 1) }
}

fn scalar(text: Cow<'_, str>, style: ScalarStyle, tag: Option<&Tag>) -> Value {
    let is_string = tag.is_some_and(|tag| tag.core_suffix() == Some("str") || tag.original() == "!");
    if style != ScalarStyle::Plain || is_string {
        return Value::String(text.into_owned());
    }
    match &*text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        _ => {}
    }
    if let Some(value) = boolean(&text) {
        return Value::Bool(value);
    }
    match integer(&text) {
        // Larger ones become strings, which integer fields take as well and a Struct keeps exactly.
        Some(number) if i32::try_from(number).is_ok() => Value::Number(number.to_string()),
        Some(number) => Value::String(number.to_string()),
        None => Value::String(text.into_owned()),
    }
}

/// yaml-cpp's booleans: one case throughout, or the first letter upper case.
fn boolean(text: &str) -> Option<bool> {
    const LONGEST: usize = 5;
    if text.len() > LONGEST {
        return None;
    }
    let rest = text.get(1..)?;
    let same_case = |letters: &str, is: fn(&u8) -> bool| letters.bytes().all(|letter| is(&letter));
    let lower = same_case(text, u8::is_ascii_lowercase);
    let title = text.as_bytes()[0].is_ascii_uppercase()
        && (same_case(rest, u8::is_ascii_lowercase) || same_case(rest, u8::is_ascii_uppercase));
    if !lower && !title {
        return None;
    }
    match text.to_ascii_lowercase().as_str() {
        "y" | "yes" | "true" | "on" => Some(true),
        "n" | "no" | "false" | "off" => Some(false),
        _ => None,
    }
}

/// C's integers: sign, then `0x` and hexadecimal, `0` and octal, or decimal.
fn integer(text: &str) -> Option<i64> {
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let (radix, digits) = if let Some(hexadecimal) = digits.strip_prefix("0x").or(digits.strip_prefix("0X")) {
        (16, hexadecimal)
    } else if digits.len() > 1 && digits.starts_with('0') {
        (8, &digits[1..])
    } else {
        (10, digits)
    };
    if !digits.chars().all(|digit| digit.is_digit(radix)) {
        return None;
    }
    let magnitude = i128::from_str_radix(digits, radix).ok()?;
    i64::try_from(if negative { -magnitude } else { magnitude }).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> String {
        match parse(text) {
            Ok(node) => match node.value {
                Value::List(items) => items.iter().map(Node::shown).collect::<Vec<_>>().join(" "),
                _ => node.shown(),
            },
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn types_scalars_as_envoy_does() {
        assert_eq!(shown("[y, No, ON, true, yEs, TRue, truee]"), r#"true false true true "yEs" "TRue" "truee""#);
        assert_eq!(shown("[1, 0x50, 0123, +80, -1, 09, 0o12]"), r#"1 80 83 80 -1 "09" "0o12""#);
        assert_eq!(shown("[5000000000, 1.5, 1e3, .inf]"), r#""5000000000" "1.5" "1e3" ".inf""#);
        assert_eq!(shown("[~, null, '', 'null', \"1\", !!str 1, !x 1]"), r#"null null "" "null" "1" "1" 1"#);
        assert_eq!(shown(""), "null");
        assert_eq!(shown("---\n- a\n---\n"), "\"a\"");
        assert_eq!(shown("- a\n---\n- b\n"), "line 3 column 1: a second YAML document is not read; join them");
    }

    #[test]
    fn unfolds_aliases_within_limits() {
        assert_eq!(shown("- &a x\n- *a\n"), r#""x" "x""#);
        let mut bomb = "- &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..8 {
            let many = vec![format!("*a{}", level - 1); 10].join(", ");
            bomb.push_str(&format!("- &a{level} [{many}]\n"));
        }
        assert_eq!(shown(&bomb), "line 6 column 43: aliases unfold into too much");
        let mut tower = "- &a0 [x]\n".to_owned();
        for level in 1..200 {
            tower.push_str(&format!("- &a{level} [*a{}]\n", level - 1));
        }
        assert_eq!(shown(&tower), "line 100 column 9: nested deeper than 100 levels");
        assert_eq!(shown(&("[".repeat(101) + &"]".repeat(101))), "line 1 column 101: nested deeper than 100 levels");
        assert!(shown("- &a [*a]").contains("contains it"), "{}", shown("- &a [*a]"));
    }

    #[test]
    fn says_where_the_text_is_broken() {
        assert_eq!(shown("a: b\nc: [d\n"), "line 2 column 4: not YAML: unclosed bracket '['");
        assert_eq!(shown("? [a]\n: b\n"), "line 1 column 3: a key must be a string");
    }
}
