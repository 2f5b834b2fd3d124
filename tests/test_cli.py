"""The command line: options, output and exit codes."""

from __future__ import annotations

import contextlib
import importlib.metadata
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
import warm_python

import tiledseg
from tiledseg.cli import main
from tiledseg.config import EvaluateJobConfig, PredictJobConfig, RunConfig, TilingConfig, UNetConfig, by_name
from tiledseg.data import Manifest, Pair
from tiledseg.io import read_image, read_mask, write_image, write_mask, write_probs
from tiledseg.models import Segmenter
from tiledseg.samples import write_samples

COMMANDS = (
    "predict",
    "plan",
    "init",
    "stats",
    "split",
    "tile",
    "train",
    "evaluate",
    "export",
    "info",
    "doctor",
    "demo",
)
COMMAND = "import sys; from tiledseg.cli import main; sys.exit(main())"


def run(*arguments: str | os.PathLike[str]) -> tuple[int, str, str]:
    """Run the command line in a new Python to its end: exit code, standard output, standard error."""
    root = Path(tiledseg.__file__).parents[1]
    outer = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    env = {**outer, "PYTHONPATH": str(root), "PYTHONUTF8": "1", "COLUMNS": "100"}
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, *arguments], env=env, capture_output=True, check=False
    )
    return done.returncode, done.stdout.decode(), done.stderr.decode()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a tiny network that was never trained."""
    settings = UNetConfig(
        input_shape=(None, None, 3), levels=2, base_filters=2, base_kernel=3, dropout=0.0, norm="none"
    )
    segmenter = Segmenter(
        tiledseg.build_model(settings),
        settings,
        labels=("cell",),
        tiling=TilingConfig(tile_size=32, overlap=8, blend="linear"),
    )
    return segmenter.save(tmp_path_factory.mktemp("model") / "bundle")


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write two small smears with their masks."""
    folder = tmp_path_factory.mktemp("samples")
    write_samples(folder, n_images=2, height=64, width=96, seed=5)
    return folder


def fail(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Run a command that cannot start, and return its one line."""
    assert main([str(argument) for argument in arguments]) == 2
    written = capsys.readouterr()
    assert written.out == ""
    assert written.err.startswith("tiledseg: ")
    assert written.err.count("\n") == 1
    return written.err


# Help


def test_help_has_an_example_and_loads_only_the_settings_and_errors_load_no_keras() -> None:
    heavy = {"numpy._core", "cv2", "tifffile", "keras", "tensorflow", "matplotlib"}
    probe = f"""
import sys
from tiledseg.cli import main
for command in ("train", "predict", "evaluate", "plan", "stats", "split", "tile"):
    print(command, main([command, "--help"]), {heavy} & set(sys.modules))
calls = ["init --help", "export --help", "demo --help", "--help", "--version"]
calls.append("predict nowhere none.png --output out")
print([main(call.split()) for call in calls], {{"keras", "tensorflow"}} & set(sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    told = [line for line in lines if line.endswith("set()")]
    assert [line.split()[1] for line in told[:-1]] == ["0"] * 7
    assert told[-1] == lines[-1] == "[0, 0, 0, 0, 0, 2] set()"
    assert tiledseg.__version__ in lines
    commands = [line.split()[0] for line in told[:-1]]
    assert [
        one for one in [*commands, "init", "export", "demo"] if f"Example: tiledseg {one}" not in done.stdout
    ] == []


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert [name for name in COMMANDS if name not in shown] == []


def field_names(model: type, *, below: bool = False) -> set[str]:
    """Return the options that a settings model needs."""
    names = set()
    for name, info in model.model_fields.items():
        nested = [
            one
            for one in (info.annotation, *getattr(info.annotation, "__args__", ()))
            if hasattr(one, "model_fields")
        ]
        below_it = nested and by_name not in info.metadata
        names |= field_names(nested[0], below=True) if below_it else {name}
    return names - {"name"} if below else names


@pytest.mark.parametrize(
    ("command", "table"),
    [(name, name) for name in ("train", "predict", "evaluate", "export", "stats")] + [("tile", "tiles")],
)
def test_every_setting_is_an_option(
    command: str, table: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    main([command, "--help"])
    text = capsys.readouterr().out
    shown = {name.removeprefix("objects-") for name in re.findall(r"--([a-z0-9-]+)", text)}
    placed = {word.lower() for word in re.findall(r"\b[A-Z]{4,}\b", text)}
    wanted = field_names(RunConfig.model_fields[table].annotation)
    assert {name.replace("_", "-") for name in wanted} - shown - placed == set()


def test_help_shows_meaning_range_and_default(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    main(["train", "--help"])
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "Largest number of passes over the training data. [range: >= 1] [default: 30]" in text
    levels = r"Resolutions, the deepest included\. \[of: unet, .*?\] \[range: >= 1, <= 12\] \[default: 5\]"
    assert re.search(levels, text)
    assert "[default: ]" not in text


def test_help_names_settings_as_they_are_typed_and_begins_with_the_data(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    main(["train", "--help"])
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    options = ("--images TEXT", "--masks TEXT", "--level INT", "--epochs INT", "--valid-images TEXT")
    places = [text.index(option) for option in options]
    assert places == sorted(places)
    assert "for --mask-parts classes; those of cytoplasm" in text
    assert "for --valid-mask-parts classes; those of cytoplasm" in text
    assert "none for all. 0,0,0 gives a grey image" in text
    assert "probabilities, in (0, 1)." in text


def test_it_runs_as_a_module() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tiledseg", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == tiledseg.__version__


# Errors are one line


def test_an_option_is_found_by_its_first_letters(capsys: pytest.CaptureFixture[str]) -> None:
    assert "Did you mean --learning-rate?" in fail(capsys, "train", "--lr", "0.1")


def test_unknown_option_names_the_nearest(capsys: pytest.CaptureFixture[str], bundle: Path) -> None:
    text = fail(capsys, "predict", bundle, "a.png", "--output", "out", "--overlp", "8")
    assert "--overlp" in text
    assert "Did you mean --overlap?" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--json plan demo 9x9", r"`--json` must come after the command, as in tiledseg plan --json\. See"),
        ("--quiet", r"`--quiet` must come after the command, as in tiledseg predict --quiet\. See"),
        ("predict demo -", r"`-` must be a file, since standard input is not read\..* \./- .*predict --help"),
        ("predict demo -a.png", r"Unknown option: -a\.png\. Put -- before file names"),
        ("plan demo 9x9 --config .", r"`\.` must be a TOML file in UTF-8; got Is a directory\. Check"),
        ("import-config nosuch", r"`nosuch` must be a text file in UTF-8; got No such file or directory\. "),
        ("demo train", r"`train` is one argument too many\. See tiledseg demo --help"),
        ("init images", r"`MASKS` must be given; .* See tiledseg init --help"),
        ("plan demo 100", r"`image` must be an image file, or height and width .*got 100\. .*1920x2560"),
        ("predict demo a.png --output o --write foo", r"`--write` must be 'mask', .*got foo"),
        ("predict demo a.png --output o --threshold 2", r"`--threshold` must be less than 1; got 2"),
        ("stats --images nosuch", r"`--images` must be a folder that exists; got nosuch"),
        ("train --images . --masks nosuch", r"`--masks` must be .* exists; got nosuch"),
        ("train --network unett", r"--network\..*Did you mean \"unet\""),
    ],
)
def test_a_message_names_what_is_wrong_as_it_is_typed(
    capsys: pytest.CaptureFixture[str], arguments: str, message: str
) -> None:
    assert re.search(message, fail(capsys, *arguments.split()))


def test_unknown_command_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert 'Did you mean "predict"?' in fail(capsys, "pedict", "a.png")


@pytest.mark.parametrize(
    ("option", "value", "found"),
    [
        ("--threshold", "7", "got 7"),
        ("--threshold", "nan", "got nan"),
        ("--batch-size", "four", "text 'four'"),
        ("--batch-size", "2.5", "got 2.5"),
        ("--write", "mask,ovelay", "got ovelay"),
        ("--mask-format", "jpeg", '"jpeg"'),
    ],
)
def test_value_out_of_range_is_named(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, bundle: Path, option: str, value: str, found: str
) -> None:
    text = fail(capsys, "predict", bundle, tmp_path, "--output", tmp_path / "out", option, value)
    assert found in text
    assert option.strip("-").replace("-", "_") in text.replace("-", "_")
    assert not (tmp_path / "out").exists()


def test_invalid_tiling_is_an_error_before_keras_loads(tmp_path: Path, bundle: Path, samples: Path) -> None:
    images = str(samples / "images")
    commands = [
        ["predict", str(bundle), images, "--output", str(tmp_path / "out"), "--overlap", "32"],
        ["plan", str(bundle), "64x64", "--overlap", "32"],
        ["evaluate", str(bundle), "--images", images, "--masks", str(samples / "masks"), "--overlap", "32"],
    ]
    probe = (
        "import sys; from tiledseg.cli import main\n"
        f"for words in {commands!r}: print(main(words), 'keras' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout == "2 False\n" * 3
    assert done.stderr.count("with tile=32") == 3
    assert not (tmp_path / "out").exists()


def test_an_option_replaces_the_tiling_of_the_file(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, bundle: Path
) -> None:
    file = tmp_path / "run.toml"
    file.write_text("[predict.tiling]\ntile_size = 64\noverlap = 8\n", encoding="utf-8")
    assert main(["plan", str(bundle), "128x128", "--config", str(file), "--overlap", "40"]) == 0
    assert "of 64 x 64 px" in capsys.readouterr().out
    assert "with tile=64" in fail(capsys, "plan", bundle, "128x128", "--config", file, "--overlap", "64")


def test_invalid_tiling_is_named(capsys: pytest.CaptureFixture[str], bundle: Path) -> None:
    assert "with tile=32" in fail(capsys, "plan", bundle, "64x64", "--overlap", "32")


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ("[predict]\nthresold = 0.4\n", "Did you mean `threshold`?"),
        ("[predikt]\nthreshold = 0.4\n", "Did you mean `predict`?"),
        ("[predict\n", "not valid TOML"),
        ("[predict]\nthreshold = 4\n", "less than 1"),
    ],
)
def test_invalid_settings_file_is_named(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, bundle: Path, content: str, found: str
) -> None:
    file = tmp_path / "run.toml"
    file.write_text(content, encoding="utf-8")
    text = fail(capsys, "predict", bundle, tmp_path, "--output", tmp_path / "out", "--config", file)
    assert found in text
    assert "run.toml" in text


def test_missing_settings_file_is_named(capsys: pytest.CaptureFixture[str], bundle: Path) -> None:
    text = fail(capsys, "predict", bundle, "a.png", "--output", "out", "--config", "no.toml")
    assert "`no.toml` must be a TOML file" in text


def test_debug_shows_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", "nowhere", "a.png", "--output", "out", "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_keras_file_needs_trust(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "model.keras"
    file.write_bytes(b"")
    assert "--trust" in fail(capsys, "plan", file, "64x64")


def test_invalid_output_is_an_error_before_anything_is_written(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, samples: Path, bundle: Path
) -> None:
    (tmp_path / "out").write_text("my file", encoding="utf-8")
    fail(capsys, "predict", bundle, samples / "images", "--output", tmp_path / "out")
    assert (tmp_path / "out").read_text(encoding="utf-8") == "my file"


# plan


def test_plan_takes_a_shape_or_a_file(
    capsys: pytest.CaptureFixture[str], samples: Path, bundle: Path
) -> None:
    assert main(["plan", str(bundle), "64x96"]) == 0
    of_shape = capsys.readouterr().out
    assert main(["plan", str(bundle), str(samples / "images" / "smear_0005.png")]) == 0
    of_file = capsys.readouterr().out
    assert [one for one in of_file.splitlines() if not one.startswith("memory")] == [
        one for one in of_shape.splitlines() if not one.startswith("memory")
    ]
    assert "mask, 0.0 MiB, written while it is computed" in of_shape
    main(["plan", str(bundle), "64x96", "--write", "mask,overlay"])
    assert "computed\n" not in capsys.readouterr().out.partition("memory")[0].partition("output")[2]
    assert "of 32 x 32 px" in of_shape
    assert "at least 8 px down, 8 px across, linear" in of_shape


def test_plan_takes_the_part_of_a_file_that_predict_takes(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, samples: Path, bundle: Path
) -> None:
    image = cv2.imread(str(samples / "images" / "smear_0005.png"))
    cv2.imwrite(str(tmp_path / "a.png"), np.dstack([image, np.full(image.shape[:2], 9, np.uint8)]))
    assert "--alpha drop" in fail(capsys, "plan", bundle, tmp_path / "a.png")
    assert main(["plan", str(bundle), str(tmp_path / "a.png"), "--alpha", "drop"]) == 0


def test_an_option_changes_only_its_part_of_the_models_tiling(
    capsys: pytest.CaptureFixture[str], bundle: Path
) -> None:
    main(["plan", str(bundle), "64x96", "--tile-size", "32x48"])
    out = capsys.readouterr().out
    assert "of 32 x 48 px" in out
    assert "at least 8 px down, 8 px across, linear" in out
    main(["plan", str(bundle), "64x96", "--overlap", "0.5", "--blend", "hann"])
    assert "at least 16 px down, 16 px across, hann" in capsys.readouterr().out
    main(["plan", str(bundle), "32x32", "--overlap", "exact", "--blend", "crop"])
    assert "verdict         exact: one tile covers the image" in capsys.readouterr().out
    assert "got linear" in fail(capsys, "plan", bundle, "32x32", "--overlap", "exact")


def test_a_file_named_like_a_shape_is_an_error(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bundle: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "64x96").write_bytes(b"")
    assert "./64x96" in fail(capsys, "plan", bundle, "64x96")


# predict


def test_predict_writes_what_is_asked_for(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, samples: Path, bundle: Path
) -> None:
    wanted = ["--write", "mask,overlay", "--batch-size", "2", "--quiet"]
    assert main(["predict", str(bundle), str(samples / "images"), "--output", str(tmp_path), *wanted]) == 0
    written = capsys.readouterr()
    assert written.out == f"2 predicted, 0 skipped, 0 failed; results in {tmp_path}\n"
    assert written.err == ""
    assert read_mask(tmp_path / "masks" / "smear_0005.png").shape == (64, 96)
    assert read_image(tmp_path / "overlays" / "smear_0006.png").shape == (64, 96, 3)
    assert main(["predict", str(bundle), str(samples / "images"), "--output", str(tmp_path)]) == 2
    assert "must not hold results already" in capsys.readouterr().err


def test_command_line_replaces_values_of_the_file(tmp_path: Path, samples: Path, bundle: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text('[predict]\nwrite = ["probs"]\nmask_format = "tiff"\n', encoding="utf-8")
    common = ["predict", str(bundle), str(samples / "images"), "--config", str(file), "--output"]
    assert main([*common, str(tmp_path / "a")]) == 0
    assert main([*common, str(tmp_path / "b"), "--write", "mask"]) == 0
    assert sorted(path.name for path in (tmp_path / "a").glob("[!.]*")) == ["probs", "run.toml"]
    assert sorted(path.name for path in (tmp_path / "b" / "masks").iterdir()) == [
        "smear_0005.tif",
        "smear_0006.tif",
    ]


def test_one_broken_file_does_not_stop_the_others(tmp_path: Path, samples: Path, bundle: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    good = (samples / "images" / "smear_0005.png").read_bytes()
    (images / "-a.png").write_bytes(good)
    (images / "broken.png").write_bytes(good[:500])
    odd = os.fsencode(images) + b"/\xff.png"
    Path(os.fsdecode(odd)).write_bytes(good[:700])
    code, out, err = run("predict", bundle, images, "--output", tmp_path / "out")
    assert code == 1
    assert out == f"1 predicted, 0 skipped, 2 failed; results in {tmp_path / 'out'}\n"
    assert "broken.png: " in err
    assert "\\udcff.png: " in err
    assert "Traceback" not in err
    assert "oneDNN" not in err
    assert [path.name for path in (tmp_path / "out" / "masks").iterdir()] == ["-a.png"]


def test_name_that_starts_with_a_hyphen_needs_two_hyphens_before_it(
    tmp_path: Path, samples: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("-x.png").write_bytes((samples / "images" / "smear_0005.png").read_bytes())
    assert main(["predict", str(bundle), "--output", "out", "--", "-x.png"]) == 0
    assert Path("out/masks/-x.png").is_file()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("turned", [lambda: 1, lambda: int("a library's own error")])
def test_an_interruption_that_a_library_turns_into_its_own_is_one(monkeypatch, capsys, number, code, turned):
    def command(*_: object, **__: object) -> int:
        with contextlib.suppress(BaseException):
            signal.raise_signal(number)
        return turned()

    handler = signal.getsignal(number)
    monkeypatch.setattr("tiledseg.cli.app.app", command)
    assert main(["info", "a.png"]) == code
    assert re.fullmatch(r"tiledseg: (Interrupted|Terminated)\.\n", capsys.readouterr().err)
    assert signal.getsignal(number) == handler


@pytest.mark.parametrize("command", ["tile", "export"])
def test_an_interrupted_command_says_what_was_not_written(tmp_path, samples, monkeypatch, capsys, command):
    def stopped(*_: object, **__: object) -> None:
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr("tiledseg.data.tiles.write_image", stopped)
    monkeypatch.setattr("tiledseg.cli.export.pass_on", stopped)
    images, masks, out = samples / "images", samples / "masks", tmp_path / "out"
    given = [masks] if command == "export" else ["--images", images, "--masks", masks]
    assert main([command, *map(str, given), "--output", str(out)]) == 143
    assert "Terminated; nothing was written to `" in (told := capsys.readouterr().err)
    assert str(out) in told
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_run_saves_finished_results(
    tmp_path: Path, samples: Path, bundle: Path, number: signal.Signals, code: int
) -> None:
    images, masks = tmp_path / "images", tmp_path / "out" / "masks"
    images.mkdir()
    (images / "a.png").write_bytes((samples / "images" / "smear_0005.png").read_bytes())
    endless = np.lib.format.open_memmap(images / "b.npy", "w+", np.uint8, (1500, 1500, 3))  # 500,000 tiles
    del endless
    words = ["predict", bundle, images, "--output", tmp_path / "out", "--tile-size", "8", "--overlap", "6"]
    with warm_python.start(COMMAND, *words) as process:
        while not (masks.is_dir() and any(masks.glob("*.png"))) and process.poll() is None:
            time.sleep(0.05)
        process.send_signal(number)
        _, err = process.communicate()
    assert process.returncode == code, err.decode()
    assert "finished results are saved" in err.decode()
    assert "Traceback" not in err.decode()
    assert [path.name for path in masks.iterdir()] == ["a.png"]
    assert read_mask(masks / "a.png").shape == (64, 96)


def test_a_closed_pipe_is_no_error(bundle: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with warm_python.start(COMMAND, "plan", bundle, "64x96", stdout=writing) as process:
        os.close(writing)
        _, err = process.communicate()
    assert process.returncode == 141
    assert err == b""


# train, evaluate, demo


@pytest.mark.usefixtures("eager")
def test_train_then_evaluate(capsys: pytest.CaptureFixture[str], tmp_path: Path, samples: Path) -> None:
    write_samples(tmp_path / "valid", n_images=1, height=64, width=96, seed=9)
    file = tmp_path / "run.toml"
    file.write_text(
        f'[train_data]\nimages = "{samples}/images"\nmasks = "{samples}/masks"\n'
        f'[train]\nepochs = 9\nsteps_per_epoch = 1\nruns_dir = "{tmp_path}/runs"\n',
        encoding="utf-8",
    )
    valid = ["--valid-images", str(tmp_path / "valid/images"), "--valid-masks", str(tmp_path / "valid/masks")]
    small = ["--epochs", "1", "--levels", "1", "--base-filters", "2", "--crop-size", "32", "--overlap", "0.5"]
    small += ["--no-curves"]
    assert main(["train", "--config", str(file), *valid, *small]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^epochs +1$", out, re.MULTILINE)
    assert re.search(r"^best +epoch 1: .*val_loss \d", out, re.MULTILINE)
    best = re.search(r"^bundle +(.*)$", out, re.MULTILINE)[1]
    segmenter = tiledseg.load_model(best)
    assert segmenter.architecture == UNetConfig(
        input_shape=(None, None, 3), levels=1, base_filters=2, base_kernel=3, dropout=0.0
    )
    assert segmenter.tiling == TilingConfig(tile_size=(32, 32), overlap=0.5)

    folder = tmp_path / "scores"
    data = ["--images", str(tmp_path / "valid/images"), "--masks", str(tmp_path / "valid/masks")]
    assert main(["evaluate", best, *data, "--output", str(folder)]) == 0
    assert "smear_0009" in capsys.readouterr().out
    assert json.loads((folder / "scores.json").read_text(encoding="utf-8"))["summary"]["images"] == 1
    for name in ("scores.csv", "report.html"):
        assert "smear_0009" in (folder / name).read_text(encoding="utf-8")
    assert "new or empty" in fail(capsys, "evaluate", best, *data, "--output", folder)

    kept = RunConfig.from_toml((Path(best).parent / "run.toml").read_text(encoding="utf-8"))
    assert (kept.train.epochs, kept.train.steps_per_epoch) == (1, 1)
    assert kept.train_data.images == f"{samples}/images"
    one_file = kept.changed(
        test_data=kept.valid_data,
        evaluate=EvaluateJobConfig(model=best, output=str(tmp_path / "again"), pictures=1),
        predict=PredictJobConfig(model=best, inputs=(kept.valid_data.images,), output=str(tmp_path / "maps")),
    )
    file.write_text(one_file.to_toml(), encoding="utf-8")
    for command, output in (("evaluate", "again"), ("predict", "maps")):
        assert main([command, "--config", str(file)]) == 0
        written = RunConfig.from_toml((tmp_path / output / "run.toml").read_text(encoding="utf-8"))
        assert written.evaluate.changed(tiling=None) == one_file.evaluate
        assert written.predict.changed(tiling=None) == one_file.predict
    assert (tmp_path / "maps" / "masks" / "smear_0009.png").exists()
    assert "smear_0009" in (tmp_path / "again" / "scores.csv").read_text(encoding="utf-8")


@pytest.mark.usefixtures("eager")
def test_train_sets_a_part_of_the_images_apart_and_records_it(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    write_samples(tmp_path / "all", n_images=5, height=64, width=64, seed=9)
    data = ["--images", tmp_path / "all/images", "--masks", tmp_path / "all/masks", "--quiet"]
    small = [
        "--levels",
        "1",
        "--base-filters",
        "2",
        "--crop-size",
        "32",
        "--epochs",
        "1",
        "--steps-per-epoch",
        "1",
        "--no-curves",
    ]
    groups = ["--split-group-by", "regex", "--split-group-regex", r"smear_(\d+)"]
    more = [*groups, "--runs-dir", tmp_path / "runs"]
    assert main(list(map(str, ["train", *data, *small, *more]))) == 0
    capsys.readouterr()
    (run_dir,) = (tmp_path / "runs").iterdir()
    manifest = Manifest.read(run_dir / "split.jsonl")
    assert (len(manifest.of("train")), len(manifest.of("valid"))) == (4, 1)
    assert manifest.changed() == []  # its paths lead from the run's folder to the files
    used = json.loads((run_dir / "run.json").read_text(encoding="utf-8"))["data"]
    for part in ("train", "valid"):
        assert [one["name"] for one in used[part]] == [one.name for one in manifest.of(part)]
    assert RunConfig.from_toml((run_dir / "run.toml").read_text(encoding="utf-8")).split.group_by == "regex"
    again = [*data, "--valid-images", "x", "--split-seed", "1"]
    assert "nothing is set apart" in fail(capsys, "train", *again)
    assert "no image is set apart" in fail(capsys, "train", *again, "--no-validation")
    assert main(list(map(str, ["train", "--resume", run_dir, *data]))) == 0


def test_without_validation_the_splits_train_and_valid_are_learnt_from_and_test_is_not(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_samples(tmp_path, n_images=4, height=64, width=64, seed=9)
    data = ["--images", tmp_path / "images", "--masks", tmp_path / "masks", "--quiet"]
    split = ["split", *data, "--shares", "2,1,1", "--manifest", tmp_path / "split.jsonl"]
    assert main(list(map(str, split))) == 0
    capsys.readouterr()
    given = []

    def fit(trainer: tiledseg.Trainer, train: list[Pair], valid: list[Pair] | None, **_: object) -> None:
        given.append((trainer.config.validation, [pair.name for pair in train], valid))
        raise tiledseg.TiledSegError("enough")

    monkeypatch.setattr(tiledseg.Trainer, "fit", fit)
    all_of = ["--layout", "manifest", "--path", tmp_path / "split.jsonl", "--no-validation"]
    assert "enough" in fail(capsys, "train", *all_of)
    manifest = Manifest.read(tmp_path / "split.jsonl")
    learnt = [one.name for name in ("train", "valid") for one in manifest.of(name)]
    assert given == [(False, learnt, None)]
    assert len(learnt) == 3


def test_doctor_reports_the_installation(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code = main(["doctor", "--json", "--no-test"])
    report = json.loads(capsys.readouterr().out)
    assert (report["versions"]["tiledseg"], report["versions"]["numpy"]) == (
        tiledseg.__version__,
        np.__version__,
    )
    assert code == (1 if report["problems"] else 0)
    known = importlib.metadata.version
    twice = {"opencv-python": "4.9", "opencv-python-headless": "4.9"}
    monkeypatch.setattr("importlib.metadata.version", lambda name: twice.get(name) or known(name))
    assert main(["doctor", "--no-test"]) == 1
    assert "problem: opencv-python-headless and opencv-python are both installed" in capsys.readouterr().out


@pytest.mark.usefixtures("eager")
def test_init_looks_at_a_dataset_and_writes_settings_that_train_takes(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    write_samples(tmp_path, n_images=4, height=96, width=128)
    (tmp_path / "images" / "lone.png").write_bytes((tmp_path / "images" / "smear_0000.png").read_bytes())
    project = tmp_path / "project"
    given = (tmp_path / "images", tmp_path / "masks", "--output", project)
    assert main(list(map(str, ["init", *given]))) == 0
    text = capsys.readouterr().out
    assert "4 pairs, 1 problem" in text
    assert "lone" in text
    assert "tiledseg train --config" in text
    run = RunConfig.from_toml((project / "run.toml").read_text(encoding="utf-8"))
    assert (run.train.crop_shape, run.train.preprocessing.dtype, run.train_data.problems) == (
        (96, 96),
        "uint8",
        "skip",
    )
    assert (project / "sheet.png").stat().st_size > 1000
    short = ["--epochs", "1", "--steps-per-epoch", "1", "--batch-size", "1", "--runs-dir", tmp_path / "runs"]
    short += ["--levels", "1", "--base-filters", "2"]
    assert main(list(map(str, ["train", "--config", project / "run.toml", *short]))) == 0
    capsys.readouterr()
    assert "project" in fail(capsys, "init", *given)  # it is there already


def test_a_missing_px_size_is_told_as_it_is_typed(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", np.zeros((30, 40, 3), np.uint8))
    demo = tiledseg.load_model("demo")
    demo.changed(preprocessing={**demo.preprocessing.model_dump(), "pixel_size": 0.5}).save(tmp_path / "b")
    text = fail(capsys, "plan", str(tmp_path / "b"), str(tmp_path / "a.png"))
    assert (
        "State µm per px as `--pixel-size`: in settings, or by tiledseg.open_image(image, pixel_size=0.25)"
        in text
    )
    assert main(["plan", str(tmp_path / "b"), str(tmp_path / "a.png"), "--pixel-size", "0.25"]) == 0


def test_advice_about_masks_names_options_that_change_the_mask(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for folder in ("i", "m", "c"):
        (tmp_path / folder).mkdir()
    write_image(tmp_path / "i" / "a.png", np.zeros((30, 40, 3), np.uint8))
    write_probs(tmp_path / "m" / "a.tif", np.tile(np.float32([0, 0.9]), (30, 20))[..., None])
    data = ["--images", str(tmp_path / "i"), "--masks", str(tmp_path / "m")]
    assert "Set `--mask-threshold` to the least value" in fail(capsys, "stats", *data)
    coloured = np.zeros((30, 40, 3), np.uint8)
    coloured[:9, :, 0] = 255
    write_image(tmp_path / "c" / "a.png", coloured)
    given = [
        "predict",
        "demo",
        str(tmp_path / "i"),
        "--output",
        str(tmp_path / "o"),
        "--roi",
        str(tmp_path / "c"),
    ]
    assert main(given) == 1
    text = capsys.readouterr().err
    assert "channels=0. Read it with tiledseg.io.read_mask" in text  # --channels are those of the image


def test_info_says_what_is_in_files(capsys: pytest.CaptureFixture[str], bundle: Path, tmp_path: Path) -> None:
    write_image(tmp_path / "a.tif", np.zeros((30, 40, 3), np.uint8), pixel_size=0.25)
    assert main(["info", str(tmp_path / "a.tif"), str(bundle)]) == 0
    text = capsys.readouterr().out
    assert "30 x 40 px, 3 channels, uint8" in text
    assert "0.25 µm" in text
    assert "receptive field" in text
    assert main(["info", "--json", "demo", str(tmp_path / "b.tif")]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["demo"]["outputs"] == "plasma cell"
    assert found["demo"]["stride"] == "8 x 8 px"
    assert "b.tif" in found[str(tmp_path / "b.tif")]["error"]
    assert "at least one file" in fail(capsys, "info")


@pytest.mark.parametrize(
    ("command", "key"),
    [
        ("plan demo 96x128", "verdict"),
        ("stats --images images --masks masks", "total"),
        ("split --images images --masks masks --names train,test --shares 50,50", "splits"),
        ("tile --images images --masks masks --output tiles --tile-size 64", "tiles"),
        ("export masks --output objects --write geojson", "objects"),
        ("predict demo images --output predicted", "files"),
        ("evaluate demo --images images --masks masks --output scores", "models"),
        ("init images masks", "pairs"),
    ],
)
def test_commands_print_json_for_programs(
    command: str,
    key: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_samples(tmp_path, n_images=2, height=96, width=128)
    monkeypatch.chdir(tmp_path)
    assert main([*command.split(), "--json"]) == 0
    assert key in json.loads(capsys.readouterr().out, parse_constant=pytest.fail)


def test_many_warnings_of_a_kind_are_three_and_a_number(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    write_samples(tmp_path, n_images=6, height=64, width=64)
    shutil.copytree(tmp_path / "images", tmp_path / "colours")
    given = ("--images", tmp_path / "images", "--masks", tmp_path / "colours")
    assert main(list(map(str, ["evaluate", "demo", *given]))) == 1
    text = capsys.readouterr()
    assert text.err.count("must be grey") == 3
    assert "3 more" in text.err
    assert text.out.count("must be grey") == 3
    assert "3 more failed" in text.out
    assert "mean" not in text.out.splitlines()[0]  # no empty table


def test_required_values_are_named(capsys: pytest.CaptureFixture[str], bundle: Path) -> None:
    assert "predict.model in the file" in fail(capsys, "predict", "--output", "out")
    assert "predict.inputs in the file" in fail(capsys, "predict", bundle, "--output", "out")
    assert "predict.output in the file" in fail(capsys, "predict", bundle, bundle)
    assert "evaluate.model in the file" in fail(capsys, "evaluate", "--images", "a", "--masks", "b")


def test_evaluate_compares_with_precomputed_maps_and_chooses_a_threshold(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, bundle: Path, samples: Path
) -> None:
    for path in sorted((samples / "masks").iterdir()):
        write_mask(tmp_path / "maps" / f"{path.stem}.png", read_mask(path))
    write_samples(tmp_path / "valid", n_images=1, height=64, width=96, seed=9)
    data = ["--images", samples / "images", "--masks", samples / "masks"]
    valid = ["--valid-images", tmp_path / "valid/images", "--valid-masks", tmp_path / "valid/masks"]
    options = [*data, *valid, "--threshold", "valid", "--against", f"maps:{tmp_path}/maps", "--tile-px", "32"]
    assert main(list(map(str, ["evaluate", bundle, *options, "--output", tmp_path / "scores"]))) == 0
    out = capsys.readouterr().out
    assert "chosen on 1 validation images" in out
    page = (tmp_path / "scores" / "report.html").read_text(encoding="utf-8")
    assert "maps has a higher mean Dice than" in page
    assert "Prediction of maps" in page
    assert main(["evaluate", f"maps:{tmp_path}/maps", *map(str, data)]) == 0
    assert re.search(r"^mean +1\.000", capsys.readouterr().out, re.MULTILINE)


def test_evaluate_shows_several_models_and_their_mean_side_by_side(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, bundle: Path, samples: Path
) -> None:
    for name in ("second", "third"):
        shutil.copytree(bundle, tmp_path / name)
    data = ["--images", samples / "images", "--masks", samples / "masks", "--output", tmp_path / "scores"]
    others = ["--against", f"{tmp_path}/second,{tmp_path}/third", "--ensemble"]
    assert main(list(map(str, ["evaluate", bundle, *data, *others]))) == 0
    out = capsys.readouterr().out
    rows = [line.split() for line in out.split("\n\n")[-2].splitlines()]
    assert [row[0] for row in rows] == ["dice", bundle.name, "second", "third", "ensemble"]
    assert len({tuple(row[1:-1]) for row in rows[1:]}) == 1  # the same network each time
    page = (tmp_path / "scores" / "report.html").read_text(encoding="utf-8")
    assert all(f"{bundle.name} and {name}" in page for name in ("second", "third", "ensemble"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--ensemble"], "--ensemble` must have two models or more"),
        (["--valid-images", "x"], "--threshold` must be valid"),
        (["--threshold", "valid"], "--valid-images` must be given"),
        (["--threshold", "2"], "threshold"),
        (["--against", "nowhere"], "nowhere"),
        (["--against", "demo", "--ensemble"], "--ensemble` must have models of the same classes"),
    ],
)
def test_evaluate_refuses_invalid_options_before_it_scores_anything(
    capsys: pytest.CaptureFixture[str], bundle: Path, samples: Path, options: list[str], message: str
) -> None:
    data = ["--images", samples / "images", "--masks", samples / "masks"]
    assert message in fail(capsys, "evaluate", bundle, *data, *options)


def test_evaluate_refuses_models_of_other_classes_before_it_scores_any(
    capsys: pytest.CaptureFixture[str], bundle: Path, samples: Path, tmp_path: Path
) -> None:
    settings = UNetConfig(
        input_shape=(None, None, 3), classes=3, levels=2, base_filters=2, base_kernel=3, norm="none"
    )
    other = Segmenter(tiledseg.build_model(settings), settings, labels=("background", "cell", "debris"))
    data = ["--images", samples / "images", "--masks", samples / "masks"]
    text = fail(capsys, "evaluate", bundle, *data, "--against", other.save(tmp_path / "other"))
    assert "have the classes of bundle, 2 with the background (cell); got 3" in text
    assert "of other" in text
    for path in (samples / "images").iterdir():
        write_probs(tmp_path / "maps" / f"{path.stem}.tif", np.full((64, 96, 3), 1 / 3, np.float32))
    text = fail(capsys, "evaluate", bundle, *data, "--against", f"maps:{tmp_path}/maps")
    assert re.search("have the classes of bundle, 2 with the background.*; got 3 .* of maps", text)


def test_evaluate_names_a_missing_option(
    capsys: pytest.CaptureFixture[str], bundle: Path, samples: Path
) -> None:
    assert "--masks" in fail(capsys, "evaluate", bundle, "--images", samples / "images")


def test_export_writes_cells_for_other_programs(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, samples: Path
) -> None:
    pytest.importorskip("roifile")
    masks = sorted((samples / "masks").iterdir())
    np.save(tmp_path / "negative.npy", np.full((4, 4), -1))
    arguments = ["export", *masks, tmp_path / "negative.npy", "--output", tmp_path / "cells"]
    options = ["--write", "geojson,coco,roi", "--names", "plasma cell", "--cell-px", "5"]
    assert main(list(map(str, [*arguments, *options]))) == 1
    written = capsys.readouterr()
    assert f"{len(masks)} masks, 1 failed" in written.out
    assert "negative.npy: `" in written.err
    instances = json.loads((tmp_path / "cells/coco.json").read_text(encoding="utf-8"))
    files = sorted((tmp_path / "cells/geojson").iterdir())
    assert [path.stem for path in files] == [path.stem for path in masks]
    features = [json.loads(path.read_text(encoding="utf-8"))["features"] for path in files]
    assert sum(map(len, features)) == len(instances["annotations"]) > 0
    assert features[0][0]["properties"]["classification"]["name"] == "plasma cell"
    assert [one["file_name"] for one in instances["images"]] == [path.name for path in masks]


def test_export_refuses_masks_with_the_same_stem(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for name in ("a/7.png", "b/7.png"):
        write_mask(tmp_path / name, np.ones((2, 2), bool))
    text = fail(capsys, "export", tmp_path / "a", tmp_path / "b", "--output", tmp_path / "cells")
    assert "unique stem" in text
    assert not (tmp_path / "cells").exists()


def test_export_of_instances_and_of_px_that_do_not_count(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("roifile")
    labels = np.zeros((30, 40), np.uint8)
    labels[2:9, 3:9], labels[12:20, 5:20] = 7, 255
    write_mask(tmp_path / "masks" / "a.png", labels, foreground=None)
    arguments = ["export", str(tmp_path / "masks"), "--instances", "--write"]
    for number, options in enumerate((["roi"], ["roi", "--ignore-label", "255"])):
        assert main([*arguments, *options, "--output", str(tmp_path / f"out{number}")]) == 0
        with zipfile.ZipFile(tmp_path / f"out{number}" / "roi" / "a.zip") as found:
            assert len(found.namelist()) == 2 - number
    write_image(tmp_path / "masks" / "b.png", np.dstack([labels, labels, 0 * labels]))
    assert main([*arguments, "geojson", "--output", str(tmp_path / "out2")]) == 1
    assert "3 channels that differ" in capsys.readouterr().err
    monkeypatch.setattr("tiledseg.cli.export.first_alike", lambda folder, names: ("a", "b"))
    assert "unique stem" in fail(capsys, *arguments, "geojson", "--output", tmp_path / "out3")


@pytest.mark.parametrize(
    ("mask_format", "labels_format", "blur"),
    [
        ("png", "ome-tiff", 0.0),
        ("png", "ome-zarr", 0.1),
        ("tiff", "ome-zarr", 0.0),
        ("ome-tiff", "ome-tiff", 0.0),
    ],
)
def test_masks_and_labels_of_a_smaller_level_are_exported_in_px_of_level_0(
    tmp_path: Path, mask_format: str, labels_format: str, blur: float
) -> None:
    pytest.importorskip("zarr")
    image = np.zeros((256, 384, 3), np.uint8)
    image[40:80, 64:128] = image[160:200, 256:320] = 255
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        writer.write(image, subifds=1, tile=(64, 64), photometric="rgb")
        writer.write(image[::2, ::2], subfiletype=1, tile=(64, 64), photometric="rgb")
    config = {"level": 1, "write": ("mask", "labels"), "mask_format": mask_format, "blur": blur}
    config["labels_format"] = labels_format
    model = lambda tiles: tiles[..., :1] / np.float32(255)  # noqa: E731
    assert not tiledseg.predict_files(model, tmp_path / "a.tif", tmp_path / "out", config).failed
    for kind, options in (("masks", []), ("labels", ["--instances"])):
        given = [
            "export",
            str(tmp_path / "out" / kind),
            "--output",
            str(tmp_path / kind),
            "--write",
            "geojson",
        ]
        assert main([*given, *options]) == 0
        features = json.loads((tmp_path / kind / "geojson" / "a.geojson").read_text())["features"]
        corners = [np.array(one["geometry"]["coordinates"][0]).min(axis=0).tolist() for one in features]
        assert sorted(corners) == [[64, 40], [256, 160]]


def test_a_smaller_level_of_a_mask_is_exported_in_px_of_level_0(tmp_path: Path) -> None:
    mask = np.zeros((256, 384), np.uint8)
    mask[40:80, 64:128] = 255
    (tmp_path / "m").mkdir()
    with tifffile.TiffWriter(tmp_path / "m" / "a.tif") as writer:
        writer.write(mask, subifds=1, tile=(64, 64), metadata=None)
        writer.write(mask[::2, ::2], subfiletype=1, tile=(64, 64), metadata=None)
    given = [
        "export",
        str(tmp_path / "m"),
        "--output",
        str(tmp_path / "o"),
        "--level",
        "1",
        "--write",
        "geojson",
    ]
    assert main(given) == 0
    (found,) = json.loads((tmp_path / "o" / "geojson" / "a.geojson").read_text())["features"]
    assert np.array(found["geometry"]["coordinates"][0]).min(axis=0).tolist() == [64, 40]


def test_export_reads_numbers_of_objects_as_masks_are_read(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    cells = np.zeros((60, 90), np.uint8)
    for number, (y, x) in enumerate(itertools.product(range(0, 60, 20), range(0, 90, 30)), 1):
        cells[y + 1 : y + 15, x + 1 : x + 20] = number

    def exported(name: str, *options: str) -> tuple[int, str]:
        out = tmp_path / f"{len(list(tmp_path.iterdir()))}"
        given = ["export", str(tmp_path / name), "--output", str(out), "--write", "geojson", "--instances"]
        status, text = main([*given, *options]), capsys.readouterr().err
        path = out / "geojson" / f"{name[0]}.geojson"
        return (len(json.loads(path.read_text())["features"]), text) if status == 0 else (0, text)

    tifffile.imwrite(tmp_path / "a.tif", cells, photometric="miniswhite")
    assert "0 is white" in exported("a.tif")[1]  # the background was an object, too
    assert exported("a.tif", "--palette", "index")[0] == 9
    tifffile.imwrite(tmp_path / "b.tif", cells.astype(np.float32))
    assert exported("b.tif")[0] == 9
    tifffile.imwrite(tmp_path / "c.tif", np.dstack([cells] * 3), photometric="rgb")
    assert exported("c.tif")[0] == 9
    colours = np.random.default_rng(0).integers(0, 65536, (3, 256)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "d.tif", cells, photometric="palette", colormap=colours)
    assert "Pass --palette index" in exported("d.tif")[1]
    assert exported("d.tif", "--palette", "index")[0] == 9
    cv2.imwrite(str(tmp_path / "e.jpg"), cells * 20)
    assert "be lossless to hold labels" in exported("e.jpg")[1]


def test_a_cross_validation_has_a_manifest_for_each_fold(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, samples: Path
) -> None:
    data = ["--images", str(samples / "images"), "--masks", str(samples / "masks")]
    target = tmp_path / "data.jsonl"
    assert main(["split", *data, "--manifest", str(target), "--folds", "2"]) == 0
    assert "fold_2" in capsys.readouterr().out
    names = [
        {one.name for one in Manifest.read(tmp_path / f"data_{number}.jsonl").records if one.split == "valid"}
        for number in (1, 2)
    ]
    assert names[0]
    assert not names[0] & names[1]


def test_evaluations_that_cannot_start_are_refused(
    capsys: pytest.CaptureFixture[str], bundle: Path, samples: Path, tmp_path: Path
) -> None:
    data = ["--images", samples / "images", "--masks", samples / "masks"]
    assert "be given with --triples" in fail(capsys, "evaluate", bundle, *data, "--triples")
    text = fail(capsys, "evaluate", bundle, *data, "--against", bundle)
    assert "name other models" in text
    missing = tmp_path / "missing"
    assert "missing" in fail(capsys, "train", "--images", missing, "--masks", samples / "masks")
    (tmp_path / "none").mkdir()
    text = fail(capsys, "init", tmp_path / "none", samples / "masks", "--output", tmp_path / "project")
    assert "hold images with masks" in text or "image" in text


def test_demo_refuses_a_folder_with_other_files(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "input.png").write_text("mine", encoding="utf-8")
    assert "an earlier demo" in fail(capsys, "demo", "--output", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["input.png"]


def test_results_are_kept_for_the_same_model_alone_however_its_settings_are_given(
    bundle: Path, samples: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, output = samples / "images", tmp_path / "out"
    same = ["--output", str(output), "--existing", "skip", "--quiet"]
    assert main(["predict", str(bundle), str(images), *same]) == 0
    assert main(["predict", "--config", str(output / "run.toml"), *same]) == 0
    assert "0 predicted, 2 skipped" in capsys.readouterr().out
    other = tiledseg.load_model(bundle)
    weights = [value + 0.1 for value in other.network.get_weights()]
    other.network.set_weights(weights)
    other.save(tmp_path / "other")
    assert "was made with another model" in fail(capsys, "predict", tmp_path / "other", images, *same)
