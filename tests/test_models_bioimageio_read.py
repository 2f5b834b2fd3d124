"""Packages of the BioImage Model Zoo, compared with NumPy on the whole image; and what is refused of them."""

import json
import stat
import zipfile
from hashlib import sha256

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
ort = pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")
pytest.importorskip("yaml", reason="PyYAML is not installed")

from onnx import helper, numpy_helper  # noqa: E402

import tiledseg as ts  # noqa: E402
from tiledseg.config import StepsConfig  # noqa: E402
from tiledseg.errors import ArrayError, BundleError, SettingError  # noqa: E402

TILING = {"tile_size": 32, "overlap": "exact"}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))


def network(classes=2):
    """A convolution of 3 channels, as a file of ONNX."""
    kernel = np.random.default_rng(0).normal(0, 0.3, (classes, 3, 3, 3)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "k"], ["y"], pads=[1, 1, 1, 1])],
        "graph",
        [helper.make_tensor_value_info("x", 1, ["n", 3, "h", "w"])],
        [helper.make_tensor_value_info("y", 1, ["n", classes, "h", "w"])],
        [numpy_helper.from_array(kernel, "k")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return model.SerializeToString()


def step(name, **kwargs):
    return {"id": name, "kwargs": kwargs}


def described(before=(), after=(), classes=2):
    """Describe a network of 3 channels."""
    names = [{"type": "channel", "channel_names": [f"k{i}" for i in range(n)]} for n in (3, classes)]
    sizes = [{axis: {"min": 8, "step": 1} for axis in "yx"}]
    sizes.append({axis: {"tensor_id": "raw", "axis_id": axis} for axis in "yx"})
    axes = [
        [{"type": "batch"}, name, *({"type": "space", "id": axis, "size": size[axis]} for axis in "yx")]
        for name, size in zip(names, sizes, strict=True)
    ]
    return {
        "type": "model",
        "format_version": "0.5.4",
        "inputs": [
            {"id": "raw", "axes": axes[0], "data": {"type": "float32"}, "preprocessing": list(before)}
        ],
        "outputs": [{"id": "map", "axes": axes[1], "postprocessing": list(after)}],
        "weights": {"onnx": {"source": "net.onnx", "sha256": sha256(network(classes)).hexdigest()}},
    }


def package(path, record, files=None):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("rdf.yaml", record if isinstance(record, str) else json.dumps(record))
        for name, content in (files or {"net.onnx": network()}).items():
            archive.writestr(name, content)
    return path


def whole(pixels, classes=2):
    """Run the network on a whole image (H, W, 3)."""
    session = ort.InferenceSession(network(classes))
    tiles = np.ascontiguousarray(pixels.astype(np.float32).transpose(2, 0, 1))[None]
    return session.run(None, {"x": tiles})[0][0].transpose(1, 2, 0).astype(np.float64)


def sigmoid(values):
    return 0.5 * (1 + np.tanh(0.5 * values))


def standardized(image, axes, eps=1e-6):
    return (image - image.mean(axes)) / (image.std(axes) + eps)


def ranged(image, axes, low, high):
    below, above = np.quantile(image, [low / 100, high / 100], axis=axes)
    return (image - below) / (above - below + 1e-6)


BEFORE = {
    "per channel": ([step("zero_mean_unit_variance", axes=["y", "x"])], lambda x: standardized(x, (0, 1))),
    "jointly": (
        [step("zero_mean_unit_variance", axes=["channel", "y", "x"])],
        lambda x: standardized(x, None),
    ),
    "of a dataset": ([step("zero_mean_unit_variance")], lambda x: standardized(x, None)),
    "percentiles, then clip": (
        [
            step("scale_range", axes=["y", "x"], min_percentile=2, max_percentile=99.8),
            step("clip", min=0, max=1),
        ],
        lambda x: ranged(x, (0, 1), 2, 99.8).clip(0, 1),
    ),
    "fixed": (
        [step("fixed_zero_mean_unit_variance", axis="channel", mean=[90, 100, 110], std=[20, 30, 40])],
        lambda x: (x - np.array([90, 100, 110])) / (np.array([20, 30, 40]) + 1e-6),
    ),
    "letters for axes, a clip of percentiles": (
        [step("clip", axes="bcyx", min_percentile=5, max_percentile=90)],
        lambda x: x.clip(*np.quantile(x, [0.05, 0.9], method="inverted_cdf")),
    ),
    "statistics of the image as it is": (
        [step("scale_linear", gain=0.5), step("zero_mean_unit_variance", axes=["y", "x"])],
        lambda x: (x / 2 - x.mean((0, 1))) / (x.std((0, 1)) + 1e-6),
    ),
}


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("name", BEFORE)
def test_streamed_statistics_are_those_of_the_whole_image(name, dtype, tmp_path):
    steps, prepared = BEFORE[name]
    rng = np.random.default_rng(1)
    image = (rng.normal(100, 30, (70, 90, 3)).clip(0, 255) * (3 if dtype == "uint16" else 1)).astype(dtype)
    segmenter = ts.load_model(package(tmp_path / "a.zip", described(steps, [step("sigmoid")])))
    assert segmenter.labels == ("k0", "k1")
    found = ts.tiled_predict(segmenter, image, TILING)
    expected = sigmoid(whole(prepared(image.astype(np.float64))))
    np.testing.assert_allclose(found, expected, atol=1e-4)  # either engine: sums of 500 round by 5e-5


def test_percentiles_of_numbers_of_64_bits_are_refused(tmp_path):
    steps = [step("scale_range", axes=["y", "x"], min_percentile=2, max_percentile=98)]
    segmenter = ts.load_model(package(tmp_path / "a.zip", described(steps, [step("sigmoid")])))
    with pytest.raises(ArrayError, match="Convert it to float32 or uint16 first"):
        ts.tiled_predict(segmenter, np.zeros((40, 50, 3)), TILING)


def test_an_image_is_read_block_by_block(tmp_path):
    """An image that is far larger than what is read at once is never read as a whole."""

    class Source:
        shape, dtype, largest = (600, 4400, 3), np.dtype(np.uint8), 0

        def __getitem__(self, key):
            rows, columns = (range(*one.indices(n)) for one, n in zip(key, self.shape, strict=False))
            self.largest = max(self.largest, len(rows) * len(columns))
            y, x = np.ix_(rows, columns)
            return np.repeat(((y * 7 + x * 13) % 251).astype(np.uint8)[..., None], 3, axis=2)

    steps = [step("scale_range", axes=["y", "x"], min_percentile=1, max_percentile=99)]
    segmenter = ts.load_model(package(tmp_path / "a.zip", described(steps, [step("sigmoid")])))
    source = Source()
    roi = np.zeros((600, 4400), bool)
    roi[300:310, 1000:1010] = True
    ts.tiled_predict(segmenter, source, {"tile_size": 512, "overlap": 16}, roi=roi)
    assert 0 < source.largest <= 512 * 4096


def test_steps_after_the_network_are_part_of_it(tmp_path):
    image = np.random.default_rng(2).random((40, 50, 3), np.float32)
    after = [
        step("scale_linear", axis="channel", gain=[0.1, 0.2], offset=[0.5, 0.4]),
        step("clip", max=1),
        step("clip", min=0),
        step("ensure_dtype", dtype="float32"),
    ]
    segmenter = ts.load_model(package(tmp_path / "a.zip", described((), after)))
    wanted = (whole(image) * [0.1, 0.2] + [0.5, 0.4]).clip(0, 1)
    np.testing.assert_allclose(segmenter.predict(image, TILING), wanted, atol=1e-6)
    softmax = ts.load_model(package(tmp_path / "b.zip", described((), [step("softmax", axis="channel")])))
    np.testing.assert_allclose(softmax.predict(image, TILING).sum(2), 1, atol=1e-6)


def test_binarize_is_the_threshold_and_a_saved_package_is_a_bundle(tmp_path):
    image = np.random.default_rng(3).random((40, 50, 3), np.float32)
    record = described(
        [step("scale_linear", gain=2.0)], [step("sigmoid"), step("binarize", threshold=0.6)], 1
    )
    segmenter = ts.load_model(package(tmp_path / "a.zip", record, {"net.onnx": network(1)}))
    wanted = sigmoid(whole(2 * image, 1))[..., 0] > 0.6
    again = ts.load_model(segmenter.save(tmp_path / "bundle"))
    assert isinstance(again.preprocessing, StepsConfig)
    for one in (segmenter, again):
        np.testing.assert_array_equal(one.predict(image, TILING, output="mask") > 0, wanted)


def test_a_folder_and_its_description_are_packages_too(tmp_path):
    with zipfile.ZipFile(package(tmp_path / "a.zip", described((), [step("sigmoid")]))) as archive:
        archive.extractall(tmp_path / "folder")
    for path in (tmp_path / "folder", tmp_path / "folder" / "rdf.yaml"):
        assert ts.load_model(path).labels == ("k0", "k1")


def changed(change, **kwargs):
    record = described(**kwargs)
    change(record)
    return record


def with_steps(*before, after=()):
    return lambda r: (
        r["inputs"][0].update(preprocessing=list(before)) if before else None,
        r["outputs"][0].update(postprocessing=list(after)) if after else None,
    )


REFUSED = {
    "unknown step": (lambda r: r["inputs"][0].update(preprocessing=[step("stardist")]), "stardist"),
    "unknown argument": (lambda r: r["inputs"][0].update(preprocessing=[step("clip", low=1)]), "low"),
    "half a statistic": (
        lambda r: r["inputs"][0].update(preprocessing=[step("scale_range", axes=["y"])]),
        "over y and x",
    ),
    "statistic of the output": (
        lambda r: r["outputs"][0].update(postprocessing=[step("scale_range", axes=["y", "x"])]),
        "statistic of the whole output",
    ),
    "a volume": (
        lambda r: r["inputs"][0]["axes"].insert(2, {"type": "space", "id": "z", "size": 16}),
        "space axis 'z'",
    ),
    "two inputs": (lambda r: r["inputs"].append(r["inputs"][0]), "2 inputs"),
    "torch weights": (lambda r: r.update(weights={"torchscript": {"source": "a.pt"}}), "torchscript"),
    "untrusted keras": (lambda r: r.update(weights={"keras_v3": {"source": "a.keras"}}), "trust"),
    "an address": (lambda r: r["weights"]["onnx"].update(source="https://a/b.onnx"), "https://a/b.onnx"),
    "a way out": (lambda r: r["weights"]["onnx"].update(source="../net.onnx"), r"\.\./net\.onnx"),
    "no such file": (lambda r: r["weights"]["onnx"].update(source="other.onnx"), "other.onnx"),
    "another digest": (lambda r: r["weights"]["onnx"].update(sha256="0" * 64), "digest"),
    "an old version": (lambda r: r.update(format_version="0.4.9"), r"0\.4\.9"),
    "another type": (lambda r: r.update(type="dataset"), "dataset"),
    "no axes": (lambda r: r["inputs"][0].pop("axes"), "axes"),
    "a type that is a mapping": (lambda r: r["inputs"][0]["axes"][0].update(type={}), "right types"),
    "no list of steps": (lambda r: r["inputs"][0].update(preprocessing={"a": 1}), "a list of steps"),
    "no dtype": (with_steps(step("ensure_dtype", dtype="complex64")), "name a dtype; got complex64"),
    "another axis": (with_steps(step("scale_linear", axis="y")), "along the channels; got y"),
    "too few deviations": (
        with_steps(step("fixed_zero_mean_unit_variance", mean=[1, 2, 3], std=[1, 0, 1])),
        "as many positive std",
    ),
    "limits of two kinds": (with_steps(step("clip", min=0, max_percentile=9)), "limits, or two percentiles"),
    "falling percentiles": (
        with_steps(step("scale_range", min_percentile=9, max_percentile=5)),
        "rising percentiles",
    ),
    "a step after the threshold": (
        with_steps(after=(step("binarize", threshold=0.5), step("sigmoid"))),
        "binarize as the last step; got sigmoid",
    ),
    "thresholds of two classes": (
        with_steps(after=(step("sigmoid"), step("binarize", threshold=0.5))),
        "one threshold in",
    ),
    "no tensors": (lambda r: r.update(inputs=[]), "a list of tensors"),
    "no names": (lambda r: r["outputs"][0]["axes"][1].update(channel_names=[]), "a list of names"),
    "axes in another order": (lambda r: r["inputs"][0]["axes"].reverse(), "order batch, channel, y, x"),
    "an output in another order": (lambda r: r["outputs"][0]["axes"].reverse(), "the axes of the input"),
    "an output that is not there": (
        lambda r: r["outputs"].insert(0, r["outputs"][0] | {"id": "first"}),
        "the output 1 that",
    ),
    "a smaller map": (lambda r: r["outputs"][0]["axes"][2]["size"].update(offset=-8), "offset"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_followed_is_refused_by_its_name(case, tmp_path):
    change, text = REFUSED[case]
    with pytest.raises(BundleError, match=text):
        ts.load_model(
            package(tmp_path / "a.zip", changed(change)), output="map" if "output that" in case else None
        )
    assert not list(tmp_path.glob("cache/**/*.onnx"))


BOMB = "a0: &a0 [1]\n" + "".join(f"a{i + 1}: &a{i + 1} [{', '.join([f'*a{i}'] * 9)}]\n" for i in range(30))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (BOMB, "references"),
        ("a: &x [*x]", "references"),
        ("a: !!python/object/apply:os.system [ls]", "YAML"),
        ("- 1", "list"),
        ("a: [", "YAML"),
        ("x" * 1_100_000, "1000000"),
    ],
)
def test_descriptions_that_are_none_are_refused(text, found, tmp_path):
    with pytest.raises(BundleError, match=found):
        ts.load_model(package(tmp_path / "a.zip", text))


def test_hostile_zips_are_refused(tmp_path):
    bomb = package(tmp_path / "bomb.zip", described(), {"net.onnx": bytes(30_000_000)})
    with pytest.raises(BundleError, match="compressed"):
        ts.load_model(bomb)
    out = package(tmp_path / "out.zip", described(), {"../evil": b"", "net.onnx": network()})
    with pytest.raises(BundleError, match="inside the package"):
        ts.load_model(out)
    link = zipfile.ZipInfo("net.onnx")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "link.zip", "w") as archive:
        archive.writestr("rdf.yaml", json.dumps(described()))
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(BundleError, match="link"):
        ts.load_model(tmp_path / "link.zip")
    (tmp_path / "cut.zip").write_bytes(bomb.read_bytes()[:200])
    (tmp_path / "empty.zip").write_bytes(b"")
    for name in ("cut.zip", "empty.zip"):
        with pytest.raises(BundleError, match="can be read"):
            ts.load_model(tmp_path / name)
    with zipfile.ZipFile(tmp_path / "many.zip", "w") as archive:
        for number in range(10_001):
            archive.writestr(f"{number}", "")
    with pytest.raises(BundleError, match="at most 10000 files; got 10001"):
        ts.load_model(tmp_path / "many.zip")
    with zipfile.ZipFile(tmp_path / "two.zip", "w") as archive:
        archive.writestr("rdf.yaml", "{}")
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("rdf.yaml", "{}")
    with pytest.raises(BundleError, match="two files of one name"):
        ts.load_model(tmp_path / "two.zip")
    with zipfile.ZipFile(tmp_path / "plain.zip", "w") as archive:
        archive.writestr("a.txt", "")
    with pytest.raises(BundleError, match=r"rdf\.yaml"):
        ts.load_model(tmp_path / "plain.zip")


def test_links_in_a_folder_are_refused(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "rdf.yaml").write_text(json.dumps(described()))
    (tmp_path / "net.onnx").write_bytes(network())
    try:
        (folder / "net.onnx").symlink_to(tmp_path / "net.onnx")
    except OSError:
        pytest.skip("this system makes no links")
    with pytest.raises(BundleError, match="link"):
        ts.load_model(folder)


def test_references_of_yaml_are_followed(tmp_path):
    text = json.dumps(described((), [step("sigmoid")])).replace(
        '"preprocessing": []',
        '"preprocessing": [&cast {"id": "ensure_dtype", "kwargs": {"dtype": "float32"}}, *cast ]',
    )
    assert "*cast" in text
    assert ts.load_model(package(tmp_path / "a.zip", text)).labels == ("k0", "k1")


def test_one_of_several_outputs_is_chosen_by_its_name(tmp_path):
    record = described((), [step("sigmoid")])
    record["outputs"].append(record["outputs"][0] | {"id": "other"})
    path = package(tmp_path / "a.zip", record)
    with pytest.raises(SettingError, match="map"):
        ts.load_model(path)
    assert ts.load_model(path, output="map").labels == ("k0", "k1")
    with pytest.raises(SettingError, match=r"name one of \['map', 'other'\]; got third"):
        ts.load_model(path, output="third")


def test_a_package_of_one_size_and_of_a_threshold_alone(tmp_path):
    record = described((), [step("sigmoid"), step("binarize", threshold=0.6)], 1)
    for place, tensor in enumerate((record["inputs"][0], record["outputs"][0])):
        for axis in tensor["axes"][2:]:
            axis["size"] = 32 if place == 0 else axis["size"]
    segmenter = ts.load_model(package(tmp_path / "a.zip", record, {"net.onnx": network(1)}))
    assert (segmenter.tiling.tile_size, segmenter.tiling.overlap) == ((32, 32), 8)
    assert ts.load_model(package(tmp_path / "b.zip", described())).threshold == 0.5


def test_weights_beside_the_network_come_along(tmp_path):
    onnx.save(
        onnx.load_from_string(network()),
        str(tmp_path / "net.onnx"),
        save_as_external_data=True,
        location="net.data",
        size_threshold=0,
    )
    files = {name: (tmp_path / name).read_bytes() for name in ("net.onnx", "net.data")}
    record = described((), [step("sigmoid")])
    record["weights"]["onnx"] = {
        "source": "net.onnx",
        "external_data": {"source": "net.data", "sha256": sha256(files["net.data"]).hexdigest()},
    }
    image = np.random.default_rng(4).random((40, 50, 3), np.float32)
    segmenter = ts.load_model(package(tmp_path / "a.zip", record, files))
    np.testing.assert_allclose(ts.tiled_predict(segmenter, image, TILING), sigmoid(whole(image)), atol=1e-5)


def test_a_package_is_not_written_from_steps(tmp_path):
    segmenter = ts.load_model(package(tmp_path / "a.zip", described((), [step("sigmoid")])))
    with pytest.raises(SettingError, match="steps"):
        segmenter.export(tmp_path / "b", "bioimageio", {"authors": ("A",), "license": "MIT"})
