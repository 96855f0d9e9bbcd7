import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

EXAMPLES = Path(__file__).parents[1] / "docs/examples"

pytestmark = pytest.mark.timeout(180)


def run(name, *arguments):
    program = [sys.executable, EXAMPLES / name, *arguments]
    return subprocess.run(program, check=True, capture_output=True, text=True, timeout=120)


def test_the_quickstart_runs():
    output = run("quickstart.py").stdout.splitlines()
    assert len(output) == 2 * (8 + 2)
    assert output[-1].startswith("validation batch 2/2: brightness follows the label by 1.000")


def accuracy(output):
    return float(re.search(r"([\d.]+)% after", output)[1])


def test_a_classifier_of_the_digits_learns_them_and_a_stopped_training_goes_on_exactly(tmp_path):
    finished = run("train_digits.py", "--epochs", "6")
    assert finished.stderr == "", "an ordinary training gives no cause for warnings"
    whole = finished.stdout
    assert accuracy(whole) > 90
    checkpoint = str(tmp_path / "digits.npz")
    run("train_digits.py", "--epochs", "3", "--checkpoint", checkpoint)
    resumed = run("train_digits.py", "--epochs", "6", "--workers", "1", "--checkpoint", checkpoint).stdout
    assert resumed.startswith("epoch 3:")
    assert whole.splitlines()[3:-1] == resumed.splitlines()[:-1]


def test_a_small_gpt_learns_from_packed_rows_that_are_full():
    output = run("train_gpt.py", "--steps", "5").stdout
    fills = dict(re.findall(r"^(.+): rows ([\d.]+)% full", output, re.MULTILINE))
    losses = [float(found) for found in re.findall(r"loss ([\d.]+)", output)]
    assert float(fills["packed"]) > 98 > float(fills["one text a row"])
    assert max(losses) < 6.5, "untrained, it has more"


def test_buckets_of_like_lengths_are_compiled_once_each():
    output = run("train_buckets.py", "--epochs", "4").stdout
    assert output.count("bucket of up to") == 3
    compilations, right = re.search(r"(\d+) compilations; ([\d.]+)% of 370", output).groups()
    assert int(compilations) == 3
    assert float(right) > 80


def test_currents_of_appliances_are_read_and_told_apart_whatever_their_size(tmp_path, monkeypatch, capsys):
    """Files as PLAID's; the real ones come with sktime. In this process, which has jax already."""
    rng = np.random.default_rng(0)
    for part, count in (("TRAIN", 60), ("TEST", 30)):
        lines = ["#made up", "@problemName PLAID", "@data"]
        for number in range(count):
            wave = np.sin(np.arange(rng.integers(100, 160)) / 3)
            shape = (wave, np.sign(wave), np.abs(wave) ** 8)[number % 3]
            lines.append(",".join(f"{value:.5g}" for value in shape * 10 ** rng.uniform(-4, 1)) + f":{number % 3}")
        (tmp_path / f"PLAID_{part}.ts").write_text("\n".join(lines) + "\n")
    options = ["--problem", "PLAID", "--data", str(tmp_path), "--epochs", "6", "--buckets", "2"]
    monkeypatch.setattr(sys, "argv", ["train_buckets.py", *options])
    runpy.run_path(str(EXAMPLES / "train_buckets.py"), run_name="__main__")
    output = capsys.readouterr().out
    compilations, right = re.search(r"(\d+) compilations; ([\d.]+)% of 30", output).groups()
    assert int(compilations) == output.count("bucket of up to") == 2
    assert float(right) > 80


def test_two_folders_of_images_come_in_their_shares():
    output = run("mix_images.py").stdout
    assert "70.0% of the web, 30.0% of our own" in output


def shares(output):
    return [float(share) for share in re.findall(r"([\d.]+)% ", output)]


def test_equinox_learns_the_digits():
    assert shares(run("train_equinox.py", "--epochs", "3").stdout)[-1] > 85


def test_flax_goes_on_from_a_checkpoint_of_orbax_exactly(tmp_path):
    pytest.importorskip("flax")
    folder = tmp_path / "run"
    whole = run("train_flax.py", "--epochs", "2", "--checkpoints", folder).stdout.splitlines()
    shutil.rmtree(folder / "1")  # as if it had been stopped behind its first epoch
    assert run("train_flax.py", "--epochs", "2", "--checkpoints", folder).stdout.splitlines() == whole[1:]
    assert shares(whole[-1])[-1] > 85


def test_plain_jax_trains_on_all_devices():
    assert shares(run("train_devices.py", "--epochs", "5").stdout)[-1] > 85
