"""Each planted mistake, in each place: the cases of tests/verify that take too long for each run."""

import pytest
from support.broken import BUGS
from verify import test_foreign, test_search


@pytest.mark.parametrize("bug", BUGS)
def test_a_bug_in_every_layer_is_found_in_the_right_tensor_and_named(bug):
    test_search.test_a_bug_in_every_layer_is_found_in_the_right_tensor_and_named(bug)


@pytest.mark.parametrize("bug", ["position offset 1", "no scale", "erf", "mask sees next", "transposed mlp.c_proj"])
@pytest.mark.parametrize("program", test_foreign.PROGRAMS)
def test_bugs_are_named_in_the_dumps_of_other_programs(program, bug):
    test_foreign.test_bugs_are_named_in_the_dumps_of_other_programs(program, bug)


@pytest.mark.parametrize("bug", BUGS)
def test_a_bug_in_every_layer_is_named_by_the_logits_alone(bug):
    test_search.test_a_bug_in_every_layer_is_named_by_the_logits_alone(bug)


@pytest.mark.parametrize("bug", test_search.IN_A_LAYER)
def test_a_bug_in_one_layer_is_found_there(bug):
    test_search.test_a_bug_in_one_layer_is_found_there(bug)


@pytest.mark.parametrize("bug", test_search.BY_LOGITS)
def test_a_bug_in_one_layer_is_named_by_the_logits_alone(bug):
    test_search.test_a_bug_in_one_layer_is_named_by_the_logits_alone(bug)


@pytest.mark.parametrize("bug", test_search.TRAINED)
def test_bugs_are_named_in_a_trained_model(bug):
    test_search.test_bugs_are_named_in_a_trained_model(bug)
