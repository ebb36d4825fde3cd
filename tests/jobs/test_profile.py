"""A request for a profile of a run under way."""

import pytest

from frepo_scale.core.errors import InputError
from frepo_scale.jobs.profile import request_profile
from frepo_scale.ops.workdir import Workdir


def test_the_request_is_left_for_the_run(tmp_path, capsys):
    workdir = Workdir(tmp_path)
    workdir.lock.write_text("{}")
    request_profile(tmp_path)
    assert workdir.profile_request.exists()
    assert str(workdir.tensorboard) in capsys.readouterr().out


def test_without_a_run_under_way_it_is_refused(tmp_path):
    with pytest.raises(InputError) as refused:
        request_profile(tmp_path)
    assert str(tmp_path) in str(refused.value) and "PROFILE_AT" in refused.value.fix
    assert list(tmp_path.iterdir()) == []
