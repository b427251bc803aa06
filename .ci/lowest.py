"""Print pip constraints for the lowest versions that pyproject.toml allows of what users and tests need."""

import re
import tomllib
from pathlib import Path

project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
extras = project["optional-dependencies"]
for requirement in [*project["dependencies"], *extras["cli"], *extras["plot"], *extras["dask"], *extras["test"]]:
    name, version = re.fullmatch(r"([\w-]+)(?:\[[\w,]+\])?>=([\d.]+)(?:,<[\d.]+)?", requirement).groups()
    print(f"{name}=={version if '.' in version else version + '.0'}.*")
