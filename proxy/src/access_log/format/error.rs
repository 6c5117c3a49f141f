//! Why a format string is refused.

/// Why a format string is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// A `%` without its partner, or something that is no operator between them.
    #[error("Incorrect configuration: {0}. Couldn't find valid command at position {1}")]
    Syntax(String, usize),
    /// No such operator.
    #[error("Not supported field in StreamInfo: {0}")]
    Unknown(String),
    /// A parameter or length that is missing, superfluous or wrong.
    #[error("{0}")]
    Parameter(String),
}
