"""A hub on a socket that fails, cuts answers short, falls silent, or is right, by a seeded draw."""

import json
import random
import re
import socket
import threading
from collections import Counter

COMMIT = "0" * 40
HEAD = "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {length}\r\n{more}\r\n"


class UnsteadyHub(threading.Thread):
    """A hub with one repository.

    Parameters
    ----------
    files
        Their contents by name.
    failing, cutting
        The shares of requests that end in an error of the server (or, one in four of these, in a
        closed connection), and of answers of which only a part arrives.
    """

    def __init__(self, files: dict[str, bytes], failing: float, cutting: float, seed: int) -> None:
        super().__init__(daemon=True)
        self.files, self.failing, self.cutting = files, failing, cutting
        self.random, self.lock = random.Random(seed), threading.Lock()
        self.did: Counter[str] = Counter()
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        self.start()

    def run(self) -> None:
        """Answer each connection in a thread of its own."""
        while True:
            connection, _ = self.socket.accept()
            threading.Thread(target=self._serve, args=[connection], daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            request = b""
            while b"\r\n\r\n" not in request:
                part = connection.recv(65536)
                if not part:
                    return
                request += part
            with self.lock:
                draw, part, kind = (self.random.random() for _ in range(3))
            head, body = self._right(request.decode())
            if draw < self.failing:
                self.did["failed"] += 1
                if kind > 0.25:
                    status = ["500 Broken", "502 Bad", "503 Busy", "429 Wait"][int(4 * part)]
                    connection.sendall(HEAD.format(status=status, length=0, more="").encode())
            elif draw < self.failing + self.cutting:
                self.did["cut"] += 1
                answer = head + body
                connection.sendall(answer[: int(part * len(answer))])
            else:
                self.did["right"] += 1
                connection.sendall(head + body)

    def _right(self, request: str) -> tuple[bytes, bytes]:
        """Return head and body of the right answer."""
        method, path, _ = request.split(" ", 2)
        if "/api/" in path:
            files = [{"rfilename": name} for name in self.files]
            body = json.dumps({"id": "a/b", "sha": COMMIT, "siblings": files}).encode()
            more = "Content-Type: application/json\r\n"
            return HEAD.format(status="200 OK", length=len(body), more=more).encode(), body
        name = path.split("?")[0].split(f"/resolve/{COMMIT}/")[-1].split("/resolve/main/")[-1]
        content, status = self.files[name], "200 OK"
        more = f'X-Repo-Commit: {COMMIT}\r\nETag: "{name}"\r\nAccept-Ranges: bytes\r\n'
        wanted = re.search(r"range: bytes=(\d+)-", request, re.IGNORECASE)
        if wanted:
            start, whole = int(wanted[1]), len(content)
            content, status = content[start:], "206 Partial Content"
            more += f"Content-Range: bytes {start}-{whole - 1}/{whole}\r\n"
        head = HEAD.format(status=status, length=len(content), more=more).encode()
        return head, b"" if method == "HEAD" else content
