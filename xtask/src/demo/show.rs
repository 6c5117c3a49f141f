//! How the demo looks: numbered steps, commands as typed, their output, checks, a closing table.

use crate::console::{Style, paint};

/// Columns that explanations are wrapped at.
const WIDTH: usize = 100;

/// Something that the demo promised and looked at.
struct Check {
    name: String,
    passed: bool,
    detail: String,
}

/// What was shown so far.
#[derive(Default)]
pub struct Show {
    steps: usize,
    checks: Vec<Check>,
}

impl Show {
    /// Starts a step: its title, and why it is worth watching.
    pub fn step(&mut self, title: &str, why: &str) {
        self.steps += 1;
        println!("\n{} {}", paint(Style::Bold, &format!("{:>2}.", self.steps)), paint(Style::Bold, title));
        for line in wrap(why, WIDTH) {
            println!("    {}", paint(Style::Dim, &line));
        }
        println!();
    }

    /// A command as one would type it.
    pub fn typed(&self, command: &str) {
        println!("    {} {}", paint(Style::Dim, "$"), paint(Style::Cyan, command));
    }

    /// What a command wrote.
    pub fn wrote(&self, output: &str) {
        for line in output.trim_end().lines() {
            println!("    {line}");
        }
        println!();
    }

    /// A remark of the demo itself.
    pub fn say(&self, text: &str) {
        println!("    {}", paint(Style::Dim, text));
    }

    /// Tells whether a promise holds, with the numbers that say so.
    pub fn check(&mut self, name: &str, passed: bool, detail: impl Into<String>) {
        let detail = detail.into();
        let mark = if passed { paint(Style::Green, "  ok  ") } else { paint(Style::Red, "FAILED") };
        println!("    {mark} {name}: {detail}");
        self.checks.push(Check { name: name.to_owned(), passed, detail });
    }

    /// Prints the table and the sum; tells whether something was checked and all of it held.
    pub fn close(&self) -> bool {
        let width = self.checks.iter().map(|check| check.name.chars().count()).max().unwrap_or_default();
        println!("\n{}\n", paint(Style::Bold, "What was shown"));
        for Check { name, passed, detail } in &self.checks {
            let mark = if *passed { paint(Style::Green, "  ok  ") } else { paint(Style::Red, "FAILED") };
            println!("    {mark}  {name:<width$}  {detail}");
        }
        let failed = self.checks.iter().filter(|check| !check.passed).count();
        let passed = self.checks.len() - failed;
        println!("\ndemo: {passed} passed, {failed} failed");
        failed == 0 && passed > 0
    }
}

fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.len() + 1 + word.len() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_wrapped_between_words() {
        assert_eq!(wrap("one two three", 7), ["one two", "three"]);
        assert_eq!(wrap("", 7), [""; 0]);
    }

    #[test]
    fn a_demo_passes_only_when_it_checked_something_and_all_held() {
        let mut show = Show::default();
        assert!(!show.close());
        show.check("a", true, "1");
        assert!(show.close());
        show.check("b", false, "2");
        assert!(!show.close());
    }
}
