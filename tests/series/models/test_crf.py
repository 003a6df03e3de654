"""The field against all of its paths, one by one."""

import itertools
import math
from collections.abc import Callable, Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.compare import assert_close_by_name, collect, leaves
from unrolled.series.models import crf as module
from unrolled.series.models.crf import Allowed, LinearChainCRF, log_partition_of_logs
from unrolled.series.models.tagging import allowed_by_scheme

SCHEMES = {
    "BIO": ["O", "B-x", "I-x", "B-y", "I-y"],
    "BMES": ["B", "M", "E", "S"],
    "without S": ["B", "M", "E"],
    "without a beginning": ["I-x", "O", "E-x", "B-y"],
}


def crf_of(
    tags: int, allowed: Allowed | None = None, *, dtype: torch.dtype = torch.float64
) -> LinearChainCRF:
    crf = LinearChainCRF(tags, allowed=allowed).to(dtype)
    for parameter in crf.parameters():
        nn.init.normal_(parameter)
    return crf


def paths(tags: int, steps: int) -> Iterator[tuple[int, ...]]:
    return itertools.product(range(tags), repeat=steps)


def score_of(crf: LinearChainCRF, x: Tensor, path: tuple[int, ...]) -> Tensor:
    """As the docstring has it, for one sequence ``[T, K]``."""
    start, transition, end = crf.scores()
    if not path:
        return x.new_zeros(())
    total = start[path[0]] + end[path[-1]]
    for t, tag in enumerate(path):
        total = total + x[t, tag]
        if t:
            total = total + transition[path[t - 1], tag]
    return total


def enumerated(crf: LinearChainCRF, x: Tensor) -> dict[str, Tensor]:
    """Of one sequence ``[T, K]`` by all of its paths: log Z, the marginals, the best path's score."""
    steps, tags = x.shape
    every = list(paths(tags, steps))
    scores = torch.stack([score_of(crf, x, path) for path in every])
    total = torch.logsumexp(scores, 0)
    marginals = x.new_zeros(steps, tags)
    for path, p in zip(every, (scores - total).exp(), strict=True):
        for t, tag in enumerate(path):
            marginals[t, tag] += p
    return {"log Z": total, "marginals": marginals, "best": scores.max()}


def ragged(tags: int, *, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    return torch.randn(4, 6, tags, dtype=dtype), torch.tensor([2, 4, 0, 1, 3, 4])


@pytest.mark.parametrize("name", ["none", *SCHEMES])
def test_every_number_is_that_of_all_paths(name: str) -> None:
    tags = SCHEMES.get(name, ["a", "b", "c"])
    crf = crf_of(len(tags), allowed_by_scheme(tags))
    x, lengths = ragged(len(tags))
    found, decoded = crf.log_partition(x, lengths), crf.decode(x, lengths)
    marginals = crf.marginals(x, lengths)
    for b, length in enumerate(lengths.tolist()):
        expected = enumerated(crf, x[:length, b])
        got = {"log Z": found[b], "marginals": marginals[:length, b], "best": decoded.scores[b]}
        assert_close_by_name(got, expected, length)
        path = tuple(decoded.tags[:length, b].tolist())
        best = {"best": score_of(crf, x[:, b], path)}
        assert_close_by_name(best, {"best": expected["best"]}, length)
        assert (decoded.tags[length:, b] == -1).all()
        assert (marginals[length:, b] == 0).all()


def gradients(
    crf: LinearChainCRF, x: Tensor, log_partition: Callable[..., Tensor]
) -> dict[str, Tensor]:
    (x,) = leaves(x)
    return collect({"log Z": log_partition(x)}, {"x": x} | dict(crf.named_parameters()))


@pytest.mark.parametrize("name", ["none", *SCHEMES])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["32", "64"])
def test_the_gradient_is_that_of_logarithms(name: str, dtype: torch.dtype) -> None:
    tags = SCHEMES.get(name, ["a", "b", "c"])
    crf = crf_of(len(tags), allowed_by_scheme(tags), dtype=dtype)
    x, lengths = ragged(len(tags), dtype=dtype)
    assert crf.mixing is not None
    by_logs = gradients(crf, x, lambda x: log_partition_of_logs(x, *crf.scores(), lengths))
    assert_close_by_name(gradients(crf, x, lambda x: crf.log_partition(x, lengths)), by_logs, 4)


@pytest.mark.parametrize("name", ["none", "BIO"])
def test_the_gradient_of_the_likelihood_is_that_of_finite_differences(name: str) -> None:
    tags = SCHEMES.get(name, ["a", "b", "c"])
    crf = crf_of(len(tags), allowed_by_scheme(tags))
    x, lengths = ragged(len(tags))
    y = crf.decode(x, lengths).tags

    def likelihood(x: Tensor, *parameters: Tensor) -> Tensor:
        named = dict(zip(dict(crf.named_parameters()), parameters, strict=True))
        found: Tensor = torch.func.functional_call(crf, named, (x, y, lengths))
        return found

    torch.autograd.gradcheck(likelihood, leaves(x, *crf.parameters()))


@given(
    tags=st.integers(1, 4),
    steps=st.integers(1, 4),
    scale=st.sampled_from([0.0, 1.0, 30.0, 400.0, 1e4]),
    seed=st.integers(0, 2**31),
    constrained=st.booleans(),
)
def test_whatever_the_scores(
    tags: int, steps: int, scale: float, seed: int, constrained: bool
) -> None:
    """Also where the probabilities of tags are further apart than float64 can hold."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64) * scale

    allowed = None
    if constrained:
        flags = [
            torch.rand(shape, generator=generator) < 0.7
            for shape in ((tags,), (tags, tags), (tags,))
        ]
        flags[0][0] = flags[1][0, 0] = flags[2][0] = True  # the path of zeros
        allowed = Allowed(*flags)
    crf = LinearChainCRF(tags, allowed=allowed).double()
    with torch.no_grad():
        for parameter in crf.parameters():
            parameter.copy_(drawn(*parameter.shape))
    x = drawn(steps, 1, tags)
    expected = enumerated(crf, x[:, 0])
    decoded = crf.decode(x)
    got = {
        "log Z": crf.log_partition(x)[0],
        "marginals": crf.marginals(x)[:, 0],
        "best": decoded.scores[0],
    }
    # A sum of T large scores is as exact as the largest; what it leaves of a probability p is p times that.
    allowed_error = 1e-14 * steps * max(1.0, scale)
    for name, want in expected.items():
        assert torch.allclose(got[name], want, rtol=1e-12, atol=allowed_error), name
    assert math.isfinite(score_of(crf, x[:, 0], tuple(decoded.tags[:, 0].tolist())).item())


def test_a_sequence_is_the_same_alone_and_in_a_batch() -> None:
    crf = crf_of(5)
    x, lengths = ragged(5)
    x[2:, 0] = math.nan  # what stands beyond a length changes nothing
    y = torch.randint(5, (4, 6))
    y[2:, 0] = 99
    (x,) = leaves(x)
    together = crf(x, y, lengths)
    (given_,) = torch.autograd.grad(together.sum(), x)
    decoded = crf.decode(x, lengths)
    for b, length in enumerate(lengths.tolist()):
        (alone,) = leaves(x[:length, b : b + 1])
        likelihood = crf(alone, y[:length, b : b + 1])
        (gradient,) = torch.autograd.grad(likelihood.sum(), alone, materialize_grads=True)
        assert_close_by_name(
            {"likelihood": together[b : b + 1], "gradient": given_[:length, b : b + 1]},
            {"likelihood": likelihood, "gradient": gradient},
            length,
        )
        assert (given_[length:, b] == 0).all()
        assert torch.equal(decoded.tags[:length, b], crf.decode(alone).tags[:, 0])


def test_probabilities_sum_to_one() -> None:
    crf = crf_of(4, allowed_by_scheme(SCHEMES["BMES"]))
    x, lengths = ragged(4)
    assert torch.allclose(
        crf.marginals(x, lengths).sum(2), (crf.marginals(x, lengths).sum(2) > 0).double()
    )
    total = sum(crf(x[:, 1:2], torch.tensor(path).unsqueeze(1)).exp() for path in paths(4, 4))
    assert torch.allclose(torch.as_tensor(total), torch.ones(1, dtype=torch.float64))


def test_constraints_are_never_violated() -> None:
    """Whatever the scores say: here that every step is an inside."""
    tags = SCHEMES["BIO"]
    allowed = allowed_by_scheme(tags)
    assert allowed is not None
    crf = crf_of(len(tags), allowed)
    x = torch.randn(50, 20, len(tags), dtype=torch.float64) * 100
    x[:, :, tags.index("I-y")] += 1000
    path, lengths = crf.decode(x).tags, torch.full((20,), 50)
    assert allowed.start[path[0]].all()
    assert allowed.end[path[-1]].all()
    assert allowed.transition[path[:-1], path[1:]].all()
    assert (crf.marginals(x, lengths)[0, :, ~allowed.start] == 0).all()
    wrong = torch.full((50, 20), tags.index("I-y"))
    assert (crf(x, wrong) == -math.inf).all()


def test_of_equal_paths_the_first_is_taken_each_time() -> None:
    crf = LinearChainCRF(3)
    x = torch.zeros(5, 2, 3)
    assert (crf.decode(x).tags == 0).all()
    assert torch.allclose(crf.marginals(x), torch.tensor(1 / 3))


def test_far_apart_scores_go_by_logarithms(monkeypatch: pytest.MonkeyPatch) -> None:
    crf = crf_of(3)
    called = []
    monkeypatch.setattr(
        module, "log_partition_of_logs", lambda *given: called.append(given) or given[0].sum((0, 2))
    )
    crf.log_partition(torch.randn(3, 2, 3, dtype=torch.float64))
    assert not called
    crf.log_partition(torch.tensor([[[0.0, 1000.0, 0.0]]], dtype=torch.float64))
    assert called


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_score_that_is_no_number_is_no_likelihood_and_no_path(value: float) -> None:
    crf = crf_of(3)
    x = torch.randn(4, 2, 3, dtype=torch.float64)
    x[2, 1, 0] = value
    found = crf.log_partition(x)
    assert found[0].isfinite() and not found[1].isfinite()
    with pytest.raises(
        ValueError, match=rf"x: got {value} at step 2 of sequence 1, expected finite"
    ):
        crf.decode(x)
    assert crf.decode(x, [4, 2]).scores.isfinite().all()


def test_minus_infinity_is_a_tag_that_cannot_be() -> None:
    crf = crf_of(3)
    x = torch.randn(4, 1, 3, dtype=torch.float64)
    x[1, 0, 2] = x[2, 0, 0] = -math.inf
    expected = enumerated(crf, x[:, 0])
    (x,) = leaves(x)
    found = crf.log_partition(x)
    (gradient,) = torch.autograd.grad(found.sum(), x)
    assert_close_by_name(
        {"log Z": found[0], "marginals": gradient[:, 0]},
        {"log Z": expected["log Z"], "marginals": expected["marginals"]},
        4,
    )
    assert crf.decode(x).tags[1] != 2


def test_no_path_is_said() -> None:
    flags = torch.tensor([True, False])
    crf = LinearChainCRF(2, allowed=Allowed(flags, torch.ones(2, 2).bool(), ~flags))
    x = torch.zeros(2, 2, 2)
    assert crf.decode(x).tags.T.tolist() == [[0, 1], [0, 1]]
    assert crf.log_partition(x, [2, 1]).tolist() == [0.0, -math.inf]
    with pytest.raises(ValueError, match="sequence 1 of 1 steps has no path that is allowed"):
        crf.decode(x, [2, 1])


def test_no_step_and_no_sequence() -> None:
    crf = crf_of(3, dtype=torch.float32)
    for shape in ((0, 2, 3), (3, 0, 3)):
        x = torch.zeros(shape)
        assert crf(x, torch.zeros(shape[:2], dtype=torch.int64)).tolist() == [0.0] * shape[1]
        assert crf.decode(x).tags.shape == shape[:2]
        assert crf.marginals(x).shape == shape


def test_a_long_sequence_neither_overflows_nor_fades() -> None:
    """Z of equal scores is Kᵀ."""
    crf = LinearChainCRF(7)
    x = torch.full((3000, 1, 7), 5.0)
    assert crf.log_partition(x).item() == pytest.approx(3000 * (5 + math.log(7)), rel=1e-6)


def test_the_constraints_are_there_without_memory_for_weights() -> None:
    """As a run makes its model before it reads the weights."""
    allowed = allowed_by_scheme(SCHEMES["BMES"])
    with torch.device("meta"):
        crf = LinearChainCRF(4, allowed=allowed)
    weights = LinearChainCRF(4).state_dict()
    crf.load_state_dict(weights, assign=True)
    assert crf.decode(torch.tensor([[[0.0, 9.0, 9.0, 1.0]]])).tags.tolist() == [[3]]
    assert list(crf.state_dict()) == ["start", "transition", "end"]


def test_what_is_refused() -> None:
    crf = LinearChainCRF(3)
    x, y = torch.zeros(2, 1, 3), torch.zeros(2, 1, dtype=torch.int64)
    for call, error, message in (
        (lambda: LinearChainCRF(0), ValueError, "tags: got 0, expected at least 1"),
        (lambda: crf(x[0], y), ValueError, r"x: got shape \[1, 3\], expected \[T, B, 3\]"),
        (lambda: crf(x.long(), y), TypeError, "x: got torch.int64, expected a floating dtype"),
        (
            lambda: crf(x, y.float()),
            TypeError,
            r"tags: got torch.float32, expected an int64 .*\[2, 1\]",
        ),
        (lambda: crf(x, y[:1]), ValueError, r"tags: got shape \[1, 1\], expected \[2, 1\] as x"),
        (lambda: crf(x, y + 3), ValueError, "tags: got 3, expected from 0 to 2"),
        (lambda: crf(x, y, [3]), ValueError, "lengths: got 3, expected from 0 to T = 2"),
        (
            lambda: LinearChainCRF(2, allowed=Allowed(*[torch.ones(2)] * 3)),
            TypeError,
            r"allowed.start: got torch.float32, expected a boolean tensor \[2\]",
        ),
        (
            lambda: LinearChainCRF(2, allowed=Allowed(*[torch.ones(2).bool()] * 3)),
            ValueError,
            r"allowed.transition: got shape \[2\], expected \[2, 2\]",
        ),
        (
            lambda: LinearChainCRF(1, allowed=Allowed(torch.zeros(1).bool(), *[x.bool()] * 2)),
            ValueError,
            "allowed.start: got none, expected at least one",
        ),
    ):
        with pytest.raises(error, match=message):
            call()
