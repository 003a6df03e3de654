"""Every measure of the lens against the equations of ``torch.nn``, differentiated by jacrev."""

import math
from collections.abc import Callable
from typing import NamedTuple, cast

import pytest
import torch
from torch import Tensor, nn
from torch.func import jacrev
from torch.nn.utils.rnn import pack_padded_sequence

import unrolled
from tests.compare import assert_close_by_name, parameters_by_torch_name, tolerance
from tests.examples import some
from unrolled import Recurrent, cells, lens
from unrolled.layers.finding import Layer
from unrolled.lens.causes import causes_of
from unrolled.lens.examining import ScanIndex
from unrolled.lens.lags import estimated_lags
from unrolled.scan import Backend

T, B, D, H = 5, 3, 3, 4
ROUNDING = T * tolerance(torch.float64, T)  # of sums of T logarithms, each off by a step's rounding
SIGMAS = 5  # how many standard deviations a sample may be off

Step = Callable[[Tensor, Tensor, Tensor], Tensor]  # u = U x + b, w = W h + b', the state before

# --- The oracle: equations as in the documentation of torch.nn, one sequence at a time ------------------


def elman(f: Callable[[Tensor], Tensor]) -> Step:
    return lambda u, w, s: f(u + w)


def lstm(u: Tensor, w: Tensor, s: Tensor) -> Tensor:
    i, f, g, o = (u + w).chunk(4)
    c = torch.sigmoid(f) * s[H:] + torch.sigmoid(i) * torch.tanh(g)
    return torch.cat([torch.sigmoid(o) * torch.tanh(c), c])


def gru(u: Tensor, w: Tensor, s: Tensor) -> Tensor:
    (u_r, u_z, u_n), (w_r, w_z, w_n) = u.chunk(3), w.chunk(3)
    z = torch.sigmoid(u_z + w_z)
    n = torch.tanh(u_n + torch.sigmoid(u_r + w_r) * w_n)
    return (1 - z) * n + z * s


class Equations(NamedTuple):
    step: Step
    gates: str
    """One letter for each block of W."""
    slope: Callable[[Tensor], Tensor] | None = None
    """Of an Elman network: f' of the pre-activation."""
    steepest: float = 1.0


EQUATIONS = {
    "tanh": Equations(elman(torch.tanh), "s", lambda z: 1 - z.tanh() ** 2),
    "sigmoid": Equations(
        elman(torch.sigmoid), "s", lambda z: z.sigmoid() * (1 - z.sigmoid()), 0.25
    ),
    "relu": Equations(elman(torch.relu), "s", lambda z: (z > 0).double()),
    "LSTM": Equations(lstm, "ifgo"),
    "GRU": Equations(gru, "rzn"),
}


class Oracle:
    """The network of a layer of depth 2 and two directions; of a scan, by its place.

    ``push``, ``[T + 1, n]``, is added to the state of a scan where it is carried on: before the first step,
    then after every step. The h of an LSTM's step is made of its c before that is pushed.
    """

    def __init__(self, layer: Layer, kind: str) -> None:
        named = (
            parameters_by_torch_name(layer)
            if isinstance(layer, Recurrent)
            else dict(layer.named_parameters())
        )
        self.weights = {name: p.detach().clone() for name, p in named.items()}
        self.equations = EQUATIONS[kind]
        self.width = 2 * H if kind == "LSTM" else H
        self.places = [(k, d) for k in range(2) for d in range(2) if self.has((k, d))]

    def has(self, place: ScanIndex) -> bool:
        return self.name("weight_hh", place) in self.weights

    def name(self, what: str, place: ScanIndex) -> str:
        return f"{what}_l{place[0]}" + "_reverse" * place[1]

    def weight(self, what: str, place: ScanIndex) -> Tensor:
        return self.weights[self.name(what, place)]

    def given(self, place: ScanIndex, x: Tensor) -> Tensor:
        """U x + b, ``[T, G * H]``, in the order of the steps."""
        u = x @ self.weight("weight_ih", place).T + self.weight("bias_ih", place)
        return u.flip(0) if place[1] else u

    def recurrent(self, place: ScanIndex, s: Tensor) -> Tensor:
        """W h + b'."""
        return self.weight("weight_hh", place) @ s[:H] + self.weight("bias_hh", place)

    def states(self, place: ScanIndex, u: Tensor, push: Tensor) -> Tensor:
        """``[T + 1, n]``, in the order of the steps."""
        s = [push[0]]
        for given, off in zip(u, push[1:], strict=True):
            s.append(self.equations.step(given, self.recurrent(place, s[-1]), s[-1]) + off)
        return torch.stack(s)

    def zeros(self, steps: int) -> Tensor:
        return torch.zeros(steps + 1, self.width, dtype=torch.float64)

    def run(
        self, x: Tensor, pushes: dict[ScanIndex, Tensor] | None = None
    ) -> tuple[Tensor, dict[ScanIndex, Tensor]]:
        """Of a sequence ``[T, D]`` the outputs, and what each scan is given, ``[T, G * H]``."""
        seen, every = x, {}
        for level in sorted({level for level, _ in self.places}):
            outputs = []
            for place in (p for p in self.places if p[0] == level):
                every[place] = self.given(place, seen)
                push = self.zeros(len(x)) if pushes is None else pushes[place]
                h = self.states(place, every[place], push)[1:, :H]
                outputs.append(h.flip(0) if place[1] else h)
            seen = torch.cat(outputs, -1)
        return seen, every

    def reach(self, place: ScanIndex, u: Tensor) -> Tensor:
        """∂s_t/∂s_k for t > k, ``[T + 1, T + 1, n, n]``, in the order of the steps."""
        pushed = jacrev(lambda push: self.states(place, u, push))(self.zeros(len(u)))
        return cast(Tensor, pushed).transpose(1, 2)


class Case(NamedTuple):
    make: Callable[..., Layer]
    kind: str
    backend: Backend | None


def _cases() -> dict[str, Case]:
    deep = {"bidirectional": True}
    elmans = {
        f"Recurrent Elman {f}": (
            lambda f=f, **o: Recurrent(cells.Elman, D, H, depth=2, activation=f, **o),
            f,
        )
        for f in ("tanh", "sigmoid", "relu")
    }
    ours: dict[str, tuple[Callable[..., Layer], str]] = {
        **elmans,
        "Recurrent LSTM": (lambda **o: Recurrent(cells.LSTM, D, H, depth=2, **o), "LSTM"),
        "Recurrent GRU": (lambda **o: Recurrent(cells.GRU, D, H, depth=2, **o), "GRU"),
        "drop-in layer RNN": (lambda **o: unrolled.RNN(D, H, 2, **o), "tanh"),
        "drop-in layer LSTM": (lambda **o: unrolled.LSTM(D, H, 2, **o), "LSTM"),
        "drop-in layer GRU": (lambda **o: unrolled.GRU(D, H, 2, **o), "GRU"),
    }
    theirs: dict[str, tuple[Callable[..., Layer], str]] = {
        "torch RNN tanh": (lambda **o: nn.RNN(D, H, 2, **o), "tanh"),
        "torch RNN relu": (lambda **o: nn.RNN(D, H, 2, nonlinearity="relu", **o), "relu"),
        "torch LSTM": (lambda **o: nn.LSTM(D, H, 2, **o), "LSTM"),
        "torch GRU": (lambda **o: nn.GRU(D, H, 2, **o), "GRU"),
    }
    found = {name: Case(lambda m=m: m(**deep), kind, None) for name, (m, kind) in theirs.items()}
    for name, (m, kind) in ours.items():
        for backend in ("auto", "reference"):
            found[f"{name}, {backend}"] = Case(
                lambda m=m, b=backend: m(backend=b, **deep), kind, backend
            )
    return found


CASES = _cases()
every_case = pytest.mark.parametrize("name", CASES)
each_kind = pytest.mark.parametrize(
    "name",
    some(
        CASES,
        "torch RNN tanh",
        "torch LSTM",
        "torch GRU",
        "Recurrent Elman relu, auto",
        "Recurrent Elman sigmoid, reference",
        "Recurrent LSTM, auto",
        "Recurrent GRU, reference",
        "drop-in layer RNN, reference",
        "drop-in layer LSTM, auto",
        "drop-in layer GRU, auto",
    ),
)
once_a_kind = pytest.mark.parametrize("name", [n for n, c in CASES.items() if c.backend != "auto"])


def prepared(name: str, batch_size: int = B) -> tuple[Layer, Oracle, Tensor]:
    """A layer of large weights, its oracle, and an input."""
    layer = CASES[name].make().double()
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.5)
    return (
        layer,
        Oracle(layer, CASES[name].kind),
        torch.randn(T, batch_size, D, dtype=torch.float64),
    )


def in_time(found: Tensor, place: ScanIndex) -> Tensor:
    return found.flip(0) if place[1] else found


@every_case
def test_the_oracle_computes_what_the_layer_does(name: str) -> None:
    layer, oracle, x = prepared(name)
    y = torch.stack([oracle.run(x[:, b])[0] for b in range(B)], 1)
    assert_close_by_name({"y": layer(x)[0].detach()}, {"y": y}, T)
    with pytest.raises(AssertionError, match="y: "):
        oracle.weights["bias_hh_l0"][0] += 1e-9
        wrong = torch.stack([oracle.run(x[:, b])[0] for b in range(B)], 1)
        assert_close_by_name({"y": wrong}, {"y": y}, T)


# --- The norms of a backward pass ------------------------------------------------------------------


def pushed_norms(
    oracle: Oracle, x: Tensor, lengths: list[int], weight: Tensor
) -> dict[str, Tensor]:
    """The norms of the loss' derivatives by what is added to each state, ``[T, B]`` by place and name."""
    names = ("h", "c")[: oracle.width // H]
    found = {f"{p} {n}": torch.zeros(T, x.shape[1]).double() for p in oracle.places for n in names}
    for b, length in enumerate(lengths):
        if length == 0:
            continue

        def lost(pushes: dict[ScanIndex, Tensor], b: int = b, length: int = length) -> Tensor:
            return loss(oracle.run(x[:length, b], pushes)[0], weight[:length, b])

        got = jacrev(lost)({place: oracle.zeros(length) for place in oracle.places})
        for place, gradient in got.items():
            for n, part in zip(names, in_time(gradient[1:], place).split(H, -1), strict=True):
                found[f"{place} {n}"][:length, b] = part.norm(dim=-1)
    return found


def loss(y: Tensor, weight: Tensor) -> Tensor:
    return (weight * y + y.square()).sum()


@pytest.mark.each_value
@every_case
@pytest.mark.parametrize("lengths", [[T, T, T], [T, 3, 1], [4, 2, 0]])
def test_the_norms_of_every_state(name: str, lengths: list[int]) -> None:
    layer, oracle, x = prepared(name)
    weight = torch.randn(T, B, 2 * H, dtype=torch.float64)
    expected = pushed_norms(oracle, x, lengths, weight)
    with unrolled.watch(layer) as seen:
        if lengths == [T, T, T]:
            y = layer(x)[0]
        elif CASES[name].backend is None and min(lengths) > 0:
            packed = pack_padded_sequence(x, lengths)
            y = nn.utils.rnn.pad_packed_sequence(layer(packed)[0])[0]
        else:
            y = layer(x, lengths=lengths)[0]
        loss(y, weight[: len(y)]).backward()
    assert [(f.level, f.direction) for f in seen.flows] == oracle.places
    got = {
        f"{(f.level, f.direction)} {n}": torch.where(f.real, norm, 0).nan_to_num(0)  # none came
        for f in seen.flows
        for n, norm in f.norms.items()
    }
    assert_close_by_name(got, expected, 4 * T)  # 2 levels, there and back
    for flow in seen.flows:
        assert flow.real.sum(0).tolist() == lengths and not seen.broken()


@pytest.mark.parametrize(
    "name", ["torch LSTM", "drop-in layer RNN, auto", "Recurrent GRU, reference"]
)
def test_the_norms_of_one_step_and_one_sequence(name: str) -> None:
    layer, oracle, x = prepared(name, 1)
    weight = torch.randn(1, 1, 2 * H, dtype=torch.float64)
    with unrolled.watch(layer) as seen:
        loss(layer(x[:1])[0], weight).backward()
    for flow in seen.flows:
        (expected,) = pushed_norms(oracle, x, [1], weight)[f"{(flow.level, flow.direction)} h"][0]
        torch.testing.assert_close(flow.h, expected.view(1, 1))


@pytest.mark.parametrize("name", ["torch LSTM", "Recurrent GRU, auto"])
def test_the_rows_of_a_report_are_means_over_the_sequences(name: str) -> None:
    layer, oracle, x = prepared(name)
    weight = torch.randn(T, B, 2 * H, dtype=torch.float64)
    expected = pushed_norms(oracle, x, [T, 3, 1], weight)
    with unrolled.watch(layer) as seen:
        loss(layer(x, lengths=[T, 3, 1])[0], weight).backward()
    count = torch.tensor([3, 2, 2, 1, 1]).double()
    for row in seen.report().rows:
        norms = expected[f"{(row.level, row.direction)} h"]
        torch.testing.assert_close(row.norms, norms.sum(1) / count)
        spread = [
            sequence[: int(n)].std(correction=0)
            for sequence, n in zip(norms, count.int(), strict=True)
        ]
        torch.testing.assert_close(row.spread, torch.stack(spread), atol=1e-9, rtol=1e-7)


# --- Jacobians, lags, influence --------------------------------------------------------------------


@each_kind
def test_jacobians(name: str) -> None:
    layer, oracle, x = prepared(name)
    for scan in lens.recurrences(layer, x):
        place = (scan.level, scan.direction)
        got = scan.jacobians()
        for b in range(B):
            reach = oracle.reach(place, oracle.run(x[:, b])[1][place])
            expected = torch.stack([reach[t + 1, t] for t in range(T)])
            assert_close_by_name(
                {f"J of sequence {b}": got[:, b]}, {f"J of sequence {b}": expected}, T
            )


@pytest.mark.each_value
@each_kind
@pytest.mark.parametrize("norm", ["rms", "spectral"])
def test_lag_matrices(name: str, norm: lens.lags.MatrixNorm) -> None:
    layer, oracle, x = prepared(name)
    reaches = [{p: oracle.reach(p, u) for p, u in oracle.run(x[:, b])[1].items()} for b in range(B)]
    for place in oracle.places:
        expected = torch.full((T, T), math.nan, dtype=torch.float64)
        expected[:, 0] = 1.0
        for t in range(T):
            for k in range(1, t + 1):
                found = torch.stack([r[place][t + 1, t + 1 - k] for r in reaches])
                sizes = (
                    torch.linalg.matrix_norm(found, 2)
                    if norm == "spectral"
                    else torch.linalg.matrix_norm(found, "fro") / math.sqrt(oracle.width)
                )
                expected[t, k] = sizes.mean()
        got = lens.lag_matrix(layer, x, level=place[0], direction=place[1], norm=norm)
        assert_close_by_name({"lags": got}, {"lags": in_time(expected, place)}, T * T)
        few = lens.lag_matrix(layer, x, level=place[0], direction=place[1], norm=norm, lags=2)
        assert torch.equal(few.nan_to_num(-1), got[:, :2].nan_to_num(-1))


@each_kind
def test_influence(name: str) -> None:
    layer, oracle, x = prepared(name)
    by_sequence = [jacrev(lambda seen: oracle.run(seen)[0])(x[:, b]) for b in range(B)]
    expected = torch.stack([cast(Tensor, j).square().sum((1, 3)).sqrt() for j in by_sequence]).mean(
        0
    )
    assert_close_by_name({"y by x": lens.influence(layer, x)}, {"y by x": expected}, 4 * T)


def test_influence_of_one_direction_is_lower_triangular() -> None:
    layer = nn.LSTM(D, H, 2).double()
    oracle, x = Oracle(layer, "LSTM"), torch.randn(T, 1, D, dtype=torch.float64)
    expected = cast(Tensor, jacrev(lambda seen: oracle.run(seen)[0])(x[:, 0]))
    got = lens.influence(layer, x)
    assert_close_by_name({"y by x": got}, {"y by x": expected.square().sum((1, 3)).sqrt()}, 4 * T)
    assert torch.equal(got, got.tril())


# --- The long run ----------------------------------------------------------------------------------


def by_step(oracle: Oracle, x: Tensor, place: ScanIndex) -> Tensor:
    """The Jacobians ``[T, B, n, n]``, in the order of the steps."""
    sequences = []
    for b in range(x.shape[1]):
        reach = oracle.reach(place, oracle.run(x[:, b])[1][place])
        sequences.append(torch.stack([reach[t + 1, t] for t in range(len(x))]))
    return torch.stack(sequences, 1)


@each_kind
def test_lyapunov_exponents_and_the_condition_number(name: str) -> None:
    layer, oracle, x = prepared(name)
    for place in oracle.places:
        jacobians = by_step(oracle, x, place)
        n, at = oracle.width, {"level": place[0], "direction": place[1]}
        got = lens.lyapunov(layer, x, warmup=0, **at)
        assert got.shape == (n,) and torch.equal(got, got.sort(descending=True).values)
        dets = torch.linalg.slogdet(jacobians).logabsdet
        if dets.isinf().any():  # a unit of ReLU whose slope is 0
            assert name.lower().count("relu") and got[-1] == -math.inf
            assert lens.log_condition(layer, x, **at) == math.inf
            continue
        # Each logarithm is off by what a step rounds, times how far its directions lie apart.
        rounding = ROUNDING * float(torch.linalg.cond(jacobians).max())
        assert float(got.sum()) == pytest.approx(float(dets.mean()), abs=n * rounding)

        drawn = torch.randn(n, n, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        q, logs = torch.linalg.qr(drawn)[0].expand(B, n, n), torch.zeros(B, n).double()
        for j in jacobians:
            q, r = torch.linalg.qr(j @ q)
            logs += r.diagonal(dim1=-2, dim2=-1).abs().log()
        expected = (logs / T).sort(-1, descending=True).values.mean(0)
        torch.testing.assert_close(got, expected, rtol=0, atol=rounding)

        product = jacobians[0]
        for j in jacobians[1:]:
            product = j @ product
        singular = torch.linalg.svdvals(product)
        condition = singular[:, 0] / singular[:, -1]
        # The smallest singular value of the product is known to eps * condition alone.
        off = 100 * T * torch.finfo(torch.float64).eps * float(condition.max())
        if off < 0.1:
            want = pytest.approx(float(condition.log().mean()), abs=off)
            assert lens.log_condition(layer, x, **at) == want


def test_exponents_do_not_depend_on_the_directions_at_the_start() -> None:
    """Where they lie apart by a gap, what others leave falls as exp(-gap) a step of the warm-up."""
    layer = nn.RNN(D, H, bias=True).double()
    turn = torch.linalg.qr(torch.randn(H, H, dtype=torch.float64))[0]
    values = torch.tensor([0.9, 0.4, 0.15, 0.05], dtype=torch.float64)
    with torch.no_grad():
        layer.weight_hh_l0.copy_(turn @ values.diag() @ turn.T)
        layer.weight_ih_l0.mul_(0.3)
        layer.bias_ih_l0.zero_()
        layer.bias_hh_l0.zero_()
    x, warmup = torch.randn(80, 1, D, dtype=torch.float64), 60
    q, logs = torch.linalg.qr(torch.randn(H, H, dtype=torch.float64))[0], torch.zeros(H).double()
    for t, j in enumerate(by_step(Oracle(layer, "tanh"), x, (0, 0))[:, 0]):
        q, r = torch.linalg.qr(j @ q)
        logs += r.diagonal().abs().log() if t >= warmup else 0
    expected = logs / (len(x) - warmup)
    off = 10 * math.exp(-warmup * float((expected[:-1] - expected[1:]).min()))
    assert off < 1e-9
    got = lens.lyapunov(layer, x, warmup=warmup)
    torch.testing.assert_close(got, expected, rtol=0, atol=off + 1e-13)
    two = lens.lyapunov(layer, x, 2, warmup=warmup)
    torch.testing.assert_close(two, expected[:2], rtol=0, atol=off + 1e-13)


# --- Causes ----------------------------------------------------------------------------------------


class Apart(NamedTuple):
    """A scan's Jacobians of a sequence, ``[T, n, n]``, and what of them is on each path."""

    whole: Tensor
    direct: Tensor
    blocks: list[Tensor]
    slopes: Tensor
    """f' of an Elman cell, ``[T, H]``; else of no meaning."""
    before: Tensor
    u: Tensor


def apart(oracle: Oracle, place: ScanIndex, u: Tensor) -> Apart:
    before = oracle.states(place, u, oracle.zeros(len(u)))[:-1]
    step, count = oracle.equations.step, len(oracle.equations.gates)

    def fixed(s: Tensor, given: Tensor) -> Tensor:
        return step(given, oracle.recurrent(place, s), s)

    whole, direct, blocks, slopes = [], [], [[] for _ in range(count)], []
    for given, s in zip(u, before, strict=True):
        w = oracle.recurrent(place, s)
        whole.append(jacrev(fixed)(s, given))
        direct.append(jacrev(lambda s, given=given, w=w: step(given, w, s))(s))
        for k in range(count):

            def through(moved: Tensor, given: Tensor = given, s: Tensor = s, k: int = k) -> Tensor:
                parts = list(oracle.recurrent(place, s).chunk(count))
                parts[k] = oracle.recurrent(place, moved).chunk(count)[k]
                return step(given, torch.cat(parts), s)

            blocks[k].append(jacrev(through)(s))
        slope = oracle.equations.slope
        slopes.append(s[:H] if slope is None else slope(given + w))
    stacked = [torch.stack(b) for b in blocks]
    return Apart(torch.stack(whole), torch.stack(direct), stacked, torch.stack(slopes), before, u)


def taken_apart(oracle: Oracle, x: Tensor, place: ScanIndex) -> list[Apart]:
    return [apart(oracle, place, oracle.run(x[:, b])[1][place]) for b in range(x.shape[1])]


class Way(NamedTuple):
    """Along the way back of a sequence: the log growth of every step, its factors, its shares."""

    growth: Tensor
    factors: Tensor
    shares: Tensor
    unsure: Tensor
    """‖A J_g‖ / ‖A J‖ beside each share."""


def way_back(found: Apart, *, elman: bool) -> Way:
    a = torch.eye(found.whole.shape[-1], dtype=torch.float64)
    growth, factors, shares, unsure = [], [], [], []
    for t in range(len(found.whole) - 1, 0, -1):
        after = a @ found.whole[t]
        middle = a * found.slopes[t] if elman else a @ found.direct[t]
        growth.append((after.norm() / a.norm()).log())
        factors.append(
            torch.stack([(middle.norm() / a.norm()).log(), (after.norm() / middle.norm()).log()])
        )
        paths = [a @ j for j in (found.direct[t], *(b[t] for b in found.blocks))]
        shares.append(torch.stack([(p * after).sum() for p in paths]) / after.square().sum())
        unsure.append(torch.stack([p.norm() for p in paths]) / after.norm())
        a = after / after.norm()
    return Way(*map(torch.stack, (growth, factors, shares, unsure)))


@each_kind
def test_causes(name: str) -> None:
    layer, oracle, x = prepared(name)
    is_elman = CASES[name].kind not in ("LSTM", "GRU")
    for found in lens.causes(layer, x):
        place = (found.level, found.direction)
        sequences = taken_apart(oracle, x, place)
        whole = torch.stack([sequence.whole for sequence in sequences])
        assert found.radius == pytest.approx(
            float(torch.linalg.eigvals(whole).abs().amax(-1).mean()), rel=1e-9
        )
        assert found.norm == pytest.approx(float(torch.linalg.matrix_norm(whole, 2).mean()))
        for sequence in sequences:
            paths = sequence.direct + sum(sequence.blocks)
            torch.testing.assert_close(
                paths, sequence.whole, rtol=1e-12, atol=1e-12
            )  # of the oracle

        ways = [way_back(sequence, elman=is_elman) for sequence in sequences]
        growth = torch.stack([w.growth for w in ways]).mean()
        factors = torch.stack([w.factors for w in ways]).mean((0, 1))
        shares = torch.stack([w.shares for w in ways]).mean((0, 1))
        assert found.growth == pytest.approx(float(growth), abs=ROUNDING)
        assert found.factors is not None and found.shares is not None
        keys = ["activation", "matrix"] if is_elman else ["direct", "others"]
        assert list(found.factors) == keys
        assert list(found.factors.values()) == pytest.approx(factors.tolist(), abs=ROUNDING)
        assert list(found.shares) == ["direct", *oracle.equations.gates]
        assert list(found.shares.values()) == pytest.approx(shares.tolist(), abs=ROUNDING)
        product = math.prod(map(math.exp, found.factors.values()))
        assert product == pytest.approx(math.exp(found.growth), rel=ROUNDING)


@each_kind
def test_matrices_slopes_and_gates(name: str) -> None:
    layer, oracle, x = prepared(name)
    gates, slope = oracle.equations.gates, oracle.equations.slope
    for found in lens.causes(layer, x):
        place = (found.level, found.direction)
        sequences = taken_apart(oracle, x, place)
        blocks = oracle.weight("weight_hh", place).chunk(len(gates))
        assert list(found.matrices) == list(gates)
        for matrix, block in zip(found.matrices.values(), blocks, strict=True):
            values, singular = torch.linalg.eigvals(block), torch.linalg.svdvals(block)
            assert matrix.radius == pytest.approx(float(values.abs().max()))
            assert matrix.norm == pytest.approx(float(singular[0]))
            assert matrix.geometric_mean == pytest.approx(
                math.exp(float(torch.linalg.slogdet(block).logabsdet) / H)
            )
            sizes = values.abs().sort(descending=True).values
            torch.testing.assert_close(matrix.eigenvalues.abs(), sizes)
            torch.testing.assert_close(matrix.eigenvalues.sum().real, block.trace())

        if slope is not None:
            slopes = torch.stack([sequence.slopes for sequence in sequences], 1)
            assert found.gate is None and found.slopes is not None
            assert found.slopes.mean == pytest.approx(float(slopes.mean()))
            saturated = (slopes < 0.1 * oracle.equations.steepest).double().mean()
            assert found.slopes.saturated == pytest.approx(float(saturated))
            dead = (slopes == 0).flatten(0, 1).all(0).double().mean()
            assert found.slopes.dead == pytest.approx(float(dead))
            continue
        k = 1  # f of "ifgo", z of "rzn"
        opened = [
            torch.sigmoid(u + oracle.recurrent(place, s)).chunk(len(gates))[k]
            for sequence in sequences
            for u, s in zip(sequence.u, sequence.before, strict=True)
        ]
        units = torch.stack(opened).mean(0)
        assert found.slopes is None and found.gate is not None
        assert found.gate.name == gates[k]
        assert found.gate.mean == pytest.approx(float(units.mean()))
        torch.testing.assert_close(found.gate.units, units)
        torch.testing.assert_close(found.gate.time_scale, 1 / (1 - units))


# --- The horizon -----------------------------------------------------------------------------------


@pytest.mark.each_value
@pytest.mark.parametrize("a", [0.5, 0.8, 0.95])
@pytest.mark.parametrize("fraction", [0.01, 0.3])
def test_the_horizon_of_a_known_decay(a: float, fraction: float) -> None:
    """ReLU far above its kink, where every Jacobian is W = a times a turn."""
    layer = nn.RNN(D, H, nonlinearity="relu").double()
    with torch.no_grad():
        layer.weight_hh_l0.copy_(a * torch.eye(H).roll(1, 0))
        layer.bias_ih_l0.fill_(50.0)
    x = torch.randn(120, 2, D, dtype=torch.float64)
    oracle, far = Oracle(layer, "relu"), math.log(fraction) / math.log(a)
    reach = oracle.reach((0, 0), oracle.run(x[:12, 0])[1][0, 0])
    torch.testing.assert_close(reach[12, 1].norm() / 2, torch.tensor(a**11).double())
    for norm in ("rms", "spectral"):
        decay = lens.lag_matrix(layer, x, norm=norm)
        assert lens.horizon(decay[-1], fraction=fraction) == pytest.approx(far)
        assert lens.horizon(decay.nanmean(0), fraction=fraction) == pytest.approx(far)
    with unrolled.watch(layer) as seen:
        layer(x)[0][-1].sum().backward()
    (row,) = seen.report().rows
    assert row.verdict is not None
    assert row.verdict.horizon == pytest.approx(math.log(0.01) / math.log(a))
    # The gradient itself has fallen to the fraction after as many steps.
    back = row.norms.flip(0)
    assert int((back <= fraction * back[0] * (1 + 1e-9)).nonzero()[0]) == math.ceil(far - 1e-9)


# --- Estimates from random directions --------------------------------------------------------------

# Of p random directions, Σ ‖Jᵀ v‖² / Σ ‖v‖² has the mean ‖J‖² / n exactly (the length of a Gaussian v does
# not depend on where it points), and the relative variance 2 / p at most, where J has rank 1.


@pytest.mark.each_value
@once_a_kind
@pytest.mark.parametrize("probes", [32, 20_000])
def test_estimated_lags_are_the_lags_within_their_error(name: str, probes: int) -> None:
    layer, oracle, x = prepared(name, 1)
    off = SIGMAS * math.sqrt(2 / probes)
    for scan in lens.recurrences(layer, x):
        got = estimated_lags(scan, probes)
        if probes < 1000:  # the same at every call
            assert torch.equal(got.nan_to_num(-1), estimated_lags(scan, probes).nan_to_num(-1))
        reach = oracle.reach(
            (scan.level, scan.direction), oracle.run(x[:, 0])[1][scan.level, scan.direction]
        )
        for t in range(T):
            assert got[t, 0] == 1.0 and got[t, t + 1 :].isnan().all()
            for k in range(1, t + 1):
                exact = float(reach[t + 1, t + 1 - k].square().sum()) / scan.width
                assert float(got[t, k]) ** 2 == pytest.approx(exact, rel=off, abs=1e-15)


@pytest.mark.parametrize("kind", ["Recurrent Elman tanh, auto", "torch LSTM"])
def test_estimated_lags_of_sequences_are_their_mean(kind: str) -> None:
    layer, _, x = prepared(kind)
    for scan in lens.recurrences(layer, x):
        alone = [estimated_lags(scan.of_sequences(slice(b, b + 1)), 7) for b in range(B)]
        torch.testing.assert_close(
            estimated_lags(scan, 7), torch.stack(alone).mean(0), equal_nan=True
        )


@pytest.mark.parametrize("probes", [1, 4])
def test_estimated_lags_have_no_bias(probes: int) -> None:
    """Each step has directions of its own: over many steps that are alike, the squares' mean is exact."""
    layer = Recurrent(cells.Elman, D, H, activation="identity").double()
    weight = torch.randn(H, H, dtype=torch.float64)
    with torch.no_grad():
        layer.cells[0].weight_hh.copy_(0.9 * weight / torch.linalg.matrix_norm(weight, 2))
    steps = 1500
    (scan,) = lens.recurrences(layer, torch.randn(steps, 1, D, dtype=torch.float64))
    got = estimated_lags(scan.of_sequences(slice(0, 1)), probes)
    power = torch.eye(H, dtype=torch.float64)
    for k in range(1, 4):
        power = layer.cells[0].weight_hh.detach() @ power
        exact = float(power.square().sum()) / H
        mean = float(got[k:, k].square().mean())
        assert mean == pytest.approx(exact, rel=SIGMAS * math.sqrt(2 / (probes * (steps - k))))


@pytest.mark.each_value
@once_a_kind
@pytest.mark.parametrize("probes", [32, 20_000])
def test_estimated_causes_are_the_causes_within_their_error(name: str, probes: int) -> None:
    """A logarithm of a norm is off by half of what the share of its square is off by."""
    layer, oracle, x = prepared(name, 1)
    is_elman = CASES[name].kind not in ("LSTM", "GRU")
    share = SIGMAS * math.sqrt(2 / probes)
    for scan in lens.recurrences(layer, x):
        place = (scan.level, scan.direction)
        way = way_back(taken_apart(oracle, x, place)[0], elman=is_elman)
        if not way.growth.isfinite().all():
            continue  # all units of a ReLU layer are dead
        got, exact = causes_of(scan, probes=probes), causes_of(scan)
        # Over T - 1 steps the logs of the lengths between add up to that of the last, and of the first.
        squared = math.exp(2 * (T - 1) * (got.growth - float(way.growth.mean())))
        assert squared == pytest.approx(1, abs=share)
        assert got.factors is not None and got.shares is not None
        assert sum(got.factors.values()) == pytest.approx(got.growth, abs=ROUNDING)
        assert sum(got.shares.values()) == pytest.approx(1.0, abs=ROUNDING)
        assert (got.radius, got.norm, got.slopes) == (exact.radius, exact.norm, exact.slopes)
        if probes < 1000:  # too few for what is of first order in their error
            again = causes_of(scan, probes=probes)  # the same at every call
            assert (again.growth, again.factors) == (got.growth, got.factors)
            continue
        # Each factor is a difference of two such logs; a share a ratio, in which vᵀ (A J)(A J_g)ᵀ v is off
        # by √2 ‖A J‖ ‖A J_g‖ at most. 1 + share for what is of second order.
        for value, at in zip(got.factors.values(), way.factors.mean(0).tolist(), strict=True):
            assert value == pytest.approx(at, abs=share * (1 + share))
        bounds = (way.unsure + way.shares.abs()).mean(0) * share * (1 + share)
        for value, at, bound in zip(
            got.shares.values(), way.shares.mean(0).tolist(), bounds.tolist(), strict=True
        ):
            assert value == pytest.approx(at, abs=max(bound, 1e-12))


# --- Truncation ------------------------------------------------------------------------------------


def truncated(oracle: Oracle, x: Tensor, weight: Tensor, k1: int, k2: int) -> Tensor:
    """The gradient of Williams & Peng's BPTT(k1, k2) in all parameters, by a step at a time."""
    place, steps = (0, 0), len(x)
    total = torch.zeros(sum(w.numel() for w in oracle.weights.values()), dtype=torch.float64)
    kept = oracle.weights
    for b in range(x.shape[1]):
        whole = oracle.states(place, oracle.given(place, x[:, b]), oracle.zeros(steps))
        for first in range(0, steps, k1):
            last = min(first + k1, steps)
            since = max(0, last - k2)

            def part(
                weights: dict[str, Tensor],
                b: int = b,
                first: int = first,
                last: int = last,
                since: int = since,
                start: Tensor = whole[since],
            ) -> Tensor:
                oracle.weights = weights
                push = torch.cat([start.unsqueeze(0), oracle.zeros(last - since)[1:]])
                h = oracle.states(place, oracle.given(place, x[since:last, b]), push)[1:, :H]
                return loss(h[first - since :], weight[first:last, b])

            gradient = cast(dict[str, Tensor], jacrev(part)(kept))
            oracle.weights = kept
            total += torch.cat([g.flatten() for g in gradient.values()])
    return total


@pytest.mark.each_value
@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (lambda: Recurrent(cells.Elman, D, H), "tanh"),
        (lambda: Recurrent(cells.Elman, D, H, activation="relu"), "relu"),
        (lambda: unrolled.LSTM(D, H), "LSTM"),
        (lambda: nn.LSTM(D, H), "LSTM"),
        (lambda: nn.GRU(D, H), "GRU"),
    ],
    ids=["Elman tanh", "Elman relu", "drop-in layer LSTM", "torch LSTM", "torch GRU"],
)
@pytest.mark.parametrize("k1", [None, 1, 2])
def test_truncation_bias(make: Callable[[], Layer], kind: str, k1: int | None) -> None:
    layer = make().double()
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.5)
    steps, windows = 7, (2, 3, 5, 7)
    oracle = Oracle(layer, kind)
    x = torch.randn(steps, 2, D, dtype=torch.float64)
    weight = torch.randn(steps, 2, H, dtype=torch.float64)
    full = truncated(oracle, x, weight, steps, steps)
    gradients = {k2: truncated(oracle, x, weight, k1 or k2, k2) for k2 in windows}
    for backend in ("auto", "reference") if hasattr(layer, "backend") else (None,):
        if backend is not None:
            layer.backend = backend
        found = lens.truncation_bias(layer, x, lambda y, at: loss(y, weight[at]), windows, k1=k1)
        for got, (k2, gradient) in zip(found, gradients.items(), strict=True):
            assert (got.window, got.steps) == (k2, steps)
            cosine = torch.nn.functional.cosine_similarity(gradient, full, dim=0)
            assert got.cosine == pytest.approx(float(cosine), abs=1e-12)
            assert got.ratio == pytest.approx(float(gradient.norm() / full.norm()), rel=1e-12)
            bias = float((gradient - full).norm() / full.norm())
            assert got.bias == pytest.approx(bias, abs=1e-12)
        assert found[-1].bias < 1e-12 < found[0].bias
