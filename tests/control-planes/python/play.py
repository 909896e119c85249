"""Replays the scripted scenarios on a built policy with the PyPI package `extism`. `imagewatch_core::script` does the
same natively and describes the format. With the default policy, imagewatch.wasm, this program also tests faults that
scripts cannot cause.

    python play.py OUTPUTS (WASM SCRIPTS)...

It writes every output to OUTPUTS/<name of WASM>.txt. The outputs of all hosts must be the same bytes.
"""

import json
import logging
import pathlib
import re
import sys
import tempfile

from imagewatch_policy import LOG, Policy, PolicyFault, Refused
from play_engine import check_engine
from play_http import check_control_plane, check_docker_hub, check_program, check_refusals

KEPT = {"state": None, "cache": None, "quarantine": []}
# (module (memory (export "memory") 1) (func (export "poll") (result i32) unreachable))
POLICY = "0061736d010000000105016000017f030201000503010001071102066d656d6f7279020004706f6c6c0000"
TRAPS = bytes.fromhex(POLICY + "0a05010300000b")
# The same with the body (loop (br 0)) i32.const 0.
ENDLESS = bytes.fromhex(POLICY + "0a0b01090003400c000b41000b")
# (module (import "env" "open" (func)) (memory (export "memory") 1) (func (export "poll") (result i32) i32.const 0))
FOREIGN = bytes.fromhex(
    "0061736d010000000108026000006000017f020c0103656e76046f70656e000003020101"
    "0503010001071102066d656d6f7279020004706f6c6c00010a0601040041000b"
)

# Writes 0xff over the four bytes before `alloc(16)`, where Extism stores the length, and passes the block to host_log.
FORGED = bytes.fromhex(
    "0061736d0100000001130460017e017e60027e7f0060017e006000017f0250030f65787469736d3a686f73742f656e76"
    "05616c6c6f6300000f65787469736d3a686f73742f656e760873746f72655f753800011065787469736d3a686f73742f"
    "7573657208686f73745f6c6f670002030201030503010001071102066d656d6f7279020004706f6c6c00030a3a013801"
    "017e421010002100200042017d41ff011001200042027d41ff011001200042037d41ff011001200042047d41ff011001"
    "2000100241000b"
)
# The same, but passes the block to error_set and traps.
FORGED_ERROR = bytes.fromhex(
    "0061736d0100000001130460017e017e60027e7f0060017e006000017f0250030f65787469736d3a686f73742f656e76"
    "05616c6c6f6300000f65787469736d3a686f73742f656e760873746f72655f753800010f65787469736d3a686f73742f"
    "656e76096572726f725f7365740002030201030503010001071102066d656d6f7279020004706f6c6c00030a39013701"
    "017e421010002100200042017d41ff011001200042027d41ff011001200042037d41ff011001200042047d41ff011001"
    "20001002000b"
)
# Calls output_set(alloc(10), -1).
ENDLESS_OUTPUT = bytes.fromhex(
    "0061736d01000000010f0360017e017e60027e7e006000017f0236020f65787469736d3a686f73742f656e7605616c6c"
    "6f6300000f65787469736d3a686f73742f656e760a6f75747075745f7365740001030201020503010001071102066d65"
    "6d6f7279020004706f6c6c00020a0e010c00420a1000427f100141000b"
)


class Departure(Exception):
    """A policy differs from its script."""


class ScriptedEffects:
    """The effects of one step. They answer from the script and record every difference."""

    def __init__(self, step):
        self.expected = list(step.get("host", []))
        self.logged = []
        self.departures = []

    def http_send(self, asked):
        return self.answer("http_send", asked)

    def docker_containers(self, asked):
        return self.answer("docker_containers", asked)

    def docker_refresh(self, asked):
        return self.answer("docker_refresh", asked)

    def log(self, line):
        self.logged.append(line["message"])

    def answer(self, function, asked):
        exchange = self.expected.pop(0) if self.expected else {"function": "nothing"}
        if exchange["function"] != function:
            return self.depart(f"{function} called instead of {exchange['function']}, with {asked}")
        if difference := find_difference(asked, exchange["in"]):
            return self.depart(f"{function} called with another input: {difference}")
        if "err" in exchange["out"]:
            raise Refused(**exchange["out"]["err"])
        return exchange["out"]["ok"]

    def depart(self, departure):
        self.departures.append(departure)
        raise Refused("other", "not in the script")

    def finish(self, step, output):
        if difference := find_difference(output, step["output"]):
            self.departures.append(f"output differs: {difference}\nin {json.dumps(output)}")
        self.departures += [f"{exchange['function']} was not called" for exchange in self.expected]
        lines = iter(self.logged)
        for part in step.get("log", []):
            if not any(part in line for line in lines):
                self.departures.append(f"no log line with {part!r} in {self.logged}")
        if self.departures:
            raise Departure("\n".join(self.departures))


def find_difference(actual, expected):
    """Where `actual` differs from `expected`, or None. `actual` must have every key of an expected object, exactly the
    elements of an expected list, and the part of an expected text between asterisks. Other values must be equal."""
    if isinstance(actual, dict) and isinstance(expected, dict):
        pairs = [(key, actual.get(key), value) for key, value in expected.items()]
    elif isinstance(actual, list) and isinstance(expected, list) and len(actual) == len(expected):
        pairs = [(index, *pair) for index, pair in enumerate(zip(actual, expected))]
    elif isinstance(actual, str) and isinstance(expected, str) and re.fullmatch(r"\*.*\*", expected):
        return None if expected[1:-1] in actual else f" {actual!r} has no {expected[1:-1]!r}"
    else:
        same = actual == expected and isinstance(actual, bool) == isinstance(expected, bool)
        return None if same else f" {actual!r} instead of {expected!r}"
    return next((f"{key}.{found}" for key, *pair in pairs if (found := find_difference(*pair))), None)


def parse_script(text):
    return json.loads(re.sub(r"\{\{([0-9a-f])\}\}", lambda match: "sha256:" + match[1] * 64, text))


def play(wasm, script):
    """Replays a script and returns the outputs of its steps."""
    policy = Policy(wasm, script["config"])
    kept, outputs = dict(KEPT), []
    for step in script["steps"]:
        kept = {key: step["input"].get(key, value) for key, value in kept.items()}
        effects = ScriptedEffects(step)
        try:
            outputs.append(policy.call_text(step["call"], json.dumps({**step["input"], **kept}), effects).decode())
            output = json.loads(outputs[-1])
            effects.finish(step, output)
        except (Departure, PolicyFault) as error:
            raise Departure(f"step {step['name']!r}: {error}") from error
        kept = {key: output.get(key, value) for key, value in kept.items()}
    return outputs


def play_all(wasm, folder, results):
    """Replays every script of a folder. Prints and counts each script that fails."""
    failed, files = 0, sorted(folder.glob("*.json"))
    with open(results, "w", encoding="utf-8") as lines:
        for file in files:
            script = parse_script(file.read_text(encoding="utf-8"))
            try:
                outputs = play(wasm, script)
            except Departure as departure:
                failed += 1
                print(f"FAILED {file}: {script['shows']}\n{departure}")
                continue
            lines.writelines(f"{file.stem} {index} {output}\n" for index, output in enumerate(outputs))
    return len(files) - failed, failed


class Broken:
    """Effects with a bug. Their exception contains a secret."""

    def __getattr__(self, _name):
        raise RuntimeError("hunter2")


class Silent(Broken):
    def log(self, _line):
        pass


class Lines(logging.Handler):
    """Collects the host's log instead of writing it to standard error."""

    lines = []

    def emit(self, record):
        self.lines.append(self.format(record))


def fault_of(work):
    try:
        work()
    except PolicyFault as fault:
        return str(fault)
    raise AssertionError("the call did not raise PolicyFault")


def check_invalid_input(wasm):
    policy = Policy(wasm, {"images": "r.io/a"})
    assert "invalid input for poll" in fault_of(lambda: policy.call_text("poll", "no json", Silent()))
    # A fault affects only its own call.
    assert policy.call("describe", {}, Silent())["enabled"] is True


def check_exception_in_an_effect(wasm):
    for effects in (Broken(), Silent()):
        output = Policy(wasm, {"images": "r.io/a"}).call("poll", {"now_ms": 0}, effects)
        reason = output["outcomes"][0]["reason"]
        assert "the host's http_send failed with RuntimeError" in reason and "hunter2" not in reason, reason
    assert any("the host's http_send failed" in line and "hunter2" in line for line in Lines.lines), Lines.lines


def check_answer_over_the_memory_limit(wasm):
    class Huge(Silent):
        def http_send(self, _batch):
            return {"responses": [{"ok": {"status": 200, "body": "x" * (64 << 20)}}]}

    output = Policy(wasm, {"images": "r.io/a"}, memory_pages=64).call("poll", {"now_ms": 0}, Huge())
    assert "the host's answer cannot be read" in output["outcomes"][0]["reason"], output
    # The memory holds the answer once, but not a second copy in the policy.
    fault = fault_of(lambda: Policy(wasm, {"images": "r.io/a"}, memory_pages=1100).call("poll", {"now_ms": 0}, Huge()))
    assert "oom" in fault, fault


def check_trap(_wasm):
    assert "wasm backtrace" in fault_of(lambda: Policy(TRAPS, {}).call("poll", {"now_ms": 0}, Silent()))
    for wasm in (TRAPS[:20], FOREIGN):
        assert "cannot be loaded" in fault_of(lambda: Policy(wasm, {}))


def check_crashes(wasm):
    """A policy that crashes its process ends only its own call. The next call gets a new process."""
    good = Policy(wasm, {"images": "r.io/a"})
    for module, part in [(FORGED, "crashed"), (FORGED_ERROR, "crashed"), (ENDLESS_OUTPUT, "poll: ")]:
        policy = Policy(module, {})
        for _ in range(2):
            fault = fault_of(lambda: policy.call("poll", {"now_ms": 0}, Silent()))
            assert part in fault, fault
        policy.close()
        assert good.call("describe", {}, Silent())["enabled"] is True


# What a child does that the policy controls, after the load.
HOSTILE = {
    "never reads": ("import time; time.sleep(600)", "timeout"),
    "never stops": ("input()\nwhile True: print('{\"log\": \"x\"}', flush=True)", "timeout"),
    "one endless line": ("input()\nwhile True: print('x' * 65536, end='')", "a line of over"),
    "not an object": ("print('[]')", "invalid"),
    "a number": ("print(1)", "invalid"),
    "not JSON": ("print('x')", "invalid"),
    "nested too deeply": ("input(); print('[' * 200_000)", "invalid"),
    "an empty object": ("print('{}')", "invalid"),
    "a call without an input": ("print('{\"asks\": \"http_send\"}')", "invalid"),
    "a call with a number as its name": ("print('{\"asks\": 1, \"given\": \"\"}')", "invalid"),
    "a log line that is not text": ("print('{\"log\": 1}')", "invalid"),
    "an output that is not text": ("print('{\"output\": 1}')", "invalid"),
    "an output that is not base64": ("print('{\"output\": \"*\"}')", "invalid"),
    "an output that is not JSON": ("print('{\"output\": \"AAAA\"}')", "invalid"),
}


def check_hostile_children(_wasm):
    """Every action of the child ends its call in time with a fault."""
    with tempfile.TemporaryDirectory() as folder:
        for index, (case, (does, part)) in enumerate(HOSTILE.items()):
            program = pathlib.Path(folder, f"{index}.py")
            program.write_text(f"input(); print('{{\"loaded\": true}}', flush=True)\n{does}\n", encoding="utf-8")
            policy = type("Hostile", (Policy,), {"program": str(program)})(b"", {}, timeout_ms=500)
            # More than the capacity of a pipe.
            fault = fault_of(lambda: policy.call("poll", {"now_ms": 0, "state": "x" * (1 << 20)}, Silent()))
            assert part in fault, f"{case}: {fault}"
            policy.close()


def check_endless_loop(_wasm):
    assert "timeout" in fault_of(lambda: Policy(ENDLESS, {}, timeout_ms=300).call("poll", {"now_ms": 0}, Silent()))


def check_hash(wasm):
    try:
        Policy(wasm, {}, sha256="00")
    except ValueError as error:
        assert "not 00" in str(error)
    else:
        raise AssertionError("a wrong hash was accepted")


def check_departure(wasm, scripts):
    """The replay itself: a script with a difference fails."""
    text = (scripts / "seed-move-commit.json").read_text(encoding="utf-8")
    for old, new in (('"seeded"', '"moved"'), ('"HEAD"', '"GET"'), ("first seen", "never said")):
        try:
            play(wasm, parse_script(text.replace(old, new, 1)))
        except Departure:
            continue
        raise AssertionError(f"{new} in place of {old} was not noticed")


def check_faults(wasm, scripts):
    """Tests faults that scripts cannot cause, on the default policy. Returns the number of tests. A failure raises."""
    checks = [check_invalid_input, check_exception_in_an_effect, check_answer_over_the_memory_limit]
    checks += [check_control_plane, check_refusals, check_docker_hub, check_program, check_engine,
               check_crashes, check_hostile_children, check_trap, check_endless_loop, check_hash,
               lambda wasm: check_departure(wasm, scripts)]
    for check in checks:
        check(wasm)
    return len(checks)


def main(results, *pairs):
    LOG.addHandler(Lines())
    results = pathlib.Path(results)
    results.mkdir(parents=True, exist_ok=True)
    passed = failed = 0
    policies = [(pathlib.Path(wasm), pathlib.Path(scripts)) for wasm, scripts in zip(pairs[::2], pairs[1::2])]
    for file, scripts in policies:
        good, bad = play_all(file.read_bytes(), scripts, results / f"{file.stem}.txt")
        print(f"{file.stem}: {good} scripts passed, {bad} failed")
        passed, failed = passed + good, failed + bad
    for file, scripts in policies:
        if file.stem == "imagewatch":
            passed += check_faults(file.read_bytes(), scripts)
    print(f"{passed} passed, {failed} failed")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
