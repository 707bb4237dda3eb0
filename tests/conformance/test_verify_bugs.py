"""Each planted mistake, in each place: the cases of tests/test_verify.py that take too long for each run."""

import pytest
import test_verify
from support.broken import BUGS
from test_verify import storyteller  # noqa: F401  (a fixture)


@pytest.mark.parametrize("bug", BUGS)
def test_a_bug_in_every_layer_is_found_in_the_right_tensor_and_named(bug):
    test_verify.test_a_bug_in_every_layer_is_found_in_the_right_tensor_and_named(bug)


@pytest.mark.parametrize("bug", ["position offset 1", "no scale", "erf", "mask sees next", "transposed mlp.c_proj"])
@pytest.mark.parametrize("program", test_verify.PROGRAMS)
def test_bugs_are_named_in_the_dumps_of_other_programs(program, bug):
    test_verify.test_bugs_are_named_in_the_dumps_of_other_programs(program, bug)


@pytest.mark.parametrize("bug", BUGS)
def test_a_bug_in_every_layer_is_named_by_the_logits_alone(bug):
    test_verify.test_a_bug_in_every_layer_is_named_by_the_logits_alone(bug)


@pytest.mark.parametrize("bug", test_verify.IN_A_LAYER)
def test_a_bug_in_one_layer_is_found_there(bug):
    test_verify.test_a_bug_in_one_layer_is_found_there(bug)


@pytest.mark.parametrize("bug", test_verify.BY_LOGITS)
def test_a_bug_in_one_layer_is_named_by_the_logits_alone(bug):
    test_verify.test_a_bug_in_one_layer_is_named_by_the_logits_alone(bug)


@pytest.mark.parametrize("bug", test_verify.TRAINED)
def test_bugs_are_named_in_a_trained_model(storyteller, bug):  # noqa: F811
    test_verify.test_bugs_are_named_in_a_trained_model(storyteller, bug)
