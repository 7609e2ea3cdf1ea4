"""Presets from a hub on 127.0.0.1 that speaks the resolve protocol: small stand-ins of the released files with random values."""

import hashlib
import logging
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from released_files import HEAD_DIM, write_released

from diffbir_jax import InputError, load_model
from diffbir_jax.weights import hub, registry
from diffbir_jax.weights.folder import read_card
from diffbir_jax.weights.hub import preset_folder

pytest.importorskip("torch")
pytest.importorskip("huggingface_hub")
pytestmark = pytest.mark.witness
FILES = registry.PRESETS["v2.1"].files()


class Hub(BaseHTTPRequestHandler):
    """`/REPOSITORY/resolve/main/FILE` and plain files below /plain/, with ranges; `cut` breaks off once, `spoil` damages once."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_HEAD(self):
        self.answer(False)

    def do_GET(self):
        self.answer(True)

    def answer(self, with_body):
        server, name = self.server, self.path.rpartition("/")[2]
        server.seen.append((self.command, self.path, self.headers.get("Range")))
        if not re.fullmatch(r"/(lxq007/DiffBIR(-v2)?/resolve/main|plain)/[^/]+", self.path) or not (server.folder / name).exists():
            self.send_response(404)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        data = (server.folder / name).read_bytes()
        begin = int(re.match(r"bytes=(\d+)-", self.headers.get("Range", "bytes=0-"))[1])
        self.send_response(206 if begin else 200)
        self.send_header("Content-Length", str(len(data) - begin))
        if not self.path.startswith("/plain/"):
            self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
            self.send_header("X-Repo-Commit", "0" * 40)
            self.send_header("X-Linked-Size", str(len(data)))
        self.end_headers()
        if with_body:
            self.send_body(name, data, begin)

    def send_body(self, name, data, begin):
        if name in self.server.spoil:
            self.server.spoil.remove(name)
            data = data[:-1] + bytes([data[-1] ^ 1])
        if name in self.server.cut:
            self.server.cut.remove(name)
            self.wfile.write(data[begin : begin + (len(data) - begin) // 2])
            self.close_connection = True
            return
        self.wfile.write(data[begin:])


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub")
    for file in FILES:
        write_released(folder, file)
    return folder


@pytest.fixture
def server(released, monkeypatch, tmp_path):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.folder, server.seen, server.cut, server.spoil = released, [], [], []
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("DIFFBIR_JAX_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("diffbir_jax.weights.recognition.HEAD_DIM", HEAD_DIM)
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def gets(server):
    return [path.rpartition("/")[2] for method, path, _ in server.seen if method == "GET" and "/resolve/" in path]


def test_the_first_run_downloads_the_second_touches_no_network(server, tmp_path):
    assert load_model("v2.1").sampling["parameterisation"] == "v"
    needed = [file for file in FILES if "face" not in file]
    assert sorted(gets(server)) == sorted(needed)
    assert sorted(p.name for p in (tmp_path / "home/downloads").iterdir() if not p.name.startswith(".")) == sorted(needed)
    server.seen.clear()
    model = load_model("v2.1", "denoise")
    assert server.seen == [] and model.defaults["cfg"] == 6.0 and not model.defaults["prompt"] == ""
    load_model("v2.1", "face")
    assert gets(server) == ["face_swinir_v1.ckpt"]
    assert {"stage1", "stage1_face"} <= read_card(tmp_path / "home/v2.1")["networks"].keys()


def test_a_cut_connection_resumes(server, tmp_path, monkeypatch):
    chunk = 1 << 16
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", chunk)
    half = (server.folder / FILES[0]).stat().st_size // 2
    server.cut.append(FILES[0])
    preset_folder("v2.1", "general")
    ranges = [r for method, path, r in server.seen if method == "GET" and path.endswith(FILES[0])]
    assert ranges == [None, f"bytes={half // chunk * chunk}-"]
    assert (tmp_path / "home/downloads" / FILES[0]).read_bytes() == (server.folder / FILES[0]).read_bytes()


def test_what_an_interrupted_run_left_is_gone_on_with(server, tmp_path):
    downloads = tmp_path / "home/downloads"
    downloads.mkdir(parents=True)
    (downloads / f".{FILES[0]}.part").write_bytes((server.folder / FILES[0]).read_bytes()[:1000])
    preset_folder("v2.1", "general")
    assert [r for method, path, r in server.seen if method == "GET" and path.endswith(FILES[0])] == ["bytes=1000-"]
    assert (downloads / FILES[0]).read_bytes() == (server.folder / FILES[0]).read_bytes()


def test_a_corrupted_file_is_rejected_and_fetched_again(server, tmp_path, capsys):
    server.spoil.append(FILES[0])
    preset_folder("v2.1", "general")
    assert gets(server).count(FILES[0]) == 2 and f"{FILES[0]} from " in capsys.readouterr().err
    assert (tmp_path / "home/downloads" / FILES[0]).read_bytes() == (server.folder / FILES[0]).read_bytes()


def test_a_file_that_stays_corrupted_is_refused(server, tmp_path, monkeypatch):
    monkeypatch.setitem(registry.FILES, FILES[0], registry.File(FILES[0], (registry.V2_HUB,), "0" * 64))
    with pytest.raises(InputError, match="SHA-256 is wrong every time"):
        preset_folder("v2.1", "general")
    assert not (tmp_path / "home/downloads" / FILES[0]).exists() and not (tmp_path / "home/v2.1").exists()


def test_sources_are_tried_in_their_order(server, tmp_path, monkeypatch):
    """The first has no such file, the second is a plain address."""
    plain = f"http://127.0.0.1:{server.server_port}/plain/{FILES[0]}"
    monkeypatch.setattr(hub, "PLAIN", ("https://", "http://127.0.0.1"))
    monkeypatch.setitem(registry.FILES, FILES[0], registry.File(FILES[0], ("nobody/nothing", plain)))
    preset_folder("v2.1", "general")
    assert [path for method, path, _ in server.seen if method == "GET" and path.endswith(FILES[0])] == [f"/plain/{FILES[0]}"]


def test_offline_says_in_one_line_what_to_put_where(tmp_path, released, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("DIFFBIR_JAX_HOME", str(tmp_path))
    monkeypatch.setattr("diffbir_jax.weights.recognition.HEAD_DIM", HEAD_DIM)
    with pytest.raises(InputError) as error:
        load_model("v2.1")
    told = str(error.value)
    assert "\n" not in told and f"put what is missing into {tmp_path / 'downloads'}" in told
    for part in ("DiffBIR_v2.1.pt (lxq007/DiffBIR-v2)", "sd2.1-base-zsnr-laionaes5.ckpt", "realesrgan_s4_swinir_100k.pth"):
        assert part in told
    assert "face_swinir" not in told
    for file in FILES:
        (tmp_path / "downloads" / file).symlink_to(released / file)
    assert load_model("v2.1", "face").takes_text


def test_a_preset_has_its_tasks(tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFBIR_JAX_HOME", str(tmp_path))
    with pytest.raises(InputError, match="v1-general has no stage 1 for the task 'face'; it has denoise, general"):
        load_model("v1-general", "face")
