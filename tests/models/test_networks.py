"""The networks: their shapes, counts, norms, initial weights, and the folded convolutions."""

import copy
import functools
import importlib
import math
from pathlib import Path
from types import ModuleType

import pytest
import torch
from small_runs import small_run
from torch import Tensor, nn
from torch.nn import functional as F

from fanogan.models.layers import (
    CONVOLUTIONS,
    BatchNorm,
    Conv,
    batch_norm,
    conv_mean_pool,
    layer_norm,
    means,
    upsample_conv,
)
from fanogan.models.losses import encoder_loss, encoder_terms, generator_loss, terms_and_maps
from fanogan.models.networks import (
    Discriminator,
    DownBlock,
    Encoder,
    Generator,
    JointDiscriminator,
    JointEncoder,
    UpBlock,
    channels_of,
    folded,
)
from fanogan.recipes import blocks_of
from fanogan.recipes.recipe import Recipe
from fanogan.training import TensorFlowRMSprop, descend, frozen, update_critic
from fanogan.training.cost import multiply_adds

SIDES = [c * 2**b for b in range(2, 7) for c in (4, 5, 6, 7) if c * 2**b <= 256]
RECTANGLES = [(64, 112), (32, 56), (112, 64), (16, 28), (160, 224), (64, 512), (40, 16)]
SIGNALS = [(1, c * 2**b) for b in range(2, 11) for c in (4, 5, 6, 7) if c * 2**b <= 4096]
VOLUMES = [(16, 16, 16), (16, 28, 20), (32, 40, 56), (16, 64, 64)]


@pytest.fixture(autouse=True)
def same_numbers() -> None:
    torch.manual_seed(0)


def networks(
    sides: tuple[int, ...], channels: int = 1, width: int = 2, latent: int = 3
) -> tuple[Generator, Discriminator, Encoder]:
    return (
        Generator(sides, channels, width, latent),
        Discriminator(sides, channels, width),
        Encoder(sides, channels, width, latent),
    )


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


# --- size ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("channels", "counts"),
    [(1, (8_539_329, 7_490_689, 8_531_200)), (3, (8_540_483, 7_491_841, 8_532_352))],
)
def test_parameter_counts_of_the_paper(channels: int, counts: tuple[int, int, int]) -> None:
    with torch.device("meta"):
        built = networks((64, 64), channels, width=64, latent=128)
    assert tuple(map(parameters, built)) == counts


def test_stages_of_the_paper() -> None:
    with torch.device("meta"):
        G, D, E = networks((64, 64), width=64, latent=128)
    assert G.linear.weight.shape == (8192, 128)
    assert G.base == (512, 4, 4)
    assert [block.conv1.out_channels for block in G.blocks] == [512, 256, 128, 64]
    assert (D.trunk.conv.in_channels, D.trunk.conv.out_channels) == (1, 64)
    assert [block.conv2.out_channels for block in D.trunk.blocks] == [128, 256, 512, 512]
    assert D.features(torch.empty(1, 1, 64, 64, device="meta")).shape == (1, 8192)
    assert D.linear.weight.shape == (1, 8192)
    assert E.linear.weight.shape == (128, 8192)


def test_a_down_block_convolves_at_its_input_width_and_an_up_block_at_its_output_width() -> None:
    down, up = DownBlock(3, 5, layer_norm), UpBlock(5, 3)
    assert down.conv1.weight.shape == (3, 3, 3, 3)
    assert down.conv2.weight.shape == (5, 3, 3, 3)
    assert up.conv1.weight.shape == (3, 5, 3, 3)
    assert up.conv2.weight.shape == (3, 3, 3, 3)
    for block in (down, up):
        assert block.conv1.bias is None
        assert block.conv2.bias is not None
        assert block.shortcut.bias is not None
        assert block.shortcut.kernel_size == (1, 1)


@pytest.mark.parametrize("sides", [(side, side) for side in SIDES] + RECTANGLES + SIGNALS + VOLUMES)
def test_every_allowed_side(sides: tuple[int, ...]) -> None:
    G, D, E = networks(sides)
    x = G(torch.randn(2, 3))
    assert x.shape == (2, 1, *sides)
    assert x.abs().max() <= 1
    assert D(x).shape == (2,)
    assert E(x).shape == (2, 3)
    blocks = blocks_of(sides)
    inner = [side for side in sides if side > 1]
    size = channels_of(2, blocks)[-1] * math.prod(side >> blocks for side in inner)
    assert D.features(x).shape == (2, size)
    assert 4 <= min(inner) >> blocks <= 7


def test_every_side_of_the_rule_and_no_other_is_allowed() -> None:
    allowed = []
    for side in range(1, 400):
        try:
            blocks_of((side, side))
            allowed.append(side)
        except ValueError:
            pass
    assert allowed == sorted(SIDES)
    assert {16, 28, 64, 96, 224, 256} <= set(allowed)


@pytest.mark.parametrize(
    "sides",
    [
        *((8, 8), (30, 30), (27, 28), (65, 65), (320, 320), (64, 72), (64, 1040), (0, 0)),
        *((1, 1), (1, 8), (1, 250), (1, 5120), (256, 256, 256), (32, 32, 60), (16, 16, 16, 16)),
    ],
)
def test_other_sides_are_refused_in_a_sentence(sides: tuple[int, ...]) -> None:
    size = "×".join(map(str, sides))
    for network in (Generator, Discriminator, Encoder):
        with pytest.raises(ValueError, match=rf"{size} doesn't fit.*c·2\^b.*28.*224.*1×4096"):
            network(sides)


@pytest.mark.parametrize("sides", [(1, 16), (16, 16), (16, 16, 16)])
def test_parameter_counts_by_the_number_of_sides(sides: tuple[int, ...]) -> None:
    """Of width w, two blocks, a latent of d numbers, k taps a kernel and s places at last."""
    n = sum(side > 1 for side in sides)
    w, d, k, s = 2, 3, 3**n, 4**n
    up = sum(
        2 * c + k * c * h + 2 * h + (k * h * h + h) + (c * h + h)
        for c, h in ((4 * w, 2 * w), (2 * w, w))
    )
    down = sum(
        4 * c + k * c * c + (k * c * o + o) + (c * o + o) for c, o in ((w, 2 * w), (2 * w, 4 * w))
    )
    generator = (d + 1) * 4 * w * s + up + 2 * w + (k * w + 1)
    trunk = k * w + w + down
    expected = generator, trunk + 4 * w * s + 1, trunk + d * 4 * w * s + d
    assert tuple(map(parameters, networks(sides, width=w, latent=d))) == expected


def test_the_names_of_the_weights_are_the_same_whatever_the_sides() -> None:
    for kind in (Generator, Discriminator, Encoder, JointDiscriminator, JointEncoder):
        plane, line, block = (
            kind(sides, 2, 2).state_dict() for sides in ((16, 16), (1, 16), (16, 16, 16))
        )
        assert list(plane) == list(line) == list(block)
        assert (
            {key for key in plane if plane[key].dim() == 4}
            == {key for key in block if block[key].dim() == 5}
            == {key for key in line if line[key].dim() == 3}
        )


@pytest.mark.parametrize("sides", [(1, 32), (16, 16, 16)])
def test_all_systems_learn_with_one_and_three_sides(sides: tuple[int, ...]) -> None:
    """Latents and critics of ALI too; and every weight has a gradient."""
    G, D, E = networks(sides, channels=2)
    joint, encoder = JointDiscriminator(sides, 2, 2, 3), JointEncoder(sides, 2, 2, 3)
    x, z = torch.rand(4, 2, *sides), torch.randn(4, 3)
    loss = D(G(E(x))).sum() + joint(G(encoder(x).chunk(2, 1)[0]), z).sum()
    loss.backward()
    for network in (G, D, E, joint):
        assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_channels(channels: int) -> None:
    G, D, E = networks((16, 28), channels)
    x = G(torch.randn(2, 3))
    assert x.shape == (2, channels, 16, 28)
    assert D(x).shape == (2,)
    assert E(x).shape == (2, 3)


@pytest.mark.parametrize(
    ("width", "blocks", "channels"),
    [
        (64, 4, [64, 128, 256, 512, 512]),
        (8, 3, [8, 16, 32, 64]),
        (8, 2, [8, 16, 32]),
        (3, 6, [3, 6, 12, 24, 24, 24, 24]),
    ],
)
def test_channels_double_up_to_eight_times_the_width(
    width: int, blocks: int, channels: list[int]
) -> None:
    assert channels_of(width, blocks) == channels


# --- norms, features, outputs -------------------------------------------------------------------


def norms(network: nn.Module) -> list[nn.Module]:
    return [m for m in network.modules() if "Norm" in type(m).__name__]


def test_norms() -> None:
    G, D, E = networks((32, 32))
    assert len(norms(D)) == 6  # two a block, and none after the last
    for norm in norms(D):
        assert isinstance(norm, nn.GroupNorm)
        assert (norm.num_groups, norm.eps, norm.affine) == (1, 1e-5, True)
    assert (len(norms(G)), len(norms(E))) == (7, 6)
    for norm in norms(G) + norms(E):
        assert isinstance(norm, nn.BatchNorm2d)
        assert (norm.eps, norm.momentum, norm.affine) == (1e-3, 0.01, True)


def test_layer_norm_is_over_channels_rows_and_columns() -> None:
    x = torch.randn(3, 4, 5, 6) * torch.arange(1, 5)[:, None, None] + 2
    y = layer_norm(4)(x)
    mean = x.mean((1, 2, 3), keepdim=True)
    variance = x.var((1, 2, 3), unbiased=False, keepdim=True)
    assert torch.allclose(y, (x - mean) / (variance + 1e-5).sqrt(), atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_images_of_one_channel_too_lie_pixel_by_pixel(dtype: torch.dtype) -> None:
    """(B, 1, H, W) lies both ways at once, and the kernels decide how what follows lies."""
    D, x = Discriminator((16, 16), width=4), torch.randn(3, 1, 16, 16, requires_grad=True)
    found: list[Tensor] = []
    for block in D.trunk.blocks:
        block.register_forward_hook(lambda block, x, y: found.append(y))
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        value = D(x).sum()
    (gradient,) = torch.autograd.grad(value, found[0], create_graph=True)
    assert all(y.is_contiguous(memory_format=torch.channels_last) for y in (*found, gradient))


def test_features_are_the_bare_last_residual_sum() -> None:
    torch.manual_seed(0)
    D = Discriminator((16, 16), width=4)
    x = torch.randn(8, 1, 16, 16).clamp(-1, 1)
    features = D.features(x)
    y = D.trunk.conv(x)
    for block in D.trunk.blocks:
        y = block(y)
    assert torch.equal(features, y.flatten(1))
    assert 0.2 < (features < 0).float().mean() < 0.8
    assert torch.allclose(D(x), F.linear(features, D.linear.weight, D.linear.bias)[:, 0])


def test_the_encoder_ends_in_tanh_or_in_nothing() -> None:
    torch.manual_seed(0)
    bounded = Encoder((16, 16), width=2, latent=4)
    linear = Encoder((16, 16), width=2, latent=4, output="linear")
    linear.load_state_dict(bounded.state_dict())
    x = torch.randn(4, 1, 16, 16)
    for encoder in (bounded, linear):
        nn.init.constant_(encoder.linear.bias, 1.5)
        encoder.eval()
    assert linear(x).max() > 1
    assert bounded(x).abs().max() < 1
    assert torch.allclose(bounded(x), linear(x).tanh())


def test_the_critic_sees_each_image_alone() -> None:
    torch.manual_seed(0)
    D = Discriminator((28, 28), width=4).train()
    x = torch.randn(3, 1, 28, 28)
    alone = torch.cat([D(image[None]) for image in x])
    assert torch.allclose(D(x), alone, rtol=1e-5, atol=1e-6)


def test_the_memory_format_of_the_input_changes_nothing() -> None:
    torch.manual_seed(0)
    _, D, E = networks((16, 16), channels=3)
    x = torch.randn(2, 3, 16, 16)
    y = x.contiguous(memory_format=torch.channels_last)
    assert torch.equal(D.features(x), D.features(y))
    assert torch.equal(E.eval()(x), E.eval()(y))


# --- initial weights ----------------------------------------------------------------------------


def assert_xavier_uniform(layer: Conv | nn.Linear, gain: float) -> None:
    weight = layer.weight.detach()
    fan_in = weight[0].numel()
    fan_out = weight[:, 0].numel()
    bound = gain * math.sqrt(6 / (fan_in + fan_out))
    largest = float(weight.abs().max())
    assert largest <= bound * (1 + 1e-6)
    if weight.numel() >= 500:
        assert largest > 0.97 * bound
        assert float(weight.std()) == pytest.approx(bound / math.sqrt(3), rel=0.12)
    if layer.bias is not None:
        assert not layer.bias.any()


@pytest.mark.parametrize("sides", [(1, 32), (32, 32), (32, 32, 32)])
def test_initial_weights(sides: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    G, D, E = networks(sides, width=64 if len(sides) == 2 else 16, latent=16)
    root2 = math.sqrt(2)
    assert_xavier_uniform(G.linear, 1)
    assert_xavier_uniform(G.conv, root2)
    for trunk, linear in ((D.trunk, D.linear), (E.trunk, E.linear)):
        assert_xavier_uniform(trunk.conv, 1)
        assert_xavier_uniform(linear, 1)
    for network in (G, D, E):
        blocks = [m for m in network.modules() if isinstance(m, UpBlock | DownBlock)]
        assert len(blocks) == 3
        for block in blocks:
            assert_xavier_uniform(block.conv1, root2)
            assert_xavier_uniform(block.conv2, root2)
            assert_xavier_uniform(block.shortcut, 1)


# --- folded convolutions ------------------------------------------------------------------------


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The blocks as the paper writes them."""
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[2] / "benchmarks"))
    return importlib.import_module("plain")


def blocks_of_both_kinds(
    kind: str, sides: int, dtype: torch.dtype, plain: ModuleType
) -> tuple[nn.Module, nn.Module]:
    """The folded block and the plain one, with the same weights, none of them zero."""
    torch.manual_seed(0)
    norms = {
        "down, layer norm": layer_norm,
        "down, batch norm": functools.partial(batch_norm, sides=sides),
    }
    block = UpBlock(5, 3, sides) if kind == "up" else DownBlock(3, 5, norms[kind], sides)
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.3)
    block.to(dtype)
    return block, plain.as_written(copy.deepcopy(block))


def derivatives(block: nn.Module, x: Tensor) -> list[Tensor]:
    """The output, its gradients, and those of a gradient penalty."""
    x = x.clone().requires_grad_()
    weights = list(block.parameters())
    y = block(x)
    direction = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y)
    loss = (y * direction).sum() / 8
    (slope,) = torch.autograd.grad(loss, x, create_graph=True)
    first = torch.autograd.grad(loss, weights, retain_graph=True)
    penalty = (slope.flatten(1).norm(dim=1) - 1).square().mean()
    second = torch.autograd.grad(penalty, [x, *weights], allow_unused=True)
    assert sum(g is not None and bool(g.any()) for g in second) >= 5
    found = [y, slope, *first, *(torch.zeros(()) if g is None else g for g in second)]
    return [tensor.detach() for tensor in found]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@pytest.mark.parametrize("kind", ["up", "down, layer norm", "down, batch norm"])
@pytest.mark.parametrize("size", [(14,), (6, 10), (4, 6, 2)])
def test_folded_blocks_equal_plain_ones(
    size: tuple[int, ...], kind: str, dtype: torch.dtype, tolerance: float, plain: ModuleType
) -> None:
    block, written = blocks_of_both_kinds(kind, len(size), dtype, plain)
    x = torch.randn(4, 5 if kind == "up" else 3, *size, dtype=dtype)
    for found, expected in zip(derivatives(block, x), derivatives(written, x), strict=True):
        scale = max(1.0, float(expected.abs().max()))
        assert float((found - expected).abs().max()) <= tolerance * scale


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("size", [(14,), (6, 10), (4, 6, 2)])
def test_folded_convolutions_equal_plain_ones(size: tuple[int, ...], bias: bool) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    conv = CONVOLUTIONS[len(size)](3, 4, 3, padding=1, bias=bias).double()
    pool = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[len(size) - 1]
    upsampled = conv(F.interpolate(x, scale_factor=2.0))
    torch.testing.assert_close(upsample_conv(conv, x), upsampled, atol=1e-12, rtol=0)
    torch.testing.assert_close(conv_mean_pool(conv, x), pool(conv(x), 2), atol=1e-12, rtol=0)


@pytest.mark.parametrize("sides", [1, 2, 3])
def test_convolutions_beside_a_change_of_size_take_a_part_of_the_multiply_adds(sides: int) -> None:
    """Of what the same convolution takes at the larger size: of 8 channels, and 4 pixels a side."""
    x = torch.empty(1, 8, *[4] * sides, device="meta")
    conv = CONVOLUTIONS[sides](8, 8, 3, padding=1, bias=False, device="meta")
    taps = 8 * 8 * 3**sides
    assert multiply_adds(lambda: conv_mean_pool(conv, x)) == taps * 2**sides  # plainly taps · 4ⁿ
    assert multiply_adds(lambda: upsample_conv(conv, x)) == taps * 4**sides  # plainly taps · 8ⁿ


@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize("size", [(14,), (6, 10), (4, 6, 2)])
def test_means_are_those_of_the_pool_that_other_devices_use(
    size: tuple[int, ...], padding: int
) -> None:
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    pool = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[len(size) - 1]
    expected = pool(x, 2, stride=1, padding=padding)
    assert torch.allclose(means(x, padding), expected, atol=1e-12)


# --- networks that only score -------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Generator, Discriminator, Encoder])
@pytest.mark.parametrize("sides", [(1, 24), (16, 24), (16, 24, 16)])
def test_a_folded_network_equals_the_trained_one(
    sides: tuple[int, ...], kind: type[nn.Module]
) -> None:
    torch.manual_seed(0)
    size = (sides, 2, 4) if kind is Discriminator else (sides, 2, 4, 8)
    network = kind(*size).double().eval()
    norms = [one for one in network.modules() if isinstance(one, BatchNorm)]
    for norm in norms:
        for values in (norm.running_mean, norm.bias.data):
            values.normal_()
        for values in (norm.running_var, norm.weight.data):
            values.uniform_(0.3, 3)
    given = torch.randn(3, 8) if kind is Generator else torch.rand(3, 2, *sides)
    given = given.double()
    before = copy.deepcopy(network.state_dict())
    less = folded(network)
    assert torch.allclose(less(given), network(given), rtol=1e-10, atol=0)
    assert not any(parameter.requires_grad for parameter in less.parameters())
    blocks = [one for one in less.modules() if isinstance(one, UpBlock | DownBlock)]
    left = sum(isinstance(one, BatchNorm) for one in less.modules())
    assert left == max(len(norms) - len(blocks), 0)
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())


# --- the fast path ------------------------------------------------------------------------------


@pytest.mark.parametrize("sides", [(1, 16), (16, 16)])
def test_a_hundred_updates_end_as_with_the_blocks_as_written(
    sides: tuple[int, ...], plain: ModuleType
) -> None:
    """In fp64, so that what is beyond rounding shows; each score too."""
    random = torch.Generator().manual_seed(0)
    xs = 2 * torch.rand(10, 6, 1, *sides, generator=random, dtype=torch.float64) - 1
    ours = tuple(network.double() for network in networks(sides, width=4, latent=8))
    written = tuple(plain.as_written(copy.deepcopy(network)) for network in ours)
    begun = [copy.deepcopy(network.state_dict()) for network in ours]
    for G, D, E in (ours, written):
        a_hundred_updates(G, D, E, xs)
        for network in (G, D, E):
            network.eval()
    for network, other, before in zip(ours, written, begun, strict=True):
        for name, value in network.state_dict().items():
            torch.testing.assert_close(value, other.state_dict()[name], rtol=1e-6, atol=1e-9)
            if value.dim() > 1:
                assert not torch.allclose(value, before[name], rtol=1e-3, atol=1e-4), name
    with torch.no_grad():
        G, D, E = (folded(network) for network in ours)
        found = terms_and_maps(xs[0], G(E(xs[0])), None, D.features)
        G, D, E = written
        expected = terms_and_maps(xs[0], G(E(xs[0])), None, D.features)
    for each in zip(found, expected, strict=True):
        torch.testing.assert_close(*each, rtol=1e-6, atol=1e-9)


def a_hundred_updates(G: Generator, D: Discriminator, E: Encoder, xs: Tensor) -> None:
    """Fifty of the critic, ten of the generator and forty of the encoder, on these images."""
    run = small_run(Recipe())
    random = torch.Generator().manual_seed(1)
    adam_D, adam_G = (torch.optim.Adam(n.parameters(), 1e-3, betas=(0.0, 0.9)) for n in (D, G))
    rmsprop = TensorFlowRMSprop(E.parameters(), 1e-2)

    def latents() -> Tensor:
        return torch.randn(6, 8, generator=random, dtype=torch.float64)

    for step in range(50):
        with torch.no_grad():
            fake = G(latents())
        update_critic(D, adam_D, xs[step % 10], fake, run, random)
        if step % 5 == 0:
            with frozen(D):
                descend(generator_loss(D, G(latents())), adam_G, run.fabric)
    with frozen(G, D):
        for step in range(40):
            terms = encoder_terms("izi_f", E, G.eval(), D, xs[step % 10], latents())
            descend(encoder_loss(terms, 1.0), rmsprop, run.fabric)
