"""Codecs of rows: what a round trip may cost, that rows are encoded alone, and that all that arrives is finite."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from relay import codec
from relay.blocks import BLOCK
from relay.codec import CodecError, carried, decode, encode, row_bytes
from relay.log import Rows
from relay.names import Codec
from relay.v1 import relay_pb2 as pb

D_MODEL = 576
SMALLEST = float(np.finfo(np.float32).tiny)
numbers = st.floats(width=32, allow_nan=False, allow_infinity=False)
any_rows = arrays(np.float32, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=70), elements=numbers)
any_codec = st.sampled_from(Codec)


def usual(count: int, seed: int = 0, width: int = D_MODEL) -> Rows:
    """Rows as a trunk makes them: two channels stand out in each, and one much more at position 0."""
    rows = np.random.default_rng(seed).standard_normal((count, width)).astype(np.float32) * 9
    rows[:, 7 % width] += 213
    rows[:, 247 % width] -= 110
    rows[0, 7 % width] += 24_000
    return rows


def test_a_codec_has_the_number_that_it_has_on_the_wire() -> None:
    assert {f"CODEC_{c.name}": c.value for c in Codec} == {k: v for k, v in pb.Codec.items() if v}


@settings(deadline=None)
@given(rows=any_rows, which=any_codec)
def test_every_row_arrives_as_a_finite_row_of_the_same_shape(rows: Rows, which: Codec) -> None:
    arrived = carried(rows, which)
    assert arrived.shape == rows.shape and arrived.dtype == np.float32
    assert np.isfinite(arrived).all()
    assert len(encode(rows, which)) == len(rows) * row_bytes(which, rows.shape[1])


@settings(deadline=None)
@given(rows=any_rows, which=any_codec)
def test_a_row_is_encoded_alone(rows: Rows, which: Codec) -> None:
    data, size = encode(rows, which), row_bytes(which, rows.shape[1])
    arrived = decode(data, which, *rows.shape)
    for i in range(len(rows)):
        alone = encode(rows[i : i + 1], which)
        assert data[i * size : (i + 1) * size] == alone
        assert np.array_equal(decode(alone, which, 1, rows.shape[1])[0], arrived[i])


@pytest.mark.parametrize("which", Codec)
def test_many_rows_have_the_bytes_of_each_alone(which: Codec) -> None:
    rows = usual(150)
    alone = [encode(rows[i : i + 1], which) for i in range(len(rows))]
    assert encode(rows, which) == b"".join(alone)
    assert encode(rows[40:41], which) == encode(np.asfortranarray(rows)[40:41], which)
    whole = carried(rows, which)
    for cut in (1, 31, 32, 77):
        assert np.array_equal(np.concatenate([carried(rows[:cut], which), carried(rows[cut:], which)]), whole)


@given(rows=any_rows)
def test_f32_changes_no_bit(rows: Rows) -> None:
    assert carried(rows, Codec.F32).tobytes() == rows.tobytes()


@given(rows=any_rows)
def test_bf16_is_the_nearest_number_of_eight_bits(rows: Rows) -> None:
    arrived = carried(rows, Codec.BF16).astype(np.float64)
    assert (np.abs(arrived - rows) <= np.maximum(np.abs(rows) * 2.0**-8, SMALLEST * 2.0**-8)).all()
    assert np.array_equal(carried(arrived.astype(np.float32), Codec.BF16), arrived)


def test_bf16_rounds_ties_to_even_and_the_largest_numbers_to_the_largest() -> None:
    given_ = np.array([[1 + 2**-8, 1 + 3 * 2**-8, -(1 + 2**-8), np.finfo(np.float32).max, -3.4e38]], np.float32)
    most = np.float32(2.0**127 * (2 - 2**-7))
    assert carried(given_, Codec.BF16).tolist() == [[1, 1 + 2**-6, -1, most, -most]]


def rotated_norms(rows: np.ndarray) -> np.ndarray:
    """The norms (q, n) of the parts of rows that are rotated together."""
    padded = np.zeros((len(rows), -(-rows.shape[1] // BLOCK) * BLOCK))
    padded[:, : rows.shape[1]] = rows
    return np.asarray(np.linalg.norm(padded.reshape(len(rows), -1, BLOCK), axis=-1))


@settings(deadline=None)
@given(rows=any_rows, which=st.sampled_from([Codec.INT8, Codec.INT4]))
def test_an_error_is_within_half_a_step_of_every_rotated_value(rows: Rows, which: Codec) -> None:
    """A step is at most a sixteenth too large for the largest value, which is at most the norm; or the least step."""
    exact = rows.astype(np.float64)
    step = 17 / 16 * rotated_norms(exact) / (2 ** (codec.FORMS[which].bits - 1) - 0.5)
    least = np.abs(exact).max(1, keepdims=True) * 2.0**-14 + SMALLEST
    bound = BLOCK**0.5 / 2 * np.maximum(step, least) * (1 + 1e-5)
    assert (rotated_norms(carried(rows, which) - exact) <= bound).all()


@pytest.mark.parametrize("which", Codec)
def test_zeros_arrive_as_zeros(which: Codec) -> None:
    assert not carried(np.zeros((3, 100), np.float32), which).any()


@pytest.mark.parametrize("which", [Codec.INT8, Codec.INT4])
def test_an_outlier_is_kept_and_costs_the_other_channels_nothing(which: Codec) -> None:
    rows = usual(64)
    others = np.delete(np.arange(D_MODEL), [7, 247])
    error = np.linalg.norm((carried(rows, which) - rows)[:, others], axis=1)
    size = np.linalg.norm(rows[:, others], axis=1)
    assert error[0] / size[0] < 1.2 * np.median(error / size) < (0.15 if which is Codec.INT4 else 0.01)
    assert abs(carried(rows, which)[0, 7] / rows[0, 7] - 1) < 1e-3


def test_four_bits_take_three_and_a_half_times_fewer_bytes_than_bf16() -> None:
    sizes = {which: row_bytes(which, D_MODEL) for which in Codec}
    assert sizes == {Codec.F32: 2304, Codec.BF16: 1152, Codec.INT8: 611, Codec.INT4: 323}
    assert sizes[Codec.BF16] / sizes[Codec.INT4] >= 3.5


@settings(deadline=None)
@given(seed=st.integers(0, 2**32), count=st.integers(1, 9), width=st.integers(1, 70), which=any_codec)
def test_bytes_of_anybody_are_refused_or_finite_rows(seed: int, count: int, width: int, which: Codec) -> None:
    data = np.random.default_rng(seed).bytes(count * row_bytes(which, width))
    if which in codec.FORMS and seed % 2:  # else next to none of them pass
        records = np.frombuffer(data, codec.FORMS[which].record(width)).copy()
        records["channels"] %= width
        records["values"] &= 0xFF7F
        records["exponent"] %= 255
        data = records.tobytes()
    try:
        rows = decode(data, which, count, width)
    except CodecError:
        assert which not in codec.FORMS or seed % 2 == 0
        return
    assert rows.shape == (count, width)
    assert np.isfinite(rows).all()


@pytest.mark.parametrize("which", Codec)
def test_bytes_of_another_length_are_refused(which: Codec) -> None:
    data = encode(usual(2), which)
    for wrong in (data[:-1], data + b"\0", b""):
        with pytest.raises(CodecError, match="data and shape disagree"):
            decode(wrong, which, 2, D_MODEL)


@pytest.mark.parametrize(
    ("field", "value"), [("exponent", 255), ("channels", D_MODEL), ("values", 0x7F80), ("values", 0xFFFF)]
)
def test_a_record_that_no_row_has_is_refused(field: str, value: int) -> None:
    records = np.frombuffer(encode(usual(2), Codec.INT4), codec.FORMS[Codec.INT4].record(D_MODEL)).copy()
    assert len(records["steps"][0]) == D_MODEL // BLOCK
    records[field][1, ...] = value
    with pytest.raises(CodecError, match="scales or channels that no row has"):
        decode(records.tobytes(), Codec.INT4, 2, D_MODEL)


@pytest.mark.parametrize("which", [Codec.F32, Codec.BF16])
def test_numbers_that_are_not_finite_are_refused(which: Codec) -> None:
    data = np.full((1, 4), np.nan, "<f4").tobytes() if which is Codec.F32 else b"\x80\x7f" * 4
    with pytest.raises(CodecError, match="not all of them are finite numbers"):
        decode(data, which, 1, 4)
