"""Known layers, each bound to the rows of k clients: a forward pass, and a backward pass that adds the gradient to its target."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

_SMALL = 4096  # for fewer weights, a product and then an addition are faster than one fused product into a strided target


Views = dict[str, Tensor]


class Target:
    """Where gradients are added: `into = beta * into + gradient`. first: the first layer computes no gradient by its input."""

    def __init__(self, into: Views, beta: float, first: bool) -> None:
        self.into, self.beta, self.first = into, beta, first

    def add(self, into: Tensor, gradient: Tensor) -> None:
        """`into = beta * into + gradient`."""
        torch.add(gradient, into, alpha=self.beta, out=into)


class Layer:
    """One layer bound to rows of parameters. Activations are `[k, rows, ...]`, images with their channels last."""

    def narrow(self, k: int) -> None:
        """From now on activations belong to the first k of the bound rows only."""

    def forward(self, x: Tensor) -> Tensor:
        """The layer's activations for the input `x`, which is kept for `backward`."""
        raise NotImplementedError

    def backward(self, delta: Tensor) -> Tensor:
        """Adds the parameters' gradients to their target; returns the gradient by the input if it is needed."""
        raise NotImplementedError


def product(a: Tensor, b: Tensor, out: Tensor, plus: Tensor | None = None) -> Tensor:
    """`a [k, m, i] @ b [k, i, n]` into `out`, plus `plus [k, 1, n]`.

    One column (n = 1) is multiplied and summed without the library: its product for one client alone can differ in its last
    bits from its product for several clients. On AVX-512 processors the same is true of one row (m = 1) and one input (i = 1):
    there a single client is computed as two.
    """
    if out.shape[2] == 1:
        torch.sum(a * b.transpose(1, 2), 2, keepdim=True, out=out)
        return out if plus is None else out.add_(plus)
    if len(a) == 1 and 1 in a.shape[1:]:
        a, b = _twice(a), _twice(b)
        both = torch.bmm(a, b) if plus is None else torch.baddbmm(plus.repeat(2, 1, 1), a, b)
        return out.copy_(both[:1])
    return torch.bmm(a, b, out=out) if plus is None else torch.baddbmm(plus, a, b, out=out)


def _twice(one: Tensor) -> Tensor:
    """`[1, m, n]` as `[2, m, n]` with the same strides: the library chooses its code by them."""
    two = torch.empty_strided((2, *one.shape[1:]), (one[0].numel(), *one.stride()[1:]), dtype=one.dtype)
    return two.copy_(one)


class LinearLayer(Layer):
    """One product per client, in one batched call."""

    def __init__(self, name: str, theta: Views, target: Target | None) -> None:
        weight, bias = theta[name + "weight"], theta.get(name + "bias")
        self.whole = weight, weight.transpose(1, 2), None if bias is None else bias[:, None]
        self.target = target
        if target is not None:
            self.targets = target.into[name + "weight"], target.into.get(name + "bias")
            self.small = weight[0].numel() < _SMALL or 1 in weight.shape[1:]
        self.z, self.dx = weight.new_empty(0), weight.new_empty(0)
        self.narrow(len(weight))

    def narrow(self, k: int) -> None:
        """The parameters of the first k rows."""
        weight, transposed, bias = self.whole
        self.w, self.wt, self.bias = weight[:k], transposed[:k], None if bias is None else bias[:k]
        if self.target is not None:
            weight, bias = self.targets
            self.into, self.into_bias = weight[:k], None if bias is None else bias[:k]

    def forward(self, x: Tensor) -> Tensor:
        """`x W^T + b`."""
        self.x = x
        z = self.z.resize_(x.shape[0], x.shape[1], self.w.shape[1])
        return product(x, self.wt, z, self.bias)

    def backward(self, delta: Tensor) -> Tensor:
        """The gradient by x comes first, because the gradient by W may be written over W."""
        target, dt = self.target, delta.transpose(1, 2)
        assert target is not None
        dx = delta if target.first else product(delta, self.w, self.dx.resize_(self.x.shape))
        if self.small:
            target.add(self.into, product(dt, self.x, self.x.new_empty(self.into.shape)))
        else:
            self.into.baddbmm_(dt, self.x, beta=target.beta)
        if self.into_bias is not None:
            target.add(self.into_bias, delta.sum(1))
        return dx


class ReLULayer(Layer):
    """The rectifier. `fresh`: nothing else reads the input, so it may be overwritten."""

    def __init__(self, fresh: bool, *_: Any) -> None:
        self.fresh = fresh

    def forward(self, x: Tensor) -> Tensor:
        """`max(x, 0)`."""
        self.y = x.relu_() if self.fresh else x.relu()
        return self.y

    def backward(self, delta: Tensor) -> Tensor:
        """In place: 0 where the output is 0."""
        torch.ops.aten.threshold_backward.grad_input(delta, self.y, 0, grad_input=delta)
        return delta


class TanhLayer(Layer):
    """The hyperbolic tangent. `fresh`: nothing else reads the input, so it may be overwritten."""

    def __init__(self, fresh: bool, *_: Any) -> None:
        self.fresh = fresh

    def forward(self, x: Tensor) -> Tensor:
        """`tanh(x)`."""
        self.y = x.tanh_() if self.fresh else x.tanh()
        return self.y

    def backward(self, delta: Tensor) -> Tensor:
        """In place: times `1 - y^2`."""
        torch.ops.aten.tanh_backward.grad_input(delta, self.y, grad_input=delta)
        return delta


class FlattenLayer(Layer):
    """Flattens activations in torch's order: channels, height, width. `images`: the input has its channels last."""

    def __init__(self, images: bool, *_: Any) -> None:
        self.images = images

    def forward(self, x: Tensor) -> Tensor:
        """Each row with one dimension."""
        self.shape = x.shape
        return (x.permute(0, 1, 4, 2, 3) if self.images else x).reshape(x.shape[0], x.shape[1], -1)

    def backward(self, delta: Tensor) -> Tensor:
        """The gradient with the shape of the input."""
        if not self.images:
            return delta.view(self.shape)
        k, rows, height, width, channels = self.shape
        return delta.view(k, rows, channels, height, width).permute(0, 1, 3, 4, 2).contiguous()


class ImageLayer(Layer):
    """Turns images from torch's order to channels last. `shape`: the shape that Unflatten gives to dimension 1."""

    def __init__(self, shape: tuple[int, ...] | None, *_: Any) -> None:
        self.shape = shape

    def forward(self, x: Tensor) -> Tensor:
        """Images with their channels last."""
        self.before = x.shape
        if self.shape is not None:
            x = x.reshape(x.shape[0], x.shape[1], *self.shape, *x.shape[3:])
        return x.permute(0, 1, 3, 4, 2).contiguous()

    def backward(self, delta: Tensor) -> Tensor:
        """The gradient with the shape of the input."""
        return delta.permute(0, 1, 4, 2, 3).reshape(self.before)


def _image(x: Tensor) -> Tensor:
    """`[n, height, width, channels]` as torch's channels-last image. Strides are explicit: for one channel torch could not infer them."""
    n, height, width, channels = x.shape
    return x.as_strided((n, channels, height, width), (height * width * channels, 1, width * channels, channels))


def _last(image: Tensor) -> Tensor:
    return image.permute(0, 2, 3, 1).contiguous()


def _stacked(parts: Sequence[Tensor]) -> Tensor:
    return parts[0][None] if len(parts) == 1 else torch.stack(list(parts))


class ConvLayer(Layer):
    """One call of the library's convolution per client."""

    def __init__(self, name: str, module: nn.Conv2d, padding: list[int], theta: Views, target: Target | None) -> None:
        self.w, self.bias = theta[name + "weight"], theta.get(name + "bias")
        self.geometry = (list(module.stride), padding, list(module.dilation), False, [0, 0], module.groups)
        self.target = target
        if target is not None:
            self.into, self.into_bias = target.into[name + "weight"], target.into.get(name + "bias")

    def forward(self, x: Tensor) -> Tensor:
        """Each client's convolution."""
        self.x = x
        biases = [None] * len(x) if self.bias is None else self.bias.unbind()
        convolution = torch.ops.aten.convolution
        return _stacked([
            _last(convolution(_image(x[i]), _image(self.w[i]), biases[i], *self.geometry)) for i in range(len(x))
        ])  # fmt: skip

    def backward(self, delta: Tensor) -> Tensor:
        """The gradient by x comes first, because the gradient by W may be written over W."""
        target, below = self.target, []
        assert target is not None
        sizes = None if self.into_bias is None else [self.into_bias.shape[1]]
        wanted = (not target.first, True, self.into_bias is not None)
        for i in range(len(delta)):
            dx, dw, db = torch.ops.aten.convolution_backward(
                _image(delta[i]), _image(self.x[i]), _image(self.w[i]), sizes, *self.geometry, wanted
            )
            target.add(self.into[i], _last(dw))
            if self.into_bias is not None:
                target.add(self.into_bias[i], db)
            if not target.first:
                below.append(_last(dx))
        return _stacked(below) if below else delta


class MaxPoolLayer(Layer):
    """The images of all clients as one batch: the layer selects values and computes none, so the batch changes no bits."""

    def __init__(self, module: nn.MaxPool2d, *_: Any) -> None:
        def pair(value: Any) -> list[int]:
            return [value, value] if isinstance(value, int) else list(value)

        stride = module.stride if module.stride is not None else module.kernel_size
        self.geometry = (pair(module.kernel_size), pair(stride), pair(module.padding), pair(module.dilation), module.ceil_mode)

    def forward(self, x: Tensor) -> Tensor:
        """The largest value of each window; keeps its place for `backward`."""
        self.x = x
        y, self.indices = torch.ops.aten.max_pool2d_with_indices(_image(x.flatten(0, 1)), *self.geometry)
        y = _last(y)
        return y.view(*x.shape[:2], *y.shape[1:])

    def backward(self, delta: Tensor) -> Tensor:
        """The gradient, at the places of the largest values."""
        flat = torch.ops.aten.max_pool2d_with_indices_backward(
            _image(delta.flatten(0, 1)), _image(self.x.flatten(0, 1)), *self.geometry, self.indices
        )
        return _last(flat).view(self.x.shape)


def padding_of(module: nn.Conv2d) -> list[int] | None:
    """Rows and columns of zeros on each side; None if the padding is not zeros or not the same on both sides."""
    if module.padding_mode != "zeros":
        return None
    if module.padding == "valid":
        return [0, 0]
    if module.padding == "same":
        total = [d * (k - 1) for d, k in zip(module.dilation, module.kernel_size, strict=True)]
        return None if any(t % 2 for t in total) else [t // 2 for t in total]
    return [int(p) for p in module.padding]
