"""Which shapes are considered, and the settings that follow from a shape or from the compute there is.

Every rule names its source; each is one function, so that another rule is one change.
"""

from collections.abc import Iterator

from chatwright.model.config import ModelConfig

_WIDTHS = (64, 96, 128, 160, 192, 224, 256, 320, 384, 448, 512, 640, 768, 896, 1024, 1280, 1536, 1792, 2048, 2560)
_WIDTHS_LARGE = (3072, 3584, 4096, 5120, 6144, 8192)


def candidates(*, vocabulary_size: int, context_length: int) -> Iterator[ModelConfig]:
    """Shapes from a third of a million to tens of billions of parameters, smallest first."""
    for width in (*_WIDTHS, *_WIDTHS_LARGE):
        for layers in _depths(width):
            yield shape_of(width, layers, vocabulary_size=vocabulary_size, context_length=context_length)


def _depths(width: int) -> tuple[int, ...]:
    """Width over depth near 32 for small models and near 100 for large ones (Kaplan et al. 2020, figure 5: flat)."""
    middle = max(2, round(width / (32 if width <= 256 else 64 if width <= 1024 else 100)))
    return tuple(sorted({max(2, middle - middle // 3), middle, middle + middle // 3}))


def shape_of(width: int, layers: int, *, vocabulary_size: int, context_length: int) -> ModelConfig:
    """The Qwen3 shape of this width and depth."""
    head_width = 32 if width < 512 else 64 if width < 1536 else 128
    heads = width // head_width
    mlp_width = max(64, round(width * 8 / 3 / 32) * 32)  # three matrices as large as the usual two of four times
    return ModelConfig(
        width=width,
        layers=layers,
        heads=heads,
        key_heads=heads,
        head_width=head_width,
        mlp_width=mlp_width,
        context_length=context_length,
        vocabulary_size=vocabulary_size,
    )


def vocabulary_for(flops: float) -> int:
    """Larger models deserve larger vocabularies (Tao et al. 2024); powers of two, which hardware multiplies well."""
    for limit, size in ((1e15, 4096), (1e17, 8192), (1e18, 16_384), (1e19, 32_768)):
        if flops < limit:
            return size
    return 50_304 if flops < 1e21 else 131_072


def context_for(flops: float) -> int:
    """Short while compute is short: attention to far words is learned last (our demo, and GPT-2's 1,024)."""
    for limit, length in ((1e14, 256), (1e17, 512), (1e20, 1024)):
        if flops < limit:
            return length
    return 2048


def batch_tokens_for(flops: float) -> float:
    """Tokens a step: 0.2920 C^0.3271 (Bi et al. 2024, DeepSeek LLM, equation 1)."""
    return float(0.2920 * flops**0.3271)


def learning_rate_for(width: int) -> float:
    """AdamW's peak for embeddings and norms: 3e-3 at width 192, with the inverse root of the width.

    The rate of this project's recipes. Muon's needs none of it: an orthogonalised update has one size at any width.
    """
    return float(f"{3e-3 * (192 / width) ** 0.5:.2g}")
