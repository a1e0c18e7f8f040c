"""Bad input and bad luck on the command line: one clear message, an exit status, no traceback, nothing left over."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sw_driver.command_line import DEBUG_VARIABLE, check, main
from sw_driver.command_line.grammar import version
from sw_driver.tflite.builder import TfliteBuilder

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "models" / "digits.tflite"


def _lacuna(*arguments: object, cwd: Path, **options: str) -> subprocess.CompletedProcess[str]:
    """The command line in a process of its own."""
    program = "import sys; from sw_driver.command_line import main; sys.exit(main())"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **options}
    return subprocess.run([sys.executable, "-c", program, *map(str, arguments)], cwd=cwd, env=environment,
                          capture_output=True, text=True, check=False, timeout=60)


@pytest.fixture
def x(tmp_path: Path) -> Path:
    path = tmp_path / "x.npy"
    np.save(path, np.zeros((1, 28, 28, 1), np.int8))
    return path


@pytest.mark.parametrize("damage", ["missing", "empty", "truncated", "text", "flipped", "directory"])
@pytest.mark.parametrize("command", ["run", "check", "compile"])
def test_bad_model_files(tmp_path: Path, x: Path, damage: str, command: str,
                         refused: Callable[..., str]) -> None:
    path, data = tmp_path / "bad.tflite", MODEL.read_bytes()
    if damage == "flipped":
        data = data[:4] + bytes([data[4] ^ 0x20]) + data[5:]
    if damage == "directory":
        path.mkdir()
    elif damage != "missing":
        path.write_bytes({"empty": b"", "truncated": data[:20_000], "text": b"hello, " * 99, "flipped": data}[damage])
    out = tmp_path / "out"
    options = {"run": ["--input", x, "--device", "golden", "--json", out], "check": ["--json", out],
               "compile": ["-o", out]}
    assert "bad.tflite" in refused(command, path, *options[command])
    assert not out.exists()
    assert [entry.name for entry in tmp_path.iterdir() if entry.name.startswith(".")] == []


def test_bits_flipped_anywhere(tmp_path: Path, x: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A damaged model is refused or compiled (a flipped weight is a valid weight); it is never an internal error."""
    seed = int(os.environ.get("LACUNA_SEED", "11"))
    print(f"LACUNA_SEED={seed}")
    generator = np.random.default_rng(seed)
    original = MODEL.read_bytes()
    path = tmp_path / "flipped.tflite"
    for _trial in range(12):
        data = bytearray(original)
        data[generator.integers(len(data))] ^= 1 << int(generator.integers(8))
        path.write_bytes(data)
        status = main(["check", str(path)])
        captured = capsys.readouterr()
        assert status in (0, 1)
        assert "internal error" not in captured.err


@pytest.mark.parametrize(("array", "message"), [
    (np.zeros((1, 28, 28, 3), np.int8), "shape"),
    (np.zeros((1, 28, 28, 1), np.float32), "type"),
])
def test_bad_inputs(tmp_path: Path, array: np.ndarray, message: str, refused: Callable[..., str]) -> None:
    np.save(tmp_path / "bad.npy", array)
    assert message in refused("run", MODEL, "--device", "golden", "--input", tmp_path / "bad.npy")


def test_missing_input_file(tmp_path: Path, refused: Callable[..., str]) -> None:
    assert "no such file" in refused("run", MODEL, "--device", "golden", "--input", tmp_path / "none.npy")


def test_a_model_too_large_names_bytes_and_a_preset_that_does(tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                                              refused: Callable[..., str]) -> None:
    builder = TfliteBuilder("wide")
    x = builder.add_input("x", (1, 3, 512, 32), scale=0.1, zero_point=0)
    weights = np.ones((8, 3, 3, 32), np.int8)
    builder.add_output(builder.add_conv_2d(x, weights, None, 0.01, scale=0.1, zero_point=0))
    builder.save(tmp_path / "wide.tflite")
    message = refused("compile", tmp_path / "wide.tflite", "--preset", "nano", "-o", tmp_path / "out")
    assert "bytes" in message
    assert "Preset '" in message
    assert main(["check", str(tmp_path / "wide.tflite"), "--preset", "nano"]) == 1
    assert "Preset '" in capsys.readouterr().out


def test_check_lists_everything_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                        refused: Callable[..., str]) -> None:
    builder = TfliteBuilder("mixed")
    x = builder.add_input("x", (1, 4, 4, 8), scale=0.1, zero_point=0)
    bent = builder.add_unary("ELU", x, scale=0.1, zero_point=0, name="bent")
    total = builder.add_add(bent, x, scale=0.1, zero_point=0, name="total")
    builder.add_output(builder.add_unary("EXP", total, scale=0.1, zero_point=0, name="grown"))
    builder.save(tmp_path / "mixed.tflite")
    out = tmp_path / "out.json"
    assert main(["check", str(tmp_path / "mixed.tflite"), "--json", str(out)]) == 1
    printed = capsys.readouterr().out
    for expected in ("operator 0 ELU 'bent'", "operator 2 EXP 'grown'", "remedy", "vector engine",
                     "2 to mend"):
        assert expected in printed
    assert out.exists()
    message = refused("compile", tmp_path / "mixed.tflite", "-o", tmp_path / "out")
    assert "operator 0 ELU" in message
    assert "operator 2 EXP" in message


@pytest.mark.parametrize("arguments", [
    [], ["run"], ["nonsense"], ["run", "m.tflite", "--input", "x.npy", "--preset", "huge"],
    ["run", "m.tflite", "--input", "x.npy", "--latency", "-1"],
    ["run", "m.tflite", "--input", "x.npy", "--waves-commands", "7:3"], ["compile", "m.tflite", "--weights", "zip"],
])
def test_wrong_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("lacuna: error: ")


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    for option, expected in (("--version", f"lacuna {version()}"), ("--help", "doctor")):
        with pytest.raises(SystemExit) as ended:
            main([option])
        assert ended.value.code == 0
        assert expected in capsys.readouterr().out


@pytest.mark.parametrize(("raised", "status", "message"), [
    (KeyboardInterrupt(), 130, "interrupted"),
    (RuntimeError("a mistake"), 1, "internal error: RuntimeError: a mistake"),
    (KeyError("name"), 1, "mistake in Lacuna"),
])
def test_what_nobody_expects(monkeypatch: pytest.MonkeyPatch, raised: BaseException, status: int, message: str,
                             capsys: pytest.CaptureFixture[str]) -> None:
    def fail(_options: object) -> int:
        raise raised

    monkeypatch.setattr(check, "handle", fail)
    assert main(["check", "m.tflite"]) == status
    captured = capsys.readouterr()
    assert message in captured.err
    assert "Traceback" not in captured.err


def test_debugging_adds_the_traceback(monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
                                      capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv(DEBUG_VARIABLE, "1")
    assert main(["check", str(tmp_path / "none.tflite")]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_signals_end_a_run_and_leave_no_file(tmp_path: Path, x: Path) -> None:
    program = ("import os, signal, sys\nimport sw_driver.command_line.run as run\n"
               "from sw_driver.command_line import main\n"
               "number = int(sys.argv.pop())\nrun.open_device = lambda *a, **k: os.kill(os.getpid(), number)\n"
               "sys.exit(main())")
    out = tmp_path / "out.json"
    for number, status in ((signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)):
        arguments = ["run", MODEL, "--input", x, "--json", out, str(int(number))]
        done = subprocess.run([sys.executable, "-c", program, *arguments], cwd=ROOT, capture_output=True,
                              text=True, check=False, timeout=60)
        assert (done.returncode, "Traceback" in done.stderr) == (status, False), done.stderr
        assert not out.exists()


def test_a_reader_that_has_gone_is_no_error(tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    program = "import sys; from sw_driver.command_line import main; sys.exit(main())"
    done = subprocess.run([sys.executable, "-c", program, "check", MODEL], cwd=ROOT, stdout=write,
                          stderr=subprocess.PIPE, text=True, check=False, timeout=60)
    os.close(write)
    assert done.returncode == 141
    assert done.stderr == ""


def test_doctor_says_what_is_missing_and_how_to_get_it(tmp_path: Path) -> None:
    done = _lacuna("doctor", cwd=tmp_path)
    assert "amaranth" in done.stdout
    assert done.returncode == 0, done.stdout
    without = _lacuna("doctor", cwd=tmp_path, PATH=str(tmp_path))
    assert without.returncode == 1
    assert "apt install g++" in without.stdout
    quiet = _lacuna("doctor", "--quiet", cwd=tmp_path, PATH=str(tmp_path))
    assert (quiet.returncode, quiet.stdout) == (1, "")
    assert all(line.startswith("lacuna: error: ") for line in quiet.stderr.splitlines())
    assert "perl" in quiet.stderr


def test_run_without_a_compiler_says_so(tmp_path: Path, x: Path) -> None:
    done = _lacuna("run", MODEL, "--input", x, "--preset", "nano", cwd=tmp_path, PATH=str(tmp_path),
                   LACUNA_BUILD=str(tmp_path / "build"))
    assert done.returncode == 1
    assert done.stderr.startswith("lacuna: error: ")
    assert "g++" in done.stderr
    assert "Traceback" not in done.stderr
