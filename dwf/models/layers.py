"""Convolutions as our nets use them; one with its batch-norm is one module, because the attack copy folds the two into one."""

from torch import Tensor, nn


class Pointwise(nn.Conv2d):
    """Bias-free 1x1 convolution of every `stride`-th pixel: (B, in, H, W) -> (B, out, H/stride, W/stride).

    Pixels are dropped before the product, not by the convolution's own stride: on processors that is faster, and oneDNN 3.13
    writes beyond its memory in the weight gradient of a strided one with four input channels, two threads and an odd batch.
    """

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__(inputs, outputs, 1, bias=False)
        self.every = stride

    def forward(self, x: Tensor) -> Tensor:
        """Drop pixels and multiply."""
        return super().forward(x[:, :, :: self.every, :: self.every] if self.every > 1 else x)


class ConvNorm(nn.Module):
    """Bias-free k x k convolution, then batch-norm: (B, in, H, W) -> (B, out, H/stride, W/stride).

    PyTorch's own initialisation: its smaller weights are a larger effective rate under batch-norm, and short adversarial training
    learned more with it than with Kaiming's fan-out (docs/paper-to-code.md).
    """

    def __init__(self, inputs: int, outputs: int, *, kernel: int = 3, stride: int = 1) -> None:
        super().__init__()
        if kernel == 1:
            self.conv: nn.Conv2d = Pointwise(inputs, outputs, stride)
        else:
            self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve and normalise."""
        out: Tensor = self.norm(self.conv(x))
        return out
