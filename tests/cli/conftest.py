import pytest

from hydrax_cli.main import run_command_line


@pytest.fixture
def hydrax(capsys):
    """Runs a command of hydrax: its exit code, what it wrote to standard output, what to standard error."""

    def hydrax(*arguments):
        code = run_command_line(list(map(str, arguments)))
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return hydrax


@pytest.fixture
def images(tmp_path):
    """A folder of ten pictures, five a label."""
    pil = pytest.importorskip("PIL.Image")
    for label in ("cat", "dog"):
        (tmp_path / "images" / label).mkdir(parents=True)
        for number in range(5):
            picture = pil.effect_mandelbrot((20 + number, 16), (-2, -1.5, 1 + number / 9, 1.5), 40)
            picture.save(tmp_path / "images" / label / f"{number}.png")
    return tmp_path / "images"
