"""Networks: one contract suite, held to by every transport."""

import pytest

pytest.register_assert_rewrite(f"{__name__}.contract")
