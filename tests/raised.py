"""Networks in one dimension more: what they compute of inputs of size 1 along it is what they computed before."""

import copy

from torch import nn

_CONVOLUTIONS = {nn.Conv1d: nn.Conv2d, nn.Conv2d: nn.Conv3d}
_OTHERS = {
    nn.BatchNorm1d: nn.BatchNorm2d,
    nn.BatchNorm2d: nn.BatchNorm3d,
    nn.AdaptiveAvgPool1d: nn.AdaptiveAvgPool2d,
    nn.AdaptiveAvgPool2d: nn.AdaptiveAvgPool3d,
}
_MAX_POOLS = {nn.MaxPool1d: nn.MaxPool2d, nn.MaxPool2d: nn.MaxPool3d}


def _tuple(value, count):
    return value if isinstance(value, tuple) else (value,) * count


def _raised(module):
    """A module for one axis more, in front of the others."""
    if type(module) in _CONVOLUTIONS:
        bias = module.bias is not None
        sizes = {name: (1, *getattr(module, name)) for name in ("kernel_size", "stride", "dilation")}
        made = _CONVOLUTIONS[type(module)](
            module.in_channels, module.out_channels, padding=(0, *module.padding), bias=bias, **sizes
        )
        state = {name: value.unsqueeze(2) if name == "weight" else value for name, value in module.state_dict().items()}
        made.to(module.weight).load_state_dict(state)
        return made
    if type(module) in _MAX_POOLS:
        count = 1 if isinstance(module, nn.MaxPool1d) else 2
        kernel, stride = _tuple(module.kernel_size, count), _tuple(module.stride, count)
        return _MAX_POOLS[type(module)]((1, *kernel), (1, *stride))
    if type(module) in _OTHERS:
        has_state = hasattr(module, "running_mean")
        made = _OTHERS[type(module)](module.num_features if has_state else module.output_size)
        if has_state:
            made.to(module.weight).load_state_dict(module.state_dict())
        return made
    return module


def raised(net):
    """A copy of a network for inputs with one spatial axis more, the first, of size 1."""
    net = copy.deepcopy(net)
    for name, module in list(net.named_modules()):
        if name:
            net.set_submodule(name, _raised(module).train(module.training))
    return net
