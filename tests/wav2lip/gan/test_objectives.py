"""Adversarial objectives: values by hand, gradients, penalties, and training on toy data."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from wav2lip.gan.objectives import OBJECTIVES, BoundaryEquilibrium, Objective, OptimizerDefaults, objective
from wav2lip.gan.unrolling import unrolled

REAL, FAKE = torch.tensor([2.0, 0.5, -1.0]), torch.tensor([1.0, -0.5, -3.0])


def log_sigmoid(*logits: float) -> float:
    return sum(-math.log(1 + math.exp(-x)) for x in logits) / len(logits)


BY_HAND = {
    "minimax": (-log_sigmoid(2, 0.5, -1) - log_sigmoid(-1, 0.5, 3), log_sigmoid(-1, 0.5, 3)),
    "non-saturating": (-log_sigmoid(2, 0.5, -1) - log_sigmoid(-1, 0.5, 3), -log_sigmoid(1, -0.5, -3)),
    "lsgan": ((1 + 0.25 + 4) / 6 + (1 + 0.25 + 9) / 6, (0 + 2.25 + 16) / 6),
    "hinge": ((0 + 0.5 + 2) / 3 + (2 + 0.5 + 0) / 3, 2.5 / 3),
    "wgan": (-2.5 / 3 - 1.5 / 3, 2.5 / 3),
    "wgan-gp": (-2.5 / 3 - 1.5 / 3, 2.5 / 3),
    "dragan": (-log_sigmoid(2, 0.5, -1) - log_sigmoid(-1, 0.5, 3), -log_sigmoid(1, -0.5, -3)),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_losses_are_the_numbers_worked_out_by_hand(name):
    aim = objective(name)
    losses = aim.critic_loss(REAL, FAKE), aim.generator_loss(FAKE)
    assert [x.item() for x in losses] == pytest.approx(BY_HAND[name], abs=1e-6)


def test_energies_are_the_numbers_worked_out_by_hand():
    real, fake = torch.tensor([0.25, 0.75]), torch.tensor([0.5, 3.0])
    ebgan = objective("ebgan", margin=1.0)
    assert ebgan.critic_loss(real, fake).item() == 0.5 + (0.5 + 0) / 2
    assert ebgan.generator_loss(fake).item() == 1.75
    began = objective("began", gamma=0.5)
    assert began.critic_loss(real, fake).item() == 0.5  # k is 0 yet
    assert began.generator_loss(fake).item() == 1.75


def test_logit_maps_weigh_as_much_as_single_logits():
    aim = objective("hinge")
    assert aim.critic_loss(REAL.view(3, 1), FAKE.view(1, 1, 3, 1)) == aim.critic_loss(REAL, FAKE)


def test_minimax_fades_where_the_critic_is_sure_and_non_saturating_does_not():
    logits = torch.tensor([-6.0], requires_grad=True)  # certainly generated
    gradients = {}
    for name in ("minimax", "non-saturating"):
        (gradients[name],) = torch.autograd.grad(objective(name).generator_loss(logits), logits)
    share = 1 / (1 + math.exp(6))
    assert gradients["minimax"].item() == pytest.approx(-share, rel=1e-4)  # log(1 - D) has the slope -D
    assert gradients["non-saturating"].item() == pytest.approx(share - 1, rel=1e-4)
    assert objective("minimax").critic_loss(REAL, FAKE) == objective("non-saturating").critic_loss(REAL, FAKE)


def test_f_gans_gan_is_the_gan():
    sure = torch.tensor([-80.0, 0.3, 80.0])  # no overflow, either
    for ours, theirs in (("non-saturating", objective("gan")), ("minimax", objective("gan", saturating=True))):
        assert torch.equal(theirs.critic_loss(sure, FAKE), objective(ours).critic_loss(sure, FAKE))
        assert torch.equal(theirs.generator_loss(sure), objective(ours).generator_loss(sure))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_gradients_agree_with_finite_differences(name):
    torch.manual_seed(0)
    real, fake = (torch.rand(2, 3, dtype=torch.float64) + 0.3 for _ in range(2))
    aim = objective(name).double()
    if isinstance(aim, BoundaryEquilibrium):
        aim.k.fill_(0.7)
    inputs = real.requires_grad_(), fake.requires_grad_()
    assert torch.autograd.gradcheck(aim.critic_loss, inputs)
    assert torch.autograd.gradcheck(aim.generator_loss, inputs[1:])


@pytest.mark.parametrize("name", OBJECTIVES)
def test_both_players_push_the_right_way(name):
    real, fake = torch.tensor([0.1], requires_grad=True), torch.tensor([0.12], requires_grad=True)
    aim = objective(name)
    if isinstance(aim, BoundaryEquilibrium):
        aim.k.fill_(0.7)
    up = -1 if aim.energies else 1  # the way from generated to real
    of_real, of_fake = torch.autograd.grad(aim.critic_loss(real, fake), (real, fake))
    (of_picture,) = torch.autograd.grad(aim.generator_loss(fake), fake)
    assert up * of_real.item() < 0 < up * of_fake.item()
    assert up * of_picture.item() < 0


def test_k_moves_as_equation_says_and_travels_in_the_state():
    aim, critic = objective("began", gamma=0.5, lr=0.1), nn.Linear(1, 1)
    aim.update(critic, torch.tensor([2.0, 4.0]), torch.tensor([0.5]))
    assert aim.k.item() == pytest.approx(0.1 * (1.5 - 0.5))
    assert aim.critic_loss(torch.tensor([3.0]), torch.tensor([0.5])).item() == pytest.approx(3 - 0.1 * 0.5)
    assert aim.convergence(torch.tensor([2.0, 4.0]), torch.tensor([0.5])).item() == pytest.approx(3 + 1)
    resumed = objective("began", gamma=0.5, lr=0.1)
    resumed.load_state_dict(aim.state_dict())
    assert resumed.k.item() == aim.k.item()
    aim.update(critic, torch.tensor([0.0]), torch.tensor([9.0]))
    assert aim.k.item() == 0
    aim.update(critic, torch.tensor([900.0]), torch.tensor([0.0]))
    assert aim.k.item() == 1
    assert resumed.k.item() == pytest.approx(0.1)


def test_k_may_move_before_the_loss_is_differentiated():
    aim, fake = objective("began"), torch.tensor([1.0], requires_grad=True)
    aim.k.fill_(0.25)
    loss = aim.critic_loss(torch.tensor([1.0]), fake)
    aim.update(nn.Linear(1, 1), torch.tensor([800.0]), torch.tensor([0.0]))
    loss.backward()
    assert fake.grad.item() == -0.25


def test_wgan_clips_every_weight():
    critic = nn.Linear(2, 1)
    with torch.no_grad():
        critic.weight.copy_(torch.tensor([[0.5, -0.004]]))
        critic.bias.fill_(-3.0)
    objective("wgan").update(critic, REAL, FAKE)
    assert critic.weight.tolist() == [pytest.approx([0.01, -0.004])]
    assert critic.bias.item() == pytest.approx(-0.01)


@pytest.mark.parametrize("name", ["wgan-gp", "dragan"])
def test_penalties_of_linear_critics(name):
    """The slope of w.x is |w| everywhere: 10 (|w| - 1)^2, whose gradient is 20 (|w| - 1) w / |w|."""
    critic = nn.Linear(12, 1, bias=False)
    nn.init.constant_(critic.weight, 0)
    with torch.no_grad():
        critic.weight[0, :2] = torch.tensor([1.5, 2.0])
    images = torch.rand(2, 4, 3, 2, 2, generator=torch.manual_seed(0)).requires_grad_()
    penalty = objective(name).penalty(lambda x: critic(x.flatten(1)), *images)
    assert penalty.item() == pytest.approx(10 * 1.5**2, rel=1e-5)
    penalty.backward()
    assert critic.weight.grad[0, :3].tolist() == pytest.approx([20 * 1.5 * 0.6, 20 * 1.5 * 0.8, 0], rel=1e-4)
    assert images.grad is None


def test_penalties_look_where_they_should():
    """A critic x^2 / 2 has the slope |x|: of images that are all 3 and 5, between 3 and 5; near real ones, near 3."""
    real, fake = torch.full((400, 1), 3.0), torch.full((400, 1), 5.0)
    seen = []

    def critic(x: Tensor) -> Tensor:
        seen.append(x.detach())
        return x.square() / 2

    torch.manual_seed(0)
    penalty = objective("wgan-gp", weight=1.0).penalty(critic, real, fake)
    assert penalty.item() == pytest.approx((4**3 - 2**3) / 6, rel=0.1)  # the mean of (x - 1)^2 over 3 to 5
    assert 3 <= seen[0].min() < 3.1 < 4.9 < seen[0].max() <= 5
    assert seen[0].unique().numel() > 300  # a place of its own for each image
    spread = 3 + torch.randn(20000, 1)
    objective("dragan", noise=0.75).penalty(critic, spread, fake)
    assert seen[1].mean().item() == pytest.approx(3, abs=0.05)
    assert seen[1].std().item() == pytest.approx(1.25, rel=0.02)  # 1 and 0.75 squared, added


def test_a_flat_critic_has_a_finite_penalty_gradient():
    critic = nn.Linear(2, 1)
    nn.init.zeros_(critic.weight)
    objective("wgan-gp").penalty(critic, torch.ones(4, 2), torch.zeros(4, 2)).backward()
    assert torch.isfinite(critic.weight.grad).all()


def test_most_have_no_penalty():
    assert objective("lsgan").penalty(nn.Linear(1, 1), REAL[:, None], FAKE[:, None]).item() == 0


def test_the_papers_settings():
    wgan, parameters = objective("wgan"), [nn.Parameter(torch.zeros(1))]
    assert (wgan.critic_steps, wgan.optimizer_defaults) == (5, OptimizerDefaults("rmsprop", 5e-5))
    assert isinstance(wgan.optimizer_defaults.build(parameters), torch.optim.RMSprop)
    adam = objective("wgan-gp").optimizer_defaults.build(parameters)
    assert isinstance(adam, torch.optim.Adam)
    assert (adam.defaults["lr"], adam.defaults["betas"]) == (1e-4, (0.0, 0.9))
    assert [name for name in OBJECTIVES if objective(name).energies] == ["ebgan", "began"]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("wasserstein", {}, "unknown objective 'wasserstein'; choose one of minimax, .*wgan-gp, .*jeffrey"),
        ("hinge", {"margin": 1.0}, "objective hinge: .*'margin'"),
        ("kl", {"pi": 0.5}, "objective kl: .*"),
        ("wgan", {"clip": 0.0}, "clip must be above 0, not 0.0"),
        ("began", {"gamma": 2.0}, "gamma must be above 0"),
        ("weighted-jensen-shannon", {"pi": 1.0}, "between 0 and 1, not 1.0"),
    ],
)
def test_mistakes_are_named(name, options, message):
    with pytest.raises(ValueError, match=message) as error:
        objective(name, **options)
    assert "\n" not in str(error.value)


# A ring of eight Gaussians, as in the papers on unrolling and on WGAN-GP

CENTRES = torch.stack([f(torch.arange(8) * math.pi / 4) for f in (torch.cos, torch.sin)], 1)


def perceptron(inputs: int, outputs: int, activation: type[nn.Module]) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, 32), activation(), nn.Linear(32, 32), activation(), nn.Linear(32, outputs))


class Autoencoder(nn.Module):
    """Energies: distance of each point from its reconstruction from a single number."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(2, 32), nn.Tanh(), nn.Linear(32, 1))
        self.decoder = nn.Sequential(nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 2))

    def forward(self, points: Tensor) -> Tensor:
        return (self.decoder(self.encoder(points)) - points).abs().mean(1)


def ring(count: int) -> Tensor:
    return CENTRES[torch.randint(8, (count,))] + 0.05 * torch.randn(count, 2)


def energy_distance(a: Tensor, b: Tensor) -> float:
    """0 for the same distribution (Szekely and Rizzo, 2013)."""
    return (2 * torch.cdist(a, b).mean() - torch.cdist(a, a).mean() - torch.cdist(b, b).mean()).item()


def modes(points: Tensor) -> int:
    """How many of the eight Gaussians have at least 2 % of the points within five deviations."""
    distance, nearest = torch.cdist(points, CENTRES).min(1)
    return int((torch.bincount(nearest[distance < 0.25], minlength=8) >= 0.02 * len(points)).sum())


def adam(network: nn.Module, lr: float, beta: float) -> torch.optim.Optimizer:
    return torch.optim.Adam(network.parameters(), lr=lr, betas=(beta, 0.9), fused=True)


@torch.no_grad()
def drawn(generator: nn.Module, count: int = 1000) -> Tensor:
    return generator(torch.randn(count, 8))


def train(
    aim: Objective, steps: int, rates: tuple[float, float], beta: float, unroll: int = 0, r1: float = 0.0
) -> nn.Module:
    """A generator trained on the ring at (its, the critic's) rates."""
    torch.manual_seed(0)
    generator, critic = perceptron(8, 2, nn.ReLU), Autoencoder() if aim.energies else perceptron(2, 1, nn.LeakyReLU)
    ours, theirs = adam(generator, rates[0], beta), adam(critic, rates[1], beta)
    for _ in range(steps):
        for _ in range(aim.critic_steps):
            x, y = ring(128).requires_grad_(r1 > 0), drawn(generator, 128)
            real, fake = critic(torch.cat((x, y))).chunk(2)
            loss = aim.critic_loss(real, fake) + aim.penalty(critic, x, y)
            if r1:
                loss = loss + r1 * torch.autograd.grad(real.sum(), x, create_graph=True)[0].square().sum(1).mean()
            theirs.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(critic.parameters(), 1)
            theirs.step()
            aim.update(critic, real.detach(), fake.detach())
        x, y = ring(128), generator(torch.randn(128, 8))
        later = unrolled(critic, lambda c, x=x, y=y: aim.critic_loss(c(x), c(y)), unroll, 0.3) if unroll else critic
        ours.zero_grad()
        aim.generator_loss(later(y)).backward()
        nn.utils.clip_grad_norm_(generator.parameters(), 1)
        ours.step()
    return generator


# What differs from the defaults because these are points 2 apart and not images.
ON_THE_RING = {
    "wgan": {"clip": 0.1},
    "wgan-gp": {"weight": 1.0},
    "dragan": {"weight": 0.1},
    "ebgan": {"margin": 1.0},
    "began": {"gamma": 0.7, "lr": 0.05},
}
ITS_OWN_BOUND = ("wgan", "wgan-gp", "dragan")


@pytest.mark.parametrize("name", [name for name in OBJECTIVES if not objective(name).energies])
def test_each_objective_trains(name):
    """An untrained generator's energy distance is 0.6. Unbounded f-GANs swing without R1 (arXiv 1801.04406)."""
    aim = objective(name, **ON_THE_RING.get(name, {}))
    aim.critic_steps = 2 if name.startswith("wgan") else 1  # enough for two dimensions
    r1 = 0.0 if name in ITS_OWN_BOUND else 0.05 if name == "lsgan" else 0.5  # least squares ask for small logits
    points = drawn(train(aim, 80, (1e-3, 3e-3), beta=0.0, r1=r1))
    assert energy_distance(points, ring(1000)) < 0.25


@pytest.mark.parametrize(("name", "lr"), [("ebgan", 3e-3), ("began", 1e-2)])
def test_each_energy_trains(name, lr):
    """They reach few of the Gaussians, but do reach them: untrained points lie 0.9 from the nearest."""
    generator = train(objective(name, **ON_THE_RING[name]), 120, (1e-3, lr), beta=0.0)
    assert torch.cdist(drawn(generator), CENTRES).amin(1).mean() < 0.65


def test_wgan_gp_and_unrolling_keep_modes_that_minimax_loses():
    """A generator that learns faster than its critic is chased from Gaussian to Gaussian and off the ring."""
    hasty = {"rates": (2e-3, 1e-3), "beta": 0.5}
    minimax = modes(drawn(train(objective("minimax"), 120, **hasty)))
    ahead = modes(drawn(train(objective("minimax"), 90, unroll=2, **hasty)))
    penalised = modes(drawn(train(objective("wgan-gp", weight=1.0), 120, **hasty)))
    assert minimax <= 2
    assert min(ahead, penalised) >= 4
