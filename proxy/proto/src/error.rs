//! What is wrong with a configuration, where in the message, and where in the text.

use std::fmt;

/// A place in a text; both count from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    pub line: u32,
    pub column: u32,
}

/// One step from a message to something inside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Segment {
    /// A field or a oneof, by its name in the `.proto` file.
    Field(String),
    /// An item of a repeated field.
    Index(usize),
    /// An entry of a map field.
    Key(String),
}

/// The way from the outermost message to a field, in Envoy's spelling: `static_resources.clusters[0].name`. What an
/// `Any` holds follows the `Any`'s own field directly, as it does in JSON.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FieldPath {
    /// Innermost first: paths grow outwards while an error returns.
    reversed: Vec<Segment>,
}

impl FieldPath {
    /// The segments, outermost first.
    pub fn segments(&self) -> impl Iterator<Item = &Segment> {
        self.reversed.iter().rev()
    }

    pub fn is_empty(&self) -> bool {
        self.reversed.is_empty()
    }
}

impl fmt::Display for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, segment) in self.segments().enumerate() {
            match segment {
                Segment::Field(name) if index == 0 => write!(f, "{name}")?,
                Segment::Field(name) => write!(f, ".{name}")?,
                Segment::Index(index) => write!(f, "[{index}]")?,
                Segment::Key(key) => write!(f, "[{key:?}]")?,
            }
        }
        Ok(())
    }
}

/// A configuration that is refused. One line, whichever way it is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    problem: String,
    path: FieldPath,
    position: Option<Position>,
    unknown_field: bool,
}

impl ConfigError {
    /// `problem` continues the field's name: "must be greater than 0s".
    pub fn new(problem: impl Into<String>) -> Self {
        let problem = problem.into().replace('\n', " ");
        Self { problem, path: FieldPath::default(), position: None, unknown_field: false }
    }

    /// A field that the message does not have.
    pub(crate) fn unknown_field(name: &str, message: &str) -> Self {
        let unknown = Self { unknown_field: true, ..Self::new(format!("unknown field of {message}")) };
        // Whatever somebody has made of it, it is told in one line.
        if name.contains(char::is_control) {
            unknown.in_field(&name.escape_debug().to_string())
        } else {
            unknown.in_field(name)
        }
    }

    /// It is a field that its message does not have, and nothing else.
    pub(crate) fn is_unknown_field(&self) -> bool {
        self.unknown_field
    }

    /// Says that what was wrong lies inside `segment`.
    pub fn inside(mut self, segment: Segment) -> Self {
        self.path.reversed.push(segment);
        self
    }

    /// The same for a field.
    pub fn in_field(self, name: &str) -> Self {
        self.inside(Segment::Field(name.to_owned()))
    }

    /// Says where in the text it is, unless that is known already.
    pub fn at(mut self, position: Position) -> Self {
        self.position.get_or_insert(position);
        self
    }

    /// What is wrong, without the place.
    pub fn problem(&self) -> &str {
        &self.problem
    }

    /// Empty when the text as a whole is wrong.
    pub fn path(&self) -> &FieldPath {
        &self.path
    }

    /// None for a message that did not come as text.
    pub fn position(&self) -> Option<Position> {
        self.position
    }

    /// `bootstrap.yaml:14: static_resources.clusters[0].connect_timeout: must be greater than 0s`.
    pub fn in_file(&self, file: &str) -> String {
        match self.position {
            Some(Position { line, .. }) => format!("{file}:{line}: {}", self.without_position()),
            None => format!("{file}: {}", self.without_position()),
        }
    }

    fn without_position(&self) -> String {
        if self.path.is_empty() { self.problem.clone() } else { format!("{}: {}", self.path, self.problem) }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(Position { line, column }) = self.position {
            write!(f, "line {line} column {column}: ")?;
        }
        f.write_str(&self.without_position())
    }
}

impl std::error::Error for ConfigError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_path_and_place() {
        let error = ConfigError::new("must not be empty")
            .in_field("name")
            .inside(Segment::Key("a b".into()))
            .inside(Segment::Index(3))
            .in_field("clusters")
            .in_field("static_resources")
            .at(Position { line: 14, column: 7 });
        assert_eq!(error.path().to_string(), r#"static_resources.clusters[3]["a b"].name"#);
        assert_eq!(
            error.in_file("b.yaml"),
            r#"b.yaml:14: static_resources.clusters[3]["a b"].name: must not be empty"#
        );
        assert_eq!(
            error.to_string(),
            r#"line 14 column 7: static_resources.clusters[3]["a b"].name: must not be empty"#
        );
        assert_eq!(ConfigError::new("is empty").in_file("b.yaml"), "b.yaml: is empty");
        let unknown = ConfigError::unknown_field("a\n\"b", "weir.M").in_field("c");
        assert_eq!(unknown.to_string(), r#"c.a\n\"b: unknown field of weir.M"#);
    }
}
