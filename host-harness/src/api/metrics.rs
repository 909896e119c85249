//! `GET /metrics`: counters of the policies, in Prometheus text format.
//!
//! The route needs no token, because it shows only names and numbers.

use std::fmt::Write as _;
use std::sync::Arc;

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::{Control, PluginStatus};

pub(super) async fn metrics(State(control): State<Arc<dyn Control>>) -> Response {
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], render(&control.plugins())).into_response()
}

fn render(plugins: &[PluginStatus]) -> String {
    let mut text = String::new();
    head(&mut text, "imagewatch_plugin_info", "gauge", "The policy in use.");
    for PluginStatus { manifest, record } in plugins {
        if let Some(running) = &record.running {
            let (policy, sha256) = (&running.policy.to_string(), &running.sha256);
            line(
                &mut text,
                "imagewatch_plugin_info",
                &[("manifest", manifest), ("policy", policy), ("sha256", sha256)],
                1,
            );
        }
    }
    let name = "imagewatch_plugin_faults_total";
    head(&mut text, name, "counter", "Policy calls that were aborted or failed.");
    for PluginStatus { manifest, record } in plugins {
        record.faults.iter().for_each(|(kind, count)| counted(&mut text, name, manifest, "kind", kind, *count));
    }
    let name = "imagewatch_plugin_denied_total";
    head(&mut text, name, "counter", "Requests of a policy that were refused during a call.");
    for PluginStatus { manifest, record } in plugins {
        record.denied.iter().for_each(|(what, count)| counted(&mut text, name, manifest, "what", what, *count));
    }
    let name = "imagewatch_plugin_loads_total";
    head(&mut text, name, "counter", "Loads of a policy, including the first one.");
    for PluginStatus { manifest, record } in plugins {
        record.loads.iter().for_each(|(result, count)| counted(&mut text, name, manifest, "result", result, *count));
    }
    text
}

fn head(text: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

fn counted(text: &mut String, name: &str, manifest: &str, label: &str, value: impl Serialize, count: u64) {
    let value = serde_json::to_value(value).ok();
    let word = value.as_ref().and_then(serde_json::Value::as_str).unwrap_or_default();
    line(text, name, &[("manifest", manifest), (label, word)], count);
}

fn line(text: &mut String, name: &str, labels: &[(&str, &str)], value: u64) {
    let escape = |value: &str| value.replace('\\', r"\\").replace('"', r#"\""#).replace('\n', r"\n");
    let labels: Vec<String> = labels.iter().map(|(key, value)| format!("{key}=\"{}\"", escape(value))).collect();
    let _ = writeln!(text, "{name}{{{}}} {value}", labels.join(","));
}

#[cfg(test)]
mod tests {
    use super::*;
    use imagewatch_policy::{Denied, Record};

    #[test]
    fn label_values_are_escaped() {
        let record = Record::default();
        record.denied(Denied::LogLines, 3, "too loud");
        record.refused("load it");
        let plugins = [PluginStatus { manifest: "a\"b".to_owned(), record: record.read() }];
        let text = render(&plugins);
        assert!(text.contains("imagewatch_plugin_denied_total{manifest=\"a\\\"b\",what=\"log_lines\"} 3\n"), "{text}");
        assert!(text.contains("imagewatch_plugin_loads_total{manifest=\"a\\\"b\",result=\"refused\"} 1\n"), "{text}");
        assert!(!text.contains("imagewatch_plugin_info{"), "no policy is loaded: {text}");
    }
}
