"""Build the sdist and, from it, the wheel; install the wheel afresh; look inside and run it.

Run as ``python tests/check_package.py`` with the interpreter of an environment that has the dependencies:
the fresh environment sees them, but not the working tree.
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def run(*command: str | Path, cwd: Path) -> str:
    """Run a command and return what it printed; show that if it failed."""
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done.stdout


def demand(condition: object, message: str) -> None:
    """Stop with a message unless a condition holds."""
    if not condition:
        sys.exit(f"package: {message}")


def build(folder: Path) -> tuple[Path, Path]:
    """Build the sdist from the working tree and the wheel from the sdist."""
    run(sys.executable, "-m", "build", "--outdir", folder, ROOT, cwd=folder)
    (sdist,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    return sdist, wheel


def look_inside(sdist: Path, wheel: Path) -> None:
    """Check that all that belongs into the two archives is there, and nothing else."""
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    modules = (ROOT / "tiledseg").rglob("*.py")
    sources = {path.relative_to(ROOT).as_posix() for path in modules}
    demand({"tiledseg/py.typed", "tiledseg/__init__.pyi"} <= names, "the wheel lacks py.typed or the stub")
    demand(sources <= names, f"the wheel lacks {sorted(sources - names)}")
    shipped = {
        f"tiledseg/models/shipped/demo/{name}" for name in ("config.json", "model.safetensors", "README.md")
    }
    demand(shipped <= names, f"the wheel lacks {sorted(shipped - names)}")
    demand(any(name.endswith(".dist-info/licenses/LICENSE") for name in names), "the wheel lacks the licence")
    foreign = {name for name in names if name.split("/")[0] != "tiledseg" and ".dist-info/" not in name}
    demand(not foreign, f"the wheel holds {sorted(foreign)}")
    with tarfile.open(sdist) as packed:
        inside = {name.partition("/")[2] for name in packed.getnames()}
    needed = {"LICENSE", "README.md", "CHANGELOG.md", "pyproject.toml", "tests/conftest.py"}
    demand(needed <= inside, f"the sdist lacks {sorted(needed - inside)}")
    foreign = {name for name in inside if "segpc-plasma" in name}
    demand(not foreign, f"the sdist holds {sorted(foreign)}, which has another licence")


def try_out(wheel: Path, folder: Path) -> str:
    """Install the wheel into a fresh environment and use it from an empty folder."""
    fresh = folder / "fresh"
    venv.create(fresh)
    site = sysconfig.get_path("purelib", "venv", vars={"base": str(fresh), "platbase": str(fresh)})
    # The .pth files of a folder named in one are not read: the editable install stays out of sight.
    (Path(site) / "dependencies.pth").write_text(sysconfig.get_path("purelib"), encoding="utf-8")
    pip = (sys.executable, "-m", "pip", f"--python={fresh}")
    run(*pip, "install", "--quiet", "--no-deps", wheel, cwd=folder)
    scripts = Path(sysconfig.get_path("scripts", "venv", vars={"base": str(fresh)}))
    where = run(scripts / "python", "-c", "import tiledseg; print(tiledseg.__file__)", cwd=folder).strip()
    demand(Path(where).is_relative_to(fresh), f"the fresh environment imports {where}")
    usage = run(scripts / "tiledseg", "--help", cwd=folder)
    demand("predict" in usage, f"`tiledseg --help` does not name predict:\n{usage}")
    return run(scripts / "python", "-c", "import tiledseg; print(tiledseg.__version__)", cwd=folder).strip()


def main() -> None:
    """Build, look, try."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        sdist, wheel = build(folder)
        look_inside(sdist, wheel)
        version = try_out(wheel, folder)
        demand(f"-{version}-" in wheel.name, f"{wheel.name} imports as version {version}")
        sys.stdout.write(f"package: {sdist.name} and {wheel.name} hold what they should, install and run\n")


if __name__ == "__main__":
    main()
