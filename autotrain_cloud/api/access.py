"""Who may do what: a token in the header, a role that every route names."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, HTTPException, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from autotrain_cloud.api.services import Here
from autotrain_cloud.api_tokens import Caller

_BEARER = HTTPBearer(auto_error=False, description="`vitconformer cloud api-token add` makes one")
_Given = Annotated[HTTPAuthorizationCredentials | None, Security(_BEARER)]


class Need:
    """A dependency: the caller, if the role suffices."""

    def __init__(self, role: str) -> None:
        self.role = role

    def __call__(self, request: Request, here: Here, given: _Given) -> Caller:
        caller = here.caller(given.credentials) if given else None
        if caller is None:
            raise HTTPException(
                401,
                "expected the header `Authorization: Bearer TOKEN` with a token that is valid;"
                " `vitconformer cloud api-token add` makes one",
                {"WWW-Authenticate": "Bearer"},
            )
        request.state.who = caller.name
        if not caller.may(self.role):
            raise HTTPException(
                403, f"{caller.name} is {caller.role}; this needs a token of the role {self.role}"
            )
        return caller


Viewer = Annotated[Caller, Depends(Need("viewer"))]
Operator = Annotated[Caller, Depends(Need("operator"))]
Admin = Annotated[Caller, Depends(Need("admin"))]


def _metered(request: Request, here: Here, given: _Given) -> None:
    """The scraper, if it needs a token."""
    if not here.settings.open_metrics:
        Need("viewer")(request, here, given)


Metered = Annotated[None, Depends(_metered)]
