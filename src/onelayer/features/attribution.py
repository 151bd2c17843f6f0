"""The division of the contributions of patch features among the positions of patches, windows and pixels."""

from dataclasses import replace

import numpy as np

from onelayer.features.pooling import MOVES, THRESHOLD, Pool, respond

MOST_RESPONSES = 2**22  # that are in memory at the same time


def by_position(
    pool: Pool, image: np.ndarray, codes: np.ndarray, V: np.ndarray, mean: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the amounts that positions, and windows, add to t logits: (down, across, t) and windows (y, x, t).

    Parameters
    ----------
    pool : Pool
    image : ndarray (c, h, w)
        Pixels.
    codes : ndarray (features, views), float64
        Of the image.
    V : ndarray (features, t), float64
        The amount that one more grey level of a code adds.
    mean : ndarray (features,), float64
        The codes that add nothing.
    """
    down, across = pool.axes
    bank, twins, K = pool.bank, (2 if pool.mirrored else 1), pool.in_window // 2
    filters, bias = bank.filters.reshape(twins, K, *bank.filters.shape[1:]), bank.bias.reshape(twins, K)
    of_features = [array.reshape(-1, K, *array.shape[1:]) for array in (codes, V, mean)]  # (windows and signs, K, ...)
    step = max(1, MOST_RESPONSES // (down.length * across.length * twins))
    t = V.shape[1]
    positions, windows = np.zeros((down.length, across.length, t)), np.zeros((down.count, across.count, t))
    for some in (slice(start, start + step) for start in range(0, K, step)):
        of_some = replace(bank, filters=filters[:, some].reshape(-1, *filters.shape[2:]), bias=bias[:, some].ravel())
        chosen = [array[:, some].reshape(-1, *array.shape[2:]) for array in of_features]
        of_positions, of_windows = _of_filters(replace(pool, bank=of_some), image, *chosen)
        positions += of_positions
        windows += of_windows
    return positions, windows


def _of_filters(
    pool: Pool, image: np.ndarray, codes: np.ndarray, V: np.ndarray, mean: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return what `by_position` does, of the filters of one pool, all at once."""
    down, across = pool.axes
    twins = 2 if pool.mirrored else 1
    z = respond(pool.bank, image).astype(np.float64)
    z = np.stack([z, -z], axis=2).reshape(*z.shape[:2], 2, twins, -1)
    u = np.maximum(z - THRESHOLD, 0).transpose(3, 0, 1, 2, 4)  # (twins, down, across, sign, filter)
    t = V.shape[1]
    shape = down.count, across.count, pool.in_window
    positions, windows = np.zeros((down.length, across.length, t)), np.zeros((*shape[:2], t))
    V, taken = V.reshape(*shape, t), (V.T * mean).T.reshape(*shape, t).sum(axis=2)
    for (a, b), of_view in zip(MOVES, codes.T.reshape(-1, *shape), strict=False):  # as many as there are views
        for y, x in np.ndindex(shape[:2]):
            rows = slice(*down.ranges[down.number(a, y)])
            places = [x, across.count - 1 - x][:twins]  # of the filters, and of their twins
            columns = [slice(*across.ranges[across.number(b, place)]) for place in places]
            blocks = [one[rows, of_one].reshape(-1, pool.in_window) for one, of_one in zip(u, columns, strict=True)]
            total = sum(block.sum(axis=0) for block in blocks)
            added = (V[y, x].T * of_view[y, x]).T  # (in_window, t)
            even = added[total == 0].sum(axis=0) - taken[y, x]
            with np.errstate(divide="ignore"):
                shares = np.where(total > 0, 1 / total, 0)
            for place, of_one, block in zip(places, columns, blocks, strict=True):
                found = block @ (added.T * shares).T + even / (twins * len(block))
                windows[y, place] += found.sum(axis=0)
                positions[rows, of_one] += found.reshape(positions[rows, of_one].shape)
    return positions / codes.shape[1], windows / codes.shape[1]


def over_pixels(positions: np.ndarray, image_shape: tuple[int, int, int], k: int) -> np.ndarray:
    """Divide the amounts of positions (down, across, t) evenly among the pixels of their patches, (t, c h w)."""
    c, h, w = image_shape
    down, across, t = positions.shape
    pixels = np.zeros((h, w, t))
    for y, x in np.ndindex(k, k):
        pixels[y : y + down, x : x + across] += positions
    each = (pixels / (c * k * k)).transpose(2, 0, 1)
    return np.broadcast_to(each[:, np.newaxis], (t, c, h, w)).reshape(t, -1)
