//! Dumps the whole memory of a policy during a poll, for tests that it never contains a secret.
//!
//! The policy is called as in the program. Limited fuel stops the poll at the chosen moment.

#![expect(clippy::missing_panics_doc, reason = "a test that misuses it fails")]

use std::sync::Arc;

use imagewatch_abi::exports;

use super::functions::{Context, Effects};
use super::instance::{Compiled, call_export};
use super::loader::validate;
use super::manifest::PluginManifest;
use super::quota::Quota;
use super::settings::{CallLimits, HostSettings};

/// More memory than the policy ever needs.
const MEMORY_BYTES: usize = 256 << 20;

/// The result of a poll, and the memory of the policy when the poll ended or was aborted.
#[derive(Debug)]
pub struct Dumped {
    /// The fuel that the poll used.
    pub fuel: u64,
    /// The output. `None` if the fuel was not enough.
    pub output: Option<Vec<u8>>,
    /// The linear memory, and the blocks with the data that the policy and the host exchanged.
    pub memory: String,
}

/// Polls with at most `fuel`, and dumps the memory. Blocks.
pub fn poll_and_dump(manifest: &PluginManifest, fuel: u64, input: &[u8], effects: Arc<dyn Effects>) -> Dumped {
    let policy = validate(manifest).expect("the policy is valid").wasm;
    let limits = CallLimits { fuel, ..HostSettings::default().limits };
    let compiled = Compiled::new(&policy, manifest.config.clone(), MEMORY_BYTES, limits.clone()).expect("it compiles");
    let context = Context { effects, quota: Arc::new(Quota::new(limits)) };
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
