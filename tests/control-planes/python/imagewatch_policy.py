"""An imagewatch policy inside a Python control plane. To be copied: it needs nothing but the package `extism`.

The policy decides; this file lets it ask, and nothing more. What it may reach, and how, is in the `effects` that a
control plane hands to each call. Shapes: the JSON Schemas in `plugin/abi/schema`. Tested by `play.py`.
"""

import hashlib
import json
import logging

import extism
from extism.extism import CompiledPlugin  # extism 1.1 has it and does not export it

LOG = logging.getLogger("imagewatch")


class Refused(Exception):
    """What an effect raises when it cannot do what was asked: the policy reads it as data and goes on."""

    def __init__(self, code, message, retryable=False):
        super().__init__(message)
        self.failure = {"code": code, "message": message, "retryable": retryable}


class PolicyFault(Exception):
    """The policy trapped, ran out of a limit, or returned nonsense. Its state is the one from before the call."""


# The host functions. Each takes JSON and answers {"ok": ...} or {"err": {"code", "message", "retryable"}}. None of
# them raises: an exception would leave the policy without an answer. `effects` are those of the call under way.


def http_send(plugin, inputs, outputs, *_):
    answer(plugin, inputs, outputs, "http_send")


def docker_containers(plugin, inputs, outputs, *_):
    answer(plugin, inputs, outputs, "docker_containers")


def docker_refresh(plugin, inputs, outputs, *_):
    answer(plugin, inputs, outputs, "docker_refresh")


def host_log(plugin, inputs, _outputs, *_):
    try:
        plugin.host_context().log(json.loads(plugin.input_string(inputs[0])))
    except Exception:
        LOG.exception("a line of the policy could not be logged")


def answer(plugin, inputs, outputs, name):
    try:
        asked = json.loads(plugin.input_string(inputs[0]))
        said = {"ok": getattr(plugin.host_context(), name)(asked)}
    except Refused as refused:
        said = {"err": refused.failure}
    except Exception as error:
        LOG.exception("the host's %s failed", name)  # its text may hold a secret, so the policy gets the kind only
        message = f"the host's {name} failed with {type(error).__name__}; its log says more"
        said = {"err": {"code": "other", "message": message, "retryable": True}}
    data = json.dumps(said).encode()
    memory = plugin.alloc(len(data))
    if memory.offset == 0:
        LOG.error("%d bytes from %s do not fit into the policy's memory", len(data), name)
        return  # the policy reads an empty answer, which is a failure
    plugin.memory(memory)[:] = data
    outputs[0].value = memory.offset


ASKS, TELLS = ([extism.ValType.PTR], [extism.ValType.PTR]), ([extism.ValType.PTR], [])
# Registered once: the SDK keeps every function that it is ever given.
HOST_FUNCTIONS = [
    *(extism.host_fn(signature=ASKS)(function) for function in (http_send, docker_containers, docker_refresh)),
    extism.host_fn(signature=TELLS)(host_log),
]


class Policy:
    """A policy compiled once. Every call gets a fresh instance of it, and state goes in and out by value."""

    def __init__(self, wasm, config, sha256=None, memory_pages=1024, timeout_ms=120_000):
        """`config` is the manifest's map of strings. `timeout_ms` bounds a call, its host functions included."""
        found = hashlib.sha256(wasm).hexdigest()
        if sha256 is not None and sha256 != found:
            raise ValueError(f"the policy's sha256 is {found}, not {sha256}")
        manifest = {
            "wasm": [{"data": wasm}],
            "config": config,
            "allowed_hosts": [],  # of Extism's own HTTP, which policies do not import
            "memory": {"max_pages": memory_pages},
            "timeout_ms": timeout_ms,
        }
        try:
            self.compiled = CompiledPlugin(manifest, wasi=True, functions=HOST_FUNCTIONS)
            with extism.Plugin(self.compiled):
                pass  # once here, so that a module with a foreign import is refused now and not by its first call
        except extism.Error as error:
            raise PolicyFault(f"it cannot be loaded: {error}") from error

    def call(self, export, given, effects):
        """Calls `describe`, `poll`, `settle` or `refresh`, from any thread. Raises `PolicyFault`."""
        text = self.call_text(export, json.dumps(given), effects)
        try:
            return json.loads(text)
        except ValueError as error:
            raise PolicyFault(f"{export} returned nonsense: {error}") from error

    def call_text(self, export, given, effects):
        """The same over the bytes themselves."""
        try:
            with extism.Plugin(self.compiled) as instance:
                return instance.call(export, given, host_context=effects)
        except extism.Error as error:
            raise PolicyFault(f"{export}: {error}") from error
