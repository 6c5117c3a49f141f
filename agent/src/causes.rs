//! Errors in words: with what caused them, but nothing twice, as many errors name their cause themselves.

use std::error::Error;

/// An error with its causes. What has several lines keeps them.
pub fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        cause = error.source();
    }
    text
}

/// An error with its causes, on one line.
pub fn on_one_line(error: &dyn Error) -> String {
    let text = with_causes(error);
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{said}")]
    struct Said {
        said: &'static str,
        source: Option<Box<Said>>,
    }

    fn chain(said: &[&'static str]) -> Said {
        let (said, causes) = said.split_first().unwrap();
        Said { said, source: (!causes.is_empty()).then(|| Box::new(chain(causes))) }
    }

    #[test]
    fn causes_follow_but_not_those_that_were_named() {
        assert_eq!(with_causes(&chain(&["a"])), "a");
        assert_eq!(with_causes(&chain(&["a", "b\nc", "d"])), "a: b\nc: d");
        assert_eq!(with_causes(&chain(&["no (gone)", "gone", "EOF"])), "no (gone): EOF");
        assert_eq!(on_one_line(&chain(&["a", " b\n\n  c ", "d"])), "a:  b; c : d");
    }
}
