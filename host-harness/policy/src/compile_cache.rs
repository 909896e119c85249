//! Compiler settings, and a cache of compiled functions within this process.
//!
//! A new version of a policy has mostly the same functions as the previous one. Several manifests often use the same
//! module.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use wasmtime::{CacheStore, Config, OptLevel};

/// Maximum size of the cache in bytes. The compiled functions of the default policy take 3 MiB.
const MAX_BYTES: usize = 16 * 1024 * 1024;

/// Returns the compiler settings for all modules.
///
/// # Errors
/// The compiler does not support this machine. The text is a fragment.
pub(super) fn settings() -> Result<Config, String> {
    static FUNCTIONS: LazyLock<Arc<Functions>> = LazyLock::new(|| Arc::new(Functions::new(MAX_BYTES)));
    settings_over(FUNCTIONS.clone())
}

fn settings_over(functions: Arc<Functions>) -> Result<Config, String> {
    let mut config = Config::new();
    // Modules are already optimised. To optimise them again makes loading a third slower, and calls only about 3 %
    // faster.
    config.consume_fuel(true).wasm_tail_call(true);
    config.cranelift_opt_level(OptLevel::None);
    config.enable_incremental_compilation(functions).map_err(|error| format!("{error:#}"))?;
    Ok(config)
}

/// A cache of compiled functions. The key is Cranelift's hash of the function's source.
struct Functions {
    max_bytes: usize,
    cached: Mutex<Cached>,
}

#[derive(Default)]
struct Cached {
    by_hash: HashMap<Vec<u8>, Vec<u8>>,
    bytes: usize,
}

impl Functions {
    fn new(max_bytes: usize) -> Self {
        Self { max_bytes, cached: Mutex::default() }
    }

    fn cached(&self) -> MutexGuard<'_, Cached> {
        self.cached.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CacheStore for Functions {
    fn get(&self, hash: &[u8]) -> Option<Cow<'_, [u8]>> {
        self.cached().by_hash.get(hash).cloned().map(Cow::Owned)
    }

    /// Clears the cache when it is full. The next compilation adds the functions that are still needed.
    fn insert(&self, hash: &[u8], compiled: Vec<u8>) -> bool {
        let mut cached = self.cached();
        let bytes = hash.len() + compiled.len();
        if bytes > self.max_bytes {
            return false;
        }
        if cached.bytes + bytes > self.max_bytes {
            *cached = Cached::default();
        }
        let former = cached.by_hash.insert(hash.to_vec(), compiled);
        cached.bytes += bytes - former.map_or(0, |former| hash.len() + former.len());
        true
    }
}

impl fmt::Debug for Functions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Functions").field("bytes", &self.cached().bytes).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use wasmtime::{Engine, Module};

    use super::*;

    #[test]
    fn only_the_changed_functions_of_a_module_are_compiled() {
        let functions = Arc::new(Functions::new(MAX_BYTES));
        let compile = |second: &str| {
            let engine = Engine::new(&settings_over(functions.clone()).expect("this machine")).expect("an engine");
            let text = format!(
                r#"(module (func (export "a") (param i32) (result i32) (i32.add (local.get 0) (i32.const 1)))
                           (func (export "b") (param i32) (result i32) {second}))"#
            );
            Module::new(&engine, wat::parse_str(text).expect("well formed")).expect("a module");
            functions.cached().by_hash.len()
        };
        let former = "(i32.mul (local.get 0) (i32.const 3))";
        let whole = compile(former);
        // The compiler adds helper functions, and they are not all the same on the first compilations.
        let known = std::iter::repeat_with(|| compile(former)).take(5).last().expect("five times");
        let changed = compile("(i32.sub (local.get 0) (i32.const 3))") - known;
        assert!((1..whole).contains(&changed), "{changed} compiled again, of {whole}");
    }

    #[test]
    fn the_cache_is_limited_and_returns_what_was_inserted() {
        let functions = Functions::new(100);
        assert!(functions.insert(b"a", vec![1; 40]) && functions.insert(b"a", vec![2; 40]));
        assert!(functions.insert(b"b", vec![3; 50]));
        assert_eq!(functions.get(b"a").as_deref(), Some(&[2; 40][..]), "a replaced entry counts once");
        assert!(functions.insert(b"c", vec![4; 20]));
        assert_eq!((functions.get(b"a"), functions.get(b"b")), (None, None), "the cache was cleared");
        assert_eq!(functions.get(b"c").as_deref(), Some(&[4; 20][..]));
        assert!(!functions.insert(b"d", vec![5; 100]), "larger than the cache");
        assert_eq!(functions.cached().bytes, 21);
    }
}
