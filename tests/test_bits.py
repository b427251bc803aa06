"""What fits give, to the bit: a guard for changes that shall change nothing.

``bits.json`` has hashes for the kinds of machine and versions on which they were recorded; elsewhere only numbers of
threads are compared.  A change that must change bits says which and why, shows that the new ones are at least as
accurate against the oracles, and records them by ``python tests/bits.py --record``.
"""

import json

import bits
import pytest


# Two processes that compile nearly every kernel, for one thread and for several: minutes on a slow machine.
@pytest.mark.timeout(900)
@pytest.mark.parametrize("dtypes", [["float64"], pytest.param(bits.DTYPES, marks=pytest.mark.deep)])
def test_bits_are_those_of_one_thread_and_of_the_record(dtypes):
    one, seven = bits.in_a_process(1, dtypes), bits.in_a_process(bits.THREADS, dtypes)
    assert len(one) > 60 * len(dtypes)
    assert [name for name in one if one[name] != seven[name]] == []
    recorded = json.loads(bits.FILE.read_text()).get(bits.platform())
    if recorded is not None:
        assert set(one) <= set(recorded)
        assert len(one) == len(recorded) or len(dtypes) < len(bits.DTYPES)
        assert [name for name in one if one[name] != recorded[name]] == []
