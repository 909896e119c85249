//! Compares a policy under Extism, as other control planes load it, with the same policy in this host: the output bytes
//! must be equal. A benchmark measures the cost of each. `docs/adr/0001-guest-memory.md` has the figures.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use extism::{CompiledPlugin, Function, Manifest, PTR, Plugin, PluginBuilder, UserData, Wasm};
use imagewatch_abi::{
    Answer, Containers, Failure, FailureCode, HttpBatch, HttpResponses, LogLine, Orders, OrdersAccepted, Selector,
    exports,
};

use super::compile_cache;
use super::functions::Effects;
use super::inline::Inline;
use super::instance::{Compiled, call_bytes};
use super::settings::{CallLimits, HostSettings};

static POLICY: &[u8] = include_bytes!(env!("IMAGEWATCH_PLUGIN_WASM"));

const PAGES: u32 = 4096;

/// A registry that contains every image.
struct Registry;

impl Effects for Registry {
    fn http_send(&self, batch: HttpBatch, _: usize) -> Answer<HttpResponses> {
        let digest = format!("sha256:{}", "a".repeat(64));
        let response = serde_json::json!({"ok": {"status": 200, "headers": [["docker-content-digest", digest]]}});
        let responses = vec![response; batch.requests.len()];
        Answer::Ok(serde_json::from_value(serde_json::json!({ "responses": responses })).expect("the shape"))
    }
    fn docker_containers(&self, _: Selector) -> Answer<Containers> {
        Answer::Ok(Containers::default())
    }
    fn docker_refresh(&self, _: Orders) -> Answer<OrdersAccepted> {
        Answer::Err(Failure::permanent(FailureCode::Other, "nothing moved"))
    }
    fn log(&self, _: LogLine) {}
}

fn config(images: usize) -> BTreeMap<String, String> {
    let images: Vec<String> = (0..images).map(|index| format!("r{}.io/org/image-{index}:latest", index % 10)).collect();
    BTreeMap::from([("images".to_owned(), images.join(" "))])
}

fn in_this_host(wasm: &[u8], images: usize) -> Compiled {
    let limits = CallLimits { fuel: u64::MAX / 2, ..HostSettings::default().limits };
    Compiled::new(wasm, config(images), PAGES as usize * 65_536, limits).expect("it compiles")
}

fn under_extism(wasm: &[u8], images: usize) -> CompiledPlugin {
    let mut manifest = Manifest::new([Wasm::data(wasm.to_vec())]).disallow_all_hosts();
    manifest.memory.max_pages = Some(PAGES);
    manifest.config = config(images);
    let asking = |name: &'static str, ask: fn(&[u8]) -> Vec<u8>| {
        Function::new(name, [PTR], [PTR], UserData::<()>::default(), move |plugin, inputs, outputs, _| {
            let bytes: Vec<u8> = plugin.memory_get_val(&inputs[0])?;
            plugin.memory_set_val(&mut outputs[0], ask(&bytes))
        })
    };
    let functions = [
        asking("http_send", |bytes| {
            let batch = serde_json::from_slice(bytes).expect("a batch");
            serde_json::to_vec(&Registry.http_send(batch, usize::MAX)).expect("JSON")
        }),
        asking("docker_containers", |bytes| {
            let selector = serde_json::from_slice(bytes).expect("a selector");
            serde_json::to_vec(&Registry.docker_containers(selector)).expect("JSON")
        }),
        asking("docker_refresh", |bytes| {
            let orders = serde_json::from_slice(bytes).expect("orders");
            serde_json::to_vec(&Registry.docker_refresh(orders)).expect("JSON")
        }),
        Function::new("host_log", [PTR], [], UserData::<()>::default(), |_, _, _, _| Ok(())),
    ];
    PluginBuilder::new(manifest)
        .with_wasmtime_config(compile_cache::settings().expect("this machine"))
        .with_wasi(true)
        .with_functions(functions)
        .with_cache_disabled()
        .with_fuel_limit(u64::MAX / 2)
        .compile()
        .expect("it compiles")
}

fn call_extism(compiled: &CompiledPlugin, export: &str, input: &[u8]) -> Vec<u8> {
    Plugin::new_from_compiled(compiled).and_then(|mut plugin| plugin.call(export, input)).expect("an answer")
}

fn call_host(compiled: &Compiled, export: &'static str, input: &[u8]) -> Vec<u8> {
    call_bytes(compiled, export, input, Arc::new(Registry)).expect("an answer").0
}

/// The input of the second poll, with the state and the cache of the first one.
fn second_poll(compiled: &Compiled) -> Vec<u8> {
    let first = call_host(compiled, exports::POLL, br#"{"now_ms": 1000}"#);
    let first: serde_json::Value = serde_json::from_slice(&first).expect("JSON");
    serde_json::to_vec(&serde_json::json!({"now_ms": 400_000, "state": first["state"], "cache": first["cache"]}))
        .expect("JSON")
}

#[test]
fn a_policy_gives_the_same_bytes_as_under_extism() {
    let (extism, host) = (under_extism(POLICY, 500), in_this_host(POLICY, 500));
    let polled = second_poll(&host);
    for (export, input) in [
        (exports::DESCRIBE, &b"{}"[..]),
        (exports::POLL, br#"{"now_ms": 1000}"#),
        (exports::POLL, &polled),
        (exports::SETTLE, br#"{"now_ms": 1000, "reports": []}"#),
        (exports::REFRESH, br#"{"now_ms": 1000, "targets": null, "recreate": true}"#),
    ] {
        let (expected, actual) = (call_extism(&extism, export, input), call_host(&host, export, input));
        assert_eq!(String::from_utf8_lossy(&actual), String::from_utf8_lossy(&expected), "{export}");
    }
}

/// The shortest of several runs, to reduce the influence of other programs on the machine.
fn shortest(times: u32, mut work: impl FnMut()) -> Duration {
    let timed = (0..times).map(|_| {
        let start = Instant::now();
        work();
        start.elapsed()
    });
    timed.min().expect("at least one run")
}

/// `cargo test --release -p imagewatch-policy --lib compared -- --ignored --nocapture`
#[test]
#[ignore = "a measurement for the ADR; it asserts nothing"]
fn cost_of_a_call_under_extism_and_in_this_host() {
    let empty = Inline { poll: "(call $output «{}»)".to_owned(), ..Inline::default() }.build();
    for (what, wasm, images, times) in
        [("an empty call", &empty[..], 1, 300), ("a poll of 500 images", POLICY, 500, 15)]
    {
        let (extism, host) = (under_extism(wasm, images), in_this_host(wasm, images));
        let input = if images == 1 { b"{}".to_vec() } else { second_poll(&host) };
        let there = shortest(times, || drop(call_extism(&extism, exports::POLL, &input)));
        let here = shortest(times, || drop(call_host(&host, exports::POLL, &input)));
        let output = call_host(&host, exports::POLL, &input);
        // A worker process would receive the input and send the output through pipes. Its computation would cost the
        // same.
        let pipe = shortest(times, || through_a_process(&input, &output));
        println!("{what}: Extism {there:?}, here {here:?}, a worker's pipes alone {pipe:?}");
    }
    let (there, here) = (shortest(3, || drop(under_extism(POLICY, 1))), shortest(3, || drop(in_this_host(POLICY, 1))));
    println!("compiling the default policy: Extism {there:?}, here {here:?}");
}

/// Writes to a process that echoes its input, and reads the same number of bytes back.
fn through_a_process(input: &[u8], output: &[u8]) {
    use std::io::{Read as _, Write as _};
    use std::process::{Command, Stdio};
    use std::sync::Mutex;
    static CAT: Mutex<Option<std::process::Child>> = Mutex::new(None);
    let mut cat = CAT.lock().expect("no panic");
    let cat = cat.get_or_insert_with(|| {
        Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it starts")
    });
    for part in input.chunks(32_768).chain(output.chunks(32_768)) {
        cat.stdin.as_mut().expect("a pipe").write_all(part).expect("written");
        let mut back = vec![0; part.len()];
        cat.stdout.as_mut().expect("a pipe").read_exact(&mut back).expect("read");
    }
}
