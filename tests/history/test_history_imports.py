"""Reading and writing records needs no torch."""

import subprocess
import sys
from pathlib import Path

import lightning_saliency

SCRIPT = """
import sys, types
import numpy as np
package = types.ModuleType("lightning_saliency")  # without what the package itself imports
package.__path__ = [sys.argv[1]]
sys.modules["lightning_saliency"] = package
from lightning_saliency.history import RecordedLook, RecordedSamples, RecordWriter, load_record
writer = RecordWriter(sys.argv[2], RecordedSamples((0,), (np.zeros((3, 4, 4), np.uint8),), (None,)))
writer.write(RecordedLook(
    epoch=None, step=0, positions=(0,), predictions=(1,), probabilities=(0.5,), classes=(None,),
    attributions={"cam": (np.eye(2),)}, reasons={"cam": (None,)}, logits=np.zeros((1, 2)),
))
assert load_record(sys.argv[2])[0].attributions["cam"][0].tolist() == [[1, 0], [0, 1]]
heavy = {"torch", "lightning", "pytorch_lightning", "matplotlib", "PIL", "tensorboard", "scipy", "fsspec"}
print(sorted(heavy & set(sys.modules)))
"""


def test_a_record_is_written_and_read_without_torch(tmp_path):
    package = Path(lightning_saliency.__file__).parent
    process = subprocess.run(
        [sys.executable, "-c", SCRIPT, package, tmp_path], capture_output=True, text=True, check=True
    )
    assert process.stdout.strip() == "[]"
