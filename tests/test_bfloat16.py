"""Patch features in bfloat16: the kernel that imitates the instructions, against formulas, and beside float32."""

from dataclasses import replace

import numpy as np
import pytest
from patched import drawn, images, spelled_out

from onelayer import SplitConfig, load_splits
from onelayer.features.patches import Patches
from onelayer.kernel import kernel

pytestmark = pytest.mark.skipif(kernel is None, reason="onelayer was installed without a compiler")
SHAPES = [(3, 32, 32), (1, 24, 24), (3, 48, 64), (1, 8, 8), (3, 9, 17), (1, 40, 11)]  # patches of 3 to 8 pixels


@pytest.fixture
def emulated(monkeypatch):
    def chosen(variant="emulated-bf16"):
        monkeypatch.setenv("ONELAYER_KERNEL", variant)

    return chosen


def to_bfloat16(x):
    """Numbers of eight digits, the nearest, with ties to even; 0 below 2^-126."""
    digits, power = np.frexp(np.asarray(x, np.float64))
    return np.where(abs(x) < 2.0**-126, 0, np.ldexp(np.rint(np.ldexp(digits, 8)), power - 8))


def in_bfloat16(patches):
    """The map with filters that are rounded, less a constant, so that their sums are as before."""

    def rounded(bank):
        A = to_bfloat16(bank.filters)
        return replace(bank, filters=A - (A - bank.filters).mean(axis=(1, 2, 3), keepdims=True))

    return replace(patches, banks=tuple(map(rounded, patches.banks)))


def test_it_is_chosen_only_by_name(monkeypatch):
    monkeypatch.delenv("ONELAYER_KERNEL", raising=False)
    assert not [name for name in (*kernel.variants(), kernel.variant()) if "bf16" in name]
    monkeypatch.setenv("ONELAYER_KERNEL", "emulated-bf16")
    assert kernel.variant() == "emulated-bf16"
    monkeypatch.setenv("ONELAYER_KERNEL", "bf16")
    with pytest.raises(ValueError, match=r"bf16 does not run here; this machine has .*baseline.* emulated-bf16$"):
        kernel.variant()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_codes_are_those_of_rounded_filters(shape, emulated):
    n = 1 if shape == (3, 48, 64) else 3
    patches, some = drawn(shape), images(shape, n, seed=1)
    expected = np.array([spelled_out(in_bfloat16(patches), image) for image in some])
    exact = np.array([spelled_out(patches, image) for image in some])
    emulated()
    codes = patches.transform(some.reshape(n, -1)).reshape(n, patches.views, patches.d_out)
    np.testing.assert_allclose(codes, expected, atol=0.502)  # half a grey level, and rounding
    assert abs(codes - exact).max() > 0.53  # the filters are rounded


def test_most_codes_of_photos_are_those_of_float32_and_the_rest_one_grey_level_off(cifar, emulated):
    splits = load_splits(str(cifar), SplitConfig(protocol="batch"))
    rows, places = splits.dataset.rows, splits.train.indices
    patches, some = Patches.drawn(rows, places, (3, 32, 32), filters=16), rows[splits.test.indices[:30]]
    codes = patches.transform(some).astype(int)
    emulated()
    apart = abs(codes - patches.transform(some))
    assert apart.max() == 1
    assert 0.04 < np.count_nonzero(apart) / apart.size < 0.06


def of_one_position(filters, pixels, scale, threshold=1e-45):
    """Codes (F,) of an image that is one patch."""
    F = len(filters)
    codes, once = np.zeros((1, 1, 2 * F), np.uint8), np.array([[0, 1]])
    kernel.patches(
        images=pixels.reshape(1, *filters.shape[1:]).astype(np.uint8),
        filters=filters,
        bias=np.zeros(F, np.float32),
        mirrored=False,
        epsilon=10.0,
        threshold=threshold,
        scale=scale,
        down=once,
        across=once,
        windows=np.array([[0, 0, 0, 0]]),
        codes=codes,
        cancelled=None,
    )
    return codes.ravel()[:F]


def sums_of_pairs(products, second_first=True):
    """Sums (F,) of products (F, lines, k) in float32: of a pair in a line, the second one is added first."""
    F, lines, k = products.shape
    pairs = np.concatenate([products, np.zeros((F, lines, k % 2))], axis=2).reshape(F, -1, 2)
    total = np.zeros(F, np.float32)
    for pair in np.moveaxis(pairs, 1, 0):
        for product in (pair[:, ::-1] if second_first else pair).T:
            total += product.astype(np.float32)
    return total


@pytest.mark.parametrize(("c", "k"), [(1, 4), (2, 3), (3, 5), (1, 6)])
def test_sums_are_rounded_in_the_order_of_the_instruction(c, k, emulated):
    """The products cancel each other, and only what rounding leaves of their sum remains."""
    rng, F = np.random.default_rng(k), 200
    half = 2.0 ** rng.integers(0, 22, (F, c * k * k // 2))
    filters = np.concatenate([half, -half], axis=1)
    filters = np.pad(rng.permuted(filters, axis=1), ((0, 0), (0, c * k * k - filters.shape[1])))
    filters = filters.reshape(F, c, k, k).astype(np.float32)
    found, other = (sums_of_pairs(199 * filters.reshape(F, -1, k).astype(float), first) for first in (True, False))
    scale = 200 / np.sqrt(found.max() / np.sqrt(10))
    expected, swapped = (scale * np.sqrt(np.maximum(total / np.sqrt(10), 0)) for total in (found, other))
    emulated()
    codes = of_one_position(filters, np.full(c * k * k, 199), scale)
    np.testing.assert_allclose(codes, np.minimum(expected, 255), atol=0.502)
    assert np.count_nonzero(abs(codes - np.minimum(swapped, 255)) > 2) > 10  # the order counts


@pytest.mark.parametrize("weights", [(2.0**-127, 0), (1.5 * 2.0**-126, 2.0**-126)], ids=["weight", "sum"])
def test_numbers_below_those_of_full_digits_are_0(weights, emulated, monkeypatch):
    plus, minus = weights
    filters = np.array([plus, -minus, -plus, minus] + [0] * 12, np.float32).reshape(1, 1, 4, 4)
    pixels, scale = np.array([1, 1] + [0] * 14), 1e21
    monkeypatch.setenv("ONELAYER_KERNEL", "baseline")
    assert of_one_position(filters, pixels, scale) > 30
    emulated()
    assert of_one_position(filters, pixels, scale) == 0


def test_ties_go_to_even(emulated):
    """Sums of a filter and of its rounded weights differ, which is taken away, times the mean of the pixels, 1/16."""
    weights = np.array([1 + 2.0**-8, 1 + 3 * 2.0**-8, 1 + 2.0**-8 + 2.0**-20])
    filters = np.zeros((3, 1, 4, 4), np.float32)
    filters[:, 0, 1, 2] = weights
    rounded = np.array([1, 1 + 2.0**-6, 1 + 2.0**-7])
    z = (rounded - (rounded - weights) / 16) / np.sqrt(1 / 16 - 1 / 256 + 10)
    emulated()
    scale, z0 = 2e4, z.min() - 1e-5
    codes = of_one_position(filters, np.eye(16)[6], scale, z0)
    np.testing.assert_allclose(codes, np.minimum(scale * np.sqrt(z - z0), 255), atol=2)
    assert codes[0] < 100 < 255 == codes[1] == codes[2]


def test_the_instructions_differ_from_their_imitation_by_a_grey_level_in_few_codes(emulated):
    try:
        emulated("avx512-bf16")
        kernel.variant()
    except ValueError:
        pytest.skip("this machine does not run avx512-bf16")
    for shape in SHAPES:
        patches, rows = drawn(shape), images(shape, 20, seed=4).reshape(20, -1)
        codes = patches.transform(rows).astype(int)
        emulated()
        apart = abs(codes - patches.transform(rows))
        assert apart.max() <= 1
        assert np.count_nonzero(apart) <= apart.size * 2e-4


def test_other_images_change_no_bit(emulated):
    emulated()
    patches, rows = drawn((3, 32, 32)), images((3, 32, 32), 5, seed=5).reshape(5, -1)
    alone = np.concatenate([patches.transform(row[None]) for row in rows])
    np.testing.assert_array_equal(alone, patches.transform(rows))
