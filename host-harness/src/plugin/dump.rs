//! The whole memory of a policy at a moment of its poll, for tests of what it never gets to see. The policy is called
//! as in the program, but through a module around it that can be told to trap: only then does Extism write a core
//! dump, and never when the fuel is out.

use std::sync::Arc;

use extism::{DebugOptions, Manifest, Plugin, PluginBuilder, Wasm};
use imagewatch_abi::exports;
use tempfile::TempDir;

use super::functions::{Context, Effects, host_functions};
use super::loader::admit;
use super::manifest::PluginManifest;
use super::meter::Meter;
use super::settings::HostSettings;

const AROUND: &str = r#"(module
    (import "policy" "poll" (func $poll (result i32)))
    (func (export "poll") (result i32) (call $poll))
    (func (export "stop") unreachable))"#;

/// A poll, and what the policy's memory was when it ended or was ended.
pub(crate) struct Dumped {
    /// What it used; no more than it was given.
    pub(crate) fuel: u64,
    /// Its output, unless the fuel was not enough.
    pub(crate) output: Option<Vec<u8>>,
    /// Every linear memory, that of Extism's own module too, through which the host's answers come.
    pub(crate) memory: String,
}

/// Polls with `fuel` and no more. Blocks.
pub(crate) fn poll_and_dump(manifest: &PluginManifest, fuel: u64, input: &[u8], effects: Arc<dyn Effects>) -> Dumped {
    let policy = admit(manifest).expect("the policy is admitted").wasm;
    let around = wat::parse_str(AROUND).expect("it is wat");
    let modules = [Wasm::data(policy).with_name("policy"), Wasm::data(around).with_name("main")];
    let mut extism = Manifest::new(modules).disallow_all_hosts();
    extism.config = manifest.config.clone();
    let folder = TempDir::new().expect("a folder");
    let (core, exchanged) = (folder.path().join("core"), folder.path().join("exchanged"));
    let debug =
        DebugOptions { coredump: Some(core.clone()), memdump: Some(exchanged.clone()), ..DebugOptions::default() };
    let compiled = PluginBuilder::new(extism)
        .with_wasi(true)
        .with_functions(host_functions())
        .with_cache_disabled()
        .with_debug_options(debug)
        .with_fuel_limit(fuel)
        .compile()
        .expect("it compiles");
    let mut plugin = Plugin::new_from_compiled(&compiled).expect("an instance");
    let context = Context { effects, meter: Arc::new(Meter::new(HostSettings::default().limits)) };
    let output: Result<Vec<u8>, _> = plugin.call_with_host_context(exports::POLL, input, context.clone());
    let fuel = plugin.fuel_consumed().expect("it is metered");
    // Written by the poll if that failed; the next call empties that memory.
    let mut memory = std::fs::read(&exchanged).unwrap_or_default();
    assert_eq!(memory.is_empty(), output.is_ok());
    let stopped: Result<Vec<u8>, _> = plugin.call_with_host_context("stop", &[][..], context);
    assert!(stopped.is_err(), "it traps");
    memory.extend(std::fs::read(&core).expect("a trap is dumped"));
    Dumped { fuel, output: output.ok(), memory: String::from_utf8_lossy(&memory).into_owned() }
}
