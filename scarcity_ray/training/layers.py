"""Known layers, each bound to the rows of k clients: forward, and backward with the gradient added to its target."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

_SMALL = 4096  # below, a product and an addition beat a product fused into a strided target


Views = dict[str, Tensor]


class Target:
    """Where gradients go, `into = beta * into + gradient`; the first layer need not know its input's gradient."""

    def __init__(self, into: Views, beta: float, first: bool) -> None:
        self.into, self.beta, self.first = into, beta, first

    def add(self, into: Tensor, gradient: Tensor) -> None:
        """`into = beta * into + gradient`."""
        torch.add(gradient, into, alpha=self.beta, out=into)


class Layer:
    """One layer bound to rows of parameters. Activations are `[k, rows, ...]`, images with their channels last."""

    def narrow(self, k: int) -> None:
        """From now on activations are of the first k of the bound rows alone."""

    def forward(self, x: Tensor) -> Tensor:
        """The activations that follow `x`, which is kept for `backward`."""
        raise NotImplementedError

    def backward(self, delta: Tensor) -> Tensor:
        """Adds the parameters' gradients to their target; returns the gradient by the input where it is needed."""
        raise NotImplementedError


def product(a: Tensor, b: Tensor, out: Tensor, plus: Tensor | None = None) -> Tensor:
    """`a [k, m, i] @ b [k, i, n]` into `out`, plus `plus [k, 1, n]`.

    One column (n = 1) is multiplied and summed without the library, which takes another way, of other bits, to a
    column of one client than to those of several. On AVX-512 processors it does so with one row (m = 1) and one input (i = 1)
    too: there a single client is computed as two.
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
    """`[1, m, n]` as `[2, m, n]` in the same order in memory, by which the library chooses its way."""
    two = torch.empty_strided((2, *one.shape[1:]), (one[0].numel(), *one.stride()[1:]), dtype=one.dtype)
    return two.copy_(one)


class LinearLayer(Layer):
    """A product a client, batched."""

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
        """The gradient by x first: W may be its own target."""
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
    """`fresh`: the input is nobody else's and may be overwritten."""

    def __init__(self, fresh: bool, *_: Any) -> None:
        self.fresh = fresh

    def forward(self, x: Tensor) -> Tensor:
        """`max(x, 0)`."""
        self.y = x.relu_() if self.fresh else x.relu()
        return self.y

    def backward(self, delta: Tensor) -> Tensor:
        """In place: 0 where the output is."""
        torch.ops.aten.threshold_backward.grad_input(delta, self.y, 0, grad_input=delta)
        return delta


class TanhLayer(Layer):
    """`fresh`: the input is nobody else's and may be overwritten."""

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
    """Activations in torch's order: channels, height, width. `images`: they come with their channels last."""

    def __init__(self, images: bool, *_: Any) -> None:
        self.images = images

    def forward(self, x: Tensor) -> Tensor:
        """One dimension a row."""
        self.shape = x.shape
        return (x.permute(0, 1, 4, 2, 3) if self.images else x).reshape(x.shape[0], x.shape[1], -1)

    def backward(self, delta: Tensor) -> Tensor:
        """The shape that came in."""
        if not self.images:
            return delta.view(self.shape)
        k, rows, height, width, channels = self.shape
        return delta.view(k, rows, channels, height, width).permute(0, 1, 3, 4, 2).contiguous()


class ImageLayer(Layer):
    """From torch's order to channels last; of one channel there is nothing to move. `shape`: what Unflatten makes of dimension 1."""

    def __init__(self, shape: tuple[int, ...] | None, *_: Any) -> None:
        self.shape = shape

    def forward(self, x: Tensor) -> Tensor:
        """Images with their channels last."""
        self.before = x.shape
        if self.shape is not None:
            x = x.reshape(x.shape[0], x.shape[1], *self.shape, *x.shape[3:])
        return x.permute(0, 1, 3, 4, 2).contiguous()

    def backward(self, delta: Tensor) -> Tensor:
        """The shape that came in."""
        return delta.permute(0, 1, 4, 2, 3).reshape(self.before)


def _image(x: Tensor) -> Tensor:
    """`[n, height, width, channels]` as torch's channels-last image; strides spelled out, or one channel is ambiguous."""
    n, height, width, channels = x.shape
    return x.as_strided((n, channels, height, width), (height * width * channels, 1, width * channels, channels))


def _last(image: Tensor) -> Tensor:
    return image.permute(0, 2, 3, 1).contiguous()


def _stacked(parts: Sequence[Tensor]) -> Tensor:
    return parts[0][None] if len(parts) == 1 else torch.stack(list(parts))


class ConvLayer(Layer):
    """One call of the library's convolution a client."""

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
        """The gradient by x first: W may be its own target."""
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
    """The images of all clients as one batch: values are only picked, not computed."""

    def __init__(self, module: nn.MaxPool2d, *_: Any) -> None:
        def pair(value: Any) -> list[int]:
            return [value, value] if isinstance(value, int) else list(value)

        stride = module.stride if module.stride is not None else module.kernel_size
        self.geometry = (pair(module.kernel_size), pair(stride), pair(module.padding), pair(module.dilation), module.ceil_mode)

    def forward(self, x: Tensor) -> Tensor:
        """The largest of each window, and where it was."""
        self.x = x
        y, self.indices = torch.ops.aten.max_pool2d_with_indices(_image(x.flatten(0, 1)), *self.geometry)
        y = _last(y)
        return y.view(*x.shape[:2], *y.shape[1:])

    def backward(self, delta: Tensor) -> Tensor:
        """To where the largest were."""
        flat = torch.ops.aten.max_pool2d_with_indices_backward(
            _image(delta.flatten(0, 1)), _image(self.x.flatten(0, 1)), *self.geometry, self.indices
        )
        return _last(flat).view(self.x.shape)


def padding_of(module: nn.Conv2d) -> list[int] | None:
    """Rows and columns of zeros on each side; None where they are not zeros or not the same on both."""
    if module.padding_mode != "zeros":
        return None
    if module.padding == "valid":
        return [0, 0]
    if module.padding == "same":
        total = [d * (k - 1) for d, k in zip(module.dilation, module.kernel_size, strict=True)]
        return None if any(t % 2 for t in total) else [t // 2 for t in total]
    return [int(p) for p in module.padding]
