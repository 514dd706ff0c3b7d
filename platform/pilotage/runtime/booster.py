"""A LightGBM model that can only predict, through LightGBM's own C API (``c_api.h``).

The Python package loads scikit-learn and pandas (3 s and 150 MB a worker) to do what two C calls do. Training uses the
package; this file is for serving. A corrupt model text aborts the process inside the C++ parser, so parse a text only
when its hash is known to be right (``bundle.py``), and the first time in a child process (``probe.py``).
"""

from __future__ import annotations

import ctypes
import importlib.util
import re
import sys
import threading
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np

from pilotage.errors import BundleCorrupt, ConfigError
from pilotage.runtime.folder import RESTORE

_FLOAT64 = 1
_PREDICT_NORMAL = 0
_PREDICT_LEAF_INDEX = 2
_PREDICT_CONTRIB = 3
_LIBRARY = {"darwin": "lib_lightgbm.dylib", "win32": "lib_lightgbm.dll"}.get(sys.platform, "lib_lightgbm.so")


_OBJECTIVE = re.compile(r"^objective=(.*)$", re.MULTILINE)


class Booster:
    """A parsed model. Safe to use from several threads: each has its own handle for single rows."""

    def __init__(self, text: str) -> None:
        """Parses LightGBM's native text. Only for bytes that were verified: a bad text may abort the process.

        Raises:
            BundleCorrupt: LightGBM says that it is no binary model.
        """
        self._library = _library()
        self._handle = ctypes.c_void_p()
        rounds = ctypes.c_int(0)
        self._call("LoadModelFromString", text.encode(), ctypes.byref(rounds), ctypes.byref(self._handle))
        self.rounds = rounds.value
        self.columns = self._count("GetNumFeature")
        if (classes := self._count("GetNumClasses")) != 1:
            raise BundleCorrupt(f"The model has {classes} classes, not one probability.", fix=RESTORE)
        found = _OBJECTIVE.search(text)
        self.objective = found.group(1).strip() if found else ""
        """As LightGBM writes it, such as ``binary sigmoid:1``."""
        self._rows = threading.local()

    def predict(self, matrix: np.ndarray, *, threads: int = 1) -> np.ndarray:
        """Scores rows.

        Args:
            matrix: Shape (rows, columns), float64, C order; missing is NaN.
            threads: Threads for this call. One is fastest for single rows (p99 0.1 ms instead of 4 ms).

        Returns:
            Shape (rows,), the model's own output, 0..1 for a binary objective.
        """
        return self._for_matrix(matrix, _PREDICT_NORMAL, 1, threads)[:, 0]

    def predict_row(self, row: bytes) -> float:
        """Scores one row by LightGBM's single-row call: the same number, without setting up anything.

        Args:
            row: The columns as native doubles, one after another; missing is NaN.
        """
        try:
            return self._rows.handle(row)  # type: ignore[no-any-return]
        except AttributeError:
            handle = self._rows.handle = _RowHandle(self)
            return handle(row)

    def contributions(self, matrix: np.ndarray) -> np.ndarray:
        """What each column adds to the model's output before its link function (exact TreeSHAP, Lundberg 2020).

        Args:
            matrix: As for ``predict``.

        Returns:
            Shape (rows, columns + 1); the last column is the expected output, and a row's sum is its output.
        """
        return self._for_matrix(matrix, _PREDICT_CONTRIB, self.columns + 1, 1)

    def leaves(self, matrix: np.ndarray) -> np.ndarray:
        """Which leaf of each tree each row ends in; ``matrix`` as for ``predict``, shape (rows, rounds)."""
        return self._for_matrix(matrix, _PREDICT_LEAF_INDEX, self.rounds, 1)

    def leaf_values(self, leaves: Sequence[int]) -> list[list[float]]:
        """The values of each tree's leaves, of which there are so many."""
        value = ctypes.c_double()
        to_value, ask = ctypes.byref(value), self._library.LGBM_BoosterGetLeafValue
        values: list[list[float]] = []
        for tree, count in enumerate(leaves):
            values.append([])
            for leaf in range(count):
                if ask(self._handle, ctypes.c_int(tree), ctypes.c_int(leaf), to_value) != 0:
                    raise _failed(self._library)
                values[tree].append(value.value)
        return values

    def _for_matrix(self, matrix: np.ndarray, kind: int, width: int, threads: int) -> np.ndarray:
        if matrix.ndim != 2 or matrix.shape[1] != self.columns:
            raise ValueError(f"a matrix of shape {matrix.shape} is not (rows, {self.columns})")
        matrix = np.ascontiguousarray(matrix, dtype=np.float64)
        rows = matrix.shape[0]
        result = np.empty((rows, width), dtype=np.float64)
        if rows == 0:
            return result
        length = ctypes.c_int64(0)
        self._call(
            "PredictForMat",
            self._handle,
            matrix.ctypes.data_as(ctypes.c_void_p),
            ctypes.c_int(_FLOAT64),
            ctypes.c_int32(rows),
            ctypes.c_int32(self.columns),
            ctypes.c_int(1),
            ctypes.c_int(kind),
            ctypes.c_int(0),
            ctypes.c_int(-1),
            f"num_threads={threads} verbosity=-1".encode(),
            ctypes.byref(length),
            result.ctypes.data_as(ctypes.POINTER(ctypes.c_double)),
        )
        return result

    def __del__(self) -> None:
        # The threads' handles refer to the model, so they go first.
        self.__dict__.pop("_rows", None)
        # A parse that failed leaves a null handle, or none at all.
        if handle := getattr(self, "_handle", None):
            self._library.LGBM_BoosterFree(handle)

    def _count(self, what: str) -> int:
        number = ctypes.c_int(0)
        self._call(what, self._handle, ctypes.byref(number))
        return number.value

    def _call(self, function: str, *arguments: object) -> None:
        if getattr(self._library, f"LGBM_Booster{function}")(*arguments) != 0:
            raise _failed(self._library)


class _RowHandle:
    """LightGBM's single-row call, set up for one thread: it writes into a buffer of its own."""

    def __init__(self, booster: Booster) -> None:
        self._library = booster._library
        self._handle = ctypes.c_void_p()
        self._bytes = 8 * booster.columns
        booster._call(
            "PredictForMatSingleRowFastInit",
            booster._handle,
            ctypes.c_int(_PREDICT_NORMAL),
            ctypes.c_int(0),
            ctypes.c_int(-1),
            ctypes.c_int(_FLOAT64),
            ctypes.c_int32(booster.columns),
            b"num_threads=1 verbosity=-1",
            ctypes.byref(self._handle),
        )
        self._answer = ctypes.c_double()
        self._length = ctypes.c_int64()
        self._to_answer = ctypes.byref(self._answer)
        self._to_length = ctypes.byref(self._length)
        self._predict = self._library.LGBM_BoosterPredictForMatSingleRowFast

    def __call__(self, row: bytes) -> float:
        if len(row) != self._bytes:
            raise ValueError(f"a row of {len(row)} bytes is not {self._bytes // 8} doubles")
        # The bytes object is read where it is; LightGBM does not write to it, nor keep it.
        if self._predict(self._handle, row, self._to_length, self._to_answer) != 0:
            raise _failed(self._library)
        return self._answer.value

    def __del__(self) -> None:
        if handle := getattr(self, "_handle", None):
            self._library.LGBM_FastConfigFree(handle)


def _failed(library: ctypes.CDLL) -> BundleCorrupt:
    said = library.LGBM_GetLastError().decode(errors="replace")
    return BundleCorrupt(f"LightGBM can't use the model: {said}.", fix=RESTORE)


@cache
def _library() -> ctypes.CDLL:
    spec = importlib.util.find_spec("lightgbm")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for path in (Path(folder) / "lib" / _LIBRARY, Path(folder) / "bin" / _LIBRARY):
            if path.is_file():
                library = ctypes.cdll.LoadLibrary(str(path))
                library.LGBM_GetLastError.restype = ctypes.c_char_p
                return library
    raise ConfigError("LightGBM's library can't be found.", fix="Install lightgbm, as requirements.lock pins it.")
