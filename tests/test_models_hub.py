"""Bundles on a hub, which the tests serve on the loopback address: pinned, kept, checked, uploaded."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")

import tiledseg
from tiledseg.errors import BundleError, FileError, SettingError
from tiledseg.models import load_model

DEMO = Path(tiledseg.__file__).parent / "models" / "shipped" / "demo"


class Hub(BaseHTTPRequestHandler):
    """The few endpoints of a hub that models need."""

    commits: dict  # of files by name, by commit
    branches: dict
    asked: list
    failing = 0

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.do_GET(body=False)

    def do_GET(self, *, body=True):
        type(self).asked.append(self.path)
        if type(self).failing:
            return self.reply(type(self).failing, b"{}", body=body)
        info = re.fullmatch(r"/api/models/owner/net(?:/revision/(.+?))?(?:\?.*)?", self.path)
        if info:
            commit = self.commit_of(info[1] or "main")
            if commit is None:
                return self.reply(404, b"{}", {"X-Error-Code": "RevisionNotFound"}, body=body)
            names = [{"rfilename": name} for name in type(self).commits[commit]]
            card = {"license": "cc-by-4.0"}
            state = {"id": "owner/net", "sha": commit, "siblings": names, "cardData": card, "private": False}
            return self.reply(200, json.dumps(state).encode(), body=body)
        found = re.fullmatch(r"/owner/net/resolve/(.+?)/([^/?]+)", self.path)
        if not found:
            return self.reply(404, b"{}", {"X-Error-Code": "RepoNotFound"}, body=body)
        commit = self.commit_of(found[1])
        data = type(self).commits[commit][found[2]]
        tag = f'"{hashlib.sha256(data).hexdigest()}"'
        return self.reply(200, data, {"ETag": tag, "X-Repo-Commit": commit}, body=body)

    def do_POST(self):
        type(self).asked.append(self.path)
        sent = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = self.path.partition("?")[0]
        if path == "/api/repos/create":
            answer = {"url": "/owner/net", "name": "owner/net"}
        elif "/preupload/" in path:
            names = [one["path"] for one in json.loads(sent)["files"]]
            answer = {
                "files": [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names]
            }
        elif "/commit/" in path:
            answer = self.commit([json.loads(line) for line in sent.splitlines()])
        else:
            answer = {"errors": [], "warnings": []}
        self.reply(200, json.dumps(answer).encode())

    def commit(self, lines):
        files = dict(type(self).commits[type(self).branches["main"]])
        for line in lines:
            if line["key"] == "file":
                files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            elif line["key"] == "deletedFile":
                del files[line["value"]["path"]]
        commit = hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()
        type(self).commits[commit] = files
        type(self).branches["main"] = commit
        return {
            "commitUrl": f"https://huggingface.co/owner/net/commit/{commit}",
            "commitOid": commit,
            "success": True,
        }

    def commit_of(self, revision):
        found = type(self).branches.get(revision, revision)
        return found if found in type(self).commits else None

    def reply(self, status, data, headers=(), *, body=True):
        self.send_response(status)
        for name, value in {**dict(headers), "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(data)


FIRST, SECOND = "1" * 40, "2" * 40


@pytest.fixture
def hub(tmp_path, monkeypatch):
    files = {path.name: path.read_bytes() for path in DEMO.iterdir()}
    state = {
        "commits": {FIRST: files, SECOND: {**files, "script.py": b"raise SystemExit"}},
        "branches": {"main": FIRST, "v1": FIRST},
        "asked": [],
        "failing": 0,
    }
    kind = type("Served", (Hub,), state)
    server = ThreadingHTTPServer(("127.0.0.1", 0), kind)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    monkeypatch.chdir(tmp_path)
    yield kind
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_pinned_model_is_downloaded_once_and_then_needs_no_connection(hub, caplog):
    segmenter = load_model(f"hf://owner/net@{FIRST}")
    assert segmenter.labels == load_model("demo").labels
    assert "cc-by-4.0" in caplog.text
    hub.failing = 500
    asked, caplog.records[:] = len(hub.asked), []
    again = load_model(f"hf://owner/net@{FIRST}")
    assert again.threshold == segmenter.threshold
    assert len(hub.asked) == asked
    assert "cc-by-4.0" in caplog.text


def test_a_branch_is_resolved_to_its_commit_which_is_stated(hub, caplog):
    load_model("hf://owner/net")
    assert f"hf://owner/net@{FIRST}" in caplog.text
    hub.branches["main"] = SECOND
    load_model("hf://owner/net@main")
    assert f"hf://owner/net@{SECOND}" in caplog.text
    assert not any("script.py" in path for path in hub.asked)
    hub.failing = 503
    load_model("hf://owner/net")
    assert "cannot be reached" in caplog.text
    with pytest.raises(FileError, match="HF_HUB_OFFLINE"):
        load_model("hf://owner/net@v1")


def test_without_a_hub_a_branch_is_as_it_was_and_others_cannot_be_reached(hub, monkeypatch, caplog):
    segmenter = load_model("hf://owner/net@v1")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # and does not listen
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{closed.getsockname()[1]}")
        assert load_model("hf://owner/net@v1").threshold == segmenter.threshold
        assert "as it was at the last time" in caplog.text
        for ask in (lambda: load_model("hf://owner/net"), lambda: segmenter.push("hf://owner/net")):
            with pytest.raises(FileError, match=r"must be reachable.*refused.*HF_ENDPOINT"):
                ask()


def test_a_downloaded_model_that_is_damaged_is_downloaded_again(hub, tmp_path):
    load_model(f"hf://owner/net@{FIRST}")
    [path] = tmp_path.rglob("model.safetensors")
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    load_model(f"hf://owner/net@{FIRST}")
    assert sum(one.endswith("model.safetensors") for one in hub.asked) > 1


def test_files_that_the_hub_changed_on_the_way_are_refused(hub):
    files = hub.commits[FIRST]
    hub.commits[FIRST] = {**files, "model.safetensors": files["model.safetensors"][:-1] + b"x"}
    with pytest.raises(BundleError, match="digest"):
        load_model(f"hf://owner/net@{FIRST}")


def test_what_is_pushed_is_loaded_by_the_address_that_is_returned(hub):
    hub.commits[FIRST] = {"model.onnx": b"earlier", "notes.txt": b"kept"}
    segmenter = load_model("demo").changed(threshold=0.25, provenance={"licence": "CC-BY-4.0"})
    address = segmenter.push("hf://owner/net")
    assert re.fullmatch("hf://owner/net@[0-9a-f]{40}", address)
    files = hub.commits[hub.branches["main"]]
    assert {"config.json", "model.safetensors", "README.md", "notes.txt"} <= files.keys()
    assert "model.onnx" not in files
    assert load_model(address).threshold == 0.25
    head = files["README.md"].decode().split("---")[1]
    for line in ("library_name: tiledseg", "pipeline_tag: image-segmentation", "license: cc-by-4.0"):
        assert line in head


@pytest.mark.parametrize(
    ("address", "error", "match"),
    [
        ("hf://owner", SettingError, "hf://owner/name"),
        ("hf://owner/../../etc", SettingError, "hf://owner/name"),
        ("hf://../net", SettingError, "hf://owner/name"),
        ("hf:/owner/net", SettingError, "hf://owner/name"),
        ("hf://owner/net@", SettingError, "hf://owner/name"),
        (Path("hf://owner/net"), SettingError, "as text"),
        ("hf://owner/other", BundleError, "HF_TOKEN"),
        ("hf://owner/net@v7", BundleError, "revision"),
        (f"hf://owner/net@{SECOND}", BundleError, "script.py"),
    ],
)
def test_addresses_that_mean_no_bundle_are_refused(hub, address, error, match):
    hub.commits[SECOND] = {"script.py": b"", "weights.pkl": b""}
    with pytest.raises(error, match=match):
        load_model(address)


def test_a_commit_cannot_be_pushed_to(hub):
    with pytest.raises(SettingError, match="branch"):
        load_model("demo").push(f"hf://owner/net@{FIRST}")
    assert not hub.asked


@pytest.mark.parametrize(
    ("name", "match"),
    [("segpc", "demo.*hf://owner/segpc"), ("dem", "'demo'"), ("my_net", "'my-net'"), ("a/b", "hf://a/b")],
)
def test_a_name_that_is_no_model_says_what_there_is(tmp_path, monkeypatch, name, match):
    (tmp_path / "my-net").mkdir()
    (tmp_path / "my-net" / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BundleError, match=match):
        load_model(name)
