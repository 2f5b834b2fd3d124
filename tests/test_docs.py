"""Every code block of the pages runs; CONTRIBUTING.md states the convention."""

from __future__ import annotations

import doctest
import importlib
import os
import pkgutil
import re
import subprocess
import sysconfig
from pathlib import Path
from typing import NamedTuple

import pytest
import warm_python

import tiledseg
from tiledseg import errors

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXTS = [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
RUN = {"python", "pycon", "console"}
SHOWN = {"text", "sh", "toml", "json", "{eval-rst}", "{include}", "{toctree}"}
LIKE = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE

_FENCE = re.compile(
    r"^ *(?P<fence>```+) *(?P<tag>\S*) *(?P<slow>slow\b)?.*\n(?P<code>(?:.*\n)*?) *(?P=fence) *$",
    re.MULTILINE,
)
_COMMAND = re.compile(r"(.*\\\n)*.*\n")  # lines that end in a backslash go on


class Block(NamedTuple):
    """A fenced block: its tag, its text, the number of the line before its text, and whether it is slow."""

    tag: str
    code: str
    line: int
    slow: bool


def blocks_of(text: str) -> list[Block]:
    """List the fenced blocks of a page in order."""
    found = _FENCE.finditer(text)
    return [
        Block(one["tag"], one["code"], text.count("\n", 0, one.start("code")), bool(one["slow"]))
        for one in found
    ]


def run_python(block: Block, page: str, names: dict[str, object]) -> None:
    """Execute a block as if the page were the source: a traceback names the page's own line."""
    exec(compile("\n" * block.line + block.code, page, "exec"), names)


def run_pycon(block: Block, page: str, names: dict[str, object]) -> None:
    """Run a block with prompts as a doctest."""
    test = doctest.DocTestParser().get_doctest(block.code, names, page, page, block.line)
    report: list[str] = []
    # A copy would hide from later blocks what this one defines.
    test.globs = names
    outcome = doctest.DocTestRunner(optionflags=LIKE).run(test, out=report.append, clear_globs=False)
    assert not outcome.failed, "".join(report)


def run_console(block: Block, page: str, names: dict[str, object]) -> None:
    """Run the lines after ``$``; where output is shown, it is what came."""
    del names
    path = os.pathsep.join([warm_python.programs(), sysconfig.get_path("scripts"), os.environ["PATH"]])
    for part in re.split(r"^\$ ", block.code, flags=re.MULTILINE)[1:]:
        command = _COMMAND.match(part)[0]
        shown = part.removeprefix(command)
        done = subprocess.run(
            ["bash", "-c", command],
            env={**os.environ, "PATH": path},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{page}: {command}{done.stdout}{done.stderr}"
        alike = doctest.OutputChecker().check_output(shown, done.stdout, LIKE)
        assert alike or not shown.strip(), f"{page}: {command} printed\n{done.stdout}\nnot\n{shown}"


def run_page(text: str, page: str, *, slow: bool = True) -> None:
    """Run a page's blocks in order, in the current folder, the Python ones in one namespace."""
    names: dict[str, object] = {"__name__": "__main__"}
    runners = {"python": run_python, "pycon": run_pycon, "console": run_console}
    for block in blocks_of(text):
        if block.tag in runners and (slow or not block.slow):
            runners[block.tag](block, page, names)


SLOW = [page for page in PAGES if any(block.slow for block in blocks_of(page.read_text(encoding="utf-8")))]


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run_page(page.read_text(encoding="utf-8"), str(page), slow=False)


@pytest.mark.slow
@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("page", SLOW, ids=lambda page: page.name)
def test_page_runs_with_its_slow_blocks(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run_page(page.read_text(encoding="utf-8"), str(page))


@pytest.mark.parametrize("page", TEXTS, ids=lambda page: page.name)
def test_every_block_says_how_it_is_checked(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert [block for block in blocks_of(text) if block.tag not in RUN | SHOWN] == []


@pytest.mark.parametrize("page", TEXTS, ids=lambda page: page.name)
def test_every_link_to_a_file_leads_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8"))
    missing = [target for target in targets if "://" not in target and not (page.parent / target).exists()]
    assert missing == []


def reference() -> str:
    """Return the pages of the reference as one text."""
    return "".join(path.read_text(encoding="utf-8") for path in (ROOT / "docs" / "reference").glob("*.md"))


def test_the_errors_have_a_heading_each() -> None:
    page = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
    assert re.findall(r"^## (\w+)$", page, re.MULTILINE) == [*sorted(errors.__all__), "Attributes"]
    tree = page.partition("```text")[2].partition("```")[0]
    assert errors.__doc__.partition("::")[2].split() == tree.split()


def test_the_reference_lists_every_public_name() -> None:
    listed = re.findall(r"^   (\w+)$", reference(), re.MULTILINE)
    packages = {package.name for package in pkgutil.iter_modules(tiledseg.__path__)}
    assert sorted([*listed, "TiledSegError", "__version__"]) == sorted(set(tiledseg.__all__) - packages)


def test_the_reference_names_what_the_packages_list() -> None:
    listed = [name.split(".") for name in re.findall(r"^   (\w+\.\w+)$", reference(), re.MULTILINE)]
    packages = {package: importlib.import_module(f"tiledseg.{package}") for package, _ in listed}
    assert [f"{package}.{name}" for package, name in listed if name not in packages[package].__all__] == []


def test_blocks_share_one_namespace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    first, second = "```python\na = 1\n```\n", "```pycon\n>>> a + 1\n2\n>>> b = 3\n```\n"
    run_page(f"{first}text\n\n{second}```python\nassert b == 3\n```\n", "page")


@pytest.mark.parametrize(
    "page",
    [
        "```python\nraise ValueError\n```\n",
        "```pycon\n>>> 1 + 1\n3\n```\n",
        "```console\n$ false\n```\n",
        "```console\n$ echo one\ntwo\n```\n",
        "```console\n$ true\n$ echo one \\\n    two\none three\n```\n",
    ],
)
def test_a_wrong_page_is_caught(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises((AssertionError, ValueError)):
        run_page(page, "page")


def test_a_slow_block_is_left_out_of_a_quick_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    page = "```python\na = 1\n```\n\n```python slow\na = 1 / 0\n```\n\n```pycon\n>>> a\n1\n```\n"
    run_page(page, "page", slow=False)
    with pytest.raises(ZeroDivisionError):
        run_page(page, "page")


def test_a_traceback_names_the_line_of_the_page() -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        run_page("one\n\n```python\n1 / 0\n```\n", "page")
    assert caught.traceback[-1].lineno == 3  # counted from 0


def test_console_runs_what_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run_page("```console\n$ echo one \\\n    two > file\n$ cat file\none ...\n```\n", "page")
