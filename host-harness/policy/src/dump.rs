//! The whole memory of a policy at a moment of its poll, for tests of what it never gets to see. The policy is called as in
//! the program, with fuel that ends at that moment.

#![expect(clippy::missing_panics_doc, reason = "a test that misuses it fails")]

use std::sync::Arc;

use imagewatch_abi::exports;

use super::functions::{Context, Effects};
use super::instance::{Compiled, call_export};
use super::loader::admit;
use super::manifest::PluginManifest;
use super::meter::Meter;
use super::settings::{CallLimits, HostSettings};

/// More than the policy needs for anything.
const MEMORY_BYTES: usize = 256 << 20;

/// A poll, and what the policy's memory was when it ended or was ended.
#[derive(Debug)]
pub struct Dumped {
    /// What it used; no more than it was given.
    pub fuel: u64,
    /// Its output, unless the fuel was not enough.
    pub output: Option<Vec<u8>>,
    /// Its linear memory, and the blocks through which the host's answers come.
    pub memory: String,
}

/// Polls with `fuel` and no more. Blocks.
pub fn poll_and_dump(manifest: &PluginManifest, fuel: u64, input: &[u8], effects: Arc<dyn Effects>) -> Dumped {
    let policy = admit(manifest).expect("the policy is admitted").wasm;
    let limits = CallLimits { fuel, ..HostSettings::default().limits };
    let compiled = Compiled::new(&policy, manifest.config.clone(), MEMORY_BYTES, limits.clone()).expect("it compiles");
    let context = Context { effects, meter: Arc::new(Meter::new(limits)) };
    let mut store = compiled.store(input, context).expect("the input fits");
    let instance = compiled.start(&mut store).expect("it starts");
    let polled = call_export(&mut store, &instance, exports::POLL);
    let left = store.get_fuel().expect("it is metered");
    let linear = instance.get_memory(&mut store, "memory").expect("it exports its memory");
    let mut memory = linear.data(&store).to_vec();
    let kernel = &store.data().kernel;
    memory.extend(kernel.dump());
    let output = polled.is_ok().then(|| kernel.output().to_vec());
    Dumped { fuel: fuel - left, output, memory: String::from_utf8_lossy(&memory).into_owned() }
}
