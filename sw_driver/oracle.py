"""The oracle: TFLite Micro's reference kernels, what every result must equal bit for bit.

The interpreter runs in a process of its own, which lives on between calls: a model that makes it abort (it
does where its arena is too small, for one) costs an OracleError, not the caller. Models are read and checked
by `tflite.reader` first.
"""

from __future__ import annotations

import atexit
import os
import pickle
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from sw_driver.graph import NUMPY_TYPES, Graph, Tensor
from sw_driver.tflite.reader import load_graph, read_model

Inputs = Mapping[str, np.ndarray] | Sequence[np.ndarray]

#: Arena beside the tensors: for the interpreter itself, and for each operator.
_ARENA_BYTES = 1 << 20
_ARENA_BYTES_PER_OPERATOR = 1 << 12

#: How many times larger the second attempt's arena is, where the first one was too small.
_ARENA_RETRY = 8


class OracleError(RuntimeError):
    """TFLite Micro can't run this model, or not with these inputs."""


def run_oracle(model: bytes | str | Path, inputs: Inputs) -> list[np.ndarray]:
    """Run a model once on TFLite Micro.

    Parameters
    ----------
    model : a TFLite file, by its bytes or its path.
    inputs : arrays of the inputs' shapes and types; in order, or by name (see `Graph.input_position`).

    Returns the outputs in the model's order. Raises ModelError for a bad file, OracleError for inputs that don't
    match, or when TFLite Micro refuses the model.
    """
    graph, data = _load(model)
    return _run(graph, data, inputs, [])[0]


def run_oracle_tensors(model: bytes | str | Path, inputs: Inputs) -> dict[int, np.ndarray]:
    """Run a model once and return every tensor that is an input or that an operator computes, by its index in
    `Graph.tensors`. Parameters and errors are those of `run_oracle`."""
    graph, data = _load(model)
    arrays = _in_order(graph, inputs)
    computed = [index for operator in graph.operators for index in operator.outputs]
    _outputs, tensors = _run(graph, data, arrays, computed)
    values = dict(zip(graph.inputs, arrays, strict=True))
    for index, (dtype, raw) in zip(computed, tensors, strict=True):
        tensor = graph.tensors[index]
        if dtype != tensor.dtype or len(raw) != tensor.elements * tensor.element_bytes:
            raise OracleError(f"TFLite Micro has {len(raw)} bytes of {dtype} for {tensor}")
        values[index] = np.frombuffer(raw, NUMPY_TYPES[tensor.dtype]).reshape(tensor.shape)
    return values


def close_oracle() -> None:
    """End the interpreter's process; the next call starts it again. Called at exit."""
    with _WORKER.lock:
        _WORKER.stop()


def _load(model: bytes | str | Path) -> tuple[Graph, bytes]:
    data = model if isinstance(model, bytes) else read_model(model)
    return load_graph(model), data


def _in_order(graph: Graph, inputs: Inputs) -> list[np.ndarray]:
    names = graph.input_names
    if isinstance(inputs, Mapping):
        by_position: dict[int, np.ndarray] = {}
        for name, array in inputs.items():
            try:
                by_position[graph.input_position(name)] = array
            except KeyError as error:
                raise OracleError(error.args[0]) from None
        missing = [name for position, name in enumerate(names) if position not in by_position]
        if missing:
            raise OracleError(f"There is no array for the model's input {', '.join(map(repr, missing))}")
        inputs = [by_position[position] for position in range(len(names))]
    if len(inputs) != len(names):
        raise OracleError(f"The model has {len(names)} inputs, not {len(inputs)}: {', '.join(map(repr, names))}")
    arrays = [np.ascontiguousarray(array).reshape(np.shape(array)) for array in inputs]
    for name, array, index in zip(names, arrays, graph.inputs, strict=True):
        tensor = graph.tensors[index]
        if array.shape != tensor.shape or array.dtype.name != tensor.dtype:
            raise OracleError(f"Input {name!r} must be {tensor.dtype} {tensor.shape}, "
                              f"not {array.dtype.name} {array.shape}")
    return arrays


def _run(graph: Graph, data: bytes, inputs: Inputs, tensors: list[int]) -> tuple[list[np.ndarray], list[Any]]:
    arrays = _in_order(graph, inputs)
    arena = _arena_bytes(graph)
    with _WORKER.lock:
        try:
            reply = _WORKER.ask((data, arrays, len(graph.outputs), tensors, arena))
        except _ArenaError:
            reply = _WORKER.ask((data, arrays, len(graph.outputs), tensors, arena * _ARENA_RETRY))
    outputs, values = reply
    for position, index in enumerate(graph.outputs):
        tensor = graph.tensors[index]
        if outputs[position].size != tensor.elements or outputs[position].dtype.name != tensor.dtype:
            raise OracleError(f"TFLite Micro gives {outputs[position].dtype} {outputs[position].shape} for {tensor}")
        outputs[position] = outputs[position].reshape(tensor.shape)
    return outputs, values


def _arena_bytes(graph: Graph) -> int:
    """An arena that is large enough by a margin: memory that isn't touched costs nothing."""

    def tensor_bytes(tensor: Tensor) -> int:
        element = tensor.element_bytes if tensor.dtype in NUMPY_TYPES else 1
        return 256 + 32 * len(tensor.scales) + (0 if tensor.constant else 2 * tensor.elements * element)

    return (_ARENA_BYTES + _ARENA_BYTES_PER_OPERATOR * len(graph.operators)
            + sum(tensor_bytes(tensor) for tensor in graph.tensors))


# ---- the interpreter's process -----------------------------------------------------------------


class _ArenaError(OracleError):
    """The arena was too small."""


class _Worker:
    """The process, started at the first question, and again after it died."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0
        self._messages: IO[bytes] | None = None

    def ask(self, request: tuple[Any, ...]) -> Any:
        """Send a request, return the reply. Raises OracleError when the process dies or reports an error."""
        process, messages = self._start()
        messages.seek(0)
        messages.truncate()
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            _send(process.stdin, request)
            ok, reply = _receive(process.stdout)
        except (EOFError, BrokenPipeError):
            code = process.wait()
            self.stop()
            raise self._error(f"TFLite Micro stopped with exit code {code}", messages) from None
        except BaseException:
            self.stop()  # a reply may be under way: the next question must not get it
            raise
        if not ok:
            raise self._error(f"TFLite Micro can't run this model: {reply}", messages)
        return reply

    def _error(self, text: str, messages: IO[bytes]) -> OracleError:
        messages.seek(0)
        said = messages.read().decode(errors="replace").strip()
        kind = _ArenaError if "missing:" in said or "Failed to allocate" in said else OracleError
        return kind(f"{text} ({said.splitlines()[0]})" if said else text)

    def _start(self) -> tuple[subprocess.Popen[bytes], IO[bytes]]:
        if self._owner != os.getpid():  # never started, or a fork of the process that started it
            self._process = None
        if self._process is not None and self._process.poll() is not None:
            self.stop()
        if self._process is None or self._messages is None:
            root = str(Path(__file__).resolve().parents[1])
            path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
            self._messages = tempfile.TemporaryFile()  # noqa: SIM115 (lives as long as the process)
            self._process = subprocess.Popen(
                [sys.executable, "-c", "from sw_driver.oracle import _serve; _serve()"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._messages,
                env={**os.environ, "PYTHONPATH": path},
            )
            self._owner = os.getpid()
        return self._process, self._messages

    def stop(self) -> None:
        """End the process, if this process started it."""
        process, self._process = self._process, None
        if process is None or self._owner != os.getpid():
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except BrokenPipeError:
                    continue  # it had not read all of the last request


_WORKER = _Worker()
atexit.register(close_oracle)


def _send(stream: IO[bytes], message: Any) -> None:
    body = pickle.dumps(message)
    stream.write(struct.pack("<Q", len(body)) + body)
    stream.flush()


def _receive(stream: IO[bytes]) -> Any:
    header = stream.read(8)
    if len(header) < 8:
        raise EOFError
    (length,) = struct.unpack("<Q", header)
    body = stream.read(length)
    if len(body) < length:
        raise EOFError
    return pickle.loads(body)


def _serve() -> None:
    """The process: answers requests until its standard input ends."""
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever the interpreter prints must not get between the replies
    while True:
        try:
            request = _receive(requests)
        except EOFError:
            return
        try:
            reply = (True, _interpret(*request))
        except Exception as error:  # reported to the caller, who raises it
            reply = (False, f"{type(error).__name__}: {error}")
        _send(replies, reply)


def _interpret(data: bytes, inputs: list[np.ndarray], outputs: int, tensors: list[int], arena: int) -> Any:
    from tflite_micro.python.tflite_micro import runtime

    config = runtime.InterpreterConfig.kPreserveAllTensors if tensors else (
        runtime.InterpreterConfig.kAllocationRecording)
    interpreter = runtime.Interpreter.from_bytes(data, arena_size=arena, intrepreter_config=config)
    for position, array in enumerate(inputs):
        interpreter.set_input(array, position)
    interpreter.invoke()
    values = []
    for index in tensors:
        tensor = interpreter.GetTensor(index, 0)
        values.append((np.dtype(tensor["dtype"]).name, tensor["tensor_data"].tobytes()))
    return [np.array(interpreter.get_output(position)) for position in range(outputs)], values
