"""The processor that Numba compiles for: its features and its vectors, found once, when this module is imported.

That is this machine's processor, unless NUMBA_CPU_NAME, NUMBA_CPU_FEATURES or NUMBA_ENABLE_AVX choose another. Numba
passes a name and a list of features to LLVM, which alone knows what a name stands for (``NUMBA_CPU_NAME=haswell
NUMBA_CPU_FEATURES=`` includes avx2 and fma) and which features include others. llvmlite cannot ask for the result, but
LLVM's inliner shows it: it inlines a function that requires a feature only where the calling function has that feature,
and a function without features of its own has those of the target.
"""

from typing import NamedTuple

import llvmlite.binding as llvm
from numba.core import config
from numba.core.registry import cpu_target

#: Features that kernels ask for on x86; LLVM would ignore them for another architecture.
_X86 = ("avx", "avx2", "fma", "avx512f", "avx512bf16", "amx-tile", "amx-bf16")


class VectorUnit(NamedTuple):
    """The vectors of a processor."""

    width: int  # of a vector, in bytes
    in_tile: int  # number of vectors that a tile may keep in registers


def features_of(target: llvm.TargetMachine) -> frozenset[str]:
    """Those of the features that kernels ask for that code for `target` may use."""
    architecture = target.triple.partition("-")[0]
    if architecture in ("aarch64", "arm64"):
        return frozenset({"neon"})
    asked = _X86 if architecture in ("x86_64", "amd64") else ()
    calls = "".join(f"call void @requires{n}(ptr %p) " for n in range(len(asked)))
    lines = [f"define void @caller(ptr %p) {{ {calls} ret void }}"]
    for n, feature in enumerate(asked):
        # A store keeps the call from being removed; "generic" has no feature that the target might lack.
        lines.append(f"define void @requires{n}(ptr %p) #{n} {{ store i8 {n}, ptr %p ret void }}")
        lines.append(f'attributes #{n} = {{ "target-cpu"="generic" "target-features"="+{feature}" }}')
    module = llvm.parse_assembly("\n".join(lines))
    module.triple = target.triple
    builder = llvm.create_pass_builder(target, llvm.create_pipeline_tuning_options(speed_level=2))
    builder.getModulePassManager().run(module, builder)
    left = [str(each) for block in module.get_function("caller").blocks for each in block.instructions]
    return frozenset(asked[n] for n in range(len(asked)) if not any(f"@requires{n}(" in line for line in left))


def _features() -> frozenset[str]:
    features = features_of(cpu_target.target_context.codegen()._tm)
    if getattr(config, "ENABLE_AVX", True):
        return features
    # Numba turns off the features whose names begin with avx, but others that it leaves on, such as f16c, include them.
    return frozenset(name for name in features if not name.startswith("avx"))


FEATURES = _features()


def has(feature: str) -> bool:
    """Whether compiled code may use a feature, by LLVM's name for it: avx512bf16, amx-tile, ...

    Raises
    ------
    ValueError
        If no kernel asks for that feature, so that a misspelt name does not pass for a missing feature.
    """
    if feature not in (*_X86, "neon"):
        raise ValueError(f"feature: expected one of {', '.join(_X86)}, neon, got {feature!r}")
    return feature in FEATURES


def vector_unit(features: frozenset[str]) -> VectorUnit:
    """The vectors of a processor with these features."""
    if "avx512f" in features:
        return VectorUnit(64, 24)
    if "avx" in features:
        return VectorUnit(32, 12)
    return VectorUnit(16, 24 if "neon" in features else 12)


VECTORS = vector_unit(FEATURES)


def in_words() -> str:
    """The width of the vectors and the features, for people."""
    listed = f" ({', '.join(sorted(FEATURES))})" if FEATURES else ""
    return f"vectors of {VECTORS.width} bytes{listed}"
