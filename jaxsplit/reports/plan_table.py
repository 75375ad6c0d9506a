"""The tables of a plan, for a terminal, a pipe or a README alike."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.text import Text

from jaxsplit.cost import SYMBOLS, CutPlan, Plan, UnitPlan
from jaxsplit.cost.link import Comparison, Option
from jaxsplit.reports.table import amount, as_text, empty_table

_CUTS_NOTE = (
    "In brackets percent of the unsplit network's {macs} MACs and {params} parameters. Bytes: "
    "features in float32. Memory: peak bytes of float32 activations on the device, without its "
    "weights of 4 bytes a parameter."
)
_UNITS_NOTE = (
    "Unit: channels of the latent, and stride; of the grid the one whose latent is nearest to {} "
    "numbers. Stored: what a rate takes beside its coding tables."
)
_TIMES_NOTE = (
    "Bytes: {:g} bits for a number of the latent, an assumption. Times: MACs and bits over the "
    "speeds given, and the round trip; of accuracy they say nothing."
)
_UNIT_COLUMNS = (
    *("C, s", "latent", "enc.\nMACs", "dec.\nMACs", "enc.\nparams", "dec.\nparams"),
    "stored\nbytes",
)


def render(plan: Plan, comparison: Comparison | None = None, symbols: int = SYMBOLS) -> str:
    """Both tables of a plan, and with a link what is fastest, as plain text.

    Args:
      plan: the cuts.
      comparison: their times, where a link is given.
      symbols: for `CutPlan.unit_of`.
    """
    parts = [_cuts(plan), _units(plan, symbols)]
    if comparison is not None:
        note = _TIMES_NOTE.format(comparison.bits_per_symbol)
        options = (*comparison.cuts, *comparison.ends)
        parts.append(_times("What an image takes on the link", options, note))
        if comparison.trained:
            title = "Trained rates on the link, with the bytes that were measured"
            parts.append(_times(title, comparison.trained, None))
        parts.append(_verdict(comparison))
    return "\n".join(parts)


def render_units(cut: CutPlan, comparison: Comparison | None = None) -> str:
    """Every unit of the grid at one cut, as plain text."""
    title = f"Units at {cut.cut}, features {_shape(cut.feature_shape)}"
    columns = [*_UNIT_COLUMNS[1:], *(() if comparison is None else ("bytes", "total\nms"))]
    table = empty_table(title, columns, None, first=_UNIT_COLUMNS[0])
    for unit in cut.units:
        times: tuple[str, ...] = ()
        if comparison is not None:
            total = comparison.timing(cut, unit).total_ms
            times = (amount(round(comparison.sent_bytes(unit))), _ms(total))
        table.add_row(*_unit(unit), *times)
    return as_text(table)


def _cuts(plan: Plan) -> str:
    columns = ["features", "bytes", "device MACs\n(%)", "server MACs\n(%)"]
    columns += ["device\nparams (%)", "server\nparams", "memory"]
    note = _CUTS_NOTE.format(macs=amount(plan.macs), params=amount(plan.params))
    title = f"Cuts of {plan.name}, images of {_shape(plan.input_shape)}"
    table = empty_table(title, columns, note, first="cut")
    for cut in plan.cuts:
        macs, params = cut.device_macs_share, cut.device_params_share
        table.add_row(
            Text(cut.cut),
            _shape(cut.feature_shape),
            amount(cut.feature_bytes),
            _with_share(cut.device_macs, macs),
            _with_share(cut.server_macs, 1 - macs),
            _with_share(cut.device_params, params),
            amount(cut.server_params),
            amount(cut.device_peak_bytes),
        )
    return as_text(table)


def _units(plan: Plan, symbols: int) -> str:
    note = _UNITS_NOTE.format(symbols)
    table = empty_table("A unit for every cut", _UNIT_COLUMNS, note, first="cut")
    for cut in plan.cuts:
        unit = cut.unit_of(symbols)
        table.add_row(Text(cut.cut), *(("none fits",) if unit is None else _unit(unit)))
    return as_text(table)


def _times(title: str, options: Sequence[Option], note: str | None) -> str:
    measured = any(one.top1 is not None for one in options)
    columns = ["cut", "top-1\n%"] if measured else []
    columns += ["C, s", "latent", "bytes", "device\nms", "transfer\nms", "server\nms", "total\nms"]
    table = empty_table(title, columns, note, first="rate" if measured else "cut")
    for i, one in enumerate(options):
        if i and one.cut is None and options[i - 1].cut is not None:
            table.add_section()
        seen = (one.cut, "n/a" if one.top1 is None else f"{100 * one.top1:.2f}") if measured else ()
        form = ("", "") if one.unit is None else _unit(one.unit)[:2]
        sent = "" if one.sent_bytes is None else amount(round(one.sent_bytes))
        timing = one.timing
        spent = (timing.device_ms, timing.transfer_ms, timing.server_ms, timing.total_ms)
        table.add_row(Text(one.name), *seen, *form, sent, *map(_ms, spent))
    return as_text(table)


def _verdict(comparison: Comparison) -> str:
    cut, fastest, alone, sent = comparison.best_cut, comparison.fastest, *comparison.ends
    lines = [
        f"fastest cut: {cut.name}, {_ms(cut.timing.total_ms)} ms; {alone.name}: "
        f"{_ms(alone.timing.total_ms)} ms; {sent.name}, {sent.sent_bytes:,.0f} bytes: "
        f"{_ms(sent.timing.total_ms)} ms"
    ]
    if fastest is not cut:
        lines.append(f"fastest of all: {fastest.name}, {_ms(fastest.timing.total_ms)} ms")
    return "\n".join(lines)


def _unit(unit: UnitPlan) -> tuple[str, ...]:
    counts = (unit.encoder_macs, unit.decoder_macs, unit.encoder_params, unit.decoder_params)
    form = f"{unit.spec.channels}, {unit.spec.stride}"
    return form, _shape(unit.latent_shape), *map(amount, (*counts, unit.stored_bytes))


def _ms(value: float) -> str:
    """Three digits where there are as many: 0.024, 1.53, 87.2, 4090."""
    if value >= 99.95:
        return f"{value:.0f}"
    return f"{value:#.3g}" if value >= 0.1 else f"{value:.3f}"


def _shape(sizes: Iterable[int]) -> str:
    return "x".join(map(str, sizes))


def _with_share(count: int, share: float) -> str:
    return f"{amount(count)} ({100 * share:.1f})"
