//! Log lines: where they go and how they look. No other output goes through here.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::field::MakeExt;
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::debug_fn;
use tracing_subscriber::fmt::time::SystemTime;

use crate::cli::arguments::{Color, LogFormat};
use imagewatch_base::text::sanitize;

/// Extism and the verifier of certificates log what a failed call returns to us anyway, and wasmtime's inner life interests nobody.
const QUIET: &str = "extism=off,wasmtime=warn,cranelift=warn,reqsign_core=off,reqsign_aws_core=off,h2=warn,hyper=warn,hyper_util=warn,reqwest=warn,rustls=warn,rustls_platform_verifier=off,bollard=warn";

/// Starts logging to standard error with `filter`, for the life of the process.
///
/// # Errors
/// A fragment naming the filter when it is malformed.
pub fn start(filter: &str, format: LogFormat, color: Color) -> Result<(), String> {
    let filter = EnvFilter::try_new(format!("{QUIET},{filter}")).map_err(|error| {
        format!("read log filter {filter:?}: {error}; expected for example `info` or `imagewatch=debug`")
    })?;
    let is_coloured = match color {
        Color::Always => true,
        Color::Never => false,
        Color::Auto => {
            std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
        }
    };
    let lines = tracing_subscriber::fmt().with_writer(std::io::stderr).with_env_filter(filter).with_target(false);
    let started = match format {
        LogFormat::Text => {
            lines.fmt_fields(sanitized_fields()).with_ansi(is_coloured).with_timer(SystemTime).try_init()
        }
        LogFormat::Json => lines.json().flatten_event(true).with_current_span(false).with_span_list(false).try_init(),
    };
    started.map_err(|error| format!("start logging: {error}"))
}

/// Writes every field sanitised: what a policy, a registry or the engine says may stand in any. JSON escapes by itself.
fn sanitized_fields() -> impl for<'writer> FormatFields<'writer> + Send + Sync + 'static {
    let fields = debug_fn(|writer, field, value| match (field.name(), sanitize(&format!("{value:?}"))) {
        ("message", text) => write!(writer, "{text}"),
        (name, text) => write!(writer, "{name}={text}"),
    });
    fields.delimited(" ")
}

#[cfg(test)]
mod tests {
    use std::io::{self, Write};
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("not poisoned").write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn s6_no_field_of_a_log_line_begins_another_line_or_steers_a_terminal() {
        let written = Written::default();
        let writer = written.clone();
        let lines = tracing_subscriber::fmt().with_writer(move || writer.clone()).with_target(false).with_ansi(false);
        let said = "a\n2026-01-01T00:00:00Z ERROR forged\u{1b}[2J\u{202e}\u{2028}b";
        tracing::subscriber::with_default(lines.fmt_fields(sanitized_fields()).finish(), || {
            tracing::info!(policy = %said, quoted = said, bare = ?said, number = 1, "loaded {said}");
        });
        let text = String::from_utf8(written.0.lock().expect("not poisoned").clone()).expect("UTF-8");
        let line = text.strip_suffix('\n').expect("one line");
        assert!(!line.contains(|c: char| c.is_control() || "\u{202e}\u{2028}".contains(c)), "{line:?}");
        assert!(
            line.contains("INFO loaded a 2026") && line.contains(" policy=a 2026") && line.ends_with("number=1"),
            "{line}"
        );
    }
}
