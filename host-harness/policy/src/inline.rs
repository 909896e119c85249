//! Builds policies from inline WAT, for unit tests and end-to-end tests.

#![expect(clippy::missing_panics_doc, clippy::panic, reason = "a test that misuses it fails")]

/// The source of a policy module. Bodies are WAT instructions. In a body, `«text»` becomes a block with that text, as
/// the ABI requires. In the text, `\hh` is a byte in hex.
#[derive(Debug, Clone)]
pub struct Inline {
    /// The content of the ABI section.
    pub abi: &'static str,
    /// The content of the capabilities section.
    pub capabilities: String,
    /// Additional fields of the module: imports, functions, tables.
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

/// Capabilities with all functions and strategies, and `any` for hosts, images and containers.
pub const ASKS_FOR_ALL: &str = r#"{"functions": ["docker_containers", "docker_refresh", "host_log", "http_send"],
    "strategies": ["replace", "start-first", "remove", "pull-only", "notify"], "hosts": "any", "images": "any", "containers": "any"}"#;

/// The body of a poll without targets.
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
    /// A policy without targets.
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
    /// A policy that runs `poll` and then returns the output of [`NOTHING_FOUND`].
    pub fn polling(poll: &str) -> Self {
        Self { poll: format!("{poll} {NOTHING_FOUND}"), ..Self::default() }
    }

    /// Builds the module.
    pub fn build(&self) -> Vec<u8> {
        let mut data = Vec::new();
        let exports =
            [("describe", &self.describe), ("poll", &self.poll), ("settle", &self.settle), ("refresh", &self.refresh)];
        let exports: String = exports
            .map(|(name, body)| {
                let body = replace_texts(body, &mut data);
                format!("(func (export \"{name}\") (result i32) (local $a i64) (local $n i32) {body} (i32.const 0))\n")
            })
            .concat();
        let data = data.iter().fold(String::new(), |text, byte| text + &format!("\\{byte:02x}"));
        let (abi, capabilities) = (self.abi, self.capabilities.replace('\n', " ").replace('"', "\\\""));
        // Imports must come before all other fields.
        let is_import = self.fields.starts_with("(import");
        let (before, after) = if is_import { (self.fields.as_str(), "") } else { ("", self.fields.as_str()) };
        let text = format!(
            "(module {before} {PRELUDE} {GIVE_FUNCTION} {after} (data (i32.const 0) \"{data}\") {exports}
                (@custom \"imagewatch.abi\" \"{abi}\") (@custom \"imagewatch.capabilities\" \"{capabilities}\"))"
        );
        wat::parse_str(&text).unwrap_or_else(|error| panic!("{error}"))
    }
}

/// Moves the texts of `body` into `data`, and replaces them by calls that create their blocks.
fn replace_texts(body: &str, data: &mut Vec<u8>) -> String {
    let mut out = String::new();
    let mut rest = body;
    while let Some((before, after)) = rest.split_once('«') {
        let (text, after) = after.split_once('»').expect("each « has a »");
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

/// Bodies that crash a host in which Extism reads the policy's memory (field reports S1 and S2), with their names.
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

/// A function that overwrites the four bytes before a block, where Extism stores the length of the block.
pub const FORGE: &str = "(func $forge (param $a i64)
    (call $store_u8 (i64.sub (local.get $a) (i64.const 1)) (i32.const 255))
    (call $store_u8 (i64.sub (local.get $a) (i64.const 2)) (i32.const 255))
    (call $store_u8 (i64.sub (local.get $a) (i64.const 3)) (i32.const 255))
    (call $store_u8 (i64.sub (local.get $a) (i64.const 4)) (i32.const 255)))";

impl Inline {
    /// A policy that runs `exploit` of [`MEMORY_EXPLOITS`] in `describe`.
    pub fn describing(exploit: &str) -> Self {
        Self { fields: FORGE.to_owned(), describe: exploit.to_owned(), ..Self::default() }
    }

    /// A policy that runs `exploit` of [`MEMORY_EXPLOITS`] in `poll`.
    pub fn exploiting(exploit: &str) -> Self {
        Self { fields: FORGE.to_owned(), poll: exploit.to_owned(), ..Self::default() }
    }
}
