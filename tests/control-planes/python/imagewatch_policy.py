"""Runs an imagewatch policy in a Python control plane. Copy this file; it needs only the package `extism`.

The policy decides. This file only passes its calls to the host. The `effects` that a control plane gives to each call
define what the policy can reach. The JSON Schemas in `plugin/abi/schema` define all data. `play.py` tests this file.

The policy runs in a child process. A hostile policy can crash its process, because Extism reads the policy's memory at
addresses that the policy chooses. The child runs this file with an empty environment and with no open files except two
pipes. The `effects` stay in the parent.
"""

import base64
import hashlib
import json
import logging
import os
import select
import subprocess
import sys
import threading
import time

import extism
from extism.extism import CompiledPlugin  # extism 1.1 does not export this class

LOG = logging.getLogger("imagewatch")

# The limit for one line of the child. Outputs of policies are much shorter. The limit keeps a hostile child from
# filling the parent's memory.
MAX_LINE_BYTES = 16 << 20


class Refused(Exception):
    """An effect raises this if it cannot carry out a call. The policy reads the failure as data and continues."""

    def __init__(self, code, message, retryable=False):
        super().__init__(message)
        self.failure = {"code": code, "message": message, "retryable": retryable}


class PolicyFault(Exception):
    """The policy trapped, exceeded a limit, or returned invalid output. Its state is the one from before the call."""


# The parent's side. Each effect takes JSON and returns {"ok": ...} or {"err": {"code", "message", "retryable"}}. No
# exception leaves these functions, because the policy would get no answer.
EFFECTS = ("http_send", "docker_containers", "docker_refresh")


def answer(effects, name, given):
    try:
        if name not in EFFECTS:
            raise Refused("denied", f"a policy has no function {name}")
        return {"ok": getattr(effects, name)(json.loads(given))}
    except Refused as refused:
        return {"err": refused.failure}
    except Exception as error:
        LOG.exception("the host's %s failed", name)  # the text can contain a secret, so the policy gets only the type
        message = f"the host's {name} failed with {type(error).__name__}; its log says more"
        return {"err": {"code": "other", "message": message, "retryable": True}}


def log(effects, line):
    try:
        effects.log(json.loads(line))
    except Exception:
        LOG.exception("failed to log a line of the policy")


class Policy:
    """A policy that is compiled once, in a child process. Every call gets a fresh instance. The caller passes the
    state in and gets the new state back. A child that crashes, exceeds the timeout or sends an invalid message is
    killed. Its call raises `PolicyFault`, and the next call starts a new child.
    """

    program = __file__  # the program of the child

    def __init__(self, wasm, config, sha256=None, memory_pages=1024, timeout_ms=120_000):
        """`config` is the manifest's map of strings. `timeout_ms` limits the load and each call with its effects."""
        found = hashlib.sha256(wasm).hexdigest()
        if sha256 is not None and sha256 != found:
            raise ValueError(f"the policy's sha256 is {found}, not {sha256}")
        self.manifest = {
            "wasm": [{"data": base64.b64encode(wasm).decode()}],
            "config": config,
            "allowed_hosts": [],  # for Extism's own HTTP, which policies do not import
            "memory": {"max_pages": memory_pages},
            "timeout_ms": timeout_ms,
        }
        self.timeout_s = timeout_ms / 1000
        self.lock = threading.Lock()
        self.child = None
        with self.lock:
            self.start()  # now, so that a module with an unknown import is refused here and not in its first call

    def call(self, export, given, effects):
        """Calls `describe`, `poll`, `settle` or `refresh`. Any thread may call this. Raises `PolicyFault`."""
        text = self.call_text(export, json.dumps(given), effects)
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as error:
            raise PolicyFault(f"{export} returned invalid output: {error}") from error

    def call_text(self, export, given, effects):
        """The same call with the input as text and the output as bytes."""
        with self.lock:
            if self.child is None:
                self.start()
            # The child ends most late calls itself and stays alive. The parent waits one second longer.
            until = time.monotonic() + self.timeout_s + 1
            is_over = False
            try:
                said = self.converse(export, given, effects, until)
                is_over = True
            finally:
                if not is_over:
                    self.end()  # in the middle of a call, the next message of the child is unknown
        if "fault" in said:
            raise PolicyFault(f"{export}: {said['fault']}")
        return said["output"]

    def converse(self, export, given, effects, until):
        """Runs one call until the child sends its result: `output` or `fault`."""
        self.tell({"export": export, "input": given}, until, export)
        while True:
            said = self.hear(until, export)
            if isinstance(said.get("log"), str):
                log(effects, said["log"])
            elif isinstance(said.get("asks"), str) and isinstance(said.get("given"), str):
                self.tell(answer(effects, said["asks"], said["given"]), until, export)
            elif isinstance(said.get("fault"), str):
                return said
            elif isinstance(said.get("output"), str):
                try:
                    return {"output": base64.b64decode(said["output"], validate=True)}
                except ValueError as error:
                    raise PolicyFault(f"{export}: the process sent an invalid message: {error}") from error
            else:
                raise PolicyFault(f"{export}: the process sent an invalid message: unknown kind")

    def close(self):
        """Ends the child. The child also ends with this process."""
        with self.lock:
            self.end()

    def start(self):
        command = [sys.executable, "-I", "-B", self.program]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        self.child = subprocess.Popen(command, env={}, cwd="/", close_fds=True, bufsize=0, **pipes)
        self.heard = bytearray()
        for pipe in (self.child.stdin, self.child.stdout):
            os.set_blocking(pipe.fileno(), False)  # a child that neither reads nor writes must not block the parent
        until = time.monotonic() + self.timeout_s + 30
        self.tell(self.manifest, until, "loading")
        said = self.hear(until, "loading")
        if said.get("loaded") is not True:
            self.end()
            raise PolicyFault(f"the policy cannot be loaded: {said.get('fault', 'invalid message of its process')}")

    def tell(self, said, until, doing):
        """Writes a line to the child. A child that does not read it in time is killed."""
        rest = memoryview(json.dumps(said).encode() + b"\n")
        while rest:
            self.wait(self.child.stdin, select.POLLOUT, until, doing)
            try:
                rest = rest[os.write(self.child.stdin.fileno(), rest):]
            except BlockingIOError:
                continue
            except OSError:
                return  # the child crashed; `hear` reports it

    def hear(self, until, doing):
        """Returns the next message of the child. A late or broken child is killed."""
        searched = 0
        while (end := self.heard.find(b"\n", searched)) < 0:
            searched = len(self.heard)
            if searched > MAX_LINE_BYTES:
                self.end()
                raise PolicyFault(f"{doing}: the process of the policy sent a line of over {MAX_LINE_BYTES} bytes")
            self.wait(self.child.stdout, select.POLLIN, until, doing)
            try:
                read = os.read(self.child.stdout.fileno(), 1 << 16)
            except BlockingIOError:
                continue
            if not read:
                code = self.end()
                raise PolicyFault(f"{doing}: the process of the policy crashed ({code})")
            self.heard += read
        # Checked even if the line has arrived: a child that writes without end would otherwise never be late.
        self.check_time(until, doing)
        line, self.heard = bytes(self.heard[:end]), self.heard[end + 1 :]
        try:
            said = json.loads(line)
        except (ValueError, RecursionError):
            said = None
        if not isinstance(said, dict):
            self.end()
            raise PolicyFault(f"{doing}: the process sent an invalid message: not a JSON object")
        return said

    def wait(self, pipe, event, until, doing):
        """Waits until `pipe` can be read or written, or is broken."""
        poll = select.poll()
        poll.register(pipe, event)
        while not poll.poll(max(0, until - time.monotonic()) * 1000):
            self.check_time(until, doing)
        self.check_time(until, doing)

    def check_time(self, until, doing):
        if time.monotonic() >= until:
            self.end()
            raise PolicyFault(f"{doing}: timeout: not complete in {self.timeout_s:g} s")

    def end(self):
        child, self.child = self.child, None
        if child is None:
            return None
        child.kill()
        for pipe in (child.stdin, child.stdout):
            pipe.close()  # discards unread data
        return child.wait()


# The child's side: the SDK, and host functions that call the parent.


def ask(plugin, inputs, outputs, name):
    data = exchange({"asks": name, "given": plugin.input_string(inputs[0])})
    memory = plugin.alloc(len(data))
    if memory.offset == 0:
        return  # the policy reads an empty answer as a failure
    plugin.memory(memory)[:] = data
    outputs[0].value = memory.offset


def http_send(plugin, inputs, outputs, *_):
    ask(plugin, inputs, outputs, "http_send")


def docker_containers(plugin, inputs, outputs, *_):
    ask(plugin, inputs, outputs, "docker_containers")


def docker_refresh(plugin, inputs, outputs, *_):
    ask(plugin, inputs, outputs, "docker_refresh")


def host_log(plugin, inputs, _outputs, *_):
    say({"log": plugin.input_string(inputs[0])})


ASKS, TELLS = ([extism.ValType.PTR], [extism.ValType.PTR]), ([extism.ValType.PTR], [])
HOST_FUNCTIONS = [
    *(extism.host_fn(signature=ASKS)(function) for function in (http_send, docker_containers, docker_refresh)),
    extism.host_fn(signature=TELLS)(host_log),
]


def say(said):
    sys.stdout.buffer.write(json.dumps(said).encode() + b"\n")
    sys.stdout.buffer.flush()


def exchange(said):
    say(said)
    return sys.stdin.buffer.readline().rstrip(b"\n")


def serve():
    manifest = json.loads(sys.stdin.buffer.readline())
    manifest["wasm"] = [{"data": base64.b64decode(manifest["wasm"][0]["data"])}]
    try:
        compiled = CompiledPlugin(manifest, wasi=True, functions=HOST_FUNCTIONS)
        with extism.Plugin(compiled):
            pass  # checks the imports
    except extism.Error as error:
        return say({"fault": str(error)})
    say({"loaded": True})
    for line in sys.stdin.buffer:
        asked = json.loads(line)
        try:
            with extism.Plugin(compiled) as instance:
                output = instance.call(asked["export"], asked["input"])
            say({"output": base64.b64encode(bytes(output)).decode()})
        except (extism.Error, OverflowError) as error:  # an invalid length
            say({"fault": str(error)})
    return None


if __name__ == "__main__":
    serve()
