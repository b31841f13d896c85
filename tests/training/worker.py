"""What every process of test_distributed.py runs: several runs, one after the other, in a world.

The folder given holds `jobs.json`: of each run the name (its config's too), whether it resumes and
where it stops; or only a number of steps, after which every process leaves the SAEs it holds.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from safetensors.torch import save_file

from saesteer.config import TrainSAEConfig, load_config
from saesteer.models import load_model
from saesteer.training import StopRequest, World, join_world, train_sae
from saesteer.training.sae import open_trainer


def train(folder: Path, name: str, model, world: World, *, resume=False, stop_at=None) -> None:
    """A run, which the leading process alone may ask to stop."""
    config, stop = load_config(TrainSAEConfig, folder / f"{name}.yaml"), StopRequest()

    def watch(step, _steps, _figures):
        if step == stop_at:
            stop.signal = 15

    train_sae(
        config, folder / name, resume=resume, model=model, stop=stop, progress=watch, world=world
    )


def step(folder: Path, name: str, model, world: World, n_steps: int) -> None:
    """Some steps, then the state of every SAE that lives here."""
    trainer = open_trainer(load_config(TrainSAEConfig, folder / f"{name}.yaml"), model, world)
    for _ in range(n_steps):
        trainer.step()
    for sae, learner in trainer.learners.items():
        path = folder / f"{name}-{sae}-{world.rank}.safetensors"
        save_file({k: v.contiguous() for k, v in learner.state().items()}, path)


def main() -> None:
    """Run the jobs in turn."""
    folder = Path(sys.argv[1])
    with join_world("cpu") as world:
        model = load_model(str(folder / "model"), device="cpu", dtype="float32")
        for job in json.loads((folder / "jobs.json").read_text()):
            (step if "n_steps" in job else train)(folder, model=model, world=world, **job)
    threads = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    assert not any("gloo" in name for name in threads), f"threads of the world remain: {threads}"


if __name__ == "__main__":
    main()
