"""Draw the pictures of docs/pictures anew: each by its example script, then reduced to a palette to keep them small.

python docs/make_pictures.py
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).parents[1]
PICTURES = ROOT / "docs" / "pictures"
SCRIPTS = {
    "aircraft_engines": ["aircraft_engines"],
    "choosing_k": ["choosing_k"],
    "l_shape": ["l_shape"],
    "lecture_panels": ["mixture_cycles", "kmeans_cycles"],
    "local_maxima": ["local_maxima"],
    "lower_bound": ["jensen", "lower_bound"],
    "old_faithful": ["old_faithful"],
    "one_dimension": ["one_dimension"],
    "soft_colours": ["soft_colours"],
}
MOST_BYTES = 80_000
MOST_COLOURS = 96
WIDEST = 1100


def main() -> None:  # noqa: D103
    for script, names in SCRIPTS.items():
        paths = [PICTURES / f"{name}.png" for name in names]
        subprocess.run([sys.executable, ROOT / "examples" / f"{script}.py", *paths], check=True)
        for path in paths:
            shrink(path)


def shrink(path: Path) -> None:  # noqa: D103
    picture = Image.open(path).convert("RGB")
    if picture.width > WIDEST:
        picture = picture.resize((WIDEST, round(picture.height * WIDEST / picture.width)), Image.Resampling.LANCZOS)
    picture.quantize(MOST_COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)
    assert path.stat().st_size < MOST_BYTES, f"{path} has {path.stat().st_size:,} bytes"


if __name__ == "__main__":
    main()
