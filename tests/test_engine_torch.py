"""PyTorch modules as models; PyTorch is no dependency of the tests."""

import copy

import numpy as np
import pytest

import tiledseg
from tiledseg.errors import FileError, ModelError, SettingError
from tiledseg.io import write_image
from tiledseg.predict import predict_files

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

IMAGE = np.random.default_rng(0).random((150, 130, 3), np.float32)
TILING = {"tile_size": 64, "overlap": 16, "blend": "crop", "alignment": 1}


def module():
    layers = [torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(4, 2, 3, padding=1)]
    return torch.nn.Sequential(*layers).eval()


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize("scripted", [False, True])
def test_a_module_is_run_with_its_channels_first(scripted):
    one = module()
    with torch.no_grad():
        whole = one(torch.from_numpy(IMAGE.transpose(2, 0, 1)[None])).numpy()[0].transpose(1, 2, 0)
    found = tiledseg.tiled_predict(torch.jit.script(one) if scripted else one, IMAGE, TILING)
    np.testing.assert_allclose(found, whole, atol=1e-5)


def test_tiles_of_a_module_start_at_multiples_of_what_most_strides_divide():
    pooled = torch.nn.Sequential(torch.nn.MaxPool2d(32), torch.nn.Upsample(scale_factor=32)).eval()
    image = np.random.default_rng(0).random((900, 1100, 1), np.float32)
    whole = tiledseg.tiled_predict(pooled, image, {"tile_size": (928, 1120), "overlap": 0})
    found = tiledseg.tiled_predict(pooled, image, {"tile_size": 256, "overlap": 50, "blend": "crop"})
    np.testing.assert_array_equal(found[:896, :1088], whole[:896, :1088])  # no px beyond the image
    assert tiledseg.plan(pooled, image, {"alignment": 1}).grid.y.alignment == 1
    with pytest.raises(SettingError, match=r"`alignment` must be stated .* got 14 px"):
        tiledseg.plan(pooled, image, {"tile_size": 64, "overlap": 50})


def test_a_module_in_training_mode_is_refused():
    with pytest.raises(ModelError, match=r"eval\(\)"):
        tiledseg.tiled_predict(module().train(), IMAGE, TILING)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_frozen_and_exported_modules_are_run():
    one = module()
    whole = tiledseg.tiled_predict(one, IMAGE, TILING)
    n, size = torch.export.Dim("n"), torch.export.Dim("h", max=1024)
    example, dims = torch.zeros(2, 3, 64, 48), {0: n, 2: size, 3: torch.export.Dim("w", max=1024)}
    exported = torch.export.export(one, (example,), dynamic_shapes=(dims,)).module()
    for same in (torch.jit.freeze(torch.jit.script(one)), exported):
        np.testing.assert_allclose(tiledseg.tiled_predict(same, IMAGE, TILING), whole, atol=1e-6)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_part_in_training_mode_is_named_also_in_an_exported_module():
    normed = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.BatchNorm2d(4)).eval()
    normed[1].train()
    with pytest.raises(ModelError, match=r"`1` in training mode"):
        tiledseg.tiled_predict(normed, IMAGE, TILING)
    exported = torch.export.export(normed, (torch.zeros(2, 3, 64, 64),)).module()
    with pytest.raises(ModelError, match=r"batch_norm exported in training mode"):
        tiledseg.tiled_predict(exported, IMAGE, TILING)


def test_several_outputs_are_refused_with_the_way_to_export():
    class Several(torch.nn.Module):
        def forward(self, x):
            return {"out": x, "aux": x}

    with pytest.raises(ModelError, match=r"torch\.onnx\.export"):
        tiledseg.tiled_predict(Several().eval(), IMAGE, TILING)


@pytest.mark.parametrize("kind", ["class numbers", "bytes", "complex"])
def test_integers_of_a_module_are_refused_as_those_of_a_function(kind):
    class Coded(torch.nn.Module):
        def forward(self, x):
            made = {
                "class numbers": lambda: 2 * (x[:, 0] > 0.5).long(),
                "bytes": lambda: (x[:, :1] * 255).to(torch.uint8),
                "complex": lambda: x[:, :1] * 1j,
            }
            return made[kind]()

    must = "be one array of real numbers" if kind == "complex" else "be float, or 0 and 1"
    with pytest.raises(ModelError, match=f"`outputs` must {must}"):
        tiledseg.tiled_predict(Coded().eval(), IMAGE, TILING)


@pytest.mark.parametrize(
    ("made", "shape", "fix"),
    [
        (lambda x: x.mean((2, 3)), r"\(1, 3\)", "network for segmentation"),
        (lambda x: x.mean(), r"\(\)", "network for segmentation"),
        (lambda x: x[:, :, None], r"\(1, 3, 1, 64, 64\)", "network for segmentation"),
        (lambda x: x[:, :1].squeeze(), r"\(64, 64\)", "`squeeze` drops that of a batch of one tile"),
    ],
)
def test_a_module_that_returns_no_map_is_told_what_it_returned(made, shape, fix):
    class Made(torch.nn.Module):
        def forward(self, x):
            return made(x)

    with pytest.raises(ModelError, match=rf"must return a map \(N, K, h, w\); got {shape}\. .*{fix}"):
        tiledseg.tiled_predict(Made().eval(), IMAGE, TILING, batch_size=1)


def test_a_module_of_half_precision_may_count_in_whole_numbers():
    class Counted(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.steps = torch.nn.Parameter(torch.zeros(1, dtype=torch.int64), requires_grad=False)
            self.inner = module().half()

        def forward(self, x):
            return self.inner(x)

    assert tiledseg.tiled_predict(Counted().eval(), IMAGE, TILING).shape == (150, 130, 2)


def test_bfloat16_of_a_function_is_told_what_to_return():
    one = module()

    def network(tiles):
        with torch.no_grad():
            return one(torch.from_numpy(tiles).permute(0, 3, 1, 2)).permute(0, 2, 3, 1).bfloat16()

    with pytest.raises(ModelError, match=r"return outputs.float\(\)"):
        tiledseg.tiled_predict(network, IMAGE, TILING)


def test_a_module_that_depends_on_its_batch_is_refused():
    normed = torch.nn.Sequential(module(), torch.nn.BatchNorm2d(2, track_running_stats=False)).eval()
    with pytest.raises(ModelError, match=r"else is in its batch; got `1` without running statistics"):
        tiledseg.tiled_predict(normed, IMAGE, TILING)
    kept = torch.nn.Sequential(module(), torch.nn.BatchNorm2d(2), torch.nn.InstanceNorm2d(2)).eval()
    assert tiledseg.tiled_predict(kept, IMAGE, TILING).shape == (150, 130, 2)


def test_results_of_a_module_are_known_by_its_weights(tmp_path):
    write_image(tmp_path / "a.png", (IMAGE * 255).astype(np.uint8))
    one = torch.nn.Sequential(module(), torch.nn.Softmax(1))
    config = {"existing": "skip", "mask_format": "npy", "resume": True}

    def outcome(model):
        found = predict_files(model.eval(), tmp_path / "a.png", tmp_path / "out", config, tiling=TILING)
        return repr(found)

    assert "1 predicted, 0 skipped" in outcome(one)
    assert "0 predicted, 1 skipped" in outcome(copy.deepcopy(one))
    with torch.no_grad():
        one[0][0].bias += 1
    with pytest.raises(FileError, match="was made with another model"):
        outcome(one)


def test_a_mask_of_a_module_is_blended():
    class Cut(torch.nn.Module):
        def forward(self, x):
            return (x[:, 0] > 0.5).long()

    found = tiledseg.tiled_predict(Cut().eval(), IMAGE, TILING)
    np.testing.assert_array_equal(found[..., 0], IMAGE[..., 0] > 0.5)
