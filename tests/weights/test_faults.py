"""Broken, foreign and hostile files: one kind of error, with the path and the reason, and nothing of them runs."""

import io
import json
import os
import struct
import zipfile

import pytest
import torch

import phiscale
from phiscale.architecture import NetworkSpec, Stage, Stem
from phiscale.errors import WeightsError
from phiscale.nn import Network
from phiscale.weights.files import read_tensors

TINY = NetworkSpec(stages=(Stage(kind="mbconv", depth=1, width=8, expand=2),), stem=Stem(widths=(8,)), head_width=16, num_classes=3)


def torch_file(value) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def safetensors_file(header: dict | bytes, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def bomb() -> bytes:
    """A torch file with its 64 MB of zeros deflated: 65 kB."""
    plain = io.BytesIO(torch_file({"stem.0.conv.weight": torch.zeros(1 << 24)}))
    packed = io.BytesIO()
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as target:
        for member in source.infolist():
            target.writestr(member.filename, source.read(member))
    return packed.getvalue()


F32 = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
TWICE = json.dumps({"a": F32, "b": F32}).replace('"b"', '"a"').encode()
FILES = {
    "empty.pth": (b"", "is empty"),
    "page.pth": (b"<!DOCTYPE html><html>404</html>", "begins with b'<!DOCTYPE'"),
    "text.pth": (b"hello", "begins with b'hello'"),
    "cut.pth": (torch_file(Network(TINY).state_dict())[:5000], "not a readable weight file"),
    "list.pth": (torch_file([1, 2]), "holds a list, not a state_dict"),
    "none.pth": (torch_file({"epoch": 3}), "holds no tensors"),
    "bomb.pth": (bomb(), "would unpack to 64 MiB"),
    "cut.safetensors": (safetensors_file({"a": F32})[:20], "not a readable safetensors file"),
    "short.safetensors": (safetensors_file({"a": F32}, b"1234"), "not a readable safetensors file"),
    "long.safetensors": (safetensors_file({"a": F32}, b"12345678more"), "not a readable safetensors file"),
    "huge.safetensors": (safetensors_file(b"{}", length=1 << 63), "not a readable safetensors file"),
    "overlap.safetensors": (
        safetensors_file({"a": F32, "b": {**F32, "data_offsets": [4, 12]}}, b"123456789abc"),
        "not a readable safetensors file",
    ),
    "overflow.safetensors": (safetensors_file({"a": {**F32, "shape": [1 << 62, 8]}}, b"12345678"), "not a readable safetensors file"),
    "twice.safetensors": (safetensors_file(TWICE, b"12345678"), "no project that phiscale knows|not a readable"),
    "cut.h5": (b"\x89HDF\r\n\x1a\n" + b"\0" * 100, "not a readable Keras file"),
    "cut.tar.gz": (b"\x1f\x8b\x08\x00garbage", "not a readable archive"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_broken_file_is_one_kind_of_error(tmp_path, name):
    content, says = FILES[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match=says) as caught:
        phiscale.load_weights(phiscale.create_model(TINY), tmp_path / name)
    assert name in str(caught.value)


def test_folders_and_absent_files_are_said(tmp_path):
    with pytest.raises(WeightsError, match="folder without a saved model"):
        read_tensors(tmp_path)
    with pytest.raises(WeightsError, match="no weight file"):
        read_tensors(tmp_path / "absent.pth")


def test_every_cut_of_a_file_is_refused(tmp_path):
    content = torch_file({"a": torch.arange(100.0)})
    for length in range(1, len(content), 97):
        path = tmp_path / "w.pth"
        path.write_bytes(content[:length])
        with pytest.raises(WeightsError):
            read_tensors(path)


@pytest.mark.parametrize("protocol", [2, 4])
def test_payloads_do_not_run(tmp_path, protocol):
    marker = tmp_path / "ran"

    class Payload:
        def __reduce__(self):
            return (os.system, (f"touch {marker}",))

    import pickle

    for name, content in (("zip.pth", torch_file({"a": Payload()})), ("plain.pth", pickle.dumps({"a": Payload()}, protocol))):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(WeightsError):
            phiscale.load_weights(phiscale.create_model(TINY), tmp_path / name)
    assert not marker.exists()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(tmp_path, value):
    state = Network(TINY).state_dict()
    state["head.bn.running_var"][3] = value
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"head\.bn\.running_var holds values that are not finite"):
        phiscale.load_weights(phiscale.create_model(TINY), tmp_path / "w.pth")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_become_single(tmp_path, dtype):
    state = {key: value.to(dtype) if value.is_floating_point() else value for key, value in Network(TINY).state_dict().items()}
    torch.save(state, tmp_path / "w.pth")
    model = phiscale.create_model(TINY, weights=tmp_path / "w.pth")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert torch.equal(model.head.conv.weight, state["head.conv.weight"].float())


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_prefixes_of_wrappers_are_taken_off(tmp_path, prefix):
    state = Network(TINY).state_dict()
    torch.save({"epoch": 1, "state_dict": {prefix + key: value for key, value in state.items()}}, tmp_path / "w.pth")
    assert set(read_tensors(tmp_path / "w.pth")) == set(state)


def test_averaged_weights_come_first(tmp_path):
    state = Network(TINY).state_dict()
    averaged = {key: value + 1 for key, value in state.items()}
    torch.save({"state_dict": state, "state_dict_ema": averaged}, tmp_path / "w.pth")
    assert torch.equal(read_tensors(tmp_path / "w.pth")["classifier.bias"], averaged["classifier.bias"])


@torch.inference_mode()
def test_published_kinds_of_file_load_by_one_call(tmp_path):
    """A torchvision V2-S and a timm V2-B0, as their authors save them."""
    timm = pytest.importorskip("timm")
    import torchvision
    from safetensors.torch import save_file

    cases = (
        ("efficientnetv2_s", torchvision.models.efficientnet_v2_s(), lambda state, path: torch.save(state, path), "v2s.pth"),
        ("efficientnetv2_b0", timm.create_model("tf_efficientnetv2_b0"), save_file, "model.safetensors"),
    )
    images = torch.randn(1, 3, 64, 65)
    for name, peer, save, file in cases:
        save(peer.eval().state_dict(), tmp_path / file)
        model = phiscale.create_model(name).eval()
        phiscale.load_weights(model, tmp_path / file)
        expected = peer(images)
        assert ((model(images) - expected).abs().max() / expected.abs().max()).item() < 1e-5
