"""Redraw a photograph with a few colours: k-means on its pixels.

    python examples/colour_quantisation.py china.png --colours 64

The photograph is china.jpg of scikit-learn, 427 x 640 = 273,280 pixels.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.image import imsave
from sklearn.datasets import load_sample_image

import fastem


def main(arguments: Sequence[str] | None = None) -> float:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("picture", type=Path, help="where to write the redrawn photograph, such as china.png")
    parser.add_argument("--colours", type=int, default=64, help="number of colours (default: 64)")
    options = parser.parse_args(arguments)

    photograph = load_sample_image("china.jpg")
    pixels = photograph.reshape(-1, 3).astype(np.float32) / 255

    start = time.perf_counter()
    model = fastem.KMeans(options.colours, random_state=0).fit(pixels)
    seconds = time.perf_counter() - start

    redrawn = model.cluster_centers_[model.labels_].clip(0, 1).reshape(photograph.shape)
    imsave(options.picture, redrawn)
    error = float(np.sqrt(model.inertia_ / pixels.size))
    print(f"{len(pixels):,} pixels, {options.colours} colours: {model.n_iter_} iterations in {seconds:.2f} s")
    print(f"a colour channel is off by {255 * error:.1f} of 255 (root mean square)")
    return error


if __name__ == "__main__":
    main()
