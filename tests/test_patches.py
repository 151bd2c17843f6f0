"""Patch features: against loops over positions, and torch; by the kernel and by NumPy; drawn from images; in files."""

import json
import re
import runpy
from dataclasses import replace

import numpy as np
import pytest
from patched import drawn, images, model_of, spelled_out
from scipy.signal import correlate

import onelayer.features.patches
from onelayer import Model
from onelayer.blas import one_blas_thread
from onelayer.container import pack, unpack
from onelayer.errors import ConfigError, DataError, ModelFileError
from onelayer.export import to_onnx, write
from onelayer.features.filters import draw_filters, sizes_of
from onelayer.features.patches import Patches
from onelayer.features.pooling import Bank, Pool, respond
from onelayer.kernel import kernel
from onelayer.model import MODEL_ARRAYS

SHAPES = [(3, 32, 32), (1, 24, 24), (3, 48, 64), (1, 8, 8), (3, 9, 17), (2, 3, 12), (1, 40, 11)]


@pytest.fixture(scope="module", params=SHAPES, ids=str)
def patches(request):
    return drawn(request.param)


@pytest.fixture(params=["native", "numpy"])
def backend(request, monkeypatch):
    if request.param == "numpy":
        monkeypatch.setattr(onelayer.features.patches, "kernel", None)
    elif kernel is None:
        pytest.skip("onelayer was installed without a compiler")
    return request.param


class TestCodes:
    def test_they_are_those_of_the_formulas(self, patches, backend):
        some = images(patches.image_shape, 3, seed=1)
        codes = patches.transform(some.reshape(3, -1)).reshape(3, patches.views, patches.d_out)
        expected = np.array([spelled_out(patches, image) for image in some])
        assert codes.dtype == np.uint8
        assert 20 < codes.mean() < 200  # the case is not trivial
        assert len(np.unique(codes)) > 60
        np.testing.assert_allclose(codes, expected, atol=0.502)  # half a grey level, and rounding

    def test_responses_are_those_of_correlations_by_scipy(self):
        patches = drawn((3, 32, 32))
        image = images((3, 32, 32), 1, seed=2)[0].astype(float)
        for bank in patches.banks:
            ones = np.ones(bank.filters.shape[1:]) / bank.filters[0].size
            mean, square = (correlate(x, ones, "valid")[0] for x in (image, image * image))
            z = np.array([correlate(image, A.astype(float), "valid")[0] for A in bank.filters])
            z = z / np.sqrt(square - mean**2 + 10) + bank.bias[:, None, None]
            np.testing.assert_allclose(respond(bank, image.astype(np.uint8)), z.transpose(1, 2, 0), atol=2e-5)

    def test_they_end_at_255(self, backend):
        patches = drawn((3, 9, 17))
        loud = replace(patches, banks=tuple(replace(bank, largest=bank.largest / 3) for bank in patches.banks))
        rows = images((3, 9, 17)).reshape(6, -1)
        usual, codes = patches.transform(rows), loud.transform(rows)
        assert (codes[usual > 86] == 255).all()
        assert (codes[usual < 84] < 255).all()
        assert min((usual > 86).mean(), (usual < 84).mean()) > 0.1

    def test_kernel_and_numpy_differ_by_one_grey_level_in_few_codes(self, patches, monkeypatch):
        if kernel is None:
            pytest.skip("onelayer was installed without a compiler")
        rows = images(patches.image_shape, 20, seed=4).reshape(20, -1)
        native = patches.transform(rows).astype(int)
        monkeypatch.setattr(onelayer.features.patches, "kernel", None)
        apart = abs(native - patches.transform(rows))
        assert apart.max() <= 1
        assert np.count_nonzero(apart) <= apart.size * 2e-4

    @pytest.mark.parametrize("variant", ["avx512", "avx2", "baseline"])
    def test_instruction_sets_differ_by_one_grey_level_in_few_codes(self, patches, variant, monkeypatch):
        if kernel is None or variant not in kernel.variants():
            pytest.skip(f"this machine does not run {variant}")
        rows = images(patches.image_shape, 5, seed=4).reshape(5, -1)
        here = patches.transform(rows).astype(int)
        monkeypatch.setenv("ONELAYER_KERNEL", variant)
        apart = abs(here - patches.transform(rows))
        assert apart.max() <= 1
        assert np.count_nonzero(apart) <= apart.size * 2e-4

    def test_neither_threads_nor_other_images_change_a_bit(self, backend, monkeypatch):
        monkeypatch.setattr(onelayer.parts, "count_cores", lambda: 3)
        monkeypatch.setattr(onelayer.parts, "LEAST_WORK", 1)
        patches = drawn((3, 32, 32))
        rows = images((3, 32, 32), 13, seed=5).reshape(13, -1)
        together = patches.transform(rows, threads=1)
        np.testing.assert_array_equal(patches.transform(rows, threads=3), together)
        alone = np.concatenate([patches.transform(row[None]) for row in rows])
        np.testing.assert_array_equal(alone, together)

    def test_a_mirrored_image_has_the_same_codes_with_left_and_right_views_exchanged(self, backend):
        patches = drawn((3, 32, 48))
        some = images((3, 32, 48), 3, seed=6)
        codes = patches.transform(some.reshape(3, -1)).reshape(3, 5, -1).astype(int)
        mirrored = patches.transform(some[..., ::-1].reshape(3, -1)).reshape(3, 5, -1)
        apart = abs(codes - mirrored[:, [0, 2, 1, 4, 3]])
        assert apart.max() <= 1
        assert np.count_nonzero(apart) <= apart.size * 1e-3
        assert np.count_nonzero(codes[:, 1] - mirrored[:, 1]) > codes[:, 1].size / 2  # views do differ

    @pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28)])
    def test_without_twins_filters_see_left_from_right(self, shape):
        patches = drawn(shape)
        some = images(shape, 3, seed=6)
        assert not patches.mirrored
        codes, mirrored = (patches.transform(i.reshape(3, -1)).astype(int) for i in (some, some[..., ::-1]))
        assert np.count_nonzero(codes - mirrored) > codes.size / 4

    def test_views_cut_from_the_middle_have_no_influence_of_the_rest(self, backend):
        """The view that is moved down and right does not see the first pixels."""
        patches = drawn((1, 32, 32))
        image = images((1, 32, 32), 1, seed=7)
        other = image.copy()
        other[:, :, :4] = 255 - other[:, :, :4]
        other[:, :, :, :4] = 255 - other[:, :, :, :4]
        a, b = (patches.transform(i.reshape(1, -1)).reshape(5, -1) for i in (image, other))
        np.testing.assert_array_equal(a[4], b[4])
        assert all((a[view] != b[view]).any() for view in range(4))

    @pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, np.int16])
    def test_pixels_of_another_type_have_the_same_codes(self, dtype, backend):
        patches, rows = drawn((1, 9, 9)), images((1, 9, 9)).reshape(6, -1)
        np.testing.assert_array_equal(patches.transform(rows.astype(dtype)), patches.transform(rows))

    @pytest.mark.parametrize("number", [0.5, -1, 256, np.nan, np.inf])
    def test_numbers_that_are_not_pixels_are_refused(self, number):
        rows = np.zeros((2, 81))
        rows[1, 80] = number
        with pytest.raises(DataError, match="of pixels, whole numbers from 0 to 255") as caught:
            drawn((1, 9, 9)).transform(rows)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("grey", [0, 7, 255])
    def test_a_plain_image_has_the_codes_of_the_biases(self, grey, backend):
        patches = drawn((1, 16, 16))
        codes = patches.transform(np.full((1, 256), grey, np.uint8)).reshape(5, 2, 9, 2, -1)
        for of_bank, bank in zip(codes.swapaxes(0, 1), patches.banks, strict=True):
            for side, sign in enumerate((1, -1)):
                roots = np.sqrt(np.maximum(sign * bank.bias.astype(float) - 0.5, 0))
                expected = np.broadcast_to(np.minimum(255 * roots / bank.largest, 255), (5, 9, 10))
                np.testing.assert_allclose(of_bank[:, :, side], expected, atol=0.6)

    @pytest.mark.parametrize("numbers", [40, 162])
    def test_rows_of_another_length_are_not_taken_for_other_images(self, numbers):
        with pytest.raises(ValueError, match="reshape"):
            drawn((1, 9, 9)).transform(np.zeros((81, numbers), np.uint8))


class TestWindows:
    @pytest.mark.parametrize("shape", SHAPES, ids=str)
    @pytest.mark.parametrize("views", [1, 5])
    def test_those_of_a_view_cover_its_positions_exactly(self, shape, views):
        for k in sizes_of(shape):
            pool = Pool(Bank(np.zeros((2, shape[0], k, k)), np.zeros(2), 1.0), shape, False, views)
            shift = round(min(shape[1:]) / 16) if views == 5 else 0
            for axis, length in zip(pool.axes, shape[1:], strict=True):
                assert axis.length == length - k + 1
                for move, of_view in zip((-1, 0, 1), axis.ranges.reshape(3, axis.count, 2), strict=True):
                    assert of_view[0, 0] == shift + move * shift
                    assert of_view[-1, 1] == axis.length - shift + move * shift
                    assert (of_view[1:, 0] <= of_view[:-1, 1]).all()  # no gap
                    assert len(set(of_view[:, 1] - of_view[:, 0])) == 1
                    middle = of_view.sum() / (2 * axis.count)
                    np.testing.assert_allclose(of_view + of_view[::-1, ::-1], 2 * middle)  # symmetric

    def test_places_are_those_of_all_features_in_order(self):
        patches = drawn((3, 32, 32), filters=4)
        first, places = 0, []
        for k in (6, 4):
            pool = Pool(next(b for b in patches.banks if b.filters.shape[2] == k), (3, 32, 32), True, 5)
            places += list(pool.windows(first, patches.d_out)[:, 3])
            first += pool.features
        assert first == patches.d_out == 2 * 9 * 8
        assert sorted(places) == list(range(0, 5 * patches.d_out, 8))


class TestDraw:
    @pytest.mark.parametrize("mirror", [False, True])
    def test_filters_are_those_of_the_recipe(self, mirror):
        """The recipe once more, with the mirrored patches appended and NumPy's covariance."""
        with one_blas_thread():
            self.compare_with_the_recipe(mirror)

    def compare_with_the_recipe(self, mirror):
        shape, k, K = (2, 12, 15), 4, 20
        some = images(shape, 9)
        places = np.array([7, 1, 2, 5])
        A, b = draw_filters(some.reshape(9, -1), places, shape, k, K, np.random.default_rng(8), mirror=mirror)
        rng = np.random.default_rng(8)
        i, y, x = rng.integers(4, size=50_000), rng.integers(9, size=50_000), rng.integers(12, size=50_000)
        p = np.stack([some[places[i], :, y + a, x + c] for a in range(k) for c in range(k)], axis=2).astype(float)
        p = p.reshape(50_000, -1)
        p = (p - p.mean(axis=1)[:, None]) / np.sqrt(p.var(axis=1)[:, None] + 10)
        turned = p.reshape(-1, 2, k, k)[..., ::-1].reshape(len(p), -1)
        every = np.concatenate([p, turned]) if mirror else p
        mu, C = every.mean(axis=0), np.cov(every.T, bias=True)
        s = np.trace(C) / len(C)
        U, L, _ = np.linalg.svd(C / s)
        Z = U @ np.diag((L + 0.1) ** -0.5) @ U.T / np.sqrt(s)
        white = (p[: 4 * K] - mu) @ Z
        norms = np.linalg.norm(white, axis=1)
        D = np.array([row / norm for row, norm in zip(white, norms, strict=True) if norm > np.median(norms) / 10][:K])
        if mirror:
            D = np.concatenate([D, D.reshape(-1, 2, k, k)[..., ::-1].reshape(K, -1)])
        expected = D @ Z
        expected -= expected.mean(axis=1)[:, None]
        np.testing.assert_allclose(A.reshape(len(A), -1), expected, atol=1e-6)
        np.testing.assert_allclose(b, -expected @ mu, atol=1e-6)
        assert (A.shape, A.dtype, b.dtype) == (((2 if mirror else 1) * K, 2, k, k), np.float32, np.float32)
        assert abs(b).max() > 1e-3

    def test_twins_are_mirrored_filters(self):
        for bank in drawn((3, 16, 16)).banks:
            first, twins = np.split(bank.filters, 2)
            np.testing.assert_allclose(twins, first[..., ::-1], atol=1e-6)
            np.testing.assert_allclose(*np.split(bank.bias, 2), atol=1e-6)

    def test_the_same_seed_draws_the_same_map_and_another_seed_another_one(self):
        one, same, other = (drawn.__wrapped__((3, 16, 16), seed=seed) for seed in (3, 3, 4))
        for name, tensor in one.tensors().items():
            np.testing.assert_array_equal(tensor, same.tensors()[name])
        assert (one.banks[0].filters != other.banks[0].filters).any()

    def test_rows_outside_the_training_set_change_nothing(self):
        rows, places = images((1, 12, 12), 9).reshape(9, -1), np.array([0, 3, 4])
        others = rows.copy()
        others[np.setdiff1d(np.arange(9), places)] = 0
        one, same = (Patches.drawn(r, places, (1, 12, 12), filters=5) for r in (rows, others))
        for name, tensor in one.tensors().items():
            np.testing.assert_array_equal(tensor, same.tensors()[name])

    def test_the_largest_code_of_the_training_images_is_four_fifths_of_255(self, patches, backend):
        patches = drawn.__wrapped__(patches.image_shape)  # with this backend
        rows = images(patches.image_shape).reshape(6, -1)
        codes = patches.transform(rows)
        ends = np.cumsum([pool.features for pool in patches.pools])[:-1]
        for part in np.split(codes, ends, axis=1):
            assert abs(int(part.max()) - 204) <= 4

    @pytest.mark.parametrize(
        ("shape", "sizes", "views", "mirrored"),
        [
            ((3, 32, 32), [6, 4], 5, True),
            ((1, 28, 28), [6, 4], 5, False),
            ((3, 64, 40), [8, 5], 5, True),
            ((3, 10, 90), [4], 5, True),
            ((1, 8, 8), [3], 1, False),
            ((1, 3, 3), [3], 1, False),
            ((1, 4, 3), [3], 1, False),
        ],
        ids=str,
    )
    def test_sizes_views_and_twins_follow_from_the_shape(self, shape, sizes, views, mirrored):
        patches = drawn(shape, filters=3)
        assert [bank.filters.shape[2] for bank in patches.banks] == sizes
        assert (patches.views, patches.mirrored) == (views, mirrored)
        rows = images(shape, 2).reshape(2, -1)
        assert patches.transform(rows).shape == (2 * views, patches.d_out)
        windows = [min(3, length - sizes[0] + 1) for length in shape[1:]]
        assert patches.d_out == windows[0] * windows[1] * 2 * 3 * len(sizes)

    def test_one_image_is_enough(self):
        patches = drawn((3, 16, 16), n=1)
        assert patches.transform(images((3, 16, 16)).reshape(6, -1)).std() > 20

    def test_plain_images_among_others_are_taken(self):
        rows = images((1, 12, 12), 40).reshape(40, -1)
        rows[1:] = np.arange(39, dtype=np.uint8)[:, None]
        patches = Patches.drawn(rows, np.arange(40), (1, 12, 12), filters=20)
        assert all(np.isfinite(tensor).all() for tensor in patches.tensors().values())
        assert patches.transform(rows[:1]).std() > 20

    @pytest.mark.parametrize("grey", [0, 90, 255])
    @pytest.mark.parametrize("shape", [(1, 12, 12), (3, 12, 12)], ids=str)
    def test_images_of_one_colour_are_refused(self, grey, shape):
        rows = np.full((5, *shape), grey, np.uint8)
        rows[:, -1] //= 2
        with pytest.raises(
            DataError, match=r"too plain for 128 filters: their patches of 4 x 4 hardly differ"
        ) as caught:
            Patches.drawn(rows.reshape(5, -1), np.arange(5), shape)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize(
        ("shape", "options", "message"),
        [
            ((1, 2, 20), {}, "images of 2 x 20 pixels are smaller than a patch of 3 x 3"),
            (
                (1, 99, 99),
                {"filters": 5_001},
                "5,001 filters are more than the 5,000 patches that are drawn; ask for",
            ),
            ((1, 6, 6), {"filters": 97}, "6 images of 6 x 6 pixels have 96 patches of 3 x 3, too few for 97 filters"),
        ],
    )
    def test_images_that_are_too_small_or_too_few_are_refused(self, shape, options, message):
        with pytest.raises(DataError, match=message) as caught:
            drawn(shape, **options)
        assert "\n" not in str(caught.value)

    def test_rows_that_are_not_images_of_pixels_are_refused(self):
        rows = images((1, 12, 12)).reshape(6, -1)
        with pytest.raises(DataError, match="no image shape; choose other features"):
            Patches.drawn(rows, np.arange(6), None)
        with pytest.raises(DataError, match="for uint8 pixels, and the rows are float32"):
            Patches.drawn(rows.astype(np.float32), np.arange(6), (1, 12, 12))
        for options in ({"filters": 0}, {"views": 2}):
            with pytest.raises(ConfigError, match="ask for at least 1 filter, and for 1 or 5 views"):
                Patches.drawn(rows, np.arange(6), (1, 12, 12), **options)


class TestModel:
    def test_logits_are_averages_over_views(self, patches):
        model = model_of(patches)
        rows = images(patches.image_shape, 7, seed=9).reshape(7, -1)
        codes = patches.transform(rows).reshape(7, patches.views, -1)
        mean_code = codes.mean(axis=1)
        expected = (mean_code - model.standardizer.mean) / model.standardizer.scale @ model.layer.weights
        np.testing.assert_allclose(model.logits(rows), expected + model.layer.bias, atol=1e-9)

    def test_a_saved_model_gives_the_same_bits(self, patches, tmp_path):
        model = model_of(patches)
        model.save(tmp_path / "model.safetensors")
        loaded = Model.load(tmp_path / "model.safetensors")
        rows = images(patches.image_shape, 7, seed=9).reshape(7, -1)
        np.testing.assert_array_equal(loaded.logits(rows), model.logits(rows))
        assert loaded.features.facts() == patches.facts()
        assert (loaded.features.views, loaded.features.mirrored) == (patches.views, patches.mirrored)
        assert loaded.to_bytes() == model.to_bytes()


def without(name):
    return lambda tensors, facts: tensors.pop(name)


def tensor(name, change):
    def spoil(tensors, facts):
        tensors[name] = change(tensors[name])

    return spoil


def fact(name, value):
    return lambda tensors, facts: facts.update({name: value})


HOSTILE = [
    without("filters.4"),
    without("bias.4"),
    without("largest"),
    lambda tensors, facts: tensors.update({"filters.5": tensors["filters.4"]}),
    lambda tensors, facts: facts.pop("shape"),
    tensor("filters.4", lambda a: a[:-1]),
    tensor("filters.4", lambda a: a[:, :2]),
    tensor("filters.4", lambda a: a[0]),
    tensor("filters.4", lambda a: a[:0]),
    tensor("filters.4", lambda a: a.astype(np.float64)),
    tensor("filters.4", lambda a: a * np.float32(1e30)),
    tensor("bias.4", lambda a: a[:-1]),
    lambda tensors, facts: tensors.update({name: tensors[name][:-1] for name in ("filters.4", "bias.4")}),
    tensor("bias.4", lambda a: a - np.float32(1e10)),
    tensor("bias.4", lambda a: a.astype(np.float64)),
    tensor("largest", lambda a: a[:0]),
    tensor("largest", lambda a: a * 0),
    tensor("largest", lambda a: -a),
    tensor("largest", lambda a: a * 1e-30),
    tensor("largest", lambda a: a * 1e300),
    tensor("largest", lambda a: a * np.inf),
    tensor("largest", lambda a: a * np.nan),
    tensor("filters.4", lambda a: a * np.float32(np.nan)),
    tensor("bias.4", lambda a: a * np.float32(np.inf)),
    fact("version", 2),
    fact("epsilon", 1.0),
    fact("threshold", 0),
    fact("shape", [3, 12]),
    fact("shape", [3, 12, 13]),
    fact("shape", [3, 2, 72]),
    fact("shape", [3, -12, -12]),
    fact("shape", [3, 12.0, 12]),
    fact("shape", [3, 2**70, 12]),
    fact("shape", "abc"),
    fact("shape", None),
    fact("views", 2),
    fact("views", 5.0),
    fact("views", True),
    fact("mirrored", 1),
    fact("mirrored", False),
    fact("name", ["patches"]),
    lambda tensors, facts: (tensors.clear(), facts.update(name="unit length", numbers=np.inf)),  # 1e999 is read as this
]


class TestHostileFiles:
    @pytest.mark.parametrize("spoil", HOSTILE)
    def test_a_map_that_does_not_fit_is_refused_in_one_line(self, spoil, tmp_path):
        file = tmp_path / "model.safetensors"
        model_of(drawn((3, 12, 12), filters=4)).save(file)
        tensors, metadata = unpack(file, kind="model", names=MODEL_ARRAYS)
        facts = json.loads(metadata["features"])
        own = {name.removeprefix("features."): tensors.pop(name) for name in list(tensors) if "features." in name}
        spoil(own, facts)
        tensors |= {f"features.{name}": array for name, array in own.items()}
        kept = {name: text for name, text in metadata.items() if name not in ("format", "version", "checksum")}
        file.write_bytes(pack(tensors, kept | {"features": json.dumps(facts)}, kind="model"))
        with pytest.raises(ModelFileError, match=re.escape(str(file))) as caught:
            Model.load(file)
        assert "\n" not in str(caught.value)


def arguments():
    pool = Pool(drawn((3, 12, 12), filters=4).banks[0], (3, 12, 12), True, 5)
    down, across = pool.axes
    return {
        "images": images((3, 12, 12), 2),
        "filters": pool.bank.filters,
        "bias": pool.bank.bias,
        "mirrored": True,
        "epsilon": 10.0,
        "threshold": 0.5,
        "scale": 100.0,
        "down": down.ranges,
        "across": across.ranges,
        "windows": pool.windows(0, pool.features),
        "codes": np.zeros((2, 5, pool.features), np.uint8),
        "cancelled": None,
    }


BAD = {
    "images": [lambda a: a.astype(float), lambda a: a[0], lambda a: a[..., ::-1], lambda a: a[:0], lambda a: None],
    "filters": [lambda a: a[:, :2], lambda a: a[..., :2], lambda a: a * np.nan, lambda a: a.ravel()],
    "bias": [lambda a: a[:7], lambda a: a.astype(float), lambda a: a * np.inf],
    "mirrored": [lambda m: "no"],
    "epsilon": [lambda x: 0, lambda x: np.nan, lambda x: "x"],
    "threshold": [lambda x: 0, lambda x: np.inf],
    "scale": [lambda x: -1, lambda x: 1e39],
    "down": [lambda a: a + 9, lambda a: a - 9, lambda a: a[:, ::-1].copy(), lambda a: a[:, :1], lambda a: a[:0]],
    "across": [lambda a: a + 9, lambda a: a - 9, lambda a: a.astype(np.int32), lambda a: a[:, ::-1].copy()],
    "windows": [lambda a: a + 9, lambda a: a - 1, lambda a: a * 2, lambda a: a[:, :3], lambda a: a[:0], lambda a: None],
    "codes": [lambda a: a[:1], lambda a: a.astype(float), lambda a: a[0], lambda a: a[..., ::2]],
    "cancelled": [lambda x: True],
}


@pytest.mark.skipif(kernel is None, reason="onelayer was installed without a compiler")
class TestKernel:
    @pytest.mark.parametrize(("name", "spoil"), [(name, spoil) for name, all_ in BAD.items() for spoil in all_])
    def test_a_bad_argument_is_named(self, name, spoil):
        good = arguments()
        kernel.patches(**good)
        assert good["codes"].any()
        bad = good | {name: spoil(good[name])}
        with pytest.raises((TypeError, ValueError), match=rf"^{name} "):
            kernel.patches(**bad)

    def test_codes_that_cannot_be_written_are_refused(self):
        good = arguments()
        good["codes"].flags.writeable = False
        with pytest.raises(ValueError, match=r"^codes is read-only"):
            kernel.patches(**good)

    def test_places_beyond_the_codes_of_an_image_are_refused(self):
        good = arguments()
        good["windows"][-1, 3] += 1
        with pytest.raises(ValueError, match=r"^windows has a range or a place that does not exist at 44"):
            kernel.patches(**good)

    def test_it_ends_when_it_is_cancelled(self):
        asked = arguments()
        asked["images"] = images((3, 12, 12), 1).repeat(20_000, axis=0)
        asked["codes"] = np.zeros((20_000, *asked["codes"].shape[1:]), np.uint8)
        with pytest.raises(InterruptedError):
            kernel.patches(**asked | {"cancelled": lambda: True})
        assert not asked["codes"][-1].any()


class TestExports:
    """Of uint8 images: codes that fall to another side of a half differ by a grey level, and are few."""

    def test_onnx_gives_the_same_logits(self, patches):
        onnxruntime = pytest.importorskip("onnxruntime")
        pytest.importorskip("onnx")
        model, some = model_of(patches), images(patches.image_shape, 20, seed=9)
        session = onnxruntime.InferenceSession(to_onnx(model), providers=["CPUExecutionProvider"])
        (logits,) = session.run(["logits"], {"images": some})
        compare_logits(model, some, logits)

    def test_the_script_gives_the_same_logits(self, patches, tmp_path):
        model, some = model_of(patches), images(patches.image_shape, 10, seed=9)
        write(model, tmp_path / "model.py")
        script = runpy.run_path(str(tmp_path / "model.py"))
        compare_logits(model, some, script["logits"](some))


def compare_logits(model, some, logits):
    expected = model.logits(some.reshape(len(some), -1))
    assert expected.std() > 0.5
    apart = abs(logits - expected).max(axis=1)
    assert np.count_nonzero(apart > 1e-4) <= len(some) / 4  # a code differs
    assert apart.max() < 0.02
