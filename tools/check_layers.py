#!/usr/bin/env python3
"""Checks who includes whom under src/.

A folder may include itself and every folder reachable from it in BELOW. A *_simd.cc file is compiled once per
instruction set, so it and every project header it pulls in may use only the system headers of SIMD_SYSTEM: an inline
function of another header, compiled for AVX-512, could be the copy that the linker keeps for every machine.

Prints one line per violation; exit status 1 when there is one.
"""

import pathlib
import re
import sys

# Folder -> the folders right below it.
BELOW = {
    "cli": ["eval", "server"],
    "eval": ["engine"],
    "server": ["engine"],
    "engine": ["model", "methods", "text"],
    "model": ["cache", "io"],
    "methods": ["cache"],
    "cache": ["ops"],
    "ops": ["tensor"],
    "tensor": ["base"],
    "io": ["base"],
    "text": ["base"],
    "base": [],
}
# Headers directly in src/ are the library's front: engine, recipes and results, but neither server nor program.
FRONT = ["eval"]

# For *_simd.cc and what they include. dtype.h brings optional and string_view, of which kernels use nothing.
SIMD_SYSTEM = {"immintrin.h", "cstddef", "cstdint", "cstring"}
SIMD_SYSTEM_EXCEPTIONS = {("base/dtype.h", "optional"), ("base/dtype.h", "string_view")}

INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*([<"])([^>"]+)[>"]', re.MULTILINE)


def reachable(folders):
    seen, todo = set(), list(folders)
    while todo:
        folder = todo.pop()
        if folder not in seen:
            seen.add(folder)
            todo += BELOW[folder]
    return seen


def includes_of(path):
    """(line number, quoted or system, name) of every include directive."""
    text = path.read_text(encoding="utf-8")
    for match in INCLUDE.finditer(text):
        yield text.count("\n", 0, match.start()) + 1, match[1] == '"', match[2]


def check_folders(src):
    for path in sorted(p for p in src.rglob("*") if p.suffix in (".h", ".cc", ".cu", ".cuh")):
        parts = path.relative_to(src).parts
        if len(parts) == 1:
            folder, allowed = "src", reachable(FRONT)
        elif parts[0] in BELOW:
            folder, allowed = parts[0], reachable([parts[0]])
        else:
            yield f"{path}: folder {parts[0]} has no place in the layers of tools/check_layers.py"
            continue
        for line, is_quoted, name in includes_of(path):
            if not is_quoted:
                if (src / name).exists():
                    yield f'{path}:{line}: <{name}> is ours; write it in quotes'
                continue
            target = name.split("/")[0]
            if not (src / name).exists():
                yield f'{path}:{line}: "{name}" is no path from src/'
            elif target != folder and target not in allowed:
                yield f"{path}:{line}: {folder} may not include {name}"


def check_simd(src):
    for unit in sorted(src.rglob("*_simd.cc")):
        seen, todo = set(), [unit.relative_to(src).as_posix()]
        while todo:
            name = todo.pop()
            if name in seen or not (src / name).exists():
                continue
            seen.add(name)
            for line, is_quoted, target in includes_of(src / name):
                if is_quoted:
                    todo.append(target)
                elif target not in SIMD_SYSTEM and (name, target) not in SIMD_SYSTEM_EXCEPTIONS:
                    yield f"{src / name}:{line}: <{target}> reaches {unit.relative_to(src)}, compiled per instruction set"


def main():
    src = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parent.parent / "src").resolve()
    violations = sorted(set([*check_folders(src), *check_simd(src)]))
    print("\n".join(violations) if violations else f"{src}: every include goes down")
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
