"""TARGETs of ``hydrax run`` and ``hydrax inspect`` that print, exit, loop or die: bounded, named, refused."""

import contextlib
import json
import os
import pty
import select
import signal

import pytest
from faultkit import limit, python, start_python
from waiting import wait_until

pytestmark = limit(60)

LOADER = """
from hydrax_core import DataGroup, Dataloader
def load(item, arrays, seed):
    print("loading", item)
    os.write(1, b"loading, behind Python's back\\n")
    arrays["x"][...] = item
loader = Dataloader(load, DataGroup(4, range(16), loader_arrays={"x": ((), "int32")}), loader_kind=KIND)
"""
HYDRAX = """
    import hydrax_cli.shared.target
    from hydrax_cli.main import main
    hydrax_cli.shared.target._PATIENCE_SECONDS = 0.2
    main()
"""


def hydrax(*arguments, **options):
    return start_python(HYDRAX, arguments=arguments, **options)


@pytest.mark.parametrize("kind", ["process", "inline"])
def test_whatever_a_target_prints_the_result_has_standard_output_for_itself(kind, tmp_path):
    prints = "import os, sys\nprint('import ' * 1_000_000)\nos.write(1, b'raw ' * 10_000)\n"
    (tmp_path / "noisy.py").write_text(prints + LOADER.replace("KIND", repr(kind)))
    output, errors = hydrax("run", f"{tmp_path}/noisy.py:loader", "--json", "-", "--no-check").communicate()
    assert json.loads(output)["training_batches"] == 4
    assert errors.count("import ") == 1_000_000
    assert errors.count("raw ") == 10_000
    assert [errors.count(f"loading {item}\n") for item in range(16)] == [1] * 16
    assert errors.count("behind Python's back") == 16


BROKEN = {
    "import sys; sys.exit(0)": "SystemExit: 0",
    "import sys; sys.exit('enough')": "SystemExit: enough",
    "raise GeneratorExit": "GeneratorExit",
    "class Odd(BaseException): pass\nraise Odd": "Odd",
    "def f(): f()\nf()": "RecursionError",
    "raise MemoryError": "MemoryError",
    "import nowhere": "No module named 'nowhere'",
    "loader = 5": "expected a Dataloader",
    "loader = dict": "returned {}",
    "def loader(): raise StopIteration": "StopIteration",
    "def __getattr__(name): raise RuntimeError(name)": "RuntimeError: loader",
    "import sys; sys.modules[__name__] = None": "has no 'loader'",
    "\x00": "null bytes",
}


def test_a_target_that_exits_or_raises_is_refused_by_name(tmp_path):
    for number, code in enumerate(BROKEN):
        (tmp_path / f"broken{number}.py").write_text(code)
    result = python(
        """
        import contextlib, io, json
        from hydrax_cli.main import run_command_line
        for path in sys.argv[1:]:
            with contextlib.redirect_stderr(io.StringIO()) as errors:
                code = run_command_line(["run", f"{path}:loader"])
            print(json.dumps((code, errors.getvalue())))
        """,
        arguments=[f"{tmp_path}/broken{number}.py" for number in range(len(BROKEN))],
    )
    answers = [json.loads(line) for line in result.stdout.splitlines()]
    for number, (said, (code, errors)) in enumerate(zip(BROKEN.values(), answers, strict=True)):
        assert code in (1, 2), errors
        assert said in errors
        assert f"broken{number}" in errors
        assert "hydrax_cli" not in errors


def test_a_target_that_ends_the_process_ends_it_with_its_own_code(tmp_path):
    (tmp_path / "deadly.py").write_text("import os; os._exit(7)")
    process = hydrax("run", f"{tmp_path}/deadly.py:loader", "--json", f"{tmp_path}/result.json")
    assert process.wait() == 7
    assert not (tmp_path / "result.json").exists()


def test_a_target_that_loops_at_import_is_named_and_ends_with_ctrl_c(tmp_path):
    path = tmp_path / "endless.py"
    path.write_text("import time\nwhile True:\n    time.sleep(0.01)\n")
    process = hydrax("run", f"{path}:loader")
    assert process.stderr.readline() == f"{path} has been running for 0.2 s; there is no loader yet (Ctrl-C stops it)\n"
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate()
    assert process.returncode == 130
    assert f"{path} was at {path}:" in errors
    assert "interrupted" in errors
    assert "Traceback" not in errors
    assert output == ""


def test_the_inspector_can_be_left_while_a_target_loops_at_import(tmp_path):
    path = tmp_path / "endless.py"
    path.write_text("while True: pass\n")
    master, slave = pty.openpty()
    try:
        environment = {"TERM": "xterm-256color", "COLUMNS": "100", "LINES": "30"}
        process = hydrax("inspect", f"{path}:loader", stdin=slave, stdout=slave, stderr=slave, env=environment)
        shown = b""

        def shows(text):
            nonlocal shown
            if select.select([master], [], [], 0.05)[0]:
                with contextlib.suppress(OSError):
                    shown += os.read(master, 1 << 16)
            return text in shown

        wait_until(lambda: shows(b"opening"))
        os.write(master, b"q")
        wait_until(lambda: shows(b"nothing") or process.poll() is not None)
        assert process.returncode in (0, 1)
    finally:
        os.close(master)
        os.close(slave)
