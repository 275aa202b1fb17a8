"""3x3 convolutions at stride 1 with a quarter of the multiplications, for CPUs: Winograd's minimal filtering.

    Y = A^T [ (G g G^T) * (B^T d B) ] A                                             (Lavin & Gray 2015, Eq. 8)

g is the 3x3 kernel, d a tile of (m+2) x (m+2) inputs, Y its m x m outputs, and * is elementwise, summed over the input
channels: (m+2)^2 matrix products of [tiles, inputs] by [inputs, outputs] instead of 9 m^2. F(m) is named by m.

Where A, B and G come from (Toom & Cook; Winograd 1980), in one dimension: the product p of polynomials g (three
coefficients) and v (m coefficients) has m + 2 coefficients, so its values at m + 1 points and its leading coefficient,
"the value at infinity", determine it: p = B [(G g) * (A v)], where A and G evaluate at the points, and B interpolates.
With g fixed this is a linear map of v, whose transpose, y = A^T [(G g) * (B^T d)], is the filter y_k = sum d_{k+i} g_i.
In two dimensions, both directions are transformed at once by a Kronecker product.

The input gradient is the same convolution with the kernel rotated; the kernel gradient is
G^T [(B^T d B) * (A dY A^T)] G, summed over tiles.
"""

import math
from fractions import Fraction
from functools import cache, reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, Float

from ddpm_jax.shapes import Features

Kernel = Float[Array, "3 3 _ _"]
Transformed = Float[Array, "points _ _"]
"""A kernel, [(m+2)^2, inputs, outputs], or the tiles of an image, [(m+2)^2, tiles, channels], transformed."""
POINTS = {2: ("0", "1", "-1"), 4: ("0", "3/4", "-3/4", "3/2", "-3/2")}
"""The m + 1 points of F(m). They decide the rounding error: 1.5e-6 of the output (RMS, float32) for F(4) with these,
2.6e-6 with the usual 0, 1, -1, 2, -2, and 0.6e-6 for a direct convolution.
"""
MIN_CHANNELS, MIN_TILES = 64, 32
SUMMED_CHANNELS = 256
"""XLA's CPU products that sum over more channels are slower than two that are added."""
MAX_BYTES = 256 * 2**20
"""Transformed input at a time, so that large batches do not need several times their memory."""


class Transforms(NamedTuple):
    """The transforms of F(m) in both directions at once, float32."""

    input: np.ndarray
    """B^T x B^T, [(m+2)^2, (m+2)^2]."""
    kernel: np.ndarray
    """G x G, [(m+2)^2, 9]."""
    output: np.ndarray
    """A^T x A^T, [m^2, (m+2)^2]."""


@cache
def transforms(m: int) -> Transforms:
    """The transforms of F(m), computed in exact fractions."""
    points = [Fraction(point) for point in POINTS[m]]
    others = [[q for q in points if q is not p] for p in points]
    interpolate = [(_polynomial(roots) + [Fraction(0)])[: m + 2] for roots in [*others, points]]
    scales = [math.prod(p - q for q in rest) for p, rest in zip(points, others, strict=True)]
    evaluate_kernel = [[p**k / scale for k in range(3)] for p, scale in zip(points, scales, strict=True)] + [[0, 0, 1]]
    evaluate = [[p**k for p in points] + [int(k == m - 1)] for k in range(m)]
    one_direction = (np.array(matrix, np.float64) for matrix in (interpolate, evaluate_kernel, evaluate))
    return Transforms(*(np.kron(matrix, matrix).astype(np.float32) for matrix in one_direction))


def _polynomial(roots: list[Fraction]) -> list[Fraction]:
    """The coefficients of prod (x - root), from the constant up."""
    coefficients = [Fraction(1)]
    for root in roots:
        coefficients = [a - root * b for a, b in zip([0, *coefficients], [*coefficients, 0], strict=True)]
    return coefficients


def conv_general_dilated(x: Features, kernel: Array, strides: Any, padding: Any, **options: Any) -> Features:
    """`jax.lax.conv_general_dilated` for the layers of Flax: by F(m) where that is faster on a CPU."""
    border = {"SAME": 1, ((1, 1), (1, 1)): 1, ((0, 0), (0, 0)): 0}.get(
        padding if isinstance(padding, str) else (*padding,)
    )
    plain = kernel.shape[:2] == (3, 3) and tuple(strides) == (1, 1) and border is not None
    m = tile_size(x.shape, kernel.shape[3]) if plain and x.dtype == jnp.float32 and _undilated(**options) else None
    if m is None:
        return jax.lax.conv_general_dilated(jnp.asarray(x), kernel, strides, padding, **options)
    y = winograd_conv(m, x, kernel)
    return y if border else y[:, 1:-1, 1:-1]


def _undilated(lhs_dilation: Any, rhs_dilation: Any, feature_group_count: int, **_: Any) -> bool:
    return {*lhs_dilation, *rhs_dilation, feature_group_count} == {1}


def tile_size(shape: tuple[int, ...], outputs: int) -> int | None:
    """The m with which a convolution of [batch, height, width, inputs] is fastest; None: a direct one.

    As measured on two cores with AVX-512 (docs/benchmarks.md): with fewer channels the transforms of images cost what
    the products gain, and with fewer tiles that of the kernel does.
    """
    batch, height, width, inputs = shape
    exact = jax.config.jax_default_matmul_precision in ("highest", "float32")
    if exact or min(inputs, outputs) < MIN_CHANNELS:
        return None
    return next((m for m in (4, 2) if batch * -(-height // m) * -(-width // m) >= MIN_TILES), None)


def winograd_conv(m: int, x: Features, kernel: Kernel) -> Features:
    """Convolves [batch, height, width, inputs] at stride 1 by F(m), zero-padded to the same size, in float32."""
    return _bilinear_p.bind(x, kernel, m=m, kind="outputs")


def _outputs(m: int, x: Features, kernel: Kernel) -> Features:
    return _convolve(m, x, _transformed_kernel(m, kernel), contracted=1)


def _input_gradient(m: int, dy: Features, kernel: Kernel) -> Features:
    # The transformed kernel is contracted over its outputs: a transposed copy would be read badly.
    return _convolve(m, dy, _transformed_kernel(m, kernel[::-1, ::-1]), contracted=2)


def _kernel_gradient(m: int, x: Features, dy: Features) -> Kernel:
    """G^T [(B^T d B) * (A dY A^T)] G, summed over tiles."""

    def products(x: Features, dy: Features) -> Transformed:
        return jax.lax.dot_general(_transformed_tiles(m, x), _spread(m, dy), (((1,), (1,)), ((0,), (0,))))

    x_pieces, dy_pieces = _pieces(m, x, dy)
    if len(x_pieces) == 1:
        total = products(x, dy)
    else:
        zero = jnp.zeros(((m + 2) ** 2, x.shape[3], dy.shape[3]), x.dtype)
        total, _ = jax.lax.scan(lambda sums, piece: (sums + products(*piece), None), zero, (x_pieces, dy_pieces))
    return _apply(transforms(m).kernel.T, total).reshape(3, 3, x.shape[3], dy.shape[3])


# The three are linear in each argument, and each is the transpose of the others: <dy, outputs(x, g)> =
# <input_gradient(dy, g), x> = <kernel_gradient(x, dy), g>. As one bilinear primitive, which names the kind of its
# transposes in the first and in the second argument, they have derivatives of every order and in both modes.
KINDS = {
    "outputs": (_outputs, lambda x, kernel: (*x.shape[:3], kernel.shape[3])),
    "input_gradient": (_input_gradient, lambda dy, kernel: (*dy.shape[:3], kernel.shape[2])),
    "kernel_gradient": (_kernel_gradient, lambda x, dy: (3, 3, x.shape[3], dy.shape[3])),
}
_bilinear_p = Primitive("winograd")


@_bilinear_p.def_impl
def _bilinear(a: Array, b: Array, *, m: int, kind: str) -> Array:
    return KINDS[kind][0](m, a, b)


@_bilinear_p.def_abstract_eval
def _type_of_result(a: ShapedArray, b: ShapedArray, *, m: int, kind: str) -> ShapedArray:
    return ShapedArray(KINDS[kind][1](a, b), a.dtype)


def _transpose_in_first(ct: Array, _: Any, b: Array, *, m: int, kind: str) -> Array:
    if kind == "outputs":
        return _bilinear_p.bind(ct, b, m=m, kind="input_gradient")
    if kind == "input_gradient":
        return _bilinear_p.bind(ct, b, m=m, kind="outputs")
    return _bilinear_p.bind(b, ct, m=m, kind="input_gradient")


def _transpose_in_second(ct: Array, a: Array, _: Any, *, m: int, kind: str) -> Array:
    if kind == "outputs":
        return _bilinear_p.bind(a, ct, m=m, kind="kernel_gradient")
    if kind == "input_gradient":
        return _bilinear_p.bind(ct, a, m=m, kind="kernel_gradient")
    return _bilinear_p.bind(a, ct, m=m, kind="outputs")


def _over_vmap(arguments: tuple[Array, Array], axes: tuple[Any, Any], *, m: int, kind: str) -> tuple[Array, int]:
    """Images alone are one larger batch; otherwise the elements of the vmapped axis are taken one after the other."""
    a, b = (x if axis is None else jnp.moveaxis(x, axis, 0) for x, axis in zip(arguments, axes, strict=True))
    if axes[1] is None and kind != "kernel_gradient":
        together = _bilinear_p.bind(a.reshape(-1, *a.shape[2:]), b, m=m, kind=kind)
        return together.reshape(*a.shape[:2], *together.shape[1:]), 0
    size = len(b) if axes[0] is None else len(a)
    pairs = [
        x if axis is not None else jnp.broadcast_to(x, (size, *x.shape)) for x, axis in ((a, axes[0]), (b, axes[1]))
    ]
    return jax.lax.map(lambda pair: _bilinear_p.bind(*pair, m=m, kind=kind), tuple(pairs)), 0


ad.defbilinear(_bilinear_p, _transpose_in_first, _transpose_in_second)
batching.primitive_batchers[_bilinear_p] = _over_vmap
mlir.register_lowering(_bilinear_p, mlir.lower_fun(_bilinear, multiple_results=False))


def _convolve(m: int, x: Features, kernel: Transformed, *, contracted: int) -> Features:
    """contracted: the axis of the transformed kernel that is summed over, 1 for its inputs, 2 for its outputs."""

    def one_piece(piece: Features) -> Features:
        tiles = _transformed_tiles(m, piece)
        starts = range(0, tiles.shape[2], SUMMED_CHANNELS)
        products = reduce(jnp.add, (_multiply(tiles, kernel, contracted, start) for start in starts))
        return _gather(m, products, piece.shape)

    (pieces,) = _pieces(m, x)
    if len(pieces) == 1:
        return one_piece(x)
    return jax.lax.map(one_piece, pieces).reshape(*x.shape[:3], kernel.shape[3 - contracted])


def _multiply(tiles: Transformed, kernel: Transformed, contracted: int, start: int) -> Transformed:
    channels = slice(start, start + SUMMED_CHANNELS)
    part = kernel[:, channels] if contracted == 1 else kernel[:, :, channels]
    return jax.lax.dot_general(tiles[..., channels], part, (((2,), (contracted,)), ((0,), (0,))))


def _pieces(m: int, *arrays: Features) -> tuple[Array, ...]:
    """Each [batch, ...] as [pieces, images, ...], with so few images that their transformed tiles fit.

    Over several devices the batch is divided already, and stays in one piece: a loop over it would gather it.
    """
    batch, height, width, _ = arrays[0].shape
    tiles = -(-height // m) * -(-width // m)
    one_image = 4 * (m + 2) ** 2 * tiles * max(array.shape[3] for array in arrays)
    fitting = batch if jax.device_count() > 1 else max(MAX_BYTES // one_image, 1)
    images = max(n for n in range(1, min(fitting, batch) + 1) if batch % n == 0)
    return tuple(jnp.asarray(array).reshape(batch // images, images, *array.shape[1:]) for array in arrays)


def _transformed_kernel(m: int, kernel: Kernel) -> Transformed:
    """G g G^T for each pair of channels; XLA moves it out of a sampler's loop."""
    return _apply(transforms(m).kernel, kernel.reshape(9, *kernel.shape[2:]))


def _transformed_tiles(m: int, x: Features) -> Transformed:
    """B^T d B of all overlapping tiles."""
    _, height, width, channels = x.shape
    rows, columns = -(-height // m), -(-width // m)
    pads = ((0, 0), (1, 1 + rows * m - height), (1, 1 + columns * m - width), (0, 0))
    padded = jnp.pad(x, pads)
    pixels = [
        padded[:, i : i + m * (rows - 1) + 1 : m, j : j + m * (columns - 1) + 1 : m].reshape(-1, channels)
        for i in range(m + 2)
        for j in range(m + 2)
    ]
    return _apply(transforms(m).input, jnp.stack(pixels))


def _gather(m: int, products: Transformed, shape: tuple[int, ...]) -> Features:
    """A^T p A of each tile, put together to images of [batch, height, width]."""
    batch, height, width, _ = shape
    rows, columns = -(-height // m), -(-width // m)
    y = _apply(transforms(m).output, products).reshape(m, m, batch, rows, columns, products.shape[2])
    y = y.transpose(2, 3, 0, 4, 1, 5).reshape(batch, rows * m, columns * m, -1)
    return y[:, :height, :width]


def _spread(m: int, dy: Features) -> Transformed:
    """A dY A^T of all tiles, the transpose of `_gather`."""
    batch, height, width, channels = dy.shape
    rows, columns = -(-height // m), -(-width // m)
    padded = jnp.pad(dy, ((0, 0), (0, rows * m - height), (0, columns * m - width), (0, 0)))
    tiles = padded.reshape(batch, rows, m, columns, m, channels).transpose(2, 4, 0, 1, 3, 5)
    return _apply(transforms(m).output.T, tiles.reshape(m * m, -1, channels))


def _apply(matrix: np.ndarray, x: Array) -> Array:
    """[a, b] times [b, ...]."""
    return (jnp.asarray(matrix) @ x.reshape(x.shape[0], -1)).reshape(len(matrix), *x.shape[1:])
