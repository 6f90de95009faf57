from pathlib import Path

import numpy as np
import pytest

from benchmarks import report
from scaling.errors import ScalingError
from scaling.plan.traffic import Requests, poisson, read_trace


def test_drawn_requests_have_the_rate_and_the_lengths_that_were_asked_for() -> None:
    drawn = poisson(5.0, 20_000, 300, 80, prompt_cv=0.8, seed=3)
    assert drawn.rate == pytest.approx(5.0, rel=0.03)
    assert drawn.prompt_tokens.mean() == pytest.approx(300, rel=0.03)
    assert drawn.prompt_cv == pytest.approx(0.8, rel=0.1)
    assert drawn.output_tokens.mean() == pytest.approx(80, rel=0.03) and drawn.output_tokens.min() >= 1
    assert len(drawn.first(100)) == 100


def test_the_peak_is_the_busiest_window_over_the_mean() -> None:
    times = np.concatenate([np.arange(0, 60, 2.0), np.arange(60, 120, 0.5), np.arange(120, 181, 2.0)])
    requests = Requests(times, np.ones(len(times), np.int64), np.ones(len(times), np.int64))
    assert requests.peak(60) == pytest.approx(120 / 60)
    with pytest.raises(ScalingError, match="shorter than a window of 600 s"):
        requests.peak(600)


def test_both_kinds_of_trace_are_read(tmp_path: Path) -> None:
    azure, mooncake = tmp_path / "azure.csv", tmp_path / "mooncake.jsonl"
    azure.write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n"
        "2023-11-16 18:15:46.6805900,374,44\n2023-11-16 18:15:50.1805900,396,109\n"
    )
    mooncake.write_text(
        '{"timestamp": 3000, "input_length": 5, "output_length": 7, "hash_ids": [0]}\n'
        '{"timestamp": 1000, "input_length": 9, "output_length": 2, "hash_ids": [1]}\n'
    )
    first, second = read_trace(azure), read_trace(mooncake)
    assert first.arrival_s == pytest.approx([0, 3.5])
    assert first.prompt_tokens.tolist() == [374, 396] and first.output_tokens.tolist() == [44, 109]
    assert second.arrival_s == pytest.approx([0, 2.0])
    assert second.prompt_tokens.tolist() == [9, 5] and second.output_tokens.tolist() == [2, 7]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file is empty"),
        ("TIMESTAMP,ContextTokens,GeneratedTokens\n", "a head and no requests"),
        ("a,b\n1,2\n", ":1: expected the columns TIMESTAMP, ContextTokens, GeneratedTokens, or JSON lines"),
        ("TIMESTAMP,ContextTokens,GeneratedTokens\nyesterday,1,2\n", ":2: .*yesterday"),
        ("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46,1\n", ":2: "),
        ('{"timestamp": 1, "input_length": 2, "output_length": 3}\n{"timestamp": 1}\n', ":2: .*input_length"),
        ('{"timestamp": 1, "input_length": 2, "output_length": 3}\n', "all requests come at once"),
    ],
)
def test_what_is_no_trace_is_refused_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "trace"
    path.write_text(text)
    with pytest.raises(ScalingError, match=message):
        read_trace(path)


def test_a_trace_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "trace").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ScalingError, match="not UTF-8 text; expected a trace"):
        read_trace(tmp_path / "trace")


def test_a_trace_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ScalingError, match=r"no-such.*expected a trace of requests"):
        read_trace(tmp_path / "no-such")


@pytest.mark.parametrize(
    ("name", "count", "hours"),
    [
        ("load/azure-llm-trace/AzureLLMInferenceTrace_conv.csv", 19366, 0.97),
        ("load/azure-llm-trace/AzureLLMInferenceTrace_code.csv", 8819, 0.95),
        ("load/mooncake-trace/conversation_trace.jsonl", 12031, 0.98),
    ],
)
def test_the_public_traces_are_read_whole(name: str, count: int, hours: float) -> None:
    try:
        path = report.data(name)
    except report.MissingInputError as missing:
        pytest.skip(str(missing))
    trace = read_trace(path)
    assert len(trace) == count
    assert trace.arrival_s[-1] / 3600 == pytest.approx(hours, rel=0.05)
    assert (np.diff(trace.arrival_s) >= 0).all() and trace.prompt_tokens.min() >= 1
    assert 1.2 < trace.peak() < 5
