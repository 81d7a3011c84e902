"""Class images of a trained network of torchvision as a PNG, and how many photographs it takes for another class.

python tests/benchmarks/gradient_ascent.py squeezenet1_0 weights.pth --labels photographs.json --classes 251 99

The photographs are those of a JSON list of `{"file": path beside the list, "label": class}`.
"""

import argparse
import json
import random
import time
from pathlib import Path

import torch
from PIL import Image
from torchvision.models import get_model
from torchvision.transforms.functional import center_crop, resize, to_tensor
from torchvision.utils import make_grid, save_image

from lightning_saliency import class_model_image, fooling_image

MEAN, STD = (torch.tensor(numbers)[:, None, None] for numbers in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
BOUNDS = (-MEAN / STD, (1 - MEAN) / STD)
SIZE = 224


def load_network(name, weights):
    network = get_model(name)
    network.load_state_dict({key: value.float() for key, value in torch.load(weights).items()})
    return network.eval()


def load_photographs(entries, folder):
    images = [resize(Image.open(folder / entry["file"]).convert("RGB"), SIZE) for entry in entries]
    return torch.stack([(to_tensor(center_crop(image, [SIZE, SIZE])) - MEAN) / STD for image in images])


def show_classes(network, classes, output):
    start = time.perf_counter()
    result = class_model_image(network, classes, (3, SIZE, SIZE), bounds=BOUNDS)
    save_image(make_grid(result.images * STD + MEAN, nrow=6), output)
    ranks = (network(result.images) >= result.scores[:, None]).sum(1).tolist()
    print(f"{output}: {(time.perf_counter() - start) / len(classes):.1f} seconds an image")
    print("scores", [round(score, 1) for score in result.scores.tolist()], "ranks of the class", ranks)


def fool(network, labels, count, chunk=10):
    entries = json.loads(labels.read_text())
    generator = random.Random(0)
    entries = generator.sample(entries, min(count, len(entries)))
    results = []
    for first in range(0, len(entries), chunk):
        rows = entries[first : first + chunk]
        targets = [generator.choice([other for other in range(1000) if other != row["label"]]) for row in rows]
        results.append(fooling_image(network, load_photographs(rows, labels.parent), targets, bounds=BOUNDS))
    fooled = torch.cat([result.fooled for result in results])
    changes = torch.cat([result.changes for result in results])[fooled] * STD
    for name, norms in (("L2, black to white 1", changes.flatten(1).norm(dim=1)),
                        ("L∞ in 255ths", changes.flatten(1).abs().amax(1) * 255)):  # fmt: skip
        print(f"{name}: median {norms.median():.2f}, largest {norms.max():.2f}")
    steps = torch.cat([result.steps for result in results])
    print(f"fooled {int(fooled.sum())} of {len(fooled)}; steps: median {int(steps.median())}, most {int(steps.max())}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("network", help="the name of a network of torchvision")
    parser.add_argument("weights", type=Path, help="the file of its state dict")
    parser.add_argument("--classes", type=int, nargs="+", default=[251, 99, 340, 130, 145, 948])
    parser.add_argument("--output", type=Path, default=Path("class_images.png"))
    parser.add_argument("--labels", type=Path, help="the JSON list of photographs")
    parser.add_argument("--count", type=int, default=100, help="the number of photographs")
    options = parser.parse_args()
    model = load_network(options.network, options.weights)
    show_classes(model, options.classes, options.output)
    if options.labels:
        fool(model, options.labels, options.count)
