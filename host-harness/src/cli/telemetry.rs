//! Sets up logging: destination, format and filter.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::field::MakeExt;
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::debug_fn;
use tracing_subscriber::fmt::time::SystemTime;

use crate::cli::arguments::{Color, LogFormat};
use imagewatch_base::text::sanitize;

/// Default filter for dependencies. Extism, reqsign and the certificate verifier log errors that their callers return
/// to imagewatch anyway. The details of the others do not help an operator.
const DEPENDENCY_FILTER: &str = "extism=off,wasmtime=warn,cranelift=warn,reqsign_core=off,reqsign_aws_core=off,h2=warn,hyper=warn,hyper_util=warn,reqwest=warn,rustls=warn,rustls_platform_verifier=off,bollard=warn";

/// Starts logging to standard error with `filter`, for the lifetime of the process.
///
/// # Errors
/// A fragment that reads after "failed to": the filter is malformed, or logging has already started.
pub fn start(filter: &str, format: LogFormat, color: Color) -> Result<(), String> {
    let filter = EnvFilter::try_new(format!("{DEPENDENCY_FILTER},{filter}")).map_err(|error| {
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

/// Sanitizes every field, because any field may contain text from a policy, a registry or the engine. The JSON format
/// does not need this, because JSON escapes control characters.
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
    fn s6_log_fields_cannot_start_a_line_or_control_the_terminal() {
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
