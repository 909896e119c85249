"""A complete control plane in Python. It polls and carries out the policy's orders until it is stopped.

    python control_plane.py SETTINGS.json

SETTINGS.json contains:

- `policy`: the wasm file.
- `sha256`: the hash of the wasm file.
- `images`: the images to watch.
- `state`: the file for the state.
- `hosts`: the registries.
- `containers`: patterns for the names of containers that may be removed.
- `socket`: the socket of the engine.
- `credentials`: by registry, such as `{"docker.io": ["user", "password"]}`.

`play.py` tests this file.
"""

import json
import logging
import pathlib
import sys
import time

from imagewatch_engine import Engine, full
from imagewatch_http import RegistryHttp
from imagewatch_policy import Policy, PolicyFault

LOG = logging.getLogger("control-plane")


class Effects:
    """What the policy may do. Lookups and pulls use the same credentials."""

    def __init__(self, settings):
        credentials = {registry: tuple(pair) for registry, pair in settings["credentials"].items()}
        images = [full(image) for image in settings["images"]]
        engine = Engine(images, settings["containers"], settings["socket"], credentials)
        self.http_send = RegistryHttp(settings["hosts"], credentials).http_send
        self.docker_containers, self.docker_refresh = engine.docker_containers, engine.docker_refresh

    def log(self, line):
        LOG.info("%(level)s %(message)s", line)


def keep(file, output):
    """Stores the state. After a crash, the file has either the old state or the new one."""
    kept = {key: output[key] for key in ("state", "quarantine") if key in output}
    fresh = file.with_suffix(".new")
    fresh.write_text(json.dumps(kept), encoding="utf-8")
    fresh.replace(file)


def main(settings_file):
    logging.basicConfig(level=logging.INFO)
    settings = json.loads(pathlib.Path(settings_file).read_text(encoding="utf-8"))
    wasm, file = pathlib.Path(settings["policy"]).read_bytes(), pathlib.Path(settings["state"])
    config = {"images": " ".join(settings["images"]), "strategy": "remove"}
    policy, effects = Policy(wasm, config, settings["sha256"]), Effects(settings)
    kept = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    while True:
        wait_ms = 60_000
        try:
            output = policy.call("poll", {"now_ms": int(time.time() * 1000), **kept}, effects)
            keep(file, output)
            # The cache contains tokens, so it stays in memory.
            kept = {**kept, **{key: output[key] for key in ("state", "cache", "quarantine") if key in output}}
            wait_ms = output["next_poll_ms"]
            for outcome in output["outcomes"]:
                LOG.info("%s: %s %s", outcome["target"], outcome["verdict"], outcome["reason"] or "")
        except PolicyFault as fault:
            LOG.error("the state is unchanged: %s", fault)
        time.sleep(wait_ms / 1000)


if __name__ == "__main__":
    main(*sys.argv[1:])
