"""How much the page's main thread works, in CPU time, beside fixed work of the same thread.

A loaded machine changes CPU time less than the clock, and a slow one all the same: the limits are those of a machine on
which `REFERENCE` takes `REFERENCE_SECONDS`, and in proportion on a slower one.
"""

import json

import pytest
from dashboard.records import BIG, Plan, write_run

STEPS = 40

SHOWN = """async ([key, steps]) => {
    const frame = () => new Promise((then) => requestAnimationFrame(then));
    for (let step = 0; step < steps; step++) {
        document.body.dispatchEvent(new KeyboardEvent('keydown', { key, bubbles: true, cancelable: true }));
        await frame();
        await frame();
    }
}"""
"""Goes so many steps, each of which is drawn."""

ARRIVED = """async ([key, steps]) => {
    const pause = () => new Promise((then) => setTimeout(then, 40));
    const isBusy = () => document.querySelector('.sheet').getAttribute('aria-busy') === 'true';
    for (let step = 0; step < steps; step++) {
        document.body.dispatchEvent(new KeyboardEvent('keydown', { key, bubbles: true, cancelable: true }));
        do await pause(); while (isBusy());
    }
}"""
"""Goes so many steps, and waits for the maps of each."""

REFERENCE = """() => {
    const [from, to] = [new Uint8Array(2 ** 16), new Int32Array(2 ** 16)];
    for (let turn = 0; turn < 300; turn++) {
        for (let place = 1; place < to.length; place++) {
            to[place] = (Math.imul(3 + turn, from[place] + to[place - 1]) + 5) >> 2;
        }
    }
    return to[7];
}"""
REFERENCE_SECONDS = 0.032
SLACK = 1.5
"""Steps draw, and what arrives is much memory: of these a processor may be slower than of `REFERENCE`'s arithmetic."""


class Thread:
    """The CPU time of the page's main thread."""

    def __init__(self, page):
        self._session = page.context.new_cdp_session(page)
        self._session.send("Performance.enable", {"timeDomain": "threadTicks"})

    def seconds(self):
        metrics = {entry["name"]: entry["value"] for entry in self._session.send("Performance.getMetrics")["metrics"]}
        return metrics["TaskDuration"]

    def slowness(self, tab):
        """How many times slower this thread is now than where the limits were set; 1 where it is faster."""
        times = []
        for _ in range(5):
            before = self.seconds()
            tab.frame.evaluate(REFERENCE)
            times.append(self.seconds() - before)
        return max(1, min(times) / REFERENCE_SECONDS)


def seconds_a_step(tab, steps=STEPS):
    """The least of several stretches of steps, each shown: what others do on the machine only adds to it."""
    thread = Thread(tab.page)
    stretches = []
    for stretch in range(4):
        key = "ArrowLeft" if stretch % 2 == 0 else "ArrowRight"
        before = thread.seconds()
        tab.frame.evaluate(SHOWN, [key, steps])
        stretches.append((thread.seconds() - before) / steps)
    return min(stretches)


@pytest.fixture(scope="module")
def big(tmp_path_factory, tensorboards):
    """A TensorBoard of a run of 200 epochs, 64 samples and 3 methods, and of one with fine maps."""
    folder = tmp_path_factory.mktemp("big")
    write_run(folder / "big", BIG)
    write_run(folder / "fine", Plan(epochs=12, samples=40, methods={"saliency": (224, 224)}, sizes=((224, 224),)))
    return tensorboards("--logdir", str(folder))


def test_a_step_of_64_coarse_maps(big, open_frame):
    options = {"width": 1700, "height": 1100}
    tab = open_frame(big, run="big", methods="grad_cam", cell=64, curves="false", options=options).until_drawn()
    assert tab.find(".cell[data-method=grad_cam]").count() == 64
    seconds = seconds_a_step(tab)
    print(f"64 maps of 7×7: {1000 * seconds:.1f} ms a step")
    assert seconds <= 0.008 * SLACK * Thread(tab.page).slowness(tab)


def test_a_step_of_40_fine_maps(big, open_frame):
    options = {"width": 1700, "height": 1300}
    tab = open_frame(big, run="fine", methods="saliency", cell=112, curves="false", options=options).until_drawn()
    print(tab.find(".cell[data-method=saliency]").count(), "cells")
    thread = Thread(tab.page)
    before = thread.seconds()
    tab.frame.evaluate(ARRIVED, ["ArrowLeft", 12])
    new = (thread.seconds() - before) / 12
    tab.page.keyboard.press("End")
    tab.until_drawn()
    seconds = seconds_a_step(tab, 10)
    print(f"40 maps of 224×224: {1000 * new:.1f} ms a step, {1000 * seconds:.1f} ms where they were shown before")
    assert max(new, seconds) <= 0.017 * SLACK * thread.slowness(tab)


def test_the_first_picture_of_a_long_run(big, open_page):
    tab = open_page(f"{big.address}data/plugin/saliency/style.css")  # a page of the same thread
    thread = Thread(tab.page)
    before = thread.seconds()
    tab.page.goto(big.frame(run="big"))
    tab.until_drawn("epoch 199")
    seconds = thread.seconds() - before
    print(f"first picture: {1000 * seconds:.0f} ms")
    assert seconds <= thread.slowness(tab)


def test_the_server_keeps_a_bounded_part_of_what_is_scrubbed(big):
    """Answers are read of the record when they are asked for, not kept."""

    def megabytes():
        with open(f"/proc/{big.pid}/status") as file:
            return next(int(line.split()[1]) / 1024 for line in file if line.startswith("VmRSS"))

    keys = [look["key"] for look in json.loads(big.get("about?id=fine"))["looks"]]
    sizes = []
    for _ in range(4):
        for key in keys:
            big.get(f"maps?id=fine&method=saliency&looks={key}")
        sizes.append(megabytes())
    assert sizes[-1] < 350
    assert sizes[-1] - sizes[0] < 32
