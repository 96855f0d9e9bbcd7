import pickle
import subprocess
import sys
import textwrap

from hydrax_core.engine.workers import pickling


def test_a_traceback_of_a_function_sent_by_value_names_file_and_line(tmp_path):
    path = tmp_path / "train.py"
    path.write_text(
        textwrap.dedent(
            """
            import sys
            from hydrax_core.engine.workers import pickling

            def outer(item):
                def inner():
                    return 1 / item
                return inner()

            sys.stdout.write(pickling.dumps((outer, lambda: outer(0))).hex())
            """
        )
    )
    sent = subprocess.run([sys.executable, path], check=True, capture_output=True, text=True).stdout
    read = subprocess.run(
        [sys.executable, "-c", "import pickle, sys; pickle.loads(bytes.fromhex(sys.stdin.read()))[1]()"],
        capture_output=True,
        text=True,
        input=sent,
        check=False,
    )
    assert "ZeroDivisionError" in read.stderr
    for line, function in ((10, "<lambda>"), (8, "outer"), (7, "inner")):
        assert f'File "{path}", line {line}, in {function}' in read.stderr
    assert "return 1 / item" in read.stderr


def test_values_arrive_as_they_were_sent():
    class Local:
        number = 3

    assert pickle.loads(pickling.dumps({"a": [1, 2.5], "b": Local}))["b"].number == 3
