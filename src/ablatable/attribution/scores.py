"""Score matrices as files that other tools read and write, with the ids of samples and units.

- `.parquet`, `.csv`: a row a score, columns `sample` (its number from 0), `unit` (its id), `score`; optionally
  `removed`, the unit without which the scored picture was drawn (null: the factual sample).
- `.npy`: the bare matrix; the ids are in `.json` beside it when we write it.
- `.safetensors`: `scores`; optionally `counterfactual` (removed unit, sample, unit), NaN where nothing was scored.
  In the header `samples` and `units` (JSON lists) and `orientation`, all optional.

Orientation: `quanda` is test x train, (samples, units), and taken unless said otherwise; `dattri` is the transpose.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from .._runtime.files import read_json, write_atomic, write_json, written_aside
from .._runtime.outputs import check_file
from ..errors import DataError, SettingsError

if TYPE_CHECKING:
    import polars as pl

Orientation = Literal["quanda", "dattri"]
SUFFIXES = (".parquet", ".csv", ".npy", ".safetensors")


@dataclass(frozen=True, eq=False)
class Scores:
    """Scores of some method for a universe, larger = more responsible; NaN = not scored.

    Attributes:
        factual: float64 (samples, units), of the factual samples.
        removed: for each (sample, removed unit) whose counterfactual was scored, float64 (units,).
    """

    factual: np.ndarray
    removed: dict[tuple[int, int], np.ndarray]


def write_scores(
    path: str | Path,
    scores: np.ndarray,
    *,
    units: tuple[str, ...],
    orientation: str = "quanda",
    overwrite: bool = False,
) -> Path:
    """Write scores, float (samples, units), in the format that the file's name ends in.

    Raises:
        SettingsError: an unknown ending or orientation; the file exists and `overwrite` is not given, or holds
            something else; or it cannot be written.
    """
    path = Path(path)
    if orientation not in get_args(Orientation):
        raise SettingsError(f"no orientation '{orientation}'; there are {', '.join(get_args(Orientation))}")
    if path.suffix not in SUFFIXES:
        raise SettingsError(f"{path}: scores are written as {', '.join(SUFFIXES)}")
    check_file(path, "a file of scores", _is_scores, overwrite=overwrite)
    if path.suffix == ".npy":
        check_file(path.with_suffix(".json"), "about scores", _is_about, overwrite=overwrite)
    samples = list(range(len(scores)))
    matrix = np.ascontiguousarray(scores if orientation == "quanda" else scores.T)
    about = {"samples": samples, "units": list(units), "orientation": orientation}
    if path.suffix == ".npy":
        import io

        buffer = io.BytesIO()
        np.save(buffer, matrix)
        write_json(path.with_suffix(".json"), about)
        write_atomic(path, buffer.getvalue())
    elif path.suffix == ".safetensors":
        from safetensors.numpy import save

        header = {"samples": json.dumps(samples), "units": json.dumps(units), "orientation": orientation}
        write_atomic(path, save({"scores": matrix}, metadata=header))
    else:
        write_atomic(path, _as_table(long_table(scores, units), path.suffix))
    return path


def write_pieces(path: Path, pieces: Sequence[Path], samples: Sequence[Sequence[int]], units: tuple[str, ...]) -> None:
    """Write the scores of an evaluation's pieces, of these samples each, into one file as `write_scores` does.

    A few rows of a piece are in memory at a time. A file that is there is replaced.
    """
    import polars as pl

    def rows(numbers: np.ndarray) -> Callable[[pl.DataFrame], pl.DataFrame]:
        def long(part: pl.DataFrame) -> pl.DataFrame:
            return long_table(part["scores"].to_numpy(), units, numbers[part["row"].to_numpy()])

        return long

    schema, tables = pl.Schema({"sample": pl.Int64, "unit": pl.String, "score": pl.Float64}), []
    for piece, numbers in zip(pieces, samples, strict=True):
        table = pl.scan_parquet(piece)
        tables.append(table.select("scores").with_row_index("row").map_batches(rows(np.array(numbers)), schema=schema))
    with written_aside(path) as aside:
        pl.concat(tables).sink_parquet(aside)


def _is_scores(path: Path) -> bool:
    table, (_, _, about) = _read(path)
    return {"sample", "unit", "score"} <= set(about if table is None else table.columns) or "orientation" in about


def _is_about(path: Path) -> bool:
    return set(read_json(path)) == {"samples", "units", "orientation"}


def long_table(scores: np.ndarray, units: tuple[str, ...], samples: np.ndarray | None = None) -> pl.DataFrame:
    """A row a score: sample, unit, score. `samples`: the rows' samples, int (rows,); None = counted from 0."""
    import polars as pl

    rows, count = scores.shape
    return pl.DataFrame(
        {
            "sample": np.repeat(np.arange(rows) if samples is None else samples, count),
            "unit": pl.Series(units, dtype=pl.String).gather(np.tile(np.arange(count), rows)),
            "score": scores.ravel(),
        }
    )


def _as_table(table: pl.DataFrame, suffix: str) -> bytes:
    import io

    buffer = io.BytesIO()
    if suffix == ".csv":
        table.write_csv(buffer)
    else:
        table.write_parquet(buffer)
    return buffer.getvalue()


def read_scores(
    path: str | Path, *, samples: int, units: tuple[str, ...], needed: Sequence[int] | None = None
) -> Scores:
    """Read scores for a universe of so many samples and these units.

    `needed`: samples whose scores must be there, all of them; None = every sample.

    Raises:
        DataError: the file cannot be read, or does not fit the universe; the message says where.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise DataError(f"{path}: scores are read from {', '.join(SUFFIXES)}")
    try:
        table, arrays = _read(path)
    except DataError:
        raise
    except Exception as error:  # every library has errors of its own
        raise DataError(f"{path} cannot be read as scores ({' '.join(str(error).split())[:200]})") from error
    try:
        if table is not None:
            found = _from_table(path, table, samples, units)
        else:
            found = _from_arrays(path, *arrays, samples, units)
        _check_complete(path, found.factual, units, range(samples) if needed is None else needed)
        return found
    except DataError:
        raise
    except Exception as error:  # what a file says of itself may be of any type
        raise DataError(f"{path} does not describe scores ({' '.join(str(error).split())[:200]})") from error


def _read(path: Path) -> tuple[pl.DataFrame | None, tuple[np.ndarray, np.ndarray | None, dict[str, Any]]]:
    """A table; or else scores, those of counterfactuals, and what the file tells of itself."""
    import polars as pl

    nothing = (np.empty(0), None, {})
    if path.suffix == ".parquet":
        try:
            return pl.read_parquet(path), nothing
        except pl.exceptions.PanicException as error:  # not an Exception: what polars raises for some damaged files
            raise DataError(f"{path} is damaged and cannot be read as Parquet") from error
    if path.suffix == ".csv":
        return pl.read_csv(path), nothing
    if path.suffix == ".npy":
        beside = path.with_suffix(".json")
        about = json.loads(beside.read_bytes()) if beside.exists() else {}
        return None, (np.load(path, allow_pickle=False), None, about)
    from safetensors import safe_open

    with safe_open(path, "numpy") as file:
        names, header = list(file.keys()), dict(file.metadata() or {})
        if "scores" not in names:
            raise DataError(f"{path} has no array 'scores', only {', '.join(names) or 'nothing'}")
        about = {key: json.loads(header[key]) for key in ("samples", "units") if key in header}
        about["orientation"] = header.get("orientation", "quanda")
        more = file.get_tensor("counterfactual") if "counterfactual" in names else None
        return None, (file.get_tensor("scores"), more, about)


def _from_arrays(
    path: Path,
    matrix: np.ndarray,
    counterfactual: np.ndarray | None,
    about: dict[str, Any],
    samples: int,
    units: tuple[str, ...],
) -> Scores:
    if about.get("orientation") == "dattri":
        matrix = matrix.T
    named = tuple(map(str, about.get("units", units)))
    numbers = list(about.get("samples", range(samples)))
    if matrix.shape != (len(numbers), len(named)) or not np.issubdtype(matrix.dtype, np.number):
        hint = (
            " (units x samples? say so: orientation dattri, or transpose it)"
            if matrix.shape[:1] == (len(units),)
            else ""
        )
        raise DataError(
            f"{path} holds {matrix.dtype} {matrix.shape}; expected numbers ({len(numbers)} samples, {len(named)} units)"
            + hint
        )
    if sorted(named) != sorted(units) or sorted(numbers) != list(range(samples)):
        raise DataError(f"{path} is of other samples or units than the universe: {_first_difference(named, units)}")
    place = {unit: column for column, unit in enumerate(named)}
    columns = [place[unit] for unit in units]
    factual = matrix[np.argsort(numbers)][:, columns].astype(np.float64)
    removed: dict[tuple[int, int], np.ndarray] = {}
    if counterfactual is not None:
        expected = (len(units), samples, len(units))
        if counterfactual.shape != expected or named != units or numbers != list(range(samples)):
            raise DataError(
                f"{path}: 'counterfactual' is {counterfactual.shape}; expected {expected}, (removed unit, sample, "
                "unit), in the universe's own order"
            )
        for unit, sample in zip(*np.nonzero(~np.isnan(counterfactual).any(axis=2)), strict=True):
            removed[int(sample), int(unit)] = counterfactual[unit, sample].astype(np.float64)
    return Scores(factual, removed)


def _from_table(path: Path, table: pl.DataFrame, samples: int, units: tuple[str, ...]) -> Scores:
    import polars as pl

    missing = {"sample", "unit", "score"} - set(table.columns)
    if missing:
        raise DataError(
            f"{path} has no column {', '.join(sorted(missing))}; expected sample, unit, score (and, if counterfactuals "
            f"were scored, removed); it has {', '.join(table.columns)}"
        )
    whole = table.select(
        "sample",
        pl.col("score").cast(pl.Float64),
        pl.col("unit").cast(pl.String),
        pl.col("removed").cast(pl.String) if "removed" in table.columns else pl.lit(None, pl.String).alias("removed"),
    )
    rows = pl.DataFrame({"unit": pl.Series(units, dtype=pl.String), "row": np.arange(len(units))})
    strange = (
        whole
        if not whole["sample"].dtype.is_integer()
        else whole.filter(~pl.col("sample").is_between(0, samples - 1).fill_null(False))
    )
    if len(strange):
        raise DataError(f"{path}: there is no sample {strange['sample'][0]}; there are 0 to {samples - 1}")
    for name in ("unit", "removed"):
        whole = whole.join(
            rows.rename({"unit": name, "row": f"{name}_row"}), on=name, how="left", maintain_order="left"
        )
        unknown = whole.filter(pl.col(f"{name}_row").is_null() & (pl.col(name).is_not_null() | (name == "unit")))
        if len(unknown):
            raise DataError(
                f"{path}: there is no unit {unknown[name][0]!r} in the universe; its units are like {units[0]!r}"
            )
    known = whole.filter(pl.col("score").is_not_null() & pl.col("score").is_not_nan())
    sample, unit = known["sample"].to_numpy().astype(np.int64), known["unit_row"].to_numpy()
    gone = known["removed_row"].fill_null(-1).to_numpy()
    picture = sample * (len(units) + 1) + gone + 1
    order = np.lexsort((unit, picture))
    picture, unit, score = picture[order], unit[order], known["score"].to_numpy()[order]
    twice = np.flatnonzero((np.diff(picture) == 0) & (np.diff(unit) == 0))
    if len(twice):
        raise DataError(f"{path}: sample {sample[order[twice[0]]]} has two scores for {units[unit[twice[0]]]!r}")
    factual = np.full((samples, len(units)), np.nan)
    removed: dict[tuple[int, int], np.ndarray] = {}
    starts = np.flatnonzero(np.diff(picture, prepend=-1))
    for first, last in zip(starts, [*starts[1:], len(picture)], strict=True):
        number, without = divmod(int(picture[first]), len(units) + 1)
        if not without:
            factual[number, unit[first:last]] = score[first:last]
        elif last - first == len(units):
            removed[number, without - 1] = score[first:last]
    return Scores(factual, removed)


def _check_complete(path: Path, factual: np.ndarray, units: tuple[str, ...], needed: Sequence[int]) -> None:
    absent = np.argwhere(~np.isfinite(factual[list(needed)]))
    if len(absent):
        sample, unit = needed[absent[0][0]], absent[0][1]
        raise DataError(
            f"{path}: {len(absent)} scores are missing or not finite, the first of sample {sample} and unit "
            f"{units[unit]!r}; every unit needs one for every sample"
        )


def _first_difference(named: tuple[str, ...], units: tuple[str, ...]) -> str:
    strange = sorted(set(named) ^ set(units))
    return f"unit {strange[0]!r}" if strange else "the samples' numbers"
