//! The table: figures with their minimum, median and maximum, each with its aim.

use std::time::Duration;

use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, Table};

/// The limit of a flat cost: with ten times as many items, each item costs at most this many times as much.
pub(crate) const FLAT: f64 = 1.2;

/// Measured values in one unit.
#[derive(Debug, Clone)]
pub(crate) struct Samples(Vec<f64>);

impl Samples {
    /// Creates samples from at least one value, in any order.
    pub(crate) fn new(values: impl IntoIterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        assert!(!values.is_empty(), "nothing was measured");
        Self(values)
    }

    /// The values in ascending order.
    pub(crate) fn values(&self) -> impl Iterator<Item = f64> {
        self.0.iter().copied()
    }

    pub(crate) fn min(&self) -> f64 {
        self.0[0]
    }

    pub(crate) fn median(&self) -> f64 {
        let middle = self.0.len() / 2;
        if self.0.len() % 2 == 1 { self.0[middle] } else { f64::midpoint(self.0[middle - 1], self.0[middle]) }
    }

    pub(crate) fn max(&self) -> f64 {
        self.0[self.0.len() - 1]
    }
}

/// The aim of a figure.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Aim {
    /// The median is at most this value.
    Median(f64),
    /// No sample is greater than this value.
    AtMost(f64),
    /// Every sample is this value.
    Exactly(f64),
}

impl Aim {
    fn is_met(self, samples: &Samples) -> bool {
        match self {
            Self::Median(most) => samples.median() <= most,
            Self::AtMost(most) => samples.max() <= most,
            Self::Exactly(value) => samples.0.iter().all(|sample| (sample - value).abs() < f64::EPSILON),
        }
    }

    fn text(self) -> String {
        match self {
            Self::Median(most) => format!("median <= {most}"),
            Self::AtMost(most) => format!("<= {most}"),
            Self::Exactly(value) => format!("= {value}"),
        }
    }
}

/// One line of the table.
#[derive(Debug)]
pub(crate) struct Row {
    measure: String,
    unit: &'static str,
    samples: Samples,
    aim: Option<Aim>,
}

impl Row {
    /// A figure without an aim.
    pub(crate) fn new(measure: &str, unit: &'static str, samples: Samples) -> Self {
        Self { measure: measure.to_owned(), unit, samples, aim: None }
    }

    /// The same figure with an aim.
    pub(crate) fn aim(self, aim: Aim) -> Self {
        Self { aim: Some(aim), ..self }
    }
}

/// Renders the rows as a table.
pub(crate) fn render(rows: &[Row]) -> String {
    let mut table = Table::new();
    table.load_style(NOTHING).set_header(["MEASURE", "UNIT", "MIN", "MEDIAN", "MAX", "AIM", ""]);
    for Row { measure, unit, samples, aim } in rows {
        let [min, median, max] = [samples.min(), samples.median(), samples.max()].map(number);
        let (text, verdict) =
            aim.map_or((String::new(), ""), |aim| (aim.text(), if aim.is_met(samples) { "met" } else { "NOT MET" }));
        table.add_row([measure.as_str(), unit, &min, &median, &max, &text, verdict]);
    }
    for column in 2..=4 {
        let column = table.column_mut(column).expect("the table has seven columns");
        column.set_cell_alignment(CellAlignment::Right);
    }
    table.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
}

/// Three significant digits; a count without rounding.
fn number(value: f64) -> String {
    match value {
        _ if value.fract() == 0.0 => format!("{value:.0}"),
        _ if value < 10.0 => format!("{value:.2}"),
        _ if value < 100.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

/// A duration as a figure in milliseconds.
pub(crate) fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// A duration as a figure in microseconds.
pub(crate) fn us(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}

/// A count as a figure.
#[expect(clippy::cast_precision_loss, reason = "nothing here is counted beyond 2^52")]
pub(crate) fn count(value: usize) -> f64 {
    value as f64
}
