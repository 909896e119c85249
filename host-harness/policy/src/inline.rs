//! Policies written inline as WAT, for tests: here, and by path in the end-to-end tests. Knows the boundary's shapes; what
//! a policy does with them is each test's.

#![expect(clippy::missing_panics_doc, clippy::panic, reason = "a test that misuses it fails")]

/// A policy in the making. Bodies are WAT instructions; `«text»` in one is that text, handed over as the boundary wants
/// it (`\hh` in it is a byte).
#[derive(Debug, Clone)]
pub struct Inline {
    /// The ABI section's content.
    pub abi: &'static str,
    /// The capabilities section's content.
    pub capabilities: String,
    /// More fields of the module: imports, functions, tables.
    pub fields: String,
    /// The body of `describe`.
    pub describe: String,
    /// The body of `poll`.
    pub poll: String,
    /// The body of `settle`.
    pub settle: String,
    /// The body of `refresh`.
    pub refresh: String,
}

/// All there is, of whatever is granted.
pub const ASKS_FOR_ALL: &str = r#"{"functions": ["docker_containers", "docker_refresh", "host_log", "http_send"],
    "strategies": ["replace", "start-first", "remove", "pull-only", "notify"], "hosts": "any", "images": "any", "containers": "any"}"#;

/// What a poll says that found nothing.
pub const NOTHING_FOUND: &str =
    r#"(call $output «{"state": {"polls": 1}, "cache": null, "next_poll_ms": 100, "outcomes": []}»)"#;

/// `$give`: copies `$len` bytes of the module's memory from `$at` on into a new block. Needs `$alloc` and `$store_u8`.
pub(crate) const GIVE_FUNCTION: &str = r"
    (func $give (param $at i32) (param $len i32) (result i64) (local $to i64) (local $i i32)
        (local.set $to (call $alloc (i64.extend_i32_u (local.get $len))))
        (block $done (loop $next
            (br_if $done (i32.ge_u (local.get $i) (local.get $len)))
            (call $store_u8 (i64.add (local.get $to) (i64.extend_i32_u (local.get $i)))
                (i32.load8_u (i32.add (local.get $at) (local.get $i))))
            (local.set $i (i32.add (local.get $i) (i32.const 1)))
            (br $next)))
        (local.get $to))";

const PRELUDE: &str = r#"
    (import "extism:host/env" "alloc" (func $alloc (param i64) (result i64)))
    (import "extism:host/env" "length" (func $length (param i64) (result i64)))
    (import "extism:host/env" "store_u8" (func $store_u8 (param i64 i32)))
    (import "extism:host/env" "output_set" (func $output_set (param i64 i64)))
    (import "extism:host/env" "error_set" (func $error_set (param i64)))
    (import "extism:host/user" "http_send" (func $http_send (param i64) (result i64)))
    (import "extism:host/user" "docker_containers" (func $docker_containers (param i64) (result i64)))
    (import "extism:host/user" "docker_refresh" (func $docker_refresh (param i64) (result i64)))
    (import "extism:host/user" "host_log" (func $host_log (param i64)))
    (memory (export "memory") 1)
    (func $output (param $block i64) (call $output_set (local.get $block) (call $length (local.get $block))))"#;

impl Default for Inline {
    /// One that polls and finds nothing.
    fn default() -> Self {
        let description =
            r#"{"name": "inline", "version": "1", "abi": 1, "config_keys": [], "enabled": true, "interval_ms": 100}"#;
        let state = r#"(call $output «{"state": {"polls": 1}, "outcomes": [], "orders": []}»)"#;
        Self {
            abi: "1",
            capabilities: ASKS_FOR_ALL.to_owned(),
            fields: String::new(),
            describe: format!("(call $output «{description}»)"),
            poll: NOTHING_FOUND.to_owned(),
            settle: state.to_owned(),
            refresh: state.to_owned(),
        }
    }
}

impl Inline {
    /// One that does `poll`, and finds nothing.
    pub fn polling(poll: &str) -> Self {
        Self { poll: format!("{poll} {NOTHING_FOUND}"), ..Self::default() }
    }

    /// The module.
    pub fn build(&self) -> Vec<u8> {
        let mut data = Vec::new();
        let exports =
            [("describe", &self.describe), ("poll", &self.poll), ("settle", &self.settle), ("refresh", &self.refresh)];
        let exports: String = exports
            .map(|(name, body)| {
                let body = hand_over(body, &mut data);
                format!("(func (export \"{name}\") (result i32) (local $a i64) (local $n i32) {body} (i32.const 0))\n")
            })
            .concat();
        let data = data.iter().fold(String::new(), |text, byte| text + &format!("\\{byte:02x}"));
        let (abi, capabilities) = (self.abi, self.capabilities.replace('\n', " ").replace('"', "\\\""));
        // Imports stand before all else.
        let is_import = self.fields.starts_with("(import");
        let (before, after) = if is_import { (self.fields.as_str(), "") } else { ("", self.fields.as_str()) };
        let text = format!(
            "(module {before} {PRELUDE} {GIVE_FUNCTION} {after} (data (i32.const 0) \"{data}\") {exports}
                (@custom \"imagewatch.abi\" \"{abi}\") (@custom \"imagewatch.capabilities\" \"{capabilities}\"))"
        );
        wat::parse_str(&text).unwrap_or_else(|error| panic!("{error}"))
    }
}

/// Puts the texts of `body` into `data`, and calls in their places.
fn hand_over(body: &str, data: &mut Vec<u8>) -> String {
    let mut out = String::new();
    let mut rest = body;
    while let Some((before, after)) = rest.split_once('«') {
        let (text, after) = after.split_once('»').expect("« has its »");
        let bytes = unescape(text);
        out = out + before + &format!("(call $give (i32.const {}) (i32.const {}))", data.len(), bytes.len());
        data.extend(bytes);
        rest = after;
    }
    out + rest
}

fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('\\') {
        bytes.extend(before.as_bytes());
        bytes.push(u8::from_str_radix(&after[..2], 16).expect("two hex digits"));
        rest = &after[2..];
    }
    bytes.extend(rest.as_bytes());
    bytes
}

/// What each policy does that made hosts crash in which Extism reads the policy's memory (field reports S1 and S2).
pub const MEMORY_EXPLOITS: [(&str, &str); 5] = [
    (
        "forged_length_to_a_host_function",
        "(local.set $a (call $alloc (i64.const 16))) (call $forge (local.get $a)) (call $host_log (local.get $a))",
    ),
    (
        "forged_length_as_error",
        "(local.set $a (call $alloc (i64.const 16))) (call $forge (local.get $a)) (call $error_set (local.get $a)) unreachable",
    ),
    (
        "forged_length_as_output",
        "(local.set $a (call $alloc (i64.const 16))) (call $forge (local.get $a)) (call $output (local.get $a))",
    ),
    ("output_of_minus_one", "(call $output_set (call $alloc (i64.const 10)) (i64.const -1))"),
    ("output_of_four_gibibytes", "(call $output_set (call $alloc (i64.const 10)) (i64.const 0x100000000))"),
];

/// Writes over the four bytes before a block, in which Extism keeps its length.
pub const FORGE: &str = "(func $forge (param $a i64)
    (call $store_u8 (i64.sub (local.get $a) (i64.const 1)) (i32.const 255))
    (call $store_u8 (i64.sub (local.get $a) (i64.const 2)) (i32.const 255))
    (call $store_u8 (i64.sub (local.get $a) (i64.const 3)) (i32.const 255))
    (call $store_u8 (i64.sub (local.get $a) (i64.const 4)) (i32.const 255)))";

impl Inline {
    /// One that does `exploit` of [`MEMORY_EXPLOITS`] when it describes itself.
    pub fn describing(exploit: &str) -> Self {
        Self { fields: FORGE.to_owned(), describe: exploit.to_owned(), ..Self::default() }
    }

    /// One that does `exploit` of [`MEMORY_EXPLOITS`] when it polls.
    pub fn exploiting(exploit: &str) -> Self {
        Self { fields: FORGE.to_owned(), poll: exploit.to_owned(), ..Self::default() }
    }
}
