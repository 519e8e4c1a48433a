"""What went wrong on the Hugging Face hub, in one line that says what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from prbench.base.errors import InputError
from prbench.base.network import require_usable_network_settings


@contextmanager
def hub_errors(
    what: str, *, page: str, revision: str, instead: str, as_error: type[InputError], action: str = "download"
) -> Iterator[None]:
    """Turn the hub's errors while `what` is downloaded, or another `action` done, into `as_error`.

    page: the address of the model or data set. instead: how to do without the hub. The hub's own reports of its
    retries are held back, since the line that is raised says how they ended.

    Raises InputError.
    """
    require_usable_network_settings()
    import logging

    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )
    from huggingface_hub.utils import logging as hub_log

    verbosity = hub_log.get_verbosity()
    hub_log.set_verbosity(logging.ERROR)
    try:
        yield
    except GatedRepoError as error:
        raise as_error(
            f"cannot {action} {what}: it is gated, its terms must be accepted first",
            hint=f"accept them at {page}, then `hf auth login`; or {instead}",
        ) from error
    except RepositoryNotFoundError as error:
        raise as_error(
            f"cannot {action} {what}: the hub has nothing public of that name",
            hint=f"check the name, or `hf auth login` if it is private; or {instead}",
        ) from error
    except LocalEntryNotFoundError as error:
        raise as_error(
            f"cannot {action} {what}: no connection to the hub", hint=f"connect to the internet, or {instead}"
        ) from error
    except (EntryNotFoundError, RevisionNotFoundError) as error:
        lack = "revision" if isinstance(error, RevisionNotFoundError) else "file"
        raise as_error(f"cannot {action} {what}: the hub has no such {lack} (at {revision})", hint=instead) from error
    except HFValidationError as error:
        raise InputError(f"{what} cannot be on the Hugging Face hub: an id is OWNER/NAME", hint=instead) from error
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        reason = f"the hub says {status}" if status else type(error).__name__
        raise as_error(f"cannot {action} {what}: {reason}", hint=instead) from error
    except OSError as error:
        raise as_error(f"cannot {action} {what}: {error.strerror or error}", hint=instead) from error
    finally:
        hub_log.set_verbosity(verbosity)
