"""What adversarial training minimises."""

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any, Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from ccnotes.attribution import cas, class_attribution, class_similarity, group_similarity
from ccnotes.checks import check_choice, real
from ccnotes.models import Network
from ccnotes.parts import Kind
from ccnotes.types import Features, Labels, Logits, Soft

Loss = Literal["cross-entropy", "trades", "mart"]
SoftLabels = Literal["teacher", "permuted", "uniform", "groups", "averaged", "hard"]
TeacherEpoch = Literal["best", "last"]
OWN_BEST, OWN_AVERAGE = "own-best", "own-average"  # teachers that come from the run itself


@dataclass(frozen=True, kw_only=True)
class Objective:
    """What a run minimises: by default the cross-entropy of plain adversarial training.

    Raises ValueError for a setting that no run can have.

    >>> Objective(teachers=("planted-at",), teacher_weights=(0.9,)).temperature  # labels: 0.1
    2.0
    """

    loss: Loss = "cross-entropy"
    beta: float = 6.0  # weight of the second term of TRADES and MART
    smoothing: float = 0.0  # mass that label smoothing spreads over all classes
    teachers: tuple[str, ...] = ()  # experiments, .safetensors, "own-best" or "own-average"
    teacher_weights: tuple[float, ...] = ()  # in the loss, one each; the labels have the rest
    temperature: float = 2.0  # of teachers and student
    soft_labels: SoftLabels = "teacher"
    teacher_epoch: TeacherEpoch = "best"  # of teachers that are experiments
    push_cas: float = 0.0  # up where above 0: this much of the batch's CAS is taken off the loss
    push_placebo: float = 0.0  # the same for what should do nothing to CAS
    push_contrast: float = 0.0  # the same for similarity inside the true groups less that across
    group_weight: float = 0.0  # of the loss of true groups on images of parts that lack a kind
    lacking: Kind = "own"  # the kind that they lack
    awp: float = 0.0  # how far weights are perturbed, relative to their norm
    grad_align: float = 0.0  # weight of ccnotes.onestep.grad_align, whose room has one by radius
    elle: float = 0.0  # weight of ccnotes.onestep.elle

    def __post_init__(self) -> None:
        choices = {"loss": Loss, "soft_labels": SoftLabels, "teacher_epoch": TeacherEpoch}
        choices["lacking"] = Kind
        for name, known in choices.items():
            check_choice(name, getattr(self, name), get_args(known))
        for f in fields(self):
            if f.type in (float, "float"):
                object.__setattr__(self, f.name, real(f.name, getattr(self, f.name)))
        bounds = [("smoothing", 0, 1), ("beta", 0, 1e9), ("awp", 0, 1)]
        bounds += [(name, 0, 1e9) for name in ("grad_align", "elle", "group_weight")]
        for name, low, high in bounds:
            if not low <= (value := getattr(self, name)) < high:
                raise ValueError(f"{name}={value} must lie in [{low}, {high:g}).")
        if not 0 < self.temperature < math.inf:
            raise ValueError(f"temperature={self.temperature} must be above 0 and finite.")
        if self.loss == "mart" and self.smoothing:
            raise ValueError(f"MART has no smoothed form: set smoothing={self.smoothing} to 0.")
        pushes = (self.push_cas, self.push_placebo, self.push_contrast)
        if not all(map(math.isfinite, pushes)):
            raise ValueError(f"push_cas, push_placebo, push_contrast must be finite, not {pushes}.")
        fit = len(self.teacher_weights) == len(self.teachers) and sum(self.teacher_weights) <= 1
        if not (fit and all(weight >= 0 for weight in self.teacher_weights)):
            raise ValueError(
                f"teacher_weights={self.teacher_weights} must be one number >= 0 for each of "
                f"teachers={self.teachers}, 1 or less in sum: the labels have the rest."
            )

    @property
    def needs_features(self) -> bool:
        """Whether it has a term of attribution, made of features and head."""
        return bool(self.push_cas or self.push_placebo or self.push_contrast)


class Outputs(NamedTuple):
    """What a network gives of a batch, as far as the objective needs it."""

    attacked: Logits
    clean: Logits | None = None  # at the images themselves: for TRADES and MART
    features: Features | None = None  # of the attacked ones: for the terms of attribution


def total(
    objective: Objective,
    model: Any,
    outputs: Outputs,
    labels: Labels,
    soft: list[tuple[Soft, float]],
    groups: Int[Tensor, " classes"] | None = None,
) -> Float[Tensor, ""]:
    """The whole objective, in nats, of one batch.

    ``soft`` has each teacher's :func:`soft_labels` and weight; what the weights leave of 1 is that
    of the loss on the labels. ``groups`` are the classes' true ones. Terms of attribution need a
    network of :mod:`ccnotes.models`.
    """
    o, (attacked, clean, features) = objective, outputs
    if clean is None:
        result = cross_entropy(attacked, labels, o.smoothing)
    elif o.loss == "trades":
        result = trades(clean, attacked, labels, o.beta, o.smoothing)
    elif o.loss == "mart":
        result = mart(clean, attacked, labels, o.beta)
    else:
        raise ValueError(f"the loss {o.loss!r} has no line here, though it takes clean logits.")
    if soft:
        result = (1 - sum(weight for _, weight in soft)) * result
        for probabilities, weight in soft:
            result = result + weight * distillation(attacked, probabilities, o.temperature)
    if features is not None and o.push_cas:
        result = result - o.push_cas * batch_cas(features, labels, model.head.weight)
    if features is not None and o.push_placebo:
        result = result - o.push_placebo * placebo(features, labels, model)
    if features is not None and o.push_contrast:
        if groups is None:
            raise ValueError("push_contrast needs true groups, which planted images have.")
        contrast = batch_contrast(features, labels, model.head.weight, groups)
        result = result - o.push_contrast * contrast
    return result


def cross_entropy(logits: Logits, labels: Labels, smoothing: float = 0.0) -> Float[Tensor, ""]:
    """Mean cross-entropy, in nats, of the logits at the attacked images (Madry et al., 2018).

    With smoothing, the mass ``1 - smoothing`` stays on the label, and the rest is shared by all
    classes, the label's own included (Szegedy et al., 2016; arXiv:1512.00567).

    >>> round(cross_entropy(torch.zeros(2, 4), torch.tensor([0, 3])).item(), 4)  # log 4
    1.3863
    """
    return F.cross_entropy(logits.float(), labels, label_smoothing=smoothing)


def distillation(logits: Logits, probabilities: Soft, temperature: float) -> Float[Tensor, ""]:
    r"""Mean cross-entropy, in nats, with a teacher's probabilities ``p`` at that temperature.

    .. math:: -T^2 \sum_c p_c \log \mathrm{softmax}(z / T)_c

    Hinton et al. (2015), arXiv:1503.02531: with the factor, the gradient's size hardly depends
    on ``T``. In AT, both see the attacked images (Chen et al., 2021, "Robust overfitting may be
    mitigated by properly learned smoothening", ICLR).

    >>> round(distillation(torch.zeros(1, 4), torch.full((1, 4), 0.25), 2.0).item(), 4)  # 4 log 4
    5.5452
    """
    return temperature**2 * F.cross_entropy(logits.float() / temperature, probabilities)


def trades(
    clean: Logits, attacked: Logits, labels: Labels, beta: float, smoothing: float = 0.0
) -> Float[Tensor, ""]:
    r"""Clean cross-entropy and what the attack does to the probabilities, in nats.

    .. math:: -\log p_y(x) + \beta \, \mathrm{KL}(p(x) \,\|\, p(x'))

    Zhang et al. (2019), arXiv:1901.08573; the attack maximises the divergence.

    >>> clean, attacked = torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, 100.0]])
    >>> round(trades(clean, attacked, torch.tensor([0]), beta=1).item(), 4)  # log 2 + 50 - log 2
    50.0
    """
    p, q = clean.float().log_softmax(1), attacked.float().log_softmax(1)
    divergence = F.kl_div(q, p, reduction="batchmean", log_target=True)
    return cross_entropy(clean, labels, smoothing) + beta * divergence


def mart(clean: Logits, attacked: Logits, labels: Labels, beta: float) -> Float[Tensor, ""]:
    r"""Boosted cross-entropy and a divergence that counts more where the model errs, in nats.

    .. math:: -\log p_y(x') - \log(1 - \max_{k \ne y} p_k(x'))
              + \beta \, (1 - p_y(x)) \, \mathrm{KL}(p(x) \,\|\, p(x'))

    Wang et al. (2020), "Improving adversarial robustness requires revisiting misclassified
    examples", ICLR; ``beta`` is the lambda of the paper, 6 in its code.

    >>> logits = torch.zeros(1, 2)
    >>> round(mart(logits, logits, torch.tensor([0]), beta=6).item(), 4)  # log 2 twice
    1.3863
    """
    own, attacked = labels[:, None], attacked.float()
    rival = attacked.scatter(1, own, -torch.inf).argmax(1, keepdim=True)
    without = attacked.scatter(1, rival, -torch.inf).logsumexp(1) - attacked.logsumexp(1)
    p, q = clean.float().log_softmax(1), attacked.log_softmax(1)
    divergence = F.kl_div(q, p, reduction="none", log_target=True).sum(1)
    doubt = 1 - p.exp().gather(1, own)[:, 0]
    return cross_entropy(attacked, labels) - without.mean() + beta * (doubt * divergence).mean()


def soft_labels(
    logits: Logits, labels: Labels, objective: Objective, groups: Int[Tensor, " classes"] | None
) -> Soft:
    """What a teacher says of the classes at the objective's temperature, or a control instead.

    ``"averaged"``: their mean over the batch's images of the same class, so that what is said of a
    class is kept and what is said of an image is not. ``"hard"``: only of the half of the batch
    whose label the teacher holds for least likely; of the others the label itself.
    ``"permuted"``: see :func:`permuted`. ``"uniform"`` and ``"groups"``: made by hand, with the
    entropy of the teacher's, sample by sample; they hold all classes but the label for equal, or
    set those of its true group as far above the others as below the label, in logits.

    >>> logits, labels = torch.tensor([[math.log(9), 0.0]]), torch.tensor([0])
    >>> soft = soft_labels(logits, labels, Objective(temperature=2.0), None)
    >>> [round(p, 4) for p in soft[0].tolist()]  # 3 to 1
    [0.75, 0.25]
    """
    classes = logits.shape[1]
    soft = (logits.float() / objective.temperature).softmax(1)
    if objective.soft_labels == "teacher":
        return soft
    if objective.soft_labels == "permuted":
        size = classes // 2 - 1 if groups is None else int((groups == groups[0]).sum())
        return permuted(soft, labels, size)
    hard = F.one_hot(labels, classes).float()
    if objective.soft_labels == "averaged":
        members = hard.T @ hard.new_ones(len(hard), 1)
        return ((hard.T @ soft) / members.clamp_min(1))[labels]
    if objective.soft_labels == "hard":
        sure = soft.gather(1, labels[:, None])
        return soft.where(sure <= sure.median(), hard)
    scores = hard
    if objective.soft_labels == "groups":
        if groups is None:
            raise ValueError("soft_labels='groups' needs true groups, which planted images have.")
        scores = scores + (groups[labels, None] == groups)
    entropy = torch.special.entr(soft).sum(1)
    low, high = torch.zeros_like(entropy), torch.full_like(entropy, 50.0)
    for _ in range(40):  # halves the interval of the factor at which softmax has that entropy
        middle = (low + high) / 2
        too_soft = torch.special.entr((middle[:, None] * scores).softmax(1)).sum(1) > entropy
        low, high = middle.where(too_soft, low), high.where(too_soft, middle)
    return (high[:, None] * scores).softmax(1)


def permuted(soft: Soft, labels: Labels, shift: int) -> Soft:
    """Soft labels of the same entropy and the same mass on the label, the others' in disorder.

    The mass of class ``c`` goes to ``c + shift`` (cyclically), past the label, which keeps its
    own. If ``shift`` is the size of a group, it ends in another group than it came from, without
    exception. Raises ValueError where a class would keep its mass.

    >>> permuted(torch.tensor([[0.5, 0.25, 0.125, 0.125, 0, 0]]), torch.tensor([0]), 2).tolist()
    [[0.5, 0.0, 0.0, 0.25, 0.125, 0.125]]
    """
    classes = soft.shape[1]
    if shift < 1 or 2 * shift % classes == 0:
        raise ValueError(
            f"soft labels of {classes} classes cannot be permuted by {shift} and past the label: "
            f"take at least three groups of classes."
        )
    before, after = (labels[:, None] - shift) % classes, (labels[:, None] + shift) % classes
    moved = soft.roll(shift, 1).scatter(1, after, soft.gather(1, before))
    return moved.scatter(1, labels[:, None], soft.gather(1, labels[:, None]))


def batch_similarity(
    features: Features,
    labels: Labels,
    head: Float[Tensor, "classes features"],
    orders: Int[Tensor, "classes features"] | None = None,
) -> tuple[Float[Tensor, "present present"], Int[Tensor, " present"]]:
    """The similarity matrix of the classes in a batch, differentiable, and those classes.

    ``orders`` puts each class's attribution into another order first.
    """
    present, own = labels.unique(return_inverse=True)
    attribution = class_attribution(features.float(), own, head[present])
    if orders is not None:
        attribution = attribution.gather(1, orders[present])
    return class_similarity(attribution), present


def batch_cas(
    features: Features,
    labels: Labels,
    head: Float[Tensor, "classes features"],
    orders: Int[Tensor, "classes features"] | None = None,
) -> Float[Tensor, ""]:
    """CAS (see :func:`ccnotes.attribution.cas`) of the classes in a batch, differentiable.

    A pair of negative similarity has no gradient, as it does not count. For ``orders`` see
    :func:`batch_similarity`.

    >>> features = torch.eye(2)[[0, 0, 1]]  # classes 0 and 1 lean on one, class 2 on another
    >>> round(batch_cas(features, torch.arange(3), torch.ones(3, 2)).item(), 4)
    2.0
    """
    return cas(batch_similarity(features, labels, head, orders)[0])


def batch_contrast(
    features: Features,
    labels: Labels,
    head: Float[Tensor, "classes features"],
    groups: Int[Tensor, " classes"],
) -> Float[Tensor, ""]:
    """Mean similarity inside the true groups less that across them, differentiable.

    Of the classes in a batch; in [-2, 2]. A vector common to all classes raises CAS, but only
    shrinks this towards 0. A batch without two classes of one group, or of two groups, has 0.

    >>> features, groups = torch.eye(2)[[0, 0, 1]], torch.tensor([0, 0, 1])
    >>> round(batch_contrast(features, torch.arange(3), torch.ones(3, 2), groups).item(), 4)
    1.0
    """
    similarity, present = batch_similarity(features, labels, head)
    if len(groups[present].unique()) in (1, len(present)):
        return similarity.sum() * 0
    inside, across = group_similarity(similarity, groups[present])
    return inside - across


def placebo(features: Features, labels: Labels, model: Network) -> Float[Tensor, ""]:
    r"""0, with a gradient as long as that of :func:`batch_cas` and at right angles to it.

    .. math:: g' = \frac{\|g\|}{\|r\|} r, \qquad
              r = h - \frac{\langle h, g \rangle}{\langle g, g \rangle} g

    with :math:`g` the gradient of CAS in all weights that learn and :math:`h` that of CAS after
    each class's attribution was put into an order of its own, random but the same throughout. So it
    pushes as hard as CAS, as steadily, on the same weights and by the same formula, towards
    features that match at random, and moves the batch's CAS not at all to first order.

    >>> from ccnotes.models import ConvNet
    >>> model = ConvNet(num_classes=3, width=4)
    >>> placebo(model.features(torch.rand(3, 3, 8, 8)), torch.arange(3), model).item()
    0.0
    """
    head = model.head.weight
    random = torch.Generator().manual_seed(0)
    orders = torch.rand(head.shape, generator=random).argsort(1).to(head.device)
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    terms = batch_cas(features, labels, head), batch_cas(features, labels, head, orders)
    wanted, other = (
        flat(torch.autograd.grad(term, weights, retain_graph=True, materialize_grads=True))
        for term in terms
    )
    tiny = torch.finfo(torch.float32).tiny
    rest = other - other @ wanted / (wanted @ wanted).clamp_min(tiny) * wanted
    push: Tensor = flat(weights) @ rest * wanted.norm() / rest.norm().clamp_min(tiny)
    return push - push.detach()


def flat(tensors: Iterable[Tensor]) -> Float[Tensor, " values"]:
    """All their values in a row."""
    return torch.cat([tensor.flatten() for tensor in tensors])


@contextmanager
def perturbed(model: nn.Module, gamma: float) -> Iterator[None]:
    r"""Adversarial weight perturbation: a block in which the loss is about the worst nearby.

    .. math:: w_l + \gamma \, \|w_l\| \, g_l / \|g_l\|

    for each layer's weights (not for biases and BatchNorm), with ``g`` their gradient at the
    attacked batch, which the model must hold; afterwards the weights are as before. So are
    BatchNorm's statistics: they stay those of the weights that are evaluated.
    Wu et al. (2020), arXiv:2004.05884.

    >>> model = nn.Linear(1, 1, bias=False)
    >>> model.weight.data, model.weight.grad = torch.full((1, 1), 2.0), torch.ones(1, 1)
    >>> with perturbed(model, gamma=0.5):
    ...     print(model.weight.item())
    3.0
    """
    gradients = {p: p.grad for p in model.parameters() if p.ndim > 1 and p.grad is not None}
    kept = [value.detach().clone() for value in (*gradients, *model.buffers())]
    with torch.no_grad():
        for p, gradient in gradients.items():
            p.add_(gamma * p.norm() / gradient.norm().clamp_min(1e-12) * gradient)
    try:
        yield
    finally:
        with torch.no_grad():
            for value, before in zip((*gradients, *model.buffers()), kept, strict=True):
                value.copy_(before)
