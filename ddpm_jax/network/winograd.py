"""3x3 convolutions at stride 1 with a quarter of the multiplications, for CPUs: Winograd's minimal filtering.

    Y = A^T [ (G g G^T) * (B^T d B) ] A                                             (Lavin & Gray 2015, Eq. 8)

g is the 3x3 kernel, d a tile of (m+2) x (m+2) inputs, Y its m x m outputs, and * is elementwise, summed over the input
channels: (m+2)^2 matrix products of [tiles, inputs] by [inputs, outputs] instead of 9 m^2. F(m) is named by m.

Where A, B and G come from (Toom & Cook; Winograd 1980), in one dimension: the product p of polynomials g (three
coefficients) and v (m coefficients) has m + 2 coefficients, so its values at m + 1 points and its leading coefficient,
"the value at infinity", determine it: p = B [(G g) * (A v)], where A and G evaluate at the points, and B interpolates.
With g fixed this is a linear map of v, whose transpose, y = A^T [(G g) * (B^T d)], is the filter y_k = sum d_{k+i} g_i.
In two dimensions, both directions are transformed at once by a Kronecker product.

The gradients are the transposes of this map: B [(G g G^T) * (A dY A^T)] B^T, summed over the output channels and
added where tiles overlap, and G^T [(B^T d B) * (A dY A^T)] G, summed over tiles. So each image is transformed once for
both of its products.
"""

import math
from collections.abc import Callable
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

Kernel = Float[Array, "3 3 inputs outputs"]
Transformed = Float[Array, "points _ _"]
"""A kernel, [(m+2)^2, inputs, outputs], or the tiles of an image, [(m+2)^2, tiles, channels], transformed."""
POINTS = {2: ("0", "1", "-1"), 4: ("0", "3/4", "-3/4", "3/2", "-3/2")}
"""The m + 1 points of F(m). They decide the rounding error: 1.5e-6 of the output (RMS, float32) for F(4) with these,
2.6e-6 with the usual 0, 1, -1, 2, -2, and 0.6e-6 for a direct convolution.
"""
MIN_CHANNELS, MIN_TILES = 64, 32
SUMMED_CHANNELS = 256
"""XLA's CPU products that sum over more channels are slower than two that are added."""
COPIED_CHANNELS = 256
"""From so many channels on, a transposed copy of the tiles costs less than a product that sums over rows of both."""
CACHED_BYTES = 8 * 2**20
"""Transformed input at a time in a forward pass, so that it stays in the cache until it is multiplied."""
MAX_BYTES = 256 * 2**20
"""The same while training, where it is kept for the kernel gradient: about the most that large batches need."""


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
    """`jax.lax.conv_general_dilated` for the layers of Flax: by F(m) where that is faster, if lowered for a CPU."""
    border = {"SAME": 1, "VALID": 0, ((1, 1), (1, 1)): 1, ((0, 0), (0, 0)): 0}.get(
        padding if isinstance(padding, str) else (*padding,)
    )
    plain = kernel.shape[:2] == (3, 3) and tuple(strides) == (1, 1) and border is not None
    m = tile_size(x.shape, kernel.shape[3]) if plain and x.dtype == jnp.float32 and _undilated(**options) else None
    if m is None:
        return jax.lax.conv_general_dilated(jnp.asarray(x), kernel, strides, padding, **options)
    y = winograd_conv(m, x, kernel, options.get("precision"))
    return y if border else y[:, 1:-1, 1:-1]


def _undilated(lhs_dilation: Any, rhs_dilation: Any, feature_group_count: int, **_: Any) -> bool:
    return {*lhs_dilation, *rhs_dilation, feature_group_count} == {1}


def tile_size(shape: tuple[int, ...], outputs: int) -> int | None:
    """The m with which a convolution of [batch, height, width, inputs] is fastest; None: a direct one.

    As measured on two cores with AVX-512 (docs/benchmarks.md): with fewer channels the transforms of images cost what
    the products gain, and with fewer tiles that of the kernel does.
    """
    batch, height, width, inputs = shape
    if min(inputs, outputs) < MIN_CHANNELS:
        return None
    return next((m for m in (4, 2) if batch * math.prod(_grid(m, height, width)) >= MIN_TILES), None)


def winograd_conv(m: int, x: Features, kernel: Kernel, precision: Any = None) -> Features:
    """Convolves [batch, height, width, inputs] at stride 1 by F(m), zero-padded to the same size, in float32.

    precision: of the direct convolution, to which other platforms than a CPU lower it; a CPU's products are in
    float32 with any.
    """
    precision = jax.config.jax_default_matmul_precision if precision is None else precision
    return _bilinear_p.bind(x, kernel, m=m, kind="outputs", max_bytes=CACHED_BYTES, precision=precision)


def _outputs(m: int, max_bytes: int, x: Features, kernel: Kernel) -> Features:
    """A^T [(G g G^T) * (B^T d B)] A."""
    return _convolve(m, max_bytes, x, kernel, _transformed_tiles, _join_tiles, contracted=1)


def _input_gradient(m: int, max_bytes: int, dy: Features, kernel: Kernel) -> Features:
    """B [(G g G^T) * (A dY A^T)] B^T."""
    # The transformed kernel is contracted over its outputs: a transposed one would be read with a stride.
    return _convolve(m, max_bytes, dy, kernel, _transformed_gradient, _add_tiles, contracted=2)


def _kernel_gradient(m: int, max_bytes: int, x: Features, dy: Features) -> Kernel:
    """G^T [(B^T d B) * (A dY A^T)] G, summed over tiles."""

    def products(x: Features, dy: Features) -> Transformed:
        tiles, gradient = _transformed_tiles(m, x), _transformed_gradient(m, dy)
        if min(tiles.shape[2], gradient.shape[2]) < COPIED_CHANNELS:
            return jax.lax.dot_general(tiles, gradient, (((1,), (1,)), ((0,), (0,))))
        copy = jax.lax.optimization_barrier(tiles.swapaxes(1, 2))
        return jax.lax.dot_general(copy, gradient, (((2,), (1,)), ((0,), (0,))))

    x_pieces, dy_pieces = _pieces(m, max_bytes, x, dy)
    if len(x_pieces) == 1:
        total = products(x, dy)
    else:
        zero = jnp.zeros(((m + 2) ** 2, x.shape[3], dy.shape[3]), x.dtype)
        total, _ = jax.lax.scan(lambda sums, piece: (sums + products(*piece), None), zero, (x_pieces, dy_pieces))
    return _apply(transforms(m).kernel.T, total).reshape(3, 3, x.shape[3], dy.shape[3])


def _direct(x: Array, kernel: Array, precision: Any) -> Array:
    numbers = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=numbers, precision=precision)


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
def _bilinear(a: Array, b: Array, *, m: int, kind: str, max_bytes: int, **_: Any) -> Array:
    return KINDS[kind][0](m, max_bytes, a, b)


def _bilinear_directly(a: Array, b: Array, *, kind: str, precision: Any, **_: Any) -> Array:
    """The same by XLA's convolution and its transposes."""
    if kind == "outputs":
        return _direct(a, b, precision)
    result = jax.ShapeDtypeStruct(KINDS[kind][1](a, b), a.dtype)
    if kind == "input_gradient":
        (gradient,) = jax.linear_transpose(lambda x: _direct(x, b, precision), result)(a)
    else:
        (gradient,) = jax.linear_transpose(lambda kernel: _direct(a, kernel, precision), result)(b)
    return gradient


@_bilinear_p.def_abstract_eval
def _type_of_result(a: ShapedArray, b: ShapedArray, *, kind: str, **_: Any) -> ShapedArray:
    return ShapedArray(KINDS[kind][1](a, b), a.dtype)


def _transpose_in_first(ct: Array, _: Any, b: Array, *, kind: str, **params: Any) -> Array:
    if kind == "outputs":
        return _bilinear_p.bind(ct, b, kind="input_gradient", **params)
    if kind == "input_gradient":
        return _bilinear_p.bind(ct, b, kind="outputs", **params)
    return _bilinear_p.bind(b, ct, kind="input_gradient", **params)


def _transpose_in_second(ct: Array, a: Array, _: Any, *, kind: str, **params: Any) -> Array:
    if kind == "outputs":
        return _bilinear_p.bind(a, ct, kind="kernel_gradient", **params)
    if kind == "input_gradient":
        return _bilinear_p.bind(ct, a, kind="kernel_gradient", **params)
    return _bilinear_p.bind(a, ct, kind="outputs", **params)


def _jvp(primals: Any, tangents: Any, **params: Any) -> Any:
    """A derivative needs the tiles again: in one piece, XLA transforms them once for both."""
    return _bilinear_jvp(primals, tangents, **params | {"max_bytes": MAX_BYTES})


def _over_vmap(arguments: tuple[Array, Array], axes: tuple[Any, Any], **params: Any) -> tuple[Array, int]:
    """Images alone are one larger batch; otherwise the elements of the vmapped axis are taken one after the other."""
    a, b = (x if axis is None else jnp.moveaxis(x, axis, 0) for x, axis in zip(arguments, axes, strict=True))
    if axes[1] is None and params["kind"] != "kernel_gradient":
        together = _bilinear_p.bind(a.reshape(-1, *a.shape[2:]), b, **params)
        return together.reshape(*a.shape[:2], *together.shape[1:]), 0
    size = len(b) if axes[0] is None else len(a)
    pairs = [
        x if axis is not None else jnp.broadcast_to(x, (size, *x.shape)) for x, axis in ((a, axes[0]), (b, axes[1]))
    ]
    return jax.lax.map(lambda pair: _bilinear_p.bind(*pair, **params), tuple(pairs)), 0


ad.defbilinear(_bilinear_p, _transpose_in_first, _transpose_in_second)
_bilinear_jvp = ad.primitive_jvps[_bilinear_p]
ad.primitive_jvps[_bilinear_p] = _jvp
batching.primitive_batchers[_bilinear_p] = _over_vmap
mlir.register_lowering(_bilinear_p, mlir.lower_fun(_bilinear_directly, multiple_results=False))
mlir.register_lowering(_bilinear_p, mlir.lower_fun(_bilinear, multiple_results=False), platform="cpu")


def _multiply(tiles: Transformed, kernel: Transformed, *, contracted: int) -> Transformed:
    """contracted: the axis of the transformed kernel that is summed over, 1 for its inputs, 2 for its outputs."""

    def product(start: int) -> Transformed:
        channels = slice(start, start + SUMMED_CHANNELS)
        part = kernel[:, channels] if contracted == 1 else kernel[:, :, channels]
        return jax.lax.dot_general(tiles[..., channels], part, (((2,), (contracted,)), ((0,), (0,))))

    return reduce(jnp.add, map(product, range(0, tiles.shape[2], SUMMED_CHANNELS)))


def _convolve(
    m: int,
    max_bytes: int,
    x: Features,
    kernel: Kernel,
    transform: Callable[[int, Features], Transformed],
    to_images: Callable[[int, Transformed, int, int, int], Features],
    *,
    contracted: int,
) -> Features:
    """Transforms images to tiles, multiplies them as `_multiply` does, and returns to images, piece by piece."""
    transformed = _transformed_kernel(m, kernel)

    def one_piece(x: Features) -> Features:
        return to_images(m, _multiply(transform(m, x), transformed, contracted=contracted), *x.shape[:3])

    (pieces,) = _pieces(m, max_bytes, x)
    if len(pieces) == 1:
        return one_piece(x)
    return jax.lax.map(one_piece, pieces).reshape(*x.shape[:3], transformed.shape[3 - contracted])


def _pieces(m: int, max_bytes: int, *arrays: Features) -> tuple[Array, ...]:
    """Each [batch, ...] as [pieces, images, ...], with as many images as fit into `max_bytes` bytes when transformed.

    A batch that only divides into pieces of few tiles stays whole: each piece reads the whole transformed kernel.
    So does a batch that XLA may have divided among devices, which a loop would gather; under shard_map it is one's own.
    """
    batch, height, width, _ = arrays[0].shape
    tiles = math.prod(_grid(m, height, width))
    one_image = 4 * (m + 2) ** 2 * tiles * max(array.shape[3] for array in arrays)
    divided = jax.device_count() > 1 and not jax.sharding.get_abstract_mesh().manual_axes
    fitting = batch if divided else max(max_bytes // one_image, 1)
    sizes = (n for n in range(1, min(fitting, batch) + 1) if batch % n == 0 and n * tiles >= MIN_TILES)
    images = max(sizes, default=batch)
    return tuple(jnp.asarray(array).reshape(batch // images, images, *array.shape[1:]) for array in arrays)


def _transformed_kernel(m: int, kernel: Kernel) -> Transformed:
    """G g G^T for each pair of channels; XLA moves it out of a sampler's loop."""
    return _apply(transforms(m).kernel, kernel.reshape(9, *kernel.shape[2:]))


def _transformed_tiles(m: int, x: Features) -> Transformed:
    """B^T d B of all tiles, which overlap by two pixels."""
    batch, height, width, channels = x.shape
    rows, columns = _grid(m, height, width)
    pads = ((0, 0), (1, m * (rows + 1) - height - 1), (1, m * (columns + 1) - width - 1), (0, 0))
    # Without barriers XLA would compile what makes x, and what reads dx, into each branch of the concatenations.
    padded = jax.lax.optimization_barrier(jnp.pad(x, pads))
    pixels = padded.reshape(batch, rows + 1, m, columns + 1, m, channels).transpose(2, 4, 0, 1, 3, 5)
    # The last two rows and columns of a tile are the first two of the next one.
    pixels = jnp.concatenate([pixels[:, :, :, :rows], pixels[:2, :, :, 1:]], axis=0)
    pixels = jnp.concatenate([pixels[:, :, :, :, :columns], pixels[:, :2, :, :, 1:]], axis=1)
    return _apply(transforms(m).input, pixels.reshape((m + 2) ** 2, -1, channels))


def _add_tiles(m: int, products: Transformed, batch: int, height: int, width: int) -> Features:
    """B p B^T of each tile, [points, tiles, channels], added up to images: the transpose of `_transformed_tiles`."""
    rows, columns = _grid(m, height, width)
    pixels = _apply(transforms(m).input.T, products).reshape(m + 2, m + 2, batch, rows, columns, products.shape[2])

    def fold(pixels: Array, axis: int) -> Array:
        """Adds the first pixels, before the tile, to the previous tile's, and the last ones to the next tile's."""

        def moved(pixels: Array, by: int) -> Array:
            return jax.lax.pad(pixels, jnp.float32(0), [(by * (i == axis), -by * (i == axis), 0) for i in range(5)])

        return jnp.stack([pixels[1] + moved(pixels[m + 1], 1), *pixels[2:m], pixels[m] + moved(pixels[0], -1)])

    pixels = fold(pixels, 2)  # The axis of the rows of tiles, after that of the columns of pixels and the batch.
    pixels = fold(pixels.swapaxes(0, 1), 3)
    return jax.lax.optimization_barrier(_as_images(pixels.swapaxes(0, 1), height, width))


def _join_tiles(m: int, products: Transformed, batch: int, height: int, width: int) -> Features:
    """A^T p A of each tile, [points, tiles, channels], side by side in images."""
    rows, columns = _grid(m, height, width)
    pixels = _apply(transforms(m).output, products).reshape(m, m, batch, rows, columns, products.shape[2])
    return _as_images(pixels, height, width)


def _transformed_gradient(m: int, dy: Features) -> Transformed:
    """A dY A^T of all tiles: the transpose of `_join_tiles`."""
    batch, height, width, channels = dy.shape
    rows, columns = _grid(m, height, width)
    padded = jnp.pad(dy, ((0, 0), (0, rows * m - height), (0, columns * m - width), (0, 0)))
    tiles = padded.reshape(batch, rows, m, columns, m, channels).transpose(2, 4, 0, 1, 3, 5)
    return _apply(transforms(m).output.T, tiles.reshape(m * m, -1, channels))


def _grid(m: int, height: int, width: int) -> tuple[int, int]:
    """Rows and columns of tiles that cover an image."""
    return -(-height // m), -(-width // m)


def _as_images(pixels: Float[Array, "m m batch rows columns channels"], height: int, width: int) -> Features:
    m, _, batch, rows, columns, channels = pixels.shape
    images = pixels.transpose(2, 3, 0, 4, 1, 5).reshape(batch, rows * m, columns * m, channels)
    return images[:, :height, :width]


def _apply(matrix: np.ndarray, x: Array) -> Array:
    """[a, b] times [b, ...]."""
    return (jnp.asarray(matrix) @ x.reshape(x.shape[0], -1)).reshape(len(matrix), *x.shape[1:])
