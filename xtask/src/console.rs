//! How tasks write to the terminal: plain when it is not one.

use std::io::IsTerminal;
use std::sync::LazyLock;

static COLOUR: LazyLock<bool> =
    LazyLock::new(|| std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none());

/// SGR parameters (ECMA-48, section 8.3.117) that the tasks use.
#[derive(Clone, Copy)]
pub enum Style {
    /// Headings.
    Bold,
    /// Side remarks.
    Dim,
    /// Success.
    Green,
    /// Failure.
    Red,
    /// Commands.
    Cyan,
}

/// The text in a style, where the terminal knows styles.
pub fn paint(style: Style, text: &str) -> String {
    if !*COLOUR {
        return text.to_owned();
    }
    let code = match style {
        Style::Bold => "1",
        Style::Dim => "2",
        Style::Green => "32",
        Style::Red => "31",
        Style::Cyan => "36",
    };
    format!("\x1b[{code}m{text}\x1b[0m")
}

/// A heading of its own.
pub fn heading(text: &str) {
    println!("\n{}", paint(Style::Bold, text));
}

/// A remark on what is going on, on standard error: it is not the task's result.
pub fn note(text: &str) {
    eprintln!("{}", paint(Style::Dim, &format!("xtask: {text}")));
}
