"""tools/check_layers.py on small trees: what it must allow and what it must name."""

import pathlib
import subprocess
import sys
import tempfile
import unittest

TOOL = pathlib.Path(__file__).resolve().parents[2] / "tools" / "check_layers.py"


class CheckLayersTest(unittest.TestCase):
    def check(self, files):
        """Exit status and output for a src/ of {path: text}."""
        with tempfile.TemporaryDirectory() as folder:
            src = pathlib.Path(folder) / "src"
            for name, text in files.items():
                path = src / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text)
            run = subprocess.run([sys.executable, "-B", TOOL, src], capture_output=True, text=True, check=False)
            return run.returncode, run.stdout

    def allowed(self, files):
        status, output = self.check(files)
        self.assertEqual(status, 0, output)

    def refused(self, files, sentence):
        status, output = self.check(files)
        self.assertEqual(status, 1, output)
        self.assertIn(sentence, output)

    def test_down_and_sideways_in_a_folder(self):
        self.allowed({"base/a.h": "#include <vector>\n", "cache/b.h": '#include "base/a.h"\n', "cache/c.h": '#include "cache/b.h"\n',
                      "cli/d.cc": '#include "cache/c.h"\n', "engine/e.h": '#include "base/a.h"\n',
                      "front.h": '#include "engine/e.h"\n'})

    def test_up(self):
        self.refused({"cache/a.h": '#include "methods/b.h"\n', "methods/b.h": ""}, "a.h:1: cache may not include methods/b.h")

    def test_siblings(self):
        for one, other in [("model", "methods"), ("methods", "model"), ("eval", "server"), ("io", "text"), ("io", "tensor")]:
            self.refused({f"{one}/a.h": f'\n#include "{other}/b.h"\n', f"{other}/b.h": ""},
                         f"a.h:2: {one} may not include {other}/b.h")

    def test_front(self):
        self.refused({"front.h": '#include "cli/a.h"\n', "cli/a.h": ""}, "src may not include cli/a.h")

    def test_unknown_folder_missing_file_and_brackets(self):
        self.refused({"misc/a.h": ""}, "folder misc has no place")
        self.refused({"base/a.h": '#include "a.h"\n'}, '"a.h" is no path from src/')
        self.refused({"base/a.h": "", "cache/b.h": "#include <base/a.h>\n"}, "<base/a.h> is ours")

    def test_simd_units(self):
        kernels = {"ops/x/k.h": "#include <cstddef>\n", "ops/x/k_simd.cc": '#include <immintrin.h>\n#include "ops/x/k.h"\n'}
        self.allowed(kernels)
        self.allowed({**kernels, "ops/x/k_ref.cc": "#include <vector>\n"})
        self.refused({**kernels, "ops/x/k_simd.cc": "#include <vector>\n"}, "<vector> reaches ops/x/k_simd.cc")
        self.refused({**kernels, "ops/x/k.h": "#  include <algorithm>\n"}, "k.h:1: <algorithm> reaches ops/x/k_simd.cc")


if __name__ == "__main__":
    unittest.main()
