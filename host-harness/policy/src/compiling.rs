//! How modules are compiled: with which settings, and without compiling again what was compiled before in this process.
//! A policy that takes the place of another is mostly the same functions, and so are manifests with one module. Knows no
//! manifest, and keeps nothing beyond the process.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use wasmtime::{CacheStore, Config, OptLevel};

/// What is kept of all modules together; the default policy's functions are 3 MiB.
const MAX_BYTES: usize = 16 * 1024 * 1024;

/// The settings of every module's compilation.
///
/// # Errors
/// A fragment saying that this machine cannot be compiled for.
pub(super) fn settings() -> Result<Config, String> {
    static FUNCTIONS: LazyLock<Arc<Functions>> = LazyLock::new(|| Arc::new(Functions::new(MAX_BYTES)));
    settings_over(FUNCTIONS.clone())
}

fn settings_over(functions: Arc<Functions>) -> Result<Config, String> {
    let mut config = Config::new();
    // A module comes optimised. To do that again makes its loading a third longer, and its calls some 3 % shorter.
    config.consume_fuel(true).wasm_tail_call(true);
    config.cranelift_opt_level(OptLevel::None);
    config.enable_incremental_compilation(functions).map_err(|error| format!("{error:#}"))?;
    Ok(config)
}

/// Functions as they were compiled, by Cranelift's hash of what they were compiled from.
struct Functions {
    max_bytes: usize,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    by_hash: HashMap<Vec<u8>, Vec<u8>>,
    bytes: usize,
}

impl Functions {
    fn new(max_bytes: usize) -> Self {
        Self { max_bytes, kept: Mutex::default() }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CacheStore for Functions {
    fn get(&self, hash: &[u8]) -> Option<Cow<'_, [u8]>> {
        self.kept().by_hash.get(hash).cloned().map(Cow::Owned)
    }

    /// Begins anew when it is full: what is needed again comes back with the next module.
    fn insert(&self, hash: &[u8], compiled: Vec<u8>) -> bool {
        let mut kept = self.kept();
        let bytes = hash.len() + compiled.len();
        if bytes > self.max_bytes {
            return false;
        }
        if kept.bytes + bytes > self.max_bytes {
            *kept = Kept::default();
        }
        let former = kept.by_hash.insert(hash.to_vec(), compiled);
        kept.bytes += bytes - former.map_or(0, |former| hash.len() + former.len());
        true
    }
}

impl fmt::Debug for Functions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Functions").field("bytes", &self.kept().bytes).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use wasmtime::{Engine, Module};

    use super::*;

    #[test]
    fn of_a_changed_module_only_the_changed_functions_are_compiled() {
        let functions = Arc::new(Functions::new(MAX_BYTES));
        let compile = |second: &str| {
            let engine = Engine::new(&settings_over(functions.clone()).expect("this machine")).expect("an engine");
            let text = format!(
                r#"(module (func (export "a") (param i32) (result i32) (i32.add (local.get 0) (i32.const 1)))
                           (func (export "b") (param i32) (result i32) {second}))"#
            );
            Module::new(&engine, wat::parse_str(text).expect("well formed")).expect("a module");
            functions.kept().by_hash.len()
        };
        let former = "(i32.mul (local.get 0) (i32.const 3))";
        let whole = compile(former);
        // What goes along with a module's functions is not always the same at once.
        let known = std::iter::repeat_with(|| compile(former)).take(5).last().expect("five times");
        let changed = compile("(i32.sub (local.get 0) (i32.const 3))") - known;
        assert!((1..whole).contains(&changed), "{changed} anew, of {whole}");
    }

    #[test]
    fn what_is_kept_is_bounded_and_given_back_as_it_was() {
        let functions = Functions::new(100);
        assert!(functions.insert(b"a", vec![1; 40]) && functions.insert(b"a", vec![2; 40]));
        assert!(functions.insert(b"b", vec![3; 50]));
        assert_eq!(functions.get(b"a").as_deref(), Some(&[2; 40][..]), "one that was replaced is counted once");
        assert!(functions.insert(b"c", vec![4; 20]));
        assert_eq!((functions.get(b"a"), functions.get(b"b")), (None, None), "it began anew");
        assert_eq!(functions.get(b"c").as_deref(), Some(&[4; 20][..]));
        assert!(!functions.insert(b"d", vec![5; 100]), "larger than all that may be kept");
        assert_eq!(functions.kept().bytes, 21);
    }
}
