"""The hub: from its cache without a network, and up to a server that speaks its protocol."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import torch

from supertickets.errors import TicketError
from supertickets.ticket import Ticket

COMMIT = "0" * 39 + "1"


@pytest.fixture
def folder(ticket, tmp_path) -> Path:
    ticket.save_pretrained(tmp_path / "ticket")
    return tmp_path / "ticket"


def run(script: str, *arguments: object, **variables: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_hub_id_loads_from_the_cache(ticket, folder, tmp_path) -> None:
    """The cache's own layout: refs/<branch> names a commit, snapshots/<commit> holds the files."""
    repo = tmp_path / "cache" / "models--someone--net"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text(COMMIT)
    shutil.copytree(folder, repo / "snapshots" / COMMIT)
    loaded = Ticket.from_pretrained(
        "someone/net", cache_dir=tmp_path / "cache", local_files_only=True
    )
    assert all(torch.equal(loaded.tensors[key], ticket.tensors[key]) for key in ticket.tensors)
    with pytest.raises(TicketError, match="someone/other: no such folder, and the hub"):
        Ticket.from_pretrained("someone/other", cache_dir=tmp_path / "cache", local_files_only=True)


def test_offline_a_local_folder_loads_and_a_hub_id_is_refused_in_words(folder, tmp_path) -> None:
    script = """
        import sys
        from supertickets.errors import TicketError
        from supertickets.ticket import Ticket
        print(Ticket.from_pretrained(sys.argv[1]).task)
        try:
            Ticket.from_pretrained("someone/net")
        except TicketError as error:
            print(error)
    """
    said = run(script, folder, HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path / "home"))
    assert said.startswith("classification\nticket someone/net: no such folder, and the hub")


class Hub(BaseHTTPRequestHandler):
    """As much of the hub as one upload of small files needs; it keeps what it is given."""

    files: dict[str, bytes]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        base = f"http://{self.headers['Host']}/someone/net"
        if self.path.endswith("/repos/create"):
            self.answer({"url": base})
        elif self.path.endswith("/validate-yaml"):
            self.answer({"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            asked = [entry["path"] for entry in json.loads(body)["files"]]
            modes = [{"path": p, "uploadMode": "regular", "shouldIgnore": False} for p in asked]
            self.answer({"files": modes})
        elif "/commit/" in self.path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    value = line["value"]
                    self.files[value["path"]] = base64.b64decode(value["content"])
            self.answer({"commitUrl": f"{base}/commit/{COMMIT}", "commitOid": COMMIT})
        else:
            self.send_error(404)

    def do_GET(self) -> None:
        self.send_error(404)

    def answer(self, value: Any) -> None:
        data = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[tuple[str, dict[str, bytes]]]:
    files: dict[str, bytes] = {}
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("OneHub", (Hub,), {"files": files}))
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", files
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_what_is_pushed_is_the_ticket(ticket, folder, tmp_path, hub) -> None:
    address, files = hub
    script = """
        import sys
        from supertickets.ticket import Ticket
        ticket = Ticket.from_pretrained(sys.argv[1])
        print(ticket.push_to_hub("someone/net", token="hf_none"))
    """
    said = run(
        script,
        folder,
        HF_ENDPOINT=address,
        HF_HOME=str(tmp_path / "home"),
        HF_HUB_OFFLINE="0",
        HF_HUB_DISABLE_PROGRESS_BARS="1",
        NO_PROXY="127.0.0.1",
        no_proxy="127.0.0.1",
    )
    assert said.strip() == f"{address}/someone/net/commit/{COMMIT}"
    assert files == {path.name: path.read_bytes() for path in folder.iterdir()}
