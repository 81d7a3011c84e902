"""Make the pictures of the README and the documentation, each from a real run, and the outputs of the notebook.

    python examples/make_pictures.py                     # all of them, minutes on two CPU cores
    python examples/make_pictures.py pairs notebook      # some of them
    python examples/make_pictures.py --small --output x  # in seconds, to see that everything works

The images ship with scikit-learn: its handwritten digits and its two photographs. The networks are trained here, from
random weights, and nothing is downloaded. Pictures go to `docs/pictures`, as JPEG files below 300 kB. Those of the tab
need a browser: `pip install lightning-saliency[browser]`, and Chromium.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytorch_lightning as L
import torch
import torch.nn.functional as F
from cluttered_digits import main as run_cluttered_digits
from PIL import Image
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from shortcut import main as run_shortcut
from sklearn.datasets import load_sample_images
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset
from torchvision.ops import Conv2dNormActivation as Conv

from lightning_saliency import GAPHead, SaliencyCallback, load_record
from lightning_saliency.visualization import filmstrip, to_pil

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK = ROOT / "examples/two_digits.ipynb"
LARGEST_FILE = 300_000  # bytes
LARGEST_WIDTH = 1400  # pixels


def pairs(output: Path, *, small: bool) -> None:
    """Run the README's ten lines, and draw the filmstrip of their run."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    block = next(code for code in re.findall(r"```python\n(.*?)```", readme, re.DOTALL) if "load_digits" in code)
    with working_in_temporary_folder():
        exec(fewer_pairs(block) if small else block, {})
        record = load_record("lightning_logs/version_0")
        save(to_pil(filmstrip(record, "grad_cam", positions=range(6))), output / "pairs.jpg")


def digits(output: Path, *, small: bool) -> None:
    """Run the demo on cluttered digits, and draw its filmstrip and its last overview."""
    with working_in_temporary_folder():
        result = run_cluttered_digits(["--small"] if small else [])
        record = load_record(result.log_dir)
        save(to_pil(filmstrip(record, "grad_cam", positions=[0, 2, 5, 9])), output / "filmstrip.jpg")
        save(last_picture(Path(result.log_dir), "saliency/Overview"), output / "overview.jpg")


def photographs(output: Path, *, small: bool) -> None:
    """Train a CNN on crops of two photographs, and let it look at both photographs whole."""
    photos = Photographs()
    with working_in_temporary_folder():
        model = trained_on_crops(photos, small=small)
        methods = ["grad_cam", "grad_cam_plus_plus", "saliency", "guided_backprop"]
        save(overview(model, photos, methods), output / "photographs.jpg")


def two_objects(output: Path, *, small: bool) -> None:
    """Show each class on its own object in one picture (Selvaraju et al. 2017, Figure 1), of the same CNN."""
    photos = Photographs()
    with working_in_temporary_folder():
        model = trained_on_crops(photos, small=small)
        methods = ["guided_backprop", "grad_cam", "guided_grad_cam"]
        save(overview(model, photos.side_by_side(), methods), output / "two_objects.jpg")


def tab(output: Path, *, small: bool) -> None:
    """Take screenshots of the Saliency tab: of the demo, of photographs, of two runs, and in the dark."""
    methods = ["grad_cam", "grad_cam_plus_plus", "saliency", "guided_backprop"]
    photos, options = Photographs(), ["--small"] if small else []
    with working_in_temporary_folder():
        run_cluttered_digits(options)
        run_shortcut(options)
        logger = TensorBoardLogger("logs", name="photographs")
        L.Trainer(max_epochs=2 if small else 8, logger=logger, callbacks=[SaliencyCallback(methods)]).fit(
            PhotographClassifier(),
            DataLoader(Crops(photos, 66 if small else 1998), batch_size=33, shuffle=True),
            DataLoader(photos, batch_size=2),
        )
        with TensorBoardPages("logs") as pages:
            demo = {"run": "cluttered_digits/version_0"}
            good, bad = "shortcut/p=0 with alarm/version_0", "shortcut/p=0.95/version_0"
            pages.save(output / "tab.jpg", demo)
            pages.save(output / "tab_dark.jpg", {**demo, "at": "1", "colors": "viridis"}, dark=True)
            pages.save(output / "tab_large.jpg", {**demo, "large": "3 0 grad_cam"})
            pages.save(output / "tab_photographs.jpg", {"run": "photographs/version_0"})
            pages.save(output / "tab_two_runs.jpg", {"run": bad, "beside": good, "at": "1"})


def notebook(output: Path, *, small: bool) -> None:
    """Run the notebook, and keep its outputs in it; with `small` in a copy in the output folder."""
    import nbformat  # of the tests' requirements
    from nbclient import NotebookClient

    document = nbformat.read(NOTEBOOK, as_version=4)
    if small:
        for cell in document.cells:
            cell.source = fewer_pairs(cell.source)
    with tempfile.TemporaryDirectory() as folder:
        NotebookClient(document, resources={"metadata": {"path": folder}}).execute()
    document.metadata = {"kernelspec": document.metadata["kernelspec"]}  # nothing of this machine
    for cell in document.cells:
        cell.metadata = {}
        if cell.cell_type == "code":
            cell.outputs = [tidied(shown) for shown in cell.outputs if shown.get("name") != "stderr"]
    nbformat.write(document, output / NOTEBOOK.name if small else NOTEBOOK)


PICTURES: dict[str, Callable[..., None]] = {
    "digits": digits,
    "pairs": pairs,
    "photographs": photographs,
    "two_objects": two_objects,
    "tab": tab,
    "notebook": notebook,
}
"""What can be made, by name."""


class Photographs(TensorDataset):
    """Scikit-learn's two sample photographs at half their size, and the class of what each shows."""

    classes = ("pagoda", "dahlia", "background")
    boxes = ((45, 15, 165, 165), (88, 45, 220, 175))  # of pagoda and dahlia: x1, y1, x2, y2

    def __init__(self) -> None:
        pixels = torch.from_numpy(np.stack(load_sample_images().images)).permute(0, 3, 1, 2) / 255
        super().__init__(F.avg_pool2d(pixels, 2), torch.tensor([0, 1]))

    def side_by_side(self) -> Photographs:
        """Return both photographs as one picture, once for each of the classes that it shows."""
        joined = copy(self)
        joined.tensors = (torch.cat([*self.tensors[0]], 2).expand(2, -1, -1, -1), self.tensors[1])
        return joined


class Crops(Dataset[tuple[Tensor, int]]):
    """Square crops of two photographs, from inside an object's box or from outside of it; the index decides which."""

    def __init__(self, photos: Photographs, num_crops: int, side: int = 48) -> None:
        self.photos = photos
        self.num_crops = num_crops
        self.side = side

    def __len__(self) -> int:
        return self.num_crops

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        photo, shows_object = index % 2, index // 2 % 3 > 0
        image, box, side = self.photos[photo][0], self.photos.boxes[photo], self.side
        rng = np.random.default_rng(index)
        while True:
            y, x = (int(rng.integers(length - side + 1)) for length in image.shape[1:])
            is_inside = box[0] <= x <= box[2] - side and box[1] <= y <= box[3] - side
            is_outside = x + side <= box[0] or box[2] <= x or y + side <= box[1] or box[3] <= y
            if is_inside if shows_object else is_outside:
                return image[:, y : y + side, x : x + side], photo if shows_object else 2


class PhotographClassifier(L.LightningModule):
    """A small CNN with global average pooling: pagoda, dahlia or background, of images of any size."""

    def __init__(self) -> None:
        super().__init__()
        features = [Conv(3, 24, 5, 2), Conv(24, 48, stride=2), Conv(48, 48), Conv(48, 96, stride=2), Conv(96, 96)]
        self.net = nn.Sequential(*features, GAPHead(96, num_classes=3))

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits `(N, 3)`."""
        logits: Tensor = self.net(images)
        return logits

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Learn what a crop shows."""
        return F.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Look at the photographs whole."""
        self.log("val_loss", F.cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return Adam."""
        return torch.optim.Adam(self.parameters(), lr=1e-3)


def trained_on_crops(photos: Photographs, *, small: bool) -> PhotographClassifier:
    """Train the CNN on crops of the photographs."""
    model = PhotographClassifier()
    L.Trainer(max_epochs=1 if small else 8, logger=False, enable_checkpointing=False).fit(
        model, DataLoader(Crops(photos, 66 if small else 1998), batch_size=33, shuffle=True)
    )
    return model


def overview(model: PhotographClassifier, photos: Photographs, methods: Sequence[str]) -> Image.Image:
    """Return what a model's validation on whole pictures shows by some methods, of the true class of each."""
    logger = CSVLogger("logs")
    L.Trainer(logger=logger, callbacks=[SaliencyCallback(methods)]).validate(model, DataLoader(photos, batch_size=2))
    return last_picture(Path(logger.log_dir), "saliency/Overview")


class TensorBoardPages:
    """A TensorBoard of a log folder, and a headless Chromium that looks at its Saliency tab.

    Args:
        logdir: The log folder.
    """

    def __init__(self, logdir: str) -> None:
        self.logdir = logdir

    def __enter__(self) -> TensorBoardPages:
        from playwright.sync_api import sync_playwright  # of the extra `browser`

        path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
        if path is None:
            raise RuntimeError("Expected Chromium to be installed, found none. Debian has it: apt-get install chromium")
        command = [
            sys.executable,
            "-m",
            "tensorboard.main",
            "--logdir",
            self.logdir,
            "--host",
            "127.0.0.1",
            "--port",
            "0",
        ]
        self._server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert self._server.stderr is not None
        found = (re.search(r"http://\S+", line) for line in self._server.stderr)
        self._address = next(match for match in found if match)[0]
        self._playwright = sync_playwright().start()
        self._browser = self._playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        return self

    def save(self, path: Path, state: Mapping[str, object], *, dark: bool = False) -> None:
        """Write what is seen of the tab in a state, as its address has it."""
        page = self._browser.new_page(viewport={"width": LARGEST_WIDTH, "height": 860})
        words = "".join(f"&p.saliency.{name}={quote(str(value))}" for name, value in state.items())
        page.goto(f"{self._address}{'?darkMode=true' if dark else ''}#saliency{words}")
        frame = page.frame_locator("iframe[src*='name=saliency'], iframe").first
        frame.locator(".sheet[aria-busy=false]").wait_for()
        page.wait_for_timeout(2000)  # TensorBoard's own bar comes in with an animation
        save(Image.open(BytesIO(page.screenshot())), path)
        page.close()

    def __exit__(self, *error: object) -> None:
        self._browser.close()
        self._playwright.stop()
        self._server.terminate()
        self._server.wait()


def tidied(output: Any) -> Any:
    """Return an output of a notebook's cell with a picture once, as JPEG, which is a fraction of its PNG."""
    if "image/jpeg" in output.get("data", {}):
        output.data.pop("image/png", None)
    return output


def fewer_pairs(code: str) -> str:
    """Return the code of the pairs of digits with as many pairs as a test needs."""
    return code.replace("(1797, (6000, 2))", "(1797, (200, 2))")


def last_picture(log_dir: Path, tag: str) -> Image.Image:
    """Return the newest picture of a tag: a PNG file of the CSV logger, else what is in TensorBoard's event file."""
    files = sorted(log_dir.glob(f"{tag}/**/*.png"))
    if files:
        return Image.open(files[-1])
    events = EventAccumulator(str(log_dir), size_guidance={"images": 0})
    events.Reload()
    return Image.open(BytesIO(events.Images(tag)[-1].encoded_image_string))


def save(picture: Image.Image, path: Path) -> None:
    """Write a JPEG file, no wider than a page and below the largest size, at the best quality that allows it."""
    picture = picture.convert("RGB")
    picture.thumbnail((LARGEST_WIDTH, 10 * LARGEST_WIDTH))
    path.parent.mkdir(parents=True, exist_ok=True)
    for quality in (90, 80, 70, 60, 50):
        picture.save(path, quality=quality, optimize=True)
        if path.stat().st_size < LARGEST_FILE:
            break
    print(f"{path}: {picture.width}×{picture.height}, {path.stat().st_size // 1000} kB")


@contextmanager
def working_in_temporary_folder() -> Iterator[None]:
    """Work in a folder that is removed again, where the run's files go."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            yield
        finally:
            os.chdir(before)


def main(argv: Sequence[str] | None = None) -> None:
    """Make the pictures that the command line names."""
    parser = argparse.ArgumentParser(description="Make the pictures of the README and the documentation.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"out of {', '.join(PICTURES)}; default: all")
    parser.add_argument("--output", type=Path, default=ROOT / "docs/pictures", help="default: docs/pictures")
    parser.add_argument("--small", action="store_true", help="seconds in place of minutes, for a test")
    args = parser.parse_args(argv)
    if unknown := set(args.names) - PICTURES.keys():
        parser.error(f"expected names out of {', '.join(PICTURES)}, got {', '.join(sorted(unknown))}")
    output = args.output.resolve()
    output.mkdir(parents=True, exist_ok=True)
    for name in args.names or PICTURES:
        L.seed_everything(0)
        PICTURES[name](output, small=args.small)


if __name__ == "__main__":
    main()
