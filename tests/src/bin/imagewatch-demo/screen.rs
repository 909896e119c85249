//! How the demo looks: a clock on the left, what happens beside it. Bold and dim only where the terminal and
//! `NO_COLOR` allow them. Knows nothing of what it shows.

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

/// A headline without a clock.
pub(crate) fn title(text: impl Display) {
    LazyLock::force(&START);
    anstream::println!("{BOLD}{text}{BOLD:#}");
}

/// The next step of the story, with the time.
pub(crate) fn step(text: impl Display) {
    anstream::println!("\n{DIM}{}{DIM:#}  {BOLD}{text}{BOLD:#}", clock());
}

/// One thing and what is to be said of it.
pub(crate) fn fact(name: &str, text: impl Display) {
    anstream::println!("         {DIM}{name:<10}{DIM:#} {text}");
}

/// What a command printed.
pub(crate) fn output(line: &str) {
    anstream::println!("         {}", line.trim());
}

/// A line of a log, with the time when it came.
pub(crate) fn log(line: &str) {
    anstream::println!("{DIM}{}  |{DIM:#} {line}", clock());
}

fn clock() -> String {
    format!("{:>5.2} s", elapsed().as_secs_f64())
}
