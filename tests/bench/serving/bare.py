"""The near limit: uvicorn and msgspec around the C API, no framework, no checks, no features, no log, no metrics.

BUNDLE=<folder> python -m tests.bench.serving.bare PORT
"""

import ctypes
import json
import os
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import uvicorn

from pilotage.runtime.booster import _library


class _Handle:
    """LightGBM's fast single-row call."""

    def __init__(self, text: str, columns: int) -> None:
        self._library = _library()
        handle, rounds = ctypes.c_void_p(), ctypes.c_int()
        self._library.LGBM_BoosterLoadModelFromString(text.encode(), ctypes.byref(rounds), ctypes.byref(handle))
        self._fast = ctypes.c_void_p()
        self._library.LGBM_BoosterPredictForMatSingleRowFastInit(
            handle, 0, 0, -1, 1, ctypes.c_int32(columns), b"num_threads=1", ctypes.byref(self._fast)
        )
        self.row = np.empty(columns)
        self._pointer = self.row.ctypes.data_as(ctypes.c_void_p)
        self._length, self._result = ctypes.c_int64(), ctypes.c_double()
        self._out = ctypes.byref(self._length), ctypes.byref(self._result)

    def predict(self) -> float:
        self._library.LGBM_BoosterPredictForMatSingleRowFast(self._fast, self._pointer, *self._out)
        return self._result.value


def app(bundle: Path) -> Any:
    categories = json.loads((bundle / "categories.json").read_text())
    words = json.loads((bundle / "features.json").read_text())["words"]
    names = [word["name"] for word in words]
    levels = [{level: float(at) for at, level in enumerate(categories.get(name, ()))} or None for name in names]
    columns = list(zip(names, levels, strict=True))
    handle = _Handle((bundle / "model.txt").read_text(), len(names))
    decode, encode = msgspec.json.Decoder().decode, msgspec.json.Encoder().encode
    nan = float("nan")

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        body = (await receive())["body"]
        if scope["method"] == "POST":
            row = decode(body)
            for at, (name, known) in enumerate(columns):
                value = row[name]
                handle.row[at] = nan if value is None else value if known is None else known.get(value, nan)
            out = encode({"probability": handle.predict()})
        else:
            out = b"{}"
        await send(
            {
                "type": "http.response.start",
                "status": 200,
                "headers": [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(out))],
            }
        )
        await send({"type": "http.response.body", "body": out})

    return answer


if __name__ == "__main__":
    uvicorn.run(
        app(Path(os.environ["BUNDLE"])),
        host="127.0.0.1",
        port=int(sys.argv[1]),
        log_level="warning",
        access_log=False,
        lifespan="off",
        loop="uvloop",
        http="httptools",
    )
