"""Makes bad calls and says what came of each."""

import re
import warnings

from bad_calls import BadCall
from outcomes import Outcome

_OURS = (ValueError, TypeError, OSError)


def run_call(case: BadCall) -> Outcome:
    """Makes one; an error of a kind that Python or torch raises by itself counts as a traceback."""
    message, crash, accepted = "", False, False
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            case.call()
        except Exception as error:
            message, crash = f"{error}", not isinstance(error, _OURS)
            if crash:
                message = f"{type(error).__name__}: {error}"
        else:
            message = next((str(w.message) for w in caught if re.search(case.argument, str(w.message))), "")
            accepted = not message
    return Outcome(case.kind, case.case, accepted, crash, message, case.argument)
