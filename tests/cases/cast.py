"""Cases of cast."""

from nprt.ops.cast import Cast

from .case import case

DTYPES = ("i8", "u8", "i16", "i32", "i64", "f32", "bool")

CASES = [
    *[
        case(f"{x}_to_{y}", Cast, f"{x}[N,5,13]{' wild' if x == 'f32' else ''}", y=y)
        for x in DTYPES
        for y in DTYPES
    ],
    *[case(f"near_zero_to_{y}", Cast, "f32[N,33] in -1.99..1.99", y=y) for y in DTYPES],
    *[case(f"small_{x}_to_bool", Cast, f"{x}[N,33] in 0..2", y="bool") for x in DTYPES[:5]],
    *[case(f"halves_to_{y}", Cast, "f32[N,65] step 0.5", y=y) for y in DTYPES],
    *[case(f"around_ends_to_{y}", Cast, "f32[N,99] step 64.25", y=y) for y in ("i8", "u8", "i16")],
    case("around_ends_to_i32", Cast, "f32[N,99] step 4000000.25", y="i32"),
    case("around_ends_to_i64", Cast, "f32[N,99] step 2e16", y="i64"),
    case("one_element", Cast, "f32[]", y="i32"),
    case("fixed_batch", Cast, "i64[2,3]", y="i32"),
    case("free_length", Cast, "i64[N,T]", y="f32"),
    case("constant", Cast, "const i64[3]", y="f32"),
]
