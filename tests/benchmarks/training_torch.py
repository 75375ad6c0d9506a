"""PyTorch's side of `training.py`: one rate's training behind a frozen ResNet-50."""

import copy
import functools
import time

import torch
import torchvision
from compressai.entropy_models import EntropyBottleneck
from training import CHANNELS, LEARNING_RATE, LMBDA, SIZE


def torch_network():
    """A ResNet-50 of random weights whose features have the size of a trained one's."""
    return torchvision.models.resnet50().eval().requires_grad_(False)


def make_unit(shape):
    """The unit in PyTorch, in the order of ours: encoder, prior, decoder."""
    nn, (height, _, width) = torch.nn, shape
    small = (height - 1) // 2 + 1
    # The transposed convolution alone would be a pixel short of an even size.
    spare = height - (2 * small - 1)
    encoder = nn.Sequential(
        nn.Conv2d(width, width, 3, 2, 1, groups=width, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, CHANNELS, 1, bias=False),
        nn.BatchNorm2d(CHANNELS),
    )
    decoder = nn.Sequential(
        nn.Conv2d(CHANNELS, width, 1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.ConvTranspose2d(width, width, 3, 2, 1, spare, groups=width, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
    )
    return nn.ModuleList([encoder, EntropyBottleneck(CHANNELS, filters=(3, 3, 3)), decoder])


class Theirs:
    """PyTorch's training of one rate."""

    def __init__(self, network, endpoint):
        stage, block = (int(part[-1]) for part in endpoint.split("."))
        stages = [network.layer1, network.layer2, network.layer3, network.layer4]
        stem = [network.conv1, network.bn1, network.relu, network.maxpool]
        blocks = [b for s in stages[: stage - 1] for b in s] + list(stages[stage - 1][:block])
        after = list(stages[stage - 1][block:]) + [b for s in stages[stage:] for b in s]
        self.head = torch.nn.Sequential(*stem, *blocks)
        self.tail = torch.nn.Sequential(*after, network.avgpool, torch.nn.Flatten(1), network.fc)

    def with_head(self, data):
        images = torch.randn(len(data.features), 3, SIZE, SIZE)
        return self._faster(data, images, recompute=True)

    def cached(self, data):
        features = torch.from_numpy(data.features).permute(0, 3, 1, 2).contiguous()
        return self._faster(data, features, recompute=False)

    def _faster(self, data, x, recompute):
        """The step in the memory layout in which it is the faster."""
        steps = []
        for layout in ("contiguous_format", "channels_last"):
            memory = getattr(torch, layout)
            head, tail = (
                copy.deepcopy(part).to(memory_format=memory) for part in (self.head, self.tail)
            )
            unit = make_unit(data.features.shape[1:]).to(memory_format=memory).train()
            step = self._step(head if recompute else None, tail, unit, data.teacher)
            step = functools.partial(step, x.contiguous(memory_format=memory))
            step.layout = layout
            step()
            start = time.perf_counter()
            step()
            steps.append((time.perf_counter() - start, step))
        chosen = min(steps, key=lambda pair: pair[0])[1]
        chosen.seconds = {step.layout: seconds for seconds, step in steps}
        return chosen

    @staticmethod
    def _step(head, tail, unit, teacher):
        functional, (encoder, prior, decoder) = torch.nn.functional, unit
        # The quantiles have a loss of their own in CompressAI; without it their step is cheaper.
        trained = [p for name, p in unit.named_parameters() if "quantiles" not in name]
        optimizer = torch.optim.Adam(trained, LEARNING_RATE)
        target = torch.from_numpy(teacher).log_softmax(-1)

        def step(x):
            if head is not None:
                with torch.no_grad():
                    x = head(x)
            optimizer.zero_grad(set_to_none=True)
            noisy, likelihoods = prior(encoder(x))
            logits = tail(decoder(noisy)).log_softmax(-1)
            distortion = functional.kl_div(logits, target, reduction="batchmean", log_target=True)
            loss = distortion - LMBDA * likelihoods.log2().sum() / len(x)
            loss.backward()
            optimizer.step()
            return loss.item()

        return step
