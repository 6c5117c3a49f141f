//! Command lines that users of the suite give, run with a limit.

use std::{
    io::{Read, Write},
    process::{Command, Stdio},
    str::FromStr,
    thread,
    time::{Duration, Instant},
};

/// How often an ended command is looked for.
const INTERVAL: Duration = Duration::from_millis(10);

/// A program and its first arguments, split at blanks; single quotes hold an argument together.
#[derive(Clone, Debug)]
pub struct CommandLine {
    words: Vec<String>,
    environment: Vec<(String, String)>,
}

impl FromStr for CommandLine {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut words = Vec::new();
        let mut word = None::<String>;
        let mut quoted = false;
        for character in text.chars() {
            match character {
                '\'' => {
                    quoted = !quoted;
                    word.get_or_insert_default();
                }
                blank if blank.is_whitespace() && !quoted => words.extend(word.take()),
                other => word.get_or_insert_default().push(other),
            }
        }
        words.extend(word);
        match (quoted, words.is_empty()) {
            (true, _) => Err(format!("{text:?}: expected a closing quote")),
            (false, true) => Err("expected a command".to_owned()),
            (false, false) => Ok(Self { words, environment: Vec::new() }),
        }
    }
}

impl CommandLine {
    /// With a variable in its environment.
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// With `{node}` replaced.
    pub fn on(&self, node: &str) -> Self {
        let words = self.words.iter().map(|word| word.replace("{node}", node)).collect();
        Self { words, environment: self.environment.clone() }
    }

    /// Runs it with more arguments and this standard input; gives its standard output.
    pub fn run(&self, arguments: &[&str], stdin: &[u8], within: Duration) -> Result<String, String> {
        let shown = || [self.words.join(" "), arguments.join(" ")].join(" ");
        let mut child = Command::new(&self.words[0])
            .args(&self.words[1..])
            .args(arguments)
            .envs(self.environment.iter().cloned())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| format!("cannot run {}: {error}", self.words[0]))?;
        let mut input = child.stdin.take().ok_or("no standard input")?;
        let stdin = stdin.to_vec();
        // One that ends without reading is no error of ours.
        let writer = thread::spawn(move || input.write_all(&stdin).ok());
        let mut output = child.stdout.take().ok_or("no standard output")?;
        let mut errors = child.stderr.take().ok_or("no standard error")?;
        let output = thread::spawn(move || read(&mut output));
        let errors = thread::spawn(move || read(&mut errors));
        let deadline = Instant::now() + within;
        let status = loop {
            match child.try_wait().map_err(|error| error.to_string())? {
                Some(status) => break status,
                None if Instant::now() >= deadline => {
                    let _ = child.kill();
                    let _ = child.wait();
                    return Err(format!("not within {within:?}: {}", shown()));
                }
                None => thread::sleep(INTERVAL),
            }
        };
        drop(writer);
        let output = output.join().unwrap_or_default();
        if status.success() {
            return Ok(output);
        }
        let errors = errors.join().unwrap_or_default();
        let said = if errors.trim().is_empty() { &output } else { &errors };
        Err(format!("{}: {}", said.trim().lines().last().unwrap_or("no word why"), shown()))
    }
}

fn read(from: &mut impl Read) -> String {
    let mut bytes = Vec::new();
    // What came before an error is what there is.
    let _ = from.read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_split_at_blanks_outside_quotes() {
        let line: CommandLine = "ssh {node} 'sh -c' ''".parse().unwrap();
        assert_eq!(line.on("a").words, ["ssh", "a", "sh -c", ""]);
        assert_eq!("a 'b".parse::<CommandLine>().unwrap_err(), "\"a 'b\": expected a closing quote");
        assert_eq!(" ".parse::<CommandLine>().unwrap_err(), "expected a command");
    }

    #[test]
    fn a_failed_command_says_its_last_line_and_itself() {
        let line: CommandLine = "sh -c".parse().unwrap();
        let within = Duration::from_secs(60);
        assert_eq!(line.run(&["cat"], b"in", within).unwrap(), "in");
        assert_eq!(line.run(&["echo no >&2; exit 3"], b"", within).unwrap_err(), "no: sh -c echo no >&2; exit 3");
    }
}
