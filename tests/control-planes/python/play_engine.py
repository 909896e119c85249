"""Tests the policy with `Engine` against a small engine that answers like Docker on a socket. `play.py` runs it."""

import base64
import contextlib
import http.server
import json
import socketserver
import tempfile
import threading
import urllib.parse

from imagewatch_engine import Engine, full
from imagewatch_policy import Policy

OLD, NEW, OTHER = ("sha256:" + letter * 64 for letter in "abc")
IMAGE = "r.io/o/template-codex"
CONFIG = {"names": "codex", "prefix": "r.io/o", "template": "{prefix}/template-{name}:latest", "strategy": "remove"}


def container(name, image_id, image=f"{IMAGE}:latest", **labels):
    return {"Id": name * 8, "Names": [f"/{name}"], "ImageID": image_id, "State": "running", "Labels": labels, "image": image}


class Docker(http.server.BaseHTTPRequestHandler):
    """A small engine. `remote` is the digest of the tag. The id of an image is its digest."""

    def setup(self):
        super().setup()
        self.client_address = ("socket", 0)

    def log_message(self, *_):
        pass

    def answer(self, status, document):
        body = document if isinstance(document, bytes) else json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if body:
            self.wfile.write(body)

    def do_GET(self):
        world, path = self.server.world, urllib.parse.urlsplit(self.path).path
        if path == "/containers/json":
            return self.answer(200, world["containers"])
        for known in world["containers"]:
            if path == f"/containers/{known['Id']}/json":
                return self.answer(200, {"Config": {"Image": known["image"]}})
        image = world["pulled"] if path == f"/images/{IMAGE}:latest/json" else path.split("/")[2]
        if path.startswith("/images/") and image in (OLD, NEW):
            return self.answer(200, {"Id": image, "RepoDigests": [f"{IMAGE}@{image}"]})
        self.answer(404, {"message": "no such thing"})

    def do_POST(self):
        world, query = self.server.world, urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query)
        world["asked"].append((query["fromImage"], query["tag"], self.headers["X-Registry-Auth"]))
        if world["remote"] is None:
            return self.answer(200, b'{"status":"Pulling"}\n{"error":"no space left on device"}\n')
        world["pulled"] = world["remote"]
        self.answer(200, b'{"status":"Pulling"}\n{"status":"done"}\n')

    def do_DELETE(self):
        world, wanted = self.server.world, urllib.parse.urlsplit(self.path)
        assert wanted.query == "force=true"
        stays = [known for known in world["containers"] if wanted.path != f"/containers/{known['Id']}"]
        if stays == world["containers"] or "stuck" in wanted.path:
            return self.answer(409, {"message": "removal is in progress"})
        world["containers"] = stays
        self.answer(204, b"")


@contextlib.contextmanager
def docker(world):
    class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
        daemon_threads = True

    with tempfile.TemporaryDirectory() as folder, Server(f"{folder}/docker.sock", Docker) as server:
        server.world = world
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"{folder}/docker.sock"
        server.shutdown()


class ControlPlane(Engine):
    """The registry answers with the tag of `world`."""

    world = {}

    def http_send(self, asked):
        answer = {"status": 200, "headers": [["docker-content-digest", self.world["tag"]]], "body": ""}
        return {"responses": [{"ok": answer} for _ in asked["requests"]]}

    def log(self, _line):
        pass


def check_engine(wasm):
    world = {"asked": [], "pulled": OLD, "remote": None, "tag": OLD, "containers": [
        container("ws-1", OLD), container("db", OLD), container("ws-new", NEW), container("ws-stuck", OLD),
        container("ws-other", OLD, "r.io/o/template-x:latest"), container("ws-gone", OTHER, imagewatch="yes"),
    ]}
    with docker(world) as path:
        plane = ControlPlane(["r.io/o/*"], ["ws-*"], path, {"r.io": ("robot", "hunter2")})
        plane.world = world
        shown = plane.docker_containers({"name_contains": "w", "label": None})["containers"]
        names = ["ws-1", "ws-gone", "ws-new", "ws-other", "ws-stuck"]
        assert [known["name"] for known in shown] == names, shown  # db is not allowed
        assert shown[0]["repo_digests"] == [f"{IMAGE}@{OLD}"] and shown[1]["repo_digests"] == [], shown
        assert [known["name"] for known in plane.docker_containers({"label": "imagewatch=yes"})["containers"]] == ["ws-gone"]

        policy, kept = Policy(wasm, CONFIG), {}

        def poll(now_ms):
            output = policy.call("poll", {"now_ms": now_ms, **kept}, plane)
            assert "hunter2" not in json.dumps(output), output
            kept.update({key: output[key] for key in ("state", "cache", "quarantine") if key in output})
            return [(outcome["verdict"], outcome["reason"] or "") for outcome in output["outcomes"]]

        assert [verdict for verdict, _ in poll(0)] == ["seeded"]
        world["tag"] = NEW
        (_, (verdict, reason)) = poll(1)  # the disk is full
        assert (verdict, reason) == ("rolled_back", "no space left on device"), reason
        world["remote"] = OLD
        (_, (verdict, reason)) = poll(10_000_000)  # the tag has moved before the pull
        assert verdict == "rolled_back" and f"is now {OLD}, not {NEW}" in reason, reason
        world["remote"] = NEW
        (_, (verdict, reason)) = poll(100_000_000)
        # The origin of the image of ws-gone is unknown.
        assert verdict == "committed" and "recreated ws-1" in reason and "ws-gone" not in reason, (verdict, reason)
        assert "failed ws-stuck: the engine refused: removal is in progress" in reason, reason
        left = [known["Names"][0] for known in world["containers"]]
        assert left == ["/db", "/ws-new", "/ws-stuck", "/ws-other", "/ws-gone"], left
        login = json.loads(base64.urlsafe_b64decode(world["asked"][0][2]))
        assert login == {"username": "robot", "password": "hunter2"}, login
        assert [asked[:2] for asked in world["asked"]] == [([IMAGE], ["latest"])] * 3, world["asked"]

        order = {"order": "1", "target": "t", "reference": f"{IMAGE}:latest", "recreate": True, "strategy": "replace"}
        for strange, part in [(order, "set strategy"), ({**order, "reference": "nginx"}, "library/nginx:latest is not allowed")]:
            [report] = plane.docker_refresh({"orders": [strange]})["reports"]
            assert report["err"]["code"] == "denied" and part in report["err"]["message"], report
    away = plane.docker_refresh({"orders": [{**order, "strategy": "remove"}]})
    assert away["reports"][0]["err"]["code"] == "engine_unavailable", away
    for short, long in [("nginx", "docker.io/library/nginx:latest"), ("me/app:1", "docker.io/me/app:1"),
                        ("127.0.0.1:5000/a", "127.0.0.1:5000/a:latest"), ("localhost/a:2", "localhost/a:2")]:
        assert full(short) == long, full(short)
