//! Figures that a passing test shows.

use std::{fmt, io::Write};

/// Writes a line to standard error, which libtest does not capture.
pub fn figure(line: fmt::Arguments<'_>) {
    // One write, so that lines of tests that run side by side do not mix; a test does not fail for a closed pipe.
    let _ = std::io::stderr().write_all(format!("    {line}\n").as_bytes());
}

/// Writes a figure: `figure!("{count} connections in {took:?}")`.
#[macro_export]
macro_rules! figure {
    ($($arguments:tt)*) => { $crate::figure::figure(format_args!($($arguments)*)) };
}
