"""Against a server on this machine that breaks off, sends wrong bytes, redirects, and refuses."""

import hashlib
import http.server
import os
import socket
import threading
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

import phiscale
from phiscale.architecture.catalog import row, rows
from phiscale.errors import ArgumentError, WeightsError
from phiscale.weights import find, pretrained, records
from phiscale.weights.dialects import to_dialect
from phiscale.weights.download import cached_path, check, checksum_in, download, in_hub_cache
from phiscale.weights.numerics import TORCH
from phiscale.weights.sources import at_hand, fetch

CONTENT = bytes(range(256)) * 4000
SHA = hashlib.sha256(CONTENT).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        server = self.server
        server.asked.append((self.path, self.headers.get("Range")))
        content = server.content.get(self.path, CONTENT)
        kind = self.path.split("/")[1]
        if kind == "redirect":
            self.send_response(302)
            self.send_header("Location", self.path.replace("redirect", "plain"))
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if kind == "missing":
            self.send_error(404)
            return
        start = 0
        asked = self.headers.get("Range")
        if asked and kind != "rangeless":
            start = int(asked.removeprefix("bytes=").rstrip("-"))
            if start >= len(content):
                self.send_error(416)
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        body = b"\0" * 1000 if kind == "wrong" else content[start:]
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        breaks = kind == "breaks" and len(server.asked) == 1
        self.wfile.write(body[: len(body) // 3] if breaks or kind == "never" else body)
        if breaks or kind == "never":
            self.close_connection = True

    def log_message(self, *_args):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setenv("PHISCALE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.asked, server.content = [], {}
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    server.url = f"http://127.0.0.1:{server.server_port}"
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("kind", ["plain", "redirect", "breaks", "rangeless"])
def test_a_download_is_whole_checked_and_kept(server, kind):
    path = download(f"{server.url}/{kind}/w.pth", checksum=f"sha256:{SHA}")
    assert path.read_bytes() == CONTENT
    requests = len(server.asked)
    assert download(f"{server.url}/{kind}/w.pth", checksum=f"sha256:{SHA}") == path
    assert len(server.asked) == requests
    assert not path.with_name("w.pth.part").exists()


def test_a_broken_download_goes_on_where_it_was(server):
    with pytest.raises(WeightsError, match="keeps breaking off"):
        download(f"{server.url}/never/w.pth", checksum=f"sha256:{SHA}")
    assert [asked for _, asked in server.asked] == [None, "bytes=341333-", "bytes=568888-"]
    part = cached_path(f"{server.url}/never/w.pth").with_name("w.pth.part")
    assert CONTENT.startswith(part.read_bytes())
    part.rename(cached_path(f"{server.url}/plain/w.pth", "later").parent.parent / "kept")
    later = cached_path(f"{server.url}/plain/w.pth")
    later.parent.mkdir()
    (later.parent.parent / "kept").rename(later.with_name("w.pth.part"))
    assert download(f"{server.url}/plain/w.pth", checksum=f"sha256:{SHA}").read_bytes() == CONTENT
    assert server.asked[-1][1].startswith("bytes=7")


@pytest.mark.parametrize("left", [CONTENT + b"more", CONTENT])
def test_a_part_that_can_not_go_on_is_fetched_again(server, left):
    path = cached_path(f"{server.url}/plain/w.pth")
    path.parent.mkdir(parents=True)
    path.with_name("w.pth.part").write_bytes(left)
    assert download(f"{server.url}/plain/w.pth", checksum=f"sha256:{SHA}").read_bytes() == CONTENT


@pytest.mark.parametrize("checksum", [f"sha256:{SHA[:8]}", f"md5:{hashlib.md5(CONTENT).hexdigest()}"])
def test_wrong_bytes_are_refused_and_deleted(server, checksum):
    with pytest.raises(WeightsError, match=f"its checksum is not {checksum}"):
        download(f"{server.url}/wrong/w.pth", checksum=checksum)
    folder = cached_path(f"{server.url}/wrong/w.pth").parent
    assert [path.name for path in folder.iterdir()] == ["w.pth.lock"]
    assert download(f"{server.url}/plain/w.pth", checksum=checksum).read_bytes() == CONTENT


def test_without_a_network_the_message_says_where_to_put_the_file(tmp_path, monkeypatch):
    monkeypatch.setenv("PHISCALE_CACHE", str(tmp_path))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}/w.pth"
    with pytest.raises(WeightsError, match=f"can't download {url} .*put it at {cached_path(url)}"):
        download(url)


def test_a_missing_file_is_not_asked_for_again(server):
    with pytest.raises(WeightsError, match="Not Found"):
        download(f"{server.url}/missing/w.pth")
    assert len(server.asked) == 1


@pytest.mark.parametrize("url", ["file:///etc/hostname", "ftp://host/w.pth"])
def test_only_the_web_is_read(url):
    with pytest.raises(WeightsError, match="only http and https"):
        download(url)


def test_names_carry_checksums():
    assert checksum_in("https://host/x/efficientnet-b0-355c32eb.pth") == "sha256:355c32eb"
    assert checksum_in("https://host/efficientnet-b0.pth") == ""


def test_an_address_loads_by_itself(server, tmp_path):
    model = phiscale.create_model("efficientnet_lite0", seed=0)
    torch.save(to_dialect(model.state_dict(), model.spec, "efficientnet_pytorch"), tmp_path / "w.pth")
    server.content["/plain/w.pth"] = (tmp_path / "w.pth").read_bytes()
    other = phiscale.create_model("efficientnet_lite0", weights=f"{server.url}/plain/w.pth")
    assert torch.equal(other.classifier.weight, model.classifier.weight)


def test_a_mirror_stands_in(server):
    gone, there = f"{server.url}/missing/model.safetensors", f"{server.url}/plain/w.pth"
    record = replace(find("timm/efficientnet_b0.ra_in1k"), files=((gone, ""), (there, f"sha256:{SHA[:8]}")))
    assert fetch(record).read_bytes() == CONTENT
    with pytest.raises(WeightsError, match=r"missing/model\.safetensors"):
        fetch(replace(record, name="other", files=((gone, ""), (there, "sha256:00000000"))))


# The model hub, through its own client


class Hub(http.server.BaseHTTPRequestHandler):
    """Two files of one published checksum; `wrong` sends other bytes."""

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        body = b"\0" * len(CONTENT) if "/wrong/" in self.path else CONTENT
        self.send_response(404 if "/absent/" in self.path else 200)
        for name, value in (("ETag", f'"{SHA}"'), ("X-Repo-Commit", "c" * 40), ("Content-Length", str(len(body)))):
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_args):
        pass


@pytest.fixture
def hub(tmp_path, monkeypatch):
    constants = pytest.importorskip("huggingface_hub.constants")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("PHISCALE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    yield "https://huggingface.co/{}/{}/resolve/main/model.safetensors"
    server.shutdown()
    thread.join()
    server.server_close()


def test_files_of_the_hub_come_into_the_cache_that_all_projects_share(hub):
    record = replace(find("timm/efficientnet_b0.ra_in1k"), files=((hub.format("timm", "good"), ""),))
    assert at_hand(record) is None
    path = fetch(record)
    assert path.read_bytes() == CONTENT
    assert "models--timm--good" in path.parts
    assert at_hand(record) == path


def test_wrong_bytes_of_the_hub_are_refused_and_deleted(hub):
    url = hub.format("timm", "wrong")
    with pytest.raises(WeightsError, match=f"its checksum is not sha256:{SHA}"):
        download(url)
    assert in_hub_cache(url) is None


def test_a_hub_cache_that_cannot_be_read_holds_nothing(hub, monkeypatch):
    def closed(path, *args, stat=os.stat, **options):
        if "models--" in str(path):
            raise PermissionError(13, "Permission denied", str(path))
        return stat(path, *args, **options)

    monkeypatch.setattr(os, "stat", closed)
    assert in_hub_cache(hub.format("timm", "good")) is None


def test_what_the_hub_does_not_have_says_where_to_put_it(hub):
    url = hub.format("timm", "absent")
    with pytest.raises(WeightsError, match=f"can't download {url} .*put it at {cached_path(url)}"):
        download(url)


# The registry


def test_records_are_of_known_networks_and_say_all_that_a_file_does_not():
    from phiscale.weights.dialects import DIALECTS

    assert len(records()) == 354
    assert len({record.name for record in records()}) == 354
    for record in records():
        assert record.network in rows() or record.lacks, record.name
        assert record.dialect in DIALECTS, record.name
        assert record.files
        for where, checksum in record.files:
            assert where.startswith(("https://", "package:"))
            assert checksum == "" or checksum.split(":")[0] in ("sha256", "md5")
        assert record.licence
        assert record.top1 is None or 40 < record.top1 < 90


@pytest.mark.parametrize(
    ("name", "network", "crop", "resize", "top1"),
    [
        ("timm/efficientnet_b0.ra_in1k", "efficientnet_b0", 224, 256, 77.698),
        ("timm/tf_efficientnet_b7.ns_jft_in1k", "efficientnet_b7", 600, 632, 86.85),
        ("torchvision/efficientnet_b5.IMAGENET1K_V1", "efficientnet_b5", 456, 456, 83.444),
        ("lukemelas/adv-efficientnet-b8", "efficientnet_b8", 672, 704, 85.5),
        ("tensorflow/efficientnet-l2_475.noisystudent", "efficientnet_l2", 475, 507, 88.2),
    ],
)
def test_published_records(name, network, crop, resize, top1):
    record = find(name)
    assert (record.network, record.preprocess.crop, record.preprocess.resize, record.top1) == (network, crop, resize, top1)


FAMILIES = ("efficientnet", "efficientnet_lite", "efficientnet_edgetpu", "efficientnet_condconv", "efficientnetv2")
GOOGLES = [name for name, each in rows().items() if each.family in FAMILIES]


@pytest.mark.parametrize("name", GOOGLES)
def test_a_row_has_the_preprocessing_of_the_file_that_its_top1_is_of(name):
    own = [r for r in records() if r.name.startswith("tensorflow/") and r.network == name and r.top1 == row(name).top1]
    assert {record.preprocess for record in own} == {row(name).preprocess}


def test_pycls_expects_blue_first_and_phiscale_turns_it(tmp_path, monkeypatch):
    monkeypatch.setenv("PHISCALE_CACHE", str(tmp_path))
    record = find("pycls/EN-B0_dds_8gpu")
    assert record.channels == "bgr"
    model = phiscale.create_model("efficientnet_b0", seed=0)
    from phiscale.weights.dialects import DIALECTS, key_map

    path = cached_path(record.files[0][0], record.name)
    path.parent.mkdir(parents=True)
    names = key_map(model.spec, DIALECTS["pycls"])
    torch.save({"model_state": {names[key]: value for key, value in model.state_dict().items()}}, path)
    state, _ = pretrained("efficientnet_b0", weights=record.name)
    assert torch.equal(state["stem.0.conv.weight"], model.state_dict()["stem.0.conv.weight"].flip(1))
    assert phiscale.create_model("efficientnet_b0", weights=record).spec.padding == "symmetric"


def test_an_address_on_record_brings_what_the_record_says(tmp_path, monkeypatch):
    """timm's two networks of one shape: from a bare file nobody could tell which it is, from its published address one can."""
    monkeypatch.setenv("PHISCALE_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    model = phiscale.create_model("efficientnet_b0", seed=0)
    for name in ("timm/efficientnet_b0.ra_in1k", "timm/tf_efficientnet_b0.aa_in1k"):
        record = find(name)
        address = record.files[0][0]
        path = cached_path(address, record.name)
        path.parent.mkdir(parents=True)
        save_file(to_dialect(model.state_dict(), model.spec, "timm"), path)
        loaded = phiscale.load_weights(phiscale.create_model("efficientnet_b0"), address)
        assert (loaded.record, loaded.numerics) == (record, record.numerics)
        other = "tf" if record.numerics == TORCH else "torch"
        with pytest.raises(ArgumentError, match=f"{name} computes with .*leave numerics out"):
            phiscale.create_model("efficientnet_b0", weights=name, numerics=other)


@pytest.mark.parametrize("weights", [True, 1, b"a.pth"])
def test_weights_of_a_wrong_type_are_refused(weights):
    with pytest.raises(ArgumentError, match='weights must be None, "auto", a name, an address, a path or a Record; got'):
        phiscale.create_model("efficientnet_test", weights=weights)


def test_auto_prefers_what_is_at_hand_then_the_best_published(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    from phiscale.architecture.catalog import design
    from phiscale.weights.models import best

    monkeypatch.setenv("PHISCALE_CACHE", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    spec = design("efficientnet_b0").spec
    assert best(spec).name == "timm/efficientnet_b0.ra4_e3600_r224_in1k"
    weaker = find("lukemelas/efficientnet-b0")
    path = cached_path(weaker.files[0][0], weaker.name)
    path.parent.mkdir(parents=True)
    model = phiscale.create_model("efficientnet_b0", seed=0)
    torch.save(to_dialect(model.state_dict(), model.spec, "efficientnet_pytorch"), path)
    assert best(spec) == weaker
    assert at_hand(weaker) == path
    caplog.set_level("INFO", "phiscale")
    assert torch.equal(phiscale.create_model("efficientnet_b0", weights="auto").head.conv.weight, model.head.conv.weight)
    assert "lukemelas/efficientnet-b0" in caplog.text
    assert check(path, "")


def test_weights_of_no_known_network_are_listed_but_not_loaded():
    unbuilt = {record.name: record.lacks for record in records() if not record.network}
    assert unbuilt == {record.name: record.lacks for record in records() if record.lacks}
    assert {name.partition("/")[2].partition(".")[0] for name in unbuilt} == {
        "gc_efficientnetv2_rw_t",
        "test_efficientnet_evos",
        "test_efficientnet_gn",
        "test_efficientnet_ln",
    }
    for name, lacks in unbuilt.items():
        with pytest.raises(WeightsError, match=f"{name} are of a network that phiscale can't build: it has {lacks}"):
            phiscale.create_model("efficientnet_b1", weights=name)
    with pytest.raises(ArgumentError, match="did you mean"):
        find("timm/efficientnet_b0.ra")
