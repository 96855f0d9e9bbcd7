"""The documents keep their promises to the reader: links lead somewhere, and nothing names a machine of ours."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_every_link_leads_to_a_file(page):
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
        if not target.startswith(("http://", "https://")):
            assert (page.parent / target).exists(), target


def test_no_file_names_a_path_of_this_machine():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    home = str(Path.home())
    for name in listed.stdout.splitlines():
        text = (ROOT / name).read_text(errors="replace") if (ROOT / name).is_file() else ""
        assert f"{ROOT}/" not in text, name
        assert len(home) < 5 or f"{home}/" not in text, name


def python_pages():
    return [
        page for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))) if "```python" in page.read_text()
    ]


@pytest.mark.parametrize("page", python_pages(), ids=[page.stem for page in python_pages()])
def test_the_python_of_a_page_runs(page, tmp_path):
    """All blocks as one program, in an empty folder, with what the page takes for granted from tests/pages/."""
    run_page(tmp_path, page)


def run_page(folder, *arguments):
    program = [sys.executable, ROOT / "tests/pages/run.py", *arguments]
    done = subprocess.run(program, cwd=folder, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr


NEEDS = [
    (page, library) for page in python_pages() for library in re.findall(r"<!-- needs (\w+) -->", page.read_text())
]


@pytest.mark.parametrize(("page", "library"), NEEDS, ids=[f"{page.stem}-{library}" for page, library in NEEDS])
def test_the_python_that_needs_a_library_runs_where_it_is_installed(page, library, tmp_path):
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed")
    run_page(tmp_path, page, library)
