"""Write `docs/ops.md` from the ops: `python docs/generate.py`. A test compares the page with what this gives."""

from __future__ import annotations

import dataclasses
import inspect
import typing
from pathlib import Path
from typing import Any

from nprt.ir import Op
from nprt.ops.binary import BinaryOp
from nprt.ops.pooling import PoolOp
from nprt.ops.products import ProductOp
from nprt.ops.table import OPS

INTRODUCTION = """\
# The ops

Generated from the classes in `nprt/ops/` by `python docs/generate.py`; do not edit.

Each op is a line `outputs = name[fields] inputs` of a model. An input with `?` may be left out, one with `*` may
repeat. Layout is channels last: (batch, \\*spatial, channels). "Codes" are 8-bit and quantized; the types of all
values are declared in the model, and each op's type rule says which go together. `reference` is the definition of an
op: y comes as a type, inputs as tensors with `data` and `type`.

<!-- fmt: off -->
"""

BASES: dict[type[Op], str] = {
    ProductOp: "conv, depthwise_conv, conv_transpose, linear and matmul",
    BinaryOp: "add, sub, mul and div",
    PoolOp: "max_pool and average_pool",
}


def ops_page() -> str:
    """The whole page."""
    parts = [INTRODUCTION, ", ".join(f"[{name}](#{name})" for name in OPS) + "\n"]
    parts += [op_section(name, op) for name, op in OPS.items()]
    for base, users in BASES.items():
        parts.append(f"## What {users} share\n\n{documentation(base)}\n")
    return "\n".join(parts)


def op_section(name: str, op: type[Op]) -> str:
    """Heading, signature, fields, docstring, and the source of the reference."""
    lines = [f"## {name}", "", f"    {', '.join(op.OUTPUTS)} = {name} {' '.join(op.INPUTS)}", ""]
    if op.own_fields():
        lines += ["| field | type | default |", "|---|---|---|"]
        hints = typing.get_type_hints(op)
        lines += [field_row(field, hints[field.name]) for field in op.own_fields()]
        lines.append("")
    lines += [documentation(op), "", "```python", reference_source(op), "```", ""]
    return "\n".join(lines)


def field_row(field: dataclasses.Field[Any], hint: Any) -> str:
    required = field.default is dataclasses.MISSING
    default = "" if required else f"`{field.default!r}`"
    return f"| `{field.name}` | `{type_name(hint)}` | {default} |".replace(" | None`", " \\| None`")


def type_name(hint: Any) -> str:
    return hint.__name__ if hint in (int, float, bool, str) else str(hint)


def documentation(op: type[Op]) -> str:
    """The class's docstring, its sections and indentation as Markdown keeps them."""
    return "\n".join(
        f"> {line}".rstrip() for line in as_markdown(inspect.cleandoc(op.__doc__ or ""))
    )


def as_markdown(text: str) -> list[str]:
    """`Values:` and `Fields:` become bold, and each entry under them a list item."""
    lines: list[str] = []
    for line in text.splitlines():
        if line in ("Values:", "Fields:"):
            lines += [f"**{line[:-1]}**", ""]
        elif line.startswith("    ") and not line.startswith("     "):
            lines.append(f"- {line.strip()}")
        elif line.startswith("     "):
            lines.append(f"  {line.strip()}")
        else:
            lines.append(line)
    return lines


def reference_source(op: type[Op]) -> str:
    """The source of `reference`, from the class that defines it."""
    return inspect.cleandoc("\n" + inspect.getsource(op.reference)).rstrip()


if __name__ == "__main__":
    (Path(__file__).parent / "ops.md").write_text(ops_page(), encoding="utf-8")
