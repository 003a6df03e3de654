"""The contract every cell keeps: ``project`` and ``step``."""

import inspect
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, TypedDict, Unpack

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unrolled.cells.facts import Onnx, Retain, check_facts
from unrolled.shapes import check_fraction, check_size

State = tuple[Tensor, ...]
"""The state of one cell: one tensor ``[B, size]`` for each entry of ``Cell.state_sizes``."""


class Cell(nn.Module):
    """One step of a recurrent network: its equations, and nothing else.

    A cell is split in two, so that everything that does not have to wait for the state is done for
    all time steps in one matrix product:

    - ``project(x)``: ``[..., D] -> [..., P]``, all that does not depend on the state;
    - ``step(projected_t, state) -> state``: ``[B, P]`` and a tuple of ``[B, size]`` tensors, to a
      tuple of the same shapes. Its first tensor is the cell's output at that step.

    A cell of your own overrides both; one with more than one state tensor also overrides
    ``state_sizes``. ``step`` must be a pure function of its arguments and of the parameters: no
    randomness (a cell that needs some draws it in ``noise``), no branching on values; and treat sequences
    one by one, since sequences that have ended are left out of its B. Then every scan, layer and model
    takes it:

        >>> import torch
        >>> from unrolled import Recurrent
        >>> from unrolled.cells import Cell
        >>> class Leaky(Cell):
        ...     def __init__(self, input_size, hidden_size):
        ...         super().__init__(input_size, hidden_size)
        ...         self.weight_ih = torch.nn.Parameter(torch.empty(hidden_size, input_size))
        ...         self.weight_hh = torch.nn.Parameter(torch.empty(hidden_size, hidden_size))
        ...         self.reset_parameters()
        ...     def project(self, x):
        ...         return x @ self.weight_ih.T
        ...     def step(self, projected, state):
        ...         (h,) = state
        ...         return (0.9 * h + 0.1 * torch.tanh(projected + h @ self.weight_hh.T),)
        >>> y, (h_n,) = Recurrent(Leaky, 3, 5)(torch.zeros(7, 2, 3))
        >>> y.shape, h_n.shape
        (torch.Size([7, 2, 5]), torch.Size([1, 2, 5]))

    Two more methods are for the few cells that need them: ``read``, where the output is not the first
    state tensor, and ``parallel``, where all steps can be had without taking them one by one.

    Args:
        input_size: D, the features of one input.
        hidden_size: H, the hidden units.
    """

    symbols: ClassVar[tuple[str, ...]] = ()
    """What the equations call the tensors of the state, or all of them together; by default h, or s."""
    kernel: ClassVar[str | None] = None
    """The kernel that the library has of these very equations; a subclass may have others."""

    beside: ClassVar[int] = 0
    """How many of the input's last features the cells in the levels above read too, such as the time."""
    above: ClassVar[Mapping[str, object]] = {}
    """The options by which the cells in the levels above the first differ from it."""

    at_once: ClassVar[bool] = False
    """Whether there is a ``parallel``, and it stands for ``step``: no subclass changed that alone."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        parallel, step = (
            next(kind for kind in cls.__mro__ if name in vars(kind))
            for name in ("parallel", "step")
        )
        cls.at_once = issubclass(parallel, step)
        for name in ("kernel", "onnx"):  # of these equations alone
            if name not in vars(cls) and hasattr(cls, name):
                setattr(cls, name, None)

    learns_initial_state = False
    """Whether the initial state is a parameter; ``learn_initial_state`` makes it one."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.input_size = check_size("input_size", input_size)
        self.hidden_size = check_size("hidden_size", hidden_size)

    @property
    def state_sizes(self) -> tuple[int, ...]:
        """The width of each state tensor; unless ``read`` says otherwise, the first is the output's."""
        return (self.hidden_size,)

    @property
    def output_size(self) -> int:
        """The width of what ``read`` returns."""
        return self.state_sizes[0]

    def project(self, x: Tensor) -> Tensor:
        """All of the step that does not depend on the state: ``[..., D] -> [..., P]``."""
        raise NotImplementedError(f"{type(self).__name__} must define project(x)")

    def step(self, projected: Tensor, state: State) -> State:
        """The next state from ``projected`` ``[B, P]`` and the state; its first tensor is the output."""
        raise NotImplementedError(f"{type(self).__name__} must define step(projected, state)")

    def noise(self, steps: int, batch_size: int, like: Tensor) -> Tensor | None:  # noqa: ARG002
        """What the steps need that is random, drawn once before the scan; ``None`` if nothing is.

        ``[T, B, N]``, or ``[1, B, N]`` where it is the same at every step, of ``like``'s dtype and
        device; N is a multiple of H. The scan appends it to what ``project`` gave, so that ``step``
        sees ``[B, P + N]``, and splits it off; without noise it sees ``[B, P]``.
        """
        return None

    def read(self, states: State) -> Tensor:
        """What the layer above sees of the states ``[..., size]``: by default the first tensor.

        It is applied after the scan, for all steps at once, as ``project`` is before it. One that
        returns another width than ``state_sizes[0]`` also overrides ``output_size``.
        """
        return states[0]

    def parallel(self, projected: Tensor, state: State) -> State:
        """All steps at once, ``[T, B, P]`` and the state before them to tensors ``[T, B, size]``.

        Only for cells whose steps need not be taken in turn. It must equal ``step`` by ``step`` up to
        rounding: the reference scan uses it for whole sequences, unless a subclass overrides ``step``
        and not this.
        """
        raise NotImplementedError(
            f"{type(self).__name__} has no parallel form; take it step by step"
        )

    def initial_state(self, batch_size: int, like: Tensor) -> State:
        """The state before the first step: ``[batch_size, size]`` each, of ``like``'s dtype and device.

        Zeros, or what has been learnt.
        """
        if self.learns_initial_state:
            return tuple(start.expand(batch_size, -1).to(like) for start in self.initial)
        return tuple(like.new_zeros(batch_size, size) for size in self.state_sizes)

    @property
    def starts_at_zero(self) -> bool:
        """Whether the initial state is zeros: neither learnt, nor the cell's own."""
        return not self.learns_initial_state and type(self).initial_state is Cell.initial_state

    def learn_initial_state(self) -> None:
        """Make the initial state a parameter: ``initial``, one ``[size]`` a state tensor, zero at first.

        Raises:
            ValueError: the cell defines an ``initial_state`` of its own.
        """
        if type(self).initial_state is not Cell.initial_state:
            name = type(self).__name__
            raise ValueError(
                f"learn_initial_state: got True, but {name} defines initial_state itself; "
                "make it a parameter there"
            )
        like = next(self.parameters(), torch.empty(0))
        self.initial = nn.ParameterList(
            nn.Parameter(like.new_zeros(size)) for size in self.state_sizes
        )
        self.learns_initial_state = True

    def reset_parameters(self) -> None:
        """Draw every parameter from U(-1/sqrt(H), 1/sqrt(H)), as ``torch.nn``'s recurrent layers do.

        An initial state that is learnt becomes zero.
        """
        bound = 1 / math.sqrt(self.hidden_size)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)
        for start in self.initial if self.learns_initial_state else ():
            nn.init.zeros_(start)

    def extra_repr(self) -> str:
        return f"{self.input_size}, {self.hidden_size}"


class Options(TypedDict, total=False):
    """What every ``GatedCell`` can be given."""

    bias: bool
    layer_norm: bool
    recurrent_dropout: float
    zoneout: float | Sequence[float]


class GatedCell(Cell):
    """A cell whose output meets one W: its equations in blocks of H rows, a gate each.

    A subclass writes ``project``, in which U meets x, and ``equations``, in which the result meets that
    of W and h; or, where W meets more than h itself, ``next_state``. What stands around them is done
    here, for all of them alike. One that writes ``step`` itself leaves that out: it is refused
    ``layer_norm``, ``recurrent_dropout`` and ``zoneout``, unless it calls the ``step`` that it inherits.

    A subclass also says its facts, ``blocks`` at least. By them alone ``remedies.chrono_bias_`` finds
    its gates, the lens takes its gradient apart, ``lens.expand`` and ``lens.draw`` name its parts, and
    ``torch.onnx.export`` writes it as the operator that it is.

    Parameters: ``weight_ih`` ``[G*H, D]`` (U), ``weight_hh`` ``[G*H, H]`` (W), ``bias_ih`` and
    ``bias_hh`` ``[G*H]`` (``None`` without ``bias``), named as in ``torch.nn``.

    Args:
        input_size: D, the features of one input.
        hidden_size: H, the hidden units.
        bias: whether there are biases.
        layer_norm: whether U x and W h are normalised before anything is added to them, each by
            itself over its units, with a gain and a shift of its own: ``norm_ih`` and ``norm_hh``
            (without shifts if not ``bias``). Over all G*H units at once, as in Ba, Kiros & Hinton,
            "Layer Normalization" (2016), supplement, equations 20 to 22; of a GRU, r and z together
            and n by itself; of an MGU each of the two by itself; of every LSTM also c on its way to
            tanh, by ``norm_c``.
        recurrent_dropout: the share of h_{t-1} that W does not see in training: one mask a sequence, the
            same at every step, what remains scaled by 1 / (1 - p). Source: Gal & Ghahramani, "A
            Theoretically Grounded Application of Dropout in Recurrent Neural Networks", NeurIPS 2016.
        zoneout: the share of units which keep their old state in a training step, drawn anew for each
            step, sequence and unit; one number, or one for each state tensor in the order of the state
            (LSTM: h, c). In evaluation the mean, p s_{t-1} + (1 - p) s_t. Source: Krueger et al.,
            "Zoneout: Regularizing RNNs by Randomly Preserving Hidden Activations", ICLR 2017.
    """

    blocks: ClassVar[tuple[str, ...]]
    """What the equations call the G blocks of U, W and the biases, in their order."""
    candidate: ClassVar[str | None] = None
    """Which of the blocks is no gate: what may become of the state."""
    retain: ClassVar[Retain | None] = None
    """Which gate says how much of the state stays, if there is one."""
    onnx: ClassVar[Onnx | None] = None
    """The operator of ONNX that these very equations are, if there is one."""
    gates: ClassVar[int]
    """G; a class that says ``gates`` alone leaves its blocks without names."""
    normed: tuple[int, ...] = ()
    """Which gates ``layer_norm`` normalises together: how many in each group; by default all."""
    layer_norm = False
    recurrent_dropout = 0.0
    zoneout: tuple[float, ...] = ()
    """The share of each state tensor; empty if all are zero."""
    bias_ih: nn.Parameter | None
    bias_hh: nn.Parameter | None

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "blocks" in vars(cls):
            cls.gates = len(cls.blocks)
        elif "gates" in vars(cls):
            cls.blocks = ()
        blocks = getattr(cls, "blocks", ())
        check_facts(cls.__name__, blocks, cls.candidate, cls.retain, cls.onnx)

    def __init__(self, input_size: int, hidden_size: int, **options: Unpack[Options]) -> None:
        super().__init__(input_size, hidden_size)
        bias = options.pop("bias", True)
        self.layer_norm = options.pop("layer_norm", False)
        share = options.pop("recurrent_dropout", 0.0)
        self.recurrent_dropout = check_fraction("recurrent_dropout", share)
        self.zoneout = _shares(options.pop("zoneout", 0.0), len(self.state_sizes))
        if options:
            raise TypeError(f"{type(self).__name__}: got an unknown option, {', '.join(options)}")
        self._check_step()
        rows = self.gates * hidden_size
        self.weight_ih = nn.Parameter(torch.empty(rows, input_size))
        self.weight_hh = nn.Parameter(torch.empty(rows, hidden_size))
        for name in ("bias_ih", "bias_hh"):
            self.register_parameter(name, nn.Parameter(torch.empty(rows)) if bias else None)
        if self.layer_norm:
            groups = [gates * hidden_size for gates in self.normed or (self.gates,)]
            self.norm_ih, self.norm_hh = Norm(groups, bias=bias), Norm(groups, bias=bias)
        self.reset_parameters()

    def _check_step(self) -> None:
        """Refuse options that a ``step`` of the subclass's own has no part for."""
        step = inspect.unwrap(type(self).step)
        if step is GatedCell.step:
            return
        said = set(getattr(getattr(step, "__code__", None), "co_names", ()))
        for name, parts in _PARTS.items():
            if getattr(self, name) and not said & {"step", name, *parts}:
                raise ValueError(
                    f"{name}: got {getattr(self, name)!r}, but {type(self).__name__} defines step "
                    "itself, without it; write equations(u, w, state) in place of step, or leave it out"
                )

    def check_norms(self) -> None:
        """Refuse ``layer_norm`` if a step does not read every gain and shift.

        Raises:
            ValueError: says which it does not read, and what to do.
        """
        if not self.layer_norm:
            return
        named = {
            f"{norm}.{name}": parameter
            for norm, module in self.named_modules()
            if isinstance(module, Norm)
            for name, parameter in module.named_parameters()
        }
        like, was_training = self.weight_ih, self.training
        self.training = False
        try:
            with torch.enable_grad():
                state = tuple(like.new_zeros(1, size) for size in self.state_sizes)
                after = self.step(self.project(like.new_zeros(1, self.input_size)), state)
                total = torch.cat(after, -1).sum()
                found = torch.autograd.grad(total, list(named.values()), allow_unused=True)
        finally:
            self.training = was_training
        unread = [name for name, part in zip(named, found, strict=True) if part is None]
        if unread:
            raise ValueError(
                f"layer_norm: got True, but project, step or equations of {type(self).__name__} read no "
                f"{', '.join(unread)}; take U x from of_input(x, bias) and W h from of_state(h), or "
                "leave it out"
            )

    def reset_parameters(self) -> None:
        """As ``Cell`` does; gains of ``layer_norm`` become 1, its shifts 0."""
        super().reset_parameters()
        self._reset_norms()

    def _reset_norms(self) -> None:
        for norm in self.children():
            if isinstance(norm, Norm):
                norm.reset_parameters()

    def bias(self) -> Tensor | None:
        """Both biases as one ``[G*H]``, for cells that only ever add them together."""
        if self.bias_ih is None or self.bias_hh is None:
            return None
        return self.bias_ih + self.bias_hh

    def of_input(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """U x, normalised if asked, and then ``bias``: ``[..., D] -> [..., G*H]``."""
        return affine(x, self.weight_ih, bias, self.norm_ih if self.layer_norm else None)

    def of_state(self, h: Tensor) -> Tensor:
        """W h, normalised if asked: ``[B, H] -> [B, G*H]``."""
        return affine(h, self.weight_hh, None, self.norm_hh if self.layer_norm else None)

    def equations(self, u: Tensor, w: Tensor, state: State) -> State:
        """The next state from ``u = project(x_t)`` and ``w = of_state(h_{t-1})``, both ``[B, G*H]``."""
        raise NotImplementedError(f"{type(self).__name__} must define equations(u, w, state)")

    def next_state(self, u: Tensor, h: Tensor, state: State) -> State:
        """The next state from ``u = project(x_t)`` and from ``h``, what W sees of h_{t-1}."""
        return self.equations(u, self.of_state(h), state)

    def step(self, projected: Tensor, state: State) -> State:
        """``next_state``, with recurrent dropout before it and zoneout after, if there are such."""
        if not (self.recurrent_dropout or self.zoneout):
            return self.next_state(projected, state[0], state)
        u, heard = projected[..., : self.gates * self.hidden_size], state[0]
        noise = torch.split(projected, self.hidden_size, -1)[self.gates :]  # none in evaluation
        if noise and self.recurrent_dropout:
            heard, noise = heard * noise[0], noise[1:]
        after = self.next_state(u, heard, state)
        if not self.zoneout:
            return after
        kept: Sequence[Tensor | float] = noise or self.zoneout
        return tuple(
            keep * old + (1 - keep) * new for keep, old, new in zip(kept, state, after, strict=True)
        )

    def noise(self, steps: int, batch_size: int, like: Tensor) -> Tensor | None:
        """In training: the mask of recurrent dropout, then for each state tensor which units stay."""
        if not self.training or not (self.recurrent_dropout or self.zoneout):
            return None
        units, drawn = self.hidden_size, []
        steps = steps if self.zoneout else 1
        if self.recurrent_dropout:
            mask = F.dropout(like.new_ones(1, batch_size, units), self.recurrent_dropout)
            drawn.append(mask.expand(steps, -1, -1))
        drawn += [coins(p, (steps, batch_size, units), like) for p in self.zoneout]
        return torch.cat(drawn, -1)

    @property
    def extras(self) -> tuple[str, ...]:
        """The options by which ``step`` now differs from the equations alone."""
        at_work = {
            "layer_norm": self.layer_norm,
            "recurrent_dropout": self.recurrent_dropout and self.training,
            "zoneout": self.zoneout,
        }
        return tuple(name for name, value in at_work.items() if value)

    def extra_repr(self) -> str:
        shown = super().extra_repr()
        for name in ("layer_norm", "recurrent_dropout", "zoneout"):
            value = getattr(self, name)
            shown += f", {name}={value}" if value else ""
        return shown


_PARTS = {
    "layer_norm": ("of_state", "next_state", "norm_hh"),
    "recurrent_dropout": (),
    "zoneout": (),
}
"""What a ``step`` calls if it has a part for an option, besides a ``step`` that it inherits."""


class Norm(nn.Module):
    """Layer normalisation of groups of units, each group by itself, with one gain and shift a unit.

    gain ⊙ (z - mean) / sqrt(variance + 1e-5) + shift, mean and variance over the units of the group.
    Parameters: ``weight``, the gain, and ``bias``, the shift (``None`` without ``bias``).

    Args:
        groups: how many units each group has.
        bias: whether there is a shift.
    """

    bias: nn.Parameter | None

    def __init__(self, groups: Sequence[int], *, bias: bool = True) -> None:
        super().__init__()
        self.groups = list(groups)
        self.weight = nn.Parameter(torch.ones(sum(groups)))
        self.register_parameter("bias", nn.Parameter(torch.zeros(sum(groups))) if bias else None)

    def reset_parameters(self) -> None:
        """Gains of 1, shifts of 0."""
        nn.init.ones_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, z: Tensor) -> Tensor:
        """Normalise ``z`` ``[..., units]``."""
        if len(self.groups) == 1:
            return F.layer_norm(z, self.groups, self.weight, self.bias)
        parts = torch.split(z, self.groups, -1)
        return torch.cat([self.of_group(k, part) for k, part in enumerate(parts)], -1)

    def of_group(self, k: int, z: Tensor) -> Tensor:
        """Normalise ``z`` ``[..., units]`` of group k alone."""
        gain = torch.split(self.weight, self.groups)[k]
        shift = None if self.bias is None else torch.split(self.bias, self.groups)[k]
        return F.layer_norm(z, gain.shape, gain, shift)

    def extra_repr(self) -> str:
        return ", ".join(map(str, self.groups))


def affine(v: Tensor, weight: Tensor, bias: Tensor | None, norm: nn.Module | None) -> Tensor:
    """``v @ weight.T + bias``, the product normalised if there is a norm."""
    if norm is None:
        return F.linear(v, weight, bias)
    z: Tensor = norm(F.linear(v, weight))
    return z if bias is None else z + bias


def coins(share: float, shape: Sequence[int], like: Tensor) -> Tensor:
    """Ones with probability ``share`` and zeros else, of ``like``'s dtype and device.

    On the CPU 32 random bits decide each, which takes a third of the time of ``torch.bernoulli``.
    """
    if not like.is_cpu or torch.compiler.is_compiling() or type(like) is not Tensor:
        return torch.bernoulli(like.new_full(tuple(shape), share))
    count = math.prod(shape)
    pairs = torch.empty((count + 1) // 2, dtype=torch.int64, device="cpu").random_(-(2**63), None)
    most = round(share * 2**32) - 2**31
    return (pairs.view(torch.int32)[:count] < most).to(like.dtype).view(*shape)


def _shares(zoneout: float | Sequence[float], count: int) -> tuple[float, ...]:
    """The zoneout of each of ``count`` state tensors, or an error; empty if all are zero."""
    given = zoneout if isinstance(zoneout, Sequence) else [zoneout] * count
    if len(given) != count:
        raise ValueError(f"zoneout: got {len(given)} numbers, expected {count}, one a state tensor")
    shares = tuple(check_fraction("zoneout", share) for share in given)
    return shares if any(shares) else ()
