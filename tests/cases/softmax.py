"""Cases of softmax."""

from nprt.ops.softmax import Softmax
from nprt.rounding import exp_table, exp_table_ort, exp_table_qnnpack

from .case import case

CASES = [
    *[
        case(
            f"integer_{name}",
            Softmax,
            f"{x}*{scale}{zero:+d}{values}",
            ("const i32[256]", exp_table(scale)),
            y=y,
            axis=axis,
        )
        for name, x, scale, zero, values, y, axis in (
            *[
                (f"classes_{n}", f"i8[N,{n}]", 0.0417, 3, "", "i8*0.00390625-128", 1)
                for n in (1, 2, 3, 7, 10, 15, 17, 33, 65, 1000)
            ],
            ("u8", "u8[N,10]", 0.0417, 131, "", "u8*0.00390625+0", 1),
            ("i8_to_u8", "i8[N,10]", 0.0417, 31, "", "u8*0.00390625+0", 1),
            ("u8_to_i8", "u8[N,10]", 0.0417, 31, "", "i8*0.00390625-128", 1),
            ("sharp", "i8[N,17]", 3.7, 3, "", "i8*0.00390625-128", 1),
            ("flat", "i8[N,17]", 0.0001, 3, "", "i8*0.00390625-128", 1),
            ("alike", "i8[N,17]", 0.0417, 3, " in 5..5", "i8*0.00390625-128", 1),
            ("ties", "i8[N,256]", 0.7, 3, " in 5..7", "i8*0.00390625-128", 1),
            ("least_codes", "i8[N,17]", 0.0417, 3, " in -128..-127", "i8*0.00390625-128", 1),
            ("pixels", "i8[N,4,5,7]", 0.0417, 3, "", "i8*0.00390625-128", 3),
            ("middle_axis", "i8[N,7,5]", 0.0417, 3, "", "i8*0.00390625-128", 1),
            ("one_axis", "i8[9]", 0.0417, 3, "", "i8*0.00390625-128", 0),
            ("fixed_batch", "i8[2,5]", 0.0417, 3, "", "i8*0.00390625-128", 1),
            ("free_length", "i8[N,T,5]", 0.0417, 3, "", "i8*0.00390625-128", 1),
            ("empty", "i8[N,0,5]", 0.0417, 3, "", "i8*0.00390625-128", 2),
        )
    ],
    *[
        case(
            f"ort_{name}",
            Softmax,
            f"{x}*{scale}{zero:+d}{values}",
            ("const f32[256]", exp_table_ort(scale, length)),
            y=y,
            axis=axis,
            numerics="ort",
        )
        for name, x, scale, zero, values, y, axis, length in (
            *[
                (f"classes_{n}", f"u8[N,{n}]", 0.0417, 3, "", "u8*0.0039+0", 1, n)
                for n in (1, 2, 3, 7, 10, 15, 17, 33, 65, 1000)
            ],
            ("i8", "i8[N,10]", 0.0417, 31, "", "i8*0.00390625-128", 1, 10),
            ("zero_point", "i8[N,10]", 0.0417, 31, "", "i8*0.0071-11", 1, 10),
            ("sharp", "u8[N,17]", 3.7, 3, "", "u8*0.0039+0", 1, 17),
            ("flat", "u8[N,17]", 0.001, 3, "", "u8*0.0039+0", 1, 17),
            ("alike", "u8[N,17]", 0.0417, 3, " in 5..5", "u8*0.0039+0", 1, 17),
            ("ties", "u8[N,256]", 0.7, 3, " in 5..7", "u8*0.00390625+0", 1, 256),
            ("middle_axis", "u8[N,7,5]", 0.0417, 3, "", "u8*0.0039+0", 1, 7),
            ("free_length", "u8[N,T,5]", 0.0417, 3, "", "u8*0.0039+0", 2, 5),
        )
    ],
    *[
        case(
            f"qnnpack_{name}",
            Softmax,
            f"u8{shape}*{scale}+131{values}",
            ("const i32[256]", exp_table_qnnpack(scale, length)),
            y="u8*0.00390625+0",
            axis=axis,
            numerics="qnnpack",
        )
        for name, shape, scale, values, axis, length in (
            *[
                (f"classes_{n}", f"[N,{n}]", 0.0417, "", 1, n)
                for n in (1, 2, 3, 7, 10, 17, 65, 512, 1000)
            ],
            ("sharp", "[N,17]", 3.7, "", 1, 17),
            ("flat", "[N,17]", 0.001, "", 1, 17),
            ("alike", "[N,17]", 0.0417, " in 5..5", 1, 17),
            ("ties", "[N,256]", 0.7, " in 5..7", 1, 256),
            ("middle_axis", "[N,7,5]", 0.0417, "", 1, 7),
            ("free_length", "[N,T,5]", 0.0417, "", 2, 5),
        )
    ],
    *[
        case(
            f"torch_{name}",
            Softmax,
            f"{x}*{scale}{zero:+d}{values}",
            y=y,
            axis=axis,
            numerics="torch",
        )
        for name, x, scale, zero, values, y, axis in (
            *[
                (f"classes_{n}", f"u8[N,{n}]", 0.0417, 3, "", "u8*0.00390625+0", 1)
                for n in (1, 2, 3, 7, 10, 17, 65, 1000)
            ],
            ("i8", "i8[N,10]", 0.0417, 31, "", "i8*0.00390625-128", 1),
            ("zero_point", "i8[N,10]", 0.0417, 31, "", "u8*0.0071+11", 1),
            ("sharp", "u8[N,17]", 3.7, 3, "", "u8*0.0039+0", 1),
            ("flat", "u8[N,17]", 0.001, 3, "", "u8*0.0039+0", 1),
            ("alike", "u8[N,17]", 0.0417, 3, " in 5..5", "u8*0.0039+0", 1),
            ("ties", "u8[N,256]", 0.7, 3, " in 5..7", "u8*0.00390625+0", 1),
            ("middle_axis", "u8[N,7,5]", 0.0417, 3, "", "u8*0.0039+0", 1),
            ("free_length", "u8[N,T,5]", 0.0417, 3, "", "u8*0.0039+0", 2),
        )
    ],
    *[
        case(f"float_{name}", Softmax, x, axis=axis)
        for name, x, axis in (
            ("classes", "f32[N,10]", 1),
            ("pixels", "f32[N,4,5,17]", 3),
            ("middle_axis", "f32[N,7,5]", 1),
            ("large", "f32[N,33] in -1e30..1e30", 1),
            ("one_class", "f32[N,1]", 1),
            ("empty", "f32[N,0,5]", 2),
        )
    ],
    *[
        case(f"log_{name}", Softmax, x, axis=axis, log=True)
        for name, x, axis in (
            ("classes", "f32[N,10]", 1),
            ("middle_axis", "f32[N,7,5]", 1),
            ("large", "f32[N,33] in -1e30..1e30", 1),
            ("empty", "f32[N,0,5]", 2),
        )
    ],
    case(
        "attention",
        Softmax,
        "i8[N,6,64,64]*0.0417+3",
        ("const i32[256]", exp_table(0.0417)),
        y="i8*0.00390625-128",
        axis=3,
        bench=True,
    ),
]
