//! The output of the demo: a clock on the left, the events to its right. Bold and dim text only where the terminal and
//! `NO_COLOR` allow it.

use std::fmt::Display;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use anstyle::Style;

const BOLD: Style = Style::new().bold();
const DIM: Style = Style::new().dimmed();

/// The clock starts with the first title.
static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Time since the first title.
pub(crate) fn elapsed() -> Duration {
    START.elapsed()
}

/// Prints a headline without a clock.
pub(crate) fn title(text: impl Display) {
    LazyLock::force(&START);
    anstream::println!("{BOLD}{text}{BOLD:#}");
}

/// Prints the next step of the story with the time.
pub(crate) fn step(text: impl Display) {
    anstream::println!("\n{DIM}{}{DIM:#}  {BOLD}{text}{BOLD:#}", clock());
}

/// Prints a name and its value.
pub(crate) fn fact(name: &str, text: impl Display) {
    anstream::println!("         {DIM}{name:<10}{DIM:#} {text}");
}

/// Prints a line of a command's output.
pub(crate) fn output(line: &str) {
    anstream::println!("         {}", line.trim());
}

/// Prints a log line with the time when it arrived.
pub(crate) fn log(line: &str) {
    anstream::println!("{DIM}{}  |{DIM:#} {line}", clock());
}

fn clock() -> String {
    format!("{:>5.2} s", elapsed().as_secs_f64())
}
