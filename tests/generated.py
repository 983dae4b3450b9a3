"""Weights and gradients that tests and the makers of golden runs compute alike, so that no file holds
them: sums of four uniform numbers of Python's generator, whose sequence is fixed."""
import array
import math
import random

# What the optimizers of tests/data/optim are run on: more than one chunk of 1024 and one block of
# 256 elements, enough for states of 8 bits, and small ones of each rank.
SHAPES = {"embed.weight": [40, 16], "block.weight": [72, 72], "block.bias": [1500],
          "norm.weight": [24], "head.weight": [9, 16], "scale": []}
ABOUT = {"embed.weight": {"role": "embedding", "width_mult": 4},
         "block.weight": {"role": "matrix", "width_mult": 4, "fan_out_mult": 2},
         "block.bias": {"role": "bias", "width_mult": 2},
         "norm.weight": {"role": "norm", "width_mult": 4},
         "head.weight": {"role": "head", "width_mult": 4}, "scale": {"role": "other"}}
STEPS = 12


def draw(generator, shape, scale):
    """About normal with this standard deviation, rounded to fp32."""
    r = generator.random
    unit = scale * math.sqrt(3)
    return array.array("f", ((r() + r() + r() + r() - 2) * unit for _ in range(math.prod(shape))))


def weights():
    generator = random.Random(3)
    return {name: (shape, draw(generator, shape, 0.2)) for name, shape in SHAPES.items()}


def gradients(step):
    """Of step 0, 1, ..: the same direction in part, and of other size in each tensor."""
    steady, noise = random.Random(4), random.Random(1000 + step)
    result = {}
    for number, (name, shape) in enumerate(SHAPES.items()):
        scale = 10.0 ** -number
        values = zip(draw(steady, shape, scale), draw(noise, shape, scale))
        result[name] = (shape, array.array("f", (a / 2 + b for a, b in values)))
    return result
