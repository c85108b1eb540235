# SPDX-License-Identifier: MIT
"""Exit 0 when every package pinned in the given requirement files is installed whole in this environment."""
import os
import re
import sys
from importlib.metadata import PackageNotFoundError, distribution


def problem(name: str, version: str) -> str | None:
    try:
        package = distribution(name)
    except PackageNotFoundError:
        return f"{name} is not installed"
    if package.version != version:
        return f"{name} is {package.version}, not {version}"
    if not package.files:
        return f"{name} has no list of its files"
    for file in package.files:
        if file.size is None or file.suffix == ".pyc":
            continue
        path = package.locate_file(file)
        if not os.path.exists(path) or os.path.getsize(path) != file.size:
            return f"{name}: {path} is missing or cut short"
    return None


def main() -> int:
    problems = []
    for path in sys.argv[1:]:
        with open(path, encoding="utf-8") as lines:
            for name, version in re.findall(r"^([\w.-]+)==([\w.]+)", lines.read(), re.M):
                problems.append(problem(name, version))
    found = [p for p in problems if p]
    for text in found:
        print(text, file=sys.stderr)
    return 1 if found or not problems else 0


if __name__ == "__main__":
    sys.exit(main())
