"""A web server that serves a folder by ranges, counts what it is asked, and fails when it is told to.

It speaks plain HTTP and as much of S3 as reading needs: ranges, ETags, a list of objects.
"""

import hashlib
import threading
import time
from collections import Counter, deque
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape


class Server(ThreadingHTTPServer):
    """Attributes are read and set by tests while it runs."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, folder):
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder = folder
        self.asked = Counter()
        self.headers = []
        self.faults = deque()  # taken by the next requests: a status, "cut", "slow", or None
        self.every = 0  # each so many-th request fails, by turns in all ways
        self.seconds = 0.0
        self.etags = self.ranges = True
        self.salt = b""  # what ETags are made of, beside the content
        self.most, self.now = 0, 0
        self.guard = threading.Lock()

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server_port}"

    def tag(self, content):
        return hashlib.sha256(content + self.salt).hexdigest()[:16]

    def handle_error(self, request, client_address):
        """A client that hangs up is none of ours."""

    def next_fault(self):
        with self.guard:
            self.asked["all"] += 1
            if self.faults:
                return self.faults.popleft()
            if self.every and self.asked["all"] % self.every == 0:
                return (503, "cut", 500, "cut")[self.asked["all"] // self.every % 4]
            return None


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *arguments):
        """Silent."""

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        server = self.server
        with server.guard:
            server.now += 1
            server.most = max(server.most, server.now)
        try:
            self.serve(server)
        finally:
            with server.guard:
                server.now -= 1

    def serve(self, server):
        split = urlsplit(self.path)
        server.headers.append((self.path, dict(self.headers)))
        fault = server.next_fault()
        time.sleep(server.seconds)
        if isinstance(fault, int):
            self.answer(fault, b"failed on purpose")
            return
        if fault == "slow":
            time.sleep(1)
        if "list-type" in split.query:
            self.answer(200, self.listing(parse_qs(split.query)))
            return
        file = server.folder / unquote(split.path).lstrip("/")
        if not file.is_file():
            self.answer(404, b"no such file")
            return
        content = file.read_bytes()
        server.asked[file.name] += 1
        tags = {"ETag": f'"{server.tag(content)}"'} if server.etags else {}
        given = self.headers.get("Range")
        if given is None or not server.ranges:
            self.answer(200, content, tags, fault)
            return
        first, last = given.removeprefix("bytes=").split("-")
        start, stop = int(first), min(int(last) + 1, len(content))
        if start >= len(content):
            self.answer(416, b"", tags)
            return
        tags["Content-Range"] = f"bytes {start}-{stop - 1}/{len(content)}"
        self.answer(206, content[start:stop], tags, fault)

    def answer(self, status, content, headers=None, fault=None):
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Last-Modified", "Mon, 02 Nov 2026 10:00:00 GMT")
        self.end_headers()
        if self.command == "HEAD":
            return
        if fault == "cut":
            self.wfile.write(content[: len(content) // 2])
            self.close_connection = True
            self.connection.close()
            return
        self.wfile.write(content)

    def listing(self, query):
        bucket = urlsplit(self.path).path.strip("/")
        root = self.server.folder / bucket
        prefix = query.get("prefix", [""])[0]
        entries = []
        for file in sorted(root.rglob("*")):
            key = file.relative_to(root).as_posix()
            if file.is_file() and key.startswith(prefix):
                tag = self.server.tag(file.read_bytes())
                entries.append(
                    f"<Contents><Key>{escape(key)}</Key><LastModified>2026-11-02T10:00:00.000Z</LastModified>"
                    f'<ETag>"{tag}"</ETag><Size>{file.stat().st_size}</Size></Contents>'
                )
        return (
            f"<ListBucketResult><Name>{bucket}</Name><IsTruncated>false</IsTruncated>{''.join(entries)}"
            "</ListBucketResult>"
        ).encode()


@contextmanager
def serving(folder):
    """A server of a folder while the block lasts."""
    server = Server(folder)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
