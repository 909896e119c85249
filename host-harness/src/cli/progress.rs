//! Progress bars for pulls. They appear only on a terminal.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use imagewatch_rollout::orders::ProgressObserver;

/// Returns an observer that draws one bar per order on standard error while the order pulls, and the bars' container.
pub fn bars() -> (MultiProgress, ProgressObserver) {
    let screen = MultiProgress::new();
    let bars: Mutex<HashMap<String, ProgressBar>> = Mutex::default();
    let style = ProgressStyle::with_template("{prefix:24!} {bar:30} {bytes:>10} of {total_bytes:10} {msg}")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    let drawn = screen.clone();
    let observer: ProgressObserver = Arc::new(move |order, progress| {
        let mut bars = bars.lock().unwrap_or_else(PoisonError::into_inner);
        let bar = bars.entry(order.order.clone()).or_insert_with(|| {
            drawn.add(ProgressBar::new(0).with_style(style.clone()).with_prefix(order.target.clone()))
        });
        bar.set_length(progress.total_bytes.max(progress.done_bytes));
        bar.set_position(progress.done_bytes);
        bar.set_message(progress.status);
    });
    (screen, observer)
}
