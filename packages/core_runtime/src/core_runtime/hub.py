"""Published weights from the Hugging Face hub: what can go wrong there, in one plain line."""

from collections.abc import Iterator
from contextlib import contextmanager

from core_runtime.errors import UserError


@contextmanager
def hub_errors(name: str, repository: str, instead: str) -> Iterator[None]:
    """Turns what a download raises into a `UserError`: no access, no network, anything else that the hub says.

    Args:
        name: what the person asked for.
        repository: on the hub.
        instead: what to do where the hub cannot be reached.
    """
    from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, LocalEntryNotFoundError

    try:
        yield
    except GatedRepoError:
        raise UserError(
            f"{name}: {repository} is gated and this account has no access",
            "ask for it on the model's page, then 'hf auth login'",
        ) from None
    except LocalEntryNotFoundError:  # an EntryNotFoundError, too
        raise UserError(f"{name}: the hub cannot be reached", f"with a network elsewhere, {instead}") from None
    except EntryNotFoundError:
        raise UserError(f"{name}: {repository} does not hold the file", instead) from None
    except Exception as error:  # the hub's errors have no common class, and those of the network under it change
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{name}: the hub does not give {repository}: {said}", instead) from None
