"""Settings with their repeats → the charts of a page: which figures go into which picture. Reading the numbers is done here,
drawing them in `bars` and `lines`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from mfubench.report.html import bars, lines
from mfubench.report.html.bars import Bar, Group
from mfubench.report.html.drawing import INK, QUIET, SERIES, THEME, style
from mfubench.report.html.units import flops_per_second, gibibytes, percent, seconds, with_interval
from mfubench.report.overview import Row, labels
from mfubench.report.pooling import Pooled

ONE, TWO, THREE = SERIES[0], SERIES[1], SERIES[2]
MARKS = dict(zip(lines.MARKERS, "●■▲◆▼✚", strict=True))


@dataclass(frozen=True)
class Key:
    """An entry of a legend."""

    sign: str
    colour: str  # CSS
    text: str


@dataclass(frozen=True)
class Chart:
    """A picture with what is needed to read it."""

    title: str
    about: str
    picture: Markup
    keys: Sequence[Key] = ()


@dataclass(frozen=True)
class Panel:
    """The step times of a row's runs."""

    name: str
    picture: Markup


def charts(rows: Sequence[Row]) -> list[Chart]:
    """The charts that the rows have figures for, in the order in which they are shown."""
    with style():
        drawn = (utilisation(rows), *over_batch_size(rows), ladder(rows), where_time_goes(rows), memory(rows))
        return [chart for chart in drawn if chart]


def utilisation(rows: Sequence[Row]) -> Chart | None:
    """MFU and HFU with their intervals."""

    def of(row: Pooled) -> list[Bar]:
        return [_bar(row, name, colour) for name, colour in (("mfu", ONE), ("hfu", TWO)) if row.figure(name)]

    return _chart(
        "How much of the peak is used",
        "Shares of the device's peak FLOP/s. The thin line over a bar's end is its 95 % interval; ± is in points.",
        rows,
        of,
        percent,
        (_key(ONE, "MFU: what training needs"), _key(TWO, "HFU: what was executed, recomputation included")),
    )


def ladder(rows: Sequence[Row]) -> Chart | None:
    """What was executed, beside what this device was seen to do at most and what its data sheet says."""

    def of(row: Pooled) -> list[Bar]:
        figure, peak = row.figure("hfu_causal"), _hardware(row, "peak_flops_per_second")
        if figure is None or peak is None:
            return []
        return [Bar([(figure.mean * peak, THREE)], flops_per_second(figure.mean * peak))]

    def marks(row: Pooled) -> list[tuple[float, str, str]]:
        known = (
            (_hardware(row, "peak_flops_per_second"), INK, "-"),
            (_hardware(row, "ceiling_flops_per_second"), QUIET, ":"),
        )
        return [(where, colour, line) for where, colour, line in known if where]

    return _chart(
        "FLOP/s achieved, and the peak",
        "FLOP/s of one device, without attention's masked half where the kernel skips it. Arithmetic intensity can't be told "
        "from outside, so this is a roofline's height without its slope.",
        rows,
        of,
        flops_per_second,
        (_key(THREE, "executed"), _key(INK, "peak", "│"), _key(QUIET, "largest matmul rate measured here", "┆")),
        marks,
    )


def memory(rows: Sequence[Row]) -> Chart | None:
    """The peak memory of the fullest device, beside what the device has."""

    def of(row: Pooled) -> list[Bar]:
        peak = row.figure("peak_memory_bytes")
        return [Bar([(peak.mean / 2**30, ONE)], gibibytes(peak.mean / 2**30))] if peak else []

    def marks(row: Pooled) -> list[tuple[float, str, str]]:
        size = _hardware(row, "memory_bytes")
        return [(size / 2**30, INK, "-")] if size else []

    return _chart(
        "Peak memory",
        "Of the fullest device, the most of all runs: on a GPU what torch's allocator held, on a CPU the process's resident "
        "set.",
        rows,
        of,
        gibibytes,
        (_key(ONE, "peak memory"), _key(INK, "memory of the device", "│")),
        marks,
    )


def where_time_goes(rows: Sequence[Row]) -> Chart | None:
    """The two parts of a step, and the wait for data, which lies within them."""

    def of(row: Pooled) -> list[Bar]:
        first, rest, wait = (
            row.figure(name) for name in ("forward_to_optimizer_s", "optimizer_to_forward_s", "data_wait_s")
        )
        if first is None or rest is None:
            return []
        whole = first.mean + rest.mean
        found = [Bar([(first.mean, ONE), (rest.mean, TWO)], f"{seconds(first.mean)} + {seconds(rest.mean)}")]
        return found + ([Bar([(wait.mean, THREE)], f"{percent(wait.mean / whole)} waiting for data")] if wait else [])

    return _chart(
        "Where a step's time goes",
        "Means per steady step. The first two make up the step; the wait for data lies within them.",
        rows,
        of,
        seconds,
        (
            _key(ONE, "first forward to optimizer"),
            _key(TWO, "optimizer to next forward"),
            _key(THREE, "of it, waiting for data"),
        ),
    )


def over_batch_size(rows: Sequence[Row]) -> Iterator[Chart]:
    """Throughput of what was run at several batch sizes, as many lines to a chart as there are colours."""
    together: dict[tuple[str, ...], dict[int, Pooled]] = {}
    for row in rows:
        alike = tuple(cell for key, cell in row.pooled.settings.items() if key != "batch")
        together.setdefault(alike, {})[int(row.pooled.results[0].settings["batch_size"])] = row.pooled
    several = [sizes for sizes in together.values() if len(sizes) > 1]
    first = [next(iter(sizes.values())) for sizes in several]
    names = labels(first) if len(several) > 1 else ["tokens per second and device"] * len(several)
    found = [_line(label, sizes) for label, sizes in zip(names, several, strict=True)]
    for start in range(0, len(found), len(SERIES)):
        part = found[start : start + len(SERIES)]
        keys = [
            Key(sign, THEME[colour], line.label)
            for line, colour, sign in zip(part, SERIES, MARKS.values(), strict=False)
        ]
        statuses = sorted({status for line in part for status in line.failed.values()})
        if statuses:
            keys.append(Key("✕", "currentColor", f"did not run to its end: {', '.join(statuses)}"))
        title = "Throughput over batch size"
        about = "Tokens per second and device, by sequences per device and micro-step."
        yield Chart(title, about, lines.throughput(part, f"throughput-{start}", title), keys)


def panels(rows: Sequence[Row]) -> list[Panel]:
    """The step times of each row that has figures, one after the other."""
    found = []
    with style():
        for number, row in enumerate(rows):
            series = [
                lines.Series([each["step_time_s"] for each in run.history], run.measurement["warmup_steps"])
                for run in row.pooled.ok
                if run.measurement and len(run.history) > run.measurement["warmup_steps"]
            ]
            if series:
                picture = lines.panel(series, f"steps-{number}", f"step times of {row.name}")
                found.append(Panel(row.name, picture))
    return found


def _line(label: str, sizes: Mapping[int, Pooled]) -> lines.Line:
    points, failed = {}, {}
    for batch, row in sizes.items():
        figure = row.figure("tokens_per_second_per_device")
        if figure is None:
            failed[batch] = in_words(row.status)
        else:
            low, high = (figure.mean if end is None else end for end in (figure.low, figure.high))
            points[batch] = (figure.mean, low, high)
    return lines.Line(label, points, failed)


def in_words(status: str) -> str:
    """out of memory."""
    return status.replace("_", " ")


def _chart(
    title: str,
    about: str,
    rows: Sequence[Row],
    of: Callable[[Pooled], Sequence[Bar]],
    tick: Callable[[float], str],
    keys: Sequence[Key],
    marks: Callable[[Pooled], Sequence[tuple[float, str, str]]] = lambda row: (),
) -> Chart | None:
    """A chart of bars; None where no row has any."""
    found = []
    for row in rows:
        own = of(row.pooled)
        instead = None if own else "not known" if row.figures else in_words(row.pooled.status)
        found.append(Group(row.name, own, marks(row.pooled) if own else (), instead))
    if not any(group.bars for group in found):
        return None
    name = title.lower().replace(" ", "-").replace(",", "").replace("'", "")
    return Chart(title, about, bars.bars(found, name, title, tick), keys)


def _bar(row: Pooled, name: str, colour: str) -> Bar:
    figure = row.figure(name)
    assert figure is not None
    half = figure.half_width
    text = percent(figure.mean) if half is None else with_interval(figure.mean, half)
    interval = None if figure.low is None else (figure.low, figure.high)
    return Bar([(figure.mean, colour)], f"{name.upper()} {text}", interval)


def _hardware(row: Pooled, name: str) -> float | None:
    known = [result.hardware[name] for result in row.results if result.hardware and result.hardware.get(name)]
    return sum(known) / len(known) if known else None


def _key(colour: str, text: str, sign: str = "■") -> Key:
    return Key(sign, THEME[colour], text)
