//! Tests that the built wasm and the native core give the same bytes for the same scripts.

use std::sync::{Arc, Mutex};

use imagewatch_abi::{
    Answer, Containers, HttpBatch, HttpResponses, LogLine, Orders, OrdersAccepted, Selector, exports,
};
use imagewatch_core::Host;
use imagewatch_core::script::{SCRIPTS, ScriptedHost, parse_script, play};
use imagewatch_policy::{Effects, PluginManifest, call_bytes, load};
use imagewatch_tests::components;
use serde_json::json;

/// A script's host behind the interface of the real host functions.
struct Scripted(Mutex<ScriptedHost>);

impl Scripted {
    fn host(&self) -> std::sync::MutexGuard<'_, ScriptedHost> {
        self.0.lock().expect("no holder panics")
    }
}

impl Effects for Scripted {
    fn http_send(&self, batch: HttpBatch, _: usize) -> Answer<HttpResponses> {
        self.host().http_send(batch)
    }
    fn docker_containers(&self, selector: Selector) -> Answer<Containers> {
        self.host().docker_containers(selector)
    }
    fn docker_refresh(&self, orders: Orders) -> Answer<OrdersAccepted> {
        self.host().docker_refresh(orders.orders)
    }
    fn log(&self, line: LogLine) {
        self.host().log(line);
    }
}

fn export_named(name: &str) -> &'static str {
    exports::ALL.into_iter().find(|export| *export == name).expect("scripts call only known exports")
}

#[test]
fn the_built_wasm_gives_the_same_bytes_as_the_native_core() {
    for (name, text) in SCRIPTS {
        let script = parse_script(text).expect("the script is valid");
        let manifest = json!({"wasm": [{"path": components::plugin_wasm()}], "config": script.config}).to_string();
        let manifest = PluginManifest::parse(name, name, &manifest, &|_| None).expect("the manifest is valid");
        let plugin = load(&manifest).unwrap_or_else(|error| panic!("{name}: {error}"));
        let mut in_wasm = Vec::new();
        let played = play(&script, |export, input, host| {
            let effects = Arc::new(Scripted(Mutex::new(host)));
            let called = call_bytes(&plugin.compiled, export_named(export), input, effects.clone());
            let output = called.map(|(bytes, _)| bytes).map_err(|error| error.to_string());
            in_wasm.push(output.clone());
            (output, std::mem::take(&mut *effects.host()))
        });
        assert_eq!(played, Ok(()), "{name}: {}", script.shows);
        let mut natively = Vec::new();
        let played = play(&script, |export, input, mut host| {
            let output = imagewatch_core::call(export, input, &mut host);
            natively.push(output.clone());
            (output, host)
        });
        assert_eq!(played, Ok(()), "{name}");
        assert_eq!(in_wasm, natively, "{name}");
    }
}

#[test]
fn invalid_input_is_an_error_with_the_name_of_the_export() {
    let manifest = json!({"wasm": [{"path": components::plugin_wasm()}], "config": {"images": "r.io/a"}}).to_string();
    let manifest = PluginManifest::parse("m", "m", &manifest, &|_| None).expect("the manifest is valid");
    let plugin = load(&manifest).expect("loads");
    let effects = Arc::new(Scripted(Mutex::default()));
    let error =
        call_bytes(&plugin.compiled, exports::POLL, b"no json", effects).expect_err("the input is invalid").to_string();
    assert!(error.contains("invalid input for poll"), "{error}");
}
