"""Rows: what goes in comes out once, in order, with resets where documents and rows begin."""

import itertools
import pickle
import tracemalloc
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.data import ConcatDataset, DataLoader

from unrolled import Recurrent, cells
from unrolled.bptt.windows import Window, Windows, make_windows
from unrolled.errors import DataError

some_workers = pytest.mark.filterwarnings(
    "ignore:This DataLoader will create:UserWarning",  # of more workers than processors
    "ignore:.*fork:DeprecationWarning",
)

# What rows ought to be, without windows


def expected_rows(
    lengths: Sequence[int],
    count: int,
    *,
    whole: bool = False,
    shuffle: tuple[int, int] | None = None,
) -> list[list[tuple[int, int, bool]]]:
    """The steps of each row: which document, which of its steps, and whether it is a reset."""
    order = [k for k, n in enumerate(lengths) if n]
    if shuffle is not None:
        order = [order[k] for k in np.random.default_rng(shuffle).permutation(len(order))]
    steps = {k: [(k, t, t == 0) for t in range(lengths[k])] for k in order}
    if whole:
        cut: list[list[tuple[int, int, bool]]] = [[] for _ in range(count)]
        for k in order:
            min(cut, key=len).extend(steps[k])
        return cut
    stream = [step for k in order for step in steps[k]]
    least, longer = divmod(len(stream), count)
    rest = iter(stream)
    cut = [list(itertools.islice(rest, least + (row < longer))) for row in range(count)]
    return [[(*row[0][:2], True), *row[1:]] for row in cut]


def parts_of(window: Window[Any]) -> tuple[Tensor, ...]:
    return (window.data,) if isinstance(window.data, Tensor) else tuple(window.data)


def joined(windows: Iterable[Window[Any]]) -> list[list[tuple[Any, ...]]]:
    """The steps of each row, over all windows: the number in each part, and the reset."""
    found: list[list[tuple[Any, ...]]] = []
    for window in windows:
        lengths = window.lengths.tolist()
        found = found or [[] for _ in lengths]
        for row, n in enumerate(lengths):
            columns = [part[:n, row].tolist() for part in (*parts_of(window), window.resets)]
            found[row].extend(zip(*columns, strict=True))
    return found


def assert_same_windows(got: Iterable[Window[Any]], expected: Iterable[Window[Any]]) -> None:
    """Equal to the bit, in dtype and shape too."""
    for k, (one, other) in enumerate(itertools.zip_longest(got, expected)):
        assert one is not None and other is not None, f"window {k} is missing"
        ours, theirs = ((*parts_of(w), w.resets, w.lengths) for w in (one, other))
        for a, b in zip(ours, theirs, strict=True):
            assert a.dtype == b.dtype and torch.equal(a, b), f"window {k} differs"


def test_a_difference_is_found() -> None:
    a, b = torch.arange(12), torch.arange(12)
    b[-1] = 0
    windows = make_windows(a, 2, 3)
    assert_same_windows(windows, make_windows(a.clone(), 2, 3))
    for other in (
        make_windows(b, 2, 3),
        make_windows(a.int(), 2, 3),
        windows[:-1],
        windows[1:],
        windows[::1][:0],
    ):
        with pytest.raises(AssertionError):
            assert_same_windows(other, windows)
        with pytest.raises(AssertionError):
            assert_same_windows(windows, other)


def numbered(lengths: Sequence[int], *trailing: int) -> list[Tensor]:
    """Documents in which no number occurs twice, from 1."""
    size = int(np.prod(trailing))
    every = torch.arange(1, 1 + sum(lengths) * size).view(-1, *trailing)
    return list(every.split(list(lengths)))


# Nothing is lost, doubled or out of order


@st.composite
def cuts(draw: st.DrawFn) -> tuple[list[int], int, int, dict[str, Any]]:
    lengths = draw(st.lists(st.integers(0, 9), min_size=1, max_size=8).filter(any))
    options: dict[str, Any] = {"whole": draw(st.booleans())}
    if draw(st.booleans()):
        options["shuffle"] = draw(st.tuples(st.integers(0, 3), st.integers(0, 3)))
    B = draw(st.integers(1, sum(map(bool, lengths)) if options["whole"] else sum(lengths)))
    longest = max(map(len, expected_rows(lengths, B, **options)))
    return lengths, B, draw(st.integers(1, longest)), options


@given(cuts(), st.sampled_from(["tensor", "numpy", "uint16", "tuple", "pickled"]))
def test_every_row_is_its_piece_once_and_in_order(
    cut: tuple[list[int], int, int, dict[str, Any]], kind: str
) -> None:
    lengths, B, steps, options = cut
    tensors = numbered(lengths)
    documents: list[Any] = tensors
    if kind in ("numpy", "uint16"):
        documents = [d.numpy().astype(np.uint16 if kind == "uint16" else None) for d in tensors]
    elif kind == "tuple":
        documents = [(d, -d.float().numpy()) for d in tensors]
    windows = make_windows(documents, B, steps, **options)
    if kind == "pickled":
        windows = pickle.loads(pickle.dumps(windows))

    pieces = expected_rows(lengths, B, **options)
    numbers = [d.tolist() for d in tensors]
    sign = [1, -1] if kind == "tuple" else [1]
    assert joined(windows) == [
        [(*(s * numbers[k][t] for s in sign), reset) for k, t, reset in row] for row in pieces
    ]

    longest = max(map(len, pieces))
    assert (
        len(windows) == -(-longest // steps) and windows.batch_size == B and windows.steps == steps
    )
    for k, window in enumerate(windows):
        T = min(steps, longest - k * steps)
        assert window.lengths.dtype == torch.int64 and window.resets.dtype == torch.bool
        assert window.lengths.tolist() == [min(max(len(p) - k * steps, 0), T) for p in pieces]
        beyond = torch.arange(T).unsqueeze(1) >= window.lengths
        for part in (*parts_of(window), window.resets):
            assert part.shape == (T, B) and part.is_contiguous() and not part[beyond].any()


@given(cuts(), st.data())
def test_a_window_follows_from_its_number_alone(
    cut: tuple[list[int], int, int, dict[str, Any]], data: st.DataObject
) -> None:
    lengths, B, steps, options = cut
    windows = make_windows(numbered(lengths, 2), B, steps, **options)
    every = list(windows)
    n = len(windows)
    assert n == len(every)
    assert_same_windows([windows[k] for k in range(n)], every)
    assert_same_windows([windows[k - n] for k in range(n)], every)
    start, stop, again = (data.draw(st.integers(-n - 1, n + 1)) for _ in range(3))
    assert_same_windows(windows[start:], every[start:])
    assert_same_windows(windows[start:stop][again:], every[start:stop][again:])
    assert len(windows[start:stop]) == len(every[start:stop])


def test_rows_of_a_stream_by_hand() -> None:
    first, last = make_windows(torch.arange(10, 18), 3, 2)
    assert first.data.T.tolist() == [[10, 11], [13, 14], [16, 17]]
    assert first.resets.T.int().tolist() == [[1, 0], [1, 0], [1, 0]]
    assert first.lengths.tolist() == [2, 2, 2]
    assert last.data.tolist() == [[12, 15, 0]]
    assert not last.resets.any() and last.lengths.tolist() == [1, 1, 0]


def test_rows_of_documents_by_hand() -> None:
    documents = [torch.tensor(d) for d in ([1, 2, 3], [], [4], [5, 6, 7, 8])]
    (window,) = make_windows(documents, 2, 4)
    assert window.data.T.tolist() == [[1, 2, 3, 4], [5, 6, 7, 8]]
    assert window.resets.T.int().tolist() == [[1, 0, 0, 1], [1, 0, 0, 0]]
    (window,) = make_windows(documents, 2, 5, whole=True)
    assert window.data.T.tolist() == [[1, 2, 3, 0, 0], [4, 5, 6, 7, 8]]
    assert window.resets.T.int().tolist() == [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0]]
    assert window.lengths.tolist() == [3, 5]


def test_whole_documents_run_over_windows_without_a_reset() -> None:
    windows = make_windows(numbered([7, 2]), 2, 3, whole=True)
    assert [w.resets.T.int().tolist() for w in windows] == [
        [[1, 0, 0], [1, 0, 0]],
        [[0, 0, 0], [0, 0, 0]],
        [[0], [0]],
    ]
    assert [w.lengths.tolist() for w in windows] == [[3, 2], [3, 0], [1, 0]]


@pytest.mark.parametrize("shuffle", [None, (1, 2)])
def test_whole_documents_go_to_the_row_with_the_fewest_steps(
    shuffle: tuple[int, int] | None,
) -> None:
    lengths = [(7 * k) % 23 for k in range(200)]
    numbers = [d.tolist() for d in numbered(lengths)]
    found = joined(make_windows(numbered(lengths), 6, 50, whole=True, shuffle=shuffle))
    expected = expected_rows(lengths, 6, whole=True, shuffle=shuffle)
    assert found == [[(numbers[k][t], reset) for k, t, reset in row] for row in expected]
    assert max(map(len, found)) - min(map(len, found)) <= max(lengths)


def test_a_layer_reads_through_windows_what_it_reads_at_once() -> None:
    layer = Recurrent(cells.LSTM, 3, 4).double()
    documents = [torch.randn(n, 3, dtype=torch.float64) for n in (5, 1, 8, 3, 2)]
    targets = [layer(d.unsqueeze(1)).y[:, 0].detach() for d in documents]
    state = None
    seen = 0
    for window in make_windows(list(zip(documents, targets, strict=True)), 2, 4, whole=True):
        x, expected = window.data
        y, state = layer(x, state, resets=window.resets, lengths=window.lengths)
        # Sums of at most 4 + 3 products, in another order.
        torch.testing.assert_close(y, expected, rtol=0, atol=1e-14)
        seen += int(window.lengths.sum())
    assert seen == 19


# Kinds of arrays


@pytest.mark.parametrize("dtype", ["<u2", ">u2", "<u4", ">u4"])
def test_unsigned_tokens_become_int64(dtype: str) -> None:
    largest = np.iinfo(dtype).max
    (window,) = make_windows(np.array([0, 1, largest], dtype), 1, 3)
    assert window.data.dtype == torch.int64 and window.data[:, 0].tolist() == [0, 1, largest]


@pytest.mark.parametrize("dtype", [torch.uint16, torch.uint32])
def test_unsigned_tensors_become_int64(dtype: torch.dtype) -> None:
    documents = [torch.tensor([3, 4]).to(dtype), torch.tensor([5]).to(dtype)]
    (window,) = make_windows(documents, 1, 3)
    assert window.data.dtype == torch.int64 and window.data[:, 0].tolist() == [3, 4, 5]


@pytest.mark.parametrize(
    "dtype",
    ["bool", "uint8", "int8", "int16", "int32", "int64", "float16", "bfloat16", "float32"]
    + ["float64", "complex64"],
)
def test_other_dtypes_are_kept(dtype: str) -> None:
    x = torch.tensor([0, 1, 1, 0, 1]).to(getattr(torch, dtype))
    assert torch.equal(make_windows(x, 1, 5)[0].data[:, 0], x)
    if dtype != "bfloat16":
        assert torch.equal(make_windows(x.numpy(), 1, 5)[0].data[:, 0], x)
        assert torch.equal(make_windows([x[:2], x[2:].numpy()], 1, 5)[0].data[:, 0], x)


@pytest.mark.parametrize("dtype", ["bool", "uint16", "int64", "bfloat16", "complex64"])
@pytest.mark.parametrize("trailing", [(), (3,), (2, 0)])
def test_many_tensors_are_pickled(dtype: str, trailing: tuple[int, ...]) -> None:
    x = torch.randint(0, 2, (5, *trailing)).to(getattr(torch, dtype)).conj()
    windows = make_windows([x[:2], x[2:]], 2, 2)
    stored = pickle.dumps(windows)
    assert_same_windows(pickle.loads(stored), windows)


def test_byte_order_does_not_matter() -> None:
    x = np.arange(6, dtype=">f4").reshape(3, 2)
    (window,) = make_windows([x, x.astype("<f4")], 1, 6)
    assert window.data.dtype == torch.float32
    assert window.data[:, 0].tolist() == [*x.tolist(), *x.tolist()]


def test_parts_have_their_own_shapes_and_dtypes() -> None:
    x, y = torch.randn(9, 2, 3), np.arange(9, dtype=np.uint16)
    window = make_windows((x, y), 2, 4)[0]
    assert isinstance(window.data, tuple)
    assert torch.equal(window.data[0], torch.stack([x[:4], x[5:9]], 1))
    assert window.data[1].T.tolist() == [[0, 1, 2, 3], [5, 6, 7, 8]]


def test_a_tuple_of_one_stays_a_tuple() -> None:
    (part,) = make_windows((torch.arange(4),), 1, 4)[0].data
    assert part[:, 0].tolist() == [0, 1, 2, 3]


def test_arrays_need_not_be_contiguous_or_writable() -> None:
    x = np.arange(24).reshape(4, 6).T[::-1]
    x.setflags(write=False)
    assert make_windows(x, 1, 6)[0].data[:, 0].tolist() == x.tolist()


def test_a_gradient_stays_outside() -> None:
    x = torch.randn(4, 2, requires_grad=True)
    assert not make_windows([x], 1, 4)[0].data.requires_grad


def test_windows_are_on_the_cpu_whatever_the_default_device() -> None:
    windows = make_windows(np.arange(4), 1, 4)
    with torch.device("meta"):
        assert {tensor.device.type for tensor in windows[0]} == {"cpu"}


def test_nothing_is_copied_before_it_is_read() -> None:
    x = torch.zeros(6)
    windows = make_windows(x, 1, 3)
    rest = windows[1:]
    x[5] = 1
    assert windows[1].data[:, 0].tolist() == rest[0].data[:, 0].tolist() == [0, 0, 1]
    windows[1].data.zero_()
    assert x[5] == 1


# Order


def order_of(lengths: Sequence[int], shuffle: tuple[int, int] | None, **options: Any) -> list[int]:
    documents = [torch.full((n,), k) for k, n in enumerate(lengths)]
    found = joined(make_windows(documents, 1, 1, shuffle=shuffle, **options))[0]
    return [k for k, reset in found if reset]


def test_seed_and_epoch_decide_the_order() -> None:
    lengths = [1 + k % 3 for k in range(20)]
    assert order_of(lengths, None) == list(range(20))
    orders = [order_of(lengths, shuffle) for shuffle in [(3, 5), (3, 6), (4, 5), (5, 3)]]
    assert all(sorted(order) == list(range(20)) for order in orders)
    assert all(a != b for a, b in itertools.combinations(orders, 2))
    assert order_of(lengths, (3, 5)) == orders[0] == order_of(lengths, (3, 5), whole=True)


def test_the_global_random_state_neither_matters_nor_changes() -> None:
    np.random.seed(0)
    before = order_of([1] * 9, (0, 0))
    drawn = np.random.random()
    assert order_of([1] * 9, (0, 0)) == before
    np.random.seed(0)
    assert np.random.random() == drawn


# Workers


def some_windows() -> Windows[tuple[Tensor, ...]]:
    documents = [(d, d.numpy().astype(np.float32)) for d in numbered([7, 0, 12, 1, 5, 30], 2)]
    return make_windows(documents, 3, 4, whole=True, shuffle=(1, 2))


@some_workers
@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_gives_the_windows_in_order(workers: int) -> None:
    windows = some_windows()
    loader = DataLoader(
        windows, batch_size=None, num_workers=workers, persistent_workers=workers > 0
    )
    for _ in range(2):
        assert_same_windows(loader, windows)
    for k in (1, len(windows) - 1, len(windows)):
        rest = DataLoader(windows[k:], batch_size=None, num_workers=workers)
        assert_same_windows(rest, list(windows)[k:])


@some_workers
def test_spawned_workers_read_tensors_and_files(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.arange(6000, dtype=np.uint16).reshape(3000, 2))
    x = np.load(tmp_path / "x.npy", mmap_mode="r")
    documents = [(x[2 * k : 2 * k + 2], torch.tensor([k, -k])) for k in range(1500)]
    every: list[Windows[Any]] = [
        make_windows(documents, 5, 200)[1:],
        make_windows(torch.randn(90, 3), 4, 7)[1:],
        make_windows((x, torch.arange(3000).to(torch.uint16)), 10, 100),
    ]
    loader: DataLoader[Any] = DataLoader(
        ConcatDataset(every), batch_size=None, num_workers=1, multiprocessing_context="spawn"
    )
    assert_same_windows(loader, itertools.chain(*every))


@pytest.mark.parametrize("size", [1, 4])
def test_a_loader_that_would_batch_windows_is_refused(size: int) -> None:
    loader = DataLoader(some_windows(), batch_size=size)
    with pytest.raises(TypeError, match="expected batch_size=None; a window is a batch already"):
        next(iter(loader))


# Files


@pytest.fixture
def tokens(tmp_path: Path) -> np.memmap:
    path = tmp_path / "tokens"
    np.arange(10_000, dtype="<u2").tofile(path)
    return np.memmap(path, "<u2", mode="r")


def test_of_a_large_file_only_the_window_is_read(tmp_path: Path) -> None:
    path = tmp_path / "large"
    n = 1 << 33
    with path.open("wb") as file:  # a hole: it takes no place on the disk
        file.truncate(2 * n)
    with path.open("r+b") as file:
        file.seek(2 * n - 4)
        file.write(np.array([7, 9], "<u2").tobytes())
    tracemalloc.start()
    try:
        windows = make_windows(np.memmap(path, "<u2", mode="r"), 4, 100)
        last = windows[-1]
        stored = pickle.dumps(windows)
        assert_same_windows([pickle.loads(stored)[-1]], [last])
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
    assert len(stored) < 1000
    assert len(windows) == -(-n // 400)
    assert last.data[int(last.lengths[3]) - 2 :, 3].tolist() == [7, 9]


@pytest.mark.parametrize(
    "part",
    [
        slice(None),
        slice(1000, 1100),
        slice(None, None, 7),
        slice(None, None, -1),
        slice(9000, 100, -3),
    ],
)
@pytest.mark.parametrize("view", ["slice", "ndarray", "columns", "wider"])
def test_a_part_of_a_file_is_found_again(tokens: np.memmap, part: slice, view: str) -> None:
    x: np.ndarray = tokens[part]
    if view == "ndarray":
        x = np.asarray(tokens)[part]
    elif view == "columns":
        x = tokens.reshape(-1, 4)[:, 1:3][part]
    elif view == "wider":
        x = tokens[8:].view(">u4")[part]
    windows = make_windows([x[:3], x[3:]], 2, 40)
    stored = pickle.dumps(windows)
    assert len(stored) < 1500
    again = pickle.loads(stored)
    assert_same_windows(again, windows)
    stored = pickle.dumps(again)
    assert len(stored) < 1500
    assert_same_windows(pickle.loads(stored), windows)


@pytest.mark.parametrize("offset", [0, 2, 4096, 4098, 12_288])
@pytest.mark.parametrize("text", [False, True])
def test_a_map_that_begins_inside_a_file_is_found_again(
    tokens: np.memmap, offset: int, text: bool
) -> None:
    path = str(tokens.filename) if text else Path(str(tokens.filename))
    x = np.memmap(path, "<u2", mode="r", offset=offset, shape=(300, 2))
    assert x[0, 0] == offset // 2
    windows = make_windows([x[:100], x[250:]], 2, 10)
    stored = pickle.dumps(windows)
    assert len(stored) < 1500
    assert_same_windows(pickle.loads(stored), windows)


def test_many_documents_of_a_file_share_one_map(
    tokens: np.memmap, monkeypatch: pytest.MonkeyPatch
) -> None:
    windows = make_windows([tokens[k : k + 2] for k in range(0, 10_000, 2)], 8, 100)
    stored = pickle.dumps(windows)
    opened = []
    memmap = np.memmap
    monkeypatch.setattr(np, "memmap", lambda *a, **o: opened.append(a) or memmap(*a, **o))
    assert_same_windows(pickle.loads(stored), windows)
    assert len(opened) == 1


def test_a_map_whose_changes_are_not_in_the_file_goes_along(tokens: np.memmap) -> None:
    x = np.memmap(str(tokens.filename), "<u2", mode="c")
    x[0] = 77
    assert pickle.loads(pickle.dumps(make_windows(x, 1, 1)))[0].data.item() == 77


def test_a_map_for_writing_is_opened_for_reading(tokens: np.memmap) -> None:
    x = np.memmap(str(tokens.filename), "<u2", mode="r+")
    again = pickle.loads(pickle.dumps(make_windows(x, 1, 1)))
    x[0] = 77
    assert again[0].data.item() == 77


@pytest.mark.parametrize("change", ["missing", "shorter"])
def test_a_file_that_is_no_longer_there_is_named(tokens: np.memmap, change: str) -> None:
    stored = pickle.dumps(make_windows(tokens, 1, 1))
    path = Path(str(tokens.filename))
    path.unlink()
    if change == "shorter":
        path.write_bytes(b"1234")
    with pytest.raises(DataError, match=r"tokens: cannot be mapped again .*; expected the file"):
        pickle.loads(stored)


# What is refused

X = torch.arange(10)


@pytest.mark.parametrize(
    ("documents", "sizes", "options", "message"),
    [
        (X, (11, 1), {}, "batch_size: got 11, expected at most 10, the steps there are"),
        (X, (0, 1), {}, "batch_size: got 0, expected at least 1"),
        (X, (1, 0), {}, "steps: got 0, expected at least 1"),
        (X, (3, 5), {}, "steps: got 5, expected at most 4, the longest row has that many"),
        (
            [X, X[:0], X],
            (3, 1),
            {"whole": True},
            "batch_size: got 3, expected at most 2, the documents that are not empty; "
            "whole=False cuts them",
        ),
        ([X, X[:3]], (2, 11), {"whole": True}, "steps: got 11, expected at most 10, the longest"),
        (X[:0], (1, 1), {}, "documents: got no steps, expected at least one"),
        ([], (1, 1), {}, "documents: got no steps, expected at least one"),
        ([X[:0], X[:0]], (1, 1), {"whole": True}, "documents: got no steps"),
        (
            X,
            (1, 1),
            {"shuffle": (0, 1)},
            "shuffle: got (0, 1) for a single stream, expected None; only documents, in a list,",
        ),
        ((X, X), (1, 1), {"shuffle": (0, 1)}, "shuffle: got (0, 1) for a single stream"),
        ([X], (1, 1), {"shuffle": (0, -1)}, "shuffle: got -1, expected at least 0"),
        (torch.tensor(3), (1, 1), {}, "documents: got shape [], expected [N, ...], time first"),
        ([X, np.array(3)], (1, 1), {}, "documents[1]: got shape [], expected [N, ...]"),
        ((X, X[1:]), (1, 1), {}, "documents: got a tuple of arrays of 10 and 9 steps, expected as"),
        ([(X, X), (X, X[1:])], (1, 1), {}, "documents[1]: got a tuple of arrays of 10 and 9 steps"),
        ((), (1, 1), {}, "documents: got an empty tuple, expected arrays"),
        (
            [X.view(5, 2), X[:0], X.view(2, 5)],
            (1, 1),
            {},
            "documents[2]: got shape [N, 5], expected [N, 2] as in the documents before",
        ),
        (
            [(X, X), (X, X.view(10, 1))],
            (1, 1),
            {},
            "documents[1][1]: got shape [N, 1], expected [N] as in the documents before",
        ),
        ([X, (X, X)], (1, 1), {}, "documents[1]: got a tuple of 2, expected an array as document"),
        ([(X, X), X], (1, 1), {}, "documents[1]: got an array, expected a tuple of 2 as documents"),
        ([(X,), (X, X)], (1, 1), {}, "documents[1]: got a tuple of 2, expected a tuple of 1 as"),
        (
            X.float().to_sparse(),
            (1, 1),
            {},
            "documents: got a tensor torch.sparse_coo on cpu, expected a strided one on the CPU",
        ),
        (
            X.to("meta"),
            (1, 1),
            {},
            "documents: got a tensor torch.strided on meta, expected a strided one on the CPU; "
            "move each window instead",
        ),
    ],
)
def test_values_that_cannot_be_are_refused(
    documents: Any, sizes: tuple[int, int], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError) as caught:
        make_windows(documents, *sizes, **options)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("documents", "message"),
    [
        ("text", "documents: got str, expected an array, a list of arrays, or tuples of arrays"),
        (b"text", "documents: got bytes, expected an array"),
        (None, "documents: got NoneType, expected an array"),
        ({0: X}, "documents: got dict, expected an array"),
        ((x for x in [X]), "documents: got generator, expected an array"),
        ([1, 2], "documents[0]: got int, expected a tensor or a NumPy array; convert it with"),
        ([X, [1, 2]], "documents[1]: got list, expected a tensor or a NumPy array"),
        (([1, 2], X), "documents[0]: got list, expected a tensor or a NumPy array"),
        ([(X, None)], "documents[0][1]: got NoneType, expected a tensor or a NumPy array"),
        (
            [X, X.float()],
            "documents[1]: got torch.float32, expected torch.int64 as in the documents before; conv",
        ),
        ([(X, X), (X, X.int())], "documents[1][1]: got torch.int32, expected torch.int64"),
        (np.array(["a"]), "documents: got dtype <U1, expected one of PyTorch's"),
        (np.array([None]), "documents: got dtype object, expected one of PyTorch's"),
        (np.zeros(3, "M8[s]"), "documents: got dtype datetime64[s], expected one of PyTorch's"),
        (np.zeros(3, np.uint64), "documents: got uint64, expected a dtype that PyTorch computes"),
        (torch.zeros(3, dtype=torch.uint64), "documents: got uint64, expected a dtype"),
    ],
)
def test_kinds_that_cannot_be_are_refused(documents: Any, message: str) -> None:
    with pytest.raises(TypeError) as caught:
        make_windows(documents, 1, 1)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("shuffle", [3, (3,), (1, 2, 3), True, "ab"])
def test_shuffle_is_two_whole_numbers(shuffle: Any) -> None:
    with pytest.raises(TypeError, match=r"^shuffle: got .*, expected \(seed, epoch\)$"):
        make_windows([X], 1, 1, shuffle=shuffle)


@pytest.mark.parametrize("sizes", [(1.0, 1), (True, 1), (1, "2")])
def test_sizes_are_whole_numbers(sizes: Any) -> None:
    with pytest.raises(TypeError, match="expected a whole number"):
        make_windows(X, *sizes)


def test_numbers_of_windows_that_cannot_be_are_refused() -> None:
    windows = make_windows(X, 2, 2)
    for k in (3, -4):
        with pytest.raises(IndexError, match=f"^windows: got {k}, expected from -3 to 2$"):
            windows[k]
    with pytest.raises(IndexError, match=r"^windows: got 0, but there are none$"):
        windows[3:][0]
    index: Any = 1.0
    with pytest.raises(TypeError, match=r"^windows: got 1\.0, expected a whole number or a slice$"):
        windows[index]
    for step in (2, -1):
        with pytest.raises(ValueError, match=f"^windows: got a slice in steps of {step}, expect"):
            windows[::step]
