//! Generated tests: calls of all functions that a policy can import, with all kinds of numbers. Each case must end in
//! an answer or a typed fault.
//!
//! `IMAGEWATCH_CASES` sets the number of cases. `tests/README.md` explains how to run a million.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use imagewatch_abi::{
    Answer, Containers, Failure, FailureCode, HttpBatch, HttpResponses, LogLine, Orders, OrdersAccepted, Selector,
    exports,
};

use super::fault::FaultKind;
use super::functions::Effects;
use super::inline::{ASKS_FOR_ALL, GIVE_FUNCTION};
use super::inspect::inspect;
use super::instance::{Compiled, call_bytes};
use super::settings::{CallLimits, HostSettings};

const DEFAULT_CASES: u64 = 10_000;

/// Number of cases that are compiled as modules. The other cases are scripts for one interpreter module.
const MODULES: u64 = 40;

const MEMORY_BYTES: usize = 1 << 20;

/// All functions that a policy can import: namespace, name, signature, and the WAT that calls it with the numbers $a
/// and $b.
const FUNCTIONS: [(&str, &str, &str, &str); 23] = [
    ("extism:host/env", "alloc", "(param i64) (result i64)", "(local.set $last (call $alloc (local.get $a)))"),
    ("extism:host/env", "free", "(param i64)", "(call $free (local.get $a))"),
    ("extism:host/env", "length", "(param i64) (result i64)", "(drop (call $length (local.get $a)))"),
    ("extism:host/env", "length_unsafe", "(param i64) (result i64)", "(drop (call $length_unsafe (local.get $a)))"),
    ("extism:host/env", "load_u8", "(param i64) (result i32)", "(drop (call $load_u8 (local.get $a)))"),
    ("extism:host/env", "load_u64", "(param i64) (result i64)", "(drop (call $load_u64 (local.get $a)))"),
    ("extism:host/env", "store_u8", "(param i64 i32)", "(call $store_u8 (local.get $a) (i32.wrap_i64 (local.get $b)))"),
    ("extism:host/env", "store_u64", "(param i64 i64)", "(call $store_u64 (local.get $a) (local.get $b))"),
    ("extism:host/env", "input_length", "(result i64)", "(drop (call $input_length))"),
    ("extism:host/env", "input_offset", "(result i64)", "(local.set $last (call $input_offset))"),
    ("extism:host/env", "input_load_u8", "(param i64) (result i32)", "(drop (call $input_load_u8 (local.get $a)))"),
    ("extism:host/env", "input_load_u64", "(param i64) (result i64)", "(drop (call $input_load_u64 (local.get $a)))"),
    ("extism:host/env", "output_set", "(param i64 i64)", "(call $output_set (local.get $a) (local.get $b))"),
    ("extism:host/env", "error_set", "(param i64)", "(call $error_set (local.get $a))"),
    (
        "extism:host/env",
        "config_get",
        "(param i64) (result i64)",
        "(local.set $last (call $config_get (local.get $a)))",
    ),
    ("extism:host/user", "http_send", "(param i64) (result i64)", "(local.set $last (call $http_send (local.get $a)))"),
    (
        "extism:host/user",
        "docker_containers",
        "(param i64) (result i64)",
        "(local.set $last (call $docker_containers (local.get $a)))",
    ),
    (
        "extism:host/user",
        "docker_refresh",
        "(param i64) (result i64)",
        "(local.set $last (call $docker_refresh (local.get $a)))",
    ),
    ("extism:host/user", "host_log", "(param i64)", "(call $host_log (local.get $a))"),
    (
        "wasi_snapshot_preview1",
        "environ_get",
        "(param i32 i32) (result i32)",
        "(drop (call $environ_get (i32.wrap_i64 (local.get $a)) (i32.wrap_i64 (local.get $b))))",
    ),
    (
        "wasi_snapshot_preview1",
        "environ_sizes_get",
        "(param i32 i32) (result i32)",
        "(drop (call $environ_sizes_get (i32.wrap_i64 (local.get $a)) (i32.wrap_i64 (local.get $b))))",
    ),
    (
        "wasi_snapshot_preview1",
        "fd_write",
        "(param i32 i32 i32 i32) (result i32)",
        "(drop (call $fd_write (i32.const 1) (i32.wrap_i64 (local.get $a)) (i32.wrap_i64 (local.get $b)) (i32.wrap_i64 (local.get $a))))",
    ),
    ("wasi_snapshot_preview1", "proc_exit", "(param i32)", "(call $proc_exit (i32.wrap_i64 (local.get $a)))"),
];

/// Operations of a policy that are not imports.
const OTHERS: [&str; 5] = [
    "(local.set $last (local.get $a))",
    "(drop (memory.grow (i32.wrap_i64 (local.get $a))))",
    "(drop (table.grow $table (ref.null func) (i32.wrap_i64 (local.get $a))))",
    GIVE,
    "unreachable",
];

/// Creates a block with `$b` bytes of the module's data from `$a` on. They may be valid input of a host function, or
/// not.
const GIVE: &str = "(local.set $last (call $give (i32.and (i32.wrap_i64 (local.get $a)) (i32.const 1023))
    (i32.and (i32.wrap_i64 (local.get $b)) (i32.const 255))))";
const GIVES: u64 = FUNCTIONS.len() as u64 + 3;
const TRAPS: u64 = GIVES + 1;
const OPERATIONS: u64 = TRAPS + 1;

const TEXTS: [&str; 6] = [
    r#"{"requests": [{"method": "GET", "url": "https://a.io/v2/"}]}"#,
    r#"{"name": "a"}"#,
    r#"{"orders": [{"order": "a", "target": "a", "reference": "a.io/a", "recreate": true, "strategy": "replace"}]}"#,
    r#"{"level": "info", "message": "x"}"#,
    "key",
    "policy panicked: at the disco",
];

/// One step of a script: the operation, which numbers are relative to the last result, and the numbers.
#[derive(Debug, Clone, Copy)]
struct Step {
    operation: u64,
    relative: u64,
    a: u64,
    b: u64,
}

/// A pseudo-random number generator. The seed is the number of the case.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut number = self.0;
        number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        number ^ (number >> 31)
    }

    fn below(&mut self, most: u64) -> u64 {
        self.next() % most
    }

    /// Returns a number, mostly one near a boundary value.
    fn number(&mut self) -> u64 {
        const BORDERS: [u64; 12] =
            [0, 1, 8, 64, 1 << 16, 1 << 20, 1 << 31, 1 << 32, 1 << 48, 1 << 63, u64::MAX, 0x0101_0101_0101_0101];
        match self.below(4) {
            0 => self.next() >> self.below(64),
            1 => self.below(40),
            _ => BORDERS[usize::try_from(self.below(12)).expect("small")].wrapping_add(self.below(17)).wrapping_sub(8),
        }
    }

    fn step(&mut self) -> Step {
        let operation = match self.below(10) {
            0..3 => GIVES,
            3 => 0,
            _ => self.below(OPERATIONS),
        };
        let (relative, a, b) = (self.below(4), self.number(), self.number());
        let near = [0, 0, 1, 8, u64::MAX, u64::MAX - 3];
        match operation {
            GIVES => {
                let text = usize::try_from(self.below(TEXTS.len() as u64)).expect("small");
                let start: usize = TEXTS[..text].iter().map(|text| text.len()).sum();
                Step { operation, relative: 0, a: start as u64, b: TEXTS[text].len() as u64 }
            }
            // Allocate a small block, so that later relative numbers are near a block.
            0 if relative != 0 => Step { operation, relative: 0, a: 1 + self.below(300), b },
            _ if relative & 1 == 1 => {
                Step { operation, relative, a: near[usize::try_from(self.below(6)).expect("small")], b }
            }
            _ => Step { operation, relative, a, b },
        }
    }

    fn script(&mut self) -> Vec<Step> {
        (0..=self.below(12)).map(|_| self.step()).collect()
    }
}

impl Step {
    fn bytes(self) -> Vec<u8> {
        [&[byte(self.operation), byte(self.relative)][..], &self.a.to_le_bytes(), &self.b.to_le_bytes()].concat()
    }

    fn wat(self) -> String {
        let set = |name: &str, number: u64, is_relative: bool| {
            let number = format!("(i64.const {})", number.cast_signed());
            let number = if is_relative { format!("(i64.add (local.get $last) {number})") } else { number };
            format!("(local.set ${name} {number})")
        };
        let set = set("a", self.a, self.relative & 1 == 1) + &set("b", self.b, self.relative & 2 == 2);
        set + &operation(self.operation)
    }
}

fn byte(number: u64) -> u8 {
    u8::try_from(number).expect("small")
}

fn operation(index: u64) -> String {
    let index = usize::try_from(index).expect("small");
    FUNCTIONS.get(index).map_or_else(|| OTHERS[index - FUNCTIONS.len()], |function| function.3).to_owned()
}

fn module(body: &str) -> Vec<u8> {
    let imports = FUNCTIONS.iter().fold(String::new(), |mut text, (namespace, name, signature, _)| {
        writeln!(text, r#"(import "{namespace}" "{name}" (func ${name} {signature}))"#).expect("it is a string");
        text
    });
    let data = TEXTS.concat().bytes().fold(String::new(), |text, byte| text + &format!("\\{byte:02x}"));
    let exports =
        exports::ALL.map(|name| format!(r#"(func (export "{name}") (result i32) (call $run) (i32.const 0))"#));
    let capabilities = ASKS_FOR_ALL.replace('\n', " ").replace('"', "\\\"");
    let text = format!(
        r#"(module {imports} (memory (export "memory") 1) (table $table 1 1000 funcref) (data (i32.const 0) "{data}")
        {GIVE_FUNCTION}
        (func $run (local $at i64) (local $last i64) (local $a i64) (local $b i64) {body}) {}
        (@custom "imagewatch.abi" "1") (@custom "imagewatch.capabilities" "{capabilities}"))"#,
        exports.concat()
    );
    let wasm = wat::parse_str(&text).unwrap_or_else(|error| panic!("{error}"));
    inspect(&wasm).and_then(|info| info.validate().map(drop)).expect("a valid policy");
    wasm
}

/// A module that runs the script in its input.
fn interpreter() -> Vec<u8> {
    let number = |at: u64| format!("(call $input_load_u64 (i64.add (local.get $at) (i64.const {at})))");
    let relative = |bit: u32, name: &str| {
        format!(
            "(if (i32.and (call $input_load_u8 (i64.add (local.get $at) (i64.const 1))) (i32.const {bit}))
                (then (local.set ${name} (i64.add (local.get ${name}) (local.get $last)))))"
        )
    };
    let each = |write: &dyn Fn(u64) -> String| (0..OPERATIONS).map(write).collect::<Vec<_>>();
    let labels = each(&|index| format!("$o{index}")).join(" ");
    let opening = each(&|index| format!("(block $o{} ", OPERATIONS - 1 - index)).concat();
    let arms = each(&|index| format!(") {} (br $end) ", operation(index))).concat();
    module(&format!(
        "(block $done (loop $next
            (br_if $done (i64.gt_u (i64.add (local.get $at) (i64.const 18)) (call $input_length)))
            (local.set $a {}) (local.set $b {}) {} {}
            (block $end {opening} (br_table {labels} (call $input_load_u8 (local.get $at))) {arms})
            (local.set $at (i64.add (local.get $at) (i64.const 18)))
            (br $next)))",
        number(2),
        number(10),
        relative(1, "a"),
        relative(2, "b"),
    ))
}

/// Effects that answer every request with some bytes.
struct Answering;

impl Effects for Answering {
    fn http_send(&self, _: HttpBatch, _: usize) -> Answer<HttpResponses> {
        Answer::Err(Failure::permanent(FailureCode::Other, "x".repeat(5_000)))
    }
    fn docker_containers(&self, _: Selector) -> Answer<Containers> {
        Answer::Err(Failure::permanent(FailureCode::Other, ""))
    }
    fn docker_refresh(&self, _: Orders) -> Answer<OrdersAccepted> {
        Answer::Err(Failure::permanent(FailureCode::Other, "x".repeat(70)))
    }
    fn log(&self, _: LogLine) {}
}

fn compile(wasm: &[u8]) -> Compiled {
    let limits =
        CallLimits { fuel: 2_000_000, host_calls: 6, host_bytes: 20_000, orders: 2, ..HostSettings::default().limits };
    let config = BTreeMap::from([("key".to_owned(), "value".to_owned()), ("empty".to_owned(), String::new())]);
    Compiled::new(wasm, config, MEMORY_BYTES, limits).expect("it compiles")
}

/// Counts how calls ended.
#[derive(Default)]
struct Ends {
    answers: u64,
    faults: BTreeMap<FaultKind, u64>,
}

impl Ends {
    fn call(&mut self, compiled: &Compiled, export: &'static str, input: &[u8], case: &dyn std::fmt::Debug) {
        match call_bytes(compiled, export, input, Arc::new(Answering)) {
            Ok(_) => self.answers += 1,
            Err(fault) => {
                let of_policy = fault.kind != FaultKind::Host && !fault.reason.is_empty();
                assert!(of_policy && !fault.reason.contains(char::is_control), "{fault} in {case:?}");
                *self.faults.entry(fault.kind).or_default() += 1;
            }
        }
    }

    fn assert_of_every_kind(&self, cases: u64) {
        println!("{} answers; faults: {:?}", self.answers, self.faults);
        assert!(self.answers > cases / 20, "{} of {cases} cases answer", self.answers);
        for kind in [FaultKind::Trap, FaultKind::Memory, FaultKind::Panic] {
            assert!(self.faults.contains_key(&kind), "no case ends in {kind:?}: {:?}", self.faults);
        }
    }
}

fn cases() -> u64 {
    std::env::var("IMAGEWATCH_CASES").map_or(DEFAULT_CASES, |cases| cases.parse().expect("a number of cases"))
}

#[test]
fn every_generated_script_ends_in_an_answer_or_a_typed_fault() {
    let (compiled, mut ends, cases) = (compile(&interpreter()), Ends::default(), cases());
    for case in 0..cases {
        let script = Numbers(case).script();
        let input: Vec<u8> = script.iter().copied().flat_map(Step::bytes).collect();
        let export = exports::ALL[usize::try_from(case % 4).expect("small")];
        ends.call(&compiled, export, &input, &(case, &script));
    }
    ends.assert_of_every_kind(cases);
}

#[test]
fn every_generated_module_ends_in_an_answer_or_a_typed_fault() {
    let mut ends = Ends::default();
    for case in 0..MODULES {
        let script = Numbers(case).script();
        let body: String = script.iter().copied().map(Step::wat).collect();
        let compiled = compile(&module(&body));
        for export in [exports::DESCRIBE, exports::POLL] {
            ends.call(&compiled, export, b"{}", &(case, &script));
        }
    }
    assert!(ends.answers > 0 && !ends.faults.is_empty());
}

/// The interpreter must run a script exactly like a module that is compiled from the script. Otherwise, the tests would
/// test the interpreter instead of the operations.
#[test]
fn an_interpreted_operation_behaves_like_a_compiled_one() {
    let interpreter = compile(&interpreter());
    for index in 0..OPERATIONS {
        let give = Step { operation: GIVES, relative: 0, a: 0, b: TEXTS[0].len() as u64 };
        let script = [give, Step { operation: index, relative: 1, a: 0, b: 3 }];
        let input: Vec<u8> = script.iter().copied().flat_map(Step::bytes).collect();
        let body: String = script.iter().copied().map(Step::wat).collect();
        let end = |compiled: &Compiled| {
            call_bytes(compiled, exports::POLL, &input, Arc::new(Answering))
                .map(|(output, _)| output)
                .map_err(|fault| (fault.kind, fault.reason))
        };
        assert_eq!(end(&interpreter), end(&compile(&module(&body))), "operation {index}");
    }
}
