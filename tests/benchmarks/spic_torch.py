"""The published unit in PyTorch, as the paper's authors wrote it; for `spic_units.py`."""

import torch


class TorchUnit(torch.nn.Module):
    """The authors' unit, with their names for its layers."""

    def __init__(self, width, channels, stride, step, padding, kernel, decoder_padding):
        super().__init__()
        nn, self.step = torch.nn, step
        self.conv2_2 = nn.Conv2d(width, width, 3, stride, padding, groups=width, bias=False)
        self.bn2_1 = nn.BatchNorm2d(width)
        self.conv2_3 = nn.Conv2d(width, channels, 1, bias=False)
        self.bn3_1 = nn.BatchNorm2d(channels)
        self.conv2_4 = nn.ConvTranspose2d(channels, width, 1, bias=False)
        self.bn4_1 = nn.BatchNorm2d(width)
        self.conv2_5 = nn.ConvTranspose2d(
            width, width, kernel, stride, decoder_padding, groups=width, bias=False
        )
        self.bn5_1 = nn.BatchNorm2d(width)

    def encode(self, x):
        x = torch.relu(self.bn2_1(self.conv2_2(x)))
        return torch.round(torch.relu(self.bn3_1(self.conv2_3(x))) / self.step)

    def decode(self, symbols):
        x = torch.relu(self.bn4_1(self.conv2_4(symbols * self.step)))
        return torch.relu(self.bn5_1(self.conv2_5(x)))


def torch_unit(file, spec, width):
    kernel, padding = spec.decoder_window
    unit = TorchUnit(width, spec.channels, spec.stride, spec.step, spec.padding, kernel, padding)
    weights = torch.load(file, map_location="cpu", weights_only=True)["state_dict"]
    unused = unit.load_state_dict(weights, strict=False)
    assert not unused.missing_keys, unused
    return unit.eval()
