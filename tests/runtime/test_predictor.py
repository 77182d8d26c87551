"""A bundle predicts without PyTorch, the same answers as the PyTorch model, and stops at no bad file."""

import itertools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import phiscale
from phiscale.architecture import Design, NetworkSpec, Output, Preprocess, Stage
from phiscale.deploy.bundle import export_bundle
from phiscale.errors import ArgumentError, BundleError, MissingExtraError
from phiscale.nn import Network
from phiscale.runtime import engines
from phiscale.runtime.image import read_image
from phiscale.runtime.predictor import Predictor, load
from phiscale.runtime.transform import to_array

SPEC = NetworkSpec(stages=(Stage(kind="mbconv", depth=2, width=16, stride=2, expand=2, se=0.25),), head_width=32, num_classes=7)
DESIGN = Design(spec=SPEC, resolution=32)
PRE = Preprocess(crop=32, resize=40)
LABELS = tuple("abcdefg")
TEMPERATURE = 0.5
OUTPUT = Output(temperature=TEMPERATURE)
RUNTIMES = engines.installed()
ATOL = 1e-5  # a probability, in float32 against PyTorch


@pytest.fixture(scope="module")
def module() -> Network:
    torch.manual_seed(0)
    made = Network(SPEC).eval()
    torch.nn.init.normal_(made.classifier.weight)  # answers that differ from image to image
    return made


@pytest.fixture(scope="module")
def bundle(module: Network, tmp_path_factory: pytest.TempPathFactory) -> Path:
    state = {key: value.numpy() for key, value in module.state_dict().items()}
    out = tmp_path_factory.mktemp("run") / "bundle"
    return export_bundle(out, design=DESIGN, state=state, preprocess=PRE, labels=LABELS, output=OUTPUT, seconds=0.001)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder, chance = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    made = [folder / f"{number}.png" for number in range(11)]
    for path in made:
        small = Image.fromarray(chance.integers(0, 256, (4, 5, 3), np.uint8))
        small.resize((61, 47), Image.Resampling.BICUBIC).save(path)
    return made


@pytest.fixture(scope="module", params=RUNTIMES)
def predictor(bundle: Path, request: pytest.FixtureRequest) -> Predictor:
    return load(bundle, runtime=request.param, batch=4, threads=1)


def atol(predictor: Predictor) -> float:
    return ATOL if predictor.engine.precision == "f32" else 0.02  # bf16 has 8 bits


def test_the_answers_are_the_modules(predictor: Predictor, module: Network, files: list[Path]) -> None:
    images = np.stack([to_array(read_image(path), PRE) for path in files])
    with torch.no_grad():
        want = (module(torch.from_numpy(images)) / TEMPERATURE).softmax(1).numpy()
    assert np.ptp(want, axis=0).max() > 0.01  # the images are told apart
    for prediction, row in zip(predictor.predict(files, top=7), want, strict=True):
        assert prediction.error is None
        for label, probability in prediction.top:
            assert probability == pytest.approx(row[LABELS.index(label)], abs=atol(predictor))
        chances = [probability for _, probability in prediction.top]
        assert chances == sorted(chances, reverse=True)
        assert sum(chances) == pytest.approx(1, abs=1e-6)


def test_batches_do_not_change_answers(predictor: Predictor, files: list[Path]) -> None:
    whole = [dict(prediction.top) for prediction in predictor.predict(files, top=7)]
    for size in (1, 3, 20):
        for one, other in zip(predictor.predict(files, top=7, batch=size), whole, strict=True):
            assert dict(one.top) == pytest.approx(other, abs=atol(predictor))


def test_every_kind_of_source_gives_the_same(predictor: Predictor, files: list[Path]) -> None:
    image = Image.open(files[0])
    given = predictor.predict([str(files[0]), files[0], files[0].read_bytes(), image, np.asarray(image)])
    assert [prediction.top for prediction in given] == [given[0].top] * 5
    assert [prediction.path for prediction in given] == [str(files[0]), str(files[0]), "image 2", "image 3", "image 4"]
    assert predictor.predict(files[0]) == predictor.predict([files[0]])
    assert predictor.predict([]) == []


def test_bad_files_have_a_code_and_stop_nothing(predictor: Predictor, files: list[Path], tmp_path: Path) -> None:
    text = tmp_path / "text.jpg"
    text.write_text("this is no image")
    cut = tmp_path / "cut.png"
    cut.write_bytes(files[0].read_bytes()[:200])
    sources = [text, files[0], cut, tmp_path / "missing.jpg", b"", np.zeros((5, 5), np.float32), files[1]]
    got = predictor.predict(sources)
    assert [prediction.error is None for prediction in got] == [False, True, False, False, False, False, True]
    assert all(prediction.error and prediction.message and not prediction.top for prediction in got if prediction.label is None)
    assert "text.jpg" in (got[0].message or "")
    assert got[1] == predictor.predict([files[0]])[0]
    assert [prediction.path for prediction in got[:2]] == [str(text), str(files[0])]


def test_files_stream(predictor: Predictor, files: list[Path]) -> None:
    asked = 0

    def endless():
        nonlocal asked
        for path in itertools.cycle(files):
            asked += 1
            yield path

    stream = predictor.stream(endless())
    first = list(itertools.islice(stream, 9))
    stream.close()
    assert len(first) == 9
    assert asked <= 9 + 3 * predictor.batch


def test_top_is_cut_to_the_classes(predictor: Predictor, files: list[Path]) -> None:
    assert len(predictor.predict(files[:1], top=2)[0].top) == 2
    assert len(predictor.predict(files[:1], top=99)[0].top) == len(LABELS)
    for wrong in ({"top": 0}, {"batch": 0}):
        with pytest.raises(ArgumentError, match="at least 1"):
            predictor.predict(files, **wrong)


def test_arrays_of_another_shape_are_refused(predictor: Predictor) -> None:
    with pytest.raises(ArgumentError, match=r"\(N, 3, 32, 32\), got \(2, 3, 33, 32\)"):
        predictor.probabilities(np.zeros((2, 3, 33, 32), np.float32))
    assert predictor.probabilities(np.zeros((0, 3, 32, 32), np.float32)).shape == (0, 7)


def test_a_predictor_says_what_it_is(predictor: Predictor) -> None:
    assert (predictor.labels, predictor.preprocess, predictor.design, predictor.output.temperature) == (LABELS, PRE, DESIGN, TEMPERATURE)
    assert predictor.runtime in RUNTIMES
    assert (predictor.engine.precision, predictor.engine.threads) == ("f32", 1)


def test_the_default_is_the_first_runtime_that_is_installed(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "machine_lacks", lambda: "not here")  # tests/runtime/test_native.py has that default
    assert load(bundle).runtime == RUNTIMES[0]
    monkeypatch.setattr(engines, "find_spec", lambda name: object() if name == "onnxruntime" else None)
    assert load(bundle).runtime == "onnxruntime"
    with pytest.raises(MissingExtraError, match=r"phiscale\[openvino\]"):
        load(bundle, runtime="openvino")
    monkeypatch.setattr(engines, "find_spec", {}.get)
    with pytest.raises(MissingExtraError, match="pip install"):
        load(bundle)
    with pytest.raises(ArgumentError, match="no runtime 'tensorrt'; known: openvino, onnxruntime"):
        load(bundle, runtime="tensorrt")


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_model_that_is_no_model_is_said(runtime: str) -> None:
    with pytest.raises(BundleError, match="can't load the model"):
        engines.open_engine(b"not a model", runtime=runtime)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_predicting_never_imports_torch(bundle: Path, files: list[Path], runtime: str) -> None:
    code = (
        "import sys; sys.modules['torch'] = sys.modules['torchvision'] = None\n"
        f"import phiscale; print(phiscale.load({str(bundle)!r}, runtime={runtime!r}).predict([{str(files[0])!r}])[0].label)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == phiscale.load(bundle, runtime=runtime).predict([files[0]])[0].label


def test_a_png_is_read_by_a_process_that_read_nothing_before(files: list[Path]) -> None:
    code = f"from phiscale.runtime.image import read_image; print(read_image({str(files[0])!r}).size)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "(61, 47)", done.stderr
