"""`docker_containers` and `docker_refresh` for a Python control plane that provisions containers itself. An order pulls
the image and removes the containers on the old image (strategy `remove`).

It uses the engine's socket and the standard library. Copy it next to `imagewatch_policy.py` and `imagewatch_http.py`.
It enforces the grants: a container that is not allowed is neither shown nor touched. `play.py` tests this file.
"""

import base64
import fnmatch
import http.client
import json
import socket
import urllib.parse

from imagewatch_http import by_registry
from imagewatch_policy import Refused


class Engine:
    def __init__(self, images, containers, socket_path="/var/run/docker.sock", credentials=None, pull_timeout_s=300.0):
        """`images` are patterns for full references (`docker.io/library/nginx:*`). `containers` are patterns for names.
        `credentials` has (user, password) by registry. The timeout applies to a pull that sends no data."""
        self.images, self.names, self.socket_path = images, containers, socket_path
        self.credentials, self.pull_timeout_s = by_registry(credentials), pull_timeout_s

    def docker_containers(self, selector):
        return {"containers": sorted(self.find(selector), key=lambda container: container["name"])}

    def docker_refresh(self, asked):
        """Carries out all orders immediately. The policy settles the reports in the same call."""
        return {"accepted": [], "reports": [self.report(order) for order in asked["orders"]]}

    def report(self, order):
        report = {key: order[key] for key in ("order", "target", "reference")}
        try:
            return {**report, "pulled": True, **self.carry_out(order)}
        except Refused as refused:
            return {**report, "pulled": False, "err": refused.failure}

    def carry_out(self, order):
        reference = full(order["reference"])
        if not any(fnmatch.fnmatchcase(reference, pattern) for pattern in self.images):
            raise Refused("denied", f"image {reference} is not allowed")
        is_removal = order["recreate"] and order["strategy"] != "pull-only"
        if is_removal and order["strategy"] != "remove":
            raise Refused("denied", "this host removes containers and provisions them again: set strategy to remove")
        self.pull(reference, order.get("platform"))
        image = self.ask("GET", f"/images/{reference}/json")
        found = [known.partition("@")[2] for known in image.get("RepoDigests") or []]
        if order.get("digest") not in (None, *found):
            raise Refused("pull_failed", f"{reference} is now {' '.join(found)}, not {order['digest']}", True)
        done = {"digest": order.get("digest"), "recreated": [], "failed": []}
        followed = {reference, full(order.get("from") or reference)}
        for container in self.find(order.get("containers", {})) if is_removal else []:
            is_up_to_date = order.get("only_outdated", True) and container["image_id"] == image["Id"]
            if full(container["image"]) in followed and not is_up_to_date:
                try:
                    self.ask("DELETE", f"/containers/{container['id']}?force=true")
                    done["recreated"].append(container["name"])
                except Refused as refused:
                    done["failed"].append({"container": container["name"], "reason": str(refused)})
        return done

    def find(self, selector):
        wanted = {key: value for key, value in selector.items() if value is not None}
        key, _, value = wanted.get("label", "").partition("=")
        for listed in self.ask("GET", "/containers/json?all=true"):
            name = listed["Names"][0].removeprefix("/") if listed.get("Names") else ""
            labels = listed.get("Labels") or {}
            is_wanted = name == wanted.get("name", name) and wanted.get("name_contains", "") in name
            is_wanted = is_wanted and name not in wanted.get("except", [])
            is_wanted = is_wanted and (not key or labels.get(key) == value)
            if is_wanted and any(fnmatch.fnmatchcase(name, pattern) for pattern in self.names):
                # The settings keep the reference of the creation. The list shows an id after the tag has moved.
                created = self.ask("GET", f"/containers/{listed['Id']}/json", gone={})
                image = self.ask("GET", f"/images/{listed['ImageID']}/json", gone={})
                if created:
                    yield {
                        "id": listed["Id"], "name": name, "image": created["Config"]["Image"],
                        "image_id": listed["ImageID"], "repo_digests": image.get("RepoDigests") or [],
                        "labels": labels, "state": listed["State"],
                        # The containerd image store gives a digest to every image, even if it was built on the machine.
                        **({"origin": "unknown"} if image.get("Descriptor") else {}),
                    }

    def pull(self, reference, platform):
        name, _, tag = reference.rpartition(":")
        query = urllib.parse.urlencode({"fromImage": name, "tag": tag, **({"platform": platform} if platform else {})})
        pair = self.credentials.get(name.partition("/")[0])
        login = {"username": pair[0], "password": pair[1]} if pair else {}
        headers = {"X-Registry-Auth": base64.urlsafe_b64encode(json.dumps(login).encode()).decode()}
        for line in self.text("POST", f"/images/create?{query}", headers, self.pull_timeout_s).splitlines():
            if problem := json.loads(line).get("error"):  # the status was sent before the error
                raise Refused("pull_failed", problem, True)

    def ask(self, method, path, gone=None):
        text = self.text(method, path, {}, 30.0, gone is not None)
        return gone if text is None else json.loads(text or "null")

    def text(self, method, path, headers, timeout_s, may_be_gone=False):
        connection = SocketConnection(self.socket_path, timeout_s)
        try:
            connection.request(method, path, headers=headers)
            response = connection.getresponse()
            text = response.read().decode()
        except (OSError, http.client.HTTPException) as error:
            raise Refused("engine_unavailable", f"the engine does not answer: {type(error).__name__}", True) from error
        finally:
            connection.close()
        if response.status == 404 and may_be_gone:
            return None
        if response.status >= 400:
            code = "pull_failed" if path.startswith("/images/create") else "other"
            raise Refused(code, f"the engine refused: {json.loads(text).get('message')}", response.status >= 500)
        return text


class SocketConnection(http.client.HTTPConnection):
    def __init__(self, path, timeout_s):
        super().__init__("engine", timeout=timeout_s)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


def full(reference):
    """The full reference, as in policies: `docker.io/library/nginx:latest` for `nginx`."""
    first, slash, rest = reference.partition("/")
    if not slash or not ("." in first or ":" in first or first == "localhost"):
        reference = f"docker.io/{'' if slash else 'library/'}{reference}"
    return reference if ":" in reference.rpartition("/")[2] else f"{reference}:latest"
