"""Simulators as people have them, without Gymnasium: NumPy alone, so that any Python can run them."""

from __future__ import annotations

import os
import sys
import time

import numpy as np


class Space:
    """What Gymnasium's Box has."""

    def __init__(self, low, high):
        self.low, self.high = np.asarray(low, np.float32), np.asarray(high, np.float32)
        self.shape, self.dtype = self.low.shape, self.low.dtype


class Named:
    """What Gymnasium's Dict has."""

    def __init__(self, **spaces):
        self.spaces = spaces


class Point:
    """A point in a plane with one force on it; it writes where the protocol must not be.

    Its steps are of Gymnasium, and info has the cost as "speeding".
    """

    observation_space = Space([-np.inf] * 2, [np.inf] * 2)
    action_space = Space([-2], [2])

    def reset(self, seed=None):
        """Start near the middle, at rest."""
        print("reset")
        os.write(1, b"a line of a library's\n")
        self.state = np.array([np.random.RandomState(seed).uniform(-0.5, 0.5), 0.0])
        return self.seen(), {}

    def seen(self):
        """Return what is observed."""
        return self.state.copy()

    def move(self, action):
        """Advance by a tenth of a second; returns the cost."""
        print("step")
        velocity = 0.9 * self.state[1] + 0.1 * float(action[0])
        self.state = np.array([self.state[0] + 0.1 * velocity, velocity])
        return float(velocity > 0.1)

    def step(self, action):
        """Advance."""
        cost = self.move(action)
        return self.seen(), float(self.state[1]), False, False, {"speeding": cost}


class Six(Point):
    """The six values of Safety-Gymnasium."""

    def step(self, action):
        """Advance."""
        cost = self.move(action)
        return self.seen(), float(self.state[1]), cost, False, False, {}


class Free(Six):
    """Actions without limits."""

    action_space = Space([-np.inf], [np.inf])


class Parts(Six):
    """An observation in parts, one of which the policy does not see."""

    observation_space = Named(
        place=Space([[-3.0]], [[3.0]]), speed=Space([-2.0], [2.0]), time=Space([0.0], [1.0])
    )

    def seen(self):
        """Return what is observed."""
        return {"place": self.state[:1].reshape(1, 1), "speed": self.state[1:], "time": np.zeros(1)}


class Seen(Six):
    """A point that can be filmed: the picture gets brighter to the right."""

    def __init__(self, render_mode=None):
        self.render_mode = render_mode

    def render(self):
        """Return a picture."""
        shade = int(np.clip(128 + 100 * self.state[0], 0, 255))
        return np.full((30, 60, 3), shade, np.uint8) if self.render_mode == "rgb_array" else None


class Hangs(Six):
    """It never stands."""

    def __init__(self):
        time.sleep(60)


class Crashes(Six):
    """It ends its process when it is made."""

    def __init__(self):
        os._exit(7)


class Fails(Six):
    """It fails after a while."""

    def move(self, action):
        """Fail."""
        raise RuntimeError("the connection is lost\nin a second line")


class Leaves(Six):
    """It ends its program."""

    def move(self, action):
        """End."""
        sys.exit(0)


class Dies(Six):
    """It crashes as native code does."""

    def move(self, action):
        """Crash."""
        os.abort()


def made(**options):
    """Return a point, made by a function."""
    return Six()
