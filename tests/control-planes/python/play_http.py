"""Tests a complete control plane in Python against an HTTP registry: the policy with `RegistryHttp`, and the requests
that `RegistryHttp` refuses. `play.py` runs it."""

import base64
import contextlib
import hashlib
import http.server
import json
import pathlib
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse

from imagewatch_engine import Engine
from imagewatch_http import RegistryHttp
from imagewatch_policy import Policy, Refused

PAIR = ("robot", "hunter2")
BASIC = "Basic " + base64.b64encode(b"robot:hunter2").decode()
DIGEST, NEWER = ("sha256:" + letter * 64 for letter in "ab")


class Registry(http.server.BaseHTTPRequestHandler):
    """A registry that needs a token and issues it for its credential. Paths below /odd/ give unusual answers."""

    digest = DIGEST
    asked = []

    def log_message(self, *_):
        pass

    def answer(self, status, headers=(), body=b""):
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.wfile.write(body)

    def do_HEAD(self):
        self.asked.append((self.command, self.path))
        if self.headers["authorization"] != "Bearer t0ken":
            realm = f'Bearer realm="http://{self.headers["host"]}/token",service="s",scope="repository:o/a:pull"'
            return self.answer(401, [("WWW-Authenticate", realm)])
        self.answer(200, [("Docker-Content-Digest", self.digest), ("X-Secret", "not wanted")])

    def do_GET(self):
        self.asked.append((self.command, self.path.partition("?")[0]))
        if self.path.startswith("/token"):
            if self.headers["authorization"] != BASIC:
                return self.answer(401)
            return self.answer(200, body=json.dumps({"token": "t0ken", "expires_in": 3600}).encode())
        if self.path == "/odd/redirect":
            return self.answer(307, [("Location", "/odd/large")])
        if self.path == "/odd/large":
            return self.answer(200, body=b"x" * ((64 << 10) + 1))
        if self.path == "/odd/slow":
            time.sleep(2)
        self.answer(200, body=b"abc")


@contextlib.contextmanager
def registry():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Registry)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


class ControlPlane(RegistryHttp):
    """Carries out orders immediately."""

    def __init__(self, *given):
        super().__init__(*given)
        self.orders = []

    def docker_refresh(self, asked):
        self.orders += asked["orders"]
        reports = [{"order": order["order"], "pulled": True, "recreated": ["ws-1"]} for order in asked["orders"]]
        return {"accepted": [], "reports": reports}

    def log(self, _line):
        pass


def check_control_plane(wasm):
    """Seed, no change, move and commit, over real HTTP, with a credential that the policy never sees."""
    with registry() as host:
        plane = ControlPlane([host], {host: PAIR})
        policy, kept, verdicts = Policy(wasm, {"images": f"{host}/o/a:latest"}), {}, []
        for digest in (DIGEST, DIGEST, NEWER, NEWER):
            Registry.digest = digest
            output = policy.call("poll", {"now_ms": int(time.time() * 1000), **kept}, plane)
            assert output["err"] is None and "hunter2" not in json.dumps(output) and BASIC not in json.dumps(output)
            kept = {"state": output["state"], "cache": output["cache"]}
            verdicts.append([outcome["verdict"] for outcome in output["outcomes"]])
        assert verdicts == [["seeded"], ["unchanged"], ["moved", "committed"], ["unchanged"]], verdicts
        assert [order["digest"] for order in plane.orders] == [NEWER], plane.orders
        # The token is requested once, and each later poll sends one HEAD.
        assert [path for method, path in Registry.asked if method == "GET"] == ["/token"], Registry.asked
        assert len(Registry.asked) == 6, Registry.asked


def check_refusals(_wasm):
    with registry() as host:
        plane = RegistryHttp([host, "r.lan"], {host: PAIR, "r.io": PAIR}, deadline_s=0.5)

        def send(path, method="GET", headers=(), **more):
            url = path if "://" in path else f"http://{host}{path}"
            request = {"method": method, "url": url, "headers": headers, "want": [], **more}
            return plane.http_send({"requests": [request]})["responses"][0]

        for what, code in [
            (send("https://evil.io/v2/"), "denied"),
            (send(f"http://user@{host}/odd/x"), "denied"),
            (send("http://r.lan/v2/"), "denied"),
            (send("file:///etc/passwd"), "denied"),
            (send("http://[::1"), "denied"),
            (send("/odd/x", headers=[["accept", "x\r\nhost: evil.io"]]), "denied"),
            (send("/odd/x", method="POST"), "denied"),
            (send("/odd/x", headers=[["authorization", BASIC]]), "denied"),
            (send("/odd/x", headers=[["host", "evil.io"]]), "denied"),
            (send("/odd/x", credential="r.io"), "denied"),
            (send("/odd/x", credential="other.io"), "no_credential"),
            (send("/odd/x", credential=host), "denied"),
            (send("/v2/o/a/blobs/uploads", credential=host), "denied"),
            (send("/token?service=s&scope=repository:o/a:pull,push", credential=host), "denied"),
            (send("/token?scope=repository:o/a:pull&redirect=x", credential=host), "denied"),
            (send("/odd/large"), "too_large"),
            (send("/odd/slow"), "timeout"),
        ]:
            assert what.get("err", {}).get("code") == code, (what, code)
            assert "hunter2" not in json.dumps(what), what
        for path in ["/v2/", "/v2/o/a/tags/list", "/token?service=s&scope=repository:o/a:pull+repository:o/b:pull"]:
            assert send(path, credential=host)["ok"]["authenticated"], path
        redirect = send("/odd/redirect", read="digest")["ok"]
        assert redirect["status"] == 307 and "body_digest" not in redirect, redirect
        assert len(send("/odd/large", read="document")["ok"]["body"]) == (64 << 10) + 1
        digest = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        assert send("/odd/x", read="digest", credential="other.io", or_anonymous=True)["ok"] == {
            "status": 200, "headers": [], "authenticated": False, "body": "", "body_digest": digest,
        }
        head = plane.send({"method": "HEAD", "url": f"http://{host}/v2/", "headers": [["authorization", "Bearer t0ken"]],
                           "want": ["docker-content-digest"]})
        assert [name for name, _ in head["headers"]] == ["docker-content-digest"], head
    closed = RegistryHttp([host])
    gone = closed.http_send({"requests": [{"method": "GET", "url": f"http://{host}/", "headers": [], "want": []}]})
    assert gone["responses"][0]["err"]["code"] == "connect", gone


def check_docker_hub(_wasm):
    """One login works for the lookup at `registry-1.docker.io`, the token server, and the pull of `docker.io`."""

    class Pulls(Engine):
        def text(self, _method, path, headers, *_):
            self.pulled = path, json.loads(base64.urlsafe_b64decode(headers["X-Registry-Auth"]))
            return ""

    for name in ("docker.io", "registry-1.docker.io", "index.docker.io"):
        plane = RegistryHttp(["docker.io"], {name: PAIR})
        for url in ("https://registry-1.docker.io/v2/", "https://auth.docker.io/token?scope=repository:o/a:pull&service=s"):
            for credential in ("docker.io", "registry-1.docker.io"):
                request = {"method": "GET", "url": url, "headers": [], "credential": credential}
                headers, is_authenticated = plane.check(request, urllib.parse.urlsplit(url))
                assert headers["authorization"] == BASIC and is_authenticated, (name, url, credential)
        engine = Pulls(["*"], [], credentials={name: PAIR})
        engine.pull("docker.io/o/a:latest", None)
        assert engine.pulled[1] == {"username": "robot", "password": "hunter2"}, (name, engine.pulled)
    for hosts, url in [(["ghcr.io"], "https://auth.docker.io/token"), (["docker.io"], "https://evil.docker.io/v2/")]:
        try:
            RegistryHttp(hosts, {"docker.io": PAIR}).check(
                {"method": "GET", "url": url, "headers": [], "credential": "docker.io"}, urllib.parse.urlsplit(url))
        except Refused:
            continue
        raise AssertionError(f"{url} was not refused")


def check_program(wasm):
    """`control_plane.py` in its own process: it seeds, stores its state, and logs the verdict."""
    here = pathlib.Path(__file__).parent
    with registry() as host, tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        (folder / "policy.wasm").write_bytes(wasm)
        settings = {"policy": f"{folder}/policy.wasm", "sha256": hashlib.sha256(wasm).hexdigest(), "images": [f"{host}/o/a"],
                    "state": f"{folder}/state.json", "hosts": [host], "containers": ["ws-*"], "socket": f"{folder}/none",
                    "credentials": {host: PAIR}}
        (folder / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
        command = [sys.executable, "-B", here / "control_plane.py", folder / "settings.json"]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            said = []
            for line in process.stderr:
                said.append(line)
                if "seeded" in line or "Error" in line:
                    break
            process.kill()
        Registry.asked.clear()
        assert "seeded" in said[-1], said
        assert Registry.digest in (folder / "state.json").read_text(encoding="utf-8")
