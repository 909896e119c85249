//! Log lines: where they go and how they look. No other output goes through here.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::time::SystemTime;

use crate::cli::{Color, LogFormat};

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
        LogFormat::Text => lines.with_ansi(is_coloured).with_timer(SystemTime).try_init(),
        LogFormat::Json => lines.json().flatten_event(true).with_current_span(false).with_span_list(false).try_init(),
    };
    started.map_err(|error| format!("start logging: {error}"))
}
