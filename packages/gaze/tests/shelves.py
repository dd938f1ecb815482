"""Small scenes and paths for the tests."""

import numpy as np

from gaze.cohort.study import Trial
from gaze.scanpaths.scanpath import Scanpath
from gaze.scenes.grids import equal_grid
from gaze.scenes.scene import Layout, Scene

ROWS, COLUMNS = 3, 4


def grid_scene(rows=ROWS, columns=COLUMNS, name="shelf"):
    grid = equal_grid(rows, columns, (100 * columns, 100 * rows))
    names = [str(number) for number in range(rows * columns)]
    return Scene(name, (100 * columns, 100 * rows), names, grid.boxes(), Layout.of_grid(grid))


def trial_of(objects, scene, name="trial", subject="s1", target=None):
    x, y = scene.centres[list(objects)].T
    unknown = np.full(len(x), np.nan)
    return Trial(name, scene.name, subject, list(objects), target, Scanpath(x, y, unknown, unknown))


def walks(scene, count, seed=0):
    """Paths that mostly go to a neighbour, and now and then stay."""
    rng = np.random.default_rng(seed)
    trials = []
    for number in range(count):
        path = [int(rng.integers(len(scene)))]
        for _ in range(rng.integers(1, 9)):
            distance = np.linalg.norm(scene.places - scene.places[path[-1]], axis=1)
            weights = np.where(distance == 0, 0.5, np.exp(-2 * distance))
            path.append(int(rng.choice(len(scene), p=weights / weights.sum())))
        trials.append(trial_of(path, scene, str(number)))
    return trials
