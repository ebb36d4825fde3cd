"""An object store for gs:// in this process; it refuses what object stores cannot do.

A dictionary of whole objects: there are no folders but the prefixes of names, appending and
renaming raise, and a file that is written becomes an object when it is closed, even after an error.
etils reaches it through a backend, TensorStore (which writes Orbax's arrays) through a server that
speaks as much of Cloud Storage's JSON interface as it uses.
"""

import contextlib
import importlib.machinery
import io
import json
import sys
import threading
import types
from fnmatch import fnmatchcase
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlparse

from etils.epath import backend, gpath, stat_utils


class Refused(Exception):
    """Raised for what an object store cannot do; not an OSError, like the errors of real ones."""


class _Upload(io.BytesIO):
    def __init__(self, store, name):
        super().__init__()
        self._store, self._name = store, name

    def close(self):
        if not self.closed:
            self._store.put(self._name, self.getvalue())
        super().close()


class Store(backend.Backend):
    """Objects by their names "bucket/folder/name"; `calls` is what was opened, with the mode.

    The server refuses to write objects with `refused` in their names.
    """

    def __init__(self):
        self.refused = ""
        self.lock = threading.RLock()
        self.objects, self.generation, self.calls = {}, 0, []

    def put(self, name, content):
        with self.lock:
            self.generation += 1
            self.objects[name] = (bytes(content), self.generation)
            return self.generation

    def below(self, name):
        prefix = f"{name}/" if name else ""
        with self.lock:
            return [found for found in self.objects if found.startswith(prefix)]

    # What etils asks for ---------------------------------------------------------------------

    def _name(self, path):
        scheme, _, name = str(path).partition("://")
        assert scheme == "gs", f"{path} has lost its scheme"
        return name.rstrip("/")

    def open(self, path, mode):
        name = self._name(path)
        self.calls.append((name, mode))
        kind = mode.replace("b", "")
        if kind == "a":
            raise Refused(f"{path}: objects cannot be appended to")
        if kind == "w":
            file = _Upload(self, name)
        elif name in self.objects:
            file = io.BytesIO(self.objects[name][0])
        else:
            raise FileNotFoundError(path)
        return file if "b" in mode else io.TextIOWrapper(file, "utf-8")

    def exists(self, path):
        return self._name(path) in self.objects or self.isdir(path)

    def isdir(self, path):
        return bool(self.below(self._name(path)))

    def listdir(self, path):
        name = self._name(path)
        found = {other[len(name) + 1 :].split("/")[0] for other in self.below(name)}
        if not found:
            raise Refused(f"{path}: no such folder")
        return sorted(found)

    def glob(self, path):
        pattern = self._name(path)
        with self.lock:
            names = {n.rsplit("/", k)[0] for n in self.objects for k in range(n.count("/"))}
        return [
            f"gs://{name}"
            for name in sorted(names | set(self.objects))
            if fnmatchcase(name, pattern) and name.count("/") == pattern.count("/")
        ]

    def walk(self, top, *, top_down=True, on_error=None):
        raise Refused("walking")

    def makedirs(self, path, *, exist_ok=False, mode=None):
        """Folders are there with their content."""

    def mkdir(self, path, *, exist_ok=False, mode=None):
        """Folders are there with their content."""

    def rmtree(self, path):
        found = self.below(self._name(path))
        if not found:
            raise FileNotFoundError(path)
        for name in found:
            self.objects.pop(name, None)

    def remove(self, path):
        if self.objects.pop(self._name(path), None) is None:
            raise FileNotFoundError(path)

    def rename(self, path, dst):
        raise Refused(f"{path}: objects cannot be renamed")

    def replace(self, path, dst):
        raise Refused(f"{path}: objects cannot be renamed")

    def copy(self, path, dst, overwrite):
        self.put(self._name(dst), self.objects[self._name(path)][0])

    def stat(self, path):
        name = self._name(path)
        if name not in self.objects and not self.isdir(path):
            raise FileNotFoundError(path)
        length = len(self.objects.get(name, (b"", 0))[0])
        return stat_utils.StatResult(name not in self.objects, length, 0, None, None, None)


class _Handler(BaseHTTPRequestHandler):
    """What TensorStore asks for: read, write and remove an object, list names."""

    protocol_version = "HTTP/1.1"
    store = None

    def log_message(self, *arguments):
        pass

    def _asked(self):
        url = urlparse(self.path)
        query = {key: values[-1] for key, values in parse_qs(url.query).items()}
        bucket, _, rest = url.path.partition("/b/")[2].partition("/o")
        return bucket, unquote(rest.lstrip("/")), query

    def _answer(self, code, content=b"", **headers):
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _holds(self, name, query):
        """Whether the conditions on the object's generation hold."""
        there = self.store.objects.get(name, (b"", 0))[1]
        wanted, unwanted = query.get("ifGenerationMatch"), query.get("ifGenerationNotMatch")
        return wanted in (None, str(there)) and unwanted != str(there)

    def do_GET(self):
        bucket, key, query = self._asked()
        with self.store.lock:
            if not key:
                return self._list(bucket, query)
            name = f"{bucket}/{key}"
            if name not in self.store.objects:
                return self._answer(404)
            if not self._holds(name, query):
                return self._answer(304 if "ifGenerationNotMatch" in query else 412)
            content, generation = self.store.objects[name]
        headers = {"x_goog_generation": str(generation)}
        asked = self.headers.get("Range")
        if asked is None:
            return self._answer(200, content, **headers)
        first, _, last = asked.removeprefix("bytes=").partition("-")
        begin = int(first) if first else max(0, len(content) - int(last))
        end = min(int(last) + 1, len(content)) if first and last else len(content)
        if begin >= len(content):
            return self._answer(416)
        headers["Content_Range"] = f"bytes {begin}-{end - 1}/{len(content)}"
        return self._answer(206, content[begin:end], **headers)

    def _list(self, bucket, query):
        names = sorted(
            name.removeprefix(f"{bucket}/")
            for name in self.store.objects
            if name.startswith(f"{bucket}/{query.get('prefix', '')}")
        )
        begin, end = query.get("startOffset", ""), query.get("endOffset")
        items = [{"name": n} for n in names if n >= begin and (end is None or n < end)]
        return self._answer(200, json.dumps({"items": items}).encode())

    def do_POST(self):
        bucket, _, query = self._asked()
        content = self.rfile.read(int(self.headers["Content-Length"]))
        name = f"{bucket}/{query['name']}"
        if self.store.refused and self.store.refused in name:
            return self._answer(403)
        with self.store.lock:
            if not self._holds(name, query):
                return self._answer(412)
            generation = self.store.put(name, content)
        described = {"name": query["name"], "generation": str(generation)}
        return self._answer(200, json.dumps(described).encode())

    def do_DELETE(self):
        bucket, key, query = self._asked()
        with self.store.lock:
            if not self._holds(f"{bucket}/{key}", query):
                return self._answer(412)
            there = self.store.objects.pop(f"{bucket}/{key}", None)
        return self._answer(404 if there is None else 204)


@contextlib.contextmanager
def serving():
    """A server for TensorStore at `url`; `store` may be set to another one."""
    handler = type("Handler", (_Handler,), {})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    handler.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield handler
    finally:
        server.shutdown()
        server.server_close()


def install(monkeypatch, store):
    """Makes etils use `store` for gs://."""
    monkeypatch.setitem(gpath._PREFIX_TO_BACKEND, "gs", store)
    monkeypatch.setattr(gpath, "_is_tf_installed", lambda: False)


def install_bucket_client(monkeypatch):
    """A google.cloud.storage that knows plain buckets only."""
    cloud, storage = types.ModuleType("google.cloud"), types.ModuleType("google.cloud.storage")
    for module in (cloud, storage):
        module.__spec__ = importlib.machinery.ModuleSpec(module.__name__, None)
        monkeypatch.setitem(sys.modules, module.__name__, module)
    bucket = types.SimpleNamespace(hierarchical_namespace_enabled=False)
    storage.Client = lambda: types.SimpleNamespace(get_bucket=lambda name: bucket)
    cloud.storage = storage
