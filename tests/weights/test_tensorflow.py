"""Official TF checkpoints: written here, byte by byte, with the official names; and Keras files, written by Keras."""

import os
import struct
import tarfile
import warnings

import numpy as np
import pytest
import torch

import phiscale
from phiscale.architecture import blocks
from phiscale.architecture.catalog import design
from phiscale.errors import WeightsError
from phiscale.nn import Network
from phiscale.weights.tf_checkpoint import _masked_crc, read_checkpoint


def varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def field(number: int, value: int | bytes) -> bytes:
    if isinstance(value, bytes):
        return varint(number << 3 | 2) + varint(len(value)) + value
    return varint(number << 3) + varint(value)


def block(entries: list[tuple[bytes, bytes]], every: int = 16) -> bytes:
    """A table's block, its keys sharing beginnings between restarts, as LevelDB's builder writes it."""
    out, restarts, last = bytearray(), [], b""
    for number, (key, value) in enumerate(entries):
        shared = 0
        if number % every == 0:
            restarts.append(len(out))
        else:
            shared = next((n for n, (a, b) in enumerate(zip(last, key, strict=False)) if a != b), min(len(last), len(key)))
        out += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        last = key
    out += b"".join(struct.pack("<I", restart) for restart in restarts or [0]) + struct.pack("<I", max(len(restarts), 1))
    return bytes(out)


def write_checkpoint(prefix, variables: dict[str, np.ndarray]) -> None:
    data, entries = bytearray(), [(b"", field(1, 1))]
    for name in sorted(variables):
        value = variables[name]
        shape = b"".join(field(2, field(1, size)) for size in value.shape)
        dtype = {"float32": 1, "int64": 9}[str(value.dtype)]
        entry = field(1, dtype) + field(2, shape) + field(4, len(data)) + field(5, value.nbytes)
        entries.append((name.encode(), entry))
        data += value.tobytes()
    table, handles = bytearray(), []

    def put(content: bytes) -> bytes:
        handle = varint(len(table)) + varint(len(content))
        table.extend(content + b"\0" + struct.pack("<I", _masked_crc(content + b"\0")))
        return handle

    for start in range(0, len(entries), 40):
        part = entries[start : start + 40]
        handles.append((part[-1][0], put(block(part))))
    footer = put(block([])) + put(block(handles, 1))
    table += footer.ljust(40, b"\0") + struct.pack("<Q", 0xDB4775248B80FB57)
    prefix.with_name(prefix.name + ".index").write_bytes(table)
    prefix.with_name(prefix.name + ".data-00000-of-00001").write_bytes(data)


def test_the_checksum_is_crc_32c():
    crc = 0xE3069283  # of "123456789": RFC 3720, B.4, and every catalogue of CRCs
    assert _masked_crc(b"123456789") == (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def official_b0(state, classes: int) -> dict[str, np.ndarray]:
    """Lite0's or B0's tensors under the names that tensorflow/tpu's scopes give them, in TF's axis orders."""
    out: dict[str, torch.Tensor] = {}

    def conv(theirs, ours, depthwise=False):
        weight = state[f"{ours}.weight"]
        axes, leaf = ((2, 3, 0, 1), "depthwise_kernel") if depthwise else ((2, 3, 1, 0), "kernel")
        out[f"{theirs}/{leaf}"] = weight.permute(axes)
        if f"{ours}.bias" in state:
            out[f"{theirs}/bias"] = state[f"{ours}.bias"]

    def norm(theirs, ours):
        for leaf, mine in (("gamma", "weight"), ("beta", "bias"), ("moving_mean", "running_mean"), ("moving_variance", "running_var")):
            out[f"{theirs}/{leaf}"] = state[f"{ours}.{mine}"]

    conv("stem/conv2d", "stem.0.conv")
    norm("stem/tpu_batch_normalization", "stem.0.bn")
    number = 0
    for stage, depth in enumerate((1, 2, 2, 3, 3, 4, 1)):
        for position in range(depth):
            ours, theirs = f"stages.{stage}.{position}", f"blocks_{number}"
            number += 1
            if stage == 0:  # no expansion
                conv(f"{theirs}/depthwise_conv2d", f"{ours}.depthwise.conv", depthwise=True)
                norm(f"{theirs}/tpu_batch_normalization", f"{ours}.depthwise.bn")
                conv(f"{theirs}/conv2d", f"{ours}.project.conv")
                norm(f"{theirs}/tpu_batch_normalization_1", f"{ours}.project.bn")
            else:
                conv(f"{theirs}/conv2d", f"{ours}.expand.conv")
                norm(f"{theirs}/tpu_batch_normalization", f"{ours}.expand.bn")
                conv(f"{theirs}/depthwise_conv2d", f"{ours}.depthwise.conv", depthwise=True)
                norm(f"{theirs}/tpu_batch_normalization_1", f"{ours}.depthwise.bn")
                conv(f"{theirs}/conv2d_1", f"{ours}.project.conv")
                norm(f"{theirs}/tpu_batch_normalization_2", f"{ours}.project.bn")
            if f"{ours}.se.reduce.weight" in state:
                conv(f"{theirs}/se/conv2d", f"{ours}.se.reduce")
                conv(f"{theirs}/se/conv2d_1", f"{ours}.se.expand")
    conv("head/conv2d", "head.conv")
    norm("head/tpu_batch_normalization", "head.bn")
    out["head/dense/kernel"], out["head/dense/bias"] = state["classifier.weight"].T, state["classifier.bias"]
    if classes == 1001:  # class 0 is "background"
        out["head/dense/kernel"] = torch.cat([torch.full((1280, 1), 7.0), out["head/dense/kernel"]], 1)
        out["head/dense/bias"] = torch.cat([torch.full((1,), 7.0), out["head/dense/bias"]])
    return {f"efficientnet-b0/{name}": value.numpy() for name, value in out.items()}


@pytest.fixture(scope="module")
def b0_state():
    torch.manual_seed(0)
    state = Network(design("efficientnet_b0").spec).state_dict()
    for key, value in state.items():
        if "running" in key:
            value.uniform_(0.1, 1)
    return state


def trained(variables: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """As training leaves it: averages are the weights to use, beside the last step's, the optimiser's and a counter."""
    found = {"global_step": np.array(218949, np.int64)}
    for name, value in variables.items():
        found[f"{name}/ExponentialMovingAverage"] = value
        found[name] = value + 1
        if "moving" not in name:
            found[f"{name}/RMSProp"] = found[f"{name}/RMSProp_1"] = value
    return found


def same(model: Network, state) -> bool:
    return all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


def test_a_checkpoint_with_official_names_loads_its_averages(tmp_path, b0_state):
    write_checkpoint(tmp_path / "model.ckpt", trained(official_b0(b0_state, 1000)))
    model = phiscale.create_model("efficientnet_b0")
    loaded = phiscale.load_weights(model, tmp_path / "model.ckpt")
    assert loaded.dialect == "tensorflow"
    assert same(model, b0_state)
    for other in (tmp_path, tmp_path / "model.ckpt.index"):
        phiscale.load_weights(model, other)


def test_a_condconv_checkpoint_loads_its_experts(tmp_path):
    """Names as condconv_layers.py gives them: Keras's layers, numbered over the network; an expert is a flat HWIO kernel."""
    spec = design("efficientnet_cc_b0_4e").spec
    torch.manual_seed(0)
    state = Network(spec).state_dict()
    variables = official_b0({key: value[0] if value.ndim == 5 else value for key, value in state.items()}, 1000)
    variables = {name.replace("efficientnet-b0/", "efficientnet-condconv-b0-4e/"): value for name, value in variables.items()}
    count = 0
    for plan in (block for block in blocks(spec) if block.experts):
        scope = f"efficientnet-condconv-b0-4e/blocks_{plan.index}"
        for theirs, part, axes, place in (
            ("conv2d/kernel", "expand", (0, 3, 4, 2, 1), "cond_conv2d{}/condconv_kernel"),
            ("conv2d_1/kernel", "project", (0, 3, 4, 2, 1), "cond_conv2d{}/condconv_kernel"),
            ("depthwise_conv2d/depthwise_kernel", "depthwise", (0, 3, 4, 1, 2), "depthwise_cond_conv2d{}/depthwise_condconv_kernel"),
        ):
            del variables[f"{scope}/{theirs}"]
            number = count // 2 if part == "depthwise" else count + (part == "project")
            name = place.format(f"_{number}" if number else "")
            flat = state[f"{plan.name}.{part}.conv.weight"].permute(axes).flatten(1)
            variables[f"{scope}/{name}"] = flat.contiguous().numpy()
        count += 2
        variables[f"{scope}/dense/kernel"] = state[f"{plan.name}.routing.weight"].T.contiguous().numpy()
        variables[f"{scope}/dense/bias"] = state[f"{plan.name}.routing.bias"].numpy()
    write_checkpoint(tmp_path / "model.ckpt", trained(variables))
    model = phiscale.create_model("efficientnet_cc_b0_4e")
    assert phiscale.load_weights(model, tmp_path / "model.ckpt").dialect == "tensorflow"
    assert same(model, state)


def test_the_background_class_is_dropped_and_archives_are_read_in_place(tmp_path, b0_state):
    write_checkpoint(tmp_path / "model.ckpt", official_b0(b0_state, 1001))
    archive = tmp_path / "efficientnet-b0.tar.gz"
    with tarfile.open(archive, "w:gz", compresslevel=1) as tar:
        for path in tmp_path.glob("model.ckpt*"):
            tar.add(path, f"efficientnet-b0/{path.name}")
    model = phiscale.create_model("efficientnet_b0")
    phiscale.load_weights(model, archive)
    assert same(model, b0_state)


@pytest.mark.parametrize(
    ("file", "damage", "says"),
    [
        ("model.ckpt.index", lambda raw: raw[:-100], "no table footer"),
        ("model.ckpt.index", lambda raw: raw[:200] + b"\xff" + raw[201:], "checksum"),
        ("model.ckpt.data-00000-of-00001", lambda raw: raw[:-4], "has .* bytes"),
        ("model.ckpt.data-00000-of-00001", None, r"data-00000-of-00001 can't be read"),
    ],
)
def test_a_damaged_checkpoint_is_refused(tmp_path, file, damage, says):
    write_checkpoint(tmp_path / "model.ckpt", {f"v{n}": np.ones((3, 4), np.float32) for n in range(50)})
    assert len(read_checkpoint(tmp_path / "model.ckpt")) == 50
    path = tmp_path / file
    if damage is None:
        path.unlink()
    else:
        path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(WeightsError, match=says):
        read_checkpoint(tmp_path / "model.ckpt")


def keras_applications():
    os.environ.setdefault("KERAS_BACKEND", "torch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # theirs, at import
        return pytest.importorskip("keras").applications


@pytest.mark.slow
@pytest.mark.parametrize(("theirs", "ours"), [("EfficientNetB0", "efficientnet_b0"), ("EfficientNetV2B0", "efficientnetv2_b0")])
@torch.inference_mode()
def test_keras_files_of_every_kind_give_keras_s_logits(tmp_path, theirs, ours):
    applications = keras_applications()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        extra = {"include_preprocessing": False} if "V2" in theirs else {}
        peer = getattr(applications, theirs)(weights=None, input_shape=(64, 64, 3), classifier_activation=None, **extra)
        generator = np.random.default_rng(0)
        for weight in peer.weights:
            if "normalization/" in weight.path and "batch" not in weight.path:
                continue  # the input's: mean 0, variance 1
            if "variance" in weight.path:
                weight.assign(generator.uniform(0.1, 1, weight.shape))
            elif "gamma" in weight.path:
                weight.assign(generator.uniform(0.4, 0.8, weight.shape))
            elif len(weight.shape) == 1:
                weight.assign(generator.normal(0, 0.1, weight.shape))
        images = generator.normal(0, 1, (2, 64, 64, 3)).astype(np.float32)
        expected = torch.as_tensor(np.asarray(peer(images if extra else images * 255, training=False).detach()))
        files = [tmp_path / "whole.h5", tmp_path / "whole.keras", tmp_path / "only.weights.h5"]
        peer.save(files[0])
        peer.save(files[1])
        peer.save_weights(files[2])
    inputs = torch.from_numpy(images).permute(0, 3, 1, 2)
    for path in files:
        model = phiscale.create_model(ours).eval()
        phiscale.load_weights(model, path)
        # Keras folds nothing but pools and multiplies channels-last: other orders of summation. Seen: 3e-6
        assert ((model(inputs) - expected).abs().max() / expected.abs().max()).item() < 1e-5
