"""`http_send` for a Python control plane, with the standard library. Copy it next to `imagewatch_policy.py`.

Only this file has credentials, so it also has the rules that protect them: which hosts get requests, which host gets
which credential, and how long an answer may be. `play.py` tests this file.

It does not send POST, which registries with identity tokens (Azure) need. It does not follow redirects. It does not
check the addresses of the allowed hosts.
"""

import base64
import concurrent.futures
import hashlib
import http.client
import ipaddress
import re
import ssl
import time
import urllib.parse

from imagewatch_policy import Refused

MOST_BYTES = {"text": 64 << 10, "document": 4 << 20, "digest": 4 << 20}
HEADERS = {"accept", "authorization"}
READ_PATH = re.compile(r"/v2/(.+/(manifests/[^/]+|tags/list))?")
TOKEN_FIELDS = {"account", "client_id", "scope", "service"}
# References name Docker Hub `docker.io`. The registry answers at other hosts, and its token server is on another host.
HUB, HUB_HOSTS, HUB_REALM = "docker.io", {"registry-1.docker.io", "index.docker.io"}, "auth.docker.io"


def registry_of(host):
    """The registry of a host, as in references."""
    return HUB if host in HUB_HOSTS else host


def by_registry(credentials):
    """(user, password) by registry. All names of Docker Hub are the same registry."""
    return {registry_of(registry): pair for registry, pair in (credentials or {}).items()}


class RegistryHttp:
    def __init__(self, allowed_hosts, credentials=None, realms=None, deadline_s=10.0, parallel=16):
        """Hosts are `ghcr.io`, `registry.lan:5000`, or `docker.io` for Docker Hub. `credentials` has (user, password)
        by registry. `realms` has the host of a registry's token server, if it is another host. That host is allowed too
        and may get the registry's credential. Docker Hub's token server is known."""
        self.credentials, self.realms = by_registry(credentials), {HUB: HUB_REALM, **(realms or {})}
        allowed = {registry_of(host) for host in allowed_hosts}
        self.allowed = {*allowed_hosts, *(realm for registry, realm in self.realms.items() if registry in allowed)}
        if HUB in allowed:
            self.allowed |= HUB_HOSTS
        self.deadline_s, self.parallel = deadline_s, parallel

    def http_send(self, batch):
        with concurrent.futures.ThreadPoolExecutor(self.parallel) as pool:
            return {"responses": list(pool.map(self.answer, batch["requests"]))}

    def answer(self, request):
        try:
            return {"ok": self.send(request)}
        except Refused as refused:
            return {"err": refused.failure}
        except ValueError:  # an invalid URL, or a line break in a header
            return {"err": {"code": "denied", "message": "the request is malformed", "retryable": False}}

    def send(self, request):
        url = urllib.parse.urlsplit(request["url"])
        headers, is_authenticated = self.check(request, url)
        kind = http.client.HTTPConnection if url.scheme == "http" else http.client.HTTPSConnection
        path = urllib.parse.urlunsplit(("", "", url.path or "/", url.query, ""))
        until = time.monotonic() + self.deadline_s
        connection = kind(url.netloc, timeout=self.deadline_s)
        try:
            connection.request(request["method"], path, headers=headers)
            response = connection.getresponse()  # a redirect is a normal answer
            read = request.get("read", "text")
            body = read_body(response, MOST_BYTES[read], until)
        except TimeoutError as error:
            raise Refused("timeout", f"{url.netloc} did not answer in {self.deadline_s:g} s", True) from error
        except ssl.SSLError as error:
            raise Refused("tls", f"TLS with {url.netloc}: {error.reason}") from error
        except OSError as error:
            raise Refused("connect", f"{url.netloc} cannot be reached: {type(error).__name__}", True) from error
        except http.client.HTTPException as error:
            raise Refused("bad_answer", f"{url.netloc} did not answer HTTP: {type(error).__name__}", True) from error
        finally:
            connection.close()
        wanted = [[name.lower(), value] for name, value in response.getheaders() if name.lower() in request["want"]]
        said = {"status": response.status, "headers": wanted, "authenticated": is_authenticated, "body": ""}
        if read == "digest" and 200 <= response.status < 300:  # every other answer is text with the reason
            return {**said, "body_digest": "sha256:" + hashlib.sha256(body).hexdigest()}
        return {**said, "body": body.decode(errors="replace")}

    def check(self, request, url):
        """Refuses a request that is not allowed. Returns the headers, and whether they contain a credential."""
        if request["method"] not in ("GET", "HEAD"):
            raise Refused("denied", f"{request['method']} is not supported by this host")
        if url.netloc not in self.allowed:
            raise Refused("denied", f"host {url.netloc.rpartition('@')[2]} is not allowed")
        if url.scheme != "https" and not (url.scheme == "http" and is_loopback(url.hostname)):
            raise Refused("denied", f"{url.netloc} gets only https requests")
        headers = {name.lower(): value for name, value in request["headers"]}
        if not headers.keys() <= HEADERS or not headers.get("authorization", "Bearer ").startswith("Bearer "):
            raise Refused("denied", "a policy may set accept, and a bearer token as authorization")
        if request.get("credential") is None:
            return headers, False
        registry = registry_of(request["credential"].partition("/")[0])
        pair = self.credentials.get(registry)
        if pair is None and request.get("or_anonymous"):
            return headers, False
        if pair is None:
            raise Refused("no_credential", f"no credential is configured for {registry}")
        if registry_of(url.netloc) != registry and url.netloc != self.realms.get(registry):
            raise Refused("denied", f"the credential of {registry} is not for {url.netloc}")
        if not is_to_read(url):
            raise Refused("denied", f"the credential of {registry} is for reading, and for tokens to pull with")
        basic = base64.b64encode(":".join(pair).encode()).decode()
        return {**headers, "authorization": f"Basic {basic}"}, True


def is_to_read(url):
    """Whether the request reads `/v2/`, a manifest or tags, or requests a token that is only for pulls."""
    fields = urllib.parse.parse_qs(url.query)
    scopes = [scope for text in fields.get("scope", []) for scope in text.split()]
    is_token = bool(fields) and fields.keys() <= TOKEN_FIELDS and all(scope.endswith(":pull") for scope in scopes)
    return is_token or READ_PATH.fullmatch(url.path) is not None


def read_body(response, most, until):
    body = b""
    while chunk := response.read1(1 << 16):
        body += chunk
        if len(body) > most:
            raise Refused("too_large", f"the answer has more than {most} bytes")
        if time.monotonic() > until:
            raise TimeoutError
    return body


def is_loopback(host):
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
