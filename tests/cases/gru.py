"""Cases of gru."""

from nprt.ops.gru import Gru

from .case import case


def layer(
    name,
    inputs,
    hidden,
    *,
    length="5",
    kind="i8",
    quant="*0.0057+0",
    bias="both",
    batch="N",
    **fields,
):
    """One layer of 3 gates."""
    rows = 3 * hidden
    state = f"f32[{batch},{hidden}] in -1..1"
    w_ih, w_hh = (f"const {kind}[{rows},{n}]{quant}" for n in (inputs, hidden))
    biases = {"both": (f"const f32[{rows}]",) * 2, "one": ("", f"const f32[{rows}]"), "none": ()}[
        bias
    ]
    x = f"f32[{length},{batch},{inputs}]"
    return case(name, Gru, x, state, w_ih, w_hh, *biases, **fields)


CASES = [
    *[
        layer(f"{numerics}_{inputs}_to_{hidden}", inputs, hidden, numerics=numerics)
        for numerics in ("fbgemm", "onednn", "qnnpack")
        for inputs, hidden in ((1, 1), (3, 7), (17, 33), (33, 64))
    ],
    layer("reverse", 5, 9, reverse=True),
    layer("reduce_range", 5, 9, reduce_range=True),
    layer("per_row", 5, 9, per_row=True),
    layer("per_row_onednn", 5, 9, per_row=True, numerics="onednn", bias="none"),
    layer("channels", 5, 9, quant="*0.004..0.009/0"),
    layer("weights_u8", 5, 9, kind="u8", quant="*0.0057+131"),
    layer("weights_float", 5, 9, kind="f32", quant=""),
    layer("float_reverse", 5, 9, kind="f32", quant="", reverse=True, bias="none"),
    layer("free_length", 5, 9, length="T"),
    layer("one_step", 5, 9, length="1"),
    layer("no_steps", 5, 9, length="0"),
    layer("no_bias", 5, 9, bias="none"),
    layer("one_bias", 5, 9, bias="one"),
    layer("fixed_batch", 5, 9, batch="2"),
    layer("keyword_spotting", 40, 64, length="20", bench=True),
]
