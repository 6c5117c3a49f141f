//! TOML and YAML files, with errors that fit on one line: file, line, column, key, and what was expected.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::de::DeserializeOwned;

/// Why a file could not be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It could not be read.
    #[error("{}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Its name ends in nothing known.
    #[error("{}: expected a file name that ends in .toml, .yaml or .yml", path.display())]
    UnknownFormat {
        /// The file.
        path: PathBuf,
    },
    /// It does not parse, or does not fit the model.
    #[error("{}:{line}:{column}: {problem}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
        /// The key, where there is one, and what was expected of it.
        problem: String,
    },
}

/// Reads a file in the format that its name says.
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<T, Error> {
    let text = fs::read_to_string(path).map_err(|source| Error::Unreadable { path: path.to_owned(), source })?;
    parse(path, &text)
}

/// Parses the text of a file in the format that its name says.
pub fn parse<T: DeserializeOwned>(path: &Path, text: &str) -> Result<T, Error> {
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("toml") => toml::from_str(text).map_err(|error| toml_error(path, text, &error)),
        Some("yaml" | "yml") => serde_saphyr::from_str(text).map_err(|error| yaml_error(path, text, &error)),
        _ => Err(Error::UnknownFormat { path: path.to_owned() }),
    }
}

fn toml_error(path: &Path, text: &str, error: &toml::de::Error) -> Error {
    let start = error.span().map_or(0, |span| span.start).min(text.len());
    let before = &text[..start];
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    let line = before.matches('\n').count() + 1;
    let source = text[line_start..].lines().next().unwrap_or_default();
    let table = before[..line_start].lines().rev().find_map(header).unwrap_or_default();
    let key = match source.split_once('=') {
        // Of the whole document, not of the key that it happens to begin with.
        _ if error.span().is_none_or(|span| span.is_empty()) => String::new(),
        Some((key, _)) if header(source).is_none() && is_key(key.trim()) => join(table, key.trim()),
        _ => header(source).unwrap_or_default().to_owned(),
    };
    let column = text[line_start..start].chars().count() + 1;
    Error::Malformed { path: path.to_owned(), line, column, problem: with_key(&key, &one_line(error.message())) }
}

/// The name of a `[table]` or `[[table]]`.
fn header(line: &str) -> Option<&str> {
    let name = line.trim().strip_prefix('[')?.split(']').next()?;
    Some(name.trim_start_matches('[').trim())
}

fn is_key(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_alphanumeric() || "_-.\"'/ ".contains(c))
}

fn join(table: &str, key: &str) -> String {
    if table.is_empty() { key.to_owned() } else { format!("{table}.{key}") }
}

fn yaml_error(path: &Path, text: &str, error: &serde_saphyr::Error) -> Error {
    let (line, column) = error
        .location()
        .map_or((1, 1), |location| (location.line().max(1) as usize, location.column().max(1) as usize));
    let source = text.lines().nth(line - 1).unwrap_or_default();
    let key = source.split_once(':').map(|(key, _)| key.trim_start_matches([' ', '-'])).unwrap_or_default();
    let key = if is_key(key) { key } else { "" };
    let problem = error.without_snippet().to_string();
    Error::Malformed { path: path.to_owned(), line, column, problem: with_key(key, &one_line(&problem)) }
}

fn with_key(key: &str, problem: &str) -> String {
    if key.is_empty() || problem.contains(&format!("`{key}`")) {
        problem.to_owned()
    } else {
        format!("{key}: {problem}")
    }
}

fn one_line(text: &str) -> String {
    text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "read by nobody: only the errors are of interest")]
    struct Document {
        #[serde(default)]
        section: Section,
    }

    #[derive(Debug, Default, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "read by nobody: only the errors are of interest")]
    struct Section {
        port: u16,
    }

    fn message(name: &str, text: &str) -> String {
        parse::<Document>(Path::new(name), text).unwrap_err().to_string()
    }

    #[test]
    fn toml_errors_name_file_line_and_key() {
        assert_eq!(
            message("a.toml", "# comment\n[section]\nport = \"x\"\n"),
            "a.toml:3:8: section.port: invalid type: string \"x\", expected u16"
        );
        assert_eq!(
            message("a.toml", "[section]\nport = 1\nprot = 2\n"),
            "a.toml:3:1: section.prot: unknown field `prot`, expected `port`"
        );
        assert_eq!(message("a.toml", "[section]\n"), "a.toml:1:1: section: missing field `port`");
        assert!(message("a.toml", "[section\n").starts_with("a.toml:1:9: "), "{}", message("a.toml", "[section\n"));
    }

    #[test]
    fn yaml_errors_name_file_line_and_key() {
        let wrong = message("a.yaml", "section:\n  port: x\n");
        assert!(wrong.starts_with("a.yaml:2:9: port: ") && !wrong.contains('\n'), "{wrong}");
        let unknown = message("a.yml", "section:\n  port: 1\n  prot: 2\n");
        assert!(unknown.starts_with("a.yml:3:") && unknown.contains("prot"), "{unknown}");
    }

    #[test]
    fn other_files_are_refused() {
        assert_eq!(message("a.json", "{}"), "a.json: expected a file name that ends in .toml, .yaml or .yml");
        let missing = read::<Document>(Path::new("/nonexistent/a.toml")).unwrap_err().to_string();
        assert_eq!(missing, "/nonexistent/a.toml: No such file or directory (os error 2)");
    }
}
