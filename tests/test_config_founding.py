"""The founding experiment's configuration becomes settings of ours; nothing in it is executed."""

from __future__ import annotations

import csv
import shlex
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiledseg.cli import main
from tiledseg.config import (
    AdamConfig,
    BrightnessConfig,
    ElasticConfig,
    FlipConfig,
    LensConfig,
    PlateauConfig,
    RotateConfig,
    RunConfig,
    SharpenConfig,
    WarpConfig,
    ZoomConfig,
    import_founding,
)
from tiledseg.errors import SettingError
from tiledseg.io import read_image
from tiledseg.samples import write_samples

CONFIG = """\
; train_eval_infer.config
[model]
model          = "TensorflowUNet"
generator      = Flase
image_width    = 512
image_height   = 512
image_channels = 3
input_normalize = False
normalization  = False
num_classes    = 1
base_filters   = 16
base_kernels   = (9,9)
num_layers     = 8
dropout_rate   = 0.05
optimizer      = "Adam"
learning_rate  = 0.0001
clipvalue      = 0.5
dilation       = (1,1)
loss           = "bce_dice_loss"
metrics        = ["dice_coef"]
show_summary   = False
activation     = "mish"   ; not relu

[dataset]
datasetclass   = "ImageMaskDataset"
color_order    = "bgr"

[train]
epochs         = 100
batch_size     = 2
steps_per_epoch = 320
validation_steps = 80
patience       = 10
metrics        = ["dice_coef", "val_dice_coef"]
model_dir      = "./models"
save_weights_only = True
eval_dir       = "./eval"
image_datapath = "../dataset/train/images/"
mask_datapath  = "../dataset/train/masks/"
create_backup  = False
learning_rate_reducer = True
reducer_factor = 0.5
reducer_patience = 4
epoch_change_infer = False
epoch_change_tiledinfer = True
epoch_change_tiledinfer_dir = "./epoch_change_tiledinfer"
num_infer_images = 6

[eval]
image_datapath = "../dataset/valid/images/"
mask_datapath  = "../dataset/valid/masks/"

[test]
image_datapath = "../dataset/test/images/"
mask_datapath  = "../dataset/test/masks/"

[infer]
images_dir     = "./mini_test/images/"
output_dir     = "./mini_test_output"

[tiledinfer]
overlapping    = 64
images_dir     = "./mini_test/images/"
output_dir     = "./tiled_mini_test_output"
merged_dir     = "./tiled_mini_test_merged"
threshold      = 127
binarize       = True
algorithm      = "cv2.THRESH_OTSU"
background     = 0

[segmentation]
colorize       = True
black          = "black"
white          = "green"

[image]
color_converter = None
gamma          = 0
sharpening     = 1

[mask]
blur           = False
blur_size      = (3,3)
binarize       = True
threshold      = 128

[generator]
debug          = False
augmentation   = True

[augmentor]
vflip          = True
hflip          = True
rotation       = True
angles         = [90. 180, 270,]
shrinks        = [0.8]
shears         = [0.1]
deformation    = True
distortion     = True
barrdistortion = True
pincdistortion = True
sharpening     = True
brightening    = True

[deformation]
alpah          = 1300
sigmoid        = 7.5

[distortion]
gaussian_filter_rsigma = 40
gaussian_filter_sigma  = 0.5
distortions    = [0.02]
rsigma         = "0.5" + str(40)

[barrdistortion]
radius         = 0.3
amount         = 0.3
centers        = [(0.3, 0.3), (0.7, 0.3), (0.5, 0.5), (0.3, 0.7), (0.7, 0.7)]

[pincdistortion]
radius         = 0.3
amount         = -0.3
centers        = [(0.3, 0.3), (0.7, 0.3), (0.5, 0.5), (0.3, 0.7), (0.7, 0.7)]

[sharpening]
k              = 1.0

[brightening]
alpha          = 1.2
beta           = 10
"""

MINI_TEST = "--images mini_test/images --masks MASKS --triples --output triples"
CENTRES = ((0.3, 0.3), (0.7, 0.3), (0.5, 0.5), (0.3, 0.7), (0.7, 0.7))


def outcome(text: str, key: str) -> tuple[str, str]:
    """Say what became of a key, and why."""
    notes = {f"{note.section}.{note.key}": note for note in import_founding(text).notes}
    return notes[key].outcome, notes[key].text


def test_the_file_becomes_the_founding_settings() -> None:
    run = import_founding(CONFIG).run
    network = run.train.network
    assert network.name == "unet"
    assert network.input_shape == (512, 512, 3)
    assert (network.levels, network.base_filters, network.base_kernel) == (8, 16, 9)
    assert (network.norm, network.dropout, network.dilation, network.activation) == ("none", 0.05, 1, "mish")
    train = run.train
    assert (train.epochs, train.batch_size, train.steps_per_epoch, train.patience) == (100, 2, 320, 10)
    assert (train.learning_rate, train.clip, train.loss.name) == (1e-4, 0.5, "bce_dice")
    assert train.optimizer == AdamConfig()
    assert train.schedule == PlateauConfig(factor=0.5, patience=4)
    assert train.runs_dir == "./models"
    assert (train.preview_every, train.preview_count, train.metrics) == (1, 6, ("dice",))
    assert train.preview_images == ("./mini_test/images/",)
    assert run.train_data.images == "../dataset/train/images/"
    assert run.valid_data.masks == "../dataset/valid/masks/"
    assert run.test_data.mask_threshold == 128
    assert run.predict.tiling.tile_size == (512, 512)
    assert run.predict.tiling.overlap == 128  # a margin of 64 on each side
    assert run.predict.threshold == "otsu"  # algorithm stands above threshold
    stated = import_founding(CONFIG.replace('"cv2.THRESH_OTSU"', "None")).run.predict.threshold
    assert stated == pytest.approx(127 / 255, abs=1e-6)
    assert (run.predict.inputs, run.predict.write) == (
        ("./mini_test/images/",),
        ("mask", "overlay", "coloured"),
    )
    assert run.predict.mask_colours == ("black", "green")
    assert RunConfig.from_toml(run.to_toml()) == run


def test_augmentation_is_what_the_generator_switches_on() -> None:
    assert import_founding(CONFIG).run.train.transforms == ()  # Flase
    train = import_founding(CONFIG.replace("Flase", "True")).run.train
    assert train.augment == (
        FlipConfig(),
        RotateConfig(angles=(90.0, 180.0, 270.0), probability=0.5),
        ZoomConfig(factors=(0.8, 0.8), probability=0.3),
        train.augment[3],
        ElasticConfig(alpha=1300.0, sigma=7.5, probability=0.3),
        WarpConfig(magnitude=0.02, sigma=40.0, probability=0.3),
        LensConfig(amounts=(0.3, 0.3), centres=CENTRES, probability=0.3),
        LensConfig(amounts=(-0.3, -0.3), centres=CENTRES, probability=0.3),
        SharpenConfig(amounts=(1.0, 1.0), probability=0.3),
        BrightnessConfig(gains=(1.2, 1.2), offsets=(10 / 255, 10 / 255), probability=0.3),
    )
    assert train.augment[3].degrees == pytest.approx((-5.71, 5.71), abs=0.01)  # whose tangent is 0.1


def test_every_key_is_accounted_for() -> None:
    done = import_founding(CONFIG)
    keys = [line for line in CONFIG.splitlines() if "=" in line and not line.startswith(";")]
    assert len(done.notes) == len(keys)
    unusable = {f"{note.section}.{note.key}" for note in done.notes if note.outcome == "unusable"}
    assert unusable == UNUSABLE
    assert str(done).splitlines()[-1].endswith(f"{len(unusable)} unusable")


UNUSABLE = {
    "distortion.rsigma",
}


@pytest.mark.parametrize(
    ("text", "key", "found"),
    [
        ("[model]\ngenerator = Flase", "model.generator", ("converted", "where all of these are True")),
        ("[deformation]\nalpah = 1", "deformation.alpha", ("dropped", "no generator switches")),
        ("[model]\nnum_layers = 40", "model.num_layers", ("unusable", "less than or equal to 12")),
        ("[model]\nbase_kernels = (9,7)", "model.base_kernels", ("unusable", "must be alike")),
        ("[model]\nbase_kernels = [{}]", "model.base_kernels", ("unusable", "unhashable")),
        ("[deformation]\nalpah = 1\nalpha = 2", "deformation.alpha", ("dropped", "no generator switches")),
        ("[model]\nmodel = 'TensorflowFooNet'", "model.model", ("unusable", "network.name")),
        ("[model]\nmodel = 'TensorflowAttentionUNet'", "model.model", ("converted", "attention_unet")),
        ("[model]\nloss = 'basnet_hybrid_loss'", "model.loss", ("converted", "basnet")),
        ("[model]\nloss = 'binary_crossentropy'", "model.loss", ("converted", "bce")),
        ("[model]\nloss = 'my_loss'", "model.loss", ("unusable", "loss")),
        ("[model]\nimage_width = 512", "model.image_width", ("unusable", "are needed")),
        ("[model]\nnum_classes = 3", "model.num_classes", ("converted", "classes = 3")),
        ("[model]\noptimzer = 'Adam'", "model.optimzer", ("unusable", "Did you mean `model.optimizer`")),
        ("[model]\nnormalization = Treu", "model.normalization", ("converted", "norm = batch")),
        ("[train]\nreducer_factor = 0.5", "train.reducer_factor", ("dropped", "does not switch it on")),
        ("[tiledinfer]\nalgorithm = None", "tiledinfer.algorithm", ("dropped", "it is off")),
        (
            "[tiledinfer]\nalgorithm = cv2.THRESH_TRIANGLE",
            "tiledinfer.algorithm",
            ("converted", "= triangle"),
        ),
        ("[tiledinfer]\nalgorithm = 'mean'", "tiledinfer.algorithm", ("unusable", "threshold")),
        ("[segmentation]\ncolorize = False", "segmentation.colorize", ("dropped", "not switch it on")),
        ("[segmentation]\ncolorize = True", "segmentation.colorize", ("converted", "mask_colours")),
        ("[segmentation]\ncolorize = True\nwhite = 'mud'", "segmentation.white", ("unusable", "#rrggbb")),
        ("[tiledinfer]\nblur = True", "tiledinfer.blur", ("unusable", "set predict.blur")),
        ("[image]\ngamma = 0", "image.gamma", ("dropped", "it is off")),
        ("[image]\ngamma = [2]", "image.gamma", ("unusable", "number")),
        ("[image]\ngamma = -2", "image.gamma", ("unusable", "greater than 0")),
        ("[image]\ncolor_converter = None", "image.color_converter", ("dropped", "it is off")),
        (
            "[image]\ncolor_converter = cv2.COLOR_BGR2HSV",
            "image.color_converter",
            ("converted", "colour = hsv"),
        ),
        ("[image]\ncolor_converter = 'cv2.COLOR_BGR2LAB'", "image.color_converter", ("converted", "= lab")),
        ("[image]\ncolor_converter = cv2.imread", "image.color_converter", ("unusable", "colour")),
        ("[image]\nsharpening = 'much'", "image.sharpening", ("unusable", "must be a number")),
        ("[tiledinfer]\noverlapping = -1", "tiledinfer.overlapping", ("unusable", "overlap")),
        ("[foo]\nbar = 1", "foo.bar", ("unusable", "section is not known")),
        ("[train]\nepochs = 10 ; more", "train.epochs", ("converted", "epochs = 10")),
    ],
)
def test_each_key_is_converted_dropped_or_unusable(text: str, key: str, found: tuple[str, str]) -> None:
    kind, why = outcome(text, key)
    assert (kind, found[1] in why) == (found[0], True), why


def test_pixels_are_prepared_as_in_the_experiment() -> None:
    text = "[image]\ngamma = 2\nsharpening = 0.5\ncolor_converter = cv2.COLOR_BGR2HSV\n"
    preprocessing = import_founding(text).run.train.preprocessing
    assert (preprocessing.gamma, preprocessing.sharpen, preprocessing.colour) == (2.0, 4.5, "hsv")
    assert preprocessing.sharpen_sigma**2 == pytest.approx(2 / 3, abs=1e-3)  # the variance of a mean of 3 px


def test_one_value_that_does_not_fit_spoils_no_other() -> None:
    text = CONFIG.replace("base_kernels   = (9,9)", "base_kernels = (8,8)")
    assert outcome(text, "model.base_kernels")[0] == "unusable"
    run = import_founding(text).run
    assert (run.train.network.levels, run.train.epochs, run.train.network.input_shape) == (
        8,
        100,
        (512, 512, 3),
    )


def test_nothing_is_executed(tmp_path: Path) -> None:
    target = tmp_path / "made"
    for value in (f"open({str(target)!r}, 'w')", f"__import__('os').mkdir({str(target)!r})", "(" * 5000):
        kind, _ = outcome(f"[train]\nepochs = {value}", "train.epochs")
        assert kind == "unusable"
    assert not target.exists()


@given(st.text(max_size=60))
def test_any_text_is_converted_or_refused(value: str) -> None:
    try:
        done = import_founding(f"[train]\nepochs = {value}\n[model]\nnum_layers = {value}")
    except SettingError:
        return
    assert isinstance(done.run, RunConfig)


@pytest.mark.parametrize("text", ["no section = 1", "[a]\nx = 1\nx = 2", "#" * 100_001])
def test_what_is_no_such_file_is_refused(text: str) -> None:
    with pytest.raises(SettingError, match="configuration"):
        import_founding(text)


def test_the_command_writes_a_new_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    source, target = tmp_path / "train_eval_infer.config", tmp_path / "run.toml"
    source.write_text(CONFIG, encoding="utf-8")
    assert main(["import-config", str(source), str(target)]) == 1  # some keys are unusable
    out = capsys.readouterr().out
    assert "dropped    train.create_backup = False: nothing is overwritten" in out
    best, config = "models/RUN/best", f"--config {target}"
    assert out.splitlines()[-6:] == [
        "Next, where RUN is the folder that training makes:",
        f"  tiledseg stats {config} --output statistics",
        f"  tiledseg train {config}",
        f"  tiledseg evaluate {best} {config} --output evaluation",
        f"  tiledseg predict {best} {config}",
        f"  tiledseg evaluate maps:tiled_mini_test_output/masks {config} {MINI_TEST}",
    ]
    assert RunConfig.from_toml(target.read_text(encoding="utf-8")).train.epochs == 100
    assert main(["import-config", str(source), str(target)]) == 2
    assert "must be a new file" in capsys.readouterr().err
    source.write_text("[model]\nnum_layers = 5\n", encoding="utf-8")
    capsys.readouterr()
    assert main(["import-config", str(source), str(tmp_path / "b.toml"), "--quiet"]) == 0
    assert capsys.readouterr().out == ""
    assert main(["import-config", str(tmp_path / "nowhere"), str(tmp_path / "c.toml")]) == 2


@pytest.mark.slow
@pytest.mark.usefixtures("eager")
def test_every_command_that_follows_runs_and_writes_what_the_experiment_wrote(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for place, (name, n_images) in enumerate({"train": 2, "valid": 1, "test": 2, "mini_test": 2}.items()):
        size = {"height": 100, "width": 140} if name == "mini_test" else {"height": 64, "width": 64}
        write_samples(name, n_images=n_images, seed=10 * place, **size)
    (tmp_path / "old.config").write_text(SHRUNKEN, encoding="utf-8")
    assert main(["import-config", "old.config"]) == 0
    lines = [one for one in capsys.readouterr().out.splitlines() if one.startswith("  tiledseg ")]
    for line in lines:
        (run, *_) = [*tmp_path.glob("models/*"), tmp_path / "none"]
        assert main(shlex.split(line.replace("RUN", run.name))[1:]) == 0, line
    out = capsys.readouterr().out
    assert "loss (bce_dice)" in out
    wanted = """statistics/splits.png statistics/sheet_train.png statistics/sheet_valid.png
        statistics/sheet_test.png models/RUN/history.csv models/RUN/history.json models/RUN/model.txt
        models/RUN/run.toml models/RUN/best/model.safetensors models/RUN/previews/sheet.png
        models/RUN/previews/epoch-0002/00_smear_0030.png evaluation/scores.csv evaluation/summary.csv
        predicted/masks/smear_0031.png predicted/overlays/smear_0031.png triples/sheet.png
        triples/triples/smear_0030.png"""
    missing = [name for name in wanted.split() if not Path(name.replace("RUN", run.name)).is_file()]
    assert missing == []
    rows = dict(csv.reader(Path("evaluation/summary.csv").read_text(encoding="utf-8").splitlines()))
    table = csv.DictReader(Path("evaluation/scores.csv").read_text(encoding="utf-8").splitlines())
    losses = [float(one["loss"]) for one in table]
    assert float(rows["loss"]) == pytest.approx(sum(losses) / 2)
    assert read_image("triples/sheet.png").shape[1] == 3 * 140 + 2 * 4 + 2 * 20


SHRUNKEN = """\
[model]
model = "TensorflowUNet"
image_width = 64
image_height = 64
image_channels = 3
num_layers = 2
base_filters = 4
base_kernels = (3,3)
loss = "bce_dice_loss"
[train]
epochs = 2
batch_size = 1
steps_per_epoch = 1
model_dir = "./models"
image_datapath = "./train/images/"
mask_datapath = "./train/masks/"
epoch_change_tiledinfer = True
num_infer_images = 2
[eval]
image_datapath = "./valid/images/"
mask_datapath = "./valid/masks/"
[test]
image_datapath = "./test/images/"
mask_datapath = "./test/masks/"
[tiledinfer]
overlapping = 8
images_dir = "./mini_test/images/"
output_dir = "./predicted"
merged_dir = "./merged"
threshold = 127
[mask]
threshold = 128
"""
