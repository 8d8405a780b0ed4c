"""Cases of unary."""

from nprt.ops.unary import FUNCTIONS, Unary

from .case import case

PARAMETERS = {
    "celu": (0.7,),
    "clip": (-0.5, 6.0),
    "elu": (1.3,),
    "hardshrink": (0.4,),
    "hardsigmoid": (1 / 6, 0.5),
    "leaky_relu": (0.01,),
    "pow": (2.5,),
    "quick_gelu": (1.702,),
    "selu": (1.6732632423543772, 1.0507009873554805),
    "softplus": (0.9,),
    "softshrink": (0.4,),
    "threshold": (0.3, 20.0),
}

CASES = [
    *[
        case(
            f"{function}_{name}",
            Unary,
            f"f32[N,{x}",
            function=function,
            parameters=PARAMETERS.get(function, ()),
        )
        for function in FUNCTIONS
        for name, x in (("usual", "5,33]"), ("unit", "17] in -1..1"), ("wild", "65] wild"))
    ],
    *[
        case(f"round_{name}", Unary, x, function="round")
        for name, x in (
            ("halves", "f32[N,99] step 0.5"),
            ("one_element", "f32[]"),
            ("empty", "f32[N,0]"),
            ("fixed_batch", "f32[2,3]"),
            ("free_length", "f32[N,T]"),
        )
    ],
]
