"""The part of torch that the renderers of the cookbook use for text, on numpy.

tml-renderers looks for symbols of libtorch when it is imported. They come from the stub library that GOLDEN_STUB names.
"""

import ctypes
import os

import numpy

ctypes.CDLL(os.environ["GOLDEN_STUB"], mode=ctypes.RTLD_GLOBAL)

__version__ = "2.10.0"
int64 = numpy.int64
float32 = numpy.float32


class Tensor(numpy.ndarray):
    pass


class device:
    pass


class dtype:
    pass


def tensor(data, dtype=None):
    return numpy.array(data, dtype=dtype).view(Tensor)


def zeros(length):
    return numpy.zeros(length, dtype=numpy.float32).view(Tensor)


def full(shape, value):
    return numpy.full(shape, value, dtype=numpy.float32).view(Tensor)


def cat(tensors):
    return numpy.concatenate(tensors).view(Tensor)
